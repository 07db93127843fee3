"""β that starts again from low when a variable has collapsed."""

from __future__ import annotations

import math

from vitoolkit.checks import real_number, whole_number
from vitoolkit.rules.rule import KLRule

__all__ = ["cyclic_restart_on_collapse"]


class cyclic_restart_on_collapse(KLRule):  # noqa: N801  # reads as a word at the call, as the others
    r"""Anneal β anew whenever the KL of a variable has collapsed.

    Parameters
    ----------
    variable : str
        The variable.
    below : float
        It has collapsed when its KL contribution is below so many nats, divided by `per`.
    steps : int, default 2000
        Length of an annealing, and of the time after it in which the KL may show.
    low : float, default 0.0
        β where an annealing begins; it ends at the value that β had when the rule took over.
    times : int, default 4
        Most restarts.
    per : float, default 1.0
        Divisor of the KL contribution: with the number of rows, `below` is of one row.
    every : int, default 100
        The rule is asked at the steps that are a multiple of it: so fine is the annealing.

    Raises
    ------
    TypeError, ValueError
        When a number is not one, or out of its range.

    Notes
    -----
    The cycles of Fu et al., but one is begun when it is needed. From the step r of a restart on

    .. math:: \beta(t) = \text{low} + (\text{top} - \text{low}) \min(1, (t - r) / \text{steps})

    References
    ----------
    Fu et al. (2019), "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing",
    NAACL, equation 6.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.Beta(1.0, rule=vt.rules.cyclic_restart_on_collapse("z", below=0.01)).rule
    cyclic_restart_on_collapse('z', below=0.01)
    """

    def __init__(
        self,
        variable: str,
        below: float,
        *,
        steps: int = 2_000,
        low: float = 0.0,
        times: int = 4,
        per: float = 1.0,
        every: int = 100,
    ) -> None:
        super().__init__(variable, per, every)
        self.below = real_number("below", below, above=0)
        self.steps = whole_number("steps", steps, least=1)
        self.low = real_number("low", low, least=0)
        self.times = whole_number("times", times, least=1)
        #: Restarts so far.
        self.restarts = 0
        self._top, self._restart = math.nan, -math.inf
        self._began: float = math.nan

    def begin(self, value: float) -> None:
        """Anneal to this value from now on, if anything collapses."""
        super().begin(value)
        self._top, self._restart = value, -math.inf
        self._began = math.nan

    def value(self, step: int) -> float:
        """What the annealing says; a restart when it is over and the KL has not come."""
        kl = self.kl()
        if math.isnan(self._began):
            self._began = step
        since = max(self._restart + self.steps, self._began)  # a whole β was in force from here on
        late = step >= since + self.steps
        if late and kl < self.below and self.restarts < self.times:
            self.restarts, self._restart = self.restarts + 1, step
            self.why = (
                f"the KL of {self.variable} is {kl:.3g} nats, below {self.below:.4g}: restart "
                f"{self.restarts} of at most {self.times}"
            )
        elif step - self._restart <= self.steps:
            self.why = f"restart {self.restarts}: annealed over {self.steps:,} steps"
        share = min(1.0, (step - self._restart) / self.steps)
        return self.low + (self._top - self.low) * share

    def __repr__(self) -> str:
        return f"cyclic_restart_on_collapse({self.variable!r}, below={self.below!r})"
