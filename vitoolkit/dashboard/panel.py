"""The dashboard: what a person sees and moves while a fit runs."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable as AnyCallable
from typing import Any

import ipywidgets

from vitoolkit.controls import Control, distinct_controls
from vitoolkit.dashboard.control_row import ControlRow
from vitoolkit.dashboard.kernel_events import KernelEvents, current_kernel
from vitoolkit.dashboard.live_figure import (
    LiveFigure,
    StatusLine,
    control_styles,
    frame_of,
    points_for,
    smoothed,
    variable_styles,
)
from vitoolkit.dashboard.static_picture import summary_html
from vitoolkit.events import Event
from vitoolkit.loop import Block, Callback, Run
from vitoolkit.recorder import Recorder
from vitoolkit.steps import counter_of, pymc_loop
from vitoolkit.trace import Trace

__all__ = ["Dashboard"]

#: Seconds between two pictures at least, and at most.
FASTEST, SLOWEST = 0.1, 2.0
#: Rows whose sliders are moved in one refresh: with dozens of controls they take turns.
ROWS_A_REFRESH = 4
#: Variables a panel has lines for.
MOST_VARIABLES = 100


class Dashboard(Callback):
    """Show and steer a fit in the notebook while it runs.

    A callback like :class:`~vitoolkit.Recorder`. The panel appears when the fit starts: a slider,
    a number box and an auto/manual switch for each control, where the fit stands, the loss, the KL
    of each variable, the value of each control, Pause and Stop. Outside a notebook it only records.

    Parameters
    ----------
    *controls : Control
        Controls to show. The β controls of a vitoolkit inference are found without being named; a
        learning rate has to be named.
    recorder : Recorder, optional
        The recorder to read from; by default the dashboard has its own.
    every : int
        Record the steps that are a multiple of `every`; only without `recorder`.

    Attributes
    ----------
    recorder : Recorder
    trace : Trace
        The record of the current fit, or of the last one.
    controls : tuple of Control
        The controls given, and during and after a fit those of the fit.

    Raises
    ------
    TypeError
        When something else than a control, or than a Recorder for `recorder`, is given.
    ValueError
        When `every` is given along with `recorder`, or two controls clash.

    Notes
    -----
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
        self, *controls: Control, recorder: Recorder | None = None, every: int = 1
    ) -> None:
        if recorder is None:
            recorder = Recorder(*controls, every=every)
        elif not isinstance(recorder, Recorder):
            raise TypeError(f"recorder must be a vitoolkit Recorder, received {recorder!r}")
        elif every != 1:
            raise ValueError(
                f"every belongs to the recorder: Recorder(every={every!r}), received with recorder="
            )
        else:
            recorder.controls = distinct_controls([*recorder.controls, *controls])
        self.recorder = recorder
        self.controls = recorder.controls
        self.shows_progress = False
        self._events: KernelEvents | None = None
        self._panel: _Panel | None = None
        self._fit: Any = None
        self._next = math.inf
        self._off = False

    @property
    def trace(self) -> Trace:
        """The record of the current fit, or of the last one."""
        return self.recorder.trace

    # --- a vitoolkit inference --------------------------------------------------------------

    def on_fit_start(self, run: Run) -> None:
        """Show the panel, before anything is compiled."""
        self.recorder.on_fit_start(run)
        self.controls = run.controls
        betas = getattr(run.inference, "beta", {})
        self._begin(run, run.variables, _belongs(betas))

    def on_compiled(self, run: Run) -> None:
        """Say that the steps begin."""
        self.recorder.on_compiled(run)
        self._next = 0.0

    def on_block(self, run: Run, block: Block) -> None:
        """Record, and every so often answer the page and draw."""
        self.recorder.on_block(run, block)
        if block.time[-1] >= self._next:
            self._attend()

    def on_idle(self, run: Run) -> None:
        """Answer the page while the fit is paused."""
        self._attend()

    def on_fit_end(self, run: Run) -> None:
        """Draw the last picture and leave one in the notebook that needs no kernel."""
        self.recorder.on_fit_end(run)
        self._finish()

    # --- an inference of PyMC's own ----------------------------------------------------------

    def __call__(self, approx, losses, i) -> None:
        """PyMC's callback: record, answer the page, draw, and stop when asked to."""
        inference = counter_of(approx).inference
        if inference is not None:
            # Wrapped in a plain function, so that the loop does not know it for its own.
            run = inference.run
            if self._fit is not run:
                self.on_fit_start(run)
                self.on_compiled(run)
                _after_the_cell(lambda result: self.on_fit_end(run))
            self.on_block(run, inference.last_block)
            return
        self.recorder(approx, losses, i)
        step = counter_of(approx).step
        fit = self._fit
        if not isinstance(fit, _PyMCFit) or fit.ended or i < fit.i:
            fit = _PyMCFit(self.recorder, step, self._finish)
            self._begin(fit, self.trace.variables, {})
            self._next = 0.0
        fit.step, fit.i = step + 1, i
        if time.perf_counter() >= self._next:
            self._attend()
        fit.wait(self._attend)
        if fit.i >= fit.n:
            fit.end("finished")
        elif fit.stopping and i >= 10:  # before, StopIteration is an IndexError inside PyMC
            fit.end("stopped")
            raise StopIteration("user")

    # --- the display -------------------------------------------------------------------------

    def _begin(self, fit: Any, variables: Any, of_variable: dict[str, str]) -> None:
        self._fit, self._off = fit, False
        self._next = math.inf
        self._events = KernelEvents()
        self._events.start()
        if self._panel is not None:
            self._safely(self._panel.close)
            self._panel = None
        if self._events.kernel is not None:

            def show() -> None:
                self._panel = _Panel(fit, self.trace, self.controls, variables, of_variable)
                self._panel.display()
                self.shows_progress = True

            self._safely(show)

    def _attend(self) -> None:
        now = time.perf_counter()
        self._next = math.inf if self._panel is None else now + 0.02
        if self._panel is None or self._events is None:
            return
        if not self._safely(self._events.poll):
            self._next = math.inf
        elif not self._off:
            self._safely(self._panel.refresh)

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
        if self._panel is not None and self._panel.open:
            return self._panel.widget._repr_mimebundle_(**kwargs)
        scales = {control.name: control.scale for control in self.controls}
        return {
            "text/plain": repr(self),
            "text/html": summary_html(self.trace, None, scales),
        }


