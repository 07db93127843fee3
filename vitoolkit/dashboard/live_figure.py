"""The moving part of the panel: three charts and a status line, fed by small binary messages.

One anywidget holds the whole Bokeh document. BokehJS travels once a page, out of the installed
bokeh package, so nothing is loaded from the network. A page that loads in mid-fit reads the last
frame from a trait that is computed only when it is asked for.
"""

from __future__ import annotations

import functools
import gzip
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
import bokeh
import ipywidgets
import numpy as np
import traitlets
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.models import (
    ColumnDataSource,
    HoverTool,
    LinearAxis,
    LogAxis,
    LogScale,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

__all__ = ["Frame", "LiveFigure", "StatusLine", "Style", "control_styles", "variable_styles"]

#: Okabe and Ito (2008), without yellow and black: seven colors that stay apart for color-blind
#: readers and on light and dark ground. A color means a variable and nothing else, for the life of
#: a fit.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999")
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (8, 3, 2, 3), (12, 3, 2, 3, 2, 3))
#: The page replaces this by the theme's color of text.
INK = "ink"
#: Most bytes of arrays in a frame; the header comes on top.
BUDGET = 56_000

_HERE = Path(__file__).parent


class Style(NamedTuple):
    """How a line is drawn."""

    color: str
    dash: tuple[int, ...]


class Frame(NamedTuple):
    """One picture of a fit: what the figure draws.

    Attributes
    ----------
    step : ndarray, shape (points,)
    low, high, mean : ndarray, shape (points,)
        Smallest and largest loss of each point, and its running mean.
    kl : ndarray, shape (variables, points)
    control : ndarray, shape (controls, points)
    marks : ndarray, shape (events,)
        Steps at which a person or code did something.
    end : float
        Right end of the step axis.
    """

    step: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    mean: NDArray[Any]
    kl: NDArray[Any]
    control: NDArray[Any]
    marks: NDArray[Any]
    end: float

    def packed(self) -> tuple[dict[str, Any], bytes]:
        """Return a header with names and shapes, and all arrays as float32 in one piece."""
        arrays = {name: value for name, value in self._asdict().items() if name != "end"}
        header = {
            "end": float(self.end),
            "arrays": [[name, list(np.shape(value))] for name, value in arrays.items()],
        }
        with np.errstate(over="ignore"):
            flat = [np.asarray(value, np.float32).ravel() for value in arrays.values()]
        return header, np.concatenate(flat).tobytes()


