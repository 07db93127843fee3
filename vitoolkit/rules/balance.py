"""β of several variables, so that each of them is used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vitoolkit.block import Block
from vitoolkit.checks import real_number, whole_number
from vitoolkit.rules.rule import Mean, Rule

__all__ = ["balance"]


class balance(Rule):  # noqa: N801  # reads as a word at the call: rule=vt.rules.balance("z", among=...)
    r"""Give a variable β in proportion to its share of the KL, so that small ones may grow.

    Each of the variables has a β of its own with this rule.

    Parameters
    ----------
    variable : str
        The variable whose β it is.
    among : sequence of str
        All the variables that are balanced, this one with them.
    mean : float, default 1.0
        Mean of the βs of `among`.
    rate : float, default 0.002
        Share of the way to its target that log β goes in a step.
    every : int, default 100
        The rule is asked at the steps that are a multiple of it.

    Raises
    ------
    TypeError, ValueError
        When a number is not one or out of its range, or `among` has fewer than two variables or
        not this one.

    Notes
    -----
    The target is

    .. math:: \beta_v = \bar\beta\; \frac{n\, KL_v}{\sum_{u} KL_u}

    the coefficients by which NVAE balances the KL of its groups while it is annealed (without their
    term for the groups' sizes). It is for a time of annealing: the βs do not end at 1.

    References
    ----------
    Vahdat and Kautz (2020), "NVAE: A Deep Hierarchical Variational Autoencoder", NeurIPS,
    appendix.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> {v: vt.Beta(1.0, rule=vt.rules.balance(v, among=["z", "w"])).rule for v in ["z", "w"]}
    {'z': balance('z', among=('z', 'w')), 'w': balance('w', among=('z', 'w'))}
    """

    def __init__(
        self,
        variable: str,
        among: Sequence[str],
        *,
        mean: float = 1.0,
        rate: float = 0.002,
        every: int = 100,
    ) -> None:
        self.variable, self.among = str(variable), tuple(dict.fromkeys(map(str, among)))
        if len(self.among) < 2 or self.variable not in self.among:
            raise ValueError(
                f"among must name at least two variables, {self.variable!r} with them, "
                f"received {among!r}"
            )
        self.mean = real_number("mean", mean, above=0)
        self.rate = real_number("rate", rate, above=0, most=1)
        self.every = whole_number("every", every, least=1, of="steps")
        self.needs = tuple(f"kl[{name}]" for name in self.among)
        self._kl = [Mean() for _ in self.among]
        self._beta = math.nan

    def begin(self, value: float) -> None:
        """Go on from this value."""
        self._kl, self._beta = [Mean() for _ in self.among], value

    def observe(self, block: Block) -> None:
        """Look at the KLs."""
        for column, mean in zip(self.needs, self._kl, strict=True):
            mean.add(block.column(column))

    def value(self, step: int) -> float:
        """A part of the way to the share of the KL."""
        kl = np.maximum([mean.take() for mean in self._kl], 0.0)
        total = kl.sum()
        if not total > 0:
            self.why = "no KL above 0 was evaluated: held"
            return self._beta
        share = float(kl[self.among.index(self.variable)] / total)
        low, high = self.bounds
        least = max(low, 1e-3 * self.mean)  # where log β is finite
        target = min(max(self.mean * len(kl) * share, least), high)
        part = 1 - (1 - self.rate) ** self.every
        now = math.log(max(self._beta, least))
        self._beta = math.exp(now + part * (math.log(target) - now))
        self.why = f"{self.variable} has {100 * share:.1f} % of the KL: on the way to {target:.3g}"
        return self._beta

    def __repr__(self) -> str:
        return f"balance({self.variable!r}, among={self.among!r})"
