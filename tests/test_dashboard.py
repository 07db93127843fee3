"""The dashboard without a browser: rows, frames, pictures, hooks; the display is stood in for."""

import base64
import json
import math
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytensor
import pytest
from bokeh.document import Document

import vitoolkit as vt
from vitoolkit.dashboard import dashboard as dashboard_module
from vitoolkit.dashboard import live_figure as live_figure_module
from vitoolkit.dashboard import panel as panel_module
from vitoolkit.dashboard.control_row import ControlRow, slider_range
from vitoolkit.dashboard.live_figure import LiveFigure
from vitoolkit.dashboard.switch_row import SwitchRow
from vitoolkit.parts import Part
from vitoolkit.views.ahead import Ahead
from vitoolkit.views.document import CHARTS
from vitoolkit.views.frame import Lines, frame_of, mean_now, points_for
from vitoolkit.views.marks import marks_of
from vitoolkit.views.picture import active_text, picture_svg, summary_html
from vitoolkit.views.styles import INK, Style, control_styles, variable_styles

FAST = {"mode": "FAST_COMPILE"}


@pytest.fixture
def model():
    rng = np.random.default_rng(1)
    with pm.Model() as model:
        z = pm.Normal("z", 0, 1, shape=2)
        pm.Normal("y", z.sum(), 1, observed=rng.normal(size=20))
    return model


@pytest.fixture
def notebook(monkeypatch):
    """Pretend to be in a notebook; what arrives at the kernel is a list of callables."""
    arriving = []

    class Events:
        way, words, kernel = "pump", "steering by pump, fake 1", SimpleNamespace(shell=None)
        due = 0.0
        started = stopped = 0

        def __init__(self, beside=False):
            if beside:
                self.way = "thread"

        def start(self):
            Events.started += 1

        def stop(self):
            Events.stopped += 1

        def poll(self):
            while arriving:
                arriving.pop(0)()

    monkeypatch.setattr(dashboard_module, "KernelEvents", Events)
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda widget, display_id: shown.append(widget) or Handle(shown)
    )
    return SimpleNamespace(arriving=arriving, shown=shown, events=Events)


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, content):
        self.shown.append(content)


def train(model, dashboard, n=60, callbacks=(), optimizer=pm.adagrad_window, **kwargs):
    with model:
        inference = vt.ADVI(random_seed=1, **kwargs)
        return pm.fit(
            n,
            method=inference,
            callbacks=[dashboard, *callbacks],
            obj_optimizer=optimizer,
            progressbar=False,
            compile_kwargs=FAST,
        )


def at(step, act):
    """A callback that does something once, after the given number of steps."""
    return lambda approx, losses, i: act() if i == step else None


def a_trace(variables=("z", "w"), controls=("beta",), rows=1000):
    rng = np.random.default_rng(0)
    trace = vt.Trace(variables, controls)
    step = np.arange(rows)
    trace.extend(
        step,
        step * 1e-3,
        100 * np.exp(-step / 200) + rng.normal(size=rows),
        rng.normal(5, 1, size=(rows, 1 + len(variables))),
        np.linspace(0.1, 1, rows)[:, None] * np.ones(len(controls)),
    )
    return trace


# --- one control --------------------------------------------------------------------------------


@pytest.fixture
def row():
    said = []
    control = vt.Beta(bounds=(0.0, 10.0), schedule=lambda step: min(10.0, step / 100), name="beta")
    row = ControlRow(control, said.append)
    row.said = said
    yield row
    row.close()


def test_a_moved_slider_is_a_request_of_a_person(row):
    row.slider.value = 4.0
    row.control.advance(7)
    (event,) = row.control.log
    assert (event.kind, event.new, event.source) == ("set", 4.0, "user")
    assert (row.box.value, row.auto.description, row.auto.value) == (4.0, "manual", False)


def test_a_number_is_a_request_and_need_not_lie_on_the_grid_of_the_slider(row):
    row.box.value = 3.1415926
    row.control.advance(1)
    assert row.control.value == pytest.approx(3.1415926, rel=1e-6)
    assert row.slider.value == pytest.approx(3.14, abs=0.011)
    assert len(row.control.log) == 1


def test_a_number_out_of_bounds_is_refused_in_words_and_put_back(row):
    row.box.value = 11.0
    assert row.said[-1] == "beta must be in [0, 10], received 11.0"
    assert row.box.value == row.control.value == 0.0
    assert row.control.log == [] and row.control.pending is None
    row.box.value = 5.0
    assert row.said[-1] == ""


def test_the_switch_gives_the_wheel_away_and_takes_it(row):
    assert row.auto.value
    row.slider.value = 4.0
    row.control.advance(100)
    row.auto.value = True
    assert row.auto.description == "auto"
    row.control.advance(200)
    assert row.control.value == 2.0 and not row.control.manual
    row.auto.value = False
    row.control.advance(300)
    assert row.control.value == 2.0 and row.control.manual
    assert [event.kind for event in row.control.log] == ["set", "release", "set"]


