"""The β-ELBO with one β a variable, and its terms.

The loss is ``(-data term + Σ β_v KL_v) / c``. The terms are computed on the very draws the gradient
uses and come out of the step function beside the loss, so that they cost neither a second pass nor
a second compilation, and a β that moves needs no new one either.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.data import MinibatchOp
from pymc.pytensorf import constant_fold, floatX
from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.minibatch_rv import MinibatchRandomVariable, get_scaling
from pymc.variational.opvi import Approximation, Group, ObjectiveFunction, Operator
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from vitoolkit.controls import Control
from vitoolkit.step_function import StepFunction

__all__ = ["BetaKL", "minibatch_constant", "variable_names"]


def variable_names(approx: Approximation) -> tuple[str, ...]:
    """Names of the model's free variables, those that have a KL, in the order of the model."""
    return tuple(variable.name for variable in approx.model.free_RVs)


def minibatch_constant(approx: Approximation) -> pt.TensorVariable:
    """c = N/b: rows of the data set over rows of the minibatch.

    With several observed variables it is the largest of their constants, as in PyMC.

    1 without minibatches, and 1 while ``approx.scale_cost_to_minibatch`` is False. PyMC's own
    constant multiplies ``N / d`` over *all* dimensions of an observation and is wrong from two
    dimensions on; this one uses the dimensions that ``total_size`` names.

    Returns
    -------
    TensorVariable
        Scalar, floatX, without unit.
    """
    model = approx.model
    constants = [floatX(1.0)] + [
        get_scaling(
            observed.owner.inputs[1:],
            constant_fold(tuple(model.rvs_to_values[observed].shape), raise_not_constant=False),
        )
        for observed in model.observed_RVs
        if isinstance(observed.owner.op, MinibatchRandomVariable)
    ]
    constant = reduce(pt.maximum, constants)
    return floatX(pt.switch(approx._scale_cost_to_minibatch, constant, floatX(1.0)))


def _log_q_by_coordinate(group: Group) -> pt.TensorVariable:
    """log q of each coordinate on the unconstrained scale, shape (draws, coordinates), nats.

    For full rank the k-th column is ``log q(z_k | z_1 ... z_{k-1})``: the scale L is lower
    triangular, so that given the coordinates before it z_k is Gaussian with standard deviation
    ``L[k, k]``.
    """
    if isinstance(group, MeanFieldGroup):
        scale = group.std
    elif isinstance(group, FullRankGroup):
        scale = pt.diagonal(group.L)
    else:
        raise TypeError(
            f"log q of {type(group).__name__} does not split by variable; "
            f"accepted are MeanFieldGroup and FullRankGroup"
        )
    return -0.5 * group.symbolic_initial**2 - floatX(0.5 * np.log(2 * np.pi)) - pt.log(scale)


def _over_draws(approx: Approximation, nodes: list) -> list[pt.TensorVariable]:
    """Each node for each draw of q, shape (draws,); all draws of a step see the same minibatch.

    PyMC's own version pulls the minibatch's random generator into the scan, and fails there.
    """
    nodes = approx.to_flat_input(nodes)
    batches = [
        variable
        for variable in ancestors(nodes)
        if variable.owner is not None and isinstance(variable.owner.op, MinibatchOp)
    ]
    stand_ins = [batch.type() for batch in batches]
    nodes = graph_replace(nodes, dict(zip(batches, stand_ins)), strict=False)

    def one_draw(*args):
        return graph_replace(nodes, dict(zip([*approx.inputs, *stand_ins], args)), strict=False)

    drawn = pytensor.scan(
        one_draw, approx.symbolic_randoms, non_sequences=batches, return_updates=False
    )
    return drawn if isinstance(drawn, list) else [drawn]


