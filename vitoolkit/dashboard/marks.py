"""The events of a trace as marks on a plot: where, and what it was in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Mark", "change_in_words", "marks_of"]

#: Most characters of a mark's text.
LONGEST = 160


class Mark(NamedTuple):
    """Something that was done to a fit.

    Attributes
    ----------
    step : float
        The first step that ran with it.
    text : str
        What it was.
    """

    step: float
    text: str


def change_in_words(event: Any, old: float | None = None) -> str:
    """Say what an event changed, such as ``"beta 1 → 4"`` or ``"pause"``.

    Parameters
    ----------
    event : Event
    old : float, optional
        The value before, if this is the last of several events.
    """
    what = event.kind
    if event.control is not None:
        old = event.old if old is None else old
        values = [f"{value:.4g}" for value in (old, event.new) if value is not None]
        what = f"{event.control} {' → '.join(values)}"
        if event.kind != "set":
            what = f"{event.kind} {what}"
    return f"{what}: {event.text}" if event.text else what


def marks_of(events: Sequence[Any], *, reach: float, most: int = 60) -> list[Mark]:
    """Return where someone intervened, and how.

    A slider that is dragged makes many events and one mark, at the first of them.

    Parameters
    ----------
    events : sequence of Event
        Of a trace.
    reach : float
        Length of the step axis; marks closer than 0.4 % of it are one.
    most : int
        Most marks returned, the latest.

    Returns
    -------
    list of Mark
        In the order of the events.
    """
    acts: list[list[Any]] = []  # step, first event, last event, how many
    last: dict[tuple[str, str | None], list[Any]] = {}
    for event in events[-50 * most :]:
        if event.source == "schedule":
            continue
        what = (event.kind, event.control)
        act = last.get(what)
        if act is not None and event.kind == "set" and event.time - act[2].time < 1.5:
            act[2], act[3] = event, act[3] + 1
            continue
        last[what] = act = [float(event.step), event, event, 1]
        acts.append(act)
    groups: list[list[list[Any]]] = []
    for act in acts:
        if groups and 0 <= act[0] - groups[-1][0][0] <= 0.004 * reach:
            groups[-1].append(act)
        else:
            groups.append([act])
    return [Mark(group[0][0], _text(group)) for group in groups[-most:]]


def _text(group: list[list[Any]]) -> str:
    words = []
    for _, first, last, count in group[:4]:
        moves = f" in {count} moves" if count > 1 else ""
        words.append(f"{change_in_words(last, first.old)}{moves}, by {last.source}")
    if len(group) > 4:
        words.append(f"and {len(group) - 4} more")
    text = "; ".join(words)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
