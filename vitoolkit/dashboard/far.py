"""The panel of a fit in another process, drawn from its journal and asking through it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytensor

from vitoolkit import schedules
from vitoolkit.controls import Beta, Control, Draws, LearningRate, Switch
from vitoolkit.dashboard.panel import Panel
from vitoolkit.events import Event
from vitoolkit.journal_file import MEMORY, JournalFile, Shelf, empty_fields
from vitoolkit.journal_rows import ENDED, RunRow
from vitoolkit.requests import CHANGES, Change, Request
from vitoolkit.rules import Rule
from vitoolkit.run import Run
from vitoolkit.trace import Trace

__all__ = ["FarPanel", "FarRun"]

#: Seconds between two looks at the journal.
LOOK = 0.1
_KINDS: dict[str, type[Control]] = {"Beta": Beta, "LearningRate": LearningRate}


class _Elsewhere(Rule):
    """Stands for a rule that moves a control in the other process."""


class _Asked:
    """What was asked for and not answered yet, as a control looks at it."""

    def __init__(self, run: FarRun) -> None:
        self._run = run

    def remember(self, change: Change) -> None:
        """Nothing: the other process remembers its changes."""

    def waiting(self, control: str | None = None) -> list[Request]:
        waiting = [*self._run.outbox, *self._run.open.values()]
        return [r for r in waiting if control in (None, r.control)]

    def can_undo(self, control: str | None = None) -> bool:
        return self._run.changes(control) > 0


class _Bookmark(NamedTuple):
    """A point that was kept there."""

    name: str
    step: int


class _Points:
    """What the run can go back to, as its journal has it."""

    def __init__(self) -> None:
        self.bookmarks: list[_Bookmark] = []
        self.checkpoints: list[int] = []

    def steps(self) -> list[int]:
        """Steps of the checkpoints."""
        return self.checkpoints


class FarRun:
    """A run of another process: where it stands by its journal, and what is asked of it.

    One thread calls :meth:`look`; any thread asks.

    Parameters
    ----------
    path : str or Path
        The journal.
    run_id : int
        Number of the run in it.
    """

    unused: tuple[str, ...] = ()
    compiles = "the step, in another process"
    took_before: float | None = None
    steps_per_second: float | None = None
    inference: Any = None

    def __init__(self, path: str | Path, run_id: int) -> None:
        self.path, self.run_id = Path(path), run_id
        self.outbox: deque[Request] = deque()
        #: Requests that are in the journal and not answered, by their number there.
        self.open: dict[int, Request] = {}
        self.inbox, self.log = _Asked(self), list[Event]()
        self.points = _Points()
        #: Why the last request was refused, "" where it was not.
        self.refused = ""
        self.wake = threading.Event()
        self._writer: JournalFile | None = None
        with JournalFile(self.path) as file, file.transaction("DEFERRED"):
            self.row: RunRow = file.run(run_id)
            found = file.fill(Trace(*empty_fields(file.description(run_id))), run_id)
            assert isinstance(found, Trace)
            self.trace = found
            self._branches = file.branch_count(run_id)
        self.controls = tuple(_control(*item) for item in self.row.controls.items())
        for control in self.controls:
            control.bind(self)
        self._follow()

    # --- what the panel reads ---------------------------------------------------------------------

    first = property(lambda self: self.row.first)
    step = property(lambda self: self.row.step)
    n = property(lambda self: self.row.stop - self.row.first)
    columns = property(lambda self: self.trace.columns)
    prepared = property(lambda self: self.trace.attrs.get("compilation", ""))

    @property
    def status(self) -> str:
        """As of a run; one whose process is gone has failed."""
        return "failed" if self.row.state == "lost" else self.row.state

    @property
    def running(self) -> bool:
        """Whether a process trains it."""
        return self.status not in ENDED

    @property
    def holding(self) -> str:
        """What lets it go on, with what was asked for meanwhile."""
        paused = self.status == "paused"
        for request in self.inbox.waiting():
            if request.kind in ("pause", "step", "resume"):
                paused = request.kind != "resume"
        return "resume" if paused and self.running else ""

    @property
    def error(self) -> BaseException | None:
        """What ended it."""
        if self.row.state == "lost":
            return RuntimeError("its process is gone: vitoolkit.resume goes on with the run")
        name, _, words = str(self.trace.attrs.get("error", "")).partition(": ")
        return type(name, (Exception,), {})(words) if name else None

    @property
    def can_undo(self) -> bool:
        """Whether a change is there to be taken back."""
        return self.running and self.changes() > 0

    def changes(self, control: str | None = None) -> int:
        """How many changes of this call of ``fit`` are in force."""
        here = [e for e in self.trace.events if e.step >= self.first]
        here = [e for e in here if control in (None, e.control)]
        made = sum(e.kind in CHANGES for e in here)
        return made - sum(e.kind == "undo" for e in here)

    # --- what is asked ----------------------------------------------------------------------------

    def ask(self, request: Request) -> None:
        """Ask for something; :meth:`look` takes it to the journal, and hears what became of it."""
        self.outbox.append(request)
        self.wake.set()

    def give_way(self) -> None:
        """A run of another process gives way to nobody here."""

    def limit(self, steps_per_second: float | None) -> None:
        """The pace belongs to the other process."""

    def pause(self, *, source: str = "code") -> None:
        """Wait at the next step boundary."""
        self.ask(Request("pause", source=source))

    def resume(self, *, source: str = "code") -> None:
        """Go on."""
        self.ask(Request("resume", source=source))

    def single_step(self, *, source: str = "code") -> None:
        """Take one more step and pause again."""
        self.ask(Request("step", source=source))

    def stop(self, *, source: str = "code", why: str | None = None) -> None:
        """End at the next step boundary and keep everything."""
        self.ask(Request("stop", source=source, text=why))

    def undo(self, *, source: str = "code") -> bool:
        """Take back the last change; False when there was none."""
        if not self.can_undo:
            return False
        self.ask(Request("undo", source=source))
        return True

    def note(self, text: str, *, source: str = "code") -> None:
        """Write a note at the present step."""
        self.ask(Request("note", source=source, text=text))

    def bookmark(self, name: str | None = None, *, source: str = "code") -> None:
        """Keep this point."""
        self.ask(Request("bookmark", source=source, text=name))

    def rewind(self, to: int | str, *, source: str = "code") -> None:
        """Go back to a bookmark, or to the last checkpoint up to a step."""
        self.ask(Run.point_request(to, source))

    # --- between here and the journal -------------------------------------------------------------

    def look(self, file: JournalFile) -> None:
        """Hand over what was asked, and take in what is new; `file` is open for reading."""
        self._exchange()
        with file.transaction("DEFERRED"):
            self.row = file.run(self.run_id)
            if (branches := file.branch_count(self.run_id)) != self._branches:
                self._went_back(file, branches)
            last = int(self.trace[-1:].step[0]) if len(self.trace) else -1
            rows = file.rows(self.run_id, first=last + 1)
            events = file.events(self.run_id, first=len(self.trace.events))
            self.points.checkpoints = file.checkpoints(self.run_id)
            attrs = {} if self.running else file.description(self.run_id)["attrs"]
        if rows is not None and len(rows):
            controls = self.trace.width - len(self.trace.controls)
            step = rows[:, 0].view(np.int64)
            self.trace.extend(step, rows[:, 1], rows[:, 2], rows[:, 3:controls], rows[:, controls:])
            self.trace.let_go(self.trace[:], MEMORY, partial(Shelf, self.path, self.run_id))
        for event in events:
            self.trace.add_event(event)
        self.points.bookmarks = [
            _Bookmark(str(event.text), event.step)
            for event in self.trace.events
            if event.kind == "bookmark"
        ]
        self.trace.attrs.update(attrs)
        self._follow()

    def close(self) -> None:
        """Let go of the controls and of the journal."""
        for control in self.controls:
            control.unbind(self)
        if self._writer is not None:
            self._writer.close()

    def _exchange(self) -> None:
        if not (self.outbox or self.open):
            return
        if self._writer is None:
            self._writer = JournalFile(self.path, write=True)
        while self.outbox:
            request = self.outbox[0]
            number = self._writer.ask(self.run_id, request.to_json())
            self.open[number] = self.outbox.popleft()
        for number in [*self.open]:
            state, words, _ = self._writer.answered(number)
            if state in ("done", "refused"):
                del self.open[number]
                self.refused = f"refused: {words}" if state == "refused" else ""

    def _went_back(self, file: JournalFile, branches: int) -> None:
        """Take out the rows that the run has left behind."""
        for number in range(self._branches + 1, branches + 1):
            step = file.branch_step(self.run_id, number)
            self.trace.go_back(step, len(self.trace.branches))
        self._branches = branches

    def _follow(self) -> None:
        """Put the controls where those of the other process stand."""
        for control in self.controls:
            told = self.row.controls.get(control.name)
            if told is None:
                continue
            try:
                schedule = schedules.parse(told["schedule"]) if told.get("schedule") else None
            except ValueError:  # a function of the other process
                schedule = None
            if schedule is not None and repr(control.schedule) == repr(schedule):
                schedule = control.schedule
            rule: dict[str, Any] = {"begun": False, "left": False, "rule": None, "learned": {}}
            control.stand(
                {"asked": told["value"], "manual": told.get("manual", False), **rule}
                | {"schedule": schedule}
            )


def _control(name: str, told: dict[str, Any]) -> Control:
    """A control here that stands for one of the other process."""
    value, kind = told["value"], told["kind"]
    if kind == "Switch":
        return Switch(pytensor.shared(np.int8(value)), name=name)
    more: dict[str, Any] = {"rule": _Elsewhere()} if told.get("rule") else {}
    if kind == "Draws":
        low, high = map(int, told["bounds"])
        return Draws(int(value), bounds=(low, high), name=name, **more)
    if kind not in _KINDS:
        more["scale"] = told.get("scale", "linear")
    return _KINDS.get(kind, Control)(value, bounds=tuple(told["bounds"]), name=name, **more)


class FarPanel:
    """The panel of a run of another process, and the thread that keeps it up to date.

    Parameters
    ----------
    path : str or Path
        The journal.
    run_id : int
        Number of the run in it.
    """

    def __init__(self, path: str | Path, run_id: int) -> None:
        self.run = FarRun(path, run_id)
        self.panel = Panel(self.run, self.run.controls, self.run.trace.variables, {}, {})
        pace = self.panel.actions.pace
        buttons = self.panel.actions.buttons
        buttons.children = tuple(w for w in buttons.children if w is not pace)
        self.panel.steered_by("thread", f"steered through {Path(path).name}")
        self.panel.watch(self.run.trace, {})
        self._thread = threading.Thread(target=self._work, name="vitoolkit attached", daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether its widgets are there."""
        return self.panel.open

    def _work(self) -> None:
        run, panel = self.run, self.panel
        try:
            while panel.open:
                try:
                    with JournalFile(run.path) as file:
                        self._follow(file)
                    return
                except (OSError, ValueError, sqlite3.Error) as error:
                    panel.say(f"the journal cannot be read at the moment: {error}")
                    time.sleep(1.0)
        finally:
            run.close()

    def _follow(self, file: JournalFile) -> None:
        run, panel = self.run, self.panel
        while panel.open:
            run.look(file)
            panel.say(run.refused)
            if not run.running:
                panel.finish()
                return
            panel.refresh()
            run.wake.wait(LOOK)
            run.wake.clear()
