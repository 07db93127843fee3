"""The data of a graph, which are constants there, as something that can be handed to its code.

PyMC makes constants of observed arrays. Compiled into the code they make it another code for other
data, and a larger one. What a graph computes of data alone is computed once, as PyTensor does with
constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor
from pymc.pytensorf import constant_fold
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.type import TensorType

from vitoolkit.structure import in_order, rebuilt

__all__ = ["data_as_shared"]

#: A vector of so few whole numbers may be a shape, by which PyTensor has to reckon.
SHORT = 32


def data_as_shared(nodes: Sequence[Variable]) -> list[Variable]:
    """The nodes with shared variables in the place of their data.

    Parameters
    ----------
    nodes : sequence of Variable
        The outputs of a graph.

    Returns
    -------
    list of Variable
        The same outputs. What they need and what depends on nothing but arrays of the graph has its
        value in a shared variable; or in a constant, where code may depend on it: numbers, masks,
        arrays with one value throughout, and short vectors of whole numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor.tensor as pt
    >>> y, x = np.array([1.0, 2.0, 4.0]), pytensor.shared(2.0)
    >>> (node,) = data_as_shared([(pt.log(pt.constant(y)) * x).sum()])
    >>> [data] = [v for v in in_order([node]) if v is not x and hasattr(v, "get_value")]
    >>> bool((data.get_value() == np.log(y)).all())
    True
    """
    of_data: dict[Variable, bool] = {}  # what follows from constants alone: whether from data
    needed: dict[Variable, None] = {}
    for item in in_order(nodes):
        if isinstance(item, Constant):
            of_data[item] = _is_data(item)
        elif isinstance(item, Apply):
            if _foldable(item) and all(variable in of_data for variable in item.inputs):
                from_data = any(of_data[variable] for variable in item.inputs)
                of_data.update(dict.fromkeys(item.outputs, from_data))
            else:
                needed.update(dict.fromkeys(v for v in item.inputs if of_data.get(v)))
    needed.update(dict.fromkeys(node for node in nodes if of_data.get(node)))
    # A constant is its own value; PyTensor may give it another dtype or shape only in a graph.
    graphs = [variable for variable in needed if variable.owner is not None]
    values = dict(zip(graphs, constant_fold(graphs, raise_not_constant=False), strict=True))
    replaced = {}
    for variable in needed:
        value: Any = values.get(variable, getattr(variable, "data", None))
        if not isinstance(value, Variable):
            replaced[variable] = _stand_in(variable, np.asarray(value))
    return rebuilt(nodes, replaced)


def _is_data(constant: Constant) -> bool:
    return isinstance(constant.type, TensorType) and not _fixed(constant.data, scalars=True)


def _fixed(value: np.ndarray, *, scalars: bool) -> bool:
    """Whether code may depend on the value."""
    floating = value.dtype.kind in "fc"
    if value.size <= 1:
        return scalars or not floating or value.size == 0
    if value.dtype.kind == "b" or (value.ndim <= 1 and value.size <= SHORT and not floating):
        return True
    return bool((value == value.flat[0]).all())


def _foldable(node: Apply) -> bool:
    """Whether the outputs can be computed once, without an exception."""
    return all(isinstance(variable.type, TensorType) for variable in node.outputs) and not (
        isinstance(node.op, OpFromGraph | CheckAndRaise)
    )


def _stand_in(variable: Variable, value: np.ndarray) -> Variable:
    value = value.astype(variable.type.dtype, copy=False)  # type: ignore[attr-defined]
    if _fixed(value, scalars=False):
        return pytensor.tensor.constant(value, dtype=value.dtype)
    # Code that is compiled for one layout is compiled anew for another.
    value = np.require(value, requirements=["C", "A", "W"])
    return pytensor.shared(value, borrow=True, shape=value.shape, name=variable.name)
