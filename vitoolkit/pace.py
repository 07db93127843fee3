"""A limit of steps a second, for looking: it moves the clock and no number."""

from __future__ import annotations

import math

from vitoolkit.checks import real_number, shown

__all__ = ["Pace", "checked_pace"]

#: Steps saved up while others had the time: those of so many seconds.
SAVED_SECONDS = 0.05
#: Shortest and longest wait for the next steps, in seconds.
SHORTEST, LONGEST = 0.01, 0.02
_MANY = 1 << 62


def checked_pace(steps_per_second: float | None) -> float | None:
    """Return a limit of steps a second, None for no limit, or say what is wrong with it.

    Raises
    ------
    TypeError, ValueError
        When it is no finite number above 0.

    Examples
    --------
    >>> checked_pace(100), checked_pace(None)
    (100.0, None)
    >>> checked_pace(0)
    Traceback (most recent call last):
    ...
    ValueError: steps_per_second must be above 0, or None for no limit, received 0
    """
    if steps_per_second is None:
        return None
    rate = real_number("steps_per_second", steps_per_second, finite=True)
    if rate <= 0:
        raise ValueError(
            "steps_per_second must be above 0, or None for no limit, received "
            f"{shown(steps_per_second)}"
        )
    return rate


class Pace:
    """How many steps may be taken now.

    Attributes
    ----------
    steps_per_second : float or None
        The limit, None for none. Any thread may set it.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.steps_per_second = 10.0
    >>> pace.allowed(now=0.0)
    1
    >>> pace.taken(1)
    >>> pace.allowed(now=0.05), pace.allowed(now=0.1)
    (0, 1)
    """

    def __init__(self) -> None:
        self.steps_per_second: float | None = None
        self._saved, self._looked = 0.0, -math.inf

    def allowed(self, now: float) -> int:
        """Steps that may be taken at a time of ``time.perf_counter``; many without a limit."""
        rate = self.steps_per_second
        if rate is None:
            return _MANY
        most = max(1.0, rate * SAVED_SECONDS)
        # The sum of many small waits may fall short of a whole step by a rounding error.
        self._saved = min(self._saved + (now - self._looked) * rate, most)
        self._looked = now
        return int(self._saved + 1e-9)

    def taken(self, steps: int) -> None:
        """Take note that steps were taken."""
        self._saved = max(self._saved - steps, 0.0)

    @property
    def wait(self) -> float:
        """Seconds to wait before the next look."""
        rate = self.steps_per_second
        if rate is None:
            return 0.0
        return min(max((1.0 - self._saved) / rate, SHORTEST), LONGEST)
