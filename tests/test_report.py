"""A run as a page of its own, without a browser."""

import json
import re

import numpy as np
import pytest
from records import a_trace

import vitoolkit as vt
from vitoolkit.parts import Part
from vitoolkit.views.names import plain
from vitoolkit.views.report import report_html, write_report


def test_a_report_holds_charts_and_tables_and_needs_no_network(tmp_path):
    dashboard = vt.Dashboard(vt.Beta())
    trace = a_trace(variables=("z", "</script><b>"))
    trace.add_event(vt.Event(500, 0.5, "note", text="tried < 1", source="user"))
    dashboard.recorder._trace = trace
    path = dashboard.to_html(tmp_path / "run.html", title="A <fit>")
    page = path.read_text("utf-8")
    assert "<title>A &lt;fit&gt;</title>" in page and "tried &lt; 1" in page
    assert not re.findall(r"""(?:src|href)=["']?https?:""", page)
    assert "</script><b>" not in page
    run = json.loads(re.search(r'id="run">(.*?)</script>', page).group(1))
    assert [line[0] for line in run["legend"]["kl"]] == ["z", "</script><b>"]
    assert run["header"]["marks"] == [[500.0, "note: tried < 1, by user"]]
    assert ["kl", [2, len(trace.view(1000).step)]] in run["header"]["arrays"]
    with pytest.raises(ValueError, match="must end in '.html'"):
        dashboard.to_html(tmp_path / "run.nc")
    with pytest.raises(FileNotFoundError):
        dashboard.to_html(tmp_path / "no such" / "run.html")


def run_of(page):
    return json.loads(re.search(r'id="run">(.*?)</script>', page).group(1))


def text_of(page):
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.S)


def test_a_report_of_nothing_says_so():
    trace = vt.Trace(("z",), attrs={"error": "ValueError: <no>"})
    page = report_html(trace)
    assert "The fit took no steps" in page and "<script" not in page
    assert "<td>error</td><td>ValueError: &lt;no&gt;</td>" in page


def test_a_report_tells_attributes_and_events_with_time_and_source():
    trace = a_trace()
    trace.attrs |= {"status": "finished", "scaling": "loss / 2", "nested": {"a": [1, 2]}}
    trace.add_event(vt.Event(500, 0.5, "set", "beta", 0.5, 2.0, "rule"))
    text = text_of(report_html(trace))
    for heading in ("Run", "Events", "Attributes"):
        assert f"<h2>{heading}</h2>" in text
    assert (
        "<td>scaling</td><td>loss / 2</td>" in text and "<td>{&quot;a&quot;: [1, 2]}</td>" in text
    )
    assert f"pymc {trace.attrs['versions']['pymc']}" in text
    assert "<td>500</td><td>0.50</td><td>set</td><td>beta</td>" in text and "<td>rule</td>" in text


def test_a_report_says_how_it_ended_and_where_q_stands():
    trace = a_trace()
    assert "<h2>Prior and posterior" not in report_html(trace)
    trace.attrs["verdict"] = "Finished and still."
    ends = [[-1.0, 0.0, 1.0]]
    trace.attrs["q"] = {"step": 9, "name": ["z"], "posterior": ends, "prior": None, "moved": [0.5]}
    page = report_html(trace)
    assert "<strong>Finished and still.</strong>" in page
    assert "<td>z</td><td>0 (−1, 1)</td><td></td><td>0.5 sd</td>" in page
    assert "<td>q</td>" not in page  # no second time, as an attribute


def test_small_parts_are_bars():
    parts = [Part("z", ("<dim>",), (3,)), Part("w", ("row", "latent"), (13, 5))]
    parts += [Part("b", ("row", "latent"), (8, 8)), Part("s", (), ()), Part("none", ("k",), (0,))]
    trace = vt.Trace([part.variable for part in parts], parts=parts)
    for step in range(150):
        z = [1e6 if step < 50 else 2.0, -0.5, np.nan]
        values = np.concatenate([z, np.zeros(65), np.full(64, 0.5), [0.25]])
        trace.append(step, 0.0, 1.0, -1.0, [2.0, 0.0, 32.0, 0.25, 0.0], (), values)
    text = text_of(report_html(trace))
    assert "<h2>KL of z by &lt;dim&gt;, nats</h2>" in text
    assert "means of the last 100 rows. Above 0.01 nats of the full data set: 1 of 3." in text
    assert 'aria-label="0 2, 1 −0.5, 2 not finite"' in text
    assert "<title>&lt;dim&gt; 0: 2</title>" in text
    assert "<title>&lt;dim&gt; 2: not finite</title>" in text
    assert "<h2>KL of b by row, latent, nats</h2>" in text and "64 of 64." in text
    assert "<title>coordinate row=7, latent=7: 0.5</title>" in text
    assert "<h2>KL of s by coordinate, nats</h2>" in text and "1 of 1." in text
    assert "<h2>KL of w" not in text  # 65 coordinates
    assert "<h2>KL of none" not in text


def test_a_control_over_a_wide_range_is_on_a_logarithmic_axis():
    trace = vt.Trace(controls=("rate", "beta"))
    control = np.column_stack([np.geomspace(1e-4, 1e-1, 50), np.linspace(0.1, 1.0, 50)])
    trace.extend(np.arange(50), np.zeros(50), np.ones(50), np.ones((50, 1)), control)
    lines = run_of(report_html(trace))["legend"]["control"]
    assert [(name, scale) for name, _, _, scale in lines] == [("rate", "log"), ("beta", "linear")]
    lines = run_of(report_html(trace, {"rate": "switch"}))["legend"]["control"]
    assert [line[0] for line in lines] == ["beta"]


def test_names_of_every_kind():
    names = ("a<b", "c&d", "e\"f'", r"$\alpha_{1}$", "</script><!--", "β 🎲")
    trace = a_trace(names, controls=names)
    for i, name in enumerate(names):
        trace.add_event(vt.Event(i, 0.1, "set", name, 1.0, 2.0, source=name))
    page = report_html(trace, title=names[4])
    run = run_of(page)
    shown = [plain(name) for name in names]
    assert shown[3] == "α₁"
    assert [line[-1] for line in run["legend"]["kl"]] == list(names)
    assert [line[0] for line in run["legend"]["kl"]] == shown
    assert [line[0] for line in run["legend"]["control"]] == shown
    text = text_of(page)
    assert "<!--" not in text and "<b" not in re.sub(r"</?(b|body)>", "", text)
    assert "<td>e&quot;f&#x27;</td>" in text and "<td>a&lt;b</td>" in text


def test_a_fit_that_computes_no_loss_has_a_report():
    trace = vt.Trace()
    trace.extend(
        np.arange(9), np.zeros(9), np.full(9, np.nan), np.full((9, 1), np.nan), np.empty((9, 0))
    )
    legend = run_of(report_html(trace))["legend"]
    assert legend["shown"] == [] and legend["notes"] == {"loss": "this fit computes none"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_report_of_a_short_run(rows):
    assert "kl" in run_of(report_html(a_trace(rows=rows)))["legend"]["shown"]


def test_a_report_of_a_long_run_is_small(tmp_path):
    trace = a_trace([f"v{i}" for i in range(50)], rows=50_000)
    for step in range(1000):
        trace.add_event(vt.Event(step, 0.0, "set", "beta", 1.0, 1.0, "rule"))
    page = write_report(trace, tmp_path / "run.html").read_text("utf-8")
    assert len(page) < 1_500_000
    assert "and 500 more events in the trace" in page and page.count("<td>rule</td>") == 500
