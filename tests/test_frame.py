"""What is sent of a record several times a second: small, whole, and what the trace holds."""

import json
import math
import warnings

import numpy as np
import pytest
from records import a_trace

import vitoolkit as vt
from vitoolkit.views.ahead import Ahead
from vitoolkit.views.clock import Clock
from vitoolkit.views.frame import Lines, frame_of, mean_now, points_for


@pytest.mark.parametrize(("variables", "controls"), [(3, 2), (30, 31), (100, 40), (500, 2)])
def test_a_frame_stays_small_however_long_the_fit(variables, controls):
    names = [f"v{i}" for i in range(variables)], [f"c{i}" for i in range(controls)]
    trace = a_trace(*names, rows=30_000)
    for i in range(200):
        trace.add_event(
            vt.Event(150 * i, 2.0 * i, "set", "a_control_of_this_fit", 0.1, 0.25, "user")
        )
    view = trace.view(points_for(variables, controls))
    schedule = vt.schedules.linear(0.1, 1.0, steps=60_000)
    controls = [vt.Beta(schedule=schedule, name=name) for name in names[1]]
    frame = frame_of(view, names[0], end=60_000, lines=Lines(names[0]), ahead=Ahead(controls))
    header, arrays = frame.packed()
    assert len(frame.kl) <= 24 and len(frame.now) == variables and len(frame.future)
    assert len(arrays) + len(json.dumps(header)) < 64_000
    assert len(arrays) == 4 * sum(math.prod(shape) for _, shape in header["arrays"])


def test_a_frame_holds_what_the_trace_holds():
    trace = a_trace()
    trace.add_event(vt.Event(500, 0.5, "set", "beta", 0.5, 2.0, "user"))
    frame = frame_of(trace.view(100), trace.variables, end=1000)
    assert frame.step[-1] == 999
    low, high, _ = frame.band("loss")
    assert low.min() == trace.loss.min() and high.max() == trace.loss.max()
    assert frame.control[0][-1] == trace.control["beta"][-1]
    assert frame.kl.shape == (2, len(frame.step))
    assert np.all(np.abs(frame.kl - 5) < 1)
    assert frame.marks == [(500.0, "beta 0.5 → 2, by user")]
    np.testing.assert_allclose(frame.elbo, -(frame.rate + frame.distortion))
    np.testing.assert_allclose(frame.now, frame.kl[:, -1])
    np.testing.assert_allclose(frame.rate, frame.kl.sum(axis=0))


def test_rows_without_terms_are_no_part_of_a_mean_and_make_no_gap():
    trace = vt.Trace(("z",))
    terms = np.full((2000, 2), np.nan)
    terms[5::50] = np.arange(40)[:, None]
    step = np.arange(2000)
    trace.extend(step, step * 1e-3, np.ones(2000), terms, np.empty((2000, 0)))
    for points in (100, 4000):  # more rows than points, and fewer
        (kl,) = frame_of(trace.view(points), ("z",), end=2000).kl
        first = int(np.flatnonzero(np.isfinite(kl))[0])
        assert first <= 5 and np.isfinite(kl[first:]).all()
        assert kl[-1] == pytest.approx(29.5, abs=1.1)  # the last 20 that were evaluated
        assert np.all(np.diff(kl[first:]) >= 0)


def test_a_line_is_drawn_through_a_gap_longer_than_the_mean():
    trace = vt.Trace(("z",))
    terms = np.full((4000, 2), np.nan)
    terms[:1000], terms[-100:] = 2.0, 4.0
    step = np.arange(4000)
    trace.extend(step, step * 1e-3, np.ones(4000), terms, np.empty((4000, 0)))
    (kl,) = frame_of(trace.view(4000), ("z",), end=4000).kl
    assert np.isfinite(kl).all()
    assert kl[2500] == pytest.approx(3.0, abs=0.2)


def falling(rows, scale=1.0):
    """A loss that falls by orders of magnitude, and terms to it."""
    trace = vt.Trace(("z",), ("beta",))
    step = np.arange(rows)
    loss = scale * 1e5 * np.exp(-step / (0.02 * rows)) + np.random.default_rng(0).normal(size=rows)
    terms = np.column_stack([-loss, 0 * loss])
    trace.extend(step, step * 1e-3, loss, terms, np.ones((rows, 1)))
    return trace


@pytest.mark.parametrize("smooth", [10, 1000, 0.005, 0.02, 0.1])
@pytest.mark.parametrize("rows", [3, 50, 500, 1001, 30_000])
def test_a_mean_lies_in_its_band_also_where_it_is_steep(rows, smooth):
    trace = falling(rows)
    frame = frame_of(trace.view(300), trace.variables, end=rows, smooth=smooth)
    for name in ("loss", "elbo"):
        low, high, mean = frame.band(name)
        assert np.all((low <= mean) & (mean <= high))
    assert frame.low.min() == -trace.loss.max() and frame.high.max() == trace.loss.max()


