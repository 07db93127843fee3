"""Draws of a model's prior without compiling anything: node by node, in Python.

A compiled draw of a large model takes seconds to build, in front of the first step. A few dozen
draws for an interval do not need one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import io_toposort
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType

__all__ = ["Prior"]


class Prior:
    """Draw some variables of a model from its prior, one draw at a time.

    Parameters
    ----------
    variables : sequence of TensorVariable
        Free variables of the model.
    seconds : float
        The longest that a draw may take.
    seed : int
        Of a generator of its own: the model's are left alone.

    Notes
    -----
    A variable with an improper prior, or that depends on one, is None in a draw.
    """

    def __init__(self, variables: Sequence[Variable], *, seconds: float, seed: int = 0) -> None:
        self.variables, self.seconds = list(variables), seconds
        self._rng = np.random.default_rng(seed)
        self._until = time.perf_counter() + seconds
        nodes = io_toposort([], self.variables)
        random: set[Variable] = set()
        self._nodes: list[Apply] = []
        self._fixed: dict[Variable, Any] = {}
        for node in nodes:
            drawn = isinstance(node.op, RandomVariable | OpFromGraph)
            if drawn or any(variable in random for variable in node.inputs):
                random.update(node.outputs)
                self._nodes.append(node)
            else:
                self._take(node, self._fixed)

    def draw(self) -> list[Any]:
        """Draw each variable once.

        Returns
        -------
        list of ndarray or None

        Raises
        ------
        TimeoutError
            When it takes too long.
        Exception
            Whatever an operation raises that cannot be done in Python.
        """
        self._until = time.perf_counter() + self.seconds
        values = dict(self._fixed)
        for node in self._nodes:
            self._take(node, values)
        return [_value(variable, values) for variable in self.variables]

    def _take(self, node: Apply, values: dict[Variable, Any]) -> None:
        if time.perf_counter() > self._until:
            raise TimeoutError(f"a draw takes longer than {self.seconds:g} s")
        inputs = [_value(variable, values) for variable in node.inputs]
        for variable, result in zip(node.outputs, self._results(node, inputs), strict=True):
            values[variable] = result

    def _results(self, node: Apply, inputs: list[Any]) -> list[Any]:
        op = node.op
        missing = any(
            value is None and not isinstance(variable.type, RandomType) and not _is_none(variable)
            for variable, value in zip(node.inputs, inputs, strict=True)
        )
        if missing or isinstance(op, FlatRV | HalfFlatRV):
            return [None] * len(node.outputs)
        if isinstance(op, RandomVariable):
            _, size, *parameters = inputs
            size = None if size is None else tuple(int(length) for length in size)
            drawn = op.rng_fn(self._rng, *parameters, size)
            return [None, np.asarray(drawn, node.outputs[1].dtype)]
        if isinstance(op, OpFromGraph):  # its own perform would compile what is in it
            values = dict(zip(op.inner_inputs, inputs, strict=True))
            for inner in io_toposort(op.inner_inputs, op.inner_outputs):
                self._take(inner, values)
            return [_value(variable, values) for variable in op.inner_outputs]
        op.prepare_node(node, None, None, "py")
        storage: list[list[Any]] = [[None] for _ in node.outputs]
        op.perform(node, inputs, storage)
        return [cell[0] for cell in storage]


def _is_none(variable: Variable) -> bool:
    return isinstance(variable, Constant) and variable.data is None


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
