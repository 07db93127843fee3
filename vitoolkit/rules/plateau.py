"""A smaller learning rate when the ELBO rises no more than its own noise."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from vitoolkit.block import Block
from vitoolkit.checks import real_number, whole_number
from vitoolkit.rules.rule import Mean, RateRule

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
    every : int, default 50
        The rule is asked at the steps that are a multiple of it; the means of so many steps are the
        points of the regression.

    Raises
    ------
    TypeError, ValueError
        When a number is not one or out of its range, or `patience` has fewer than 8 points.

    Notes
    -----
    The ELBO is the one at β = 1, whatever β is in force. What counts as rising is told by the noise
    of the fit itself, as there is no number of nats that suits every model: the slope is fitted by
    least squares to the means of `every` steps, and its standard error comes from their rests.
    It fires where the fitted slope is below `errors` of these: seldom on a clear rise, after some
    `patience` steps without one. While another control moves, such as a β on its schedule, nothing
    is judged.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.LearningRate(0.1, rule=vt.rules.reduce_on_plateau()).rule
    reduce_on_plateau(0.5, patience=1000)
    """

    #: Points that a regression needs.
    LEAST = 8
    needs = ("elbo",)

    def __init__(
        self,
        factor: float = 0.5,
        *,
        patience: int = 1_000,
        errors: float = 2.0,
        least: float | None = None,
        every: int = 50,
    ) -> None:
        super().__init__(factor, least, every)
        self.patience = whole_number(
            "patience", patience, least=self.LEAST * self.every, of="steps"
        )
        self.errors = real_number("errors", errors, least=0)
        self._forget()

    def _forget(self) -> None:
        self._elbo = Mean()
        self._points: deque[float] = deque(maxlen=self.patience // self.every)
        self._controls: np.ndarray | None = None

    def begin(self, value: float) -> None:
        """Go on from this value."""
        super().begin(value)
        self._forget()

    def observe(self, block: Block) -> None:
        """Look at the ELBO, and whether anything else moves."""
        last = block.control[-1]
        before = last if self._controls is None else self._controls
        held = (block.control == last) & (before == last)
        if not (held | np.isnan(last)).all():
            self._forget()
        self._controls = last.copy()
        self._elbo.add(block.elbo)

    def slope(self) -> tuple[float, float]:
        """Slope of the ELBO and its standard error, nats a step."""
        points = np.array(self._points)
        n = len(points)
        at = (np.arange(n) - (n - 1) / 2) * self.every
        spread = float(at @ at)
        slope = float(at @ points) / spread
        rest = points - points.mean() - slope * at
        return slope, math.sqrt(float(rest @ rest) / (n - 2) / spread)

    def value(self, step: int) -> float:
        """One factor down where nothing rises any more."""
        self._points.append(self._elbo.take())
        full = len(self._points) == self._points.maxlen
        if full and np.isfinite(self._points).all():
            slope, error = self.slope()
            if slope < self.errors * error:
                steps = len(self._points) * self.every
                rise = "rises no more than its noise" if slope > 0 else "does not rise"
                self.drop(
                    f"the ELBO {rise}: {1000 * slope:.3g} ± {1000 * error:.2g} nats in 1,000 "
                    f"steps, over {steps:,}"
                )
                self._forget()
        return self._rate

    def __repr__(self) -> str:
        return f"reduce_on_plateau({self.factor!r}, patience={self.patience})"
