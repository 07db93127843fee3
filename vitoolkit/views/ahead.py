"""What the schedules of a fit have in store, as far as the step axis reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitoolkit.controls import Control, future_of
from vitoolkit.schedules import Schedule

__all__ = ["Ahead", "edge_of"]

#: Points of a schedule's future, and most schedules that are drawn.
POINTS, MOST = 100, 8


def edge_of(last: float, end: float) -> float:
    """Right end of the step axis: it grows at 1, 2, 5, 10, 20 ... only, so that it seldom moves.

    Parameters
    ----------
    last : float
        Last step so far.
    end : float
        Last step that is planned.

    Examples
    --------
    >>> edge_of(30, 2_000_000), edge_of(51_878, 2_000_000), edge_of(51_878, 60_000)
    (50.0, 100000.0, 60000.0)
    """
    if last >= end:
        return float(max(last, 1))
    edge = 50.0
    for factor in (2, 2.5, 2) * 40:
        if edge >= last:
            break
        edge *= factor
    return float(min(edge, end))


class Ahead:
    """The future of the controls that are on a schedule; evaluated anew when that changes.

    Parameters
    ----------
    controls : sequence of Control
        The controls that are drawn.

    Attributes
    ----------
    which : list of int
        Indices of the controls that have a future.
    step : ndarray, shape (points,)
    values : ndarray, shape (len(which), points)
    """

    def __init__(self, controls: Sequence[Control]) -> None:
        self.controls = list(controls)
        self._key: tuple[float, list[tuple[int, Schedule]]] | None = None
        self._clear()

    def _clear(self) -> None:
        self.which: list[int] = []
        self.step: NDArray[np.float64] = np.empty(0)
        self.values: NDArray[np.float64] = np.empty((0, 0))

    def look(self, last: float, edge: float, end: float) -> Ahead:
        """Look from the last step to the edge of the axis, or to where the fit is to end.

        Parameters
        ----------
        last, edge, end : float
            Last step so far, right end of the step axis, last step that is planned.
        """
        on = [
            (i, control.schedule)
            for i, control in enumerate(self.controls)
            if control.schedule is not None and not control.manual
        ][:MOST]
        reach = min(edge, end)
        key = (reach, on)
        if key != self._key:
            self._key = key
            self._clear()
            futures = [(i, *future_of(self.controls[i], 0, int(reach), POINTS)) for i, _ in on]
            known = [(i, values) for i, _, values in futures if np.isfinite(values).any()]
            self.which = [i for i, _ in known]
            if known:
                self.step = futures[0][1].astype(float)
                self.values = np.array([values for _, values in known])
        return self
