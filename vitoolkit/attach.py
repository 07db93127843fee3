"""A fit of another process, seen and steered through its journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from vitoolkit.journal_file import JournalFile, empty_fields
from vitoolkit.journal_rows import RunRow
from vitoolkit.requests import Request
from vitoolkit.trace import Trace

__all__ = ["Answer", "Attached", "attach"]

_LOOK_SECONDS = 0.02


class Answer(NamedTuple):
    """What became of a request.

    Attributes
    ----------
    step : int or None
        The first step that ran with it.
    words : str
        The same in words.
    """

    step: int | None
    words: str


class Attached:
    """A run of a journal; what is asked of it is done by the process that trains.

    Parameters
    ----------
    path : str or Path
        The journal.
    run : int
        Number of the run in it.
    source : str
        Who asks, for the events.
    """

    def __init__(self, path: str | Path, run: int, source: str = "attach") -> None:
        self.path, self.run_id, self.source = Path(path).expanduser(), run, source
        self._panel: Any = None

    @property
    def row(self) -> RunRow:
        """Where the run stands, and who trains it."""
        with JournalFile(self.path) as file:
            return file.run(self.run_id)

    @property
    def status(self) -> str:
        """As of a run; "lost" when its process is gone without a word."""
        return self.row.state

    @property
    def step(self) -> int:
        """The next step."""
        return self.row.step

    @property
    def controls(self) -> dict[str, Any]:
        """Kind and bounds of each control, by name."""
        return self.row.controls

    @property
    def trace(self) -> Trace:
        """The record up to now, read from the file."""
        return Trace.open(self.path, run=self.run_id)

    def last(self, rows: int = 100) -> Trace:
        """The last rows, and all events; what it costs does not grow with the run."""
        with JournalFile(self.path) as file, file.transaction("DEFERRED"):
            empty = Trace(*empty_fields(file.description(self.run_id)))
            found = file.tail(self.run_id, rows)
            trace = empty if found is None else empty.of_kept(found)
            trace.attrs = empty.attrs
            for event in file.events(self.run_id):
                trace.add_event(event)
        assert isinstance(trace, Trace)
        return trace

    # --- what is asked ------------------------------------------------------------------------

    def ask(self, request: Request, *, timeout: float = 60.0) -> Answer:
        """Ask for something, and wait until it is in force.

        Parameters
        ----------
        request : Request
            As for a run of this process.
        timeout : float
            Most seconds to wait for the answer; a fit that compiles answers when it takes steps.

        Returns
        -------
        Answer

        Raises
        ------
        RuntimeError
            When no process trains the run.
        ValueError
            When it was refused; the message says why.
        TimeoutError
            When there was no answer in time; it may be done yet.
        """
        row = self.row
        if not row.alive:
            raise RuntimeError(f"run {row.id} of {self.path} is not trained any more: {row.state}")
        with JournalFile(self.path, write=True) as file:
            number = file.ask(self.run_id, request.to_json())
            until = time.monotonic() + timeout
            while True:
                state, words, step = file.answered(number)
                if state == "done":
                    return Answer(step, words or "")
                if state == "refused":
                    raise ValueError(f"{self.path} refused it: {words}")
                if time.monotonic() > until:
                    raise TimeoutError(f"run {row.id} has not answered within {timeout:g} s")
                time.sleep(_LOOK_SECONDS)

    def _ask(self, kind: str, timeout: float, **fields: Any) -> Answer:
        return self.ask(Request(kind, source=self.source, **fields), timeout=timeout)

    def set(self, control: str, value: float, *, timeout: float = 60.0) -> Answer:
        """Set a control, in force from the next step on."""
        return self._ask("set", timeout, control=control, value=float(value))

    def release(self, control: str, *, timeout: float = 60.0) -> Answer:
        """Give a control back to its schedule or rule."""
        return self._ask("release", timeout, control=control)

    def pause(self, *, timeout: float = 60.0) -> Answer:
        """Wait before the next step until :meth:`resume`."""
        return self._ask("pause", timeout)

    def resume(self, *, timeout: float = 60.0) -> Answer:
        """Go on after :meth:`pause`."""
        return self._ask("resume", timeout)

    def stop(self, *, timeout: float = 60.0) -> Answer:
        """End the fit at the next step boundary, with everything kept."""
        return self._ask("stop", timeout)

    def bookmark(self, name: str | None = None, *, timeout: float = 60.0) -> Answer:
        """Keep this point, so that :meth:`rewind` can go back to it by name."""
        return self._ask("bookmark", timeout, text=name)

    def rewind(self, to: int | str, *, timeout: float = 60.0) -> Answer:
        """Go back to a bookmark, or to the last checkpoint up to a step, and on from there."""
        if isinstance(to, str):
            return self._ask("rewind", timeout, text=to)
        return self._ask("rewind", timeout, value=to)

    def note(self, text: str, *, timeout: float = 60.0) -> Answer:
        """Write a note at the present step."""
        return self._ask("note", timeout, text=text)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The panel of the run, live and to be steered while its process trains it."""
        from vitoolkit.dashboard.far import FarPanel

        if self._panel is None or not self._panel.open:
            self._panel = FarPanel(self.path, self.run_id)
        return self._panel.panel.widget._repr_mimebundle_(**kwargs)

    def __repr__(self) -> str:
        row = self.row
        return f"<Attached to run {row.id} of {str(self.path)!r}: {row.state}, step {row.step:,}>"


def attach(path: str | Path, *, run: int | None = None, source: str = "attach") -> Attached:
    """Steer a fit of another process, or look at one, through its journal.

    Parameters
    ----------
    path : str or Path
        The journal.
    run : int, optional
        Which run; the last by default.
    source : str
        Who asks, as its events say.

    Returns
    -------
    Attached

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    KeyError
        When there is no such run.
    ValueError
        When it is no journal.

    Notes
    -----
    In a notebook it shows itself as the live panel of the run, to be steered as one of its own.
    There is no port and no server: what is asked is a row of the file, which only its owner may
    write. The process that trains looks ten times a second, checks it as it checks a person at a
    widget, and does it at a step boundary.

    Examples
    --------
    >>> import tempfile
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with tempfile.TemporaryDirectory() as folder, pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(50, record=f"{folder}/run.db", progressbar=False)
    ...     seen = vt.attach(f"{folder}/run.db")
    ...     seen.status, seen.step, len(seen.trace)
    ('finished', 50, 50)
    """
    with JournalFile(path) as file:
        return Attached(path, file.run(run).id, source)