class _Panel:
    """The widgets of one fit.

    Parameters
    ----------
    fit : Run or _PyMCFit
        What runs: has step, first, n, status, error, stop, pause, resume.
    trace : Trace
    controls : tuple of Control
    variables : sequence of str
    of_variable : dict of str to str
        The variable of each control that belongs to just one.
    """

    def __init__(
        self, fit: Any, trace: Trace, controls: Any, variables: Any, of_variable: Any
    ) -> None:
        self.fit, self.trace = fit, trace
        self.variables = tuple(variables)[:MOST_VARIABLES]
        styles = variable_styles(self.variables)
        names = [control.name for control in controls]
        self.scales = {control.name: control.scale for control in controls}
        self.figure = LiveFigure(
            styles,
            control_styles(names, of_variable, styles),
            self.scales,
            hidden=len(variables) - len(self.variables),
        )
        self.view = trace.view(points_for(len(self.variables) + len(names)))
        self.status = StatusLine(layout=dict(flex="1 1 300px", min_width="0"))
        self.pause = _button("Pause", "pause", self._on_pause)
        self.stop = _button("Stop", "stop", self._on_stop, "danger")
        self.rows = [ControlRow(control, self._complain) for control in controls]
        head = ipywidgets.HBox(
            [self.status, ipywidgets.HBox([self.pause, self.stop])],
            layout=dict(flex_flow="row wrap", align_items="flex-start"),
        )
        grid = ipywidgets.Box([row.widget for row in self.rows])
        grid.add_class("vitoolkit-controls")
        self.widget = ipywidgets.VBox([head, grid, self.figure])
        self.widget.add_class("vitoolkit-panel")
        self.open = True
        self._handle: Any = None
        self._message = ""
        self._began = time.perf_counter()
        self._pace: deque[tuple[float, int]] = deque(maxlen=30)
        self._due = 0.0
        self._turn = 0
        #: Seconds of Python and bytes that the last refresh took.
        self.cost = (0.0, 0)

    def display(self) -> None:
        """Put the panel into the cell's output."""
        from IPython.display import display

        self._tell()
        self._handle = display(self.widget, display_id=True)

    def refresh(self) -> None:
        """Draw, if it is time and the page keeps up."""
        now = time.perf_counter()
        if now < self._due:
            return
        if self.figure.waiting > 2 and now < self._due + 1.0:
            return  # no page, or a slow one: once a second keeps a page that comes back current
        self._pace.append((now, self.fit.step))
        self._tell()
        size = self._draw(self.fit.first + self.fit.n)
        moved = 0
        for _ in self.rows:
            row = self.rows[self._turn % len(self.rows)]
            self._turn += 1
            moved += row.follow(held=self.figure.held == row.control.name)
            if moved == ROWS_A_REFRESH:
                break
        took = time.perf_counter() - now
        self.cost = (took, size)
        # The page may spend a third of its time on us, and the fit a twentieth.
        pause = max(FASTEST, 3e-3 * self.figure.drawing_ms, 20 * took)
        self._due = now + min(pause, SLOWEST)

    def finish(self) -> None:
        """Show how it ended, and leave a picture in the notebook in place of the widgets."""
        for widget in (self.pause, self.stop):
            widget.disabled = True
        self._tell()
        self._draw(self.fit.step - 1)
        for row in self.rows:
            row._moved = row._followed = -math.inf
            row.follow()
        if self._handle is not None:
            from IPython.display import HTML

            self._handle.update(HTML(summary_html(self.trace, self.variables, self.scales)))

    def close(self) -> None:
        """Close the widgets; the page forgets them."""
        self.open = False
        for row in self.rows:
            row.close()
        for widget in (self.status, self.pause, self.stop, self.figure, *self.widget.children):
            widget.close()
        self.widget.close()

    def _draw(self, end: float) -> int:
        return self.figure.show(frame_of(self.view, self.variables, end=end))

    def _tell(self) -> None:
        fit, now = self.fit, time.perf_counter()
        status: dict[str, Any] = {"phase": fit.status, "message": self._message}
        if fit.status == "compiling":
            status["seconds"] = now - self._began
        else:
            done = fit.step - fit.first
            status.update(done=done, n=fit.n)
            if len(self._pace) > 1 and fit.status == "running":
                (then, before), (last, after) = self._pace[0], self._pace[-1]
                rate = (after - before) / (last - then)
                if rate > 0:
                    status.update(rate=rate, left=(fit.n - done) / rate)
        if fit.status not in ("compiling", "running", "paused"):
            status["took"] = now - self._began
            if fit.error is not None and not isinstance(fit.error, KeyboardInterrupt):
                status["message"] = f"{type(fit.error).__name__}: {fit.error}".partition("\n")[0]
        if len(self.view):
            recent = smoothed(self.view)
            status["loss"] = _finite(recent["loss"][-1])
            if self.trace.has_terms:
                status["elbo"] = _finite(recent["elbo"][-1])
        self.status.status = status
        label, icon = ("Resume", "play") if fit.status == "paused" else ("Pause", "pause")
        if self.pause.description != label:
            self.pause.description, self.pause.icon = label, icon

    def _complain(self, message: str) -> None:
        if message != self._message:
            self._message = message
            self._tell()

    def _on_stop(self, button: Any) -> None:
        self.stop.disabled = True
        self.fit.stop(source="user")

    def _on_pause(self, button: Any) -> None:
        self._pace.clear()
        if self.pause.description == "Pause":
            self.fit.pause(source="user")
        else:
            self.fit.resume(source="user")


