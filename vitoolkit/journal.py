"""The record on disk while it grows, written by a thread that reads the trace as any view does.

The fitting thread writes no file: now and then it copies its state. What other processes ask is
read here as well, and put where a widget of this process would put it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vitoolkit.advise import warn_user
from vitoolkit.checks import real_number, shown, whole_number
from vitoolkit.file_systems import network_kind
from vitoolkit.journal_file import MEMORY, JournalFile, Shelf
from vitoolkit.journal_rows import ENDED, Saved
from vitoolkit.points import Point
from vitoolkit.requests import CHANGES
from vitoolkit.run import Run
from vitoolkit.state import State
from vitoolkit.termination import Termination
from vitoolkit.trace import Trace
from vitoolkit.wishes import Wishes

__all__ = ["Journal", "journal_of"]

#: Seconds between two looks at what other processes ask, and between two writes.
LOOK, WRITE = 0.1, 0.4
#: Seconds between two signs of life while nothing else is written.
BEAT = 4.0
#: Seconds until a journal that cannot be written is tried again.
AGAIN = 3.0
#: Seconds that the end of a fit waits for the last rows to be written.
LAST = 20.0
#: Copying the state takes at most one part in this of the time.
SHARE = 200
#: Kinds of event after which the state is copied at once, so that a resumed run knows of them.
PERSONAL = (*CHANGES, "undo", "rewind", "rollback", "bookmark")


class Journal:
    """Where a fit is recorded while it runs, and how often its state is saved.

    Parameters
    ----------
    path : str or Path
        The file, an SQLite database. It may hold any number of runs, each with a number of its own,
        and any number of processes may read it at any time. A new file is for its owner only.
    seconds : float
        Seconds between two checkpoints.
    steps : int, optional
        Steps between two checkpoints, if fewer than `seconds` take.
    keep : int
        So many checkpoints of a run are kept, the last ones.
    memory : int, optional
        Bytes of the trace that stay in memory, beside the some 16 MB that are being filled. Older
        rows are in the file alone, and are read from it where something asks for them: the trace
        answers as if it had them. None keeps all in memory.

    Attributes
    ----------
    run_id : int or None
        Number of the present run in the file, None before there is one.
    problem : str or None
        Why it is not written at the moment, in words.

    Raises
    ------
    TypeError, ValueError
        When an argument cannot have its value.
    FileNotFoundError
        When the folder does not exist.

    Notes
    -----
    Rows, events and requests are on disk less than a second after they were. What was written is
    there whole: after the process was killed, and, as SQLite waits for the disk at each write
    (``synchronous=FULL``), after a loss of power. At most the last second is missing.

    A journal that cannot be written (a full disk, a folder without permission, a file that is
    damaged or locked, a network file system) costs the fit nothing: one warning says what to do,
    the trace is in memory, and the journal catches up if it can. Rows leave the memory when they
    are on disk, and not before. A trace that has left some is whole as long as its file is there.

    Examples
    --------
    >>> import tempfile
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with tempfile.TemporaryDirectory() as folder, pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(200, record=f"{folder}/run.db", random_seed=1, progressbar=False)
    ...     vt.Trace.open(f"{folder}/run.db").equals(fit.trace)
    True
    """

    def __init__(
        self,
        path: str | Path,
        *,
        seconds: float = 10.0,
        steps: int | None = None,
        keep: int = 3,
        memory: int | None = MEMORY,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"record is the path of a journal, received {shown(path)}")
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise ValueError(f"record is the path of a file; {str(path)!r} is a folder")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"no journal can be made at {str(path)!r}: there is no folder "
                f"{str(self.path.parent)!r}"
            )
        self.seconds = real_number("seconds", seconds, above=0)
        self.steps = None if steps is None else whole_number("steps", steps, least=1)
        self.keep = whole_number("keep", keep, least=1)
        self.memory = (
            None if memory is None else whole_number("memory", memory, least=0, of="bytes")
        )
        #: What the fit was asked for, for those who resume it.
        self.options: dict[str, Any] | None = None
        self.run_id: int | None = None
        self.problem: str | None = None
        self._trace: Trace | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        #: States with the numbers of events and of branches that there were.
        self._states: deque[tuple[State, int, int]] = deque(maxlen=self.keep)
        self._rows = self._events = self._branches = self._bookmarks = 0
        self._ending = self._for_good = False
        self._held = False  # until what was resumed can take steps: what fails before is no run

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "seconds", "steps", "keep", "memory", "options")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = state.pop("options")
        self.__init__(**state)  # type: ignore[misc]
        self.options = options

    def __repr__(self) -> str:
        where = "" if self.run_id is None else f", run {self.run_id}"
        return f"<Journal {str(self.path)!r}{where}>"

    def goes_on(self, trace: Trace, run_id: int) -> None:
        """Go on with a run of the file, whose trace was read up to a checkpoint."""
        self._trace, self.run_id = trace, run_id
        self._rows, self._events = len(trace), len(trace.events)
        self._branches = len(trace.branches)
        self._bookmarks = len(self.bookmarks())
        self._held = True

    def bookmarks(self) -> list[Point]:
        """The bookmarks of the present run that are in the file."""
        if self.run_id is None:
            return []
        with JournalFile(self.path) as file:
            return [
                Point(_state(saved), turns, name)
                for name, turns, saved in file.bookmarks(self.run_id)
            ]

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints of the present run, as far as they can be read."""
        if self.run_id is None or self.problem is not None:
            return []
        try:
            with JournalFile(self.path) as file:
                return file.checkpoints(self.run_id)
        except (OSError, ValueError, sqlite3.Error):  # the thread that writes says what is wrong
            return []

    def state_at(self, step: int) -> State | None:
        """The last state up to a step that is kept of the present run, None without one."""
        early = [known for known in self.saved_steps() if known <= step]
        if not early:
            return None
        assert self.run_id is not None
        with JournalFile(self.path) as file:
            return _state(file.checkpoint(self.run_id, early[-1]))

    # --- what the fitting thread does -----------------------------------------------------------

    def begin(self, run: Run, trace: Trace, collect: Callable[[], None]) -> None:
        """Begin to follow a trace, or go on with it; `collect` puts the run's last events there."""
        self._collect = collect
        if trace is not self._trace:
            self._trace, self.run_id = trace, None
            self._rows = self._events = self._branches = 0
            self._bookmarks = 0 if run.points is None else len(run.points.bookmarks)
            self._states.clear()
        if run.points is not None:
            run.points.shelf = self
            self._turns = len(run.points.turns) - len(trace.branches)
        self.problem, self._said, self._ending, self._for_good = None, False, False, False
        self._run, self._fields = run, _standing_of(run)
        self._at = self.path.absolute()  # wherever the process goes
        if (kind := network_kind(self.path)) is not None:
            self._fail(
                f"it is on a network file system ({kind}), where what SQLite promises does not "
                "hold",
                "give record= a path on a disk of this machine",
                for_good=True,
            )
            self._say()
            return
        self._seen_log, self._whole = len(run.log), -1
        self._saved_step, self._due = run.step, time.monotonic() + self.seconds
        self._free = 0.0  # when the state may be copied again
        self._changed = False  # by a person, since the last copy
        run.on_boundary.append(self.boundary)
        self._wake.clear()
        self._thread = threading.Thread(target=self._work, name="vitoolkit journal", daemon=True)
        self._thread.start()
        self._termination = Termination.of(run)

    def compiled(self, run: Run) -> None:
        """Save where the run begins."""
        self._held = False
        self._save(run)

    def boundary(self, run: Run) -> None:
        """Save the state if that is due; called when all of a block is done."""
        self._whole = run.step
        if self.problem is not None:
            self._say()
        if len(run.log) != self._seen_log:
            new = run.log[self._seen_log :]
            self._changed = self._changed or any(event.kind in PERSONAL for event in new)
            self._seen_log = len(run.log)
        now = time.monotonic()
        many = self.steps is not None and run.step - self._saved_step >= self.steps
        # What a callback has asked for at this very step would be missing in the state.
        quiet = now > self._free and not run.inbox.waiting()
        if (self._changed or many or now > self._due) and quiet:
            self._save(run)

    def went_back(self, run: Run) -> None:
        """Save where the fit has gone back to: what was left behind is not gone on from."""
        self._saved_step, self._whole = run.step, run.step
        self._seen_log = len(run.log)
        self._save(run)
        if self._thread is None and self.problem is None:  # the fit has ended
            try:
                with JournalFile(self.path, write=True) as file:
                    self._write(file, last=False)
            except (OSError, ValueError, sqlite3.Error) as error:
                self._fail(*_explained(error, self.path))
                self._say()

    def idle(self, run: Run) -> None:
        """Say what is wrong, while the fit is paused."""
        if self.problem is not None:
            self._say()

    def end(self, run: Run) -> None:
        """Save the last state, and wait for all to be written."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self.boundary in run.on_boundary:
            run.on_boundary.remove(self.boundary)
        if self._whole == run.step and run.status != "failed":
            self._save(run)
        self._fields = _standing_of(run)
        self._ending = True
        self._wake.set()
        thread.join(LAST)
        if thread.is_alive():
            self._fail("the last rows could not be written in time", "save the trace yourself")
        if self.problem is not None:
            self._say()
        self._termination.over(run)

    def _save(self, run: Run) -> None:
        """Copy the state, for the other thread to write."""
        begun = time.monotonic()
        if getattr(run.inference, "step_function", None) is None:  # PyMC's own loop keeps it
            return
        assert self._trace is not None
        state = State.of(run)
        self._collect()  # what a rule has just decided is in the state, and is not decided again
        if state.checkpoint.finite():
            self._states.append((state, len(self._trace.events), len(self._trace.branches)))
            self._saved_step, self._changed = run.step, False
        now = time.monotonic()
        self._due, self._free = now + self.seconds, now + SHARE * (now - begun)

    def _say(self) -> None:
        if not self._said:
            self._said = True
            warn_user(
                f"the journal {self.path} is not written: {self.problem}. The fit goes on, and its "
                f"trace is in memory: trace.save('fit.nc') writes it. To have a journal, "
                f"{self._advice}",
                RuntimeWarning,
            )

    def _fail(self, problem: str, advice: str, *, for_good: bool = False) -> None:
        self._advice, self._for_good = advice, for_good
        self.problem = problem

    # --- what the other thread does ---------------------------------------------------------------

    def _work(self) -> None:
        file: JournalFile | None = None
        wishes = Wishes(self._run)
        written = again = 0.0
        try:
            while True:
                self._wake.wait(LOOK)
                last, now = self._ending, time.monotonic()
                if self.problem is not None and now < again and not last:
                    continue
                try:
                    if file is None:
                        file = JournalFile(self.path, write=True)
                    wishes.look(file, self.run_id, last=last)
                    if not self._held and (last or now - written > WRITE):
                        self._write(file, last)
                        written = now
                    self.problem = None
                except Exception as error:  # whatever is wrong with a journal is no fit's end
                    self._fail(*_explained(error, self.path), for_good=_hopeless(error))
                    again = time.monotonic() + AGAIN
                    if file is not None:
                        file.close()
                        file = None
                    if self._for_good:
                        return
                if last:
                    return
        finally:
            if file is not None:
                file.close()

    def _write(self, file: JournalFile, last: bool) -> None:
        """Write what is new, all or nothing."""
        assert self._trace is not None
        copied, run = list(self._states), self._run
        bookmarks = [] if run.points is None else run.points.bookmarks[self._bookmarks :]
        trace = self._trace[:]  # after the states: their rows are there
        if self.run_id is not None and not file.has(self.run_id, trace):
            # Somebody took the file away: all goes to the one that is there now.
            self.run_id = None
            self._rows = self._events = self._branches = self._bookmarks = 0
            bookmarks = [] if run.points is None else run.points.bookmarks
        new_branches = trace.branches[self._branches :]
        states = [entry for entry in copied if entry[2] == len(trace.branches)]
        if new_branches and not (states or last):
            return  # the state that goes with them is being copied
        if bookmarks:  # those whose event is not there yet come with it
            named = {event.text for event in trace.events if event.kind == "bookmark"}
            bookmarks = [point for point in bookmarks if point.name in named]
        self._fields = _standing_of(run) if run.running else self._fields
        fields: dict[str, Any] = {"status": run.status, "step": run.step, **self._fields}
        whole = bool(states) or last or self.run_id is None
        new = self.run_id is None or len(trace) != self._rows or len(trace.events) != self._events
        if not (whole or new or bookmarks) and time.monotonic() - self._beat < BEAT:
            return
        with file.transaction():
            number, rows = self.run_id, self._rows
            if number is None:
                number = file.add_run(trace, options=self.options, **fields)
            for i, branch in enumerate(new_branches, self._branches + 1):
                file.put_branch(number, i, branch)
                rows = min(rows, trace.rows_before(branch.step))
            file.put_table(number, trace[rows:])
            if len(trace.events) > self._events or last:
                file.put_events(number, self._events, trace.events[self._events :])
            for state, events, _ in states:
                file.put_checkpoint(number, _saved(state, events), self.keep)
            for point in bookmarks:
                saved = _saved(point.state, len(trace.events))
                file.put_bookmark(number, str(point.name), max(point.turns - self._turns, 0), saved)
            if run.status == "finished":
                file.drop_rows(number, run.step)  # of a run that was resumed to fewer steps
            if last:
                fields["status"] = run.status if run.status in ENDED else "failed"
            file.update(number, trace if whole else None, **fields)
        self.run_id, self._beat = number, time.monotonic()
        self._rows, self._events = len(trace), len(trace.events)
        self._branches = len(trace.branches)
        self._bookmarks += len(bookmarks)
        for entry in copied:
            if self._states and self._states[0] is entry:
                self._states.popleft()
        if self.memory is not None and file.in_place:  # else nobody would find them
            self._trace.let_go(trace, self.memory, partial(Shelf, self._at, number))

    _beat = 0.0
    _turns = 0


def journal_of(record: Any) -> Journal | None:
    """The journal that ``record=`` asks for: a path, or a Journal, which may say how often."""
    return record if record is None or isinstance(record, Journal) else Journal(record)


def _saved(state: State, events: int) -> Saved:
    return Saved(state.step, events, state.controls_to_json(), state.checkpoint.to_bytes())


def _state(saved: Saved) -> State:
    return State.read(saved.step, saved.data, saved.controls)


def _standing_of(run: Run) -> dict[str, Any]:
    controls = {
        control.name: {
            "kind": type(control).__name__,
            "value": control.value,
            "bounds": control.bounds,
            "scale": control.scale,
            "manual": control.manual,
            "schedule": None if control.schedule is None else repr(control.schedule),
            "rule": None if control.rule is None else type(control.rule).__name__,
        }
        for control in run.controls
        if control.name not in run.unused
    }
    return {"first": run.first, "stop": run.first + run.n, "controls": controls}


def _hopeless(error: Exception) -> bool:
    """Whether trying again will not help."""
    if isinstance(error, sqlite3.OperationalError):
        return False
    return not isinstance(error, OSError) or isinstance(error, PermissionError)


def _explained(error: Exception, path: Path) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return (
            "another program holds its lock",
            "end that program or let it go: the journal then catches up",
        )
    if "full" in text or getattr(error, "errno", None) == 28:
        return "the disk is full", "free some space: the journal then catches up"
    if isinstance(error, PermissionError) or "readonly" in text or "unable to open" in text:
        return (
            f"it cannot be written there ({text})",
            "give record= a folder that you may write to",
        )
    if isinstance(error, sqlite3.DatabaseError | ValueError):
        return text, "give record= another file; this one is left as it is"
    return f"{type(error).__name__}: {text}", "give record= another path"
