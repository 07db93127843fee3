"""The one list of charts, and what follows from an entry of it."""

import json
import re

import numpy as np
import pytest
from bokeh.document import Document
from records import a_trace

from vitoolkit.dashboard.live_figure import LiveFigure
from vitoolkit.views import charts
from vitoolkit.views.charts import CHARTS, Chart, Line
from vitoolkit.views.frame import BUDGET, Lines, frame_of, points_for
from vitoolkit.views.picture import picture_svg
from vitoolkit.views.report import report_html
from vitoolkit.views.styles import INK, Style, variable_styles

TERMS = {"elbo", "kl", "list", "plane"}


@pytest.mark.parametrize(
    ("notes", "variables", "controls", "measures", "there"),
    [
        ({}, ["z"], ["beta"], ["gradient_snr"], {"loss", *TERMS, "control", "gradient"}),
        ({}, ["z"], ["beta"], ["unknown"], {"loss", *TERMS, "control"}),
        ({}, ["z"], [], [], {"loss", *TERMS}),
        ({"kl": "none"}, [], [], [], {"loss"}),
        ({"loss": "none"}, ["z"], [], [], TERMS),
        ({"loss": "none", "kl": "none"}, [], [], [], set()),
    ],
)
def test_the_charts_that_are_shown_are_those_with_something_to_show(
    notes, variables, controls, measures, there
):
    lines = dict.fromkeys(controls, Style(INK, ()))
    figure = LiveFigure(variable_styles(variables), lines, {}, notes=notes, measures=measures)
    names = [chart.name for chart in CHARTS if chart.name in there]
    assert figure._legend["shown"] == names
    drawn = Document.from_json(json.loads(figure._document)).roots
    assert [chart.name for chart in drawn] == [name for name in names if name != "list"]
    figure.close()


def roots(controls, measures=()):
    figure = LiveFigure(
        variable_styles(["z"]),
        {name: Style(INK, ()) for name in controls},
        controls,
        measures=measures,
    )
    drawn = Document.from_json(json.loads(figure._document)).roots
    figure.close()
    return {chart.name: chart for chart in drawn}


def test_a_step_is_at_one_place_in_every_chart():
    for controls, measures in (
        ({"beta": "linear", "learning_rate": "log"}, ()),
        ({"beta": "linear"}, ()),
        ({"beta": "linear"}, ("gradient_norm", "gradient_snr")),
    ):
        charts = roots(controls, measures).values()
        borders = {(chart.min_border_left, chart.min_border_right) for chart in charts}
        assert len(borders) == 1
        assert (borders.pop()[1] > 60) == any(chart.right for chart in charts)


def test_the_right_axis_is_called_by_its_controls():
    def label(*logs):
        scales = {"beta": "linear"} | dict.fromkeys(logs, "log")
        return roots(scales)["control"].right[0].axis_label

    assert label("learning_rate") == "learning_rate (log)"
    assert label("a", "b") == "a, b (log)"
    assert label("a", "b", "c") == "3 controls (log)"
    assert label("a" * 40) == "a" * 23 + "… (log)"
    assert roots({"beta": "log"})["control"].right == []


def test_axes_have_no_numbers_before_there_are_some():
    for chart in roots({"beta": "linear", "rate": "log"}, ("gradient_snr",)).values():
        axes = [*chart.xaxis, *chart.yaxis]
        assert {tuple(axis.ticker.ticks) for axis in axes} == {()}
        assert all(axis.name.endswith("_axis") for axis in axes)


def test_an_entry_is_all_that_a_chart_of_a_measure_needs(monkeypatch):
    added = (
        Chart(
            "noise", "Noise of the data", "lines", lines=(Line("sd", "sd"), Line("df", "df", True))
        ),
        Chart("spread", "Spread", "band", ("sd",), beside="noise"),
    )
    monkeypatch.setattr(charts, "CHARTS", (*CHARTS, *added))
    trace = a_trace(measures=("sd",))
    frame = frame_of(trace.view(50), trace.variables, end=1000)
    assert frame.measures == ("sd",) and frame.bands == ("loss", "elbo", "sd")
    np.testing.assert_allclose(frame.measure[0], frame.band("sd")[2])
    run = json.loads(re.search(r'id="run">(.*?)</script>', report_html(trace)).group(1))
    assert run["legend"]["shown"][-2:] == ["noise", "spread"]
    drawn = {chart.name: chart for chart in Document.from_json(json.loads(run["model"])).roots}
    assert drawn["noise"].yaxis[0].axis_label == "sd" and len(drawn["noise"].yaxis) == 2
    assert {"noise", "spread"} <= drawn.keys()
    told = {chart["name"]: chart for chart in run["legend"]["charts"]}
    assert told["noise"]["lines"][1]["look"] == ["df (right axis)", "ink", []]
    svg = picture_svg(trace)
    assert "Noise of the data: sd" in svg and ">Spread<" in svg and "df" not in svg


def test_a_penalty_is_drawn_in_the_color_of_its_variable():
    trace = a_trace(("z", "w", "u"), measures=("penalty[w]", "penalty[u]"))
    frame = frame_of(trace.view(50), trace.variables, end=1000)
    assert frame.measures == ("penalty[w]", "penalty[u]")
    run = json.loads(re.search(r'id="run">(.*?)</script>', report_html(trace)).group(1))
    told = {chart["name"]: chart for chart in run["legend"]["charts"]}["penalty"]
    styles = variable_styles(trace.variables)
    assert [line["look"] for line in told["lines"]] == [
        ["w", styles["w"].color, []],
        ["u", styles["u"].color, []],
    ]
    assert "penalty" in run["legend"]["shown"]
    drawn = {chart.name: chart for chart in Document.from_json(json.loads(run["model"])).roots}
    assert "penalty" in drawn and len(drawn["penalty"].yaxis) == 1
    svg = picture_svg(trace)
    assert "Penalty in the loss in place of the KL, nats: w" in svg
    assert svg.count(f'stroke="{styles["u"].color}"') == 3  # KL, its legend, penalty
    assert "Penalty" not in picture_svg(a_trace(("z", "w", "u")))


def test_many_penalties_are_drawn_within_the_size_of_a_message():
    names = [f"v{i}" for i in range(30)]
    measures = tuple(f"penalty[{name}]" for name in names)
    trace = a_trace(names, measures=measures, rows=2000)
    drawn = charts.penalties_of(measures)
    assert drawn == measures[: charts.MOST_PENALTIES]
    view = trace.view(points_for(len(names), 1 + len(drawn)))
    header, arrays = frame_of(view, names, trace.controls, end=2000, lines=Lines(names)).packed()
    assert header["measures"] == drawn and len(arrays) <= BUDGET


def test_a_chart_has_a_name_of_its_own_and_stands_beside_one_that_comes_before():
    for these in (CHARTS, charts.COMPARED):
        names = [chart.name for chart in these]
        assert len(set(names)) == len(names)
        for i, chart in enumerate(these):
            assert chart.beside in ("", *names[:i]) and chart.columns
