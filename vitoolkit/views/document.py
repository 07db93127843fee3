"""The Bokeh document of the figure: empty charts, which the page fills and ranges."""

from __future__ import annotations

import functools
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.core.properties import value
from bokeh.document import Document
from bokeh.models import (
    Axis,
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearAxis,
    LinearScale,
    LogAxis,
    LogScale,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure

from vitoolkit.views.charts import COMPARED, Chart

__all__ = ["comparison_document", "document"]

MARK_TIPS = [("step", "@x{0,0}"), ("", "@text")]
PLANE_TIPS = [("rate", "@x{0,0.00}"), ("distortion", "@y{0,0.00}"), ("ELBO", "@elbo{0,0.00}")]


@functools.lru_cache(maxsize=16)
def document(charts: tuple[Chart, ...], scales: tuple[str, ...]) -> str:
    """Build the document as JSON.

    Parameters
    ----------
    charts : tuple of Chart
        Which charts there are: each takes the page a tenth of a second.
    scales : tuple of str
        "linear" or "log" for each control.

    Returns
    -------
    str
        One root for each chart in its order; the list of variables is none of Bokeh's.
    """
    steps = Range1d(start=0, end=1, name="steps_range")
    logs = [scale == "log" for scale in scales]
    made = Document()
    for chart in charts:
        if chart.kind == "plane":
            made.add_root(_plane())
        elif chart.kind != "list":
            drawn = (
                _controls(steps, logs)
                if chart.kind == "controls"
                else _KINDS[chart.kind](chart, steps)
            )
            _marks(drawn, chart.name)
            made.add_root(drawn)
    return serialize_json(made.to_json())


def _marks(drawn: figure, name: str) -> None:
    marks = drawn.vspan(
        x="x", source=_source(f"{name}_marks", "x", "text"), line_width=1,
        line_alpha=0.5, line_dash=value([3, 3]), name="marks", level="underlay",
    )  # fmt: skip
    _hover(drawn, [marks], MARK_TIPS, attachment="above")


def _banded(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps, ticks=True)
    _band(drawn, chart.name)
    return drawn


def _variables(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps)
    _lines(drawn, chart.name)
    return drawn


def _controls(steps: Range1d, logs: list[bool]) -> figure:
    only_logs = bool(logs) and all(logs)
    control = _chart("control", steps, y_axis_type="log" if only_logs else "linear")
    control.xaxis.axis_label, control.min_border_bottom = "step", 40
    mixed = any(logs) and not only_logs
    if mixed:
        _right_axis(control, "control_log", "log scale", "log")
    for name in ("control", "control_log")[: 1 + mixed]:
        y_range = "default" if name == "control" else name
        _lines(control, name, y_range_name=y_range)
        _lines(control, f"{name}_ahead", tips=False, y_range_name=y_range)
    return control


def _measures(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps, y_axis_type=chart.scale)
    left, right = (
        ", ".join(line.label for line in chart.lines if line.right == side)
        for side in (False, True)
    )
    drawn.yaxis.axis_label = left
    _lines(drawn, chart.name)
    if right:
        name = f"{chart.name}_right"
        _right_axis(drawn, name, right, chart.scale)
        _lines(drawn, name, y_range_name=name)
    return drawn


_KINDS = {"band": _banded, "kl": _variables, "lines": _measures}


@functools.cache
def comparison_document() -> str:
    """Build the document of a comparison as JSON: ELBO, sum of the KLs, rate against distortion."""
    steps = Range1d(start=0, end=1, name="steps_range")
    plane = _plane_chart()
    charts = [
        plane if chart.kind == "runs_plane" else _chart(chart.name, steps, ticks=True)
        for chart in COMPARED
    ]
    for told, chart in zip(COMPARED, charts, strict=True):
        chart.height = 230
        _lines(chart, told.name, tips=chart is not plane)
    present = plane.scatter(
        "x", "y", source=_source("plane_now", "x", "y", "color", "name", "elbo"),
        size=10, color="color",
    )  # fmt: skip
    _hover(plane, [present], [("", "@name"), *PLANE_TIPS])
    made = Document()
    for chart in charts:
        made.add_root(chart)
    return serialize_json(made.to_json())


def _chart(
    name: str, x_range: Range1d, *, ticks: bool = False, y_axis_type: Any = "linear"
) -> figure:
    chart = figure(
        name=name, height=190, sizing_mode="stretch_width", x_range=x_range,
        y_range=Range1d(start=0.1, end=1, name=f"{name}_range"), tools="box_zoom,pan,wheel_zoom",
        active_drag="box_zoom", active_scroll=None, toolbar_location=None,
        background_fill_alpha=0, border_fill_alpha=0, min_border_left=64, min_border_right=14,
        min_border_top=6, min_border_bottom=24, output_backend="canvas", y_axis_type=y_axis_type,
    )  # fmt: skip
    chart.xgrid.grid_line_color = None
    for axis in (*chart.xaxis, *chart.yaxis):
        _axis(axis)
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    chart.xaxis.ticker = BasicTicker(desired_num_ticks=5)
    if ticks:
        _own_ticks(chart.yaxis[0], f"{name}_axis")
    return chart


def _plane_chart() -> figure:
    plane = _chart("plane", Range1d(start=0, end=1, name="rate_range"), ticks=True)
    _own_ticks(plane.xaxis[0], "rate_axis")
    plane.xaxis.axis_label, plane.yaxis.axis_label = "rate: sum of KL", "distortion: −data term"
    plane.min_border_bottom = 40
    return plane


def _plane() -> figure:
    """Rate against distortion: Alemi et al. (2018), Fixing a Broken ELBO."""
    plane = _plane_chart()
    plane.line(
        "x", "y", source=_source("iso", "x", "y"), line_width=1, line_dash=[2, 4], name="iso"
    )
    path = plane.line(
        "x", "y", source=_source("plane", "x", "y", "step", "elbo"),
        line_width=1.5, line_alpha=0.55, name="path",
    )  # fmt: skip
    stops = plane.scatter(
        "x", "y", source=_source("plane_marks", "x", "y", "step", "text"),
        size=6, fill_alpha=0, line_width=1.2, name="stops",
    )  # fmt: skip
    plane.scatter("x", "y", source=_source("plane_now", "x", "y"), size=11, name="present")
    _hover(plane, [path], [("step", "@step{0,0}"), *PLANE_TIPS], line_policy="nearest")
    _hover(plane, [stops], [("step", "@step{0,0}"), ("", "@text")], attachment="above")
    return plane


def _axis(axis: Axis) -> None:
    axis.major_label_text_font_size = axis.axis_label_text_font_size = "11px"
    axis.axis_label_text_font_style = "normal"
    axis.axis_label_standoff = 4
    axis.minor_tick_line_color = None
    axis.axis_line_alpha = axis.major_tick_line_alpha = 0.5


def _own_ticks(axis: Axis, name: str) -> None:
    """Let the page choose the ticks, which it does on scales that Bokeh has not."""
    axis.ticker, axis.name = FixedTicker(ticks=[]), name


def _right_axis(chart: figure, name: str, label: str, scale: str) -> None:
    chart.extra_y_ranges = {name: Range1d(start=1e-3, end=1, name=f"{name}_range")}
    chart.extra_y_scales = {name: LogScale() if scale == "log" else LinearScale()}
    axis = (LogAxis if scale == "log" else LinearAxis)(y_range_name=name, axis_label=label)
    _axis(axis)
    chart.add_layout(axis, "right")


def _band(chart: figure, name: str) -> None:
    # The area alone would show nothing where a point is one step, the line alone a moiré.
    chart.varea(
        "x", "low", "high", source=_source(f"{name}_band", "x", "low", "high"),
        fill_alpha=0.2, name="band",
    )  # fmt: skip
    chart.line(
        "x", "y", source=_source(f"{name}_raw", "x", "y"), line_width=1, line_alpha=0.2, name="raw"
    )
    mean = chart.line(
        "x", "y", source=_source(name, "x", "y", "value", "smallest", "largest"),
        line_width=2, name="mean_line",
    )  # fmt: skip
    tips = [
        ("step", "@x{0,0}"),
        ("mean", "@value{0,0.0000}"),
        ("steps", "@smallest{0,0.00} to @largest{0,0.00}"),
    ]
    _hover(chart, [mean], tips, mode="vline")


def _lines(chart: figure, name: str, *, tips: bool = True, y_range_name: str = "default") -> None:
    """Draw many lines with one glyph, which costs the page as much as one line."""
    drawn = chart.multi_line(
        "xs", "ys", source=_source(name, "xs", "ys", "name", "color", "dash", "alpha", "width"),
        line_color="color", line_dash="dash", line_alpha="alpha", line_width="width", name=name,
        y_range_name=y_range_name,
    )  # fmt: skip
    if tips:
        form = "{0,0.0000}" if name == "kl" else "{0.0[00000]}"
        words = [("", "@name"), ("step", "$snap_x{0,0}"), ("value", f"$snap_y{form}")]
        _hover(chart, [drawn], words, line_policy="nearest")


def _hover(
    chart: figure, renderers: list[DataRenderer], tips: list[tuple[str, str]], **options: Any
) -> None:
    chart.add_tools(HoverTool(renderers=renderers, tooltips=tips, **options))


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=f"{name}_data")