def test_following_the_schedule_moves_the_widgets_and_asks_for_nothing(row):
    row.control.advance(500)
    assert row.follow()
    assert row.slider.value == pytest.approx(5.0) and row.box.value == 5.0
    assert row.control.pending is None and not row.control.manual
    assert not row.follow()


def on_its_grid(slider):
    """Where noUiSlider 15 puts a slider that is given its value: line by line as it computes."""
    width = slider.max - slider.min
    position = math.log10(slider.value) if hasattr(slider, "base") else slider.value
    position = position + abs(slider.min) if slider.min < 0 else position - slider.min
    percent, step = position * 100 / width, slider.step * 100 / width
    percent = min(max(math.floor(percent / step + 0.5) * step, 0), 100) if percent < 100 else 100
    position = slider.max if percent >= 100 else percent * width / 100 + slider.min
    return 10.0**position if hasattr(slider, "base") else position


@pytest.mark.parametrize(
    "control",
    [
        vt.Beta(),
        vt.LearningRate(1e-3),
        vt.Control(1.0, name="free"),
        vt.Control(0.3, name="part", bounds=(-1 / 3, 0.7)),
    ],
    ids=lambda control: control.name,
)
def test_a_page_has_nothing_to_send_back(control):
    row = ControlRow(control, print)
    low, high = control.bounds
    values = np.random.default_rng(1).uniform(max(low, -50), min(high, 50), size=500)
    for step, value in enumerate(values):
        control.set(value)
        control.advance(step)
        row.settle()
        assert row.slider.value == on_its_grid(row.slider)
        assert row.slider.value == pytest.approx(value, abs=2 * row.slider.step, rel=0.02)
    assert {event.source for event in control.log} == {"code"}
    row.close()


def test_what_the_page_sends_back_is_not_a_person(row):
    first = row.slider.value
    row.control.advance(123)
    row.follow()
    row.slider.value += 1e-9  # the page's own rounding
    row.slider.value = first + 1e-9  # an older echo
    assert row.control.pending is None and not row.control.manual


def test_a_person_may_go_back_to_a_value_that_was_shown_before(row):
    shown = row.slider.value
    row.control.advance(123)
    row.follow()
    row.slider.value += 1e-9
    assert not row.control.manual
    row.slider.value = shown
    assert row.control.manual and row.control.requested == shown


def test_a_page_that_is_late_with_the_last_value_is_not_a_person(row, monkeypatch):
    row.control.advance(123)
    row.follow()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    row.slider.value += 1e-9
    assert not row.control.manual


