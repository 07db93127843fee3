"""The β-ELBO with one β a variable, and its terms.

The loss is ``(-data term + Σ β_v KL_v) / c``. The terms are computed on the very draws the gradient
uses and come out of the step function beside the loss, so that they cost neither a second pass nor
a second compilation, and a β that moves needs no new one either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.data import MinibatchOp
from pymc.pytensorf import floatX
from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.opvi import Approximation, Group, ObjectiveFunction, Operator
from pymc.variational.updates import adagrad_window, total_norm_constraint
from pytensor.gradient import disconnected_grad
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import NormalRV

from vitoolkit import triangle
from vitoolkit.alike import Batch, batches, entries, stack, taken
from vitoolkit.averaging import averages
from vitoolkit.by_variable import held, spread, without
from vitoolkit.controls import Control, Draws
from vitoolkit.gradient import gradient_stats
from vitoolkit.latents import (
    Latent,
    constant_value,
    kl_by_of_all,
    latents_of,
    log_marginal,
    minibatch_constant,
    observed_minibatches,
    part_of,
    rows_factor,
    summed_axes,
)
from vitoolkit.penalties import Penalized
from vitoolkit.step_function import StepFunction

__all__ = [
    "BetaKL",
    "Latent",
    "constant_value",
    "kl_by_of_all",
    "latents_of",
    "minibatch_constant",
    "observed_minibatches",
    "rows_factor",
]


# --- log q and log p ----------------------------------------------------------------------------


def _scale(group: Group) -> pt.TensorVariable:
    """Standard deviation of each coordinate given those before it, shape (coordinates,).

    For full rank it is the diagonal of the lower triangular L: given the coordinates before it, z_k
    is Gaussian with standard deviation ``L[k, k]``.
    """
    return group.std if isinstance(group, MeanFieldGroup) else triangle.diagonal(group)


def _marginal_sd(group: Group) -> pt.TensorVariable:
    """Standard deviation of each coordinate, shape (coordinates,)."""
    return group.std if isinstance(group, MeanFieldGroup) else pt.sqrt((group.L**2).sum(axis=1))


def _one_draw(group: Group) -> pt.TensorVariable:
    """The first draw of a group, shape (coordinates,).

    Taken from the noise where its law is known, and not from the draws: their gradient would be an
    array of zeros into which the first draw's is written, and a sum over it.
    """
    if isinstance(group, MeanFieldGroup):
        return group.std * group.symbolic_initial[0] + group.mean
    if isinstance(group, FullRankGroup):
        return triangle.draw(group)
    return group.symbolic_random[0]


def _log_q_by_coordinate(
    group: Group, exact: np.ndarray, noise: pt.TensorVariable, *, stuck: bool = False
) -> pt.TensorVariable:
    """log q of each coordinate on the unconstrained scale, of the shape of the noise; nats.

    For full rank the k-th column is ``log q(z_k | z_1 ... z_{k-1})``. Where `exact` is True it is
    the expectation ``-log sd - 1/2``, without the constant that cancels in the KL. With `stuck` the
    gradient of the others is that of the draw alone, with q held: the value is the same.
    """
    scale = _scale(group)
    drawn = -0.5 * (_of_held_q(group, noise) if stuck else noise) ** 2
    drawn -= floatX(0.5 * np.log(2 * np.pi))
    log_scale = pt.log(disconnected_grad(scale) if stuck else scale)
    if exact.any():
        drawn = pt.switch(exact, floatX(-0.5), drawn)
        if stuck:
            log_scale = pt.switch(exact, pt.log(scale), log_scale)
    return drawn - log_scale


def _of_held_q(group: Group, noise: pt.TensorVariable) -> pt.TensorVariable:
    """The noise as what q, its parameters held, makes of the draw; its value is the noise.

    What is added to the noise is 0, to the last bit, and has the gradient of the draw.
    """
    moved = group.mean - disconnected_grad(group.mean)
    if isinstance(group, MeanFieldGroup):
        held = disconnected_grad(group.std)
        return noise + (moved + (group.std - held) * noise) / held
    held = disconnected_grad(group.L)
    moved = (moved + pt.dot(noise, (group.L - held).T)).T
    return noise + pt.linalg.solve_triangular(held, moved, lower=True, b_ndim=noise.ndim).T


def _log_prior(latent: Latent, factor: pt.TensorVariable, exact: bool) -> pt.TensorVariable:
    """log p of a variable given its parents, elementwise where it splits; nats.

    Of one that is joined with an observed variable it is taken out of the data term: its marginal
    where that is known, else the density of both.
    """
    if latent.joined is not None:
        if latent.has_prior:
            return log_marginal(latent)
        return latent.group.model.logp(vars=[latent.joined], sum=False)[0]
    if not exact:
        return factor
    mean, sd = latent.variable.owner.op.dist_params(latent.variable.owner)
    mean, sd = (floatX(x) for x in latent.group.model.replace_rvs_by_values([mean, sd]))
    q_mean = latent.group.mean[latent.where].reshape(latent.shape)
    q_sd = _marginal_sd(latent.group)[latent.where].reshape(latent.shape)
    return -pt.log(sd) - (q_sd**2 + (q_mean - mean) ** 2) / (2 * sd**2)


def _over_draws(approx: Approximation, nodes: list) -> list[pt.TensorVariable]:
    """Each node for each draw of q, shape (draws,); all draws of a step see the same minibatch.

    PyMC's own version pulls the minibatch's random generator into the scan, and fails there.
    """
    minibatches = [
        variable
        for variable in ancestors(nodes)
        if variable.owner is not None and isinstance(variable.owner.op, MinibatchOp)
    ]
    stand_ins = [batch.type() for batch in minibatches]
    nodes = graph_replace(nodes, dict(zip(minibatches, stand_ins)), strict=False)

    def one_draw(*args):
        return graph_replace(nodes, dict(zip([*approx.inputs, *stand_ins], args)), strict=False)

    drawn = pytensor.scan(
        one_draw, approx.symbolic_randoms, non_sequences=minibatches, return_updates=False
    )
    return drawn if isinstance(drawn, list) else [drawn]


# --- the objective ------------------------------------------------------------------------------


class BetaKLObjective(ObjectiveFunction):
    """The loss of :class:`BetaKL` and, beside it, the terms of the same draws."""

    op: BetaKL

    def __call__(self, nmc, **kwargs) -> pt.TensorVariable:
        """The loss, a scalar; the terms of the same draws are left in ``self.terms``."""
        loss, self.terms, self.seeded_as = self.op.drawn(nmc, kwargs.get("more_replacements"))
        return loss

    def add_obj_updates(
        self,
        updates,
        obj_optimizer=adagrad_window,
        total_grad_norm_constraint=None,
        **kwargs,
    ) -> None:
        """Add the steps of the optimizer and, where asked for, what is known of the gradient."""
        op = self.op
        if not (op.gradient or op.frozen):
            kwargs["total_grad_norm_constraint"] = total_grad_norm_constraint
            super().add_obj_updates(updates, obj_optimizer=obj_optimizer, **kwargs)
            return

        def watched(gradients, parameters):
            optimizer = obj_optimizer
            moments: dict[Any, Any] = {}
            if op.frozen:
                gradients = without(self.approx, op.frozen, gradients, parameters)
                optimizer = held(self.approx, op.frozen, optimizer)
            if op.gradient:
                self.stats, moments = gradient_stats(gradients, parameters)
            if total_grad_norm_constraint is not None:
                gradients = total_norm_constraint(gradients, total_grad_norm_constraint)
            return {**optimizer(gradients, parameters), **moments}

        super().add_obj_updates(updates, obj_optimizer=watched, **kwargs)

    def step_function(self, *, controls: Sequence[Control] | None = None, **kwargs) -> Any:
        """Compile a step.

        Parameters
        ----------
        controls : sequence of Control, optional
            The controls whose values are handed in with every step. Without them the function is
            PyMC's: called without arguments it takes a step, and returns the loss if ``score=True``
            was given.
        compile_kwargs : dict, optional
            Passed to the compiler.
        steps : int or "auto"
            Steps in one call; with `controls` only.
        average : bool
            Whether the iterates are averaged, see :func:`vitoolkit.averaging.averages`.
        **kwargs
            As for PyMC's ``ObjectiveFunction.step_function``.

        Returns
        -------
        StepFunction or pytensor.compile.function.types.Function
        """
        if controls is None:
            return super().step_function(**kwargs)
        compile_kwargs = kwargs.pop("compile_kwargs", None) or {}
        steps = kwargs.pop("steps", "auto")
        parameters = [*self.approx.params, *(kwargs.get("more_obj_params") or ())]
        average = kwargs.pop("average", False)
        updates = self.updates(**kwargs)
        means, counters = averages(updates, parameters, self.op.controls) if average else ({}, {})
        terms = pt.concatenate([self.terms, self.stats]) if self.op.gradient else self.terms
        return StepFunction(
            updates.loss,
            terms,
            {**updates, **means, **counters},
            controls,
            self.seed(),
            compile_kwargs,
            steps,
            {"parameter": parameters, "average": list(means), "averaging": list(counters)},
            seeded_as=self.seeded_as,
        )

    def seed(self) -> int:
        """The seed of the coming step function, drawn from the approximation's own generator."""
        return self.approx.rng.randint(2**30, dtype=np.int64)


