"""The seconds of a fit as its charts count them: from the first step on, without its pauses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitoolkit.decimation import View
from vitoolkit.events import Event, Unread

__all__ = ["Clock"]

#: What ends a pause.
GOES_ON = ("resume", "stop", "interrupt")


class Clock:
    """Tells seconds without pauses, of a record that grows: each event is read once.

    Examples
    --------
    >>> from vitoolkit.trace import Trace
    >>> trace = Trace()
    >>> for step, time in enumerate([10.0, 11.0, 71.0]):
    ...     trace.append(step, time, 9.0, float("nan"))
    >>> trace.add_event(Event(2, 11.5, "pause", source="user"))
    >>> trace.add_event(Event(2, 70.5, "resume", source="user"))
    >>> Clock().seconds(trace.view()).tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(self) -> None:
        self._unread = Unread()
        # Ends of the pauses, in turn: an even number, but for a fit that is paused now.
        self._turns: list[float] = []

    def seconds(self, view: View) -> NDArray[np.float64]:
        """Return the seconds of a view's points.

        Parameters
        ----------
        view : View
            Up to date.

        Returns
        -------
        ndarray, shape (points,)
        """
        self._listen(view.trace.events)
        if not len(view):
            return np.empty(0)
        first = float(view.trace[:1].time[0])
        turns = self._turns[: len(self._turns) // 2 * 2]
        if len(turns) < len(self._turns):  # paused now: single steps take no time
            turns = [*self._turns, np.inf]
        begin, end = np.array(turns).reshape(-1, 2).T
        time = view.time
        paused = np.zeros(len(time))
        if len(begin):
            lasted = np.concatenate([[0.0], np.cumsum(end - begin)])
            i = np.searchsorted(begin, time)  # pauses that had begun
            inside = np.minimum(time, end[i - 1]) - begin[i - 1]
            paused = np.where(i > 0, lasted[i - 1] + inside, 0.0)
        return np.maximum(time - first - paused, 0.0)

    def _listen(self, events: Sequence[Event]) -> None:
        goes_on, fresh = self._unread.of(events)
        if not goes_on:
            self._turns = []
        for event in fresh:
            paused = len(self._turns) % 2 == 1
            if (event.kind == "pause" and not paused) or (event.kind in GOES_ON and paused):
                self._turns.append(event.time)
