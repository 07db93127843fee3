"""What a rule is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit.block import Block
from vitoolkit.checks import real_number, whole_number

__all__ = ["KLRule", "Mean", "RateRule", "Rule", "summed"]


class Rule:
    """Base class of the rules.

    Attributes
    ----------
    every : int
        The rule is asked at the steps that are a multiple of it.
    why : str or None
        Why the last value is what it is, in words, for the event of the change.
    bounds : tuple of float
        Those of the control, which are set before :meth:`begin`.
    needs : tuple of str
        Columns of the trace that it reads, such as ``kl[z]`` or ``gradient_dot``. A fit that does
        not have them is refused before anything is compiled.

    Examples
    --------
    A β that goes up by 1 % whenever the KL of z was above 20 nats in the mean:

    >>> import numpy as np
    >>> from vitoolkit.rules import Rule
    >>> class Above(Rule):
    ...     every = 50
    ...     needs = ("kl[z]",)
    ...     def begin(self, value):
    ...         self.beta, self.seen = value, []
    ...     def observe(self, block):
    ...         self.seen.extend(block.kl["z"])
    ...     def value(self, step):
    ...         mean, self.seen = np.nanmean(self.seen), []
    ...         self.why = f"the KL of z is {mean:.3g} nats"
    ...         self.beta *= 1.01 if mean > 20.0 else 1.0
    ...         return self.beta
    """

    every: int = 100
    why: str | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)
    needs: tuple[str, ...] = ()

    def begin(self, value: float) -> None:
        """Take the wheel at this value of the control: at the start, or when it is given back."""

    def observe(self, block: Block) -> None:
        """Look at steps that were taken; copy what you keep of `block`."""

    def look(self, parameters: list[NDArray[Any]]) -> None:
        """Look at what is trained, before each :meth:`value`; copy what you keep of it.

        Parameters of q, and the weights of its networks but under PyMC's own loop, which does not
        tell of them.
        """

    def value(self, step: int) -> float:
        """The control's value from `step` on; one outside the bounds is moved to the nearest."""
        raise NotImplementedError(f"{type(self).__name__} gives no value")

    def state(self) -> dict[str, Any]:
        """What it has learned, as numbers and words, for the trace."""
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, bool | int | float | str | None)
        }


class Mean:
    """The mean of what was finite since it was last taken."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in some numbers."""
        finite = values[np.isfinite(values)]
        self._sum = summed(self._sum, finite)
        self._count += len(finite)

    def take(self) -> float:
        """Return the mean and begin anew; NaN without numbers."""
        mean = self._sum / self._count if self._count else float("nan")
        self._sum, self._count = 0.0, 0
        return mean


def summed(so_far: float, values: NDArray[np.float64]) -> float:
    """Add one number after the other: where a block ends, which is the clock's, has no part in it.

    Examples
    --------
    >>> numbers = np.array([1e16, 1.0, -1e16, 0.1])
    >>> summed(summed(0.0, numbers[:2]), numbers[2:]) == summed(0.0, numbers)
    True
    """
    return float(np.add.accumulate(np.concatenate([[so_far], values]))[-1])


class KLRule(Rule):
    """Base class of the rules that look at the KL contribution of one variable.

    Parameters
    ----------
    variable : str
        The variable.
    per : float
        Divisor of the KL contribution, nats of the full data set.
    every : int
        The rule is asked at the steps that are a multiple of it.
    """

    def __init__(self, variable: str, per: float, every: int) -> None:
        self.variable = str(variable)
        self.per = real_number("per", per, above=0)
        self.every = whole_number("every", every, least=1, of="steps")
        self.needs = (f"kl[{self.variable}]",)
        self._kl = Mean()

    def begin(self, value: float) -> None:
        """Forget what was seen."""
        self._kl = Mean()

    def observe(self, block: Block) -> None:
        """Look at the KL of the variable."""
        self._kl.add(block.column(self.needs[0]))

    def kl(self) -> float:
        """Mean KL since it was last asked for; NaN where none was evaluated."""
        return self._kl.take() / self.per


class RateRule(Rule):
    """Base class of the rules that drop a learning rate.

    Parameters
    ----------
    factor : float
        The learning rate is multiplied by it.
    least : float or None
        It goes no lower; None for the lower bound of the control.
    every : int
        The rule is asked at the steps that are a multiple of it.
    """

    def __init__(self, factor: float, least: float | None, every: int) -> None:
        self.factor = real_number("factor", factor, above=0, below=1)
        self.least = None if least is None else real_number("least", least, above=0)
        self.every = whole_number("every", every, least=1, of="steps")
        self._rate = float("nan")

    def begin(self, value: float) -> None:
        """Go on from this value."""
        self._rate = value

    def drop(self, why: str) -> None:
        """Multiply the learning rate down, for this reason."""
        lowest = self.bounds[0] if self.least is None else self.least
        self._rate = min(self._rate, max(self.factor * self._rate, lowest))
        self.why = why
