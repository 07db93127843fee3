"""What the fitting thread hands to everybody: some steps that were taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Block"]


@dataclass(slots=True)
class Block:
    """Some consecutive steps, K of them.

    Attributes
    ----------
    first : int
        Index of the first step.
    loss : numpy.ndarray
        Loss of each step, shape (K,), nats divided by c.
    terms : numpy.ndarray
        Data term, KL contribution of each variable and the parts of these contributions, in nats,
        and what was measured of the gradient, shape (K, 1 + variables + parts + measures). NaN in a
        step of PyMC's own inference that was not evaluated.
    control : numpy.ndarray
        The value of each control that the step used, shape (K, controls); NaN of one that no step
        of this fit uses.
    time : numpy.ndarray
        When the step was finished, shape (K,), seconds of ``time.perf_counter``.
    variables, measures : tuple of str
        Names of the KL contributions, and of what was measured.
    """

    first: int
    loss: np.ndarray
    terms: np.ndarray
    control: np.ndarray
    time: np.ndarray
    variables: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()

    @property
    def step(self) -> np.ndarray:
        """Index of each step, shape (K,)."""
        return np.arange(self.first, self.first + len(self.loss))

    @property
    def data(self) -> np.ndarray:
        """Data term of each step, shape (K,), nats."""
        return self.terms[:, 0]

    @property
    def kl(self) -> dict[str, np.ndarray]:
        """KL contribution of each variable, shape (K,), nats, not multiplied by β."""
        return {name: self.terms[:, 1 + i] for i, name in enumerate(self.variables)}

    @property
    def measure(self) -> dict[str, np.ndarray]:
        """What was measured in each step, shape (K,)."""
        first = self.terms.shape[1] - len(self.measures)
        return {name: self.terms[:, first + i] for i, name in enumerate(self.measures)}

    def column(self, name: str) -> np.ndarray:
        """Return a column by its name in a trace, such as ``kl[z]``, shape (K,); no control's."""
        if name in ("loss", "data", "elbo"):
            return getattr(self, name)
        if name in self.measures:
            return self.terms[:, self.measures.index(name) - len(self.measures)]
        variable = name.removeprefix("kl[").removesuffix("]")
        if variable not in self.variables:
            raise KeyError(name)
        return self.terms[:, 1 + self.variables.index(variable)]

    @property
    def elbo(self) -> np.ndarray:
        """ELBO (β = 1) of each step, shape (K,), nats."""
        return self.data - np.einsum("ij->i", self.terms[:, 1 : 1 + len(self.variables)])
