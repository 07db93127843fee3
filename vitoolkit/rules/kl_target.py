"""β held where the KL of one variable is what was asked for."""

from __future__ import annotations

import math

from vitoolkit.checks import real_number
from vitoolkit.rules.rule import KLRule

__all__ = ["kl_target"]


class kl_target(KLRule):  # noqa: N801  # reads as a word at the call: rule=vt.rules.kl_target("z", 20)
    r"""Hold the KL contribution of a variable at a target: the controller of ControlVAE.

    A proportional-integral controller: more β where the KL is above the target, less where it is
    below.

    Parameters
    ----------
    variable : str
        The variable whose KL contribution is held.
    target : float
        What it is held at, nats of the full data set, as in the trace; divided by `per`.
    proportional : float, default 0.01
        Gain of the proportional part: the most that it adds to β.
    integral : float, optional
        Gain of the integral a step, per nat of error. Default is 0.002 / `target`: at 20 nats it is
        the 1e-4 of the paper.
    per : float, default 1.0
        Divisor of the KL contribution: with the number of rows, `target` is of one row.
    every : int, default 100
        The rule is asked at the steps that are a multiple of it; the error is the mean since then.

    Raises
    ------
    TypeError, ValueError
        When a number is not one, or not positive.

    Notes
    -----
    With :math:`e = C - KL`, for every k steps

    .. math:: I \leftarrow I - K_i\, k\, e, \qquad
        \beta = \beta_{\min} + \frac{K_p}{1 + \exp(e)} + I

    but I goes no further than to where β is at a bound of its control. (The published code tests
    the value that it has clamped, and so never holds the integral: after 1,500 steps in which the
    KL could not rise, the KL of a conjugate model overshoots 0.6 nats to 5.3 instead of 1.8.) At
    the start, and when a person gives the wheel back, I is what makes β go on from the value it
    has.

    References
    ----------
    Shao et al. (2020), "ControlVAE: Controllable Variational Autoencoder", ICML, algorithm 1.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> beta = vt.Beta(1.0, rule=vt.rules.kl_target("z", 20.0))
    >>> beta.rule
    kl_target('z', 20.0)
    """

    def __init__(
        self,
        variable: str,
        target: float,
        *,
        proportional: float = 0.01,
        integral: float | None = None,
        per: float = 1.0,
        every: int = 100,
    ) -> None:
        super().__init__(variable, per, every)
        self.target = real_number("target", target, above=0)
        self.proportional = real_number("proportional", proportional, least=0)
        self.integral = (
            0.002 / self.target if integral is None else real_number("integral", integral, above=0)
        )
        self._start, self._sum = 0.0, math.nan

    def begin(self, value: float) -> None:
        """Go on from this value; the integral is what makes it so."""
        super().begin(value)
        self._start, self._sum = value, math.nan

    def value(self, step: int) -> float:
        """What the controller says."""
        kl = self.kl()
        low, high = self.bounds
        if math.isnan(kl):
            self.why = f"no KL of {self.variable} was evaluated: held"
            return self._start
        error = self.target - kl
        fast = self.proportional / (1 + math.exp(min(max(error, -500.0), 500.0)))
        if math.isnan(self._sum):
            self._sum = self._start - low - fast
        move = -self.integral * self.every * error
        now = low + fast + self._sum
        room = max(high - now, 0.0) if move > 0 else min(low - now, 0.0)
        self._sum += min(move, room) if move > 0 else max(move, room)
        self._start = min(max(low + fast + self._sum, low), high)
        self.why = f"the KL of {self.variable} is {kl:.4g} nats, the target {self.target:.4g}"
        return self._start

    def __repr__(self) -> str:
        return f"kl_target({self.variable!r}, {self.target!r})"
