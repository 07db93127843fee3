"""The events of a trace as marks on a plot: where, and what it was in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vitoolkit.events import ONE_MOVE_SECONDS, Event

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
    event: Event
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


def acts_of(events: Sequence[Event]) -> list[Act]:
    """Put the moves of one drag together; what a schedule does by itself is left out.

    A drag is what a person does to one control within a moment, with nothing else done to it in
    between. What code or a rule does is never put together: each change was meant.

    Parameters
    ----------
    events : sequence of Event
        Of a trace, in their order.

    Returns
    -------
    list of Act
    """
    acts: list[Act] = []
    latest: dict[str | None, int] = {}
    for event in events:
        if event.source == "schedule":
            continue
        i = latest.get(event.control)
        if i is not None and _one_move(acts[i].event, event):
            acts[i] = acts[i]._replace(event=event, moves=acts[i].moves + 1)
            continue
        latest[event.control] = len(acts)
        acts.append(Act(event.step, event, event.old, 1))
    return acts


def _one_move(last: Event, event: Event) -> bool:
    by_hand = (event.kind, event.source) == (last.kind, last.source) == ("set", "user")
    return by_hand and event.time - last.time < ONE_MOVE_SECONDS


def marks_of(events: Sequence[Event], *, reach: float, most: int = 60) -> list[Mark]:
    """Return where someone intervened, and how.

    A slider that is dragged makes many events and one mark, at the first of them.

    Parameters
    ----------
    events : sequence of Event
        Of a trace.
    reach : float
        Length of the step axis; marks closer than 0.4 % of it could not be told apart and share a
        line, whose text tells each with its step.
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
    words, step = [], group[0].step
    for act in group[:4]:
        later = f"from step {act.step:,} " * (act.step != step)
        words.append(f"{later}{act}, by {act.event.source}")
        step = act.step
    if len(group) > 4:
        words.append(f"and {len(group) - 4} more")
    text = "; ".join(words)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
