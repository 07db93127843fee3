"""The free variables as an approximation sees them: where they stand, their scaling, their parts.

Nothing here knows of draws or losses; :mod:`vitoolkit.objective` builds on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pymc.distributions.distribution import PartialObservedRV
from pymc.model import Model
from pymc.pytensorf import constant_fold, floatX
from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.minibatch_rv import MinibatchRandomVariable, get_scaling
from pymc.variational.opvi import Approximation, Group
from pytensor.graph.basic import Constant
from pytensor.tensor.random.basic import MvNormalRV

from vitoolkit.parts import Part

__all__ = [
    "Latent",
    "constant_value",
    "dims_of",
    "kept_axes",
    "kl_by_of_all",
    "latents_of",
    "log_marginal",
    "minibatch_constant",
    "observed_minibatches",
    "part_of",
    "rows_factor",
    "summed_axes",
]


@dataclass(frozen=True, eq=False)
class Latent:
    """A free variable as its approximation sees it.

    Attributes
    ----------
    name : str
        Name of the variable.
    variable : TensorVariable
        The random variable.
    group : Group
        The group of the approximation that holds it.
    where : slice
        Its coordinates in the group.
    shape : tuple of int
        Shape on the unconstrained scale.
    joined : TensorVariable or None
        The observed variable into whose log density PyMC puts that of this one: the two are entries
        of one multivariate variable, some of them missing. None as a rule.
    """

    name: str
    variable: pt.TensorVariable
    group: Group
    where: slice
    shape: tuple[int, ...]
    joined: pt.TensorVariable | None = None

    @property
    def splits(self) -> bool:
        """Whether the group's log q is known coordinate by coordinate."""
        return isinstance(self.group, MeanFieldGroup | FullRankGroup)

    @property
    def has_prior(self) -> bool:
        """Whether log p of the variable, given its parents, is known by itself."""
        if self.joined is None:
            return True
        whole, mask = self.variable.owner.inputs
        return (
            isinstance(whole.owner.op, MvNormalRV)
            and isinstance(mask, Constant)
            and mask.type.ndim == whole.ndim
            and self.group.model.rvs_to_transforms[self.variable] is None
        )

    @property
    def flat(self) -> bool:
        """Whether the prior is improper, so that log p is 0 and there is no KL."""
        return isinstance(self.variable.owner.op, FlatRV | HalfFlatRV)


def latents_of(approx: Approximation) -> tuple[Latent, ...]:
    """The free variables of an approximation, in the order of the model.

    Raises
    ------
    TypeError
        When a group has no log q, so that there is no KL.
    """
    latents = {}
    for group in approx.groups:
        stated = type(group).symbolic_logq_not_scaled is not Group.symbolic_logq_not_scaled
        if not group.has_logq or not stated:
            raise TypeError(
                f"{type(group).__name__} states no log q, so that there is neither a KL nor an "
                "ELBO to train. Train it with PyMC's own inference (pm.fit(method='svgd'), for "
                "one): controls, learning rates and a Recorder work there, without terms."
            )
        for variable in group.group:
            value = group.model.rvs_to_values[variable]
            _, where, shape, _ = group.ordering[value.name]
            latents[variable.name] = Latent(
                variable.name, variable, group, where, tuple(shape), _joined(approx.model, variable)
            )
    return tuple(latents[variable.name] for variable in approx.model.free_RVs)


def _joined(model: Model, variable: pt.TensorVariable) -> pt.TensorVariable | None:
    """The observed variable whose log density holds that of `variable`, if there is one."""
    node = variable.owner
    if node is None or not isinstance(node.op, PartialObservedRV) or node.op.ndim_supp == 0:
        return None
    return next((rv for rv in model.observed_RVs if rv.owner is node), None)


def log_marginal(latent: Latent) -> pt.TensorVariable:
    """log p of the missing entries of a multivariate normal, without the observed ones; nats.

    PyMC has one density for both, ``p(missing, observed)``. With this one the prior of the missing
    entries is ``p(missing)`` and the data term holds ``p(observed | missing)``, as for every other
    variable.

    Parameters
    ----------
    latent : Latent
        One that is joined and has a prior.

    Returns
    -------
    TensorVariable
        A vector; its sum is the log density.
    """
    whole, missing = latent.variable.owner.inputs
    model = latent.group.model
    mean, cov = whole.owner.op.dist_params(whole.owner)
    one_for_all = all(cov.type.broadcastable[:-2])
    mean, cov = model.replace_rvs_by_values([mean, cov])
    mask = np.asarray(missing.data)
    entries = mask.shape[-1]
    rows = mask.reshape(-1, entries)
    position = (np.cumsum(rows) - 1).reshape(rows.shape)
    mean = pt.broadcast_to(mean, mask.shape).reshape(rows.shape)
    cov = cov if one_for_all else pt.broadcast_to(cov, (*mask.shape, entries))
    cov = cov.reshape((-1, entries, entries))
    value = model.rvs_to_values[latent.variable]
    terms = []
    for pattern in np.unique(rows[rows.any(axis=1)], axis=0):
        of, at = np.flatnonzero((rows == pattern).all(axis=1)), np.flatnonzero(pattern)
        here = np.zeros(1, int) if one_for_all else of
        marginal = pm.MvNormal.dist(
            mean[of[:, None], at[None, :]], cov[here[:, None, None], at[:, None], at[None, :]]
        )
        terms.append(pm.logp(marginal, value[position[np.ix_(of, at)]]).ravel())
    return pt.concatenate(terms)


