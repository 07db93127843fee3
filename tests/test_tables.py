"""A run in words and numbers."""

import numpy as np
import pytest
from records import a_trace

import vitoolkit as vt
from vitoolkit.means import final, final_kl
from vitoolkit.parts import Part
from vitoolkit.views.picture import picture_svg, summary_html
from vitoolkit.views.tables import (
    active_text,
    event_table,
    in_words,
    percent,
    run_table,
    scales_of,
)


def test_active_units_in_words():
    trace = vt.Trace(("z",), parts=[Part("z", ("latent",), (3,))])
    trace.append(0, 0.5, 9.0, -6.0, [4.0], parts=[3.0, 0.99, 0.01])
    assert active_text(trace) == "z 2 of 3"
    assert active_text(trace, {"z": 100}) == "z 1 of 3"
    assert active_text(a_trace()) == ""
    html = summary_html(trace, active=active_text(trace))
    assert "<td>active units</td><td>z 2 of 3</td>" in html


def test_a_run_has_one_elbo_wherever_it_is_told():
    trace = a_trace(rows=5000)
    elbo = np.mean(trace.elbo[-100:])
    assert final(trace, "elbo") == pytest.approx(elbo)
    shown = f"{elbo:,.6g}".replace("-", "\N{MINUS SIGN}")
    assert f"<td>ELBO, nats</td><td>{shown}</td>" in run_table(trace, {}, "")
    assert trace.summary()["ELBO"] == f"{elbo:,.6g} nats"
    assert "means of the last 100 rows" in run_table(trace, {}, "")
    kl = np.mean(trace.kl["z"][-100:])
    assert final_kl(trace)[:1] == pytest.approx([kl])
    assert f">{kl:.4g}</text>" in picture_svg(trace)  # at its bar


def test_where_a_column_ended():
    trace = vt.Trace(("z",))
    terms = np.full((300, 2), np.nan)
    terms[:100] = [-3.0, 1.0]
    terms[150] = [-7.0, np.inf]
    trace.extend(np.arange(300), np.zeros(300), np.ones(300), terms, np.empty((300, 0)))
    assert final(trace, "loss") == 1.0
    assert final(trace, "data") == -7.0  # the last that there is
    assert final(trace, "kl[z]") == 1.0
    assert np.isnan(final(vt.Trace(("z",)), "elbo"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_whose_loss_is_not_finite_are_said_with_their_number(value):
    trace, loss = vt.Trace(("z",)), np.ones(1400)
    loss[300:1350] = value
    trace.extend(np.arange(1400), np.zeros(1400), loss, np.ones((1400, 2)), np.empty((1400, 0)))
    words = "1,050 of 1,400 rows have a loss that is NaN or infinite and in no mean"
    for html in (run_table(trace, {}, ""), summary_html(trace)):
        assert f"<td>not finite</td><td>{words}, the first at step 300</td>" in html
        assert "<td>loss</td><td>1</td>" in html
    assert "not finite" not in run_table(trace[:300], {}, "")
    assert "1 of 301 row has a loss" in run_table(trace[:301], {}, "")


def test_an_event_has_its_time_and_who_did_it():
    trace = a_trace()
    trace.add_event(vt.Event(1234, 5.678, "set", "beta", 0.5, 2.0, "code"))
    cells = "<td>1,234</td><td>5.68</td><td>set</td><td>beta</td><td>0.5 → 2</td><td>code</td>"
    assert cells in event_table(trace, {})
    assert event_table(a_trace(), {}) == ""


def test_how_a_control_is_shown_that_is_not_at_hand():
    trace = vt.Trace(controls=("rate", "beta", "flat", "gap"))
    rate, beta = np.geomspace(1e-3, 1e-1, 50), np.linspace(0.0, 1.0, 50)
    gap = np.where(np.arange(50) == 9, np.nan, rate)
    control = np.column_stack([rate, beta, np.ones(50), gap])
    trace.extend(np.arange(50), np.zeros(50), np.ones(50), np.ones((50, 1)), control)
    found = {"rate": "log", "beta": "linear", "flat": "linear", "gap": "linear"}
    assert scales_of(trace, None) == found
    assert scales_of(trace, {"rate": "switch"}) == found | {"rate": "switch"}
    assert scales_of(trace[:0], None) == dict.fromkeys(found, "linear")


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (vt.schedules.constant(0.5), "constant at 0.5"),
        (vt.schedules.linear(-1.0, 1e-7, steps=30_000), "linear from −1 to 1e−07 in 30,000 steps"),
        (vt.schedules.cosine(0.1, 0.01, steps=9), "cosine from 0.1 to 0.01 in 9 steps"),
    ],
)
def test_a_schedule_in_words(schedule, words):
    assert in_words(repr(schedule)) == words


@pytest.mark.parametrize("text", ["a note (of a person)", "", "f(", "x.y(1)", "linear(a, b)"])
def test_what_is_no_schedule_stays_as_it_is(text):
    assert in_words(text) == text


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0009, "<0.1 %"),
        (0.001, "0.1 %"),
        (0.0994, "9.9 %"),
        (0.4788, "47.9 %"),
        (1, "100.0 %"),
    ],
)
def test_a_share_in_words(share, words):
    assert percent(share) == words
