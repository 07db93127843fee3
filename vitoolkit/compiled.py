"""Compiled code of steps, which belongs to no fit, and the cache of it.

To compile takes seconds, and a model that is built again, with other data, another β or another
seed needs the same code. Code works on what it is handed: it is kept by the structure of its graph
and holds neither a model nor its data.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
from pymc.model import Model
from pymc.pytensorf import compile
from pytensor.compile.mode import Mode, get_mode
from pytensor.link.numba import NumbaLinker
from pytensor.tensor.type import TensorType

from vitoolkit.compilation import ROWS, compile_for, compile_now, faster, takes_rows
from vitoolkit.structure import rebuilt, structure

__all__ = ["CompiledStep", "clear_cache", "compiled_step", "like"]

#: So many compiled steps are kept; the one that was not asked for the longest goes first.
MOST = 32

_cache: OrderedDict[Hashable, CompiledStep] = OrderedDict()
_lock = threading.Lock()


class CompiledStep:
    """Code that takes a step, or as many as it is given rows, on shared variables it is bound to.

    Parameters
    ----------
    output : TensorVariable
        What a step gives: loss and terms, shape (1, 1 + terms).
    updates : mapping of SharedVariable to Variable
        What a step changes.
    shared : sequence of SharedVariable
        All shared variables of the graph, which serve as a pattern: the code gets its own.
    mode : Mode
        PyTensor's mode.
    kwargs : mapping
        Passed to ``pymc.pytensorf.compile``.

    Attributes
    ----------
    function : pytensor.compile.function.types.Function
        The compiled function, whose shared variables are empty between two calls.
    takes_rows : bool
        Whether a call takes as many steps as it is given rows.
    """

    def __init__(
        self,
        output: Any,
        updates: Mapping[Any, Any],
        shared: Sequence[Any],
        mode: Mode,
        kwargs: Mapping[str, Any],
    ) -> None:
        own = {variable: like(variable) for variable in shared}
        for variable, copy in own.items():
            if (update := _default_update(variable)) is not None:
                (copy.default_update,) = rebuilt([update], own)
        output, *new = rebuilt([output, *updates.values()], own)
        changed = {own[variable]: node for variable, node in zip(updates, new, strict=True)}
        self.function = compile([], output, updates=changed, mode=mode, **kwargs)
        self.function.trust_input = True  # it has none; PyTensor would check the shared variables
        self.takes_rows = takes_rows(self.function)
        compile_now(self.function)
        self._own = [variable.container.storage for variable in own.values()]
        number = {id(storage): i for i, storage in enumerate(self._own)}
        inputs = [container.storage for container in self.function.input_storage]
        self._inputs = [number[id(storage)] for storage in inputs]
        self._clear()
        fgraph = self.function.maker.fgraph
        self._updates = [(j, self._inputs[i]) for j, i in (fgraph.update_mapping or {}).items()]
        numba = isinstance(self.function.maker.linker, NumbaLinker)
        self._jitted = self.function.vm.jit_fn if numba else None
        self._taken = threading.Lock()

    def _clear(self) -> None:
        for storage in self._own:
            storage[0] = None

    def bound(
        self, storages: Sequence[list[Any]], copied: Sequence[list[Any]] = ()
    ) -> Callable[[], np.ndarray]:
        """A function that takes steps on these storages, in the order of `shared`.

        Numba's code holds no state, so that any number of fits may be in it at once. It works in
        place, and other threads may run meanwhile: the arrays of `copied` are copied before, and
        never change once they are there to be read.
        """
        if self._jitted is None:
            return lambda: self._by_turns(storages)
        jitted = self._jitted
        given = [storages[i] for i in self._inputs]
        updates = [(j, storages[i]) for j, i in self._updates]
        to_copy = [i for i, storage in enumerate(given) if any(storage is s for s in copied)]
        compile_for(jitted, [storage[0] for storage in given])  # of another layout, perhaps

        def call() -> np.ndarray:
            arguments = [storage[0] for storage in given]
            for i in to_copy:
                arguments[i] = arguments[i].copy()
            found = jitted(*arguments)
            for j, storage in updates:
                storage[0] = found[j]
            return found[0]

        return call

    def _by_turns(self, storages: Sequence[list[Any]]) -> np.ndarray:
        with self._taken:
            for own, storage in zip(self._own, storages, strict=True):
                own[0] = storage[0]
            try:
                result = self.function()
                for _, i in self._updates:
                    storages[i][0] = self._own[i][0]
                return result
            finally:
                self._clear()


def like(variable: Any, *, copied: bool = False) -> Any:
    """Another shared variable of the same type, name and value."""
    shape = {"shape": variable.type.shape} if isinstance(variable.type, TensorType) else {}
    value = variable.get_value(borrow=not copied)
    return pytensor.shared(value, name=variable.name, borrow=True, **shape)


def compiled_step(
    output: Any, updates: Mapping[Any, Any], mode: Mode | str | None, kwargs: Mapping[str, Any]
) -> tuple[CompiledStep, list[Any], bool]:
    """The code of a step: of the cache, or compiled now.

    Parameters
    ----------
    output, updates, kwargs
        As for :class:`CompiledStep`.
    mode : Mode, str or None
        PyTensor's mode, as the user gave it.

    Returns
    -------
    code : CompiledStep
    shared : list of SharedVariable
        The shared variables of the graph, in the order of the code's.
    reused : bool
        Whether it was there.
    """
    nodes = [output, *updates.values(), *updates]
    key, shared = structure(nodes)
    if any(_default_update(variable) is not None for variable in shared):
        key = None  # a generator with an update of its own, which is no part of the graph
    rows = tuple((variable.name or "").startswith(ROWS) for variable in shared)
    entry = None if key is None or kwargs else (key, rows, mode, _settings())
    if entry is not None:
        with _lock:
            if entry in _cache:
                _cache.move_to_end(entry)
                return _cache[entry], shared, True
    code = CompiledStep(output, updates, shared, faster(get_mode(mode)), kwargs)
    if entry is not None:
        with _lock:
            _cache[entry] = code
            while len(_cache) > MOST:
                _cache.popitem(last=False)
    return code, shared, False


def _default_update(variable: Any) -> Any:
    return getattr(variable, "default_update", None)


def _settings() -> Hashable:
    """Whatever else the code depends on."""
    config = pytensor.config
    names = "mode", "linker", "optimizer", "optimizer_including", "optimizer_excluding"
    model = Model.get_context(error_if_none=False)
    checks = model is None or model.check_bounds
    return checks, config.get_config_hash(), config.floatX, *(getattr(config, n) for n in names)


def clear_cache() -> int:
    """Forget the compiled steps of this process; fits that run keep theirs.

    Returns
    -------
    int
        How many there were.

    Notes
    -----
    A fit of a model that was built again, or with other data of the same shape, takes the code of
    the fit before. At most 32 steps are kept, which hold neither a model nor data. What PyTensor
    and Numba keep on disk is left alone.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> _ = vt.clear_cache()
    >>> vt.clear_cache()
    0
    """
    with _lock:
        count = len(_cache)
        _cache.clear()
    return count
