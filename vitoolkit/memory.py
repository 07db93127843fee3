"""Whether what a fit will record has room in memory, said before it begins."""

from __future__ import annotations

import math
from pathlib import Path

from vitoolkit.advise import warn_user

__all__ = ["available", "warn_of_a_large_trace"]

_GIGABYTE = 1e9


def available() -> float:
    """Bytes of memory that are free here for another program; infinite where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * int(found[0]) if found else math.inf


def warn_of_a_large_trace(steps: int, every: int, width: int) -> None:
    """Warn where the rows to come take more memory than there is.

    Parameters
    ----------
    steps : int
        Steps to come.
    every : int
        Those that are a multiple of it are recorded.
    width : int
        Numbers of a row, of 8 bytes each.

    Examples
    --------
    >>> warn_of_a_large_trace(10_000, every=1, width=8)
    """
    rows, free = -(-steps // every), available()
    needed = 8.0 * rows * width
    if needed <= free:
        return
    enough = math.ceil(every * needed / free * 2)
    warn_user(
        f"the trace of {steps:,} steps will take {needed / _GIGABYTE:,.1f} GB, {rows:,} rows of "
        f"{width:,} numbers, and {free / _GIGABYTE:,.1f} GB are free here: every={enough:,} "
        "records as much as has room"
    )
