"""What a step function was compiled from and has learned, so that it can be pickled.

Compiled code belongs to a process; a recipe does not. Cooked again it gives the same function, and
the parameters, the optimizer's state and the random generators are put back into their places, so
that the steps that follow are those of a fit that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitoolkit.checkpoint import with_state
from vitoolkit.controls import Control
from vitoolkit.step_function import StepFunction

__all__ = ["Recipe", "SavedStep"]


class Recipe:
    """What a step function was compiled from.

    Parameters
    ----------
    objective : BetaKLObjective
        The loss and its terms.
    controls : sequence of Control
        The controls whose values are handed in.
    options : mapping
        The other keywords of ``objective.step_function``.
    """

    def __init__(
        self, objective: Any, controls: Sequence[Control], options: Mapping[str, Any]
    ) -> None:
        self.objective = objective
        self.controls = tuple(controls)
        self.options = dict(options)

    def compile(self) -> StepFunction:
        """Compile the step function."""
        return self.objective.step_function(controls=self.controls, **self.options)


class SavedStep:
    """A step function that was pickled: it is compiled again when it is needed.

    Parameters
    ----------
    recipe : Recipe
        What it was compiled from.
    step : StepFunction
        The step function; its state is copied.
    """

    def __init__(self, recipe: Recipe, step: StepFunction) -> None:
        self.recipe = recipe
        self.controls = recipe.controls
        self._learned = {name: _value(variable) for name, variable in _named(step).items()}

    def compile(self) -> StepFunction:
        """Compile it, and put everything it had learned back.

        The approximation is left as it is: neither do its parameters change, nor its generator.
        """
        rng = self.recipe.objective.approx.rng
        before = rng.get_state()
        step = self.recipe.compile()
        rng.set_state(before)
        for name, variable in _named(step).items():
            saved = self._learned[name]
            if isinstance(saved, dict):
                variable.set_value(with_state(saved), borrow=True)
            else:
                variable.set_value(saved, borrow=False)
        return step


def _named(step: StepFunction) -> dict[Any, Any]:
    """What a step changes, by its place, which is the same whenever it is compiled."""
    state: Any = step.state
    return dict(state) if isinstance(state, Mapping) else dict(enumerate(state))


def _value(variable: Any) -> Any:
    value = variable.get_value(borrow=True)
    return value.bit_generator.state if isinstance(value, np.random.Generator) else np.array(value)