def test_what_a_person_has_in_hand_is_left_alone(row, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr("vitoolkit.dashboard.control_row.time", clock)
    row.control.advance(300)
    assert not row.follow(held=True)
    row.slider.value = 7.0
    row.control.advance(301)
    row.control.release()
    row.control.advance(400)
    clock.now += 0.5
    assert not row.follow()
    assert row.slider.value == 7.0
    clock.now += 1.0
    assert row.follow()
    assert row.box.value == 4.0


def test_a_logarithmic_control_has_a_logarithmic_slider():
    control = vt.LearningRate(1e-2)
    row = ControlRow(control, print)
    assert (row.slider.base, row.slider.min, row.slider.max) == (10.0, -6.0, 0.0)
    assert row.slider.value == pytest.approx(1e-2, rel=0.03)
    assert control.log == [] and not control.manual
    row.slider.value = 10**-6.0 * (1 - 1e-15)  # a hair below the bound
    control.advance(1)
    assert control.value == pytest.approx(1e-6)
    assert row.auto.disabled and row.auto.description == "manual"


def a_switch(on=True):
    shared = pytensor.shared(np.int8(on))
    return vt.Switch(shared, name="scale_cost_to_minibatch")


def test_a_click_flips_a_switch():
    row = SwitchRow(a_switch())
    assert (row.widget.value, row.widget.description) == (True, "scale cost to minibatch")
    row.widget.value = False
    row.control.advance(9)
    (event,) = row.control.log
    assert (event.kind, event.old, event.new, event.source) == ("set", 1.0, 0.0, "user")
    assert row.control.shared.get_value() == 0


def test_a_switch_that_code_flips_is_shown_and_asks_for_nothing():
    row = SwitchRow(a_switch())
    row.control.set(False)
    assert row.follow() and not row.widget.value
    assert not row.follow()
    row.control.advance(1)
    assert [event.source for event in row.control.log] == ["code"]


def test_a_slider_without_bounds_makes_room():
    row = ControlRow(vt.Control(1.0, name="free"), print)
    assert (row.slider.min, row.slider.max) == (-10.0, 10.0)
    row.box.value = 250.0
    row.control.advance(1)
    assert row.control.value == 250.0
    assert row.slider.max >= 250.0 and row.slider.value == pytest.approx(250.0)


@pytest.mark.parametrize(
    ("bounds", "value", "scale", "expected"),
    [
        ((0.0, 1.0), 0.5, "linear", (0.0, 1.0)),
        ((-math.inf, math.inf), 0.0, "linear", (-1.0, 1.0)),
        ((-math.inf, 5.0), 2.0, "linear", (-20.0, 5.0)),
        ((1e-6, 1.0), 1e-3, "log", (1e-6, 1.0)),
        ((1e-300, math.inf), 1.0, "log", (1e-6, 1e3)),
    ],
)
def test_slider_range(bounds, value, scale, expected):
    assert slider_range(bounds, value, scale) == pytest.approx(expected)


# --- frames and figure ---------------------------------------------------------------------------


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
    assert frame.low.min() == trace.loss.min() and frame.high.max() == trace.loss.max()
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
        assert kl[-1] == pytest.approx(29.5, abs=0.6)  # the last 20 that were evaluated
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


@pytest.mark.parametrize(
    ("notes", "variables", "controls", "gradient", "shown"),
    [
        ({}, ["z"], ["beta"], True, {"loss", "elbo", "kl", "control", "plane", "gradient"}),
        ({}, ["z"], ["beta"], False, {"loss", "elbo", "kl", "control", "plane"}),
        ({}, ["z"], [], False, {"loss", "elbo", "kl", "plane"}),
        ({"kl": "none"}, [], [], False, {"loss"}),
        ({"loss": "none"}, ["z"], [], False, {"elbo", "kl", "plane"}),
        ({"loss": "none", "kl": "none"}, [], [], False, set()),
    ],
)
def test_the_charts_that_are_shown_are_those_with_something_to_show(
    notes, variables, controls, gradient, shown
):
    lines = dict.fromkeys(controls, Style(INK, ()))
    figure = LiveFigure(variable_styles(variables), lines, {}, notes=notes, gradient=gradient)
    assert set(figure._legend["shown"]) == shown
    charts = Document.from_json(json.loads(figure._document)).roots
    assert [chart.name for chart in charts] == [name for name in CHARTS if name in shown]
    figure.close()


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


def test_the_future_is_that_of_the_schedules_in_force():
    auto = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=1000))
    manual = vt.Control(schedule=vt.schedules.linear(0.0, 1.0, steps=1000), name="manual")
    manual.set(3.0)
    fails = vt.Control(schedule=lambda step: 1.0 if step < 10 else 1 / 0, name="fails")
    ahead = Ahead([vt.Control(1.0), manual, fails, auto]).look(100, 500, 2000)
    assert ahead.which == [2, 3]
    np.testing.assert_allclose(ahead.values[1], ahead.step / 1000)
    assert np.isnan(ahead.values[0][ahead.step >= 10]).all()  # where it fails is a gap
    assert ahead.step[-1] == 500
    before = ahead.values
    assert ahead.look(200, 500, 2000).values is before  # nothing to evaluate anew
    assert ahead.look(600, 1000, 2000).step[-1] == 1000
    auto.set(0.5)
    assert ahead.look(600, 1000, 2000).which == [2]


def test_what_is_recorded_of_the_gradient_is_drawn():
    trace = a_trace(controls=("beta", "gradient_norm"))
    frame = frame_of(trace.view(50), trace.variables, ["beta"], end=1000)
    assert frame.measured == ("gradient_norm",) and len(frame.gradient) == 1
    assert frame_of(a_trace().view(50), (), end=1000).gradient.size == 0


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


def test_a_drag_is_one_mark():
    def event(step, time, kind="set", control="beta", source="user"):
        return vt.Event(step, time, kind, control, 1.0, 2.0, source)

    drag = [event(1000 + 40 * i, 1 + 0.1 * i) for i in range(30)]
    later = [event(5000, 9.0), event(6000, 9.2, control="rate"), event(7000, 12, "stop", None)]
    by_schedule = [event(3000, 7.0, source="schedule")]
    noted = vt.Event(8000, 20.0, "note", text="β was too large", source="user")
    marks = marks_of([*drag, *by_schedule, *later, noted], reach=10_000)
    assert [step for step, _ in marks] == [1000, 5000, 6000, 7000, 8000]
    assert [text for _, text in marks] == [
        "beta 1 → 2 in 30 moves, by user", "beta 1 → 2, by user", "rate 1 → 2, by user",
        "stop, by user", "note: β was too large, by user",
    ]  # fmt: skip


def test_every_variable_has_a_line_of_its_own():
    styles = variable_styles([f"v{i}" for i in range(35)])
    assert len(set(styles.values())) == 35
    assert variable_styles(["v0", "v1"]) == {name: styles[name] for name in ("v0", "v1")}


