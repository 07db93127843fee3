"""What stays in a notebook when a fit has ended: a picture and a table that need no kernel."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit.controls import Control, Switch
from vitoolkit.decimation import View
from vitoolkit.trace import Trace
from vitoolkit.views.frame import Frame, Lines, frame_of
from vitoolkit.views.marks import acts_of
from vitoolkit.views.styles import INK, Style, variable_styles

__all__ = ["active_text", "event_table", "picture_svg", "run_table", "shown_as", "summary_html"]

_WIDTH, _LEFT, _RIGHT = 900, 84, 24
_TEXT, _SOFT, _LINE = "#222222", "#666666", "#dddddd"
_MOST_STRIPS = 6


def shown_as(controls: Iterable[Control]) -> dict[str, str]:
    """Tell how each control is shown: "linear", "log" or "switch"."""
    return {
        control.name: "switch" if isinstance(control, Switch) else control.scale
        for control in controls
    }


def active_text(trace: Trace, rows: Mapping[str, int] | None = None) -> str:
    """Say in words how many coordinates are active, of each variable recorded in parts.

    Parameters
    ----------
    trace : Trace
        The record.
    rows : mapping of str to int, optional
        Rows of the data set of each local latent, whose threshold is one for a row.

    Returns
    -------
    str
        Such as ``"z 5 of 8"``, or "" without parts.
    """
    found = []
    for name, part in trace.parts.items():
        per = (rows or {}).get(name, 1)
        found.append(f"{name} {trace.active_units(per=per)[name]} of {part.size}")
    return ", ".join(found)


def summary_html(
    trace: Trace,
    variables: Sequence[str] | None = None,
    scales: Mapping[str, str] | None = None,
    *,
    active: str = "",
    view: View | None = None,
) -> str:
    """Return the picture and a table of the run as HTML that Jupyter shows trusted or not.

    Parameters
    ----------
    trace : Trace
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
    scales = scales or {}
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
    trace: Trace,
    variables: Sequence[str] | None = None,
    scales: Mapping[str, str] | None = None,
    view: View | None = None,
) -> str:
    """Draw the run as an SVG document: loss, KL of each variable, controls, and what people did.

    Parameters
    ----------
    trace : Trace
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
    view = trace.view(400) if view is None else view
    frame = frame_of(view, variables, end=float(trace.step[-1]), lines=Lines(variables))
    parts: list[str] = []
    band = (frame.low, frame.high, frame.mean)
    top = 0.0
    if np.isfinite(frame.mean).any():
        top = _chart(parts, top, 160, "Loss", frame, [], _band_range(frame, *band), band=band)
    if variables:
        band = (frame.elbo_low, frame.elbo_high, frame.elbo)
        ends = _band_range(frame, *band)
        top = _chart(parts, top, 160, "ELBO at β = 1, nats", frame, [], ends, band=band)
        styles = variable_styles(variables)
        shown = [styles[variables[i]] for i in frame.lines]
        low, high = _range(frame.kl, frame.step)
        lines = list(zip(frame.kl, shown, strict=True))
        few = f", the largest {len(shown)} of {len(variables)}" * (len(shown) < len(variables))
        ends = (min(0.0, low), high)
        top = _chart(parts, top, 200, f"KL by variable, nats{few}", frame, lines, ends)
        top = _bars(parts, top, variables, frame.now, styles, most=len(shown))
    ranges = {name: (control.min(), control.max()) for name, control in trace.control.items()}
    scales = scales or {}
    moved = [n for n, (low, high) in ranges.items() if high > low and scales.get(n) != "switch"]
    for name in moved[:_MOST_STRIPS]:  # a control that never moved is in the table
        low, high = (float(end) for end in ranges[name])
        values = frame.control[trace.controls.index(name)]
        log = scales.get(name) == "log" and low > 0
        title, lines = name + " (log scale)" * log, [(values, Style(INK, ()))]
        top = _chart(parts, top, 70, title, frame, lines, (low, high), log=log)
    ticks = _ticks(_first(frame), float(frame.end))
    for tick in ticks:
        parts.append(_text(_x(frame, tick), top + 8, f"{tick:,.0f}", anchor="middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, top + 26, "step", anchor="middle"))
    height = top + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" rx="4" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _chart(
    parts: list[str],
    top: float,
    height: float,
    title: str,
    frame: Frame,
    lines: Sequence[tuple[NDArray[Any], Style]],
    ends: tuple[float, float],
    *,
    band: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None,
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

    def y(values: Any) -> NDArray[Any]:
        return bottom - (scale(np.asarray(values, float)) - low) / (high - low) * height

    for tick in _ticks(*(ends if flat else (low, high)), log=log):
        at = float(y(tick))
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="{_LINE}" stroke-width="0.7"/>')
        parts.append(_text(_LEFT - 6, at + 4, _number(tick), anchor="end"))
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
    now: NDArray[Any],
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
        name, value, style = variables[i], float(now[i]), styles[variables[i]]
        words = name if len(name) <= 26 else name[:25] + "…"
        long = max(0.0, value / largest) * (right - left) if math.isfinite(value) else 0.0
        parts.append(_path([_LEFT, _LEFT + 22], [y - 4, y - 4], style, 2.4))
        parts.append(_text(_LEFT + 28, y, words, color=_TEXT))
        parts.append(
            f'<rect x="{left}" y="{y - 9:.1f}" width="{long:.1f}" height="9" fill="{style.color}"/>'
        )
        parts.append(_text(right + 70, y, _number(value), anchor="end", color=_TEXT))
        if total > 0 and value > 0:
            parts.append(_text(right + 126, y, f"{100 * value / total:.1f} %", anchor="end"))
        y += 17
    if len(variables) > len(order):
        rest = total - float(np.nan_to_num(now[order]).sum())
        parts.append(_text(_LEFT + 28, y, f"{len(variables) - len(order)} more"))
        parts.append(_text(right + 70, y, _number(rest), anchor="end"))
        y += 17
    return y - 6


def _path(x: Any, y: Any, style: Style, width: float) -> str:
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


def _x(frame: Frame, step: Any) -> Any:
    first = _first(frame)
    last = max(float(frame.end), first + 1)
    return _LEFT + (np.asarray(step, float) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)


def _text(x: float, y: float, text: str, *, anchor: str = "start", color: str = _SOFT) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
    )


def _range(values: NDArray[Any], step: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value of the last four fifths, which the start would flatten."""
    late = values[..., step >= step[-1] - 0.8 * (step[-1] - step[0])]
    finite = late[np.isfinite(late)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _band_range(
    frame: Frame, lows: NDArray[Any], highs: NDArray[Any], mean: NDArray[Any]
) -> tuple[float, float]:
    low, high = _range(mean, frame.step)
    late = frame.step >= frame.step[-1] - 0.8 * (frame.step[-1] - frame.step[0])
    band = np.concatenate([lows[late], highs[late]])
    band = band[np.isfinite(band)]
    if not band.size:
        return low, high
    return min(low, float(np.quantile(band, 0.01))), max(high, float(np.quantile(band, 0.98)))


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


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.4g}"


