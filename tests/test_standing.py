"""What callbacks have seen is in a checkpoint: whoever goes on from there decides the same."""

import json

import numpy as np
import pytest
from models import two_gaussians
from test_points import NOBODY, Script, as_killed, rewind

import vitoolkit as vt
from vitoolkit.block import Block
from vitoolkit.journal_file import JournalFile
from vitoolkit.state import State

N = 6_000
OPTIONS = {
    "model": two_gaussians(), "learning_rate": 0.05, "average": True, "random_seed": 2,
    "progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}, "steps_per_execution": 50,
}  # fmt: skip


def callbacks():
    """Of each kind that decides something; windows of 170 and 330 are open at most steps."""
    return [
        vt.StopWhenConverged("faso", every=10, rhat=1.3, mcse=1.0, ess=1.5),
        vt.watch("kl[z] > 1.0", then="note", every=170),
        vt.watch("step >= 1e9", then="stop", every=330),
    ]


@pytest.fixture(scope="module")
def whole():
    fit = vt.fit(N, callbacks=callbacks(), **OPTIONS)
    assert fit.status == "stopped" and 400 < len(fit.trace) < N
    return fit


def decided(fit):
    return [(e.step, e.kind, e.source, e.text) for e in fit.trace.events if e.kind != "rewind"]


def same(fit, whole):
    assert len(fit.trace) == len(whole.trace) and decided(fit) == decided(whole)
    np.testing.assert_array_equal(fit.trace.values(), whole.trace.values())
    for here, there in zip(fit.approx.params, whole.approx.params, strict=True):
        np.testing.assert_array_equal(here.get_value(), there.get_value())
    for here, there in zip(fit.inference.averages, whole.inference.averages, strict=True):
        np.testing.assert_array_equal(here, there)
    kept = [fit.trace.attrs["verdict"], fit.trace.attrs.get("moves")]
    assert kept == [whole.trace.attrs["verdict"], whole.trace.attrs.get("moves")]


@pytest.mark.parametrize("share", [0.31, 0.9])
def test_killed_and_resumed_it_stops_at_the_very_step(whole, share, tmp_path, monkeypatch):
    # A copy that a busy machine held up would put the next one off until the fit is over.
    monkeypatch.setattr("vitoolkit.journal.SHARE", 0)
    path, left = tmp_path / "run.db", tmp_path / "left.db"
    at = int(share * len(whole.trace)) // 5 * 5 + 5
    journal = vt.Journal(path, seconds=1e-9)

    def kill(run):
        while journal._rows < at // 2:  # so much is on disk
            run.idle()
        as_killed(path, left)
        run.stop()

    vt.fit(N, record=journal, callbacks=[*callbacks(), Script((at, kill))], **OPTIONS)
    with JournalFile(left) as file:
        assert file.run().pid == NOBODY and 0 < file.checkpoints(1)[-1] <= at
    fit = vt.resume(left, model=OPTIONS["model"], callbacks=callbacks(), progressbar=False)
    same(fit, whole)


def test_rewound_while_it_runs_it_stops_at_the_very_step(whole):
    late, early = int(0.9 * len(whole.trace)) // 5 * 5, len(whole.trace) // 3
    fit = vt.fit(N, callbacks=[*callbacks(), Script((late, rewind(early)))], **OPTIONS)
    (branch,) = fit.trace.branches
    assert len(branch.rows) and branch.rows.step[-1] == late - 1
    notes = {(e.step, e.kind) for e in whole.trace.events if branch.step < e.step <= late}
    for seen in notes:  # they are told once for each line of steps
        events = [e for e in fit.trace.events if (e.step, e.kind) == seen]
        assert len(events) == 2
        fit.trace._events.remove(events[0])
    same(fit, whole)


def test_rewound_when_it_has_ended_and_refined_it_stops_at_the_very_step(whole):
    fit = vt.fit(N, callbacks=callbacks(), **OPTIONS)
    fit.rewind(len(whole.trace) // 3)
    fit.refine(N, progressbar=False)
    assert len(fit.trace) == len(whole.trace)
    np.testing.assert_array_equal(fit.trace.values(), whole.trace.values())


@pytest.mark.parametrize("kind", ["watch", "StopWhenConverged", "Iterates"])
def test_what_was_seen_with_other_settings_is_not_gone_on_from(kind):
    made = {
        "watch": lambda bound: vt.watch(f"step >= {bound}", then="note", every=1),
        "StopWhenConverged": lambda bound: vt.StopWhenConverged(rhat=float(bound)),
        "Iterates": lambda bound: vt.StopWhenConverged(every=bound).iterates,
    }[kind]

    class Run:
        step, variables, controls, columns = 10, (), (), ("loss",)
        approx, inference, note = None, None, None

        def add_event(self, *event):
            """Nobody is told."""

        def renew_due(self):
            """It ends here."""

    one, other, again = made(5), made(6), made(5)
    block = Block(9, np.zeros(1), np.zeros((1, 1)), np.zeros((1, 0)), np.zeros(1), ())
    if kind == "watch":
        one.on_block(Run(), block)
    else:
        getattr(one, "iterates", one)._values = [np.arange(3.0)]
    found = one.standing()
    for callback in (other, again):
        callback.stand(Run(), found)
    assert json.dumps(again.standing(), default=np.ndarray.tolist) == json.dumps(
        found, default=np.ndarray.tolist
    )
    assert other.standing() != found


def test_a_callback_of_one_s_own_is_told_what_it_said(tmp_path):
    class Count(vt.Callback):
        every = 10

        def __init__(self):
            self.seen, self.stood = 0, []

        def on_block(self, run, block):
            self.seen += len(block.loss)

        def standing(self):
            return {"seen": self.seen, "all": np.arange(self.seen)}

        def stand(self, run, found):
            self.seen = found.get("seen", 0)
            self.stood.append((run.step, self.seen, len(found.get("all", ()))))

    count, path = Count(), tmp_path / "run.db"
    stop = Script((100, rewind(0)), (50, lambda run: run.stop()))
    vt.fit(200, record=path, callbacks=[count, stop], **OPTIONS)
    assert count.stood == [(0, 0, 0)] and count.seen == 50
    with JournalFile(path) as file:
        saved = file.checkpoint(1, file.checkpoints(1)[-1])
    assert State.read(saved.step, saved.data, saved.controls).callbacks["Count 0"]["seen"] == 50
    again = Count()
    vt.resume(path, model=OPTIONS["model"], callbacks=[again, Script()], progressbar=False)
    assert again.stood == [(50, 50, 50)] and again.seen == 200
