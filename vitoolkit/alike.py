"""Scalar variables by the hundred: what the graph has once for all of them.

A graph with some nodes for every variable takes long to rewrite and to compile. Scalar variables
whose densities are written alike, such as those of a loop over ``pm.Normal(f"x{i}")``, get one
vector of densities; and all variables are taken out of the flat draw by one node, whose gradient is
one join instead of a chain of partial updates of the whole vector.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.variational.opvi import Group
from pytensor.compile.builders import OpFromGraph
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import ancestors
from pytensor.tensor.blockwise import Blockwise

from vitoolkit.latents import Latent

__all__ = ["Batch", "batches", "entries", "join", "stack", "taken"]

#: Fewer scalar variables are left as they are: operations on scalars are the faster ones.
FEWEST = 8
#: Densities with more operations are left as they are.
MOST_NODES = 100
#: Numba joins no more than 1,000 inputs at once.
MOST_JOINED = 500


@dataclass(frozen=True, eq=False)
class Batch:
    """Scalar variables whose densities are one vector.

    Attributes
    ----------
    latents : tuple of Latent
        The variables, of one group, in the order of their coordinates.
    log_p : TensorVariable
        log p of each, before draws are put in, shape (variables,); nats.
    """

    latents: tuple[Latent, ...]
    log_p: pt.TensorVariable

    @property
    def group(self) -> Group:
        """The group that holds them."""
        return self.latents[0].group

    @property
    def where(self) -> np.ndarray:
        """Their coordinates in the group."""
        return np.array([latent.where.start for latent in self.latents])


def batches(latents: Sequence[Latent], factors: Mapping[str, Any]) -> tuple[Batch, ...]:
    """Find scalar variables with densities alike.

    Two are alike if they are the same operations on the same things, but for scalar constants and
    values of scalar variables, which may differ.

    Parameters
    ----------
    latents : sequence of Latent
        The variables to look at.
    factors : mapping of str to TensorVariable
        log p of each, a scalar, in terms of the values of the model.
    """
    scalars = [v for v in latents if v.splits and v.shape == () and factors[v.name].ndim == 0]
    if len(scalars) < FEWEST:
        return ()
    values = {v.group.model.rvs_to_values[v.variable]: v for v in scalars}
    alike: dict[Hashable, list] = {}
    for latent in sorted(scalars, key=lambda latent: latent.where.start):
        key, slots = _written(factors[latent.name], values)
        if key is not None:
            alike.setdefault((latent.group, key), []).append((latent, slots))
    found = []
    for members in alike.values():
        if len(members) >= FEWEST:
            log_p = _as_one(factors[members[0][0].name], [slots for _, slots in members], values)
            if log_p is not None:
                found.append(Batch(tuple(latent for latent, _ in members), log_p))
    return tuple(found)


def _written(factor: Any, values: Mapping[Any, Latent]) -> tuple[Hashable | None, list]:
    """How a density is written, and the scalars it is written of, in the order they are met."""
    seen: dict[Any, int] = {}
    written: list[Hashable] = []
    slots: list[Any] = []
    pending: list[tuple[Any, bool]] = [(factor, False)]
    while pending:
        variable, visited = pending.pop()
        if variable in seen:
            continue
        node = variable.owner
        leaf: Hashable = None
        constant = isinstance(variable, Constant)
        if constant and variable.ndim == 0:
            leaf = (variable.type, "constant")
            slots.append(variable)
        elif variable in values:
            leaf = (variable.type, values[variable].group)
            slots.append(variable)
        elif constant:
            leaf = variable.signature()
        elif node is None:
            leaf = variable
        if leaf is None and not visited:
            pending.append((variable, True))
            pending.extend((x, False) for x in node.inputs)
            continue
        if leaf is None:
            index = node.outputs.index(variable)
            leaf = (node.op, index, tuple(seen[x] for x in node.inputs))
        seen[variable] = len(seen)
        written.append(leaf)
        if len(written) > MOST_NODES:
            return None, []
    return tuple(written), slots


def _as_one(factor: Any, slots: list[list[Any]], values: Mapping[Any, Latent]) -> Any:
    """The densities as a vector, None if they cannot be written as one."""
    replaced: dict[Any, Any] = {}
    for first, *others in zip(*slots, strict=True):
        if isinstance(first, Constant):
            numbers = np.array([x.data for x in (first, *others)])
            if (numbers != numbers[0]).any():
                replaced[first] = pt.constant(numbers)
        elif any(x is not first for x in others):
            where = np.array([values[x].where.start for x in (first, *others)])
            flat = values[first].group.input
            replaced[first] = taken(flat, where).astype(first.dtype)
    log_p: Any = vectorize_graph(factor, replaced)
    elementwise = not any(
        x.owner is not None and isinstance(x.owner.op, Blockwise) for x in ancestors([log_p])
    )
    return log_p if log_p.ndim == 1 and elementwise else None


def taken(vector: Any, where: np.ndarray) -> Any:
    """The entries of a vector at constant places, a view where they are a run."""
    first, last = where[0], where[-1]
    if np.array_equal(where, np.arange(first, last + 1)):
        return vector[first : last + 1]
    return vector[where]


class _Split(OpFromGraph):
    """Pieces of a vector, one after the other, whose gradient is joined from theirs."""

    def L_op(self, inputs, outputs, output_grads):
        return [_joined(outputs, output_grads)]

    pullback = L_op  # as PyTensor 3 calls it


def entries(group: Group) -> dict[Variable, Any]:
    """What stands in the flat draw of a group for the value of each variable of the model.

    As ``group.replacements``, by one node.
    """
    flat, places = group.input, group.ordering.values()
    if len(places) == 1:
        return dict(group.replacements)
    pieces = [flat[where] if shape else flat[where.start] for _, where, shape, _ in places]
    split: Any = _Split([flat], pieces, inline=True)
    values = {value.name: value for value in group.replacements}
    return {
        values[name]: piece.reshape(shape).astype(dtype)
        for piece, (name, _, shape, dtype) in zip(split(flat), places, strict=True)
    }


def _joined(pieces: Sequence[Any], gradients: Sequence[Any]) -> Any:
    """The gradient of the whole from those of its pieces."""
    given = [
        piece.zeros_like() if isinstance(gradient.type, DisconnectedType) else gradient
        for piece, gradient in zip(pieces, gradients, strict=True)
    ]
    runs = groupby(given, key=lambda piece: piece.ndim == 0)
    return join([x for scalar, run in runs for x in ([stack(list(run))] if scalar else run)])


def stack(scalars: Sequence[Any]) -> Any:
    """Stack any number of scalars."""
    return join(
        [pt.stack(scalars[i : i + MOST_JOINED]) for i in range(0, len(scalars), MOST_JOINED)]
    )


def join(vectors: Sequence[Any]) -> Any:
    """Join any number of vectors."""
    vectors = list(vectors)
    while len(vectors) > 1:
        vectors = [
            pt.concatenate(vectors[i : i + MOST_JOINED])
            for i in range(0, len(vectors), MOST_JOINED)
        ]
    return vectors[0]
