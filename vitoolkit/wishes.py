"""What other processes ask of a run through its journal, and what they are told of it."""

from __future__ import annotations

import json
import time

from vitoolkit.events import Event
from vitoolkit.journal_file import JournalFile
from vitoolkit.requests import Request
from vitoolkit.run import Run

__all__ = ["Wishes"]


class Wishes:
    """Requests of other processes, from the journal to the inbox, and the answers back.

    Parameters
    ----------
    run : Run
        The run that is asked. Its fitting thread does what is asked at a step boundary; this may be
        any other thread.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open: list[tuple[int, Request, int]] = []
        self._taken: set[int] = set()  # numbers of those that were in no inbox at the last look

    def look(self, file: JournalFile, run_id: int | None, *, last: bool = False) -> None:
        """Pass on what is new, and tell what has become of the rest; the last time, refuse it."""
        if run_id is None:
            return
        for number, body in file.asked(run_id):
            try:
                if last or not self._run.running:
                    raise ValueError(f"the fit has ended ({self._run.status})")
                before = len(self._run.log)
                request = self._asked(body)
            except (TypeError, ValueError, KeyError, RecursionError) as error:
                file.answer(number, "refused", str(error)[:1_000])
            else:
                file.answer(number, "taken")
                self._open.append((number, request, before))
        waiting = {(one.kind, one.control, one.time) for one in self._run.inbox.waiting()}
        still = []
        for number, request, before in self._open:
            if (request.kind, request.control, request.time) in waiting and not last:
                still.append((number, request, before))
                continue
            event = _event_of(request, self._run.log[before:])
            if event is not None:
                file.answer(number, "done", _words(event), event.step)
            elif last:
                file.answer(number, "refused", "the fit ended before")
            elif number in self._taken:
                file.answer(number, "done", "nothing had to be done", self._run.step)
            else:  # the fitting thread may have it in hand just now
                self._taken.add(number)
                still.append((number, request, before))
        self._open = still
        self._taken.intersection_update(number for number, *_ in still)

    def _asked(self, body: str) -> Request:
        """Check a request, and put it into the inbox."""
        request = Request.from_json(json.loads(body))
        request = request._replace(time=time.perf_counter(), in_force=False, old=None)
        if request.kind == "interrupt":
            raise ValueError("an interrupt is Ctrl-C in the process itself: ask it to stop")
        self._run.ask(request)
        return request


def _event_of(request: Request, log: list[Event]) -> Event | None:
    """The event that a request has become, or that of one which took its place."""
    for event in log:
        if event.time >= request.time and (event.kind, event.control, event.source) == (
            request.kind, request.control, request.source,
        ):  # fmt: skip
            return event
        if request.kind == event.kind == "undo" and event.time >= request.time:
            return event
    return None


def _words(event: Event) -> str:
    if event.kind == "rewind":
        return f"back at step {event.step:,}"
    if event.new is not None:
        return f"{event.control} is {event.new:g} from step {event.step:,} on"
    return f"{event.kind} at step {event.step:,}"
