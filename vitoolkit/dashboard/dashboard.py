"""The callback: records a fit, and keeps its panel in step with it."""

from __future__ import annotations

import logging
import math
import time
import warnings
import weakref
from collections.abc import Callable as AnyCallable
from pathlib import Path
from typing import Any

import numpy as np

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.checks import flag
from vitoolkit.controls import Control, distinct_controls
from vitoolkit.dashboard.kernel_events import KernelEvents, after_the_cell
from vitoolkit.dashboard.marimo import MarimoEvents, Tree, in_marimo
from vitoolkit.dashboard.panel import Panel
from vitoolkit.events import Event
from vitoolkit.journal import Journal
from vitoolkit.monitor import KLMonitor
from vitoolkit.pace import checked_pace
from vitoolkit.predictive import Predictive
from vitoolkit.recorder import Recorder
from vitoolkit.requests import checked_note
from vitoolkit.run import Run
from vitoolkit.snapshots import Snapshots
from vitoolkit.stock import StockRun
from vitoolkit.trace import Trace
from vitoolkit.views.ghost import earlier_run
from vitoolkit.views.picture import active_text, shown_as, summary_html

__all__ = ["Dashboard"]

#: Most seconds between two looks whether the panel is due.
REFRESH_LOOK = 0.02
#: Seconds after compiling in which a page has to show the panel, or nobody is there to steer.
NOBODY = 10.0

_logger = logging.getLogger("pymc.variational.inference")  # where the loop speaks, too


