"""A fit of PyMC's own inferences, as far as a panel needs to know it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from vitoolkit.dashboard.kernel_events import after_the_cell
from vitoolkit.monitor import KLMonitor
from vitoolkit.recorder import Recorder
from vitoolkit.steered import Steered
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


class PyMCFit(Steered):
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

    #: What is compiled before the first row, in words.
    compiles = "what evaluates the KL of each variable"

    def __init__(self, recorder: Recorder, first: int, finish: Callable[[], None]) -> None:
        super().__init__(recorder.controls, first)
        self.recorder, self._finish = recorder, finish
        for control in self.controls:
            control.forget_changes()
        loop = pymc_loop(threading.get_ident())
        self.n = int(loop.f_locals.get("n", 0)) if loop is not None else 0
        self.first, self.i = first, 0
        self.ended = False
        self.error: Any = None
        after_the_cell(self._cell_ended)

    def attend(self, idle: Callable[[], None]) -> None:
        """Do what was asked for; PyMC's callback calls this after its step.

        Raises
        ------
        StopIteration
            When the fit shall end, which is PyMC's word for it too.
        """
        try:
            self.heed(idle)
        except StopIteration:
            if self.i < 10:  # an IndexError inside PyMC
                self.asked = True
                return
            self.end("stopped")
            raise StopIteration("stopped from the dashboard") from None

    def end(self, status: str) -> None:
        """Note the end, once."""
        if self.ended:
            return
        if status == "stopped":
            self.add_event("stop", str(self._stop))
        self.ended, self.status = True, status
        self.recorder.collect(self)
        self.recorder.trace.attrs["status"] = status
        self._finish()

    def _cell_ended(self, result: Any) -> None:
        """Note an end that PyMC tells no callback of: an exception, or an interrupt."""
        if self.ended:
            return
        error = result.error_in_exec
        self.error = error
        self.end("failed" if isinstance(error, Exception) else "interrupted")
