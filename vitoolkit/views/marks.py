"""The events of a trace as marks on a plot: where, and what it was in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Act", "Mark", "acts_of", "marks_of"]

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


class Act(NamedTuple):
    """One event, or several of a slider that was dragged.

    Attributes
    ----------
    step : int
        The first step that ran with it.
    event : Event
        The last of the events.
    old : float or None
        The value before the first of them.
    moves : int
        How many they were.
    """

    step: int
    event: Any
    old: float | None
    moves: int

    def __str__(self) -> str:
        event, values = self.event, (self.old, self.event.new)
        what = event.kind
        if event.control is not None:
            change = " → ".join(f"{value:.4g}" for value in values if value is not None)
            what = f"{event.control} {change}"
            if event.kind != "set":
                what = f"{event.kind} {what}"
        if self.moves > 1:
            what += f" in {self.moves} moves"
        return f"{what}: {event.text}" if event.text else what


def acts_of(events: Sequence[Any]) -> list[Act]:
    """Put the events of a drag together; what a schedule does by itself is left out."""
    acts: list[Act] = []
    latest: dict[tuple[str, str | None], int] = {}
    for event in events:
        if event.source == "schedule":
            continue
        what = (event.kind, event.control)
        i = latest.get(what)
        if i is not None and event.kind == "set" and event.time - acts[i].event.time < 1.5:
            acts[i] = acts[i]._replace(event=event, moves=acts[i].moves + 1)
            continue
        latest[what] = len(acts)
        acts.append(Act(event.step, event, event.old, 1))
    return acts


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
    groups: list[list[Act]] = []
    for act in acts_of(events[-50 * most :]):
        if groups and 0 <= act.step - groups[-1][0].step <= 0.004 * reach:
            groups[-1].append(act)
        else:
            groups.append([act])
    return [Mark(float(group[0].step), _text(group)) for group in groups[-most:]]


def _text(group: Sequence[Act]) -> str:
    words = [f"{act}, by {act.event.source}" for act in group[:4]]
    if len(group) > 4:
        words.append(f"and {len(group) - 4} more")
    text = "; ".join(words)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
