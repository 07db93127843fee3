"""log q and log p of draws from a normal q: on the unconstrained scale, of the whole data set.

What a fit trains on may be a minibatch; here every row is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.data import MinibatchOp
from pymc.pytensorf import compile as compile_
from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.minibatch_rv import MinibatchRandomVariable, get_scaling
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.gradient import grad
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from vitoolkit.latents import Latent, constant_value, latents_of

__all__ = ["LogDensity", "NormalQ", "Unknown"]

#: Calls for the rows of all draws, at most: some tens of microseconds each.
MOST_CALLS = 2_000_000

Array = NDArray[np.float64]


class Unknown(ValueError):
    """Why a density is not known, in words."""


class NormalQ:
    """A mean-field or full-rank q: its coordinates in the order of the model, and draws from it.

    Parameters
    ----------
    approx : Approximation

    Raises
    ------
    Unknown
        When q is no normal distribution with parameters of its own: particles, flows, encoders.

    Attributes
    ----------
    latents : tuple of Latent
    where : dict of str to slice
        The coordinates of each variable.
    mean, sd : ndarray, shape (coordinates,)
        On the unconstrained scale.
    mean_field : bool
        Whether all coordinates are independent.
    """

    def __init__(self, approx: Any) -> None:
        try:
            self.latents: tuple[Latent, ...] = latents_of(approx)
        except TypeError:
            raise Unknown("q is a set of particles, which states no log q") from None
        self.where: dict[str, slice] = {}
        size = 0
        for latent in self.latents:
            length = int(np.prod(latent.shape))
            self.where[latent.name] = slice(size, size + length)
            if not isinstance(latent.group, MeanFieldGroup | FullRankGroup):
                raise Unknown(f"q of {latent.name} is a {type(latent.group).__name__}, no normal")
            if not all(isinstance(p, SharedVariable) for p in latent.group.params_dict.values()):
                raise Unknown(f"q of {latent.name} is another one for each row of data")
            size += length
        self.mean, self.sd = np.empty(size), np.empty(size)
        self._parts: list[tuple[np.ndarray, Array]] = []
        for group in dict.fromkeys(latent.group for latent in self.latents):
            at = np.empty(group.ddim, int)
            for latent in self.latents:
                if latent.group is group:
                    whole = self.where[latent.name]
                    at[latent.where] = np.arange(whole.start, whole.stop)
            mean, factor = _of_group(group)
            self.mean[at] = mean
            self.sd[at] = factor if factor.ndim == 1 else np.sqrt((factor**2).sum(axis=1))
            self._parts.append((at, factor))

    @property
    def mean_field(self) -> bool:
        """Whether all coordinates are independent."""
        return all(factor.ndim == 1 for _, factor in self._parts)

    def draw(self, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw from q.

        Parameters
        ----------
        draws : int
        rng : numpy.random.Generator

        Returns
        -------
        z : ndarray, shape (draws, coordinates)
        log_q : ndarray, shape (draws,)
            Log density of each draw, nats.
        """
        noise = rng.standard_normal((draws, len(self.mean)))
        z = np.tile(self.mean, (draws, 1))
        log_q = -0.5 * (noise**2).sum(axis=1) - 0.5 * len(self.mean) * np.log(2 * np.pi)
        for at, factor in self._parts:
            diagonal = factor if factor.ndim == 1 else np.diagonal(factor)
            z[:, at] += noise[:, at] * factor if factor.ndim == 1 else noise[:, at] @ factor.T
            log_q -= np.log(diagonal).sum()
        return z, log_q


def _of_group(group: Any) -> tuple[Array, Array]:
    """Mean, and standard deviations or the lower triangular factor of the covariance."""
    values = {k: np.asarray(v.get_value(borrow=True), float) for k, v in group.params_dict.items()}
    mean = values["mu"].ravel()
    if isinstance(group, MeanFieldGroup):
        return mean, np.logaddexp(0, values["rho"].ravel())
    factor = np.zeros((len(mean), len(mean)))
    factor[np.tril_indices(len(mean))] = values["L_tril"]
    diagonal = np.arange(len(mean))
    factor[diagonal, diagonal] = np.logaddexp(0, factor[diagonal, diagonal])
    return mean, factor


class _Rows(NamedTuple):
    """Observed variables whose rows come from one minibatch."""

    log_p: Any
    weights: Any
    inputs: tuple[Any, ...]
    data: tuple[np.ndarray, ...]
    batch: int


