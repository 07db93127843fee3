"""One control in the panel: slider, number box, switch, and the editor of its schedule."""

import math

import pytest
from records import a_fit

import vitoolkit as vt
from vitoolkit.dashboard.control_row import ControlRow, slider_range


def says(row, kind, **more):
    """What the page sends when a hand does something."""
    row.widget._handle_custom_msg({"kind": kind, **more}, [])


def moves(row, value, number="a 1"):
    says(row, "set", value=value, number=number)


@pytest.fixture
def row():
    said = []
    control = vt.Beta(bounds=(0.0, 10.0), schedule=lambda step: min(10.0, step / 100), name="beta")
    row = ControlRow(control, said.append)
    row.said = said
    yield row
    row.close()


def test_a_moved_slider_is_a_request_of_a_person(row):
    moves(row, 4.0)
    row.control.advance(7)
    (event,) = row.control.log
    assert (event.kind, event.new, event.source) == ("set", 4.0, "user")
    state = row.widget.state
    assert (state["value"], state["who"], state["heard"]) == (4.0, "manual", "a 1")


def test_a_number_out_of_bounds_is_refused_in_words_and_answered(row):
    moves(row, 11.0, "a 1")
    assert row.said[-1] == "beta must be in [0, 10], received 11.0"
    assert (row.widget.state["value"], row.widget.state["heard"]) == (0.0, "a 1")
    assert row.control.log == [] and row.control.pending is None
    moves(row, None, "a 2")  # what JSON makes of a number that is none
    assert row.said[-1] != "" and row.control.pending is None
    moves(row, 5.0, "a 3")
    assert row.said[-1] == ""


def test_the_switch_gives_the_wheel_away_and_takes_it(row):
    assert row.widget.state["who"] == "auto"
    moves(row, 4.0)
    row.control.advance(100)
    says(row, "wheel", auto=True)
    assert row.widget.state["who"] == "auto"
    row.control.advance(200)
    assert row.control.value == 2.0 and not row.control.manual
    says(row, "wheel", auto=False)
    row.control.advance(300)
    assert row.control.value == 2.0 and row.control.manual
    assert [event.kind for event in row.control.log] == ["set", "release", "set"]


def test_following_the_schedule_shows_its_value_and_asks_for_nothing(row):
    row.control.advance(500)
    assert row.follow()
    assert row.widget.state["value"] == 5.0
    assert row.control.pending is None and not row.control.manual
    assert not row.follow()


def test_what_was_asked_for_is_shown_before_it_is_in_force(row):
    fit = a_fit(row.control)
    moves(row, 7.0)
    assert row.control.value == 0.0 and not row.follow()
    assert (row.widget.state["value"], row.widget.state["who"]) == (7.0, "manual")
    fit.boundary()
    assert row.control.value == 7.0 and not row.follow()


@pytest.mark.parametrize(
    ("control", "scale", "ends"),
    [
        (vt.Beta(), "weight", (0.0, 10.0)),
        (vt.Beta(bounds=(0.0, 1.0)), "linear", (0.0, 1.0)),
        (vt.Beta(bounds=(0.5, 4.0)), "linear", (0.5, 4.0)),
        (vt.Control(1.0, name="capacity", bounds=(0.0, 30.0)), "linear", (0.0, 30.0)),
        (vt.LearningRate(1e-2), "log", (1e-6, 1.0)),
        (vt.Draws(2, bounds=(1, 8)), "whole", (1.0, 8.0)),
    ],
)
def test_a_weight_has_a_slider_that_gives_half_its_length_to_the_first_one(control, scale, ends):
    row = ControlRow(control, print)
    assert row.widget.spec["scale"] == scale
    assert (row.widget.state["low"], row.widget.state["high"]) == ends
    assert (row.widget.state["who"], row.widget.state["can"]) == ("constant", False)
    row.close()


def test_a_name_in_latex_is_read_as_plain_text_and_stays_the_key():
    said = []
    row = ControlRow(vt.Beta(name=r"$\beta_{1}$"), said.append)
    assert row.widget.spec["name"] == "β₁"
    moves(row, 11.0)
    assert said[-1] == "β₁ must be in [0, 10], received 11.0"
    moves(row, 3.0)
    row.control.advance(1)
    assert row.control.log[-1].control == r"$\beta_{1}$"
    row.close()


def test_what_lr_find_suggests_is_told_to_the_page():
    rate = vt.LearningRate(1e-2)
    row = ControlRow(rate, print)
    assert row.widget.state["suggestion"] is None
    rate.suggestion = 0.03
    assert row.follow() and row.widget.state["suggestion"] == 0.03
    row.close()


def test_a_slider_without_bounds_makes_room():
    row = ControlRow(vt.Control(1.0, name="free"), print)
    assert (row.widget.state["low"], row.widget.state["high"]) == (-10.0, 10.0)
    moves(row, 250.0)
    row.control.advance(1)
    assert row.control.value == 250.0 and row.widget.state["high"] >= 250.0
    row.control.set(1.0)
    row.control.advance(2)
    row.follow()
    assert row.widget.state["high"] >= 250.0  # the handle does not run about


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
    beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100))
    fit = a_fit(beta)
    beta.advance(7)
    row, sent = ControlRow(beta, print), []
    row.widget.send = sent.append
    assert row.widget.state["schedule"] == {"end": 1.0, "steps": 100}
    says(row, "reschedule", end=1.0, steps=3, number=1)
    assert "must be more than 7" in sent[-1]["error"] and "applied" not in sent[-1]
    says(row, "preview", end=2.0, steps=27, number=2)
    shape = sent[-1]["values"]
    assert sent[-1]["number"] == 2 and "applied" not in sent[-1]
    assert (shape[0], shape[-1]) == pytest.approx((0.07, 2.0)) and shape == sorted(shape)
    fit.boundary()
    assert beta.log == []
    says(row, "reschedule", end=2.0, steps=27, number=3)
    assert sent[-1]["applied"] and sent[-1]["values"] == shape
    fit.boundary()
    (event,) = beta.log
    assert (event.kind, event.old, event.new, event.source) == ("reschedule", 1.0, 2.0, "user")
    assert beta.schedule(27) == 2.0 and beta.schedule(7) == pytest.approx(0.07)
    row.follow()
    assert row.widget.state["schedule"] == {"end": 2.0, "steps": 27}
    row.close()


def test_a_schedule_without_a_length_needs_both():
    row, sent = ControlRow(vt.Beta(schedule=lambda step: 0.5), print), []
    row.widget.send = sent.append
    says(row, "preview", end=1.0, steps=None, number=1)
    assert "give both end= and steps=" in sent[-1]["error"]
    says(row, "preview", end=1.0, steps=40, number=2)
    assert sent[-1]["values"][-1] == 1.0
    row.close()


def test_without_a_schedule_there_is_nothing_to_edit():
    row = ControlRow(vt.Beta(1.0), print)
    assert row.widget.state["schedule"] is None
    row.close()


def test_a_control_that_no_step_uses_says_so(row):
    row.show_unused()
    state = row.widget.state
    assert (state["who"], state["can"]) == ("not used", False)
    assert "would do nothing" in state["why"]
