"""Ctrl-C during a fit, and how soon another thread gets the interpreter."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from vitoolkit.run import Run

__all__ = ["Interrupt", "short_switch_interval"]

SECONDS = 0.0005
#: A callback is interrupted by a Ctrl-C that comes so many seconds after the first one: it hangs.
PATIENCE = 1.0

_lock = threading.Lock()
_before: list[float] = []  # one entry for each fit, the first is the interval to go back to


class Interrupt:
    """Ctrl-C waits for the step boundary, so that a step that was taken is a step that is recorded.

    Where the gate is open, while something compiles or in a plain callback, it is raised at once;
    what a finalizer swallows of that is raised at the next boundary. A hook that hangs is ended by
    another one. Handlers other than Python's own, and
    threads other than the main one, are left alone.

    Parameters
    ----------
    run : Run
        The fit that is interrupted.
    open : bool
        Whether the gate is open.
    """

    def __init__(self, run: Run, *, open: bool = False) -> None:
        self._run = run
        self._open: bool | str = open
        self._installed = False
        self._first = 0.0

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread() and _is_default():
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._installed and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def _handle(self, signum, frame) -> None:
        now = time.monotonic()
        stuck = self._run.interrupted is not None and now - self._first > PATIENCE
        if self._run.interrupted is None:
            self._first = now
        if self._run.running:
            self._run.interrupt()
        if self._open is True or (self._open == "second" and stuck):
            self._open = self._open is True
            signal.default_int_handler(signum, frame)

    @property
    def over(self) -> bool:
        """Whether the run has ended, so that the handler stands for Python's own."""
        return not self._run.running

    def gate(self, open: bool | str) -> None:
        """Open the gate, "second" for one that comes late after the first, or shut it."""
        self._open = open

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, Ctrl-C is raised where it falls."""
        if self._run.interrupted is not None:
            raise KeyboardInterrupt
        self._open = True
        try:
            yield
        finally:
            self._open = False


def _is_default() -> bool:
    handler = signal.getsignal(signal.SIGINT)
    ours = getattr(handler, "__self__", None)  # of a fit whose end was seen by another thread
    return handler is signal.default_int_handler or (isinstance(ours, Interrupt) and ours.over)


@contextlib.contextmanager
def short_switch_interval() -> Iterator[None]:
    """Hand the interpreter over after half a millisecond; several fits may overlap.

    A compiled call holds the interpreter for some milliseconds. Under Python's own interval of 5 ms
    a thread that wants it would often wait for the end of a second call.
    """
    with _lock:
        _before.append(sys.getswitchinterval())
        sys.setswitchinterval(min(_before[0], SECONDS))
    try:
        yield
    finally:
        with _lock:
            first = _before[0]
            _before.pop()
            if not _before:
                sys.setswitchinterval(first)


def _in_a_forked_child() -> None:
    """A child has one thread: what others held or had begun is not there."""
    global _lock
    _lock = threading.Lock()
    if _before:
        sys.setswitchinterval(_before[0])
        _before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)