class BetaKLObjective(ObjectiveFunction):
    """The loss of :class:`BetaKL` and, in the updates of its step function, the terms."""

    op: BetaKL

    def __call__(self, nmc, **kwargs) -> pt.TensorVariable:
        """The loss, a scalar; the terms of the same draws are left in ``self.terms``."""
        draws = None if nmc is None else int(nmc)
        loss, *terms = self.approx.set_size_and_deterministic(
            self.op.loss_and_terms(single=draws in (None, 1)),
            draws,
            0,
            kwargs.get("more_replacements"),
        )
        self.terms = terms
        return loss

    def step_function(self, **kwargs) -> StepFunction:
        """Compile a step.

        Parameters
        ----------
        controls : sequence of Control
            The controls whose values are handed in with every step.
        compile_kwargs : dict, optional
            Passed to the compiler.
        steps : int or "auto"
            Steps in one call.
        **kwargs
            As for PyMC's ``ObjectiveFunction.updates``.

        Returns
        -------
        StepFunction
        """
        controls = kwargs.pop("controls", ())
        compile_kwargs = kwargs.pop("compile_kwargs", None) or {}
        steps = kwargs.pop("steps", "auto")
        updates = self.updates(**kwargs)
        seed = self.approx.rng.randint(2**30, dtype=np.int64)
        return StepFunction(
            updates.loss, self.terms, updates, controls, seed, compile_kwargs, steps
        )


class BetaKL(Operator):
    """Operator whose loss is ``(-data term + Σ β_v KL_v) / c``.

    Parameters
    ----------
    approx : Approximation
        Mean-field and full-rank groups.
    beta : mapping of str to Control
        The β of each variable that has one; the others keep β = 1.

    Attributes
    ----------
    variables : tuple of str
        The free variables, in the order of the KL terms.
    """

    objective_class = BetaKLObjective

    def __init__(self, approx: Approximation, beta: Mapping[str, Control]) -> None:
        super().__init__(approx)
        self.beta = dict(beta)
        self.variables = variable_names(approx)

    def apply(self, f: Any) -> pt.TensorVariable:
        """The loss before draws are put in; PyMC's interface."""
        return self.loss_and_terms(single=True)[0]

    def loss_and_terms(self, *, single: bool) -> list[pt.TensorVariable]:
        """The loss, the data term and the KL contributions, before draws are put in.

        Parameters
        ----------
        single : bool
            One draw a step: no scan over draws.

        Returns
        -------
        list of TensorVariable
            Scalars: loss in nats divided by c; data term and KL of each variable in nats of the
            full data set, not multiplied by β and not divided by c.
        """
        approx, model = self.approx, self.approx.model
        log_priors = [factor.sum() for factor in model.logp(vars=model.free_RVs, sum=False)]
        nodes = [model.datalogp, *log_priors]
        if single:
            data, *log_priors = approx.symbolic_single_sample(nodes)
        else:
            data, *log_priors = [node.mean(axis=0) for node in _over_draws(approx, nodes)]
        log_q, weighted_log_q = self._log_q()
        kls = [log_q[v] - log_p for v, log_p in zip(self.variables, log_priors, strict=True)]
        weighted_log_p = [
            weight * log_p for weight, log_p in zip(self._weights(), log_priors, strict=True)
        ]
        constant = minibatch_constant(approx)
        loss = -data / constant + (weighted_log_q - pt.add(*weighted_log_p)) / constant
        return [loss, data, *kls]

    def _weights(self) -> list:
        """β of each variable, a constant 1 for those that have none."""
        return [
            floatX(self.beta[name].shared) if name in self.beta else floatX(1.0)
            for name in self.variables
        ]

    def _log_q(self) -> tuple[dict[str, pt.TensorVariable], pt.TensorVariable]:
        """log q of each variable, and their sum weighted by β.

        The sum is taken over weighted coordinates, not over the variables' own sums: its gradient
        is then one elementwise pass, however many variables there are.
        """
        weights = pt.stack(self._weights())
        log_q, total = {}, []
        for group in self.approx.groups:
            by_coordinate = _log_q_by_coordinate(group)
            names = {group.model.rvs_to_values[v].name: v.name for v in group.group}
            variable = np.empty(group.ddim, dtype=int)
            for value_name, where, *_ in group.ordering.values():
                name = names[value_name]
                log_q[name] = by_coordinate[:, where].sum(axis=1).mean(axis=0)
                variable[where] = self.variables.index(name)
            total.append((by_coordinate * weights[variable]).sum(axis=1).mean(axis=0))
        return log_q, pt.add(*total)
