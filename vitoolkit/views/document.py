"""The Bokeh document of the figure: empty charts, which the page fills and ranges."""

from __future__ import annotations

import functools
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.core.properties import value
from bokeh.document import Document
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LogAxis,
    LogScale,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure

__all__ = ["CHARTS", "comparison_document", "document"]

#: Names of the charts, in their order on the page.
CHARTS = ("loss", "elbo", "kl", "control", "plane", "gradient")
MARK_TIPS = [("step", "@x{0,0}"), ("", "@text")]
PLANE_TIPS = [("rate", "@x{0,0.00}"), ("distortion", "@y{0,0.00}"), ("ELBO", "@elbo{0,0.00}")]


@functools.lru_cache(maxsize=16)
def document(shown: tuple[str, ...], scales: tuple[str, ...]) -> str:
    """Build the document as JSON.

    Parameters
    ----------
    shown : tuple of str
        Which of CHARTS there are: each takes the page a tenth of a second.
    scales : tuple of str
        "linear" or "log" for each control.

    Returns
    -------
    str
        One root for each chart, in the order of CHARTS.
    """
    steps = Range1d(start=0, end=1, name="steps_range")
    made = Document()
    for name in CHARTS:
        if name in shown:
            made.add_root(_plane() if name == "plane" else _over_steps(name, steps, scales))
    return serialize_json(made.to_json())


def _over_steps(name: str, steps: Range1d, scales: tuple[str, ...]) -> Any:
    if name == "control":
        chart = _controls(steps, [scale == "log" for scale in scales])
    elif name == "gradient":
        chart = _gradient(steps)
    else:
        chart = _chart(name, steps, ticks=name != "kl")
        if name == "kl":
            _lines(chart, "kl")
        else:
            _band(chart, name)
    marks = chart.vspan(
        x="x", source=_source(f"{name}_marks", "x", "text"), line_width=1,
        line_alpha=0.5, line_dash=value([3, 3]), name="marks", level="underlay",
    )  # fmt: skip
    _hover(chart, [marks], MARK_TIPS, attachment="above")
    return chart


def _controls(steps: Range1d, logs: list[bool]) -> Any:
    only_logs = bool(logs) and all(logs)
    control = _chart("control", steps, y_axis_type="log" if only_logs else "linear")
    control.xaxis.axis_label, control.min_border_bottom = "step", 40
    mixed = any(logs) and not only_logs
    if mixed:
        _right_axis(control, "control_log", LogAxis, "log scale", y_scale=LogScale())
    for name in ("control", "control_log")[: 1 + mixed]:
        axis: Any = {} if name == "control" else {"y_range_name": name}
        _lines(control, name, **axis)
        _lines(control, f"{name}_ahead", tips=False, **axis)
    return control


def _gradient(steps: Range1d) -> Any:
    gradient = _chart("gradient", steps, y_axis_type="log")
    _right_axis(gradient, "gradient_snr", LogAxis, "signal / noise", y_scale=LogScale())
    _lines(gradient, "gradient")
    _lines(gradient, "gradient_snr", y_range_name="gradient_snr")
    gradient.yaxis[0].axis_label = "norm"
    return gradient


@functools.cache
def comparison_document() -> str:
    """Build the document of a comparison as JSON: ELBO, sum of the KLs, rate against distortion."""
    steps = Range1d(start=0, end=1, name="steps_range")
    elbo, kl = (_chart(name, steps, ticks=True) for name in ("elbo", "kl"))
    plane = _plane_chart()
    for chart in (elbo, kl, plane):
        chart.height = 230
        _lines(chart, chart.name, tips=chart is not plane)
    present = plane.scatter(
        "x", "y", source=_source("plane_now", "x", "y", "color", "name", "elbo"),
        size=10, color="color",
    )  # fmt: skip
    _hover(plane, [present], [("", "@name"), *PLANE_TIPS])
    made = Document()
    for chart in (elbo, kl, plane):
        made.add_root(chart)
    return serialize_json(made.to_json())


def _chart(name: str, x_range: Range1d, *, ticks: bool = False, **kwargs: Any) -> Any:
    chart: Any = figure(
        name=name, height=190, sizing_mode="stretch_width", x_range=x_range,
        y_range=Range1d(start=0.1, end=1, name=f"{name}_range"), tools="box_zoom,pan,wheel_zoom",
        active_drag="box_zoom", active_scroll=None, toolbar_location=None,
        background_fill_alpha=0, border_fill_alpha=0, min_border_left=64, min_border_right=14,
        min_border_top=6, min_border_bottom=24, output_backend="canvas", **kwargs,
    )  # fmt: skip
    chart.xgrid.grid_line_color = None
    for axis in (*chart.xaxis, *chart.yaxis):
        _axis(axis)
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    chart.xaxis.ticker.desired_num_ticks = 5
    if ticks:
        _own_ticks(chart.yaxis[0], f"{name}_axis")
    return chart


def _plane_chart() -> Any:
    plane = _chart("plane", Range1d(start=0, end=1, name="rate_range"), ticks=True)
    _own_ticks(plane.xaxis[0], "rate_axis")
    plane.xaxis.axis_label, plane.yaxis.axis_label = "rate: sum of KL", "distortion: −data term"
    plane.min_border_bottom = 40
    return plane


def _plane() -> Any:
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


def _axis(axis: Any) -> Any:
    axis.major_label_text_font_size = axis.axis_label_text_font_size = "11px"
    axis.axis_label_text_font_style = "normal"
    axis.axis_label_standoff = 4
    axis.minor_tick_line_color = None
    axis.axis_line_alpha = axis.major_tick_line_alpha = 0.5
    return axis


def _own_ticks(axis: Any, name: str) -> None:
    """Let the page choose the ticks, which it does on scales that Bokeh has not."""
    axis.ticker, axis.name = FixedTicker(ticks=[]), name


def _right_axis(chart: Any, name: str, kind: Any, label: str, *, y_scale: Any) -> None:
    chart.extra_y_ranges = {name: Range1d(start=1e-3, end=1, name=f"{name}_range")}
    chart.extra_y_scales = {name: y_scale}
    chart.add_layout(_axis(kind(y_range_name=name, axis_label=label)), "right")


def _band(chart: Any, name: str) -> None:
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


def _lines(chart: Any, name: str, *, tips: bool = True, **axis: Any) -> None:
    """Draw many lines with one glyph, which costs the page as much as one line."""
    drawn = chart.multi_line(
        "xs", "ys", source=_source(name, "xs", "ys", "name", "color", "dash", "alpha", "width"),
        line_color="color", line_dash="dash", line_alpha="alpha", line_width="width", name=name,
        **axis,
    )  # fmt: skip
    if tips:
        form = "{0,0.0000}" if name == "kl" else "{0.0[00000]}"
        words = [("", "@name"), ("step", "$snap_x{0,0}"), ("value", f"$snap_y{form}")]
        _hover(chart, [drawn], words, line_policy="nearest")


def _hover(chart: Any, renderers: list[Any], tips: Any, **options: Any) -> None:
    chart.add_tools(HoverTool(renderers=renderers, tooltips=tips, **options))


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=f"{name}_data")
