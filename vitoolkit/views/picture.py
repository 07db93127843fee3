"""What stays in a notebook when a fit has ended: a picture and a table that need no kernel."""

from __future__ import annotations

import base64
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, TypeAlias

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
    diagnosis_section,
    event_table,
    no_steps,
    number,
    percent,
    posterior_table,
    run_table,
    scales_of,
    shown_as,
    verdict_line,
)

__all__ = ["active_text", "event_table", "picture_svg", "run_table", "shown_as", "summary_html"]

Array: TypeAlias = NDArray[np.float64]

#: Two columns of charts, and room beside each plot for the numbers of its axes.
_COLUMN, _GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 16, 62, 12, 26, 34
_WIDTH, _HEIGHT = 2 * _COLUMN + _GAP, 160
#: As far from white as from black: there is no ground below, and the theme may be either.
_GRAY = "#767676"
_MOST_STRIPS, _MOST_BRANCHES = 6, 3
#: Of what a run has left behind.
_SOFT = Style(INK, (5, 3))
#: The start is shown too, unless it spans so many times what the later steps do.
_COVER = 4.0
_CELL = "flex:1 1 600px;min-width:0;max-width:1000px"
_TABLE = "min-width:0;max-width:100%;overflow-x:auto"
_BOX = "display:flex;flex-wrap:wrap;gap:8px 36px;align-items:flex-start"

#: Jupyter aligns what is in a table to the right; where styles are taken out it stays so.
_STYLE = (
    ".vitoolkit-left th, .vitoolkit-left td { text-align: left !important; vertical-align: top; }"
)

#: Draws into a column, from its left and top, and says where it ends.
Cell: TypeAlias = Callable[[list[str], float, float], float]


