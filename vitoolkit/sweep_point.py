"""What a worker of a sweep does: fit its points, and go on with those that were begun."""

from __future__ import annotations

import inspect
import json
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitoolkit.coordinates import coordinates_of
from vitoolkit.fingerprint import differences, fingerprint_of_model
from vitoolkit.fit import Fit, fit
from vitoolkit.given import AGAIN, told
from vitoolkit.journal import Journal
from vitoolkit.journal_file import JournalFile
from vitoolkit.journal_rows import RunRow
from vitoolkit.resume import resume
from vitoolkit.run import Run
from vitoolkit.snapshots import moments
from vitoolkit.trace import Trace

__all__ = ["Outcome", "Point", "Task", "end_sweep", "last_run"]

_LOOK_SECONDS = 0.5
#: What a fit is asked for where nobody says otherwise: a journal would remember what was before.
_DEFAULTS = {
    name: option.default
    for name, option in inspect.signature(fit).parameters.items()
    if option.kind is option.KEYWORD_ONLY
    and name not in ("model", "record", "background", "dashboard", "progressbar")
}

_ended: set[str] = set()


def end_sweep(sweep: str) -> None:
    """End all fits of a sweep in this process at their next step boundary."""
    _ended.add(sweep)


class Point(NamedTuple):
    """One point of a grid.

    Attributes
    ----------
    key : tuple
        Its labels, in the grid's order.
    of_build, options : dict
        Arguments of the function that builds the model, and options of the fit.
    path : Path
        Its journal.
    """

    key: tuple
    of_build: dict[str, Any]
    options: dict[str, Any]
    path: Path


class Outcome(NamedTuple):
    """What became of a point.

    Attributes
    ----------
    status : str
        As of a run; "failed" as well when the fit could not begin.
    error : str
        What went wrong, or "".
    told : str
        Where it went wrong: the traceback, or "".
    trace : Trace or None
        The record, where there is no journal of it that who asked can read.
    """

    status: str
    error: str = ""
    told: str = ""
    trace: Trace | None = None


class Task(NamedTuple):
    """Points that one worker fits, one after the other: those of one model share compiled code.

    Attributes
    ----------
    build : callable
        Builds the model, and may give options of the fit beside it.
    points : sequence of Point
    n : int
        Steps of each fit.
    seconds : float
        Between two checkpoints.
    host : str
        Machine of who asked.
    sweep : str
        Name of the sweep, by which :func:`end_sweep` ends it.
    """

    build: Callable[..., Any]
    points: Sequence[Point]
    n: int
    seconds: float
    host: str
    sweep: str

    def run(self) -> dict[tuple, Outcome]:
        """Fit all points."""
        return {point.key: self._outcome(point) for point in self.points}

    @property
    def _over(self) -> bool:
        return self.sweep in _ended

    def _outcome(self, point: Point) -> Outcome:
        try:
            return self._fit(point)
        except Exception as error:  # of one point: the others go on
            words = f"{type(error).__name__}: {error}"
            return Outcome("failed", words, traceback.format_exc())

    def _fit(self, point: Point) -> Outcome:
        row = last_run(point.path)
        while row is not None and row.alive and not self._over:
            time.sleep(_LOOK_SECONDS)  # of a worker that was given up and still is there
            row = last_run(point.path)
        if self._over:
            return Outcome("interrupted")
        built = self.build(**point.of_build)
        model, own = built if isinstance(built, tuple) else (built, {})
        if twice := [name for name in own if name in point.options]:
            raise TypeError(f"{twice[0]} is given twice, by build and beside it")
        options = {**_DEFAULTS, **point.options, **own}
        if row is not None:
            _check_same(point.path, row, model, options)
            if row.status == "stopped" or (row.status == "finished" and row.step == self.n):
                return Outcome(row.status)
        point.path.parent.mkdir(parents=True, exist_ok=True)
        journal = _Journal(point.path, seconds=self.seconds)
        begin = {"n": self.n, "model": model, "background": True, "progressbar": False, **options}
        begun = fit(record=journal, **begin) if row is None else resume(journal, **begin)
        asked = False
        while not begun.wait(_LOOK_SECONDS):
            if not asked and self._over:
                begun.run.interrupt()
                asked = True
        seen = journal.problem is None and socket.gethostname() == self.host
        return Outcome(begun.status, trace=None if seen else _own_trace(begun))


class _Journal(Journal):
    """A journal in whose last words is where q stands."""

    def end(self, run: Run) -> None:
        if self._trace is not None and run.status != "failed":
            coordinates = coordinates_of(run.approx)
            ends = coordinates.ends(*moments(coordinates))
            self._trace.attrs["q"] = {
                "step": run.step,
                "name": list(coordinates.names),
                "posterior": ends.T.tolist(),
                "prior": None,
                "moved": [float("nan")] * len(coordinates),
            }
        super().end(run)


def _own_trace(begun: Fit) -> Trace:
    return begun.trace[:]  # type: ignore[return-value]


def last_run(path: Path) -> RunRow | None:
    """The last run of a journal; None without a file, or without a run in it."""
    if not path.exists():
        return None
    with JournalFile(path) as file:
        return next(reversed(file.runs()), None)


def _check_same(path: Path, row: RunRow, model: Any, options: Mapping[str, Any]) -> None:
    """Refuse to go on with what was another fit."""
    recorded = row.options or {}
    differ = []
    for name in sorted({*recorded, *options}):
        then, now = recorded.get(name), told(options.get(name))
        if AGAIN not in json.dumps([then, now]) and then != now:
            differ.append(f"{name}: {then!r} was recorded, here it is {now!r}")
    with JournalFile(path) as file:
        attrs = file.description(row.id)["attrs"]
    here = fingerprint_of_model(model)
    found = attrs.get("fingerprint", {})
    was = {k: v for k, v in found.items() if k == "model" or k.startswith("data[")}
    differ += differences(was, here)
    if differ:
        raise ValueError(
            f"{path} has another fit: {'; '.join(differ)}. Give record= another folder, or take "
            "this file away"
        )
