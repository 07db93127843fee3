"""SIGTERM during fits that have a journal: they end as by ``stop``, and then the process does."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from vitoolkit.run import Run

__all__ = ["Termination"]


class Termination:
    """What is done at SIGTERM, where nobody else handles it.

    A fit ends at the next step boundary with its state saved, and the process ends by the signal
    then. One that still compiles has nothing to save.
    """

    _only: Termination | None = None

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._installed = self._asked = False

    @classmethod
    def of(cls, run: Run) -> Termination:
        """The one of this process, which now looks after this run as well."""
        if cls._only is None:
            cls._only = cls()
        only = cls._only
        only._runs.append(run)
        main = threading.current_thread() is threading.main_thread()
        if main and not only._installed and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, only._handle)
            only._installed = True
        return only

    def over(self, run: Run) -> None:
        """The run has ended and is saved."""
        self._runs = [other for other in self._runs if other is not run]
        if self._runs:
            return
        if self._asked:
            self._end()
        if self._installed and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._installed = False

    def _handle(self, signum: int, frame: Any) -> None:
        self._asked = True
        saving = [run for run in self._runs if run.running and run.status != "compiling"]
        for run in saving:
            run.stop(source="SIGTERM")
        if not saving:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _end(self) -> None:
        """End the process, as whoever sent the signal wants."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        else:  # only the main thread may change a handler: it does so when the signal comes again
            self._installed = True
            os.kill(os.getpid(), signal.SIGTERM)
