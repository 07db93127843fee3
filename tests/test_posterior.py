"""What a page is told of snapshots of q."""

import json

import numpy as np
import pymc as pm
import pytest
from test_snapshots import synthetic

import vitoolkit as vt
from vitoolkit.dashboard.live_figure import LiveFigure
from vitoolkit.snapshots import Snapshots
from vitoolkit.views.frame import Lines, frame_of, points_for
from vitoolkit.views.posterior import Posterior, posterior_of
from vitoolkit.views.styles import variable_styles


def followed(average=False, **dims):
    """Snapshots of two variables after a few steps of a fit."""
    snapshots = Snapshots()
    with pm.Model(coords=dims):
        z = pm.Normal("z", 1, 2, dims=tuple(dims) or None, shape=None if dims else 3)
        s = pm.HalfNormal("s")
        pm.Normal("y", z.sum(), s, observed=[0.2, 1.1])
        pm.fit(
            20, method=vt.ADVI(random_seed=1, average=average), callbacks=[snapshots],
            progressbar=False,
            compile_kwargs={"mode": "FAST_COMPILE"},
        )  # fmt: skip
    return snapshots


def decoded(header, data):
    """Read a frame's arrays as the page does."""
    numbers, at, found = np.frombuffer(data, np.float32), 0, {}
    for name, shape in header["arrays"]:
        size = int(np.prod(shape))
        found[name], at = numbers[at : at + size].reshape(shape), at + size
    assert at == len(numbers)
    return found


def test_a_page_is_told_names_prior_and_numbers():
    snapshots = followed(arm=["control", "treatment"])
    told = posterior_of(snapshots, variable_styles(["z", "s"]))
    legend = json.loads(json.dumps(told.legend()))
    assert [line[0] for line in legend["lines"]] == ["z[control]", "z[treatment]", "s"]
    one, two, other = (line[1:] for line in legend["lines"])
    assert one[0] == two[0] != other[0] and one[1] != two[1]  # color and dash
    assert legend["words"] == "gray: the prior, 128 draws"
    np.testing.assert_allclose(np.array(legend["prior"])[:, 0], [-1, 1, 3], atol=0.8)
    header = {"arrays": []}
    found = decoded(header, told.add_to(header))
    np.testing.assert_allclose(found["q_now"], snapshots.now(), rtol=1e-6)
    assert header["q"] == {"from": 0, "count": 3, "picked": (0, 2), "paths": True}
    step, ends = snapshots.path([0, 2])
    np.testing.assert_allclose(found["q_step"], step)
    np.testing.assert_allclose(found["q_ends"], ends.reshape(6, -1), rtol=1e-6)
    assert found["q_ends"][3, -1] == pytest.approx(found["q_now"][1, 2])  # median of s, now


def test_a_page_is_told_where_the_average_of_the_iterates_stands():
    snapshots = followed(average=True)
    told = posterior_of(snapshots, variable_styles(["z", "s"]))
    assert told.legend()["averages"] and not posterior_of(followed(), {}).legend()["averages"]
    header = {"arrays": []}
    found = decoded(header, told.add_to(header))
    np.testing.assert_allclose(found["q_averaged"], snapshots.now(averaged=True), rtol=1e-6)
    _, ends = snapshots.path(header["q"]["picked"], averaged=True)
    np.testing.assert_allclose(found["q_middles"], ends[1], rtol=1e-6)


def test_only_what_is_new_is_sent():
    told = Posterior(synthetic([0, 10], [[0.0], [1.0]], [[1.0], [1.0]]), variable_styles(["z"]))
    header = {"arrays": []}
    assert told.add_to(header) and "q" in header
    assert told.add_to({"arrays": []}) == b""
    told.pick([])
    header = {"arrays": []}
    assert told.add_to(header) and header["q"]["picked"] == ()
    assert told.add_to({"arrays": []}, whole=True)  # to a page that has nothing
    told.pick([0, 7, -1])
    assert told.picked == (0,)


@pytest.mark.parametrize("averages", [False, True])
def test_many_coordinates_take_turns_within_the_size_of_a_message(averages):
    count = 2_000
    mean = np.tile(np.arange(float(count)), (200, 1))
    followed = synthetic(np.arange(200), mean, np.ones((200, count)))
    if averages:
        followed.averages, followed._values = True, np.tile(followed._values, (1, 2, 1))
    told = Posterior(followed, variable_styles(["z"]))
    told.pick(range(4))
    seen, sizes = np.full(count, np.nan), []
    for _ in range(8 if averages else 4):
        header = {"arrays": []}
        data = told.add_to(header)
        start, now = header["q"]["from"], decoded(header, data)["q_now"]
        seen[start : start + now.shape[1]] = now[1]
        sizes.append(len(data))
    np.testing.assert_array_equal(seen, np.arange(count))
    assert told.add_to({"arrays": []}) == b""
    assert max(sizes) <= 14_000 and 4 * 12_000 + max(sizes) <= 64_000
    header = {"arrays": []}
    assert decoded(header, told.add_to(header, whole=True))["q_now"].shape == (3, count)


def test_a_frame_carries_it_while_a_page_shows_it_and_the_last_one_all():
    snapshots = followed()
    figure = LiveFigure(
        variable_styles(["z", "s"]), {}, {},
        posterior=posterior_of(snapshots, variable_styles(["z", "s"])),
    )  # fmt: skip
    assert {"posterior", "coordinates"} <= set(figure._legend["shown"])
    sent = []
    figure.send = lambda content, buffers=None: sent.append((content["header"], buffers[0]))
    trace = vt.Trace(["z", "s"])
    trace.append(0, 0.1, 1.0, 0.0, [0.1, 0.2])
    frame = frame_of(trace.view(10), trace.variables, end=10)
    figure._on_page(figure, {"kind": "coordinates", "picked": [1], "seen": False}, [])
    figure.show(frame)
    assert "q" not in sent[-1][0]
    figure._on_page(figure, {"kind": "coordinates", "picked": [1], "seen": True}, [])
    figure.show(frame)
    header, data = sent[-1]
    assert header["q"]["picked"] == (1,) and decoded(header, data)["q_ends"].shape[0] == 3
    figure._on_page(figure, {"kind": "coordinates", "picked": [1], "seen": False}, [])
    figure.show(frame, last=True)
    assert sent[-1][0]["q"]["count"] == 4
    state = figure.get_state(["_header", "_arrays"])  # of a page that loads later
    assert state["_header"]["q"]["picked"] == (1,)
    assert decoded(state["_header"], state["_arrays"])["q_now"].shape == (3, 4)
    figure.close()


def test_a_frame_of_many_variables_and_all_of_q_fits_a_message():
    names = [f"v{i}" for i in range(200)]
    count = 2_000
    told = Posterior(
        synthetic([0, 10], np.zeros((2, count)), np.ones((2, count))), variable_styles(["z"])
    )
    trace = vt.Trace(names, ["beta", "rate"])
    view = trace.view(points_for(len(names), 2))
    rows = 5_000
    step, terms = np.arange(rows), np.ones((rows, 201))
    trace.extend(step, step * 1e-3, np.ones(rows), terms, np.ones((rows, 2)))
    frame = frame_of(view, names, trace.controls, end=rows, lines=Lines(names))
    header, arrays = frame.packed()
    assert len(arrays) + len(told.add_to(header)) + len(json.dumps(header)) <= 64_000


def test_without_coordinates_there_is_no_section():
    assert posterior_of(None, {}) is None
    assert posterior_of(Snapshots(), {}) is None