def run_table(trace: Trace, scales: Mapping[str, str], active: str) -> str:
    """Tell the run in numbers, means over its last 5 %."""
    rows: list[tuple[str, str]] = []
    status = trace.attrs.get("status", "running")
    took = f", {trace.time[-1]:,.1f} s" if len(trace) else ""
    rows.append(("fit", f"{status} after {trace.step[-1] + 1:,} steps{took}"))
    if "error" in trace.attrs:
        rows.append(("error", str(trace.attrs["error"])))
    if trace.has_terms or not np.isnan(trace.loss).all():
        rows.append(("loss", _words(_late(trace, lambda rows: rows.loss))))
    if trace.has_terms:
        rows.append(("ELBO, nats", _words(_late(trace, lambda rows: rows.elbo))))
        rows.append(("data term, nats", _words(_late(trace, lambda rows: rows.data))))
        rows.append(("sum of KL, nats", _words(_late(trace, lambda rows: rows.data - rows.elbo))))
        means = {name: _late(trace, lambda rows, v=name: rows.kl[v]) for name in trace.variables}  # type: ignore[misc]
        order = sorted(means, key=lambda name: -np.nan_to_num(means[name]))
        rows += [(f"KL of {name}, nats", _words(means[name])) for name in order[:10]]
        if len(order) > 10:
            rest = sum(means[name] for name in order[10:])
            rows.append((f"KL of {len(order) - 10} more, nats", f"{rest:,.4g}"))
    if active:
        rows.append(("active units", active))
    rows += [(name, _value(trace.control[name][-1], scales.get(name))) for name in trace.controls]
    return _html_table(("", "mean of the last 5 %; controls at the end"), rows)


def event_table(trace: Trace, scales: Mapping[str, str], *, most: int = 30) -> str:
    """List what was done to the run as an HTML table, a drag in one line; "" if nothing was."""
    acts = acts_of(trace.events)
    if not acts:
        return ""
    shown = acts[:most]
    rows = []
    for act in shown:
        event = act.event
        scale = scales.get(event.control or "")
        change = [_value(end, scale, 4) for end in (act.old, event.new) if end is not None]
        words = " → ".join(change) + (f" in {act.moves} moves" if act.moves > 1 else "")
        if event.text:
            words = f"{words}: {event.text}" if words else event.text
        rows.append((f"{act.step:,}", event.kind, event.control or "", words, event.source))
    more = len(acts) - len(shown)
    table = _html_table(("step", "event", "control", "change", "by"), rows)
    return table + (f"<p>and {more:,} more events in the trace</p>" if more else "")


def _value(value: float | None, scale: str | None, digits: int = 5) -> str:
    if value is None:
        return ""
    return ("on" if value else "off") if scale == "switch" else f"{value:.{digits}g}"


def _html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _late(trace: Trace, read: Callable[[Trace], NDArray[Any]]) -> float:
    """Mean of the finite values among the last 5 %; of the last one there is, if none is late."""
    late = read(trace[-max(1, len(trace) // 20) :])
    finite = late[np.isfinite(late)]
    if not finite.size:
        values = read(trace)
        finite = values[np.isfinite(values)][-1:]
    return float(finite.mean()) if finite.size else math.nan


def _words(value: float) -> str:
    return f"{value:,.6g}" if math.isfinite(value) else "not finite"