class _Axis(NamedTuple):
    """An axis between two ends, with room beyond them."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, low: float, high: float, *, log: bool = False) -> _Axis:
        if log:
            low, high = math.log10(low), math.log10(high)
        pad = 0.08 * (high - low) if high > low else abs(high) * 0.05 or 0.5
        return cls(low - pad, high + pad, log)

    def share(self, values: ArrayLike) -> Array:
        """Where values are, from 0 at the low end to 1 at the high one."""
        values = np.asarray(values, float)
        return ((np.log10(values) if self.log else values) - self.low) / (self.high - self.low)


def summary_html(
    trace: Table,
    variables: Sequence[str] | None = None,
    scales: Mapping[str, str] | None = None,
    *,
    active: str = "",
    view: View | None = None,
    place: str = "",
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
    place : str
        By what a page finds it, to put live charts over the picture.

    Returns
    -------
    str
    """
    scales = scales_of(trace, scales)
    if not len(trace):
        return f'<p data-vitoolkit="{escape(place)}">{escape(no_steps(trace))}</p>'
    picture = ""
    if trace.has_terms or trace.has_loss:  # PyMC's SVGD computes no loss
        source = base64.b64encode(picture_svg(trace, variables, scales, view).encode()).decode()
        text = f"Loss, KL by variable and controls of {len(trace):,} recorded steps"
        picture = f'<img src="data:image/svg+xml;base64,{source}" alt="{text}" style="width:100%">'
    return (
        f"<style>{_STYLE}</style>"
        f'<div class="vitoolkit-left" data-vitoolkit="{escape(place)}" style="{_BOX}">'
        f'<div class="vitoolkit-verdict" style="flex:1 0 100%">{verdict_line(trace)}'
        f"{diagnosis_section(trace)}</div>"
        f'<div class="vitoolkit-picture" style="{_CELL}">{picture}</div>'
        f'<div style="{_TABLE}">{run_table(trace, scales, active)}</div>'
        f'<div class="vitoolkit-q" style="{_TABLE}">{posterior_table(trace)}</div>'
        f'<div style="{_TABLE};flex:1 0 100%">{event_table(trace, scales)}</div></div>'
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
    cells: list[Cell] = []
    sketch = trace.attrs.get("predictive")
    beside = ["predictive"] * (sketch is not None)
    behind = [
        frame_of(View(rows, points=400), variables, end=float(frame.end), lines=Lines(variables))
        for _, _, rows in trace.branches
        if len(rows)
    ][-_MOST_BRANCHES:]
    for chart in shown(variables, trace.controls, [*trace.measures, *beside], {}):
        if chart.kind == "band":
            cells += _banded(chart, frame, behind)
        elif chart.kind == "kl":
            cells += _variables(chart, frame, variables)
        elif chart.kind == "controls":
            cells += _controls(trace, frame, scales_of(trace, scales))
        elif chart.kind == "plane":
            cells += _plane(chart, frame)
        elif chart.kind == "lines":
            cells += _measures(chart, frame)
        elif chart.kind == "predictive" and sketch is not None:
            cells.append(_predictive(chart, sketch))
    parts: list[str] = []
    height = 0.0
    for i in range(0, len(cells), 2):
        lefts = (0.0, _COLUMN + _GAP)
        height = max(
            cell(parts, left, height) for cell, left in zip(cells[i : i + 2], lefts, strict=False)
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="system-ui, sans-serif" font-size="12">'
        f"{''.join(parts)}</svg>"
    )


def _banded(chart: Chart, frame: Frame, behind: Sequence[Frame]) -> list[Cell]:
    """Draw a mean in its band, and softly the means of steps that were left behind."""
    band = frame.band(chart.columns[0])
    if not np.isfinite(band[2]).any():
        return []
    low, high, cut = _ends(band[2], frame.step)
    late = np.concatenate([side[_late(frame.step)] for side in band[:2]])
    late = late[np.isfinite(late)]
    if late.size:  # all of the mean, the band without its rare spikes: as the page does it
        ends = np.quantile(late, [FIT.low, FIT.high])
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    left = [(then.step, then.band(chart.columns[0])[2]) for then in behind]
    return [_over_steps(chart.title + cut, frame, [], _Axis.of(low, high), band=band, behind=left)]


def _variables(chart: Chart, frame: Frame, variables: Sequence[str]) -> list[Cell]:
    """Draw the lines of the variables, and beside them the KL of each at the end."""
    styles = variable_styles(variables)
    drawn = [styles[variables[i]] for i in frame.lines]
    low, high, cut = _ends(frame.kl, frame.step)
    lines = list(zip(frame.kl, drawn, strict=True))
    few = f", the largest {len(drawn)} of {len(variables)}" * (len(drawn) < len(variables))
    axis = _Axis.of(min(0.0, low), high)
    return [
        _over_steps(f"{chart.title}{few}{cut}", frame, lines, axis),
        _bars(variables, frame.now, styles, most=len(drawn)),
    ]


def _controls(trace: Table, frame: Frame, scales: Mapping[str, str]) -> list[Cell]:
    """Draw a strip for each control that moved; one that never did is in the table."""
    ends = trace.control_ends()
    moved = [n for n, (low, high) in ends.items() if high > low and scales.get(n) != "switch"]
    strips = []
    for name in moved[:_MOST_STRIPS]:
        log = scales.get(name) == "log" and ends[name][0] > 0
        values = frame.control[trace.controls.index(name)]
        title = plain(name) + " (log scale)" * log
        strips.append((title, values, _Axis.of(*ends[name], log=log), INK))
    return _strips(frame, strips)


def _measures(chart: Chart, frame: Frame) -> list[Cell]:
    """Draw a strip for each line of a chart of measures."""
    strips = []
    for line in chart.lines:
        if line.column not in frame.measures:
            continue
        values, log = frame.measure[frame.measures.index(line.column)], chart.scale == "log"
        values = np.where(values > 0, values, np.nan) if log else values
        if np.isfinite(values).any():
            low, high, cut = _ends(values, frame.step)
            title = f"{chart.title}: {line.label}{' (log scale)' * log}{cut}"
            strips.append((title, values, _Axis.of(low, high, log=log), line.color))
    return _strips(frame, strips)


def _plane(chart: Chart, frame: Frame) -> list[Cell]:
    """Draw the path of rate and distortion, with a dot where it ends."""
    known = np.isfinite(frame.rate) & np.isfinite(frame.distortion)
    if not known.any():
        return []
    step, rate, distortion = (
        values[known] for values in (frame.step, frame.rate, frame.distortion)
    )
    low, high, cut = _ends(distortion, step)
    across, up = _Axis.of(*_ends(rate, step)[:2]), _Axis.of(low, high)

    def cell(parts: list[str], left: float, top: float) -> float:
        x, y, end = _frame(parts, left, top, _HEIGHT, chart.title + cut, across, up)
        _clipped(parts, left, top, _HEIGHT, [_path(x(rate), y(distortion), Style(INK, ()), 1.5)])
        dot = f'cx="{x(rate[-1:])[0]:.1f}" cy="{y(distortion[-1:])[0]:.1f}"'
        parts.append(f'<circle {dot} r="4" fill="{_GRAY}"/>')
        words = "rate: sum of KL, across; distortion: −data term, up"
        parts.append(_text(left + _COLUMN - _RIGHT, end - 4, words, anchor="end"))
        return end

    return [cell]


def _predictive(chart: Chart, sketch: Mapping[str, Any]) -> Cell:
    """Draw bars of the data, and in each bin a dot with its band of what q implies."""
    edges, low, high = (np.array(sketch[name], float) for name in ("edges", "low", "high"))
    observed, median = (np.array(sketch[name], float) for name in ("observed", "median"))
    across = _Axis(edges[0], edges[-1])
    up = _Axis(0.0, 1.1 * float(max(observed.max(), high.max())))

    def cell(parts: list[str], left: float, top: float) -> float:
        title = f"{chart.title}: {plain(sketch['name'])}"
        x, y, end = _frame(parts, left, top, _HEIGHT, title, across, up)
        ends, base = x(edges), float(y([0.0])[0])
        drawn = []
        for i, (x0, x1, top_of) in enumerate(zip(ends, ends[1:], y(observed), strict=False)):
            middle, wide = (x0 + x1) / 2, max(x1 - x0 - 0.5, 0.5)
            drawn.append(
                f'<rect x="{x0:.1f}" y="{top_of:.1f}" width="{wide:.1f}" '
                f'height="{base - top_of:.1f}" fill="{_GRAY}" fill-opacity="0.35"/>'
                f'<path d="M{middle:.1f} {y(low[i]):.1f}V{y(high[i]):.1f}" stroke="{_GRAY}" '
                f'stroke-width="1.6"/><circle cx="{middle:.1f}" cy="{y(median[i]):.1f}" r="2.6" '
                f'fill="{_GRAY}"/>'
            )
        _clipped(parts, left, top, _HEIGHT, drawn)
        words = "bars: data; dots: median and 90 % of what is drawn from q"
        parts.append(_text(left + _COLUMN - _RIGHT, end - 4, words, anchor="end"))
        return end

    return cell


def _strips(frame: Frame, strips: Sequence[tuple[str, Array, _Axis, str]]) -> list[Cell]:
    if not strips:
        return []
    high = max(64.0, (_HEIGHT - (len(strips) - 1) * _TOP) / len(strips))

    def cell(parts: list[str], left: float, top: float) -> float:
        for i, (title, values, axis, color) in enumerate(strips):
            lines, last = [(values, Style(color, ()))], i == len(strips) - 1
            top = _over_steps(title, frame, lines, axis, height=high, steps=last)(parts, left, top)
        return top

    return [cell]


def _over_steps(
    title: str,
    frame: Frame,
    lines: Sequence[tuple[Array, Style]],
    axis: _Axis,
    *,
    band: tuple[Array, Array, Array] | None = None,
    behind: Sequence[tuple[Array, Array]] = (),
    height: float = _HEIGHT,
    steps: bool = True,
) -> Cell:
    """Draw lines, or a mean in its band, against the steps."""
    first, last = _first(frame), float(frame.end)
    across = _Axis(first, max(last, first + 1))

    def cell(parts: list[str], left: float, top: float) -> float:
        x, y, end = _frame(parts, left, top, height, title, across, axis, numbers=steps)
        drawn = [
            f'<path d="M{x([mark])[0]:.1f} {top + _TOP:.1f}v{height:.1f}" stroke="{_GRAY}" '
            'stroke-dasharray="3 3" stroke-width="0.8"/>'
            for mark, _ in frame.marks
        ]
        whole = list(lines)
        if band is not None:
            known = np.isfinite(band[0]) & np.isfinite(band[1])
            there, low, high = x(frame.step[known]), y(band[0][known]), y(band[1][known])
            area = _path([*there, *there[::-1]], [*high, *low[::-1]], Style("none", ()), 0)
            drawn.append(area.replace('fill="none"', f'fill="{_GRAY}" fill-opacity="0.3"', 1))
            whole.append((band[2], Style(INK, ())))
        for step, values in behind:
            line = _path(x(step), y(values), _SOFT, 1.2)
            drawn.append(line.replace("<path ", '<path stroke-opacity="0.6" ', 1))
        drawn += [_path(x(frame.step), y(values), style, 1.8) for values, style in whole]
        _clipped(parts, left, top, height, drawn)
        if steps:
            parts.append(_text(left + _COLUMN - _RIGHT, end - 4, "step", anchor="end"))
        return end

    return cell


def _frame(
    parts: list[str],
    left: float,
    top: float,
    height: float,
    title: str,
    across: _Axis,
    up: _Axis,
    *,
    numbers: bool = True,
) -> tuple[Callable[[ArrayLike], Array], Callable[[ArrayLike], Array], float]:
    """Add title, grid and numbers; returns where values are, and where the chart ends."""
    x0, x1, y0 = left + _LEFT, left + _COLUMN - _RIGHT, top + _TOP
    y1 = y0 + height

    def x(values: ArrayLike) -> Array:
        return x0 + across.share(values) * (x1 - x0)

    def y(values: ArrayLike) -> Array:
        return y1 - up.share(values) * height

    words = escape(_fitting(title, _COLUMN - _RIGHT - 8))
    parts.append(
        f'<text x="{left + 8}" y="{top + 18:.0f}" font-weight="600" fill="{_GRAY}">{words}</text>'
    )
    for tick in _ticks(up, 18 / height):
        at = float(y([tick])[0])
        parts.append(f'<path d="M{x0} {at:.1f}H{x1}" stroke="{_GRAY}" stroke-opacity="0.3"/>')
        parts.append(_text(x0 - 6, at + 4, number(tick), anchor="end"))
    for tick in _ticks(across, 70 / (x1 - x0)) if numbers else ():
        at, word = float(x([tick])[0]), number(tick)
        over = at + 3.5 * len(word) > left + _COLUMN
        parts.append(_text(x1 if over else at, y1 + 15, word, anchor="end" if over else "middle"))
    parts.append(
        f'<rect x="{x0}" y="{y0:.1f}" width="{x1 - x0}" height="{height:.1f}" fill="none" '
        f'stroke="{_GRAY}" stroke-opacity="0.5"/>'
    )
    return x, y, y1 + (_BOTTOM if numbers else 0)


def _clipped(
    parts: list[str], left: float, top: float, height: float, drawn: Sequence[str]
) -> None:
    name, width = f"clip{len(parts)}", _COLUMN - _LEFT - _RIGHT
    parts.append(
        f'<clipPath id="{name}"><rect x="{left + _LEFT}" y="{top + _TOP:.1f}" width="{width}" '
        f'height="{height:.1f}"/></clipPath><g clip-path="url(#{name})">{"".join(drawn)}</g>'
    )


def _bars(variables: Sequence[str], now: Array, styles: Mapping[str, Style], *, most: int) -> Cell:
    """Draw the KL of each variable at the end, the largest first: the legend of the lines."""
    order = np.argsort(-np.nan_to_num(now), kind="stable")[:most].tolist()
    known = now[np.isfinite(now)]
    total, largest = float(known.sum()), max(float(known.max(initial=0.0)), 1e-12)

    def cell(parts: list[str], left: float, top: float) -> float:
        start, end, right = left + 150, left + _COLUMN - 116, left + _COLUMN - _RIGHT
        parts.append(
            f'<text x="{left + 8}" y="{top + 18:.0f}" font-weight="600" fill="{_GRAY}">'
            "KL at the end, nats</text>"
        )
        y = top + _TOP + 14
        for i in order:
            value, style = float(now[i]), styles[variables[i]]
            long = max(0.0, value / largest) * (end - start) if math.isfinite(value) else 0.0
            parts.append(_path([left + 8, left + 30], [y - 4, y - 4], style, 2.4))
            parts.append(_text(left + 36, y, _fitting(plain(variables[i]), start - left - 44)))
            parts.append(
                f'<rect x="{start}" y="{y - 9:.1f}" width="{long:.1f}" height="9" '
                f'fill="{style.color}"/>'
            )
            parts.append(_text(right - 54, y, number(value), anchor="end"))
            if total > 0 and value > 0:
                parts.append(_text(right, y, percent(value / total), anchor="end"))
            y += 17
        if len(variables) > len(order):
            rest = total - float(np.nan_to_num(now[order]).sum())
            parts.append(_text(left + 36, y, f"{len(variables) - len(order)} more"))
            parts.append(_text(right - 54, y, number(rest), anchor="end"))
            y += 17
        return y

    return cell


def _path(x: Iterable[float], y: Iterable[float], style: Style, width: float) -> str:
    moves, pen = [], "M"
    for px, py in zip(x, y, strict=True):
        if math.isfinite(py) and math.isfinite(px):
            moves.append(f"{pen}{min(max(px, -1e4), 1e4):.1f} {min(max(py, -1e4), 1e4):.1f}")
            pen = "L"
        else:
            pen = "M"
    dash = f' stroke-dasharray="{" ".join(map(str, style.dash))}"' if style.dash else ""
    color = _GRAY if style.color == INK else style.color
    return (
        f'<path d="{"".join(moves)}" fill="none" stroke="{color}" stroke-width="{width}"{dash} '
        'stroke-linejoin="round"/>'
    )


def _fitting(text: str, room: float) -> str:
    """Cut a text to so many pixels, by the usual width of its letters."""
    at = 0.0
    for i, letter in enumerate(text):
        at += 12.0 if unicodedata.east_asian_width(letter) in "WF" else 6.8
        if at > room:
            return text[: i - 1].rstrip() + "…"
    return text


def _first(frame: Frame) -> float:
    """Left end of the step axis: a point stands at the last step of its bucket."""
    step = frame.step
    return min(0.0, float(step[0])) if len(step) < 2 or step[0] < step[-1] / 50 else float(step[0])


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_GRAY}">{escape(text)}</text>'
    )


