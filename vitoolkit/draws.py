"""Random draws of the coming steps, taken ahead in one call of NumPy.

A random generator inside a compiled step costs 15 to 55 µs a step, most of it for the call. The
noise of q and the rows of a minibatch depend on nothing that a step changes, so that the numbers of
many steps can be drawn at once, outside the graph: the same numbers, as NumPy fills an array from
the same stream. Those of the next call can be drawn by a second thread while this call runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import pytensor
from numpy.typing import NDArray
from pymc.data import MinibatchOp
from pymc.pytensorf import constant_fold
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply, Variable, equal_computations
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import IntegersRV, NormalRV
from pytensor.tensor.random.type import RandomGeneratorType
from pytensor.tensor.rewriting.ofg import inline_ofg_node

from vitoolkit.checkpoint import with_state
from vitoolkit.compilation import ROWS
from vitoolkit.structure import in_order, rebuilt

__all__ = ["DrawsAhead", "draws_ahead", "inlined"]

#: Most steps to draw for at once, and most numbers. What was drawn in vain is drawn again.
MOST_STEPS, MOST_NUMBERS = 32, 8_192


class DrawsAhead:
    """The draws of one random variable of a step function.

    Parameters
    ----------
    variables : sequence of Variable
        Output of a random operation with constant parameters and size, and clones of it.
    generator : SharedVariable
        The random generator the operation draws from, and no other does.
    parameters : tuple of numpy.ndarray
        Parameters of the distribution, scalars.
    shape : tuple of int
        Shape of the draws of one step; with `count`, of one of them.
    count : SharedVariable, optional
        What says how many such draws a step takes, where that may change.

    Attributes
    ----------
    stand_in : SharedVariable
        Its rows, one a step, take the place of `variables` in the graph; with `count`, the first
        `count` entries of each row do.
    source : SharedVariable
        The generator.
    seconds : float
        What the draws of one step took lately.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor
    >>> generator = pytensor.shared(np.random.default_rng(1))
    >>> noise = pytensor.tensor.random.normal(size=2, rng=generator)
    >>> (draws,) = draws_ahead([generator], [noise])
    >>> draws.advance(3)
    >>> expected = np.random.default_rng(1).normal(size=(3, 2))
    >>> bool((draws.stand_in.get_value() == expected).all())
    True
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        generator: Any,
        parameters: tuple[np.ndarray, ...],
        shape: tuple[int, ...],
        count: Any = None,
    ) -> None:
        variable = variables[0]
        self.variables = tuple(variables)
        self.source, self.generator = generator, generator.container.storage
        self.parameters, self.shape, self.count = parameters, shape, count
        one = variable.type.shape if count is None else (None, *variable.type.shape[1:])
        self.stand_in = pytensor.shared(
            np.zeros((1, *shape) if count is None else (1, 1, *shape), variable.type.dtype),
            name=f"{ROWS} of {variable.name}",
            shape=(None, *one),
        )
        self.seconds = 0.0
        self._a_step = 1.0  # draws of one step: as many as the last steps took
        self._storage = self.stand_in.container.storage
        self._rng_fn, self._dtype = variable.owner.op.rng_fn, variable.type.dtype
        self._ahead = max(1, min(MOST_STEPS, MOST_NUMBERS // max(1, int(np.prod(shape)))))
        #: What was drawn and not yet taken; of the first, `_taken` rows were.
        self._drawn: deque[_Drawn] = deque()
        self._taken = self._left = 0  # rows of the first, and of all that are not yet taken
        self._coming: tuple[int, Future | None] | None = None
        self._stream: np.random.Generator | None = None  # at the end of what is drawn
        self._known: Any = None  # the generator that `_stream` goes on from

    def twin(self, generator: Any) -> DrawsAhead:
        """The same draws, from another generator."""
        return DrawsAhead(self.variables, generator, self.parameters, self.shape, self.count)

    def advance(self, steps: int, counts: NDArray[np.int64] | None = None, coming: int = 0) -> None:
        """Put the draws of the next steps in place; those of one step are drawn with others.

        `counts` are those of each step, where the object has a `count`; of so many steps that are
        `coming` soon the draws are taken at once.
        """
        if self._known is not self.generator[0]:
            self._start()
        wanted = steps if counts is None else int(counts.sum())
        self._a_step = wanted / steps
        if self._left < wanted and self._coming is not None:
            self._collect()
        if self._left < wanted:
            short = wanted - self._left + round(coming * self._a_step)
            self._keep(self._draw(max(short, self._ahead if steps == 1 else 0)))
        rows = self._take(wanted)
        self._rows = self._storage[0] = rows if counts is None else _by_step(rows, counts)

    def begin(self, steps: int) -> None:
        """Let another thread draw what a call of so many steps will need."""
        if self._coming is None and (short := round(steps * self._a_step) - self._left) > 0:
            self._coming = short, _submit(self._draw, short)

    def row(self, k: int) -> None:
        """Put the draws of one of these steps in place."""
        self._storage[0] = self._rows[k : k + 1]

    def settle(self) -> None:
        """Bring the generator to where the steps that were taken leave it."""
        if self._known is not self.generator[0] or self._stream is None:
            return
        self._collect()
        if self._drawn:
            first = self._drawn[0]
            settled = with_state(first.before)
            if self._taken:
                self._fill(settled, self._taken)
        else:
            settled = with_state(self._stream.bit_generator.state)
        self._known = self.generator[0] = settled

    def _start(self) -> None:
        """Go on from where the generator stands: somebody has put another one there.

        What another thread draws meanwhile is of no use, nor is its error.
        """
        if self._coming is not None:
            (_, future), self._coming = self._coming, None
            if future is not None and not future.cancel():
                wait([future])  # it draws from `_stream`
        self._drawn.clear()
        self._taken = self._left = 0
        self._known = self.generator[0]
        self._stream = with_state(self._known.bit_generator.state)

    def _keep(self, drawn: _Drawn) -> None:
        self._drawn.append(drawn)
        self._left += len(drawn.rows)

    def _collect(self) -> None:
        """Have what another thread was asked for; what it did not begin is drawn here."""
        if self._coming is None:
            return
        (short, future), self._coming = self._coming, None
        if future is None or future.cancel():
            self._keep(self._draw(short))
        else:
            self._keep(future.result())

    def _take(self, steps: int) -> np.ndarray:
        pieces = []
        self._left -= steps
        while steps:
            rows = self._drawn[0].rows[self._taken : self._taken + steps]
            pieces.append(rows)
            steps -= len(rows)
            self._taken += len(rows)
            if self._taken == len(self._drawn[0].rows):
                self._drawn.popleft()
                self._taken = 0
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _draw(self, steps: int) -> _Drawn:
        assert self._stream is not None
        begun = time.perf_counter()
        before = self._stream.bit_generator.state
        try:
            rows = self._fill(self._stream, steps)
        except BaseException:
            self._stream.bit_generator.state = before  # the numbers are still to be drawn
            raise
        self.seconds = (time.perf_counter() - begun) / steps * self._a_step
        return _Drawn(before, rows)

    def _fill(self, generator: np.random.Generator, steps: int) -> np.ndarray:
        drawn = self._rng_fn(generator, *self.parameters, (steps, *self.shape))
        return np.asarray(drawn, dtype=self._dtype)


class _Drawn(NamedTuple):
    """Rows that were drawn at once, and the state of the generator before."""

    before: Mapping[str, Any]
    rows: np.ndarray


def _by_step(rows: np.ndarray, counts: NDArray[np.int64]) -> np.ndarray:
    """The draws of each step in a row of its own, which is as long as the longest needs."""
    most = int(counts.max())
    shape = (len(counts), most, *rows.shape[1:])
    if (counts == most).all():
        return rows.reshape(shape)
    found = np.zeros(shape, rows.dtype)
    found[np.arange(most) < counts[:, None]] = rows
    return found


def _submit(function: Callable, *args: Any) -> Future | None:
    """Let another thread call a function; None when the program is ending."""
    global _threads
    with _threads_lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(thread_name_prefix="vitoolkit draws")
        try:
            return _threads.submit(function, *args)
        except RuntimeError:  # threads begin nothing new then
            return None


_threads: ThreadPoolExecutor | None = None
_threads_lock = threading.Lock()


def _in_a_forked_child() -> None:
    """A child has one thread: those of the parent are not there."""
    global _threads, _threads_lock
    _threads, _threads_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)


def draws_ahead(
    generators: Iterable[Any], nodes: Sequence[Variable], counts: Sequence[Any] = ()
) -> list[DrawsAhead]:
    """The random variables of a graph that can be drawn ahead.

    Parameters
    ----------
    generators : iterable of SharedVariable
        The random generators of the graph.
    nodes : sequence of Variable
        The outputs of the graph, with minibatches inlined.
    counts : sequence of SharedVariable
        What may stand for the first length of a size, and change from step to step.

    Returns
    -------
    list of DrawsAhead
        One for each Normal or whole number that has constant parameters and size, but for one of
        `counts`, and a generator to itself.
    """
    users: dict[Variable, set[Apply]] = {}
    for variable in ancestors(nodes):
        if variable.owner is not None:
            for used in variable.owner.inputs:
                if isinstance(used.type, RandomGeneratorType):
                    users.setdefault(used, set()).add(variable.owner)
    found = []
    for generator in generators:
        nodes_of_it = list(users.get(generator, ()))
        if nodes_of_it and not any(node.outputs[0] in users for node in nodes_of_it):
            found.append(_draws(generator, nodes_of_it, counts))
    return [draws for draws in found if draws is not None]


def inlined(nodes: Sequence[Variable]) -> list[Variable]:
    """The nodes with what graphs within the graph compute in sight, where they may be opened.

    PyMC keeps the draw of a minibatch's rows in one.
    """
    graphs = [item for item in in_order(nodes) if isinstance(item, Apply) and _opens(item.op)]
    inner: dict[Variable, Variable] = {}
    for node in graphs:
        # One that needs another waits for it: PyTensor 2 cannot replace both at once.
        if not any(variable.owner in graphs for variable in ancestors(node.inputs)):
            inner.update(zip(node.outputs, inline_ofg_node(node), strict=True))
    return inlined(rebuilt(nodes, inner)) if inner else list(nodes)


def _opens(op: Any) -> bool:
    return isinstance(op, MinibatchOp) or (isinstance(op, OpFromGraph) and op.is_inline)


def _draws(generator: Any, nodes: list[Apply], counts: Sequence[Any]) -> DrawsAhead | None:
    node, *others = nodes
    if not isinstance(node.op, NormalRV | IntegersRV):
        return None
    if not all(equal_computations([*node.outputs], [*other.outputs]) for other in others):
        return None  # a minibatch may be there several times, cloned; this is something else
    found = _shape(node, counts)
    parameters = _constants(node.op.dist_params(node))
    if found is None or parameters is None or any(value.size != 1 for value in parameters):
        return None
    return DrawsAhead(
        [node.outputs[1] for node in nodes],
        generator,
        tuple(value.reshape(()) for value in parameters),
        *found,
    )


def _shape(node: Apply, counts: Sequence[Any]) -> tuple[tuple[int, ...], Any] | None:
    """The shape of what is drawn; or that of one of its rows, and what counts these."""
    shape = node.outputs[1].shape  # type: ignore[attr-defined]
    used = [count for count in counts if count in ancestors([node.op.size_param(node)])]
    if not used:
        fixed = _constants(shape)
        return None if fixed is None else (tuple(int(length) for length in fixed), None)
    (count, *others), found = used, []
    for number in 1, 2:
        (size,) = rebuilt([node.op.size_param(node)], {count: count.type.filter_variable(number)})
        folded = None if others else _constants([size])
        if folded is None or folded[0][0] != number:
            return None
        found.append(tuple(int(length) for length in folded[0][1:]))
    return (found[0], count) if found[0] == found[1] else None


def _constants(nodes: Iterable[Any]) -> list[np.ndarray] | None:
    folded = constant_fold(tuple(nodes), raise_not_constant=False)
    values = [getattr(value, "data", value) for value in folded]
    if any(isinstance(value, Variable) for value in values):
        return None
    return [np.asarray(value) for value in values]
