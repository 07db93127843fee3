"""What a step function was compiled from and has learned, so that it can be pickled.

Compiled code belongs to a process; a recipe does not. Cooked again it gives the same function, and
the parameters, the optimizer's state and the random generators are put back into their places, so
that the steps that follow are those of a fit that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from vitoolkit.checkpoint import Checkpoint
from vitoolkit.controls import Control
from vitoolkit.options import draws_of
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

    @property
    def wiring(self) -> Hashable:
        """Which control does what to which variable, and what the controls are called.

        Two recipes of one model with the same options and the same wiring have the same code.
        """
        op = self.objective.op
        place = {id(control): i for i, control in enumerate(self.controls)}
        weighs = [(name, place[id(op.beta[name])]) for name in sorted(op.beta)]
        held = [(name, place[id(op.penalty[name].level)]) for name in sorted(op.penalty)]
        drawn = [place[id(draws)] for draws in draws_of(self.options)]
        names = tuple(control.name for control in self.controls)
        return names, *weighs, "penalties", *held, "draws", *drawn

    def like(self, step: StepFunction) -> StepFunction | None:
        """A twin of a step function of the same code, with this one's parameters and seed.

        It takes no graph, and gives the steps that :meth:`compile` would. None where a step
        function has no twins.
        """
        return step.twin(self.objective.approx.params, self.controls, self.objective.seed())


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
        self._learned = Checkpoint.of(step.state)

    @property
    def averages(self) -> list[np.ndarray]:
        """The average of each parameter; none where they are not averaged."""
        values = self._learned.values
        return [np.array(values[name]) for name in values if name.startswith("average[")]

    def compile(self) -> StepFunction:
        """Compile it, and put everything it had learned back.

        The approximation is left as it is: neither do its parameters change, nor its generator.
        """
        rng = self.recipe.objective.approx.rng
        before = rng.get_state()
        step = self.recipe.compile()
        rng.set_state(before)
        self._learned.restore(step.state)
        return step
