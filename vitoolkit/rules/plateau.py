"""A smaller learning rate when the ELBO rises no more than its own noise."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from vitoolkit.block import Block
from vitoolkit.checks import real_number, whole_number
from vitoolkit.rules.rule import RateRule

__all__ = ["reduce_on_plateau"]


class reduce_on_plateau(RateRule):  # noqa: N801  # reads as a word: rule=vt.rules.reduce_on_plateau()
    r"""Multiply the learning rate down when the ELBO has stopped rising.

    Parameters
    ----------
    factor : float, default 0.5
        The learning rate is multiplied by it.
    patience : int, default 1000
        Steps that are looked at: as many after the start and after each drop come first.
    errors : float, default 2.0
        The ELBO rises when its slope over these steps is larger than so many of its standard
        errors.
    least : float, optional
        The learning rate goes no lower. Default is the lower bound of the control.
    every : int, default 500
        The rule is asked at the steps that are a multiple of it.

    Raises
    ------
    TypeError, ValueError
        When a number is not one or out of its range, or `patience` has fewer than 8 points.

    Notes
    -----
    The ELBO is the one at β = 1, whatever β is in force. What counts as rising is told by the noise
    of the fit itself, as there is no number of nats that suits every model: the slope is fitted by
    least squares to the means of 50 steps, or of `every` if these are fewer, and its standard error
    comes from their rests.
    It fires where the fitted slope is below `errors` of these: seldom on a clear rise, after some
    `patience` steps without one. Steps before another control moved last, such as a β on its
    schedule, do not count.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.LearningRate(0.1, rule=vt.rules.reduce_on_plateau()).rule
    reduce_on_plateau(0.5, patience=1000)
    """

    #: Points that a regression needs, and steps of which one is the mean at most.
    LEAST, POINT = 8, 50
    needs = ("elbo",)

    def __init__(
        self,
        factor: float = 0.5,
        *,
        patience: int = 1_000,
        errors: float = 2.0,
        least: float | None = None,
        every: int = 500,
    ) -> None:
        super().__init__(factor, least, every)
        self.point = min(self.every, self.POINT)
        self.patience = whole_number(
            "patience", patience, least=self.LEAST * self.point, of="steps"
        )
        self.errors = real_number("errors", errors, least=0)
        self._forget()

    def _forget(self) -> None:
        self._rest = np.empty(0)  # steps that are no whole point yet
        self._points: deque[float] = deque(maxlen=self.patience // self.point)
        self._controls: np.ndarray | None = None

    def begin(self, value: float) -> None:
        """Go on from this value."""
        super().begin(value)
        self._forget()

    def observe(self, block: Block) -> None:
        """Look at the ELBO, from where everything else is at rest."""
        start = self._moved(block.control)
        if start is not None:
            self._forget()
        self._controls = block.control[-1].copy()
        values = np.concatenate([self._rest, block.elbo[start:]])
        whole = len(values) // self.point * self.point
        self._points.extend(_means(values[:whole].reshape(-1, self.point)))
        self._rest = values[whole:]

    def _moved(self, control: np.ndarray) -> int | None:
        """Rows before the controls had come to rest; None where they were all along."""
        last = control[-1]
        before = last if self._controls is None else self._controls
        moved = (control != last) & ~np.isnan(last)
        if moved.any():
            return int(np.flatnonzero(moved.any(axis=1))[-1]) + 1
        return 0 if ((before != last) & ~np.isnan(last)).any() else None

    def slope(self) -> tuple[float, float]:
        """Slope of the ELBO and its standard error, nats a step."""
        points = np.array(self._points)
        n = len(points)
        at = (np.arange(n) - (n - 1) / 2) * self.point
        spread = float(at @ at)
        slope = float(at @ points) / spread
        rest = points - points.mean() - slope * at
        return slope, math.sqrt(float(rest @ rest) / (n - 2) / spread)

    def value(self, step: int) -> float:
        """One factor down where nothing rises any more."""
        full = len(self._points) == self._points.maxlen
        if full and np.isfinite(self._points).all():
            slope, error = self.slope()
            if slope < self.errors * error:
                steps = len(self._points) * self.point
                rise = "rises no more than its noise" if slope > 0 else "does not rise"
                self.drop(
                    f"the ELBO {rise}: {1000 * slope:.3g} ± {1000 * error:.2g} nats in 1,000 "
                    f"steps, over {steps:,}"
                )
                self._forget()
        return self._rate

    def __repr__(self) -> str:
        return f"reduce_on_plateau({self.factor!r}, patience={self.patience})"


def _means(rows: np.ndarray) -> list[float]:
    """Mean of what is finite in each row; NaN of one in which nothing is."""
    finite = np.isfinite(rows)
    with np.errstate(invalid="ignore"):
        means = np.where(finite, rows, 0.0).sum(axis=1) / finite.sum(axis=1)
    return means.tolist()