def test_a_control_of_one_variable_has_its_color():
    variables = variable_styles(["z", "w"])
    styles = control_styles(["beta[w]", "rate", "other"], {"beta[w]": "w"}, variables)
    assert styles["beta[w]"] == variables["w"]
    assert {styles["rate"].color, styles["other"].color} == {INK}
    assert styles["rate"] != styles["other"]


def test_a_page_that_loads_reads_the_last_frame():
    figure = LiveFigure(variable_styles(["z", "w"]), {}, {})
    assert figure.get_state()["_header"] is None
    trace = a_trace()
    figure.show(frame_of(trace.view(50), trace.variables, end=1000))
    state = figure.get_state()
    assert state["_header"]["number"] == 1
    assert len(state["_arrays"]) == 4 * sum(math.prod(s) for _, s in state["_header"]["arrays"])
    assert figure.waiting == 1
    figure._on_page(figure, {"kind": "drawn", "number": 1, "ms": 12.5, "seen": True}, [])
    assert (figure.waiting, figure.drawing_ms) == (0, 12.5)
    figure._on_page(figure, {"kind": "held", "name": "beta"}, [])
    assert figure.held == "beta"
    figure._on_page(figure, {"kind": "held", "name": ""}, [])
    assert figure.held == ""
    figure._on_page(figure, {"kind": "lines", "names": ["w"]}, [])
    assert figure.picked == ("w",)
    figure.close()


def test_nothing_is_drawn_for_a_page_that_was_closed(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now, now=100.0)
    for module in (panel_module, live_figure_module):
        monkeypatch.setattr(module, "time", clock)
    fit = SimpleNamespace(
        first=0, n=1000, step=1000, status="running", error=None, running=True, can_undo=False
    )
    panel = panel_module.Panel(fit, [], ("z", "w"), {}, {})
    panel.watch(a_trace(), {})
    figure, sent = panel.figure, []
    monkeypatch.setattr(figure, "send", lambda content, buffers=None: sent.append(content["kind"]))

    def drawn(seen=True):
        told = {"kind": "drawn", "number": figure.sent, "ms": 10.0, "seen": seen}
        figure._on_page(figure, told, [])

    def minute(answer=lambda: None):
        sent.clear()
        for _ in range(6000):
            clock.now += 0.01
            panel.refresh()
            answer()
        return sent

    assert 250 < len(minute(drawn)) <= 300 and set(sent) == {"frame"}
    assert len(minute(lambda: drawn(seen=False))) <= 40  # out of sight
    drawn()
    minute()  # closed
    assert minute().count("frame") == 0 and sent.count("there?") == 12
    figure._on_page(figure, {"kind": "here"}, [])
    sent.clear()
    panel.refresh()
    assert sent == ["frame"]
    drawn()
    minute()
    figure.get_state()  # a page loads
    panel.refresh()
    assert sent[-1] == "frame"
    never_heard = panel_module.Panel(fit, [], ("z", "w"), {}, {})
    never_heard.watch(a_trace(), {})
    for _ in range(6000):
        clock.now += 0.01
        never_heard.refresh()
    assert 40 < never_heard.figure.sent < 70  # it may be seen all the same
    panel.close()
    never_heard.close()


# --- what stays in the notebook -------------------------------------------------------------------


def test_the_picture_is_one_svg_with_every_line():
    trace = a_trace(("z", "w & <v>"))
    root = ElementTree.fromstring(picture_svg(trace))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Loss", "KL by variable, nats", "z", "w & <v>", "beta", "step"} <= texts


def test_the_summary_needs_nothing_else():
    trace = a_trace()
    trace.attrs["status"] = "finished"
    trace.add_event(vt.Event(10, 0.5, "set", "beta", 0.5, 2.0, "user"))
    html = summary_html(trace)
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    image = html.partition("base64,")[2].partition('"')[0]
    ElementTree.fromstring(base64.b64decode(image))
    assert "finished after 1,000 steps" in html
    assert "0.5 → 2" in html
    assert len(html) < 200_000


def test_a_switch_is_words_in_the_summary_and_no_line():
    trace = a_trace(controls=("scale_cost_to_minibatch",))
    trace.add_event(vt.Event(10, 0.5, "set", "scale_cost_to_minibatch", 1.0, 0.0, "user"))
    html = summary_html(trace, None, {"scale_cost_to_minibatch": "switch"})
    assert "<td>on → off</td>" in html
    assert "<td>scale_cost_to_minibatch</td><td>on</td>" in html
    svg = picture_svg(trace, None, {"scale_cost_to_minibatch": "switch"})
    assert "scale_cost" not in svg and "scale_cost" in picture_svg(trace)


def test_active_units_in_words():
    trace = vt.Trace(("z",), parts=[Part("z", ("latent",), (3,))])
    trace.append(0, 0.5, 9.0, -6.0, [4.0], parts=[3.0, 0.99, 0.01])
    assert active_text(trace) == "z 2 of 3"
    assert active_text(trace, {"z": 100}) == "z 1 of 3"
    assert active_text(a_trace()) == ""
    html = summary_html(trace, active=active_text(trace))
    assert "<td>active units</td><td>z 2 of 3</td>" in html


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_short_run_has_a_picture(rows):
    ElementTree.fromstring(picture_svg(a_trace(rows=rows)))


