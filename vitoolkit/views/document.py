"""The Bokeh document of the figure: empty charts, which the page fills and ranges."""

from __future__ import annotations

import functools
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.core.properties import value
from bokeh.document import Document
from bokeh.models import (
    Axis,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearAxis,
    LinearScale,
    LogAxis,
    LogScale,
    Range1d,
)
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure

from vitoolkit.views.charts import COMPARED, Chart

__all__ = ["comparison_document", "document"]

PLANE_TIPS = [("rate", "@x{0,0.00}"), ("distortion", "@y{0,0.00}"), ("ELBO", "@elbo{0,0.00}")]


#: Pixels beside a plot. They hold any numbers, so that a step is at one place in every chart.
LEFT, RIGHT, RIGHT_AXIS = 72, 14, 64


@functools.lru_cache(maxsize=16)
def document(charts: tuple[Chart, ...], controls: tuple[tuple[str, str], ...]) -> str:
    """Build the document as JSON.

    Parameters
    ----------
    charts : tuple of Chart
        Which charts there are: each takes the page a tenth of a second.
    controls : tuple of (str, str)
        Name of each control, and "linear" or "log".

    Returns
    -------
    str
        One root for each chart in its order; the list of variables is none of Bokeh's.
    """
    steps = Range1d(start=0, end=1, name="steps_range")
    made = Document()
    drawn = []
    for chart in charts:
        if chart.kind == "plane":
            drawn.append(_plane())
        elif chart.kind == "predictive":
            drawn.append(_predictive(chart))
        elif chart.kind == "controls":
            drawn.append(_controls(steps, controls))
        elif chart.kind != "list":
            drawn.append(_KINDS[chart.kind](chart, steps))
    right = RIGHT_AXIS if any(root.right for root in drawn) else RIGHT
    for root in drawn:
        root.min_border_right = right
        if root.x_range is steps:
            _marks(root)
        made.add_root(root)
    return serialize_json(made.to_json())


def _marks(drawn: figure) -> None:
    drawn.vspan(
        x="x", source=_source(f"{drawn.name}_marks", "x"), line_width=1,
        line_alpha=0.5, line_dash=value([3, 3]), name="marks", level="underlay",
    )  # fmt: skip


def _banded(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps)
    drawn.varea(
        "x", "low", "high", source=_source(f"{chart.name}_band", "x", "low", "high"),
        fill_alpha=0.25, name="band",
    )  # fmt: skip
    drawn.line(
        "x", "y", source=_source(f"{chart.name}_ghost", "x", "y"), line_width=2, line_alpha=0.4,
        line_dash=[6, 2], name="ghost",
    )  # fmt: skip
    drawn.line("x", "y", source=_source(chart.name, "x", "y"), line_width=2, name="mean_line")
    return drawn


def _variables(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps)
    _lines(drawn, f"{chart.name}_ghost")
    _lines(drawn, chart.name)
    return drawn


def _controls(steps: Range1d, controls: tuple[tuple[str, str], ...]) -> figure:
    logs = [name for name, scale in controls if scale == "log"]
    mixed = 0 < len(logs) < len(controls)
    control = _chart("control", steps, y_axis_type="log" if logs and not mixed else "linear")
    control.xaxis.axis_label, control.min_border_bottom = "step", 40
    if mixed:
        few = ", ".join(logs) if len(logs) < 3 else f"{len(logs)} controls"
        label = f"{few if len(few) <= 24 else few[:23] + '…'} (log)"
        _right_axis(control, "control_log", label, "log")
    for name in ("control", "control_log")[: 1 + mixed]:
        y_range = "default" if name == "control" else name
        for suffix in ("_ghost", "", "_ahead"):
            _lines(control, name + suffix, y_range_name=y_range)
    return control


def _measures(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps, y_axis_type=chart.scale)
    drawn.yaxis.axis_label = ", ".join(line.label for line in chart.lines if not line.right)
    _lines(drawn, chart.name)
    if right := ", ".join(line.label for line in chart.lines if line.right):
        name = f"{chart.name}_right"
        _right_axis(drawn, name, right, chart.scale)
        _lines(drawn, name, y_range_name=name)
    return drawn


def _posterior(chart: Chart, steps: Range1d) -> figure:
    drawn = _chart(chart.name, steps)
    drawn.patches(
        "xs", "ys", source=_source(f"{chart.name}_band", "xs", "ys", "color"),
        fill_color="color", fill_alpha=0.2, line_color=None, name="middle",
    )  # fmt: skip
    _lines(drawn, f"{chart.name}_averaged")
    _lines(drawn, chart.name)
    return drawn


_KINDS = {"band": _banded, "kl": _variables, "lines": _measures, "posterior": _posterior}


@functools.cache
def comparison_document() -> str:
    """Build the document of a comparison as JSON: ELBO, sum of the KLs, rate against distortion."""
    steps = Range1d(start=0, end=1, name="steps_range")
    plane = _plane_chart()
    charts = [
        plane if chart.kind == "runs_plane" else _chart(chart.name, steps) for chart in COMPARED
    ]
    for told, chart in zip(COMPARED, charts, strict=True):
        chart.height = 230
        drawn = _lines(chart, told.name)
        if chart is not plane:
            words = [("", "@name"), ("step", "$snap_x{0,0}"), ("value", "$snap_y{0,0.00}")]
            _hover(chart, drawn, words, line_policy="nearest")
    present = plane.scatter(
        "x", "y", source=_source("plane_now", "x", "y", "color", "name", "elbo"),
        size=10, color="color",
    )  # fmt: skip
    _hover(plane, present, [("", "@name"), *PLANE_TIPS])
    made = Document()
    for chart in charts:
        made.add_root(chart)
    return serialize_json(made.to_json())