def test_a_mean_is_centred_and_of_what_a_person_asks_for():
    trace, rows = vt.Trace(), 10_000
    step = np.arange(rows)
    trace.extend(step, 1e-3 * step, 1.0 * step, np.full((rows, 1), np.nan), np.empty((rows, 0)))
    view = trace.view(400)
    for smooth, window in ((0.02, 200), (0.1, 1000), (500, 500), (2, 3 * 32)):
        frame = frame_of(view, (), end=rows, smooth=smooth)
        assert frame.windows[0] == pytest.approx(window, abs=1.1 * view.width)
        _, _, mean = frame.band("loss")
        inner = slice(0, -(frame.windows[0] // view.width // 2) - 1)
        middle = frame.step[inner] - (view.width - 1) / 2
        np.testing.assert_allclose(mean[inner], middle)  # no lag, from the very first point on
        assert frame.step[-1] - mean[-1] < 0.6 * window + view.width  # at the end, of half as many


def test_a_band_does_not_flicker_when_the_view_halves():
    trace, rng = vt.Trace(("z",)), np.random.default_rng(0)
    view, heights, paths = trace.view(300), [], []
    for first in range(0, 2600, 100):
        steps = np.arange(first, first + 100)
        loss, terms = rng.normal(size=100), rng.normal(5, 1, size=(100, 2))
        trace.extend(steps, 1e-3 * steps, loss, terms, np.empty((100, 0)))
        if first + 100 in (2400, 2500):
            frame = frame_of(view, ("z",), end=1e4)
            low, high, _ = frame.band("loss")
            heights.append(np.mean(high - low))
            at = np.linspace(200, 2000, 50)
            paths.append(np.interp(at, frame.step - (view.width - 1) / 2, frame.rate))
            width = view.width
    assert width == 16  # it was 8 before
    assert heights[1] == pytest.approx(heights[0], rel=0.15)  # by the width, 25 % more
    assert np.abs(paths[1] - paths[0]).max() < 0.25  # their deviation is 1 / sqrt(50)


def test_seconds_are_those_of_the_fit_without_its_pauses():
    trace = vt.Trace()
    time = np.array([5.0, 6.0, 7.0, 20.0, 31.0, 32.0, 40.0])
    trace.extend(np.arange(7), time, np.ones(7), np.full((7, 1), np.nan), np.empty((7, 0)))
    told = [(3, 7.5, "pause"), (3, 19.0, "step"), (4, 30.5, "resume"), (5, 31.5, "pause")]
    for step, at, kind in told:
        trace.add_event(vt.Event(step, at, kind, source="user"))
    clock, view = Clock(), trace.view(50)
    assert frame_of(view, (), end=7, clock=clock).seconds.tolist() == [0, 1, 2, 2.5, 3, 3.5, 3.5]
    trace.add_event(vt.Event(6, 39.5, "resume", source="user"))
    after = [0, 1, 2, 2.5, 3, 3.5, 4]
    assert frame_of(view, (), end=7, clock=clock).seconds.tolist() == after
    assert frame_of(view, (), end=7).seconds.tolist() == after


def test_the_mean_of_now_is_of_when_there_were_values_last():
    trace = vt.Trace(("z",))
    terms = np.full((4000, 2), np.nan)
    terms[:100] = [-3.0, 1.0]
    step = np.arange(4000)
    trace.extend(step, step * 1e-3, np.ones(4000), terms, np.empty((4000, 0)))
    for points in (100, 4000):
        view = trace.view(points)
        view.update()
        assert mean_now(view, "elbo") == -4.0
        assert mean_now(view, "loss") == 1.0
    empty = vt.Trace(("z",)).view(100)
    assert np.isnan(mean_now(empty, "elbo"))


def test_a_mean_of_one_value_is_no_spike():
    trace = vt.Trace(("z",))
    terms = np.full((4000, 2), np.nan)
    terms[:1000:10], terms[2000] = 2.0, 50.0  # between two, nothing was evaluated
    terms[3000::10] = 2.0
    step = np.arange(4000)
    trace.extend(step, step * 1e-3, np.ones(4000), terms, np.empty((4000, 0)))
    (kl,) = frame_of(trace.view(4000), ("z",), end=4000).kl
    assert kl[0] == 2.0 and kl.max() == 2.0


def test_of_many_variables_the_largest_have_a_line_and_those_that_were_picked():
    names = [f"v{i}" for i in range(500)]
    lines = Lines(names)
    now = np.arange(500.0)
    assert lines.choose(now) == tuple(range(488, 500))
    now[487] = 488.5  # a little larger than one that has a line: not worth a change
    assert lines.choose(now) == tuple(range(488, 500))
    now[3] = 1000.0
    now[490] = 0.0
    assert lines.choose(now) == (3, 488, 489, *range(491, 500))
    lines.picked = ("v7", "no such")
    assert 7 in lines.choose(np.full(500, np.nan))
    lines.picked = tuple(names)
    assert len(lines.choose(now)) == 24
    assert Lines(names[:24]).choose(now[:24]) == tuple(range(24))


def test_the_measures_that_a_chart_reads_are_drawn():
    trace = a_trace(measures=("unknown", "gradient_norm"))
    frame = frame_of(trace.view(50), trace.variables, end=1000)
    assert frame.measures == ("gradient_norm",) and frame.measure.shape == (1, len(frame.step))
    assert np.all(np.abs(frame.measure - 5) < 1)
    assert frame_of(a_trace().view(50), (), end=1000).measure.size == 0


def test_an_empty_trace_makes_an_empty_frame():
    header, arrays = frame_of(vt.Trace(("z",), ("beta",)).view(50), ("z",), end=10).packed()
    assert ["kl", [1, 0]] in header["arrays"] and ["now", [1]] in header["arrays"]
    assert arrays == np.full(1, np.nan, np.float32).tobytes()


def test_values_beyond_float32_do_not_stop_the_figure():
    trace = vt.Trace()
    trace.extend([0, 1], [0.0, 0.1], [1e300, math.nan], np.full((2, 1), np.nan), np.empty((2, 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame_of(trace.view(10), (), end=2).packed()