def observed_minibatches(approx: Approximation) -> dict[str, pt.TensorVariable]:
    """N/b of every observed variable that has a ``total_size``, by name."""
    model = approx.model
    return {
        observed.name: get_scaling(
            observed.owner.inputs[1:],
            constant_fold(tuple(model.rvs_to_values[observed].shape), raise_not_constant=False),
        )
        for observed in model.observed_RVs
        if isinstance(observed.owner.op, MinibatchRandomVariable)
    }


def minibatch_constant(approx: Approximation) -> pt.TensorVariable:
    """c = N/b: rows of the data set over rows of the minibatch.

    With several observed variables it is the largest of their constants, as in PyMC. It is 1
    without minibatches, and 1 while ``approx.scale_cost_to_minibatch`` is False. PyMC's own
    constant multiplies ``N / d`` over *all* dimensions of an observation and is wrong from two
    dimensions on; this one uses the dimensions that ``total_size`` names.

    Returns
    -------
    TensorVariable
        Scalar, floatX, without unit.
    """
    constant = reduce(pt.maximum, observed_minibatches(approx).values(), floatX(1.0))
    return floatX(pt.switch(approx._scale_cost_to_minibatch, constant, floatX(1.0)))


def rows_factor(latent: Latent, total_size: Any) -> Any:
    """N over the rows of a local latent: what its KL is multiplied by."""
    if isinstance(total_size, int | np.integer):
        return total_size / latent.shape[0]
    return floatX(total_size) / latent.shape[0]


def dims_of(latent: Latent) -> tuple[str, ...]:
    """Name of each dimension of a variable on the unconstrained scale.

    A dim of the model keeps its name where the transform keeps its length, as an elementwise one
    does; another is called as ArviZ calls one without a name.
    """
    model = latent.group.model
    named: Any = model.named_vars_to_dims.get(latent.name)
    if named is None or len(named) != len(latent.shape):
        named = [None] * len(latent.shape)
    return tuple(
        dim
        if dim is not None and _length(model, dim) in (length, None)
        else f"{latent.name}_dim_{axis}"
        for axis, (dim, length) in enumerate(zip(named, latent.shape, strict=True))
    )


def _length(model: Model, dim: str) -> int | None:
    coords = model.coords.get(dim)
    if coords is not None:
        return len(coords)
    length = model.dim_lengths[dim]
    value = length.get_value() if hasattr(length, "get_value") else constant_value(length)
    return None if value is None else int(value)


def kept_axes(latent: Latent, by: str) -> tuple[int, ...]:
    """Axes of the parts of a variable's KL: all, or the one of the dim `by`."""
    dims = dims_of(latent)
    return tuple(range(len(dims))) if by == "coordinate" else (dims.index(by),)


def summed_axes(latent: Latent, by: str, *, rows: bool = False) -> tuple[int, ...]:
    """Axes over which the KL of a variable is summed, to be taken apart by a dim.

    Parameters
    ----------
    latent : Latent
        The variable.
    by : str
        "coordinate", or the dim that is kept.
    rows : bool
        Whether the first axis, of the rows of a minibatch, is summed in any case.
    """
    kept = kept_axes(latent, by)
    return tuple(a for a in range(len(latent.shape)) if a not in kept or (rows and a == 0))


def part_of(latent: Latent, by: str, factor: pt.TensorVariable) -> Part:
    """Dims, shape and coordinates of the parts of a variable's KL.

    Parameters
    ----------
    latent : Latent
        The variable.
    by : str
        "coordinate", or the dim that is kept.
    factor : TensorVariable
        log p of the variable, elementwise where it splits.

    Raises
    ------
    ValueError
        When the prior is multivariate, or the variable has no such dim; the message lists them.
    """
    model, dims = latent.group.model, dims_of(latent)
    if latent.joined is not None or factor.ndim != len(latent.shape):
        raise ValueError(
            f"kl_by of {latent.name!r}: its prior is multivariate, so that its KL does not split "
            "by coordinate"
        )
    if by != "coordinate" and by not in dims:
        names = ", ".join(map(repr, ("coordinate", *dims)))
        raise ValueError(f"kl_by of {latent.name!r} must be one of {names}, received {by!r}")
    kept = kept_axes(latent, by)
    labels: dict[str, Any] = {}
    for axis in kept:
        coords = model.coords.get(dims[axis])
        if coords is None or len(coords) != latent.shape[axis]:
            coords = tuple(range(latent.shape[axis]))
        labels[dims[axis]] = list(coords)
    shape = tuple(latent.shape[axis] for axis in kept)
    return Part(latent.name, tuple(dims[axis] for axis in kept), shape, labels)


def kl_by_of_all(approx: Approximation, by: str) -> dict[str, str]:
    """The ``kl_by`` of every variable that can be taken apart that way.

    Raises
    ------
    ValueError
        When there is none; the message lists what there is.
    """
    found: dict[str, str] = {}
    dims: set[str] = set()
    latents = latents_of(approx)
    factors = approx.model.logp(vars=[latent.variable for latent in latents], sum=False)
    for latent, factor in zip(latents, factors, strict=True):
        whole = latent.joined is not None or factor.ndim != len(latent.shape)
        if latent.splits and latent.shape and not whole:
            dims.update(dims_of(latent))
            if by == "coordinate" or by in dims_of(latent):
                found[latent.name] = by
    if not found:
        names = ", ".join(map(repr, ("coordinate", *sorted(dims))))
        raise ValueError(f"kl_by={by!r} fits no variable of the model; accepted are {names}")
    return found


def constant_value(node: Any) -> float | None:
    """The number a node stands for, None when it is known only when the fit runs."""
    if isinstance(node, int | float | np.number):
        return float(node)
    (folded,) = constant_fold([node], raise_not_constant=False)
    if isinstance(folded, Constant):
        return float(folded.data)
    return float(folded) if isinstance(folded, np.ndarray | np.number) else None
