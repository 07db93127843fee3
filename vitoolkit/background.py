"""A fit in a thread of its own, beside the cell or the script that started it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from vitoolkit.run import Run

__all__ = ["Background", "answering"]

_LOOK_SECONDS = 0.005
#: Seconds a fit has to end in after an interrupt, or when the program ends.
_PATIENCE_SECONDS = 5.0

_running: set[Background] = set()


class Background:
    """The thread of a fit.

    Parameters
    ----------
    run : Run
        The fit, begun in the thread that asks for it.
    train : callable
        Does the rest.

    Attributes
    ----------
    error : BaseException or None
        What ended a fit that failed.
    """

    def __init__(self, run: Run, train: Callable[[], Any]) -> None:
        self.run = run
        self.error: BaseException | None = None
        self._train = train
        self._ended = threading.Event()
        self._waiting = 0
        # A notebook knows by the context into which cell's output a thread prints.
        run_there = contextvars.copy_context().run
        # A plain thread does not get through to marimo's page.
        thread = getattr(sys.modules.get("marimo"), "Thread", threading.Thread)
        self._thread = run.thread = thread(
            target=run_there, args=(self._work,), name="vitoolkit fit", daemon=True
        )

    def start(self) -> Background:
        """Begin; returns at once."""
        if not _running:
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)
        _running.add(self)
        self._thread.start()
        return self

    @property
    def done(self) -> bool:
        """Whether the fit has ended, however it ended."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, and answer the widgets of the page meanwhile; see `Fit.wait`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a fit cannot wait for its own end: this is its own thread")
        until = None if timeout is None else time.monotonic() + timeout
        self._waiting += 1
        try:
            with answering() as answer:
                while not self.done and (until is None or time.monotonic() < until):
                    left = _LOOK_SECONDS if until is None else until - time.monotonic()
                    self._ended.wait(max(0.0, min(_LOOK_SECONDS, left)))
                    answer()
        except KeyboardInterrupt:
            self.run.interrupt()
            if self.run.compile_seconds is None:  # cannot be cut short: it ends once compiled
                raise
            self._ended.wait(_PATIENCE_SECONDS)
        finally:
            self._waiting -= 1
        if self.done and self.error is not None:
            raise self.error
        return self.done

    async def awaited(self) -> None:
        """The same for `await`; when that is cancelled, the fit is interrupted."""
        self._waiting += 1
        try:
            with answering(awaiting=True) as answer:
                while not self.done:
                    await asyncio.sleep(_LOOK_SECONDS)
                    answer()
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.run.interrupt()
            raise
        finally:
            self._waiting -= 1
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            with self.run.approx.model:  # PyMC's context belongs to a thread
                self._train()
        except KeyboardInterrupt:
            pass  # asked for by a person while it was compiling: `run.status` says so
        except BaseException as error:
            self.error = error
            if not self._waiting:  # nobody is there to raise it to
                print("The fit in the background failed:", file=sys.stderr)
                traceback.print_exception(error, file=sys.stderr)
        finally:
            _running.discard(self)
            self._ended.set()


@contextlib.contextmanager
def answering(*, awaiting: bool = False) -> Iterator[Callable[[], Any]]:
    """Give what answers the page's widgets while this thread waits, if there is a page."""
    if "ipykernel" not in sys.modules:
        yield lambda: None
        return
    from vitoolkit.dashboard.kernel_events import KernelEvents, awaiting_cell

    with awaiting_cell() if awaiting else contextlib.nullcontext():
        yield KernelEvents().poll


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _running.clear())  # their threads are not there


def _stop_all() -> None:
    """End what runs when the program ends, so that no thread computes in a dying interpreter."""
    for fit in list(_running):
        fit.run.stop(source="exit")
    for fit in list(_running):
        run = fit.run
        fit._thread.join(_PATIENCE_SECONDS)
        print(
            f"vitoolkit: the program ended while a fit ran in the background; it was stopped at "
            f"step {run.step:,} of {run.first + run.n:,}. fit.wait() waits for its end.",
            file=sys.stderr,
        )
