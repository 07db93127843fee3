"""The events of a trace as marks on a plot: where, and what it was in words."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from vitoolkit.events import ONE_MOVE_SECONDS, Event
from vitoolkit.views.names import plain

__all__ = ["Act", "Mark", "Marks", "acts_of"]

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
            what = f"{plain(event.control)} {change}"
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


class Marks:
    """Where someone intervened, and how, in a row of events that grows: each is read once.

    A slider that is dragged makes many events and one mark, at the first of them.

    Parameters
    ----------
    most : int, default 60
        Most marks returned, the latest.
    """

    def __init__(self, most: int = 60) -> None:
        self.most = most
        self._begin(0.0)

    def _begin(self, reach: float) -> None:
        self._reach, self._read = reach, 0
        self._last: Event | None = None
        self._latest: dict[str | None, tuple[_Group, int]] = {}
        self._groups: deque[_Group] = deque(maxlen=self.most)

    def of(self, events: Sequence[Event], *, reach: float) -> list[Mark]:
        """Return the marks of some events.

        Parameters
        ----------
        events : sequence of Event
            Of a trace, in their order. If they go on from those of the call before, only those
            that came since are read.
        reach : float
            Length of the step axis; marks closer than 0.4 % of it could not be told apart and share
            a line, whose text tells each with its step.

        Returns
        -------
        list of Mark
            In the order of the events.
        """
        goes_on = len(events) >= self._read > 0 and events[self._read - 1] is self._last
        if reach != self._reach or not goes_on:
            self._begin(reach)
            self._read = max(0, len(events) - 50 * self.most)
        for event in events[self._read :]:
            if event.source != "schedule":
                self._add(event)
        self._read, self._last = len(events), events[-1] if events else None
        return [group.mark() for group in self._groups]

    def _add(self, event: Event) -> None:
        groups = self._groups
        group, i = self._latest.get(event.control, (None, 0))
        if group is not None and _one_move(group.acts[i].event, event):
            group.put(i, group.acts[i]._replace(event=event, moves=group.acts[i].moves + 1))
            return
        if not groups or not 0 <= event.step - groups[-1].acts[0].step <= 0.004 * self._reach:
            groups.append(_Group())
        groups[-1].put(len(groups[-1].acts), Act(event.step, event, event.old, 1))
        self._latest[event.control] = groups[-1], len(groups[-1].acts) - 1


class _Group:
    """Acts that share a line."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self._mark: Mark | None = None

    def put(self, i: int, act: Act) -> None:
        self.acts[i : i + 1] = [act]
        self._mark = None

    def mark(self) -> Mark:
        if self._mark is None:
            self._mark = Mark(float(self.acts[0].step), _text(self.acts))
        return self._mark


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
