"""The button of an ended fit, without a browser."""

import threading

import pytest
from records import a_trace

from vitoolkit.dashboard.diagnose_button import DiagnoseButton
from vitoolkit.views.picture import summary_html
from vitoolkit.views.report import report_html
from vitoolkit.views.tables import diagnosis_section

DIAGNOSIS = {
    "ok": False,
    "lines": ["Still: the ELBO. k-hat is 0.90 <b>.", "What to do: <go on>."],
    "khat": 0.9,
    "coordinate": [r"$\beta$", "w"],
    "table": {"mean": [1.0, -0.25], "sd": [0.5, None], "r_hat": [None, None]},
}


@pytest.fixture
def button(request):
    made = []

    def make(diagnose, **kwargs):
        made.append(DiagnoseButton(diagnose, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def press(button):
    """What a page sends; returns when the thread that it started has ended."""
    before = set(threading.enumerate())
    button._on_page(button, {"kind": "diagnose"}, [])
    for thread in set(threading.enumerate()) - before:
        thread.join()


def test_what_is_found_is_shown_and_a_second_press_waits_for_the_first(button):
    entered, go_on, asked = threading.Event(), threading.Event(), []

    def diagnose():
        asked.append(threading.current_thread())
        entered.set()
        go_on.wait()
        one.tell("<p>found</p>")

    one = button(diagnose, place="here")
    assert one.state == {"phase": "ready", "found": "", "words": ""} and one.place == "here"
    one._on_page(one, {"kind": "diagnose"}, [])
    entered.wait()
    assert one.state["phase"] == "busy"
    one._on_page(one, {"kind": "diagnose"}, [])
    go_on.set()
    asked[0].join()
    assert len(asked) == 1 and asked[0] is not threading.main_thread()
    assert one.state == {"phase": "done", "found": "<p>found</p>", "words": ""}


def test_a_failure_is_said_and_what_was_found_before_stays(button):
    def diagnose():
        raise RuntimeError("the fit still runs")

    one = button(diagnose, found="<p>before</p>")
    assert one.state["phase"] == "done"
    press(one)
    words = "not diagnosed: the fit still runs"
    assert one.state == {"phase": "failed", "found": "<p>before</p>", "words": words}


def test_picture_and_report_have_it_under_the_verdict():
    trace = a_trace()
    assert diagnosis_section(trace) == ""
    assert "vitoolkit-diagnosed" not in summary_html(trace)
    trace.attrs |= {"verdict": "Still: the ELBO.", "diagnosis": DIAGNOSIS, "status": "finished"}
    section = diagnosis_section(trace)
    assert "<strong>Diagnosis: Not OK.</strong> k-hat is 0.90 &lt;b&gt;.</p>" in section
    assert "<p>What to do: &lt;go on&gt;.</p>" in section
    assert "<th>coordinate</th><th>mean of q</th><th>sd of q</th></tr>" in section
    assert "<td>β</td><td>1</td><td>0.5</td>" in section
    assert "<td>w</td><td>−0.25</td><td></td>" in section
    assert "and 1 more" in diagnosis_section(trace, most=1)
    bound = "ELBO: -405.12 ± 1e-07 nats; importance-weighted: -404.2 nats, k-hat 0-1"
    trace.attrs["diagnosis"] = {**DIAGNOSIS, "lines": [*DIAGNOSIS["lines"], bound]}
    minus = "ELBO: −405.12 ± 1e-07 nats; importance-weighted: −404.2 nats, k-hat 0-1"
    assert f"<p>{minus}</p>" in diagnosis_section(trace)
    html = summary_html(trace)
    assert html.index("Still: the ELBO.") < html.index("vitoolkit-diagnosed") < html.index("<img")
    report = report_html(trace)
    assert "<h2>Diagnosis</h2>" in report and "<td>diagnosis</td>" not in report
