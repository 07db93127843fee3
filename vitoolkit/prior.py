"""Draws of a model without compiling anything: node by node in NumPy, all draws at once.

A compiled draw of a large model takes seconds to build, in front of the first step. An interval of
the prior does not need one, nor does a sketch of the posterior predictive.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pymc.distributions.continuous import BetaRV, FlatRV, HalfFlatRV
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import io_toposort
from pytensor.scan.op import Scan
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.random import basic
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Shape, Shape_i

__all__ = ["Forward", "Many", "draw_prior"]

#: Stands for draws that there are none of: the prior is improper.
_NOTHING: Any = object()

#: SciPy's distributions take half a second to load and more: these do without.
_NUMPY: dict[type, Callable[..., Any]] = {
    basic.HalfNormalRV: lambda rng, loc, scale, size: loc + scale * abs(rng.standard_normal(size)),
    basic.HalfCauchyRV: lambda rng, loc, scale, size: loc + scale * abs(rng.standard_cauchy(size)),
    basic.CauchyRV: lambda rng, loc, scale, size: loc + scale * rng.standard_cauchy(size),
    basic.StudentTRV: lambda rng, df, loc, scale, size: loc + scale * rng.standard_t(df, size),
    basic.ParetoRV: lambda rng, b, scale, size: scale * (1 + rng.pareto(b, size)),
    basic.GumbelRV: lambda rng, loc, scale, size: rng.gumbel(loc, scale, size),
    basic.BernoulliRV: lambda rng, p, size: rng.random(size) < p,
    BetaRV: lambda rng, a, b, size: rng.beta(a, b, size),
}


class Many:
    """One value a draw, along the first axis."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


def draw_prior(
    variables: Sequence[Variable], draws: int, *, seconds: float, seed: int = 0
) -> list[np.ndarray | None]:
    """Draw variables of a model from its prior.

    Parameters
    ----------
    variables : sequence of TensorVariable
        Free variables of the model.
    draws : int
        How many.
    seconds : float
        After this time it is given up.
    seed : int
        Of a generator of its own: the model's are left alone.

    Returns
    -------
    list of ndarray or None
        Of each variable, shape (draws, ...). None where the prior is improper, or depends on one
        that is.

    Raises
    ------
    TimeoutError
        When it takes too long.
    Exception
        Whatever an operation raises that cannot be done in Python.

    Examples
    --------
    >>> import pymc as pm
    >>> with pm.Model():
    ...     tau = pm.HalfNormal("tau")
    ...     beta = pm.Normal("beta", 0.0, tau, shape=3)
    >>> [found.shape for found in draw_prior([tau, beta], 50, seconds=5.0)]
    [(50,), (50, 3)]
    """
    forward = Forward(draws, seconds, np.random.default_rng(seed))
    found = forward.draw(variables, {})
    return [value.values if isinstance(value, Many) else None for value in found]