def _chart(name: str, x_range: Range1d, *, y_axis_type: Any = "linear") -> figure:
    chart = figure(
        name=name, height=190, sizing_mode="stretch_width", x_range=x_range,
        y_range=_range(name), tools="box_zoom,pan,wheel_zoom",
        active_drag="box_zoom", active_scroll=None, toolbar_location=None,
        background_fill_alpha=0, border_fill_alpha=0, min_border_left=LEFT,
        min_border_right=RIGHT, min_border_top=6, min_border_bottom=24, output_backend="canvas",
        y_axis_type=y_axis_type,
    )  # fmt: skip
    chart.xgrid.grid_line_color = None
    _axis(chart.xaxis[0], f"{x_range.name}")
    _axis(chart.yaxis[0], f"{name}_range")
    return chart


def _range(name: str) -> Range1d:
    # The page gives no ticks to a range that ends here: nothing has been seen yet.
    return Range1d(start=0.1, end=1e30, name=f"{name}_range")


def _plane_chart() -> figure:
    plane = _chart("plane", _range("rate"))
    plane.xaxis.axis_label, plane.yaxis.axis_label = "rate: sum of KL", "distortion: −data term"
    plane.min_border_bottom = 40
    return plane


def _plane() -> figure:
    """Rate against distortion: Alemi et al. (2018), Fixing a Broken ELBO."""
    plane = _plane_chart()
    plane.line(
        "x", "y", source=_source("iso", "x", "y"), line_width=1, line_dash=[2, 4], name="iso"
    )
    plane.line(
        "x", "y", source=_source("plane_ghost", "x", "y"), line_width=1.5, line_alpha=0.4,
        line_dash=[6, 2], name="ghost",
    )  # fmt: skip
    plane.segment(
        "x", "y", "x1", "y1", source=_source("plane", "x", "y", "x1", "y1", "color"),
        line_color="color", line_width=2, line_cap="round", name="path",
    )  # fmt: skip
    plane.scatter(
        "x", "y", source=_source("plane_marks", "x", "y"),
        size=6, fill_alpha=0, line_width=1.2, name="stops",
    )  # fmt: skip
    plane.scatter("x", "y", source=_source("plane_now", "x", "y"), size=11, name="present")
    return plane


def _predictive(chart: Chart) -> figure:
    """Bars of the data; of what is drawn, a dot with its band in each bin."""
    drawn = _chart(chart.name, _range(f"{chart.name}_x"))
    columns = ("left", "right", "middle", "observed", "low", "median", "high")
    source = _source(chart.name, *columns)
    bars = drawn.quad(
        left="left", right="right", bottom=0, top="observed", source=source, fill_alpha=0.25,
        line_color=None, name="band",
    )  # fmt: skip
    drawn.segment("middle", "low", "middle", "high", source=source, line_width=2, name="drawn")
    drawn.scatter("middle", "median", source=source, size=7, name="present")
    tips = [
        ("", "@left{0,0.[000]} to @right{0,0.[000]}"),
        ("data", "@observed{0.0 %}"),
        ("drawn", "@median{0.0 %} (@low{0.0 %} to @high{0.0 %})"),
    ]
    _hover(drawn, bars, tips, mode="vline")
    return drawn


def _axis(axis: Axis, of: str) -> None:
    """Let the page choose the ticks: of one kind, on scales that Bokeh has not, none at first."""
    axis.ticker, axis.name = FixedTicker(ticks=[]), of.replace("_range", "_axis")
    axis.major_label_text_font_size = axis.axis_label_text_font_size = "11px"
    axis.axis_label_text_font_style = "normal"
    axis.axis_label_standoff = 4
    axis.minor_tick_line_color = None
    axis.axis_line_alpha = axis.major_tick_line_alpha = 0.5


def _right_axis(chart: figure, name: str, label: str, scale: str) -> None:
    chart.extra_y_ranges = {name: _range(name)}
    chart.extra_y_scales = {name: LogScale() if scale == "log" else LinearScale()}
    axis = (LogAxis if scale == "log" else LinearAxis)(y_range_name=name, axis_label=label)
    _axis(axis, f"{name}_range")
    chart.add_layout(axis, "right")


def _lines(chart: figure, name: str, *, y_range_name: str = "default") -> DataRenderer:
    """Draw many lines with one glyph, which costs the page as much as one line."""
    return chart.multi_line(
        "xs", "ys", source=_source(name, "xs", "ys", "name", "color", "dash", "alpha", "width"),
        line_color="color", line_dash="dash", line_alpha="alpha", line_width="width", name=name,
        y_range_name=y_range_name,
    )  # fmt: skip


def _hover(chart: figure, drawn: DataRenderer, tips: list[tuple[str, str]], **options: Any) -> None:
    chart.add_tools(HoverTool(renderers=[drawn], tooltips=tips, **options))


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=f"{name}_data")
