"""A lower triangle kept row by row, as a full-rank q keeps its L, times a vector.

PyMC writes the triangle into a square of zeros at every step, and reads its gradient out of a
square by two arrays of indices. Here either is one pass over the triangle.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.dist_math import rho2sigma
from pymc.variational.approximations import FullRankGroup
from pytensor.compile.mode import get_mode
from pytensor.gradient import grad_not_implemented
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.jax import JAXLinker
from pytensor.link.numba import NumbaLinker
from scipy.linalg import get_blas_funcs

__all__ = ["diagonal", "draw", "known_to"]


def diagonal(group: FullRankGroup) -> pt.TensorVariable:
    """The diagonal of L, shape (coordinates,)."""
    return rho2sigma(group.params_dict["L_tril"][_diagonal(group.ddim)])


def draw(group: FullRankGroup) -> pt.TensorVariable:
    """The first draw of a group, ``mean + L @ noise``, shape (coordinates,)."""
    known_to(get_mode(None).linker)
    triangle = group.params_dict["L_tril"]
    on_it = triangle[_diagonal(group.ddim)]
    triangle = pt.set_subtensor(on_it, rho2sigma(on_it))
    return _TIMES(triangle, group.symbolic_initial[0]) + group.mean


def known_to(linker: Any) -> None:
    """Tell a linker that makes code of its own how to compute what is here."""
    if isinstance(linker, NumbaLinker):
        _numba()
    elif isinstance(linker, JAXLinker) and find_spec("jax"):  # the linker is there without it
        _jax()


def _diagonal(n: int) -> np.ndarray:
    """Where the diagonal is in the triangle."""
    return np.cumsum(np.arange(1, n + 1)) - 1


class _Times(Op):
    """L @ x of the triangle of L, shape (n (n + 1) / 2,), and x, shape (n,)."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        triangle, x = _of_one_type(inputs)
        return Apply(self, [triangle, x], [x.type()])

    def perform(self, node, inputs, outputs):
        triangle, x = inputs
        # Row by row it is what BLAS calls a packed upper triangle, transposed.
        (tpmv,) = get_blas_funcs(["tpmv"], [triangle, x])
        outputs[0][0] = tpmv(len(x), triangle, x, trans=1) if len(x) else x.copy()

    def L_op(self, inputs, outputs, output_grads):
        # x is noise, which depends on no parameter.
        return [_OUTER(output_grads[0], inputs[1]), grad_not_implemented(self, 1, inputs[1])]

    pullback = L_op  # as PyTensor 3 calls it


class _Outer(Op):
    """The lower triangle of g xᵀ, shape (n (n + 1) / 2,), of g and x, shape (n,)."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        g, x = _of_one_type(inputs)
        (n,) = x.type.shape
        length = None if n is None else n * (n + 1) // 2
        return Apply(self, [g, x], [pt.TensorType(x.type.dtype, (length,))()])

    def perform(self, node, inputs, outputs):
        g, x = inputs
        lengths, columns = _rows(len(x))
        outputs[0][0] = np.repeat(g, lengths) * x[columns]


_TIMES, _OUTER = _Times(), _Outer()


def _of_one_type(inputs: Any) -> list[Any]:
    inputs = [pt.as_tensor(x) for x in inputs]
    dtype = np.result_type(*(x.dtype for x in inputs)).name
    return [x.astype(dtype) for x in inputs]


@lru_cache(maxsize=8)
def _rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the rows of a triangle, and the column of each of its entries."""
    return np.arange(1, n + 1), np.tril_indices(n)[1]


@cache
def _numba() -> None:
    from numba import njit
    from pytensor.link.numba.dispatch import basic

    # That of PyMC 5.26 keeps nothing on disk.
    register = getattr(basic, "register_funcify_default_op_cache_key", basic.numba_funcify.register)

    @njit(fastmath={"reassoc", "contract"})  # a sum in any order is one of vectors
    def times(triangle, x):
        y, start = np.empty_like(x), 0
        for k in range(len(x)):
            row, total = triangle[start : start + k + 1], x.dtype.type(0.0)
            for j in range(k + 1):
                total += row[j] * x[j]
            y[k] = total
            start += k + 1
        return y

    @njit
    def outer(g, x):
        y, start = np.empty(len(x) * (len(x) + 1) // 2, x.dtype), 0
        for k in range(len(x)):
            row, factor = y[start : start + k + 1], g[k]
            for j in range(k + 1):
                row[j] = factor * x[j]
            start += k + 1
        return y

    for op, function in (_Times, times), (_Outer, outer):
        register(op)(lambda op, node, function=function, **kwargs: function)


@cache
def _jax() -> None:
    import jax.numpy as jnp
    from pytensor.link.jax.dispatch import jax_funcify

    def times(triangle, x):
        square = jnp.zeros((len(x), len(x)), x.dtype)
        return square.at[np.tril_indices(len(x))].set(triangle) @ x

    def outer(g, x):
        return jnp.outer(g, x)[np.tril_indices(len(x))]

    for op, function in (_Times, times), (_Outer, outer):
        jax_funcify.register(op)(lambda op, function=function, **kwargs: function)
