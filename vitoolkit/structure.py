"""The structure of a graph: what two graphs have in common that need the same compiled code."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable

__all__ = ["in_order", "rebuilt", "structure"]


def in_order(nodes: Sequence[Variable]) -> list[Variable | Apply]:
    """Leaves and operations of a graph, each after what it is computed from.

    The order follows from the graph alone: equal graphs have it in common.
    """
    found: dict[Variable | Apply, None] = {}
    waiting = [_made_by(node) for node in reversed(nodes)]
    while waiting:
        item = waiting[-1]
        before = [_made_by(v) for v in getattr(item, "inputs", ())]  # inner graphs may be frozen
        missing = [other for other in before if other not in found]
        if missing:
            waiting.extend(reversed(missing))
        else:
            found[waiting.pop()] = None
    return list(found)


def _made_by(variable: Variable) -> Variable | Apply:
    return variable if variable.owner is None else variable.owner


def rebuilt(nodes: Sequence[Variable], replaced: Mapping[Variable, Variable]) -> list[Variable]:
    """The nodes with other variables in the place of some.

    As ``graph_replace``, which in PyTensor 2 fails where one of them is needed by another only.
    """
    new = dict(replaced)
    for item in in_order(nodes):
        if isinstance(item, Apply) and any(variable in new for variable in item.inputs):
            if not all(variable in new for variable in item.outputs):
                inputs = [new.get(variable, variable) for variable in item.inputs]
                again = item.clone_with_new_inputs(inputs, strict=False)
                for old, variable in zip(item.outputs, again.outputs, strict=True):
                    new.setdefault(old, variable)
    return [new.get(node, node) for node in nodes]


def structure(nodes: Sequence[Variable]) -> tuple[Hashable, list[Any]]:
    """What has to be equal for two graphs to be computed by the same code.

    Operations, types and constants count; names do not, nor the values of shared variables.

    Parameters
    ----------
    nodes : sequence of Variable
        The outputs of the graph.

    Returns
    -------
    key : hashable or None
        Equal for graphs of the same structure. None where that cannot be told: the graph has an
        input that is not a shared variable, or something that cannot be compared.
    shared : list of SharedVariable
        The shared variables in the order in which the structure has them.

    Examples
    --------
    >>> import pytensor
    >>> a, b = pytensor.shared(1.0), pytensor.shared(2.0)
    >>> (one, shared), (other, _) = structure([a * 2.0]), structure([b * 2.0])
    >>> one == other, shared == [a], structure([b * 3.0])[0] == one
    (True, True, False)
    """
    number: dict[Any, int] = {}
    shared: list[Any] = []
    parts: list[Hashable] = []
    known = True
    for item in in_order(nodes):
        part: Hashable
        if isinstance(item, Apply):
            inputs = tuple(number[variable] for variable in item.inputs)
            part = item.op, inputs, tuple(variable.type for variable in item.outputs)
            # Two of them are never equal, and one may hold a whole model.
            known = known and not isinstance(item.op, OpFromGraph)
            for variable in item.outputs:
                number[variable] = len(number)
        else:
            number[item] = len(number)
            if isinstance(item, SharedVariable):
                part = "shared", item.type
                shared.append(item)
            elif isinstance(item, Constant):
                part = item.type, _content(item.data)
            else:
                part, known = None, False
        parts.append(part)
    key = (*parts, tuple(number[node] for node in nodes))
    try:
        hash(key)
    except TypeError:
        known = False
    return key if known else None, shared


def _content(data: Any) -> Hashable:
    if isinstance(data, np.ndarray):
        digest = hashlib.sha256(data.tobytes()).hexdigest()
        return data.shape, data.dtype.str, digest
    if isinstance(data, slice):
        return "slice", data.start, data.stop, data.step
    return data
