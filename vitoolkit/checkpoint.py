"""Everything a step changes, saved so that it can be put back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Checkpoint", "with_state"]


class Checkpoint:
    """Values of shared variables at one moment.

    Parameters
    ----------
    variables : sequence of SharedVariable
        Arrays and random generators: parameters, the optimizer's state, the generators of a step
        function.

    Examples
    --------
    >>> import pytensor
    >>> x = pytensor.shared(1.0)
    >>> checkpoint = Checkpoint([x])
    >>> x.set_value(2.0)
    >>> checkpoint.restore()
    >>> float(x.get_value())
    1.0
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._saved = [(variable, _saved(variable)) for variable in variables]

    def restore(self) -> None:
        """Put the values back; the checkpoint can be restored again."""
        for variable, saved in self._saved:
            if isinstance(saved, dict):
                variable.set_value(with_state(saved), borrow=True)
            else:
                variable.set_value(saved, borrow=False)


def _saved(variable: Any) -> Any:
    value = variable.get_value(borrow=True)
    if isinstance(value, np.random.Generator):
        # Twenty times faster than a copy of the generator, and as exact.
        return value.bit_generator.state
    return np.array(value)


def with_state(state: dict[str, Any]) -> np.random.Generator:
    """A new random generator in a state that ``bit_generator.state`` has told."""
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)
