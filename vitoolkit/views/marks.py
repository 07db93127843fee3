"""The events of a trace as marks on a plot: where, and what it was in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vitoolkit.events import ONE_MOVE_SECONDS, Event, Unread
from vitoolkit.views.names import plain

__all__ = ["Act", "Mark", "Marks", "acts_of"]

#: Most characters of a mark's text, and most acts at one step that it tells.
LONGEST, TOLD = 160, 4


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
        if event.kind == "rewind" and event.old is not None:
            what = f"back from step {event.old:,.0f} to {event.step:,}"
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

    What was done at one step is one mark, and so is a drag, at the first of its moves. Of more than
    `most` marks neighbors share one, whose words say how many more it stands for, and up to where.

    Parameters
    ----------
    most : int, default 80
        Most marks returned.

    Examples
    --------
    >>> events = [Event(step, 9.0, "set", "beta", 1.0, 2.0) for step in (10, 13, 900, 904)]
    >>> for mark in Marks(most=2).of(events):
    ...     print(mark)
    Mark(step=10.0, text='beta 1 → 2, by code; and 1 more up to step 13')
    Mark(step=900.0, text='beta 1 → 2, by code; and 1 more up to step 904')
    """

    def __init__(self, most: int = 80) -> None:
        self.most = most
        self._unread = Unread()
        self._begin()

    def _begin(self) -> None:
        self._gap = 0
        self._latest: dict[str | None, _Done] = {}
        self._groups: list[_Group] = []

    def of(self, events: Sequence[Event]) -> list[Mark]:
        """Return the marks of some events.

        Parameters
        ----------
        events : sequence of Event
            Of a trace, in their order. If they go on from those of the call before, only those
            that came since are read.

        Returns
        -------
        list of Mark
            In the order of the events.
        """
        goes_on, fresh = self._unread.of(events)
        if not goes_on:
            self._begin()
        for event in fresh:
            if event.source != "schedule":
                self._add(event)
        return [group.mark() for group in self._groups]

    def _add(self, event: Event) -> None:
        done = self._latest.get(event.control)
        if done is not None and _one_move(done.act.event, event):
            done.act = done.act._replace(event=event, moves=done.act.moves + 1)
            for group in reversed(self._groups):
                if done in group.told:
                    group.words = None
                    break
            return
        done = self._latest[event.control] = _Done(Act(event.step, event, event.old, 1))
        fresh = _Group([done], event.step, 1)
        if not self._joined(fresh):
            self._groups.append(fresh)
        while len(self._groups) > self.most:
            # In steps, so that what has one mark now keeps it however the axis grows.
            self._gap = max(1, 2 * self._gap)
            groups, self._groups = self._groups, []
            for group in groups:
                if not self._joined(group):
                    self._groups.append(group)

    def _joined(self, group: _Group) -> bool:
        """Join a group to the last one, if it is no further away than the gap."""
        if not self._groups:
            return False
        last = self._groups[-1]
        if abs(group.step - last.step) > self._gap:
            return False
        last.told = [*last.told, *group.told][: TOLD if self._same(last, group) else 1]
        last.count, last.words = last.count + group.count, None
        last.step, last.end = min(last.step, group.step), max(last.end, group.end)
        return True

    @staticmethod
    def _same(one: _Group, other: _Group) -> bool:
        return one.step == one.end == other.step == other.end


class _Done:
    """An act that may go on."""

    def __init__(self, act: Act) -> None:
        self.act = act


class _Group:
    """Acts that share a mark: the first ones, which are told, and how many they are."""

    def __init__(self, told: list[_Done], step: int, count: int) -> None:
        self.told, self.step, self.end, self.count = told, step, step, count
        self.words: Mark | None = None

    def mark(self) -> Mark:
        if self.words is None:
            self.words = Mark(float(self.step), self._text())
        return self.words

    def _text(self) -> str:
        words = [f"{done.act}, by {done.act.event.source}" for done in self.told]
        more = self.count - len(words)
        rest = f"; and {more} more" * (more > 0)
        if more and self.end > self.step:
            rest += f" up to step {self.end:,}"
        text = "; ".join(words)
        room = LONGEST - len(rest)
        return (text if len(text) <= room else text[: room - 1] + "…") + rest
