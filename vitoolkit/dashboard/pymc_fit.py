"""A fit of PyMC's own inferences, as far as a panel needs to know it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vitoolkit.dashboard.kernel_events import after_the_cell
from vitoolkit.events import Event
from vitoolkit.monitor import KLMonitor
from vitoolkit.recorder import Recorder
from vitoolkit.steps import pymc_loop

__all__ = ["CautiousMonitor", "PyMCFit"]


class CautiousMonitor(KLMonitor):
    """A KLMonitor that nobody asked for by name: when it fails, the fit goes on without it.

    Parameters
    ----------
    complain : callable
        Called once with the exception.
    """

    def __init__(self, complain: Callable[[Exception], None]) -> None:
        super().__init__()
        self._complain = complain
        self._failed = False

    def evaluate(self, approx: Any) -> np.ndarray | None:
        """Evaluate the terms, unless that failed before or would overdraw the budget."""
        if self._failed:
            return None
        try:
            return super().evaluate(approx)
        except Exception as error:
            self._failed = True
            self._complain(error)
            return None


class PyMCFit:
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

    def __init__(self, recorder: Recorder, first: int, finish: Callable[[], None]) -> None:
        self.recorder, self._finish = recorder, finish
        loop = pymc_loop(threading.get_ident())
        self.n = int(loop.f_locals.get("n", 0)) if loop is not None else 0
        self.first, self.step, self.i = first, first, 0
        self.status, self.ended = "compiling", False
        self.error: Any = None
        self.stopping = False
        self._paused = False
        after_the_cell(self._cell_ended)

    def stop(self, *, source: str) -> None:
        """End the fit at its next callback."""
        self.stopping = True

    def pause(self, *, source: str) -> None:
        """Wait in the callback."""
        self._paused = True

    def resume(self, *, source: str) -> None:
        """Go on."""
        self._paused = False

    def wait(self, attend: Callable[[], None]) -> None:
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
