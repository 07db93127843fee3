"""Whether what a fit will record has room, in memory and on the disk, said before it begins."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Protocol

from vitoolkit.advise import warn_user

__all__ = ["available", "room_on_disk", "warn_of_a_large_trace"]

_GIGABYTE = 1e9
#: That of PyMC's own messages on a fit.
_logger = logging.getLogger("pymc.variational.inference")


class _Journal(Protocol):
    """What is asked of a journal here."""

    path: Path
    memory: int | None
    problem: str | None


def available() -> float:
    """Bytes of memory that are free here for another program; infinite where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * int(found[0]) if found else math.inf


def room_on_disk(path: Path) -> float:
    """Bytes that are free where a file is; infinite where nobody tells."""
    try:
        return float(shutil.disk_usage(path.absolute().parent).free)
    except OSError:
        return math.inf


def warn_of_a_large_trace(
    steps: int, every: int, width: int, journal: _Journal | None = None
) -> None:
    """Warn where the rows to come take more than there is, of memory or of the disk.

    Parameters
    ----------
    steps : int
        Steps to come.
    every : int
        Those that are a multiple of it are recorded.
    width : int
        Numbers of a row, of 8 bytes each.
    journal : Journal, optional
        Where they are on disk, with a part of them in memory.

    Examples
    --------
    >>> warn_of_a_large_trace(10_000, every=1, width=8)
    """
    rows, free = -(-steps // every), available()
    needed = 8.0 * rows * width
    size = f"{needed / _GIGABYTE:,.1f} GB, {rows:,} rows of {width:,} numbers"
    if journal is not None and journal.problem is None:
        if needed > (room := room_on_disk(journal.path)):
            warn_user(
                f"the journal of {steps:,} steps will take {size}, and {room / _GIGABYTE:,.1f} GB "
                f"are free on the disk of {journal.path}: {_fewer(every, needed, room)}, or give "
                "record= a path on another disk"
            )
        if journal.memory is not None:
            held = min(needed, journal.memory)
            if held > free:
                warn_user(
                    f"{held / _GIGABYTE:,.1f} GB of the trace of {steps:,} steps will stay in "
                    f"memory, and {free / _GIGABYTE:,.1f} GB are free here: "
                    f"record=vitoolkit.Journal({str(journal.path)!r}, memory={int(free / 4):_}) "
                    "leaves more of it to the file"
                )
            elif needed > journal.memory:
                _logger.info(
                    f"The trace will take {size}: all are in {journal.path}, the last "
                    f"{held / _GIGABYTE:,.1f} GB in memory as well"
                )
            return
    if needed <= free:
        return
    warn_user(
        f"the trace of {steps:,} steps will take {size}, and {free / _GIGABYTE:,.1f} GB are free "
        f"here: {_fewer(every, needed, free)}; or record='run.db', a journal, has all of it on "
        "disk and only the last rows in memory"
    )


def _fewer(every: int, needed: float, free: float) -> str:
    enough = math.ceil(every * needed / max(free, 1.0) * 2)
    return f"every={enough:,} records as much as has room"
