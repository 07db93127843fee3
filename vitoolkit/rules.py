"""Rules: feedback laws, which read what was recorded and give a control its next value.

A rule is asked at its due steps, the multiples of its ``every``, so that the same seed gives the
same run on any machine. Between two of them its control holds its value.
"""

from __future__ import annotations

from vitoolkit.block import Block

__all__ = ["Rule"]


class Rule:
    """Base class of the rules.

    Attributes
    ----------
    every : int
        The rule is asked at the steps that are a multiple of it.
    why : str or None
        Why the last value is what it is, in words, for the event of the change.

    Examples
    --------
    A β that goes up by 1 % whenever the KL of z was above 20 nats in the mean:

    >>> import numpy as np
    >>> from vitoolkit.rules import Rule
    >>> class Above(Rule):
    ...     every = 50
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

    def begin(self, value: float) -> None:
        """Take the wheel at this value of the control: at the start, or when it is given back."""

    def observe(self, block: Block) -> None:
        """Look at steps that were taken; copy what you keep of `block`."""

    def value(self, step: int) -> float:
        """The control's value from `step` on; one outside the bounds is moved to the nearest."""
        raise NotImplementedError(f"{type(self).__name__} gives no value")