class Forward:
    """Draws the random variables of a graph, and computes what follows from them.

    Parameters
    ----------
    draws : int
        How many, all at once.
    seconds : float
        After this time it is given up; beside a fit, of the processor.
    rng : Generator
        Of its own: those in the graph are left alone.
    beside : bool
        Whether it is done in a thread beside a fit: then SciPy's distributions may be loaded, which
        takes half a second and more, but no loop may be compiled.
    """

    def __init__(
        self, draws: int, seconds: float, rng: np.random.Generator, *, beside: bool = False
    ) -> None:
        self.draws, self.seconds, self.rng, self.beside = draws, seconds, rng, beside
        # What other programs take of a busy machine is no reason to give up; but a fit waits.
        self._clock = time.thread_time if beside else time.perf_counter
        self.until = self._clock() + seconds

    def draw(self, variables: Sequence[Variable], values: dict[Variable, Any]) -> list[Any]:
        """Draw or compute variables, given the values of some.

        Parameters
        ----------
        variables : sequence of Variable
        values : dict
            Of what is known, a `Many` where it differs from draw to draw; what is drawn and
            computed is added, so that what follows is of the same draws.

        Returns
        -------
        list
            A `Many`, or what is the same in each draw.
        """
        self._run(io_toposort(list(values), list(variables)), values)
        return [_value(variable, values) for variable in variables]

    def _run(self, nodes: Sequence[Apply], values: dict[Variable, Any]) -> None:
        for node in nodes:
            inputs = [_value(variable, values) for variable in node.inputs]
            for variable, result in zip(node.outputs, self._results(node, inputs), strict=True):
                values.setdefault(variable, result)  # what is given stays

    def _look(self) -> None:
        if self._clock() > self.until:
            raise TimeoutError(f"drawing it takes longer than {self.seconds:g} s")

    def _results(self, node: Apply, inputs: list[Any]) -> list[Any]:
        self._look()
        op = node.op
        nothing = any(value is _NOTHING for value in inputs)
        if nothing or isinstance(op, FlatRV | HalfFlatRV):
            return [_NOTHING] * len(node.outputs)
        if isinstance(op, RandomVariable):
            drawn = self._random(op, node, *inputs[1:])
            return [None, Many(np.asarray(drawn, node.outputs[1].dtype))]  # type: ignore[attr-defined]
        if isinstance(op, OpFromGraph):  # its own perform would compile what is in it
            values = dict(zip(op.inner_inputs, inputs, strict=True))
            self._run(io_toposort(op.inner_inputs, op.inner_outputs), values)
            return [_value(variable, values) for variable in op.inner_outputs]
        if isinstance(op, Scan) and self.beside:
            raise NotImplementedError("it has a loop (Scan), which would have to be compiled")
        if not any(isinstance(value, Many) for value in inputs):
            return _performed(node, inputs)
        if isinstance(op, Shape | Shape_i):
            return _performed(node, [inputs[0].values[0], *inputs[1:]])
        if isinstance(op, DimShuffle):
            return [Many(_shuffled(op.new_order, inputs[0].values))]
        if isinstance(op, Elemwise) and len(node.outputs) == 1:
            return [Many(_elementwise(node, [_plain(value) for value in inputs]))]
        rows = []
        for k in range(self.draws):
            self._look()
            rows.append(_performed(node, [_of_draw(value, k) for value in inputs]))
        return [Many(np.stack(column)) for column in zip(*rows, strict=True)]

    def _random(self, op: RandomVariable, node: Apply, size: Any, *parameters: Any) -> np.ndarray:
        draw: Any = _NUMPY.get(type(op), op.rng_fn)
        if hasattr(op, "rng_fn_scipy") and type(op) not in _NUMPY and not self.beside:
            if "scipy.stats" not in sys.modules:
                raise ImportError(f"{op.name} is drawn by scipy.stats, which takes long to load")
        if isinstance(size, Many):
            size = size.values[0]
        batch = node.outputs[1].type.ndim - op.ndim_supp  # type: ignore[attr-defined]
        aligned, shapes = [], []
        for value, core in zip(parameters, op.ndims_params, strict=True):
            array = np.asarray(_plain(value))
            if isinstance(value, Many):
                own = array.ndim - 1 - core
                array = array.reshape(self.draws, *[1] * (batch - own), *array.shape[1:])
                shapes.append(array.shape[1 : array.ndim - core])
            else:
                shapes.append(array.shape[: array.ndim - core])
            aligned.append(array)
        shape = np.broadcast_shapes(*shapes) if size is None else tuple(map(int, size))
        try:
            return draw(self.rng, *aligned, (self.draws, *shape))
        except Exception:  # some draw one set of parameters only
            rows = []
            for k in range(self.draws):
                self._look()
                each = [_of_draw(value, k) for value in parameters]
                rows.append(draw(self.rng, *each, shape))
            return np.stack(rows)


def _performed(node: Apply, inputs: list[Any]) -> list[Any]:
    node.op.prepare_node(node, None, None, "py")
    storage: list[list[Any]] = [[None] for _ in node.outputs]
    node.op.perform(node, inputs, storage)
    return [cell[0] for cell in storage]


def _elementwise(node: Apply, inputs: list[Any]) -> np.ndarray:
    op: Any = node.op
    op.prepare_node(node, None, None, "py")
    of_numpy = op.nfunc is not None and len(inputs) == op.nfunc_spec[1]
    function = op.nfunc if of_numpy else op.ufunc or node.tag.ufunc
    with np.errstate(all="ignore"):
        return np.asarray(function(*inputs)).astype(node.outputs[0].dtype)  # type: ignore[attr-defined]


def _shuffled(order: Sequence[Any], values: np.ndarray) -> np.ndarray:
    kept = [axis + 1 for axis in order if axis != "x"]
    dropped = [axis for axis in range(1, values.ndim) if axis not in kept]
    shape = [1 if axis == "x" else values.shape[axis + 1] for axis in order]
    return values.transpose(0, *kept, *dropped).reshape(len(values), *shape)


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, Many) else value


def _of_draw(value: Any, k: int) -> Any:
    return value.values[k] if isinstance(value, Many) else value


def _value(variable: Variable, values: dict[Variable, Any]) -> Any:
    if variable in values:
        return values[variable]
    if isinstance(variable, Constant):
        return variable.data
    if isinstance(variable.type, RandomType):
        return None
    if isinstance(variable, SharedVariable):
        return variable.get_value(borrow=True)
    raise TypeError(f"{variable} has no value")
