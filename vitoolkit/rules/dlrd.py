"""A smaller learning rate when the parameters of q oscillate more than they advance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit.checks import real_number
from vitoolkit.rules.rule import RateRule

__all__ = ["dlrd"]


class dlrd(RateRule):  # noqa: N801  # reads as a word at the call: rule=vt.rules.dlrd()
    r"""Dynamic learning rate decay: drop it when the iterates' signal-to-noise ratio is below 1.

    Parameters
    ----------
    factor : float, default 0.1
        The learning rate is multiplied by it.
    threshold : float, default 1.0
        A drop comes when the ratio is below it.
    least : float, optional
        The learning rate goes no lower. Default is the lower bound of the control.
    every : int, default 500
        The rule is asked, and looks at the parameters, at the steps that are a multiple of it.

    Raises
    ------
    TypeError, ValueError
        When a number is not one, or out of its range.

    Notes
    -----
    The ratio is of the *iterates*, not of the gradient: for each parameter of q or weight of its
    networks, R² / (1 - R²) of its linear regression on the step since the last drop; of all the
    mean. (Dinkel et al. regress every iterate, here it is every `every`-th: the parameters are
    seldom looked at in a compiled call.) For a slope δ an iterate and white noise of standard
    deviation τ it tends to :math:`\delta^2 (n^2 - 1) / (12 \tau^2)` for n iterates. A phase is at
    least as long as the one before it, and :data:`LEAST` iterates.

    References
    ----------
    Dinkel, Robalo Rei and Wall (2024), "Dynamic Learning Rate Decay for Stochastic Variational
    Inference", arXiv:2412.15745.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.LearningRate(0.1, rule=vt.rules.dlrd()).rule
    dlrd(0.1)
    """

    #: Iterates that a ratio needs.
    LEAST = 10

    def __init__(
        self,
        factor: float = 0.1,
        *,
        threshold: float = 1.0,
        least: float | None = None,
        every: int = 500,
    ) -> None:
        super().__init__(factor, least, every)
        self.threshold = real_number("threshold", threshold, above=0)
        self._phase = self.LEAST
        self._forget()

    def _forget(self) -> None:
        self._count = 0
        self._first: NDArray[Any] = np.empty(0)
        self._sums: NDArray[Any] = np.zeros((3, 0))

    def begin(self, value: float) -> None:
        """Go on from this value."""
        super().begin(value)
        self._phase = self.LEAST
        self._forget()

    def look(self, parameters: list[NDArray[Any]]) -> None:
        """Take the parameters into the sums of the regression."""
        if not parameters:
            raise ValueError(
                "dlrd looks at what is trained, and this q has no parameters of its own; PyMC's "
                "own loop does not tell of its networks' weights: take an inference of vitoolkit, "
                "such as method=vitoolkit.KLqp(approx), or another rule"
            )
        now = np.concatenate([np.ravel(value) for value in parameters]).astype(float)
        if not self._count:  # differences to the first: their squares lose no digits
            self._first, self._sums = now, np.zeros((3, len(now)))
        moved = now - self._first
        self._sums += [moved, moved**2, self._count * moved]
        self._count += 1

    def ratio(self) -> float:
        """Mean signal-to-noise ratio of the iterates since the last drop."""
        n = self._count
        total, squares, products = self._sums
        steps = n * (n * n - 1) / 12  # sum of squared deviations of 0 .. n - 1
        explained = (products - (n - 1) / 2 * total) ** 2 / steps
        rest = squares - total**2 / n - explained
        moving = explained + rest > 0
        with np.errstate(divide="ignore"):
            ratios = explained[moving] / np.maximum(rest[moving], 0)
        return float(ratios.mean()) if len(ratios) else math.inf

    def value(self, step: int) -> float:
        """One factor down where the noise is larger than the signal."""
        if self._count >= self._phase and (ratio := self.ratio()) < self.threshold:
            self.drop(
                f"the parameters oscillate more than they advance: signal to noise {ratio:.3g} "
                f"over {self._count * self.every:,} steps"
            )
            self._phase = self._count
            self._forget()
        return self._rate

    def __repr__(self) -> str:
        return f"dlrd({self.factor!r})"
