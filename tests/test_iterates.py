"""Since when everything has been at rest: told by the steps alone, and not by where a call ends."""

from types import SimpleNamespace

import numpy as np
import pytest

import vitoolkit as vt
from vitoolkit.block import Block
from vitoolkit.iterates import Iterates, departed

RULED = vt.rules.kl_target("z", 2.0)


def since(controls, used, ends):
    """The step since which `used` is at rest, seen in blocks that end there."""
    run, iterates = SimpleNamespace(controls=tuple(controls)), Iterates(50)
    for start, stop in zip([0, *ends], [*ends, len(used)], strict=True):
        nothing = np.zeros(stop - start)
        block = Block(start, nothing, nothing[:, None], used[start:stop], nothing)
        row = iterates._moved(run, block)
        if row is not None:
            iterates.since = start + row
    return iterates.since


def moves():
    steps = np.arange(400)
    ramp = np.minimum(steps / 250, 1.0)
    drift = 1.0 + 0.0005 * np.maximum(steps - 100, 0)
    jump = np.where(steps < 180, 1.0, 2.0)
    small = np.where(steps < 180, 1.0, 1.005)
    return {"ramp": ramp, "drift": drift, "jump": jump, "small": small, "rest": np.ones(400)}


@pytest.mark.parametrize("one", moves())
@pytest.mark.parametrize("other", moves())
def test_where_calls_end_has_no_part_in_it(one, other):
    used = np.column_stack([moves()[one], moves()[other], np.full(400, np.nan)])
    controls = [vt.Beta(name="a", rule=RULED), vt.Beta(name="b"), vt.Beta(name="unused")]
    rng = np.random.default_rng(7)
    splits = [np.sort(rng.choice(np.arange(1, 400), 12, replace=False)) for _ in range(20)]
    whole = since(controls, used, [])
    assert {since(controls, used, split) for split in splits} == {whole}
    at_rest = used[whole:, :2]
    assert (np.abs(at_rest - at_rest[0]) <= np.array([0.01, 0.0]) * at_rest[0]).all()


def test_a_ruled_control_may_move_by_a_hundredth_and_another_one_not_at_all():
    ruled, bare = vt.Beta(name="a", rule=RULED), vt.Beta(name="b")
    small, rest, jump = (moves()[name][:, None] for name in ("small", "rest", "jump"))
    assert since([ruled], small, [30]) == 0
    assert since([bare], small, [30]) == 180
    assert since([ruled, bare], np.hstack([rest, jump]), [180]) == 180
    row, held = departed(jump[170:190], np.array([1.0]), np.array([0.0]))
    assert row == 10 and held.tolist() == [2.0]
