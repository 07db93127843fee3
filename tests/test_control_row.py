"""One control in the panel: slider, number box, switch, and the editor of its schedule."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from records import a_fit

import vitoolkit as vt
from vitoolkit.dashboard.control_row import ControlRow, slider_range


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


def test_a_schedule_is_given_another_end_and_length():
    beta, said = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100)), []
    fit = a_fit(beta)
    row = ControlRow(beta, said.append)
    (line,) = row.widget.children
    row.edit.value = True
    assert row.widget.children[0] is line and len(row.widget.children) == 2
    assert (row.end.value, row.steps.value) == (1.0, 100)
    row.steps.value = 3
    row.apply.click()
    assert "must be more than 7" in said[-1] and row.edit.value
    row.end.value, row.steps.value = 2.0, 27
    row.apply.click()
    assert not row.edit.value and row.widget.children == (line,) and said[-1] == ""
    fit.boundary()
    (event,) = beta.log
    assert (event.kind, event.old, event.new, event.source) == ("reschedule", 1.0, 2.0, "user")
    assert beta.schedule(27) == 2.0 and beta.schedule(7) == pytest.approx(0.07)
    row.close()


def test_without_a_schedule_there_is_nothing_to_edit():
    row = ControlRow(vt.Beta(1.0), print)
    assert row.edit.layout.visibility == "hidden"
    row.close()
