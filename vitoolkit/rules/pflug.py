"""A smaller learning rate when successive gradients point against each other."""

from __future__ import annotations

import numpy as np

from vitoolkit.block import Block
from vitoolkit.checks import whole_number
from vitoolkit.rules.rule import RateRule, summed

__all__ = ["pflug"]


class pflug(RateRule):  # noqa: N801  # reads as a word at the call: rule=vt.rules.pflug()
    r"""Drop the learning rate when the sum of products of successive gradients is negative.

    On the way to an optimum successive gradients point the same way; around it, each step that
    overshoots is answered by the next one.

    Parameters
    ----------
    factor : float, default 0.5
        The learning rate is multiplied by it.
    burn_in : int, default 1000
        Steps after a drop, and at the start, before the next one.
    least : float, optional
        The learning rate goes no lower. Default is the lower bound of the control.
    every : int, default 500
        The rule is asked at the steps that are a multiple of it.

    Raises
    ------
    TypeError, ValueError
        When a number is not one, or out of its range.

    Notes
    -----
    .. math:: S \leftarrow S + \langle g_k, g_{k+1} \rangle

    On a quadratic of curvature a with gradient noise of variance v and a constant learning rate γ,
    the mean of the product is :math:`-a \gamma v / (2 - \gamma a)` once the iterates are
    stationary. It needs the gradient's products: ``vt.ADVI(gradient=True)``. Under Adam and the
    like, the products are of the raw gradients.

    References
    ----------
    Pflug (1983), "On the determination of the step size in stochastic quasigradient methods".
    Chee and Toulis (2018), "Convergence diagnostics for stochastic gradient descent with constant
    learning rate", AISTATS, algorithm 1.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.LearningRate(0.1, rule=vt.rules.pflug()).rule
    pflug(0.5)
    """

    needs = ("gradient_dot",)

    def __init__(
        self,
        factor: float = 0.5,
        *,
        burn_in: int = 1_000,
        least: float | None = None,
        every: int = 500,
    ) -> None:
        super().__init__(factor, least, every)
        self.burn_in = whole_number("burn_in", burn_in, least=0, of="steps")
        self._sum, self._count = 0.0, 0

    def begin(self, value: float) -> None:
        """Go on from this value."""
        super().begin(value)
        self._sum, self._count = 0.0, 0

    def observe(self, block: Block) -> None:
        """Sum the products, from the end of the burn-in on."""
        products = block.column("gradient_dot")
        burnt = max(self.burn_in - self._count, 0)
        self._count += len(products)
        late = products[burnt:]
        self._sum = summed(self._sum, late[np.isfinite(late)])

    def value(self, step: int) -> float:
        """One factor down where the sum is negative."""
        if self._count > self.burn_in and self._sum < 0:
            steps = self._count - self.burn_in
            self.drop(
                f"successive gradients point against each other: {self._sum / steps:.3g} in the "
                f"mean of {steps:,} steps"
            )
            self._sum, self._count = 0.0, 0
        return self._rate

    def __repr__(self) -> str:
        return f"pflug({self.factor!r})"
