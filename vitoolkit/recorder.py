"""The callback that fills a Trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitoolkit.away import RowsGone
from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.checks import whole_number
from vitoolkit.controls import Control, distinct_controls
from vitoolkit.fingerprint import fingerprint_of_run
from vitoolkit.iterates import Iterates
from vitoolkit.journal import Journal, journal_of
from vitoolkit.memory import warn_of_a_large_trace
from vitoolkit.monitor import KLMonitor
from vitoolkit.run import Run
from vitoolkit.trace import Trace
from vitoolkit.verdict import verdict_of

__all__ = ["Block", "Callback", "Recorder", "Run"]

#: Steps between the first looks at q, and how many there are at most: each time there are so many,
#: every second one goes, and they come half as often. Each ends a call, so that few are wanted.
LOOK, LOOKS = 200, 40
#: That of PyMC's own messages on a fit.
_logger = logging.getLogger("pymc.variational.inference")


class Recorder(Callback):
    """Record every step of a fit: losses, terms, controls and events.

    Parameters
    ----------
    *controls : Control
        Controls to record and, under an inference of PyMC's own, to advance. The β controls of a
        vitoolkit inference are found without being named; a learning rate has to be named.
    every : int
        Record the steps that are a multiple of `every`.
    monitor : KLMonitor, optional
        Evaluates the terms under an inference of PyMC's own, which does not hand them out; a row it
        does not evaluate has NaN.
    record : str, Path or Journal, optional
        A journal: the record is on disk as well, while it grows. A
        :class:`~vitoolkit.journal.Journal` says how often the state is saved.

    Attributes
    ----------
    journal : Journal or None
        The journal.
    trace : Trace
        The record of the current fit, or of the last one. ``refine`` goes on with it, a fit of
        another approximation starts a new one.
    traces : list of Trace
        All records, in order; the last one is `trace`.

    Raises
    ------
    TypeError
        When something else than a control is given, or `every` is not a whole number.
    ValueError
        When two controls write one shared variable or carry one name, or `every` is not positive.

    Notes
    -----
    A row holds the control values *its* step used, whatever the order of the callback list, and NaN
    for a control that no step of the fit uses; ``trace.attrs["unused"]`` names those. Under a
    vitoolkit inference a row holds the terms as well, from the very draws of the step; under an
    inference of PyMC's own it holds those that `monitor` evaluates, or none.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> recorder = vt.Recorder()
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     approx = pm.fit(
    ...         200, method=vt.ADVI(random_seed=1), callbacks=[recorder], progressbar=False
    ...     )
    >>> len(recorder.trace), recorder.trace.variables, recorder.trace.controls
    (200, ('z',), ('beta',))
    """

    def __init__(
        self,
        *controls: Control,
        every: int = 1,
        monitor: KLMonitor | None = None,
        record: str | Path | Journal | None = None,
    ) -> None:
        self.controls = distinct_controls(controls)
        if monitor is not None and not isinstance(monitor, KLMonitor):
            raise TypeError(f"monitor must be a KLMonitor, received {monitor!r}")
        self.every = whole_number("every", every, least=1, of="steps")
        self.monitor = monitor
        self.journal = journal_of(record)
        self._trace = Trace(controls=[control.name for control in self.controls])
        self.traces = [self._trace]
        self._approx: Any = None
        #: Looks at q, for the verdict.
        self._iterates = Iterates(LOOK, most=LOOKS)
        self._run: Run | None = None
        self._writes = True
        self._logged = self._looked = 0
        self._origin = 0.0
        self._next_step = 0
        #: How often the fit had gone back before the trace began.
        self._turns = 0
        self._read: Callable[[Run, Trace], tuple[Trace, float]] | None = None

    every: int
    #: Rows are thinned when they come: no block has to end there.
    due = None

    @property
    def trace(self) -> Trace:
        """The record of the current fit, or of the last one."""
        if self._run is not None:
            _ = self._run.running  # PyMC tells nobody that its loop is over: look
        return self._trace

    def goes_on(self, read: Callable[[Run, Trace], tuple[Trace, float]]) -> None:
        """Go on with a trace of a file.

        Parameters
        ----------
        read : callable
            Called when the fit starts, with the run and an empty trace of its columns. Returns the
            trace up to the run's first step, and what its clock showed, seconds.
        """
        self._read = read

    def on_fit_start(self, run: Run) -> None:
        """Open a new trace, or go on with the one of the same approximation."""
        names = [control.name for control in run.controls]
        trained = run.inference
        trace = Trace(run.variables, names, parts=trained.parts, measures=trained.measures)
        # Two recorders of one run that would keep the same rows keep them once.
        kind = self.every if type(self) is Recorder else id(self)
        record = run.records.get(kind)
        went_on = self._read is not None
        if self._read is not None:
            read, self._read = self._read, None
            self._trace, seconds = read(run, trace)
            self._approx, self.traces[-1] = run.approx, self._trace
            self._origin = time.perf_counter() - seconds
        if run.approx is not self._approx or not trace.same_layout(self._trace):
            self._origin, self._next_step = run.begun, 0
            if record is not None and trace.same_layout(record[0]):
                trace, self._origin = record
            if len(self._trace) or self._trace.events:
                self.traces.append(trace)
            else:
                self.traces[-1] = trace
            self._trace, self._approx = trace, run.approx
            self._turns = _turns_of(run) - len(trace.branches)
        elif not went_on:  # the time since the last fit is none of this one
            self._origin = run.begun - self._elapsed()
            if record is not None and record[0] is self._trace:
                self._origin = record[1]
        self._writes = record is None or record[0] is not self._trace
        run.records.setdefault(kind, (self._trace, self._origin))
        for of_the_end in (
            "status", "error", "rules", "verdict", "moves", "q", "predictive", "diagnosis",
        ):  # fmt: skip
            self._trace.attrs.pop(of_the_end, None)
        self._trace.attrs.update(trained.described())
        if "fingerprint" not in self._trace.attrs:
            self._trace.attrs["fingerprint"] = fingerprint_of_run(run)
        kinds = {control.name: type(control).__name__ for control in run.controls}
        self._trace.attrs["controls"] = {name: kinds[name] for name in self._trace.controls}
        if run.unused:
            self._trace.attrs["unused"] = list(run.unused)
        self._run, self._logged = run, 0
        if self.journal is not None:
            self.journal.begin(run, self._trace, self._collect_events)
        if self._writes:
            warn_of_a_large_trace(run.n, self.every or 1, self._trace.width, self.journal)
            run.add(self._iterates)

    def on_compiled(self, run: Run) -> None:
        """Note how many steps a call takes, and why, and which controls none of them uses."""
        if run.choice is not None:
            self._trace.attrs["steps_per_execution"] = run.choice
            self._trace.attrs["compilation"] = run.prepared
        if run.unused:
            self._trace.attrs["unused"] = list(run.unused)
        if self.journal is not None and run.running:
            self.journal.compiled(run)

    def on_block(self, run: Run, block: Block) -> None:
        """Record the steps of one compiled call."""
        if block.first < self._next_step:  # told twice
            return
        self._next_step = block.first + len(block.loss)
        if not self._writes:
            return
        control = block.control[:, : len(self._trace.controls)]  # others may have joined since
        keep = slice(None) if self.every == 1 else block.step % self.every == 0
        self._trace.extend(
            block.step[keep],
            block.time[keep] - self._origin,
            block.loss[keep],
            block.terms[keep],
            control[keep],
        )
        looks = len(self._iterates.looks)
        if looks != self._looked and looks % 8 == 0:  # for a panel, which asks now and then
            self._looked = looks
            self._judge()
        self._collect_events()

    def on_idle(self, run: Run) -> None:
        """Collect the events of a fit that is paused."""
        self._collect_events()
        if self.journal is not None:
            self.journal.idle(run)

    def on_rewind(self, run: Run) -> None:
        """Keep the rows that were left behind as a branch."""
        self._next_step = run.step
        if not run.running:  # the time since the fit has ended is none of it
            self._origin = run.log[-1].time - self._elapsed()
        if self._writes:
            self._trace.go_back(run.step, max(run.line - self._turns, 0))
        self._collect_events()
        if self.journal is not None:
            self.journal.went_back(run)

    def on_fit_end(self, run: Run) -> None:
        """Collect the last events and note how the fit ended."""
        if self._run is not run:  # it was refused before it began
            return
        self._collect_events()
        self.on_compiled(run)  # the clock may have chosen another number by now
        self._trace.attrs["status"] = run.status
        if run.error is not None:
            self._trace.attrs["error"] = f"{type(run.error).__name__}: {run.error}"
        rules = {control.name: control.rule for control in run.controls if control.rule is not None}
        if rules:
            self._trace.attrs["rules"] = {
                name: {"rule": repr(rule), **rule.state()} for name, rule in rules.items()
            }
        if self._writes:
            self._judge()
            self._trace.attrs["verdict"] = _verdict_of(self._trace)
            _logger.info(self._trace.attrs["verdict"])
        if self.journal is not None:
            self.journal.end(run)

    def __getstate__(self) -> dict[str, Any]:
        """What was recorded, without the run; the clock is that of this process."""
        elapsed = time.perf_counter() - self._origin
        return {**self.__dict__, "_run": None, "_origin": elapsed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._origin = time.perf_counter() - self._origin

    def __repr__(self) -> str:
        return f"<Recorder of {self.trace!r}>"

    def _judge(self) -> None:
        """Note which coordinate of q still moves, if one does."""
        move = self._iterates.moves()
        self._trace.attrs.pop("moves", None)
        if move is not None:
            self._trace.attrs["moves"] = move._asdict()

    def _elapsed(self) -> float:
        """What the clock showed last: between two fits it stands."""
        trace = self._trace
        rows = [float(trace[-1:].time[0])] if len(trace) else []
        return max([*rows, *(event.time for event in trace.events[-1:])], default=0.0)

    def _collect_events(self) -> None:
        assert self._run is not None
        log = self._run.log
        for event in log[self._logged :] if self._writes else ():
            asked = None if event.asked is None else event.asked - self._origin
            self._trace.add_event(event._replace(time=event.time - self._origin, asked=asked))
        self._logged = len(log)


def _verdict_of(trace: Trace) -> str:
    try:
        return verdict_of(trace).text
    except RowsGone as error:  # which is no reason for a fit to end otherwise than it did
        return f"No verdict: {error}"


def _turns_of(run: Run) -> int:
    """How often a fit has gone back so far."""
    return 0 if run.points is None else len(run.points.turns)
