"""β up and down so that a variable keeps some nats."""

from __future__ import annotations

import math

from vitoolkit.checks import real_number
from vitoolkit.rules.rule import KLRule

__all__ = ["soft_free_bits"]


class soft_free_bits(KLRule):  # noqa: N801  # reads as a word: rule=vt.rules.soft_free_bits("z", 3)
    r"""Multiply β up while a variable's KL is above a band, down while it is below.

    Parameters
    ----------
    variable : str
        The variable.
    least : float
        λ, nats of the full data set, divided by `per`.
    factor : float, default 1.1
        β is multiplied by it, or divided.
    band : float, default 0.05
        β holds while the KL is between λ and (1 + band) λ.
    per : float, default 1.0
        Divisor of the KL contribution: with the number of rows, `least` is of one row.
    every : int, default 100
        The rule is asked at the steps that are a multiple of it.

    Raises
    ------
    TypeError, ValueError
        When a number is not one, or out of its range.

    Notes
    -----
    .. math:: \beta \leftarrow \begin{cases}
        \beta \cdot 1.1 & KL > 1.05\,\lambda \\ \beta / 1.1 & KL < \lambda \end{cases}

    References
    ----------
    Chen et al. (2017), "Variational Lossy Autoencoder", ICLR, appendix (soft free bits).

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.Beta(1.0, rule=vt.rules.soft_free_bits("z", 3.0)).rule
    soft_free_bits('z', 3.0)
    """

    def __init__(
        self,
        variable: str,
        least: float,
        *,
        factor: float = 1.1,
        band: float = 0.05,
        per: float = 1.0,
        every: int = 100,
    ) -> None:
        super().__init__(variable, per, every)
        self.least = real_number("least", least, above=0)
        self.factor = real_number("factor", factor, above=1)
        self.band = real_number("band", band, least=0)
        self._beta = math.nan

    def begin(self, value: float) -> None:
        """Go on from this value."""
        super().begin(value)
        self._beta = value

    def value(self, step: int) -> float:
        """One factor up, one down, or none."""
        kl, old = self.kl(), self._beta
        if kl > (1 + self.band) * self.least:
            self._beta *= self.factor
        elif kl < self.least:
            self._beta /= self.factor
        low, high = self.bounds
        self._beta = min(max(self._beta, low), high)
        where = "over" if self._beta > old else "below"
        self.why = f"the KL of {self.variable} is {kl:.4g} nats, {where} {self.least:.4g}"
        return self._beta

    def __repr__(self) -> str:
        return f"soft_free_bits({self.variable!r}, {self.least!r})"
