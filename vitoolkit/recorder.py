"""The callback that fills a Trace."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vitoolkit.controls import Control, distinct_controls
from vitoolkit.loop import Block, Callback, Run
from vitoolkit.monitor import KLMonitor
from vitoolkit.steps import counter_of
from vitoolkit.trace import Trace

__all__ = ["Recorder"]


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

    Attributes
    ----------
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
    A row holds the control values *its* step used, whatever the order of the callback list. Under a
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
        self, *controls: Control, every: int = 1, monitor: KLMonitor | None = None
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int | np.integer):
            raise TypeError(f"every must be a whole number of steps, received {every!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1, received {every}")
        self.controls = distinct_controls(controls)
        if monitor is not None and not isinstance(monitor, KLMonitor):
            raise TypeError(f"monitor must be a KLMonitor, received {monitor!r}")
        self.every = int(every)
        self.monitor = monitor
        self.trace = Trace(controls=[control.name for control in self.controls])
        self.traces = [self.trace]
        self._approx: Any = None
        self._sources: list[Any] = []
        self._seen: dict[int, int] = {}
        self._origin = 0.0
        self._next_step = 0

    # --- a vitoolkit inference ------------------------------------------------------------------

    def on_fit_start(self, run: Run) -> None:
        """Open a new trace, or go on with the one of the same approximation."""
        inference = run.inference
        attrs = {"inference": repr(inference), "scaling": inference.scaling}
        if inference.notes:
            attrs["terms"] = inference.notes
        self._open(
            run.approx, run.variables, run.controls, attrs, inference.parts, inference.measures
        )
        self._watch(run)

    def on_compiled(self, run: Run) -> None:
        """Note how many steps a call takes, and why."""
        assert run.inference.step_function is not None
        self.trace.attrs["steps_per_execution"] = run.inference.step_function.choice

    def on_block(self, run: Run, block: Block) -> None:
        """Record the steps of one compiled call."""
        if block.first < self._next_step:  # the callback is listed twice
            return
        self._next_step = block.first + len(block.loss)
        if self.every == 1:
            self.trace.extend(
                block.step, block.time - self._origin, block.loss, block.terms, block.control
            )
        else:
            keep = block.step % self.every == 0
            self.trace.extend(
                block.step[keep],
                block.time[keep] - self._origin,
                block.loss[keep],
                block.terms[keep],
                block.control[keep],
            )
        self._collect_events()

    def on_idle(self, run: Run) -> None:
        """Collect the events of a fit that is paused."""
        self._collect_events()

    def on_fit_end(self, run: Run) -> None:
        """Collect the last events and note how the fit ended."""
        self._collect_events()
        if run.inference.step_function is not None:
            self.on_compiled(run)  # the clock may have chosen another number by now
        self.trace.attrs["status"] = run.status
        if run.error is not None:
            self.trace.attrs["error"] = f"{type(run.error).__name__}: {run.error}"

    # --- an inference of PyMC's own --------------------------------------------------------------

    def __call__(self, approx, losses, i) -> None:
        """PyMC's callback: advance the controls and record the step."""
        counter = counter_of(approx)
        inference = counter.inference
        if inference is not None:
            # Wrapped in a plain function, so that the loop does not know it for its own.
            run = inference.run
            if self._approx is not approx or self._sources[0] is not run:
                self.on_fit_start(run)
            self.on_block(run, inference.last_block)
            return
        step = counter.tick(losses, i)
        if approx is not self._approx:
            variables = () if self.monitor is None else self.monitor.variables(approx)
            self._open(approx, variables, self.controls, {"inference": f"PyMC, {approx}"})
        for control in self.controls:
            control(approx, losses, i)
        if step < self._next_step:
            return
        self._next_step = step + 1
        if step % self.every == 0:
            terms = None
            if self.monitor is not None and self.trace.variables:
                terms = self.monitor.evaluate(approx)
            if terms is None:
                terms = np.full(1 + len(self.trace.variables), np.nan)
            self.trace.append(
                step,
                time.perf_counter() - self._origin,
                np.nan if losses is None else losses[-1],
                terms[0],
                terms[1:],
                [control.used for control in self.controls],
            )
        self._collect_events()

    def __getstate__(self) -> dict[str, Any]:
        """What was recorded, without the run; the clock is that of this process."""
        elapsed = time.perf_counter() - self._origin
        return {**self.__dict__, "_sources": [], "_seen": {}, "_origin": elapsed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._origin = time.perf_counter() - self._origin

    def __repr__(self) -> str:
        return f"<Recorder of {self.trace!r}>"

    # --- internals -------------------------------------------------------------------------------

    def _open(self, approx, variables, controls, attrs, parts=(), measures=()) -> None:
        names = [control.name for control in controls]
        trace = Trace(variables, names, parts=parts, measures=measures)
        if approx is not self._approx or not trace.same_layout(self.trace):
            if len(self.trace) or self.trace.events:
                self.traces.append(trace)
            else:
                self.traces[-1] = trace
            self.trace, self._approx = trace, approx
            self._origin, self._next_step = time.perf_counter(), 0
            self._seen = {}
        self.trace.attrs.update(attrs)
        self._sources = list(controls)
        for source in self._sources:
            self._seen.setdefault(id(source), len(source.log))

    def collect(self, run: Any) -> None:
        """Take over the events of what runs, and of the controls."""
        if not any(source is run for source in self._sources):
            self._watch(run)
        self._collect_events()

    def _watch(self, run: Any) -> None:
        self._sources.insert(0, run)
        self._seen[id(run)] = 0

    def _collect_events(self) -> None:
        for source in self._sources:
            log, seen = source.log, self._seen[id(source)]
            if len(log) > seen:
                for event in log[seen:]:
                    self.trace.add_event(event._replace(time=event.time - self._origin))
                self._seen[id(source)] = len(log)