def test_a_run_that_diverged_has_a_picture():
    trace = vt.Trace(("z",), ("beta",))
    trace.extend(range(5), range(5), [math.nan] * 5, np.full((5, 2), np.nan), np.ones((5, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = summary_html(trace)
    assert "not finite" in html
    assert "no steps" in summary_html(vt.Trace())


# --- the callback ---------------------------------------------------------------------------------


def test_outside_a_notebook_it_records_and_shows_nothing(model, capsys):
    dashboard = vt.Dashboard()
    train(model, dashboard)
    assert len(dashboard.trace) == 60
    assert [control.name for control in dashboard.controls] == ["beta"]
    assert not dashboard.shows_progress
    assert capsys.readouterr().out == ""
    assert "<img" in dashboard._repr_mimebundle_()["text/html"]


def test_it_shows_itself_before_compiling_and_leaves_a_picture(model, notebook):
    dashboard = vt.Dashboard()
    seen = []

    class Watch(vt.recorder.Callback):
        def on_compiled(self, run):
            seen.append((len(notebook.shown), dashboard._panel.status.status["phase"]))
            assert dashboard._panel.status.status["compiles"] == (
                "the step of ADVI, 1 variable, 4 parameters"
            )

        def __call__(self, approx, losses, i):
            """Nothing a step."""

    train(model, dashboard, callbacks=[Watch()])
    assert seen == [(1, "compiling")]
    assert dashboard.shows_progress
    widget, left = notebook.shown
    assert "finished after 60 steps" in left.data
    status = dashboard._panel.status.status
    assert (status["phase"], status["done"], status["n"]) == ("finished", 60, 60)
    assert math.isfinite(status["elbo"])
    assert (notebook.events.started, notebook.events.stopped) == (1, 1)


def test_a_moved_slider_is_in_force_and_in_the_trace(model, notebook):
    dashboard = vt.Dashboard()

    def move():
        notebook.arriving.append(lambda: setattr(dashboard._panel.rows[0].slider, "value", 4.0))
        dashboard._next = 0.0

    train(model, dashboard, callbacks=[at(20, move)])
    (event,) = dashboard.trace.events
    assert (event.kind, event.new, event.source) == ("set", 4.0, "user")
    assert dashboard.trace.control["beta"][event.step] == 4.0
    assert dashboard.trace.control["beta"][event.step - 1] == 1.0


def test_stop_ends_a_fit_and_keeps_it(model, notebook):
    dashboard = vt.Dashboard()

    def stop():
        notebook.arriving.append(dashboard._panel.stop.click)
        dashboard._next = 0.0

    train(model, dashboard, n=10_000, callbacks=[at(20, stop)])
    assert len(dashboard.trace) < 100
    assert dashboard.trace.attrs["status"] == "stopped"
    assert dashboard.trace.events[-1].source == "user"


def test_redraws_keep_to_their_pace(model, notebook, monkeypatch):
    monkeypatch.setattr(panel_module, "FASTEST", 3600.0)
    monkeypatch.setattr(panel_module, "SLOWEST", 3600.0)
    dashboard = vt.Dashboard()
    train(model, dashboard, n=300)
    assert dashboard._panel.figure.sent == 2  # the first and the last


def test_a_page_that_lags_is_drawn_less(notebook):
    trace = a_trace()
    fit = SimpleNamespace(
        first=0, n=1000, step=1000, status="running", error=None, running=True, can_undo=False
    )
    panel = panel_module.Panel(fit, [], ("z", "w"), {}, {})
    panel.watch(trace, {})
    panel.refresh()
    told = {"kind": "drawn", "number": panel.figure.sent, "ms": 400.0, "seen": True}
    panel.figure._on_page(panel.figure, told, [])
    panel._due = 0.0
    panel.refresh()
    assert panel._due - time.perf_counter() > 0.9
    for _ in range(10):  # a page that is busy
        panel.figure.sent += 1
    panel._due = time.perf_counter() - 0.5
    sent = panel.figure.sent
    panel.refresh()
    assert panel.figure.sent == sent
    panel._due = time.perf_counter() - 1.5
    panel.refresh()
    assert panel.figure.sent == sent + 1
    panel.close()


@pytest.mark.parametrize("way", ["pump", "none"])
def test_the_panel_says_how_it_is_steered(model, notebook, monkeypatch, way):
    monkeypatch.setattr(dashboard_module.KernelEvents, "way", way)
    monkeypatch.setattr(dashboard_module.KernelEvents, "words", "no <queue>: fit elsewhere")
    dashboard = vt.Dashboard()
    train(model, dashboard)
    children = dashboard._panel.widget.children
    line = children[0 if way == "none" else -1]  # aloud on top
    assert line.value == "no &lt;queue&gt;: fit elsewhere"
    assert ("vitoolkit-loud" in line._dom_classes) == (way == "none")


@pytest.mark.parametrize("method", ["refresh", "finish", "display"])
def test_a_display_that_fails_warns_once_and_the_fit_goes_on(model, notebook, monkeypatch, method):
    def fail(self):
        raise OSError("no such comm")

    monkeypatch.setattr(panel_module.Panel, method, fail)
    monkeypatch.setattr(panel_module, "FASTEST", 0.0)
    dashboard = vt.Dashboard()
    with pytest.warns(RuntimeWarning, match="the fit goes on: OSError: no such comm") as caught:
        train(model, dashboard)
    assert len([w for w in caught if issubclass(w.category, RuntimeWarning)]) == 1
    assert len(dashboard.trace) == 60
    assert notebook.events.stopped == 1


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (StopIteration, "stopped")]
)
def test_interrupt_and_stop_pass_through_the_display(model, notebook, error, status):
    dashboard = vt.Dashboard()

    def raising():
        raise error

    train(model, dashboard, n=10_000, callbacks=[at(20, lambda: notebook.arriving.append(raising))])
    assert dashboard.trace.attrs["status"] == status
    assert 20 <= len(dashboard.trace) < 10_000


def test_a_fit_that_fails_says_why(model, notebook):
    dashboard = vt.Dashboard()

    def fail(approx, losses, i):
        if i == 30:
            raise ZeroDivisionError("a callback of the user's")

    with pytest.raises(ZeroDivisionError):
        train(model, dashboard, callbacks=[fail])
    assert dashboard._panel.status.status["phase"] == "failed"
    assert "ZeroDivisionError: a callback" in dashboard._panel.status.status["message"]
    assert "failed after 30 steps" in notebook.shown[-1].data


def test_a_fit_of_pymcs_own_is_steered_too(model, notebook):
    rate = vt.LearningRate(1e-2)
    dashboard = vt.Dashboard(rate)

    def act():
        notebook.arriving.append(lambda: setattr(dashboard._panel.rows[0].box, "value", 0.5))
        notebook.arriving.append(dashboard._panel.pause.click)
        notebook.arriving.append(dashboard._panel.pause.click)
        notebook.arriving.append(dashboard._panel.stop.click)
        dashboard._next = 0.0

    with model:
        pm.fit(
            5000, method="advi", random_seed=1, progressbar=False, compile_kwargs=FAST,
            obj_optimizer=pm.adam(learning_rate=rate.shared), callbacks=[at(20, act), dashboard],
        )  # fmt: skip
    trace = dashboard.trace
    assert trace.attrs["status"] == "stopped" and len(trace) < 200
    assert trace.control["learning_rate"][-1] in (0.01, 0.5)
    assert trace.events[-1].kind == "stop"
    assert dashboard._panel.status.status["n"] == 5000
    assert notebook.events.stopped == notebook.events.started == 1


def test_a_fit_of_pymcs_own_is_paused_stepped_undone_and_noted(model, notebook):
    rate = vt.LearningRate(1e-2)
    dashboard = vt.Dashboard(rate)

    def press(approx, losses, i):
        if i == 20:
            dashboard.note("before the pause")
            notebook.arriving.append(lambda: dashboard._fit.pause(source="user"))
            dashboard._next = 0.0
        if i in (21, 22):
            assert dashboard._fit.status == "paused"
            notebook.arriving.extend(paused[i])
        if i == 30:
            notebook.arriving.append(actions["stop"])
            dashboard._next = 0.0

    actions = {name: lambda name=name: getattr(dashboard._fit, name)(source="user") for name in
               ("single_step", "undo", "resume", "stop")}  # fmt: skip
    paused = {
        21: [lambda: rate.set(0.5, source="user"), actions["single_step"]],
        22: [actions["undo"], actions["resume"]],
    }

    def first(approx, losses, i):
        if i == 20:
            notebook.arriving.append(actions["single_step"])

    with model:
        pm.fit(
            5000, method="advi", random_seed=1, progressbar=False, compile_kwargs=FAST,
            obj_optimizer=pm.adam(learning_rate=rate.shared), callbacks=[press, first, dashboard],
        )  # fmt: skip
    trace = dashboard.trace
    kinds = [(event.kind, event.source) for event in trace.events]
    assert ("note", "code") in kinds and kinds[-1] == ("stop", "user")
    assert [k for k, _ in kinds].count("step") == 2 and ("pause", "user") in kinds
    assert {"set", "undo"} <= {k for k, _ in kinds}
    rates = trace.control["learning_rate"]
    assert rates.max() == 0.5 and rates[-1] == pytest.approx(0.01)
    assert trace.attrs["status"] == "stopped" and len(trace) < 5000
    dashboard.note("after it")
    assert trace.events[-1]._replace(time=0.0) == vt.Event(len(trace), 0.0, "note", text="after it")


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_the_kl_of_each_variable_under_an_inference_of_pymcs_own(
    model, notebook, monkeypatch, method
):
    dashboard = vt.Dashboard()
    phases = []
    compiles = vt.KLMonitor._compile

    def compile_(self, approx, op):
        phases.append(dashboard._panel.status.status["phase"])
        return compiles(self, approx, op)

    monkeypatch.setattr(vt.KLMonitor, "_compile", compile_)
    with model:
        pm.fit(
            3000, method=method, random_seed=1, progressbar=False, compile_kwargs=FAST,
            callbacks=[dashboard],
        )  # fmt: skip
    assert phases == ["compiling"]
    trace = dashboard.trace
    assert trace.variables == dashboard._panel.variables == ("z",)
    assert 1 <= np.isfinite(trace.kl["z"]).sum() < 3000
    assert np.isfinite(dashboard._panel.status.status["elbo"])
    assert "KL of z, nats" in notebook.shown[-1].data
    assert dashboard._panel.figure._legend["notes"] == {}


def test_a_slow_first_call_of_the_monitor_does_not_use_up_its_budget(model, notebook, monkeypatch):
    compiles = vt.KLMonitor._compile

    def compile_(self, approx, op):
        function, calls = compiles(self, approx, op), []

        def compiles_in_the_first_call(*parameters):
            if not calls:
                time.sleep(1.0)
            calls.append(parameters)
            return function(*parameters)

        return compiles_in_the_first_call

    monkeypatch.setattr(vt.KLMonitor, "_compile", compile_)
    dashboard = vt.Dashboard()
    with model:
        pm.fit(2000, random_seed=1, progressbar=False, compile_kwargs=FAST, callbacks=[dashboard])
    assert np.isfinite(dashboard.trace.kl["z"]).sum() > 10


def test_a_fit_of_particles_says_in_words_that_it_has_no_kl(model, notebook):
    dashboard = vt.Dashboard()
    with model:
        pm.fit(
            30, method="svgd", random_seed=1, progressbar=False, compile_kwargs=FAST,
            inf_kwargs={"n_particles": 5}, callbacks=[dashboard],
        )  # fmt: skip
    notes = dashboard._panel.figure._legend["notes"]
    assert "set of particles" in notes["kl"] and notes["loss"] == "this fit computes none"
    assert "finished after 30 steps" in notebook.shown[-1].data
    assert "not finite" not in notebook.shown[-1].data


def test_a_monitor_that_fails_warns_once_and_the_fit_goes_on(model, notebook, monkeypatch):
    def fail(self, approx, op):
        raise NotImplementedError("no such Op")

    monkeypatch.setattr(vt.KLMonitor, "_compile", fail)
    dashboard = vt.Dashboard()
    with model, pytest.warns(RuntimeWarning, match="NotImplementedError: no such Op") as caught:
        pm.fit(40, random_seed=1, progressbar=False, compile_kwargs=FAST, callbacks=[dashboard])
    assert len([w for w in caught if "no such Op" in str(w.message)]) == 1
    assert dashboard.trace.step.tolist() == list(range(40))
    assert np.isnan(dashboard.trace.kl["z"]).all()
    assert "no such Op" in dashboard._panel.status.status["message"]


def test_a_recorder_without_a_monitor_says_what_is_missing(model, notebook):
    dashboard = vt.Dashboard(recorder=vt.Recorder())
    with model:
        pm.fit(30, random_seed=1, progressbar=False, compile_kwargs=FAST, callbacks=[dashboard])
    assert "monitor=vitoolkit.KLMonitor()" in dashboard._panel.figure._legend["notes"]["kl"]


def test_the_switch_of_the_scaling_comes_last_and_is_flipped(notebook):
    data = np.random.default_rng(1).normal(size=100)
    with pm.Model() as model:
        z = pm.Normal("z")
        pm.Normal("y", z, observed=pm.Minibatch(data, batch_size=10), total_size=100)
    dashboard = vt.Dashboard(vt.LearningRate())

    def flip():
        notebook.arriving.append(lambda: setattr(dashboard._panel.rows[-1].widget, "value", False))
        dashboard._next = 0.0

    adam = pm.adam(learning_rate=dashboard.controls[0])
    train(model, dashboard, callbacks=[at(20, flip)], optimizer=adam)
    panel = dashboard._panel
    names = [row.control.name for row in panel.rows]
    assert names == ["beta", "learning_rate", "scale_cost_to_minibatch"]
    assert [line[0] for line in panel.figure._legend["control"]] == names[:2]
    (event,) = dashboard.trace.events
    assert (event.control, event.new, event.source) == (names[2], 0.0, "user")
    shapes = dict(panel.figure._last[0]["arrays"])
    assert shapes["control"][0] == 2 and len(panel.figure._last[0]["marks"]) == 1


def test_active_units_while_the_fit_runs(model, notebook):
    dashboard = vt.Dashboard()
    train(model, dashboard, kl_by="coordinate")
    words = active_text(dashboard.trace)
    assert words.endswith(" of 2")
    assert dashboard._panel.figure._last[0]["active"] == words
    assert f"<td>active units</td><td>{words}</td>" in notebook.shown[-1].data


def test_refine_of_pymcs_own_shows_a_new_panel(model, notebook):
    dashboard = vt.Dashboard()
    with model:
        inference = pm.ADVI(random_seed=1)
        for n in (30, 20):
            inference.fit(n, callbacks=[dashboard], progressbar=False, compile_kwargs=FAST)
            assert dashboard.trace.attrs["status"] == "finished"
    assert len(notebook.shown) == 4
    assert notebook.events.stopped == notebook.events.started == 2


def test_refine_goes_on_with_the_same_trace(model, notebook):
    dashboard = vt.Dashboard()
    with model:
        inference = vt.ADVI(random_seed=1)
        inference.fit(40, callbacks=[dashboard], progressbar=False, compile_kwargs=FAST)
        first = dashboard._panel
        inference.refine(30, progressbar=False)
    assert len(dashboard.trace) == 70
    assert not first.open and dashboard._panel.open
    assert dashboard._panel.status.status["n"] == 30
    assert dashboard._panel.status.status["done"] == 30


@pytest.mark.parametrize("shown", [True, False])
def test_wrapped_in_a_function_it_works_as_well(model, request, shown):
    if shown:
        request.getfixturevalue("notebook")
    dashboard = vt.Dashboard()
    with model:
        pm.fit(
            40, method=vt.ADVI(random_seed=1), progressbar=False, compile_kwargs=FAST,
            callbacks=[lambda approx, losses, i: dashboard(approx, losses, i)],
        )  # fmt: skip
    assert len(dashboard.trace) == 40


def test_a_recorder_that_is_given_is_used():
    rate, beta = vt.LearningRate(), vt.Beta()
    recorder = vt.Recorder(rate)
    dashboard = vt.Dashboard(beta, recorder=recorder)
    assert dashboard.recorder is recorder and dashboard.trace is recorder.trace
    assert dashboard.controls == (rate, beta)
    with pytest.raises(ValueError, match=r"every belongs to the recorder"):
        vt.Dashboard(recorder=recorder, every=5)
    with pytest.raises(TypeError, match="recorder must be a vitoolkit Recorder, received 3"):
        vt.Dashboard(recorder=3)
    with pytest.raises(TypeError, match="expected a vitoolkit Control"):
        vt.Dashboard("beta")


def test_every_thins_the_record(model):
    dashboard = vt.Dashboard(every=10)
    train(model, dashboard)
    assert dashboard.trace.step.tolist() == [0, 10, 20, 30, 40, 50]


def test_the_dashboard_changes_no_number(model, notebook):
    with_panel, without = vt.Dashboard(), vt.Recorder()
    train(model, with_panel)
    train(model, without)
    np.testing.assert_array_equal(with_panel.trace.loss, without.trace.loss)


def test_a_notebook_that_is_executed_without_a_page_ends_with_a_picture(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook()
    source = (
        f"import sys; sys.path.insert(0, {str(Path(vt.__file__).parents[1])!r})\n"
        "import pymc as pm, vitoolkit as vt\n"
        "with pm.Model():\n"
        "    z = pm.Normal('z')\n"
        "    pm.Normal('y', z, observed=[0.2, 1.1])\n"
        "    pm.fit(400, method=vt.ADVI(random_seed=1), callbacks=[vt.Dashboard()],\n"
        "           compile_kwargs={'mode': 'FAST_COMPILE'})\n"
    )
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = [o["data"] for o in notebook.cells[0].outputs if o.output_type == "display_data"]
    assert ["finished after 400 steps" in data["text/html"] for data in shown] == [True]
    assert not [o for o in notebook.cells[0].outputs if "Warning" in o.get("text", "")]


def test_reading_messages_that_fails_warns_and_the_fit_goes_on(model, notebook):
    def fail():
        raise OSError("no such socket")

    dashboard = vt.Dashboard()
    callback = at(20, lambda: notebook.arriving.append(fail))
    with pytest.warns(RuntimeWarning, match="the fit goes on: OSError: no such socket"):
        train(model, dashboard, n=3000, callbacks=[callback])
    assert len(dashboard.trace) == 3000


def test_the_package_does_not_import_the_display():
    # ArviZ 0.23 imports bokeh and IPython by itself.
    code = (
        "import sys, pymc; before = set(sys.modules); import vitoolkit; "
        "display = {'bokeh', 'ipywidgets', 'anywidget', 'IPython'}; "
        "print(sorted(display & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
