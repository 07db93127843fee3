"""What a journal says of its runs and checkpoints."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, NamedTuple

__all__ = ["ENDED", "RunRow", "Saved"]

#: Seconds without a sign of life after which the process of a run counts as gone: on another
#: machine, and on this one, where it is seen whether there is a process of that number.
SILENCE, SILENCE_HERE = 15.0, 120.0
ENDED = ("finished", "stopped", "interrupted", "failed")


class RunRow(NamedTuple):
    """What a journal says of one run.

    Attributes
    ----------
    id : int
        Its number in the file.
    created : str
        When it began, UTC, ISO 8601.
    status : str
        As of a run; "lost" when the process that wrote it is gone without a word.
    first, step, stop : int
        First step of the last call of ``fit``, the next step, and the one at which it ends.
    host, pid : str, int
        Which process writes it, or wrote it last.
    beat : float
        When that was, seconds since 1970.
    controls : dict
        Value, bounds and kind of each control, by name.
    options : dict or None
        What the fit was asked for.
    """

    id: int
    created: str
    status: str
    first: int
    step: int
    stop: int
    host: str
    pid: int
    beat: float
    controls: dict[str, Any]
    options: dict[str, Any] | None

    @property
    def alive(self) -> bool:
        """Whether a process trains it now."""
        if self.status in ENDED:
            return False
        here = self.host == socket.gethostname()
        if here and not _process(self.pid):
            return False
        return time.time() - self.beat < (SILENCE_HERE if here else SILENCE)

    @property
    def state(self) -> str:
        """The status, or "lost"."""
        return self.status if self.status in ENDED or self.alive else "lost"


class Saved(NamedTuple):
    """A checkpoint as a journal keeps it.

    Attributes
    ----------
    step : int
        Steps that had been taken.
    events : int
        Events that had been logged.
    controls : str
        State of the controls, JSON.
    data : bytes
        What :meth:`vitoolkit.checkpoint.Checkpoint.to_bytes` gave.
    """

    step: int
    events: int
    controls: str
    data: bytes


def _process(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
