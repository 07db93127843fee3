"""What stays in a notebook when a fit has ended: a picture and a table that need no kernel."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitoolkit.decimation import View
from vitoolkit.means import final_kl
from vitoolkit.table import Table
from vitoolkit.views.charts import FIT, Chart, shown
from vitoolkit.views.frame import Frame, Lines, frame_of
from vitoolkit.views.names import plain
from vitoolkit.views.styles import INK, Style, variable_styles
from vitoolkit.views.tables import (
    active_text,
    event_table,
    number,
    run_table,
    scales_of,
    shown_as,
)

__all__ = ["active_text", "event_table", "picture_svg", "run_table", "shown_as", "summary_html"]

Array: TypeAlias = NDArray[np.float64]

_WIDTH, _LEFT, _RIGHT = 900, 84, 24
_TEXT, _SOFT, _LINE = "#222222", "#666666", "#dddddd"
_MOST_STRIPS = 6


def summary_html(
    trace: Table,
    variables: Sequence[str] | None = None,
    scales: Mapping[str, str] | None = None,
    *,
    active: str = "",
    view: View | None = None,
) -> str:
    """Return the picture and a table of the run as HTML that Jupyter shows trusted or not.

    Parameters
    ----------
    trace : Table
        The record.
    variables : sequence of str, optional
        Variables to show; default is all of the trace.
    scales : mapping of str to str, optional
        "log" for the controls drawn on a logarithmic axis, "switch" for those that are not drawn.
    active : str
        Words on active units.
    view : View, optional
        Of the trace, if there is one that need not be made.

    Returns
    -------
    str
    """
    scales = scales_of(trace, scales)
    if not len(trace):
        error = trace.attrs.get("error")
        return f"<p>The fit took no steps{'.' if error is None else ': ' + escape(str(error))}</p>"
    tables = f"{run_table(trace, scales, active)}{event_table(trace, scales)}"
    if not trace.has_terms and np.isnan(trace.loss).all():
        return tables  # a fit that computes no loss, such as PyMC's SVGD
    svg = picture_svg(trace, variables, scales, view)
    source = base64.b64encode(svg.encode()).decode()
    text = f"Loss, KL by variable and controls of {len(trace):,} recorded steps"
    return (
        f'<img src="data:image/svg+xml;base64,{source}" alt="{text}" style="max-width:100%">'
        f"{tables}"
    )


def picture_svg(
    trace: Table,
    variables: Sequence[str] | None = None,
    scales: Mapping[str, str] | None = None,
    view: View | None = None,
) -> str:
    """Draw the run as an SVG document: loss, KL of each variable, controls, and what people did.

    Parameters
    ----------
    trace : Table
        The record, with at least one row.
    variables : sequence of str, optional
        Variables to show; default is all of the trace.
    scales : mapping of str to str, optional
        "log" for the controls drawn on a logarithmic axis, "switch" for those that are not drawn.
    view : View, optional
        Of the trace, if there is one that need not be made.

    Returns
    -------
    str
    """
    variables = trace.variables if variables is None else tuple(variables)
    view = View(trace, points=400) if view is None else view
    frame = frame_of(view, variables, end=float(trace[-1:].step[0]), lines=Lines(variables))
    frame = frame._replace(now=final_kl(trace))  # what the table says, too
    parts: list[str] = []
    top = 0.0
    for chart in shown(variables, trace.controls, trace.measures, {}):
        if chart.kind == "band":
            top = _banded(parts, top, chart, frame)
        elif chart.kind == "kl":
            top = _variables(parts, top, chart, frame, variables)
        elif chart.kind == "controls":
            top = _controls(parts, top, trace, frame, scales_of(trace, scales))
        elif chart.kind == "lines":
            top = _measures(parts, top, chart, frame)
    ticks = _ticks(_first(frame), float(frame.end))
    for tick in ticks:
        parts.append(_text(float(_x(frame, tick)), top + 8, f"{tick:,.0f}", anchor="middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, top + 26, "step", anchor="middle"))
    height = top + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" rx="4" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _banded(parts: list[str], top: float, chart: Chart, frame: Frame) -> float:
    band = frame.band(chart.columns[0])
    if not np.isfinite(band[2]).any():
        return top
    return _chart(parts, top, 160, chart.title, frame, [], _band_range(frame, *band), band=band)


def _variables(
    parts: list[str], top: float, chart: Chart, frame: Frame, variables: Sequence[str]
) -> float:
    """Add the lines of the variables, and below the KL of each at the end."""
    styles = variable_styles(variables)
    drawn = [styles[variables[i]] for i in frame.lines]
    low, high = _range(frame.kl, frame.step)
    lines = list(zip(frame.kl, drawn, strict=True))
    few = f", the largest {len(drawn)} of {len(variables)}" * (len(drawn) < len(variables))
    ends = (min(0.0, low), high)
    top = _chart(parts, top, 200, f"{chart.title}{few}", frame, lines, ends)
    return _bars(parts, top, variables, frame.now, styles, most=len(drawn))


def _controls(
    parts: list[str], top: float, trace: Table, frame: Frame, scales: Mapping[str, str]
) -> float:
    """Add a strip for each control that moved; one that never did is in the table."""
    ends = {name: (float(v.min()), float(v.max())) for name, v in trace.control.items()}
    moved = [n for n, (low, high) in ends.items() if high > low and scales.get(n) != "switch"]
    for name in moved[:_MOST_STRIPS]:
        log = scales.get(name) == "log" and ends[name][0] > 0
        values = frame.control[trace.controls.index(name)]
        top = _strip(parts, top, plain(name), frame, values, ends[name], log=log)
    return top


def _measures(parts: list[str], top: float, chart: Chart, frame: Frame) -> float:
    """Add a strip for each line of a chart of measures."""
    for line in chart.lines:
        if line.column not in frame.measures:
            continue
        values, log = frame.measure[frame.measures.index(line.column)], chart.scale == "log"
        values = np.where(values > 0, values, np.nan) if log else values
        if np.isfinite(values).any():
            title, ends = f"{chart.title}: {line.label}", _range(values, frame.step)
            top = _strip(parts, top, title, frame, values, ends, log=log)
    return top


def _strip(
    parts: list[str],
    top: float,
    title: str,
    frame: Frame,
    values: Array,
    ends: tuple[float, float],
    *,
    log: bool,
) -> float:
    lines = [(values, Style(INK, ()))]
    return _chart(parts, top, 70, title + " (log scale)" * log, frame, lines, ends, log=log)


def _chart(
    parts: list[str],
    top: float,
    height: float,
    title: str,
    frame: Frame,
    lines: Sequence[tuple[Array, Style]],
    ends: tuple[float, float],
    *,
    band: tuple[Array, Array, Array] | None = None,
    log: bool = False,
) -> float:
    """Add one chart with its title: lines, or a mean in its band; returns where it ends."""
    parts.append(
        f'<text x="10" y="{top + 18:.0f}" font-weight="600" fill="{_TEXT}">{escape(title)}</text>'
    )
    top += 26
    scale = np.log10 if log else np.asarray
    low, high = (float(scale(end)) for end in ends)
    flat = not high > low
    pad = 0.08 * (high - low) if not flat else abs(high) * 0.05 or 0.5
    ends, low, high = (low, high), low - pad, high + pad
    bottom, right = top + height, _WIDTH - _RIGHT

    def y(values: ArrayLike) -> Array:
        return bottom - (scale(np.asarray(values, float)) - low) / (high - low) * height

    for tick in _ticks(*(ends if flat else (low, high)), log=log):
        at = float(y(tick))
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="{_LINE}" stroke-width="0.7"/>')
        parts.append(_text(_LEFT - 6, at + 4, number(tick), anchor="end"))
    name = f"clip{len(parts)}"
    box = f'<rect x="{_LEFT}" y="{top:.1f}" width="{right - _LEFT}" height="{height}"'
    parts.append(
        f'<clipPath id="{name}">{box}/></clipPath><g clip-path="url(#{name})" fill="none">'
    )
    for mark, _ in frame.marks:
        parts.append(
            f'<path d="M{_x(frame, mark):.1f} {top:.1f}V{bottom:.1f}" stroke="{_SOFT}" '
            'stroke-dasharray="3 3" stroke-width="0.8"/>'
        )
    if band is not None:
        known = np.isfinite(band[0]) & np.isfinite(band[1])
        there, low_, high_ = _x(frame, frame.step[known]), y(band[0][known]), y(band[1][known])
        area = _path([*there, *there[::-1]], [*high_, *low_[::-1]], Style("#c8c8c8", ()), 0.7)
        parts.append(area.replace('fill="none"', 'fill="#dedede"'))
        lines = [(band[2], Style(INK, ()))]
    for values, style in lines:
        parts.append(_path(_x(frame, frame.step), y(values), style, 1.8))
    parts.append(f'</g>{box} fill="none" stroke="{_LINE}"/>')
    return bottom + 10


def _bars(
    parts: list[str],
    top: float,
    variables: Sequence[str],
    now: Array,
    styles: Mapping[str, Style],
    *,
    most: int,
) -> float:
    """Add the KL of each variable at the end, the largest first: it is the legend of the lines."""
    order = np.argsort(-np.nan_to_num(now), kind="stable")[:most].tolist()
    known = now[np.isfinite(now)]
    total, largest = float(known.sum()), max(float(known.max(initial=0.0)), 1e-12)
    left, right = _LEFT + 190, _WIDTH - _RIGHT - 130
    y = top + 10
    for i in order:
        name, value, style = plain(variables[i]), float(now[i]), styles[variables[i]]
        words = name if len(name) <= 26 else name[:25] + "…"
        long = max(0.0, value / largest) * (right - left) if math.isfinite(value) else 0.0
        parts.append(_path([_LEFT, _LEFT + 22], [y - 4, y - 4], style, 2.4))
        parts.append(_text(_LEFT + 28, y, words, color=_TEXT))
        parts.append(
            f'<rect x="{left}" y="{y - 9:.1f}" width="{long:.1f}" height="9" fill="{style.color}"/>'
        )
        parts.append(_text(right + 70, y, number(value), anchor="end", color=_TEXT))
        if total > 0 and value > 0:
            parts.append(_text(right + 126, y, f"{100 * value / total:.1f} %", anchor="end"))
        y += 17
    if len(variables) > len(order):
        rest = total - float(np.nan_to_num(now[order]).sum())
        parts.append(_text(_LEFT + 28, y, f"{len(variables) - len(order)} more"))
        parts.append(_text(right + 70, y, number(rest), anchor="end"))
        y += 17
    return y - 6


def _path(x: Iterable[float], y: Iterable[float], style: Style, width: float) -> str:
    moves, pen = [], "M"
    for px, py in zip(x, y, strict=True):
        if math.isfinite(py):
            moves.append(f"{pen}{px:.1f} {min(max(py, -1e4), 1e4):.1f}")
            pen = "L"
        else:
            pen = "M"
    dash = f' stroke-dasharray="{" ".join(map(str, style.dash))}"' if style.dash else ""
    color = _TEXT if style.color == INK else style.color
    return (
        f'<path d="{"".join(moves)}" fill="none" stroke="{color}" stroke-width="{width}"{dash} '
        'stroke-linejoin="round"/>'
    )


def _first(frame: Frame) -> float:
    """Left end of the step axis: a point stands at the last step of its bucket."""
    step = frame.step
    return min(0.0, float(step[0])) if len(step) < 2 or step[0] < step[-1] / 50 else float(step[0])


def _x(frame: Frame, step: ArrayLike) -> Array:
    first = _first(frame)
    last = max(float(frame.end), first + 1)
    return _LEFT + (np.asarray(step, float) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)


def _text(x: float, y: float, text: str, *, anchor: str = "start", color: str = _SOFT) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
    )


def _late(step: NDArray[Any]) -> NDArray[np.bool_]:
    return step >= step[-1] - FIT.late * (step[-1] - step[0])


def _range(values: NDArray[Any], step: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value of the later steps."""
    late = values[..., _late(step)]
    finite = late[np.isfinite(late)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _band_range(frame: Frame, lows: Array, highs: Array, mean: Array) -> tuple[float, float]:
    """All of the mean, the band without its rare spikes: as scales.js does it."""
    low, high = _range(mean, frame.step)
    late = _late(frame.step)
    band = np.concatenate([lows[late], highs[late]])
    band = band[np.isfinite(band)]
    if not band.size:
        return low, high
    ends = np.quantile(band, [FIT.low, FIT.high])
    return min(low, float(ends[0])), max(high, float(ends[1]))


def _ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Round numbers between two ends; on a log axis the ends are powers of ten."""
    if not high > low:
        return [10.0**low if log else low]
    if log:
        first, last = math.ceil(low), math.floor(high)
        if last > first:
            every = max(1, (last - first) // 3)
            return [10.0**power for power in range(first, last + 1, every)]
        return _ticks(10.0**low, 10.0**high)
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 5.001)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
