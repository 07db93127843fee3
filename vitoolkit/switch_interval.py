"""How soon another thread of the process gets the interpreter while a fit runs."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

__all__ = ["short_switch_interval"]

SECONDS = 0.0005

_lock = threading.Lock()
_before: list[float] = []  # one entry for each fit, the first is the interval to go back to


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