def _late(step: NDArray[Any]) -> NDArray[np.bool_]:
    return step >= step[-1] - FIT.late * (step[-1] - step[0])


def _ends(values: NDArray[Any], step: NDArray[Any]) -> tuple[float, float, str]:
    """Smallest and largest finite value, and words if the steps at the start are left out."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0, ""
    low, high = float(finite.min()), float(finite.max())
    late = values[..., _late(step)]
    late = late[np.isfinite(late)]
    if not late.size or high - low <= _COVER * float(np.ptp(late)):
        return low, high, ""
    return float(late.min()), float(late.max()), ", its start cut off"


def _ticks(axis: _Axis, apart: float) -> list[float]:
    """Round numbers on an axis, no two nearer than so large a share of it."""
    low, high = (10.0**axis.low, 10.0**axis.high) if axis.log else (axis.low, axis.high)
    most = max(2, min(5, int(1 / apart)))
    rough = (high - low) / most
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor >= rough * 0.999)
    even = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    if axis.log:
        powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
        even = [m * 10.0**k for m in (1, 2, 5) for k in powers] + even
    found: list[float] = []
    for tick in even:
        at = float(axis.share([tick])[0]) if tick > 0 or not axis.log else -1.0
        if 0 <= at <= 1 and all(abs(at - axis.share([other])[0]) >= apart for other in found):
            found.append(tick)
    return sorted(found)
