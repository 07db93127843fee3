"""A steered run once more: what was asked of it is asked again, each at its own step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitoolkit import schedules
from vitoolkit.advise import warn_user
from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.checks import flag, shown
from vitoolkit.events import Event
from vitoolkit.fingerprint import differences, fingerprint_of_run
from vitoolkit.requests import CHANGES, HOLDS, KINDS, POINTS, Request
from vitoolkit.run import Run
from vitoolkit.trace import Trace

__all__ = ["Replay", "replay_of"]

#: How long the run was is no part of what it was.
_NOT_COMPARED = ("n",)
_OVER = ("pause", "step", "resume")
#: What a run decides by itself; a "rollback" takes it back, as a "rewind" does.
_ITS_OWN = ("rule", "rollback")
_BACK = ("rewind", "rollback")


class Replay(Callback):
    """Repeat what was done to a recorded run, each change at its own step.

    It is what ``vitoolkit.fit(..., replay=trace)`` puts among the callbacks. With the same model,
    data, seed and options every recorded number of the run is the same to the last bit: losses,
    terms, controls, parameters; and so are the events, but for their times. Rules decide by
    themselves, and so does the recovery from NaN. Where the run went back, this one does: the rows
    that were left behind are a branch once more. Nothing waits for a pause.

    Parameters
    ----------
    record : Trace, path or sequence of Event
        The run: its trace, a file of it, or only its events.
    strict : bool
        Whether a run that cannot give the same numbers is refused, before anything is compiled;
        else the differences are a warning.
    fingerprint : mapping, optional
        What the numbers of the recorded run depend on, where only its events are given; default is
        what the trace has.

    Attributes
    ----------
    fingerprint : dict
        What the numbers of the recorded run depend on; empty where only events are given.

    Raises
    ------
    TypeError, ValueError
        When it is no record, or there is something in it that cannot be repeated: an event of an
        unknown kind, a schedule that is a function of your own, rows that were left behind without
        an event that says so, as by ``resume(..., strict=False)``.
    ValueError
        When a fit starts that is not the recorded one; every difference is named.

    Notes
    -----
    Repeated is what is in the record: a watch, or another callback that steered, is not needed
    again, and must not steer twice. A callback that changes parameters or data by itself leaves no
    event: give it again. ``refine`` goes on with the changes that were made during ``refine``.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model() as model:
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    >>> stop = vt.watch("step >= 200", then="stop")
    >>> once = vt.fit(1_000, model=model, random_seed=1, callbacks=stop, progressbar=False)
    >>> again = vt.fit(model=model, replay=once.trace, progressbar=False)
    >>> len(again.trace), bool((again.trace.loss == once.trace.loss).all())
    (200, True)
    """

    def __init__(
        self,
        record: Trace | str | Path | Sequence[Event],
        *,
        strict: bool = True,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        self.strict = flag("strict", strict)
        events, self.fingerprint = _record(record)
        if fingerprint is not None:
            self.fingerprint = dict(fingerprint)
        self._lines = _lines(events, trusted=bool(self.fingerprint))
        self._line = self._lines.pop(0)
        self._first, self._step = True, 0

    def on_fit_start(self, run: Run) -> None:
        """Refuse a fit that is another one, and ask for everything at its step."""
        if self._first and self.fingerprint:
            self._compare(run)
        self._first = False
        self._step = run.step
        self._ask(run)

    @property
    def due(self) -> int | None:
        """The next step at which a callback has logged something before the rules decided."""
        return min((step for step in self._line.notes if step > self._step), default=None)

    def on_block(self, run: Run, block: Block) -> None:
        """Log what a callback has logged before the rules decided."""
        self._step = run.step
        notes = self._line.notes.pop(run.step, None)
        if notes is not None:
            for event in notes:
                run.add_event(event.kind, event.source, event.text)
            run.renew_due()

    def on_rewind(self, run: Run) -> None:
        """Ask for what was done on the next line of steps."""
        run.inbox.forget_ahead()
        self._step = run.step
        if self._lines:
            self._line = self._lines.pop(0)
            self._ask(run)
            run.renew_due()

    def _ask(self, run: Run) -> None:
        for step, request in self._line.requests:
            run.ask(request._replace(time=run.begun + request.time), at=step)

    def on_fit_end(self, run: Run) -> None:
        """Log what was said at the very end, and keep the rest for ``refine``."""
        begun = run.begun
        left = [(at, r._replace(time=r.time - begun)) for at, r in run.inbox.ahead()]
        while left and left[0][0] == run.step and left[0][1].kind == "note":
            _, note = left.pop(0)
            run.add_event("note", note.source, note.text)
        self._line = self._line._replace(requests=left)

    def _compare(self, run: Run) -> None:
        here = fingerprint_of_run(run)
        found = differences(_comparable(self.fingerprint), _comparable(here))
        if not found:
            return
        listed = "".join(f"\n- {line}" for line in found)
        if self.strict:
            raise ValueError(
                f"this is not the fit that was recorded, so that its numbers would be others:"
                f"{listed}\nreplay=vitoolkit.Replay(trace, strict=False) repeats the changes "
                "nevertheless"
            )
        warn_user(f"the replay will not give the numbers of the record:{listed}")

    def __repr__(self) -> str:
        left = sum(len(line.requests) for line in (self._line, *self._lines))
        return f"<Replay, {left} changes to come>"


def replay_of(replay: Any) -> Replay | None:
    """A replay of what ``replay=`` of a fit was given."""
    return replay if replay is None or isinstance(replay, Replay) else Replay(replay)


def _comparable(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fingerprint.items() if key not in _NOT_COMPARED}


def _record(record: Any) -> tuple[Sequence[Event], dict[str, Any]]:
    if isinstance(record, str | Path):
        record = Trace.open(record)
    if isinstance(record, Trace):
        if len(record.branches) > sum(event.kind in _BACK for event in record.events):
            raise ValueError(
                "the recorded run left rows behind and went on from an earlier step as another "
                "fit, which cannot be replayed"
            )
        return record.events, dict(record.attrs.get("fingerprint", {}))
    if isinstance(record, Sequence) and all(isinstance(event, Event) for event in record):
        return record, {}
    raise TypeError(
        "replay must be a Trace, the path of one, a vitoolkit.Replay or a list of "
        f"vitoolkit.Event, received {shown(record)}"
    )


class _Line(NamedTuple):
    """A line of steps: from the start, or where a run went back to, to where it went back next.

    Attributes
    ----------
    first : int
        Its first step.
    of : int
        Number of the line that has the steps before it, -1 for none.
    requests : list of (int, Request)
        What has to be asked for, each with its step.
    notes : dict of int to list of Event
        Notes of callbacks, by step.
    """

    first: int
    of: int
    requests: list[tuple[int, Request]]
    notes: dict[int, list[Event]]


def _lines(events: Sequence[Event], *, trusted: bool) -> list[_Line]:
    """What has to be asked for on each line of steps."""
    lines: list[_Line] = []
    bookmarks: dict[str | None, int] = {}
    first, of, begun = 0, -1, 0
    for end in [*(i + 1 for i, e in enumerate(events) if e.kind in _BACK), len(events)]:
        here, begun = events[begun:end], end
        bookmarks |= {event.text: len(lines) for event in here if event.kind == "bookmark"}
        lines.append(_Line(first, of, _by_step(here, trusted), _notes_of_callbacks(here)))
        if not here or here[-1].kind not in _BACK:
            continue
        first = here[-1].step
        if here[-1].text in bookmarks and here[-1].kind == "rewind":
            of = bookmarks[here[-1].text]
        else:
            of = len(lines) - 1
            while first < lines[of].first:
                of = lines[of].of
            if here[-1].kind == "rewind":  # its point has to be there then
                lines[of].requests.insert(0, (first, Request("keep")))
    return lines


def _by_step(events: Sequence[Event], trusted: bool) -> list[tuple[int, Request]]:
    """What has to be asked for, each with its step; rules and recovery decide by themselves."""
    notes = {id(event) for found in _notes_of_callbacks(events).values() for event in found}
    return [
        (event.step if event.kind != "rewind" else _left_at(event), _request(event, trusted))
        for event in events
        if event.kind not in _ITS_OWN and id(event) not in notes
    ]


def _left_at(event: Event) -> int:
    """The step at which a run went back."""
    if event.old is None:
        raise ValueError(
            f"the rewind to step {event.step:,} does not say where it was asked for: it cannot be "
            "replayed"
        )
    return int(event.old)


def _notes_of_callbacks(events: Iterable[Event]) -> dict[int, list[Event]]:
    """Notes that stand before a rule's decision at the same step: no request comes that early."""
    waiting: list[Event] = []
    found: dict[int, list[Event]] = {}
    for event in events:
        if waiting and waiting[0].step != event.step:
            waiting = []
        if event.kind == "note":
            waiting.append(event)
        elif event.kind == "rule" and waiting:
            found.setdefault(event.step, []).extend(waiting)
            waiting = []
    return found


def _request(event: Event, trusted: bool) -> Request:
    kind = event.kind
    if kind not in KINDS:
        raise ValueError(
            f"an event of kind {kind!r} (step {event.step:,}) cannot be replayed; what can is "
            f"{', '.join(KINDS)}"
        )
    value = event.new if kind in HOLDS else None
    if kind == "rewind" and event.text is None:
        value = event.step
    # Events of an older record, or written by hand, do not say when they were asked for.
    at_once = kind in _OVER or (trusted and kind in CHANGES and event.asked is None)
    asked = event.time if event.asked is None else event.asked
    schedule = None
    if kind == "reschedule" and event.text not in (None, "None"):
        try:
            schedule = schedules.parse(str(event.text))
        except ValueError as error:
            raise ValueError(
                f"the schedule that {event.control!r} was given at step {event.step:,} cannot be "
                f"read back: {error}"
            ) from None
    return Request(
        kind, event.control, value, event.source,
        event.text if kind in ("note", "stop", *POINTS) else None,
        schedule=schedule, time=asked, in_force=at_once, old=event.old,
    )  # fmt: skip
