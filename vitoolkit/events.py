"""What a person, a schedule or a rule did to a fit, and when."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["ONE_MOVE_SECONDS", "Event", "Unread"]

#: A person's values of one control that follow each other faster than this are one move: one undo,
#: one mark, one line of a table.
ONE_MOVE_SECONDS = 1.5


class Event(NamedTuple):
    """One change made to a running fit.

    Attributes
    ----------
    step : int
        The first step that ran with the change.
    time : float
        Seconds since the trace began.
    kind : str
        What was done: ``"set"``, ``"release"``, ``"reschedule"`` and ``"undo"`` of a control, and
        ``"rule"``, what its rule decided; ``"freeze"`` and ``"thaw"`` of a variable;
        ``"pause"``, ``"resume"``, ``"step"``, ``"stop"``, ``"interrupt"`` and ``"note"`` of a fit.
    control : str or None
        Name of the control that was changed, or None if the event concerns the whole fit.
    old, new : float or None
        Value that the step would have used, and the one that it used; of a ``"reschedule"``, the
        end of the schedule before and after.
    source : str
        Who did it: ``"user"`` (a person at a widget), ``"dashboard"``, ``"schedule"``, a rule,
        or ``"code"``.
    text : str or None
        The words of a note, the new schedule of a ``"reschedule"``, the kind of the change that an
        ``"undo"`` took back, why a rule decided so.
    asked : float or None
        When the change of a control was asked for, seconds since the trace began: undo takes a
        slider that is dragged as one change by it. None of what nobody asked for, and of what was
        in force before the fit.

    Examples
    --------
    >>> event = Event(120, 3.5, "set", "beta", old=1.0, new=4.0, source="user")
    >>> event.control, event.new
    ('beta', 4.0)
    >>> Event(300, 9.25, "stop", source="user").new is None
    True
    """

    step: int
    time: float
    kind: str
    control: str | None = None
    old: float | None = None
    new: float | None = None
    source: str = "code"
    text: str | None = None
    asked: float | None = None


class Unread:
    """Hands out the events of a record that grows, each once.

    Examples
    --------
    >>> unread, pause = Unread(), Event(3, 0.5, "pause")
    >>> unread.of([pause])  # doctest: +ELLIPSIS
    (False, [Event(step=3, time=0.5, kind='pause', ...)])
    >>> unread.of([pause])
    (True, [])
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: Event | None = None

    def of(self, events: Sequence[Event]) -> tuple[bool, Sequence[Event]]:
        """Take the events that have not been handed out.

        Parameters
        ----------
        events : sequence of Event
            All of a record, in their order.

        Returns
        -------
        goes_on : bool
            Whether they go on from those of the call before; else these are all of another record.
        fresh : sequence of Event
        """
        goes_on = len(events) >= self._count > 0 and events[self._count - 1] is self._last
        fresh = events[self._count if goes_on else 0 :]
        self._count, self._last = len(events), events[-1] if events else None
        return goes_on, fresh