class BetaKL(Operator):
    """Operator whose loss is ``(-data term + Σ β_v KL_v) / c``.

    Parameters
    ----------
    approx : Approximation
        Groups that state a log q.
    beta : mapping of str to Control
        The β of each variable that has one; the others keep β = 1.
    total_size : mapping of str to int or TensorVariable
        Rows of the data set for each local latent, one row of which belongs to a row of the
        minibatch.
    kl_by : mapping of str to str
        Variables whose KL is wanted in parts: "coordinate", or the dim that is kept.
    closed_form : collection of str
        Variables whose KL is computed in closed form instead of from draws.
    measures : sequence of str
        Columns on the gradient to record beside the terms: none, or those of ``gradient.GRADIENT``.
    penalty : mapping of str to Penalized, optional
        What stands in the loss in the place of the KL of a variable. That KL is in closed form
        where it has one: a function of draws would have another mean.
    estimator : {"total", "stl"}
        How the gradient of log q is taken: through draw and parameters, or through the draw alone.
    frozen : mapping of str to Control, optional
        For each variable that can be frozen, what is 1 while it is.

    Attributes
    ----------
    latents : tuple of Latent
        The free variables.
    variables : tuple of str
        Names of the KL terms: the free variables; a group whose log q does not split by variable
        has one term for all of its variables, named ``"a+b"``.
    parts : tuple of Part
        The KL terms that are wanted in parts.
    """

    objective_class = BetaKLObjective

    def __init__(
        self,
        approx: Approximation,
        beta: Mapping[str, Control],
        total_size: Mapping[str, Any] | None = None,
        kl_by: Mapping[str, str] | None = None,
        closed_form: Sequence[str] = (),
        measures: Sequence[str] = (),
        penalty: Mapping[str, Penalized] | None = None,
        estimator: str = "total",
        frozen: Mapping[str, Control] | None = None,
    ) -> None:
        self.estimator = estimator
        self.frozen = dict(frozen or {})
        self.gradient = tuple(measures)
        self.latents = latents_of(approx)
        given = penalty or {}
        self.penalty = {v.name: given[v.name] for v in self.latents if v.name in given}
        super().__init__(approx)
        self.beta = dict(beta)
        self.total_size = dict(total_size or {})
        self.kl_by = dict(kl_by or {})
        closed = [v.name for v in self.latents if v.name in self.penalty and not no_closed_form(v)]
        self.closed_form = frozenset([*closed_form, *closed])
        self.labels = {latent.name: self._label(latent) for latent in self.latents}
        self.variables = tuple(dict.fromkeys(self.labels.values()))
        self._check()
        self.parts = tuple(
            part_of(latent, self.kl_by[latent.name], self._factors[latent.name])
            for latent in self.latents
            if latent.name in self.kl_by
        )

    @property
    def controls(self) -> list[Control]:
        """What moves the optimum of the loss, or holds a variable away from it."""
        levels = [penalty.level for penalty in self.penalty.values()]
        return [*self.beta.values(), *levels, *self.frozen.values()]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is recorded beside the KL terms: penalties, and on the gradient."""
        return (*(f"penalty[{name}]" for name in self.penalty), *self.gradient)

    @property
    def notes(self) -> dict[str, str]:
        """What has to be said of terms that are not the KL from a proper prior, by name."""
        notes = {}
        for latent in self.latents:
            label = self.labels[latent.name]
            if latent.flat:
                notes[label] = (
                    f"E[log q] without a prior: that of {latent.name} is flat, log p = 0, so that "
                    "this is no KL, and may be negative"
                )
            elif latent.joined is not None and not latent.has_prior:
                notes[label] = (
                    f"E[log q({latent.name}) - log p({latent.name}, {latent.joined.name})], whose "
                    "density PyMC has only together: KL and a share of the data term, weighted by 1"
                )
        return notes

    def apply(self, f: Any) -> pt.TensorVariable:
        """The loss before draws are put in; PyMC's interface."""
        return self.loss_and_terms(single=True)[0]

    def drawn(self, draws: int | Draws | None, more_replacements: Any = None) -> list[Any]:
        """:meth:`loss_and_terms` with draws put in, as ``set_size_and_deterministic`` of PyMC does.

        PyMC's own would build its scan over draws first, only to replace it. The third node is the
        loss as PyMC would write it for the number of draws that there are now.
        """
        approx = self.approx
        replaced = approx.make_size_and_deterministic_replacements(draws, 0, more_replacements)
        if isinstance(draws, Draws):
            nodes = self.loss_and_terms(single=False)
            nodes.append(self.loss_and_terms(single=True)[0] if draws.value == 1 else nodes[0])
        else:
            nodes = self.loss_and_terms(single=draws in (None, 1))
            nodes.append(nodes[0])
        return graph_replace(nodes, replaced, strict=False)

    def loss_and_terms(self, *, single: bool) -> list[pt.TensorVariable]:
        """The loss and the terms, before draws are put in.

        Parameters
        ----------
        single : bool
            One draw a step: no scan over draws.

        Returns
        -------
        list of TensorVariable
            The loss, a scalar in nats divided by c, and a vector of terms in nats of the full data
            set, not multiplied by β and not divided by c: data term, KL of each of `variables`,
            parts; then, multiplied by β, the penalties.
        """
        approx = self.approx
        data_term, priors = self.log_p()
        together = self._batches
        batched = {latent.name for batch in together for latent in batch.latents}
        alone = {v.name: p for v, p in self._with(priors) if v.name not in batched}
        nodes: list[Any] = [
            data_term,
            *[batch.log_p for batch in together],
            *[p if self._apart(name) else p.sum() for name, p in alone.items()],
        ]
        nodes = graph_replace(nodes, self._entries, strict=False)
        if single:
            draw = [_one_draw(group) for group in approx.groups]
            nodes = graph_replace(nodes, dict(zip(approx.inputs, draw)), strict=False)
        else:
            nodes = [node.mean(axis=0) for node in _over_draws(approx, nodes)]
        data: Any = nodes[0]
        drawn: list[Any] = nodes[1:]
        batch_log_p, log_p = drawn[: len(together)], dict(zip(alone, drawn[len(together) :]))
        log_q, weighted_log_q = self._log_q(single)
        sizes = self._sizes()
        weighted_log_p = self._weighted_log_p(log_p, list(zip(together, batch_log_p, strict=True)))
        constant = minibatch_constant(approx)
        loss = -data / constant + (weighted_log_q - weighted_log_p) / constant
        penalties = self._penalties(log_q, log_p)
        if penalties:
            loss += pt.add(*penalties) / constant
        kl: dict[str, pt.TensorVariable] = {}
        for latent in self.latents:
            label = self.labels[latent.name]
            if latent.name not in batched and label not in kl:
                names = [name for name in log_p if self.labels[name] == label]
                p = pt.add(*[log_p[name].sum() for name in names])
                q = log_q[latent.group]
                q = q[latent.where].sum() if latent.splits else q
                kl[label] = sizes[latent.name] * (q - p)
        parts = []
        for part in self.parts:
            latent = next(v for v in self.latents if v.name == part.variable)
            q = log_q[latent.group][latent.where].reshape(latent.shape)
            whole = q - log_p[latent.name]
            summed = summed_axes(latent, self.kl_by[latent.name])
            parts.append((sizes[latent.name] * whole.sum(axis=summed)).ravel())
        terms = [_stack([data, *kl.values()])]
        order = list(kl)
        for batch, p in zip(together, batch_log_p, strict=True):
            terms.append(floatX(taken(log_q[batch.group], batch.where) - p))
            order += [latent.name for latent in batch.latents]
        place = {label: i for i, label in enumerate(order, start=1)}
        where = np.array([0, *[place[label] for label in self.variables]])
        terms = taken(pt.concatenate(terms), where)
        more = [*parts, *[penalty[None] for penalty in penalties]]
        return [loss, pt.concatenate([terms, *[floatX(part) for part in more]])]

    def log_p(self) -> tuple[pt.TensorVariable, list[pt.TensorVariable]]:
        """The data term and log p of each of `latents`, before draws are put in; nats.

        Their sum is the log density of the model, whatever is counted as prior and as data; only
        what is asked for in closed form is an expectation.
        """
        data_term = self._data_term
        priors = [
            _log_prior(latent, self._factors[latent.name], latent.name in self.closed_form)
            for latent in self.latents
        ]
        moved = [prior.sum() for latent, prior in self._with(priors) if latent.joined is not None]
        return (data_term - pt.add(*moved) if moved else data_term), priors

    # --- internals ------------------------------------------------------------------------------

    def _apart(self, name: str) -> bool:
        """Whether the KL of a variable is needed by coordinate."""
        return name in self.kl_by or (name in self.penalty and self.penalty[name].by is not None)

    def _penalties(self, log_q: Mapping[Group, Any], log_p: Mapping[str, Any]) -> list[Any]:
        """What stands in the loss for the KL of each variable that has a penalty, scalars; nats."""
        weights, sizes = self._betas(), self._sizes()
        found = []
        for latent in self.latents:
            if latent.name not in self.penalty:
                continue
            penalty, p = self.penalty[latent.name], log_p[latent.name]
            q = log_q[latent.group]
            q = q[latent.where] if latent.splits else q
            if penalty.by is None:
                kl = q.sum() - p.sum()
            else:
                local = latent.name in self.total_size
                kl = q.reshape(latent.shape) - p
                kl = kl.sum(axis=summed_axes(latent, penalty.by, rows=local))
            found.append(weights[latent.name] * penalty(sizes[latent.name] * kl))
        return found

    def _with(self, values: list) -> list[tuple[Latent, Any]]:
        return list(zip(self.latents, values, strict=True))

    def _label(self, latent: Latent) -> str:
        members = [latent] if latent.splits else self._members(latent.group)
        own = [latent.variable] if latent.splits else latent.group.group
        observed = [v.joined for v in members if v.joined is not None and not v.has_prior]
        return "+".join(str(variable.name) for variable in [*own, *observed])

    def _members(self, group: Group) -> list[Latent]:
        return [latent for latent in self.latents if latent.group is group]

    def _sizes(self) -> dict[str, Any]:
        """What the KL of each variable is multiplied by: N / rows for a local latent, else 1."""
        return {
            latent.name: floatX(rows_factor(latent, self.total_size[latent.name]))
            if latent.name in self.total_size
            else floatX(1.0)
            for latent in self.latents
        }

    def _betas(self) -> dict[str, Any]:
        """The β of each variable."""
        betas = {name: floatX(beta.shared) for name, beta in self.beta.items()}
        return {latent.name: betas.get(latent.name, floatX(1.0)) for latent in self.latents}

    def _weights(self) -> dict[str, Any]:
        """The weight of each variable's KL in the loss: β times N / rows; 0 beside a penalty."""
        weights = self._sizes()
        for name, beta in self.beta.items():
            size, shared = weights[name], floatX(beta.shared)
            weights[name] = shared * size if name in self.total_size else shared
        return {**weights, **dict.fromkeys(self.penalty, floatX(0.0))}

    def _weight(self, latent: Latent) -> tuple:
        """What is the same for two variables exactly if their weights are."""
        if latent.name in self.penalty:
            return ("penalty",)
        size = self.total_size.get(latent.name)
        return id(self.beta.get(latent.name)), size, None if size is None else latent.shape[0]

    def _log_q(self, single: bool) -> tuple[dict[Group, pt.TensorVariable], pt.TensorVariable]:
        """log q of each group, by coordinate where it splits, and the sum of all, weighted.

        The sum is taken over weighted coordinates, not over the variables' own sums: its gradient
        is then one elementwise pass, however many variables there are.
        """
        by_name = self._weights()
        log_q, total = {}, []
        for group in self.approx.groups:
            members = self._members(group)
            if not members[0].splits:
                log_q[group] = group.symbolic_logq.mean(axis=0)
                total.append(by_name[members[0].name] * log_q[group])
                continue
            exact = np.zeros(group.ddim, bool)
            for latent in members:
                exact[latent.where] = latent.name in self.closed_form
            noise = group.symbolic_initial
            by_coordinate = _log_q_by_coordinate(
                group, exact, noise[0] if single else noise, stuck=self.estimator == "stl"
            )
            log_q[group] = by_coordinate if single else by_coordinate.mean(axis=0)
            total.append((log_q[group] * self._weight_by_coordinate(members, by_name)).sum())
        return log_q, pt.add(*total)

    def _weight_by_coordinate(self, members: Sequence[Latent], by_name: Mapping[str, Any]) -> Any:
        """The weight of each coordinate of a group, shape (coordinates,) or a scalar.

        One piece for each run of variables of the same weight.
        """
        ordered = sorted(members, key=lambda latent: latent.where.start)
        runs = [list(run) for _, run in groupby(ordered, key=self._weight)]
        weights = [floatX(by_name[run[0].name]) for run in runs]
        if len(runs) == 1:
            return weights[0]
        return spread(weights, [run[-1].where.stop - run[0].where.start for run in runs])

    def _check(self) -> None:
        nodes = Counter(variable.owner for variable in self.approx.model.basic_RVs)
        if any(
            latent.joined is None and nodes[latent.variable.owner] > 1 for latent in self.latents
        ):
            _ = self._factors  # densities of one node: look where PyMC puts them
        for latent in self.latents:
            self._check_prior(latent)
            if not latent.splits:
                self._check_one_weight(latent)
                if self.estimator == "stl":
                    raise ValueError(
                        f"gradient_estimator='stl' holds the parameters inside log q, and that of "
                        f"{type(latent.group).__name__}, which holds {latent.name!r}, is not known "
                        "by coordinate: give it mean-field or full-rank groups"
                    )
            if latent.name in self.closed_form and (why := no_closed_form(latent)):
                raise ValueError(
                    f"the KL of {latent.name!r} has no closed form here: {why}. It needs a Normal "
                    "prior on the scale of the model and a mean-field group, or a full-rank one "
                    "where the prior depends on no other variable."
                )
            if self._apart(latent.name) and latent.name not in self.kl_by:
                factor = self._factors[latent.name]
                if latent.joined is not None or factor.ndim != len(latent.shape):
                    raise ValueError(
                        f"penalty of {latent.name!r} by {self.penalty[latent.name].by}: its prior "
                        "is multivariate, so that its KL does not split by coordinate"
                    )

    def _weighted_log_p(
        self, log_p: Mapping[str, Any], together: Sequence[tuple[Batch, Any]]
    ) -> Any:
        """The sum of log p of all variables, weighted; those of one weight are added up first."""
        weights = self._weights()
        alike: dict[Any, list] = {}
        for latent in self.latents:
            if latent.name in log_p:
                alike.setdefault(self._weight(latent), []).append(latent.name)
        total = [
            weights[names[0]] * pt.add(*[log_p[name].sum() for name in names])
            for names in alike.values()
        ]
        for batch, p in together:
            if len({self._weight(latent) for latent in batch.latents}) == 1:
                total.append(weights[batch.latents[0].name] * p.sum())
            else:
                total.append((_stack([weights[v.name] for v in batch.latents]) * p).sum())
        return pt.add(*total)

    @cached_property
    def _batches(self) -> tuple[Batch, ...]:
        special = {*self.kl_by, *self.closed_form, *self.total_size, *self.penalty}
        plain = [v for v in self.latents if v.joined is None and v.name not in special]
        return batches(plain, self._factors)

    @cached_property
    def _entries(self) -> dict[Any, Any]:
        return {k: v for group in self.approx.groups for k, v in entries(group).items()}

    @property
    def _data_term(self) -> pt.TensorVariable:
        """Log density of the observed variables and the potentials, as PyMC tells it; nats."""
        model, (_, observed) = self.approx.model, self._log_densities
        if observed is None:
            return model.datalogp
        return pt.add(*[factor.sum() for factor in observed], model.potentiallogp)

    @cached_property
    def _log_densities(self) -> tuple[list, list | None]:
        """Log densities of the free variables and of the observed ones, in the order of the model.

        They are asked for once, and late: of a model with hundreds of variables it takes seconds.
        Those of variables with one density together depend on which are asked for: None.
        """
        free, observed = [v.variable for v in self.latents], self.approx.model.observed_RVs
        if any(latent.joined is not None for latent in self.latents):
            return self.approx.model.logp(vars=free, sum=False), None
        factors = self.approx.model.logp(vars=[*free, *observed], sum=False)
        return factors[: len(free)], factors[len(free) :]

    @cached_property
    def _factors(self) -> dict[str, pt.TensorVariable]:
        """log p of each variable as PyMC tells it, elementwise where it splits.

        Raises
        ------
        TypeError
            When a variable has no density of its own: every number made of it would be wrong.
        """
        factors, _ = self._log_densities
        for latent, factor in self._with(factors):
            if latent.joined is None and 0 in factor.type.shape and 0 not in latent.shape:
                raise TypeError(
                    f"PyMC gives {latent.name!r} no log density of its own, but puts it into "
                    "another variable's term, so that its KL cannot be told. Train this model with "
                    "PyMC's own inference."
                )
        return {latent.name: factor for latent, factor in self._with(factors)}

    def _check_prior(self, latent: Latent) -> None:
        """Refuse what cannot be told of entries that are joined with observed ones."""
        if latent.joined is None:
            return
        asked = {
            "total_size": latent.name in self.total_size,
            "kl_by": latent.name in self.kl_by,
            "closed_form": latent.name in self.closed_form,
            "β": latent.name in self.beta and not latent.has_prior,
        }
        for option in (option for option, given in asked.items() if given):
            raise ValueError(
                f"{option} of {latent.name!r} is refused: its entries and those of "
                f"{latent.joined.name!r} have one multivariate density together, so that "
                f"{_WHY_NOT[option]}"
            )

    def _check_one_weight(self, latent: Latent) -> None:
        names = [variable.name for variable in latent.group.group]
        same_beta = len({id(self.beta.get(name)) for name in names}) == 1
        same_size = len({id(self.total_size.get(name)) for name in names}) == 1
        if not (same_beta and same_size):
            raise ValueError(
                f"log q of {type(latent.group).__name__} does not split by variable: give "
                f"{', '.join(map(repr, names))} one β and one total_size together"
            )
        for option, asked in (("kl_by", self.kl_by), ("closed_form", self.closed_form)):
            if latent.name in asked:
                raise ValueError(
                    f"{option} of {latent.name!r}: log q of {type(latent.group).__name__} does not "
                    "split by variable"
                )


_WHY_NOT = {
    "total_size": "they do not belong to one row of a minibatch each",
    "kl_by": "the KL does not split by coordinate",
    "closed_form": "the KL has no closed form here",
    "β": "there is no KL to weigh apart from the data. Name the other variables: beta={...}",
}


def _stack(scalars: Sequence[Any]) -> pt.TensorVariable:
    """A floatX vector of scalars."""
    return stack([floatX(scalar) for scalar in scalars])


def no_closed_form(latent: Latent) -> str:
    """Why the KL of a variable has no closed form; empty where it has one."""
    group, model = latent.group, latent.group.model
    if not latent.splits:
        return f"its group is a {type(group).__name__}"
    if model.rvs_to_transforms[latent.variable] is not None:
        return "its prior is transformed"
    if latent.variable.owner is None or not isinstance(latent.variable.owner.op, NormalRV):
        return "its prior is not a Normal"
    if isinstance(group, FullRankGroup):
        values = model.replace_rvs_by_values(
            latent.variable.owner.op.dist_params(latent.variable.owner)
        )
        if set(ancestors(values)) & set(model.value_vars):
            return "its prior depends on other variables, which full rank correlates with it"
    return ""