def variable_styles(variables: Sequence[str]) -> dict[str, Style]:
    """Give each variable a line of its own: seven colors, then the same with dashes."""
    return {
        name: Style(PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(variables)
    }


def control_styles(
    controls: Sequence[str], of_variable: Mapping[str, str], variables: Mapping[str, Style]
) -> dict[str, Style]:
    """Give each control a line: its variable's, if it belongs to one, else in the color of text."""
    styles, plain = {}, 0
    for name in controls:
        variable = of_variable.get(name, "")
        if variable in variables:
            styles[name] = variables[variable]
        else:
            styles[name] = Style(INK, DASHES[plain % len(DASHES)])
            plain += 1
    return styles


def points_for(lines: int) -> int:
    """Points a line so that a frame of so many lines stays within the budget."""
    return int(min(500, max(20, BUDGET // 4 // (4 + lines)))) // 2 * 2


@functools.cache
def bokehjs() -> bytes:
    """BokehJS of the installed bokeh package, gzipped."""
    file = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return gzip.compress(file.read_bytes(), 6)


class BokehJS(anywidget.AnyWidget):
    """Carries BokehJS to the page; all figures of a kernel share one."""

    _esm = "export default { render() {} }"
    _source = traitlets.Bytes().tag(sync=True)
    _shared: BokehJS | None = None

    @classmethod
    def shared(cls) -> BokehJS:
        """Return the one of this kernel, made at first and after all widgets were closed."""
        if cls._shared is None or cls._shared.comm is None:
            cls._shared = cls(_source=bokehjs())
        return cls._shared


class StatusLine(anywidget.AnyWidget):
    """One line that says where the fit stands; the page itself counts the seconds of compiling."""

    _esm = _HERE / "live_figure.js"
    _css = _HERE / "live_figure.css"
    _kind = traitlets.Unicode("status").tag(sync=True)
    status = traitlets.Dict({"phase": "waiting"}).tag(sync=True)


class LiveFigure(anywidget.AnyWidget):
    """Loss, KL of each variable and control values against the step.

    Parameters
    ----------
    variables : mapping of str to Style
    controls : mapping of str to Style
    scales : mapping of str to str
        "linear", "log" or "switch" for each control.
    hidden : int
        Number of variables that found no room.
    notes : mapping of str to str
        Words in place of the chart "loss" or "kl".
    """

    _esm = _HERE / "live_figure.js"
    _css = _HERE / "live_figure.css"
    _kind = traitlets.Unicode("figure").tag(sync=True)
    _document = traitlets.Unicode().tag(sync=True)
    _version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    _legend = traitlets.Dict().tag(sync=True)
    _library = traitlets.Any(None, allow_none=True).tag(
        sync=True, **ipywidgets.widget_serialization
    )
    # Never assigned: evaluated when a page asks for the widget's state.
    _header = traitlets.Any(None, allow_none=True).tag(
        sync=True, to_json=lambda value, widget: widget._last[0]
    )
    _arrays = traitlets.Any(b"").tag(sync=True, to_json=lambda value, widget: widget._last[1])

    def __init__(
        self,
        variables: Mapping[str, Style],
        controls: Mapping[str, Style],
        scales: Mapping[str, str],
        *,
        hidden: int = 0,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self._last: tuple[dict[str, Any] | None, bytes] = (None, b"")
        #: Number of frames sent, and of those the page has drawn, with its milliseconds for the
        #: last one.
        self.sent = 0
        self.drawn = 0
        self.drawing_ms = 0.0
        self._held = ("", -math.inf)
        notes = dict(notes or {})
        filled = {"loss": True, "kl": bool(variables), "control": bool(controls)}
        shown = [chart for chart, full in filled.items() if full and chart not in notes]
        super().__init__(
            _document=_document(
                tuple(scales.get(name, "linear") for name in controls), tuple(shown)
            ),
            _legend={
                "kl": [[name, *style] for name, style in variables.items()],
                "control": [
                    [name, *style, scales.get(name, "linear")] for name, style in controls.items()
                ],
                "hidden": hidden,
                "notes": notes,
                "shown": shown,
            },
            _library=BokehJS.shared(),
        )
        self.on_msg(self._on_page)

    def show(self, frame: Frame, *, active: str = "") -> int:
        """Send a frame to the page, with words on active units; returns its size in bytes."""
        header, arrays = frame.packed()
        header["active"] = active
        self.sent += 1
        header["number"] = self.sent
        self._last = (header, arrays)
        self.send({"kind": "frame", "header": header}, [arrays])
        return len(arrays)

    @property
    def waiting(self) -> int:
        """Frames sent that no page has drawn yet."""
        return self.sent - self.drawn

    @property
    def held(self) -> str:
        """Name of the control that a person has in hand, or ""; a page that is gone lets go."""
        name, since = self._held
        return name if time.monotonic() - since < 60 else ""

    def _on_page(self, widget: Any, content: Any, buffers: Any) -> None:
        if content.get("kind") == "drawn":
            self.drawn = max(self.drawn, int(content["number"]))
            self.drawing_ms = float(content["ms"])
        elif content.get("kind") == "held":
            self._held = (str(content["name"]), time.monotonic())


@functools.lru_cache(maxsize=16)
def _document(scales: tuple[str, ...], shown: tuple[str, ...]) -> str:
    """Build the Bokeh document: three charts on one step axis. The page fills and ranges them.

    The last one that is shown has the numbers of the axis.
    """
    steps = Range1d(start=0, end=1, name="steps")
    logs = [scale == "log" for scale in scales]
    only_logs = bool(logs) and all(logs)
    loss, kl = _chart("loss", 210, steps), _chart("kl", 210, steps)
    control = _chart("control", 150, steps, y_axis_type="log" if only_logs else "linear")
    for chart in (loss, kl, control):
        if chart.name not in shown[-1:]:
            chart.xaxis.major_label_text_font_size = "0px"
        else:
            chart.xaxis.axis_label = "step"
            chart.height += 0 if chart is control else 30

    # The area alone would show nothing where a point is one step, the line alone a moiré.
    loss.varea(
        "x", "low", "high", source=_source("band", "x", "low", "high"), fill_alpha=0.2, name="band"
    )
    loss.line("x", "y", source=_source("raw", "x", "y"), line_width=1, line_alpha=0.2, name="raw")
    mean = loss.line("x", "y", source=_source("mean", "x", "y"), line_width=2, name="mean_line")
    loss.add_tools(
        HoverTool(
            renderers=[mean], mode="vline", tooltips=[("step", "@x{0,0}"), ("loss", "@y{0,0.000}")]
        )
    )
    _lines(kl, "kl")
    _lines(control, "control")
    if any(logs) and not only_logs:
        control.extra_y_ranges = {"log": Range1d(start=1e-3, end=1, name="control_log_range")}
        control.extra_y_scales = {"log": LogScale()}
        control.add_layout(_axis(LogAxis(y_range_name="log", axis_label="log scale")), "right")
        _lines(control, "control_log", y_range_name="log")
    for chart in (loss, kl, control):
        chart.vspan(
            x="x", source=_source(f"{chart.name}_marks", "x"), line_width=1, line_alpha=0.5,
            line_dash=[3, 3], name="marks", level="underlay",
        )  # fmt: skip
    document = Document()
    for chart in (loss, kl, control):
        document.add_root(chart)
    return serialize_json(document.to_json())


def _chart(name: str, height: int, steps: Range1d, **kwargs: Any) -> Any:
    chart = figure(
        name=name, height=height, sizing_mode="stretch_width", x_range=steps,
        y_range=Range1d(start=0.1, end=1, name=f"{name}_range"), tools="box_zoom,pan,wheel_zoom",
        active_drag="box_zoom", active_scroll=None, toolbar_location=None,
        background_fill_alpha=0, border_fill_alpha=0, min_border_left=78, min_border_right=66,
        min_border_top=6, min_border_bottom=18, output_backend="canvas", **kwargs,
    )  # fmt: skip
    chart.xgrid.grid_line_color = None
    for axis in (*chart.xaxis, *chart.yaxis):
        _axis(axis)
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    return chart


def _axis(axis: LinearAxis | LogAxis) -> LinearAxis | LogAxis:
    axis.major_label_text_font_size = axis.axis_label_text_font_size = "11px"
    axis.axis_label_text_font_style = "normal"
    axis.minor_tick_line_color = None
    axis.axis_line_alpha = axis.major_tick_line_alpha = 0.5
    return axis


def _lines(chart: Any, name: str, **kwargs: Any) -> None:
    """Draw many lines with one glyph, which costs the page as much as one line."""
    drawn = chart.multi_line(
        "xs", "ys", source=_source(name, "xs", "ys", "name", "color", "dash", "alpha"),
        line_color="color", line_dash="dash", line_alpha="alpha", line_width=2, name=name, **kwargs,
    )  # fmt: skip
    tips = [("", "@name"), ("step", "$snap_x{0,0}"), ("value", "$snap_y{0,0.0000}")]
    if name.startswith("control"):
        tips[-1] = ("value", "$snap_y{0.0[00000]}")
    chart.add_tools(HoverTool(renderers=[drawn], line_policy="nearest", tooltips=tips))


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=f"{name}_data")


def frame_of(
    view: Any, variables: Sequence[str], controls: Sequence[str] | None = None, *, end: float
) -> Frame:
    """Draw a frame from a trace's decimated view.

    Parameters
    ----------
    view : vitoolkit.decimation.View
        The view; it is brought up to date here.
    variables : sequence of str
        The variables to show.
    controls : sequence of str, optional
        The controls to show; default is all of the trace.
    end : float
        Right end of the step axis.

    Returns
    -------
    Frame
    """
    view.update()
    trace, n = view.trace, len(view.step)
    controls = trace.controls if controls is None else controls
    empty = np.empty((0, n))
    kl = empty
    if variables:
        terms, few = running_mean(view, "elbo"), _few(view, "elbo")
        kl = np.array([_bridged(view.step, terms[f"kl[{name}]"], few) for name in variables])
    return Frame(
        step=view.step,
        low=view.low["loss"],
        high=view.high["loss"],
        mean=running_mean(view, "loss")["loss"],
        kl=kl,
        control=np.array([view.last[name] for name in controls]) if controls else empty,
        marks=marks_of(trace.events, reach=max(float(end), 1.0)),
        end=end,
    )


def running_mean(view: Any, name: str) -> Mapping[str, NDArray[np.float64]]:
    """Compute running means of the columns that have values where the named one has.

    They span 8 points of the view and 20 rows that have a value, at least.
    """
    return view.running(_span(view, name))


def _span(view: Any, name: str) -> int:
    without = int(view.nonfinite[name].sum())
    share = max(1 - without / max(view.rows, 1), 1e-3)
    return math.ceil(max(20 / share, 8 * view.width))


def _few(view: Any, name: str) -> NDArray[np.bool_]:
    """Tell where a running mean is of less than half the rows that it should have."""
    n, width = len(view.step), view.width
    rows = np.diff(np.minimum(np.arange(n + 1) * width, view.rows))
    total = np.concatenate([[0], np.cumsum(rows - view.nonfinite[name])])
    window = min(-(-_span(view, name) // width), n)
    count = total[1:] - total[np.maximum(np.arange(1, n + 1) - window, 0)]
    return (count < 10) & (total[1:] >= 10)


def _bridged(
    step: NDArray[Any], values: NDArray[np.float64], few: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Draw the line through gaps: most rows of a fit of PyMC's own have no terms."""
    known = np.isfinite(values) & ~few
    if known.all() or not known.any():
        return values
    return np.interp(step, step[known], values[known], left=np.nan)


def marks_of(events: Sequence[Any], *, reach: float, most: int = 100) -> NDArray[np.float64]:
    """Return the steps at which someone intervened.

    A slider that is dragged makes many events and one mark, at the first of them.

    Parameters
    ----------
    events : sequence of Event
        Of a trace.
    reach : float
        Length of the step axis; marks closer than 0.4 % of it are one.
    most : int
        Most marks returned, the latest.
    """
    marks: list[float] = []
    last: dict[tuple[str, str | None], float] = {}
    for event in events[-50 * most :]:
        what = (event.kind, event.control)
        moved_on = event.time - last.get(what, -np.inf) < 1.5
        last[what] = event.time
        if event.source == "schedule" or (moved_on and event.kind == "set"):
            continue
        if not marks or event.step - marks[-1] > 0.004 * reach:
            marks.append(float(event.step))
    return np.array(marks[-most:])