class _PyMCFit:
    """What PyMC's own loop does not keep: how many steps were asked for, pause, and that it ended.

    Parameters
    ----------
    recorder : Recorder
        Gets the events.
    first : int
        The step of the first call.
    finish : callable
        Called once when the fit has ended.
    """

    def __init__(self, recorder: Recorder, first: int, finish: AnyCallable[[], None]) -> None:
        self.recorder, self._finish = recorder, finish
        loop = pymc_loop(threading.get_ident())
        self.n = int(loop.f_locals.get("n", 0)) if loop is not None else 0
        self.first, self.step, self.i = first, first, 0
        self.status, self.error, self.ended = "running", None, False
        self.stopping = False
        self._paused = False
        _after_the_cell(self._cell_ended)

    def stop(self, *, source: str) -> None:
        """End the fit at its next callback."""
        self.stopping = True

    def pause(self, *, source: str) -> None:
        """Wait in the callback."""
        self._paused = True

    def resume(self, *, source: str) -> None:
        """Go on."""
        self._paused = False

    def wait(self, attend: AnyCallable[[], None]) -> None:
        """Stay here while the fit is paused."""
        if not self._paused:
            return
        self.status = "paused"
        self._note("pause")
        while self._paused and not self.stopping:
            attend()
            time.sleep(0.02)
        self.status = "running"
        if not self.stopping:
            self._note("resume")

    def end(self, status: str) -> None:
        """Note the end, once."""
        if self.ended:
            return
        self.ended, self.status = True, status
        if status == "stopped":
            self._note("stop")
        self.recorder.trace.attrs["status"] = status
        self._finish()

    def _cell_ended(self, result: Any) -> None:
        """Note an end that PyMC tells no callback of: an exception, or an interrupt."""
        if self.ended:
            return
        error = result.error_in_exec
        self.error = error
        self.end("failed" if isinstance(error, Exception) else "interrupted")

    def _note(self, kind: str) -> None:
        trace = self.recorder.trace
        now = float(trace.time[-1]) if len(trace) else 0.0
        trace.add_event(Event(self.step, now, kind, None, None, None, "user"))


def _after_the_cell(act: AnyCallable[[Any], None]) -> None:
    """Call `act` once with the result of the running cell when it has ended."""
    kernel = current_kernel()
    if kernel is None:
        return
    events = kernel.shell.events

    def ended(result: Any) -> None:
        events.unregister("post_run_cell", ended)
        act(result)

    events.register("post_run_cell", ended)


def _belongs(betas: Any) -> dict[str, str]:
    """Find the variable of each control that weighs just one."""
    found: dict[str, list[str]] = {}
    for variable, control in betas.items():
        found.setdefault(control.name, []).append(variable)
    return {name: names[0] for name, names in found.items() if len(names) == 1 < len(betas)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _button(text: str, icon: str, act: Any, style: str = "") -> Any:
    button = ipywidgets.Button(
        description=text, icon=icon, button_style=style, layout=dict(width="96px")
    )
    button.on_click(act)
    return button
