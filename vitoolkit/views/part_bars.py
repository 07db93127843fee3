"""Bars of a KL contribution by coordinate or by a dim: which of them are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from vitoolkit.means import ACTIVE, TAIL, active_units, part_means
from vitoolkit.parts import Part
from vitoolkit.table import Table
from vitoolkit.views.names import plain
from vitoolkit.views.styles import PALETTE
from vitoolkit.views.tables import number

__all__ = ["part_sections"]

#: A part of more coordinates than this cannot be read as bars, and so many parts are drawn.
MOST_BARS, MOST_PARTS = 64, 10
_WIDTH, _HEIGHT, _LEFT = 900, 170, 64


def part_sections(trace: Table) -> str:
    """Draw the parts that are small enough to be read, each under a heading.

    Parameters
    ----------
    trace : Table
        The record.

    Returns
    -------
    str
        HTML with SVG in it, in the colors of the page around it; "" without parts or rows.
    """
    few = [part for part in trace.parts.values() if 0 < part.size <= MOST_BARS]
    if not len(trace) or not few:
        return ""
    active, means, late = active_units(trace), part_means(trace), trace[-TAIL:]
    rows = f"the last {len(late):,} rows" if len(late) > 1 else "the last row"
    found = []
    for part in few[:MOST_PARTS]:
        by = ", ".join(part.dims) or "coordinate"
        note = (
            f"Not multiplied by β; means of {rows}. Above {ACTIVE} nats of the full data set: "
            f"{active[part.variable]} of {part.size}."
        )
        found.append(
            f"<h2>KL of {escape(plain(part.variable))} by {escape(by)}, nats</h2><p>{note}</p>"
            f"{_bars(part, means[part.variable].ravel())}"
        )
    return "".join(found)


def _bars(part: Part, means: NDArray[np.float64]) -> str:
    shown = part.dims[0] if len(part.dims) == 1 else "coordinate"
    labels = [label.removeprefix(f"{shown}=") for label in part.labels]
    known = means[np.isfinite(means)]
    low, high = min(0.0, known.min(initial=0.0)), max(0.0, known.max(initial=0.0))
    if not high > low:
        high = low + 1.0
    slot = min((_WIDTH - _LEFT - 10) / part.size, 60.0)
    lying = max(map(len, labels)) * 7 < slot

    def y(value: float) -> float:
        return 10 + (high - value) / (high - low) * _HEIGHT

    apart = [end for end in (low, high) if abs(y(end) - y(0.0)) > 14]
    drawn = [_text(_LEFT - 6, y(end) + 4, number(end), "end") for end in (0.0, *apart)]
    drawn.append(
        f'<path d="M{_LEFT} {y(0):.1f}H{_WIDTH - 10}" stroke="currentColor" opacity=".4"/>'
    )
    foot = y(low) + 16
    for i, (label, value) in enumerate(zip(labels, means.tolist(), strict=True)):
        x = _LEFT + (i + 0.5) * slot
        tip = f"{shown} {label}: {number(value) if math.isfinite(value) else 'not finite'}"
        top, long = (y(max(value, 0.0)), abs(y(value) - y(0))) if math.isfinite(value) else (0, 0)
        drawn.append(
            f'<rect x="{x - 0.4 * slot:.1f}" y="{top:.1f}" width="{0.8 * slot:.1f}" '
            f'height="{long:.1f}" fill="{PALETTE[1]}"><title>{escape(tip)}</title></rect>'
        )
        short = label if len(label) <= 18 else label[:17] + "…"
        turn = "" if lying else f' transform="rotate(-60 {x:.1f} {foot:.1f})"'
        drawn.append(_text(x, foot, short, "middle" if lying else "end", turn))
    below = 10 if lying else min(110, 6 * max(map(len, labels)))
    height = foot + below + 20
    drawn.append(_text((_LEFT + _WIDTH) / 2, height - 4, shown, "middle"))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" class="parts" role="img" '
        f'aria-label="{escape(_told(labels, means))}">{"".join(drawn)}</svg>'
    )


def _told(labels: Sequence[str], means: NDArray[np.float64]) -> str:
    values = [number(v) if math.isfinite(v) else "not finite" for v in means.tolist()]
    return ", ".join(f"{label} {value}" for label, value in zip(labels, values, strict=True))


def _text(x: float, y: float, text: str, anchor: str, turn: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'