class LogDensity:
    """log p(z, D) of the model and its gradient: β = 1, all rows, with Jacobian; nats.

    Parameters
    ----------
    approx : Approximation
    q : NormalQ
        Whose order the coordinates are in.

    Raises
    ------
    Unknown
        When the log density of the whole data set cannot be had from the model.

    Notes
    -----
    A model with ``pm.Minibatch`` is evaluated on one minibatch of rows after another, until each
    row of its data was there once.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     approx = pm.MeanField()
    >>> log_p = LogDensity(approx, NormalQ(approx))
    >>> round(float(log_p(np.array([1.0]))), 4), log_p.gradient(np.array([1.0]))
    (-1.4189, array([-1.]))
    """

    def __init__(self, approx: Any, q: NormalQ) -> None:
        model = approx.model
        rows = _rows(model)
        of_rows = [observed for row in rows for observed in row]
        others = [v for v in model.basic_RVs if v not in of_rows]
        if rows:
            factors = model.logp(vars=[*others, *model.potentials, *of_rows], sum=False)
            counted = len(others) + len(model.potentials)
            rest, by_row = factors[:counted], dict(zip(of_rows, factors[counted:], strict=True))
            for variable, factor in zip([*others, *model.potentials], rest, strict=True):
                if _minibatches([factor]):
                    raise Unknown(
                        f"{variable.name} depends on a minibatch, and only an observed variable "
                        "with total_size can be evaluated on all rows"
                    )
            whole = pt.add(*[factor.sum() for factor in rest])
            pieces = [_piece(model, row, by_row) for row in rows]
        else:
            whole, pieces = model.logp(), []
        self._z = pt.vector("z", shape=(len(q.mean),))
        self._whole, self._pieces = whole, pieces
        self._values = {
            model.rvs_to_values[latent.variable]: self._z[q.where[latent.name]]
            .reshape(latent.shape)
            .astype(model.rvs_to_values[latent.variable].type.dtype)
            for latent in q.latents
        }
        self._compiled: dict[str, list[Callable[..., Any]]] = {}

    @property
    def dtype(self) -> str:
        """In which it is computed."""
        return str(self._z.dtype)

    @property
    def calls(self) -> int:
        """Compiled calls for one draw."""
        return 1 + sum(-(-len(piece.data[0]) // piece.batch) for piece in self._pieces)

    def __call__(self, z: Array) -> float:
        """log p(z, D), nats."""
        return float(self._sum("value", z))

    def gradient(self, z: Array) -> Array:
        """Gradient of log p(z, D), shape (coordinates,)."""
        return np.asarray(self._sum("gradient", z), float)

    def _sum(self, what: str, z: Array) -> Any:
        if what not in self._compiled:
            self._compiled[what] = self._compile(what)
        whole, *pieces = self._compiled[what]
        z = np.asarray(z, self._z.dtype)
        total = np.array(whole(z), float)
        for function, piece in zip(pieces, self._pieces, strict=True):
            count = len(piece.data[0])
            for start in range(0, count, piece.batch):
                row = np.arange(start, start + piece.batch)
                weights = (row < count).astype(self._z.dtype)
                row = np.minimum(row, count - 1)
                total += function(z, weights, *[values[row] for values in piece.data])
        return total

    def _compile(self, what: str) -> list[Callable[..., Any]]:
        functions = []
        for piece in (None, *self._pieces):
            node = self._whole if piece is None else piece.log_p
            node = graph_replace([node], self._values, strict=False)[0]
            if what == "gradient":
                node = grad(node, self._z, disconnected_inputs="ignore")
            inputs = () if piece is None else (piece.weights, *piece.inputs)
            function = compile_([self._z, *inputs], node, on_unused_input="ignore")
            function.trust_input = True
            functions.append(function)
        return functions


def _minibatches(nodes: Sequence[Any]) -> list[Any]:
    """The minibatches that nodes depend on."""
    return [
        variable
        for variable in ancestors(nodes)
        if variable.owner is not None and isinstance(variable.owner.op, MinibatchOp)
    ]


def _rows(model: Any) -> list[list[Any]]:
    """Observed variables by the minibatch that their rows come from."""
    found: dict[Any, list[Any]] = {}
    for observed in model.observed_RVs:
        value = model.rvs_to_values[observed]
        scaled = isinstance(observed.owner.op, MinibatchRandomVariable)
        generators = {_generator(variable) for variable in _minibatches([observed, value])}
        if len(generators) > 1:
            raise Unknown(f"{observed.name} has rows of several minibatches, drawn independently")
        for generator in generators:
            if not scaled:
                raise Unknown(f"{observed.name} has rows of a minibatch and no total_size")
            found.setdefault(generator, []).append(observed)
        if scaled and not generators:
            c = constant_value(get_scaling(observed.owner.inputs[1:], value.shape))
            if c != 1:
                raise Unknown(
                    f"{observed.name} has a total_size, and the model holds a part of its rows only"
                )
    return list(found.values())


def _generator(variable: Any) -> Any:
    """What draws the rows of a minibatch; of its clones, too."""
    return variable.owner.inputs[-1]


def _piece(model: Any, observed: list[Any], by_row: dict[Any, Any]) -> _Rows:
    """log p of the rows of one minibatch, each with a weight and none scaled up."""
    factors = [by_row[variable] for variable in observed]
    used = list(dict.fromkeys(_minibatches(factors)))
    if len({_generator(variable) for variable in used}) > 1:
        raise Unknown(f"{observed[0].name} has rows of several minibatches, drawn independently")
    sources = [v.owner.inputs[v.owner.outputs.index(v)] for v in used]
    data = tuple(np.asarray(source.eval()) for source in sources)
    rows, batch = len(data[0]), used[0].type.shape[0]
    weights = pt.vector("weights", shape=(batch,))
    total = []
    for variable, factor in zip(observed, factors, strict=True):
        scale = get_scaling(variable.owner.inputs[1:], model.rvs_to_values[variable].shape)
        c = constant_value(scale)
        if c is None or not np.isclose(c, rows / batch) or factor.type.shape[:1] != (batch,):
            raise Unknown(
                f"{variable.name} is scaled by {c} where its minibatch holds {batch:,} of "
                f"{rows:,} rows"
            )
        each = factor / scale
        total.append((weights.reshape((batch, *[1] * (factor.ndim - 1))) * each).sum())
    inputs = tuple(v.type() for v in used)
    node = graph_replace([pt.add(*total)], dict(zip(used, inputs, strict=True)), strict=False)[0]
    return _Rows(node, weights, inputs, data, batch)
