"""β driven until the data term is what was asked for."""

from __future__ import annotations

import math

from vitoolkit.block import Block
from vitoolkit.checks import real_number, whole_number
from vitoolkit.rules.rule import Mean, Rule

__all__ = ["geco"]

#: β = 0 cannot be multiplied: it starts here.
LEAST = 1e-6


class geco(Rule):  # noqa: N801  # reads as a word at the call: rule=vt.rules.geco(1234.0)
    r"""Raise β as far as the data allow: the distortion is held at a target.

    Parameters
    ----------
    target : float
        The distortion that is allowed: minus the data term, nats of the full data set. Below it β
        grows, above it β falls.
    rate : float, default 0.001
        Relative change of β a step for an error of the size of `scale`.
    scale : float, optional
        Nats that count as one unit of error. Default is the size of `target`.
    memory : float, default 0.99
        α of the moving average of the distortion, a step.
    every : int, default 100
        The rule is asked at the steps that are a multiple of it.

    Raises
    ------
    TypeError, ValueError
        When a number is not one, `rate` or `scale` not positive, or `target` 0 without a `scale`.

    Notes
    -----
    .. math:: \log\beta \leftarrow \log\beta + \nu\, k\, (\kappa - \bar D) / \text{scale}

    for every k steps: the dual ascent of Rezende and Viola, whose multiplier of the distortion is
    1 / β. On the rate-distortion curve, where dD/dR = -β, its fixed point is the β whose optimum
    has the distortion κ.

    References
    ----------
    Rezende and Viola (2018), "Taming VAEs", arXiv:1810.00597, algorithm 1.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.Beta(1.0, rule=vt.rules.geco(1234.0)).rule
    geco(1234.0)
    """

    def __init__(
        self,
        target: float,
        *,
        rate: float = 0.001,
        scale: float | None = None,
        memory: float = 0.99,
        every: int = 100,
    ) -> None:
        self.target = real_number("target", target)
        self.rate = real_number("rate", rate, above=0)
        if scale is None and self.target == 0:
            raise ValueError("a target of 0 nats says nothing of the scale of errors: give scale=")
        self.scale = abs(self.target) if scale is None else real_number("scale", scale, above=0)
        self.memory = real_number("memory", memory, least=0, below=1)
        self.every = whole_number("every", every, least=1, of="steps")
        self.needs = ("data",)
        self._seen, self._mean, self._beta = Mean(), math.nan, math.nan

    def begin(self, value: float) -> None:
        """Go on from this value."""
        self._seen, self._mean, self._beta = Mean(), math.nan, max(value, LEAST)

    def observe(self, block: Block) -> None:
        """Look at the data term."""
        self._seen.add(-block.data)

    def value(self, step: int) -> float:
        """A little more β below the target, a little less above it."""
        distortion = self._seen.take()
        if math.isnan(distortion):
            self.why = "no data term was evaluated: held"
            return self._beta
        old = self.memory**self.every
        self._mean = (
            distortion if math.isnan(self._mean) else old * self._mean + (1 - old) * distortion
        )
        error = (self.target - self._mean) / self.scale
        low, high = self.bounds
        wanted = self._beta * math.exp(min(max(self.rate * self.every * error, -1.0), 1.0))
        self._beta = min(max(wanted, low, LEAST), high)
        self.why = f"the distortion is {self._mean:.4g} nats, the target {self.target:.4g}"
        return self._beta

    def __repr__(self) -> str:
        return f"geco({self.target!r})"