class Dashboard(Callback):
    """Show and steer a fit in the notebook while it runs.

    A callback like :class:`~vitoolkit.Recorder`. The panel appears when the fit starts: a slider,
    a number box and an auto/manual switch for each control, where the fit stands, the loss, the KL
    of each variable, the value of each control; Pause, Step, Stop, Undo, Note and Export. Outside a
    notebook it only records.
    Under an inference of PyMC's own a :class:`~vitoolkit.KLMonitor` evaluates the KLs.

    Parameters
    ----------
    *controls : Control
        Controls to show. The β controls of a vitoolkit inference are found without being named; a
        learning rate has to be named.
    recorder : Recorder, optional
        The recorder to read from; by default the dashboard has its own, with a KLMonitor of the
        usual budget for inferences of PyMC's own.
    every : int
        Record the steps that are a multiple of `every`; only without `recorder`.
    paused : bool
        Wait before the first step of a fit for the Start button: the sliders can be moved before,
        and are in force from step 0 on. A ``refine`` goes on at once.
    steps_per_second : float, optional
        Most steps a second, to look at; the panel has a box for it. No number of the fit depends on
        it.
    notify : bool
        Let the browser tell of the end of the fit, of NaN and of a loss that stands still, while
        its page is out of sight. The browser asks for leave at the first click on a button.
    compare : Trace, str or Path, optional
        An earlier run, or a file of one as `Trace.open` reads it: its loss, ELBO, KL and controls
        are drawn softly behind those of this one.
    record : str, Path or Journal, optional
        A journal on disk, as of a `Recorder`; only without `recorder`.
    predictive : bool or str
        Sketch the posterior predictive beside the data, while somebody looks: of the first observed
        variable, or of the one named. Every 3 seconds at most, the middle 90 % of the histograms of
        48 data sets drawn from q. Nothing is compiled, a thread draws them in NumPy, with random
        numbers of its own: 8 ms of the processor for a regression of 1,000 rows, 55 ms for a VAE of
        64 images a batch, at most one percent of the time; no number of the fit depends on it.
        Where a model cannot be drawn so, the panel says why.

    Attributes
    ----------
    recorder : Recorder
    trace : Trace
        The record of the current fit, or of the last one.
    snapshots : Snapshots
        Where q stood while it was trained, coordinate by coordinate, and the prior.
    predictive : Predictive or None
        The sketch of the posterior predictive, if it was asked for.
    controls : tuple of Control
        The controls given, and during and after a fit those of the fit.

    Raises
    ------
    TypeError
        When something else than a control, than a Recorder for `recorder`, than a trace or a
        path for `compare`, or than a bool or a name for `predictive` is given.
    ValueError
        When `every` or `record` is given along with `recorder`, two controls clash,
        `steps_per_second` is not above 0, or `compare` has no rows.

    Notes
    -----
    `paused` and `steps_per_second` are for someone who looks. Where nobody can, in a script or in a
    notebook that nbconvert or papermill executes, the fit starts by itself and runs at full speed,
    at the latest 10 seconds after compiling, when no page has shown the panel; it says so in the
    log. An inference of PyMC's own tells of itself only after a step: it waits after the first.

    A display that fails warns once and switches itself off; the fit goes on. At the end of a fit a
    picture and a table take the panel's place, so that the saved notebook shows the run without a
    kernel. ``dashboard`` in a cell of its own brings the live charts back, to zoom and to read.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> dashboard = vt.Dashboard()
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     approx = pm.fit(
    ...         200, method=vt.ADVI(random_seed=1), callbacks=[dashboard], progressbar=False
    ...     )
    >>> len(dashboard.trace)
    200
    """

    def __init__(
        self,
        *controls: Control,
        recorder: Recorder | None = None,
        every: int = 1,
        paused: bool = False,
        steps_per_second: float | None = None,
        notify: bool = False,
        compare: Trace | str | Path | None = None,
        record: str | Path | Journal | None = None,
        predictive: bool | str = False,
    ) -> None:
        self.paused, self.notify = flag("paused", paused), flag("notify", notify)
        self.steps_per_second = checked_pace(steps_per_second)
        self._earlier = earlier_run(compare)
        if recorder is None:
            monitor = _CautiousMonitor(self._without_kl)
            recorder = Recorder(*controls, every=every, monitor=monitor, record=record)
        elif not isinstance(recorder, Recorder):
            raise TypeError(f"recorder must be a vitoolkit Recorder, received {recorder!r}")
        elif every != 1:
            raise ValueError(
                f"every belongs to the recorder: Recorder(every={every!r}), received with recorder="
            )
        elif record is not None:
            raise ValueError(
                f"record belongs to the recorder: Recorder(record={record!r}), received with "
                "recorder="
            )
        else:
            recorder.controls = distinct_controls([*recorder.controls, *controls])
        self.recorder = recorder
        self.snapshots = Snapshots()
        self.predictive = _predictive(predictive)
        self.controls = recorder.controls
        self.shows_progress = False
        self._events: KernelEvents | MarimoEvents | None = None
        self._panel: Panel | None = None
        self._rows: dict[str, int] = {}
        self._fit: Any = None
        self._next = self._nobody = math.inf
        self._off = self._alone = False

    @property
    def monitor(self) -> KLMonitor | None:
        """What evaluates the KLs under an inference of PyMC's own."""
        return self.recorder.monitor

    @property
    def trace(self) -> Trace:
        """The record of the current fit, or of the last one."""
        return self.recorder.trace

    def to_html(self, path: str | Path, *, title: str = "Variational fit") -> Path:
        """Write the run as a web page of its own: the panel's charts, to zoom and to read.

        The page needs no network and no kernel. It holds decimated columns, so that it stays small
        however long the fit; it cannot be opened as a trace again.

        Parameters
        ----------
        path : str or Path
            Ends in ``.html``. A file that is there is replaced, once the new one is complete.
        title : str, optional
            Heading of the page.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.
        """
        from vitoolkit.views.report import write_report

        self.snapshots.write(self.trace.attrs)
        return write_report(self.trace, path, shown_as(self.controls), title=title)

    # --- what a fit tells --------------------------------------------------------------------

    def on_fit_start(self, run: Run) -> None:
        """Show the panel, before anything is compiled."""
        self.recorder.on_fit_start(run)
        self.snapshots.on_fit_start(run)
        if self.predictive is not None:
            self.predictive.on_fit_start(run)
        self.controls = run.controls
        self._rows = run.inference.local_rows
        if self.paused and run.first == 0:
            run.hold()
        if self.steps_per_second is not None:
            run.limit(self.steps_per_second)
        self._show(run, _notes(run), _belongs(run.inference.beta))
        if isinstance(run, StockRun):
            after_the_cell(run.cell_ended)
        self._watch()
        if self._alone or self._off or not self._steered:
            self._hurry(run)

    def on_compiled(self, run: Run) -> None:
        """Hear what was asked for meanwhile, and say that the steps begin."""
        self.recorder.on_compiled(run)
        self._nobody = time.perf_counter() + NOBODY
        if self._panel is not None and self._events is not None:
            self._safely(self._events.poll)
        self._next = 0.0

    def on_block(self, run: Run, block: Block) -> None:
        """Record, and every so often answer the page and draw."""
        self.recorder.on_block(run, block)
        self.snapshots.on_block(run, block)
        if block.time[-1] >= self._next:
            self._attend()

    def on_idle(self, run: Run) -> None:
        """Answer the page while the fit is paused, or waits for its pace."""
        self.recorder.on_idle(run)
        self._attend()
        if self._off:
            self._hurry(run)
        elif time.perf_counter() > self._nobody and self._panel is not None:
            self._alone = not self._panel.seen
            if self._alone:
                self._hurry(run)

    def on_rewind(self, run: Run) -> None:
        """Pass it on."""
        self.recorder.on_rewind(run)
        self.snapshots.on_rewind(run)

    def on_fit_end(self, run: Run) -> None:
        """Draw the last picture and leave one in the notebook that needs no kernel."""
        try:
            self.recorder.on_fit_end(run)
            self.snapshots.on_fit_end(run)
            self.snapshots.write(self.trace.attrs)
            if self.predictive is not None:
                self.predictive.on_fit_end(run)
                self.predictive.write(self.trace.attrs)
        finally:
            self._finish()

    def on_diagnosis(self, run: Run) -> None:
        """Show it in the panel."""
        panel = self._panel
        if panel is not None and run is self._fit:
            self._safely(panel.diagnosed)

    def note(self, text: str) -> None:
        """Write a note at the present step, or after the last one.

        Parameters
        ----------
        text : str
            The words; a mark on every chart, and an event of kind "note" in the trace.
        """
        fit = self._fit
        if fit is not None and fit.running:
            fit.note(text)
            return
        trace = self.trace
        step, now = (
            (int(trace[-1:].step[0]) + 1, float(trace[-1:].time[0])) if len(trace) else (0, 0.0)
        )
        trace.add_event(Event(step, now, "note", text=checked_note(text)))

    # --- somebody who looks ------------------------------------------------------------------

    @property
    def _steered(self) -> bool:
        """Whether a hand at the panel gets here."""
        return self._panel is not None and self._events is not None and self._events.way != "none"

    def _hurry(self, run: Run) -> None:
        """Go on by itself: nobody is there to press Start, or to look at a slow fit."""
        self._nobody = math.inf
        if run.holding == "start":
            _logger.info("The fit starts by itself: no page shows its panel.")
            run.resume()
        if self.steps_per_second is not None:
            run.limit(None)

    # --- the display -------------------------------------------------------------------------

    def _show(self, run: Run, notes: dict[str, str], of_variable: dict[str, str]) -> None:
        self._fit, self._off = run, False
        self._next = math.inf
        events = MarimoEvents(run) if in_marimo() else KernelEvents(beside=run.background)
        self._events = events
        events.start()
        if self._panel is not None:
            self._safely(self._panel.close)
            self._panel = None
        if events.kernel is not None:

            def show() -> None:
                self._panel = Panel(
                    run,
                    self.controls,
                    run.variables,
                    of_variable,
                    notes,
                    self.notify,
                    self._earlier,
                    self.snapshots,
                    self.predictive,
                )
                self._panel.steered_by(events.way, events.words)
                self._panel.display()
                self.shows_progress = True

            self._safely(show)

    def _without_kl(self, error: Exception) -> None:
        message = (
            "the KL of each variable is not shown, the fit goes on: "
            f"{type(error).__name__}: {error}"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=5)
        panel = self._panel
        if panel is not None:
            self._safely(lambda: panel.say(message))

    def _watch(self) -> None:
        panel = self._panel
        if panel is not None:
            self._safely(lambda: panel.watch(self.trace, self._rows))

    def _attend(self) -> None:
        self._next = math.inf
        if self._panel is None or self._events is None or not self._safely(self._events.poll):
            return
        if not self._off:
            if self.predictive is not None and self._panel.seen:
                self.predictive.look(self._fit.step)
            self._safely(self._panel.refresh)
        self._next = min(self._events.due, time.perf_counter() + REFRESH_LOOK)

    def _finish(self) -> None:
        try:
            if self._panel is not None and not self._off:
                self._safely(self._panel.finish)
        finally:
            if self._events is not None:
                self._events.stop()

    def _safely(self, act: AnyCallable[[], Any]) -> bool:
        try:
            act()
            return True
        except StopIteration:
            raise
        except Exception as error:
            self._off = True
            self.shows_progress = False
            warnings.warn(
                "the dashboard's display failed and is switched off, the fit goes on: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
            return False

    def __repr__(self) -> str:
        return f"<Dashboard of {self.trace!r}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if self._panel is not None:
            self._panel = self._panel.again()
            widget = Tree(self._panel.widget) if in_marimo() else self._panel.widget
            return widget._repr_mimebundle_(**kwargs)
        summary = summary_html(
            self.trace, None, shown_as(self.controls), active=active_text(self.trace, self._rows)
        )
        return {"text/plain": repr(self), "text/html": summary}


def _predictive(asked: bool | str) -> Predictive | None:
    if isinstance(asked, str):
        return Predictive(asked)
    if not isinstance(asked, bool | np.bool_):
        raise TypeError(
            "predictive must be True, False or the name of an observed variable, received "
            f"{asked!r}"
        )
    return Predictive() if asked else None


def _notes(run: Run) -> dict[str, str]:
    """Words in place of a chart that stays empty."""
    notes = {}
    if isinstance(run, StockRun):
        if not run.scored:
            notes["loss"] = "this fit computes none"
        if run.inference.monitor is None:
            notes["kl"] = "not evaluated: the recorder has no monitor=vitoolkit.KLMonitor()"
        elif not run.variables:
            notes["kl"] = "none: the approximation is a set of particles and has no density"
    return notes


class _CautiousMonitor(KLMonitor):
    """A KLMonitor that nobody asked for by name: when it fails, the fit goes on without it.

    Parameters
    ----------
    complain : callable
        Called once in a fit, with the exception.
    """

    def __init__(self, complain: AnyCallable[[Exception], None]) -> None:
        super().__init__()
        self._complain = complain
        self._failed: Any = None  # the approximation it failed at, weakly held

    def evaluate(self, approx: Any, *, always: bool = False) -> np.ndarray | None:
        """Evaluate the terms, unless that failed before or would overdraw the budget."""
        if self._failed is not None and self._failed() is approx:
            return None
        try:
            return super().evaluate(approx, always=always)
        except Exception as error:
            self._failed = weakref.ref(approx)
            self._complain(error)
            return None


def _belongs(betas: Any) -> dict[str, str]:
    """Find the variable of each control that weighs just one."""
    found: dict[str, list[str]] = {}
    for variable, control in betas.items():
        found.setdefault(control.name, []).append(variable)
    return {name: names[0] for name, names in found.items() if len(names) == 1 < len(betas)}
