"""What people and code ask of a fit, and the inbox in which it waits for the next step boundary.

There is one inbox for a run and all of its controls, so that what was asked has one order. A
request is put there from any thread, taken by the fitting thread between two steps, and becomes an
:class:`~vitoolkit.events.Event`, whose vocabulary it uses.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Mapping, MutableSequence
from typing import Any, NamedTuple

from vitoolkit import schedules
from vitoolkit.events import ONE_MOVE_SECONDS

__all__ = ["CHANGES", "Change", "Inbox", "Request", "checked_note"]

#: Kinds of request that change a control.
CHANGES = ("set", "release", "reschedule", "freeze", "thaw")
#: Those after which a control holds a value, whatever its law says.
HOLDS = ("set", "freeze", "thaw")
#: Those of which only the last before a step is ever in force.
REPLACED = (*HOLDS, "release")
#: Those of the points that a fit can go back to.
POINTS = ("rewind", "bookmark")
KINDS = (*CHANGES, "undo", "pause", "resume", "step", "stop", "interrupt", "note", *POINTS)
_MOST_CHANGES = 1_000


class Request(NamedTuple):
    """Something that was asked for and is not yet in force.

    Attributes
    ----------
    kind : str
        As of an :class:`~vitoolkit.events.Event`: "set", "release", "reschedule" and "undo" of a
        control, "freeze" and "thaw" of a switch that holds a variable; "pause", "resume", "step",
        "stop", "interrupt", "note", "rewind" and "bookmark" of a run.
    control : str or None
        Name of the control, None for a run; of an "undo", None for the last change of all.
    value : float or None
        The value of a "set"; 1 of a "freeze", 0 of a "thaw"; the step of a "rewind".
    source : str
        Who asks.
    text : str or None
        The words of a "note", the name of a "bookmark", or of the one that a "rewind" goes to.
    end, steps : float or None, int or None
        Of a "reschedule": the new end and length, None for the present schedule's.
    schedule : Schedule or None
        Of a "reschedule": a whole new schedule.
    time : float
        When it was asked for, seconds of ``time.perf_counter``.
    in_force, old : bool, float or None
        Whether it was in force at once, between two fits, and the value before it; of a pause and
        what belongs to it, that it is over, and only has its place in the log.
    point : Point or None
        Where a "rewind" goes, found out when it is asked for.

    Examples
    --------
    >>> request = Request("set", "beta", 4.0, "user")
    >>> request.to_json()
    {'kind': 'set', 'control': 'beta', 'value': 4.0, 'source': 'user'}
    >>> Request.from_json(request.to_json()) == request
    True
    """

    kind: str
    control: str | None = None
    value: float | None = None
    source: str = "code"
    text: str | None = None
    end: float | None = None
    steps: int | None = None
    schedule: schedules.Schedule | None = None
    time: float = 0.0
    in_force: bool = False
    old: float | None = None
    point: Any = None

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: a schedule as its text, and neither time nor what was."""
        fields = {key: getattr(self, key) for key in _JSON}
        if self.schedule is not None:
            fields["schedule"] = repr(self.schedule)
        return {key: value for key, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Request:
        """Read what :meth:`to_json` made; nothing in it is evaluated as code.

        Raises
        ------
        TypeError, ValueError
            When it is not a request; the message says what is wrong.
        """
        if not isinstance(fields, Mapping):
            raise TypeError(f"a request is a mapping, received {fields!r}")
        for key, value in fields.items():
            if key not in _JSON:
                raise ValueError(f"a request has no {key!r}; it has {', '.join(_JSON)}")
            if isinstance(value, bool) or not isinstance(value, _JSON[key]):
                raise TypeError(f"{key!r} of a request cannot be {value!r}")
        if fields.get("kind") not in KINDS:
            raise ValueError(
                f"a request is one of {', '.join(KINDS)}; received {fields.get('kind')!r}"
            )
        text = fields.get("schedule")
        schedule = None if text is None else schedules.parse(text)
        return cls(**{**fields, "schedule": schedule})


_JSON: dict[str, Any] = {
    "kind": str, "control": str, "value": int | float, "source": str, "text": str,
    "end": int | float, "steps": int, "schedule": str,
}  # fmt: skip


class Change(NamedTuple):
    """A change of a control that is in force, and the state before it."""

    control: str
    kind: str
    source: str
    asked: float
    state: Any = None


class Inbox:
    """Requests that wait, in the order they were asked, and the changes that can be undone.

    Any thread may :meth:`ask` and look; one thread takes. No lock is taken, so that a signal
    handler may ask as well.

    Examples
    --------
    >>> inbox = Inbox()
    >>> for value in (2.0, 3.0):
    ...     inbox.ask(Request("set", "beta", value))
    >>> inbox.ask(Request("pause"))
    >>> [(request.kind, request.value) for request in inbox.take()]
    [('set', 3.0), ('pause', None)]
    """

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._ahead: list[tuple[int, int, Request]] = []  # by step, then by the order they came
        self._number = itertools.count()
        self._changes: deque[Change] = deque(maxlen=_MOST_CHANGES)

    def ask(self, request: Request, at: int | None = None) -> None:
        """Put a request into the inbox, for the next step boundary or for the one before `at`."""
        if at is None:
            self._waiting.append(request)
        else:
            heapq.heappush(self._ahead, (at, next(self._number), request))

    def take(self, step: int | None = None) -> list[Request]:
        """Take requests out: those for `step`, and all that wait for the next step boundary.

        Of values that wait and followed each other, only the last is taken.
        """
        ahead, taken = [], []
        while step is not None and self._ahead and self._ahead[0][0] <= step:
            ahead.append(heapq.heappop(self._ahead)[2])
        while self._waiting:
            taken.append(self._waiting.popleft())
        return [*ahead, *_merged(taken)]

    @property
    def next_step(self) -> int | None:
        """The first step that a request is there for, None without one."""
        return self._ahead[0][0] if self._ahead else None

    def ahead(self) -> list[tuple[int, Request]]:
        """Requests for later steps, each with its step."""
        return [(step, request) for step, _, request in sorted(self._ahead)]

    def waiting(self, control: str | None = None) -> list[Request]:
        """Requests that wait, of one control or of all; an undo of the last change is of all."""
        while True:
            try:
                waiting = list(self._waiting)
                break
            except RuntimeError:  # another thread asked meanwhile
                continue
        if control is None:
            return waiting
        return [request for request in waiting if request.control == control]

    def forget_ahead(self) -> None:
        """Forget what was for later steps: they were of another line."""
        self._ahead.clear()

    # --- undo -----------------------------------------------------------------------------------

    def remember(self, change: Change) -> None:
        """Note a change that is in force now; a slider that is dragged is one change."""
        changes = self._changes
        if changes and _one_move(changes[-1], change):
            changes[-1] = changes[-1]._replace(asked=change.asked)
        else:
            changes.append(change)

    def forget(self, control: str | None = None) -> Change | None:
        """Take back the last change, of a control or of all; returns it, None without one."""
        return _forget(self._changes, control)

    def forget_changes(self) -> None:
        """Forget what could be undone."""
        self._changes.clear()

    def can_undo(self, control: str | None = None) -> bool:
        """Whether a change is there to be taken back, in force or not."""
        changes = list(self._changes)
        for request in _merged(self.waiting()):
            if request.kind == "undo":
                _forget(changes, request.control)
            elif request.kind in CHANGES and not request.in_force:
                made = Change(str(request.control), request.kind, request.source, request.time)
                if not (changes and _one_move(changes[-1], made)):
                    changes.append(made)
        return any(control in (None, change.control) for change in changes)


def _forget(changes: MutableSequence[Change], control: str | None) -> Change | None:
    for i in range(len(changes) - 1, -1, -1):
        change = changes[i]
        if control in (None, change.control):
            del changes[i]
            return change
    return None


def _one_move(before: Change, after: Change) -> bool:
    moved = (before.kind, before.source) == (after.kind, after.source) == ("set", "user")
    near = after.asked - before.asked < ONE_MOVE_SECONDS
    return moved and near and before.control == after.control


def _merged(requests: Iterable[Request]) -> list[Request]:
    """Leave out values that another one replaced before any step."""
    kept: list[Request | None] = []
    last: dict[str | None, int] = {}  # where the request stands that the next would replace
    for request in requests:
        if request.kind in REPLACED:
            i = last.get(request.control)
            if i is not None:
                replaced, kept[i] = kept[i], None
                assert replaced is not None
                request = request._replace(old=replaced.old)
            last[request.control] = len(kept)
        elif request.kind in ("undo", "rewind"):
            last.clear()
        else:
            last.pop(request.control, None)
        kept.append(request)
    return [request for request in kept if request is not None]


def checked_note(text: str) -> str:
    """Return the words of a note, or say what is wrong with them."""
    if not isinstance(text, str):
        raise TypeError(f"a note is a string, received {text!r}")
    if not text.strip():
        raise ValueError("a note needs words, received an empty string")
    return text.strip()
