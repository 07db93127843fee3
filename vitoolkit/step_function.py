"""Optimization steps as a compiled function: control values in, losses and terms out.

Most of the time of a small step is not arithmetic but the call itself: what crosses into compiled
code, the random generators above all, costs microseconds apiece. On Numba one call can take many
steps, in a compiled loop around the step; elsewhere they are called one after the other. Either is
handed its random draws, as far as they can be taken ahead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.model import Model
from pymc.pytensorf import collect_default_updates, compile, floatX, reseed_rngs
from pytensor.compile.mode import Mode, get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.traversal import ancestors
from pytensor.link.jax import JAXLinker

from vitoolkit.compilation import ROWS, compile_now, faster
from vitoolkit.compiled import CompiledStep, compiled_step, like
from vitoolkit.constants import data_as_shared
from vitoolkit.controls import Control
from vitoolkit.draws import DrawsAhead, draws_ahead, inlined
from vitoolkit.structure import rebuilt

__all__ = ["StepFunction", "cores"]

#: A call of a fused function should take about this long, so that a person's request is soon in
# force.
CALL_SECONDS = 0.006
MOST_STEPS = 1_000
#: So many parameters are copied before a call, so that other threads read those of the last call
#: meanwhile. Of more, what they read may be the step under way in part.
MOST_COPIED = 100_000
#: A second thread draws where that is more than this share of the time.
WORTH = 0.05
#: Draws of a call that take less are not handed over: to wake a thread takes longer.
HAND_OVER_SECONDS = 3e-4


class StepFunction:
    """Compiled optimization steps.

    The values of all controls are handed in as one array that stands, in the graph, in the place of
    their shared variables, and losses and terms come out as another. One compiled function takes
    one step or many, with the same bits.

    Parameters
    ----------
    loss : TensorVariable
        The loss, a scalar.
    terms : TensorVariable
        Data term, KL contributions and their parts, a vector.
    updates : mapping
        What a step changes: parameters, the optimizer's state.
    controls : sequence of Control
        The controls, in the order of the values handed in.
    seed : int
        Seed of the random generators. They are seeded in the order in which PyMC finds them in the
        loss, so that the draws are those of PyMC's own step function.
    seeded_as : TensorVariable, optional
        Where PyMC would write the loss in another way, that: what the order is found in.
    compile_kwargs : mapping
        Passed to ``pymc.pytensorf.compile``.
    steps : int or "auto"
        Steps in one call. "auto" chooses by the clock on Numba; elsewhere it is 1.
    roles : mapping of str to sequence of SharedVariable
        What those of `updates` are that are no state of the optimizer: "parameter", "average" of a
        parameter, "averaging".

    Attributes
    ----------
    capacity : int
        Steps that one call should take now; 1 when the function is not fused.
    fused : bool
        Whether a call can take many steps.
    reason : str
        Why it is fused, or not.
    function : pytensor.compile.function.types.Function
        The compiled function; several step functions may share it.
    reused : bool
        Whether it had been compiled before, in this process.
    variables : dict of str to SharedVariable
        What a step changes, by name: ``parameter[i]``, ``optimizer[i]``, ``generator[i]``, and
        ``average[i]`` and ``averaging[i]`` where iterates are averaged.
    reads : tuple of SharedVariable
        What a step reads and does not change, such as ``pm.Data``.
    unused : tuple of str
        Names of the controls that are no part of the step.
    threads : bool
        Whether a second thread may draw for the next call while this one runs, where that pays.
    """

    def __init__(
        self,
        loss: pt.TensorVariable,
        terms: pt.TensorVariable,
        updates: Mapping[Any, pt.TensorVariable],
        controls: Sequence[Control],
        seed: int,
        compile_kwargs: Mapping[str, Any],
        steps: int | str = "auto",
        roles: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        *,
        seeded_as: pt.TensorVariable | None = None,
    ) -> None:
        self.controls = tuple(controls)
        self.steps, self.auto = steps, steps == "auto"
        self.capacity, self.fused, self.reason, self.reused = 1, False, "", False
        self._pace = float("inf")
        self.threads, self._overlaps = cores() > 1, False
        self._drawing = 0.0  # seconds a step
        kwargs = dict(compile_kwargs)
        mode = kwargs.pop("mode", None)
        self._linker = get_mode(mode).linker
        jax = isinstance(self._linker, JAXLinker)
        values = pytensor.shared(
            np.array([[control.value for control in self.controls]], pytensor.config.floatX),
            name=f"{ROWS} of controls",
            shape=(None, len(self.controls)),
        )
        self._rows, self._values = values, values.container.storage
        self._code: CompiledStep | None = None
        state, new = list(updates), list[Any](updates.values())
        alike = loss if seeded_as is None else seeded_as
        loss, alike, terms, *new = _with_own_generators([loss, alike, terms, *new])
        generators = collect_default_updates(outputs=[loss])
        self._seeded = list(collect_default_updates(outputs=[alike]))
        outputs, *new = inlined([pt.concatenate([floatX(loss)[None], floatX(terms)]), *new])
        read = set(ancestors([outputs, *new]))
        self.unused = tuple(c.name for c in self.controls if c.shared not in read)
        self._draws: list[DrawsAhead] = []
        self._counts: list[int | None] = []  # the control that says how many draws a step takes
        if not jax:  # it keeps generators of its own
            counts = [control.shared for control in self.controls]
            self._draws = draws_ahead(generators, [outputs, *new], counts)
            self._counts = [None if d.count is None else counts.index(d.count) for d in self._draws]
        self.variables = _named(state, generators, roles)
        known = {*state, *generators, *(control.shared for control in self.controls)}
        self.reads = tuple(v for v in read if isinstance(v, SharedVariable) and v not in known)
        self._marked = self._storages("parameter", "optimizer")
        if jax:
            mode = faster(get_mode(mode))
            # JAX copies the generators when it compiles; for the others they are seeded below.
            kwargs = {"random_seed": seed, **kwargs}
            build = self._many if steps != "auto" and int(steps) > 1 else self._one
            self.function = build(state, new, generators, outputs, values, mode, kwargs)
            self.function.trust_input = True  # it has none
            self._takes_rows = build == self._many
            self._call = self.function
            compile_now(self.function)
        else:
            stand_ins = self._stand_ins(values[0], [draws.stand_in[0] for draws in self._draws])
            row: Any = outputs
            output, *new = rebuilt([row[None], *new], stand_ins)
            output, *new = data_as_shared([output, *new])
            self._code, self._shared, self.reused = compiled_step(
                output, dict(zip(state, new)), mode, kwargs
            )
            self.function, self._takes_rows = self._code.function, self._code.takes_rows
            self._call = self._bound()
        reseed_rngs(self._seeded, seed)
        self.prepare()

    def _bound(self) -> Callable[[], np.ndarray]:
        """The code, at work on the shared variables of this step function."""
        assert self._code is not None
        storages = [variable.container.storage for variable in self._shared]
        read = self._storages("parameter", "average[")
        if sum(storage[0].size for storage in read) > MOST_COPIED:
            read = []
        return self._code.bound(storages, copied=read)

    def twin(self, parameters: Sequence[Any], controls: Sequence[Control], seed: int) -> Any:
        """A step function of the same code, for other parameters, controls and another seed.

        Parameters
        ----------
        parameters : sequence of SharedVariable
            In the place of this one's.
        controls : sequence of Control
            Likewise.
        seed : int
            As for the class.

        Returns
        -------
        StepFunction or None
            Its optimizer and generators begin where this one's stand now. None where the code
            belongs to this one alone, as JAX's does.
        """
        if self._code is None:
            return None
        twin = copy(self)
        twin.controls, twin.reused = tuple(controls), True
        given = iter(parameters)
        twin.variables = {
            name: next(given) if name.startswith("parameter") else like(variable, copied=True)
            for name, variable in self.variables.items()
        }
        twin._marked = twin._storages("parameter", "optimizer")
        own = dict(zip(self.variables.values(), twin.variables.values()))
        twin._draws = [draws.twin(own[draws.source]) for draws in self._draws]
        own.update((a.stand_in, b.stand_in) for a, b in zip(self._draws, twin._draws))
        own[self._rows] = twin._rows = like(self._rows, copied=True)
        twin._values = twin._rows.container.storage
        twin._shared = [own.get(variable, variable) for variable in self._shared]
        twin._call = twin._bound()
        twin._seeded = [own[generator] for generator in self._seeded]
        reseed_rngs(twin._seeded, seed)
        twin.prepare()
        return twin

    def again(self) -> StepFunction:
        """Itself, which is there."""
        self.reused = True
        return self

    def prepare(self, *, alone: bool = False) -> None:
        """Choose how many steps a call takes in the coming fit.

        Parameters
        ----------
        alone : bool
            Whether somebody wants to see every step by itself.
        """
        self.fused, self.reason = self._choice(alone)
        if not self.fused:
            self.capacity = 1
        elif not self.auto:
            self.capacity = int(self.steps)
        else:
            self.capacity = max(self.capacity, 16)

    def _choice(self, alone: bool) -> tuple[bool, str]:
        if not self.auto:
            return int(self.steps) > 1, f"steps_per_execution={self.steps} was asked for"
        if isinstance(self._linker, JAXLinker):
            return False, "JAX compiles anew for each number of steps; a fixed one is faster"
        if not self._takes_rows:
            return False, f"fusing does not pay with {type(self._linker).__name__}"
        if alone:
            return False, (
                "a callback is called after every step; vitoolkit.every(100, callback) is not"
            )
        return True, "Numba pays per call, and little per step"

    def __call__(self, values: np.ndarray, *, coming: int = 0) -> np.ndarray:
        """Take as many steps as there are rows of control values.

        Parameters
        ----------
        values : numpy.ndarray
            Value of each control in each step, shape (steps, controls), contiguous and floatX. It
            is not copied.
        coming : int
            So many steps come soon, in further calls: they are drawn for as well.

        Returns
        -------
        numpy.ndarray
            Loss and terms of each step, shape (steps, 1 + terms); nats.
        """
        for draws, i in zip(self._draws, self._counts, strict=True):
            counts = None if i is None else values[:, i].astype(np.int64)
            draws.advance(len(values), counts, coming)
        if self._overlaps and (len(values) + coming) * self._drawing > HAND_OVER_SECONDS:
            for draws in self._draws:
                draws.begin(len(values) + 2 * coming)  # what comes, and as much once more
        if len(values) == 1 or self._takes_rows:
            self._values[0] = values
            return self._call()
        rows = []
        for k in range(len(values)):
            self._values[0] = values[k : k + 1]
            for draws in self._draws:
                draws.row(k)
            rows.append(self._call())
        return np.concatenate(rows)

    @property
    def state(self) -> dict[str, Any]:
        """Everything a step changes, as `variables`, with the generators where the steps are."""
        for draws in self._draws:
            draws.settle()
        return self.variables

    @property
    def parameters(self) -> list[np.ndarray]:
        """All that is trained, as the last step left it; copy what you keep."""
        return [storage[0] for storage in self._storages("parameter[")]

    @property
    def averages(self) -> list[np.ndarray]:
        """The average of each parameter; none where they are not averaged."""
        return [np.array(storage[0]) for storage in self._storages("average[")]

    def marks(self) -> list[int]:
        """Tell by other numbers when somebody else has written a parameter since the last call."""
        return [id(storage[0]) for storage in self._marked]

    def _storages(self, *roles: str) -> list[list[Any]]:
        """Where the values are of what a step changes and has one of these roles."""
        return [v.container.storage for name, v in self.variables.items() if name.startswith(roles)]

    def tune(self, seconds: float, steps: int) -> None:
        """Learn from the time a call took how many steps the next should take."""
        if self.auto and self.fused and seconds > 0:
            # The fastest lately: on a loaded machine a call that was held up says nothing.
            self._pace = min(seconds / steps, 1.1 * self._pace)
            self._drawing = sum(draws.seconds for draws in self._draws)
            self._overlaps = self.threads and self._drawing > WORTH * self._pace
            wanted = CALL_SECONDS / self._pace
            self.capacity = int(min(max(wanted, 1), 2 * self.capacity, MOST_STEPS))

    @property
    def choice(self) -> str:
        """How many steps a call takes, and why."""
        many = f"up to {self.capacity} steps a call" if self.fused else "one step a call"
        return f"{many}: {self.reason}"

    def __repr__(self) -> str:
        return f"<StepFunction, {self.choice}>"

    def _one(self, state, new, generators, outputs, values, mode, kwargs):
        stand_ins = self._stand_ins(values[0], [draws.stand_in[0] for draws in self._draws])
        outputs, *new = rebuilt([outputs, *new], stand_ins)
        return compile([], outputs[None], updates=dict(zip(state, new)), mode=mode, **kwargs)

    def _many(self, state, new, generators, outputs, values, mode, kwargs):
        n_state, n_draws = len(state), len(self._draws)
        taken = {draws.source for draws in self._draws}
        # PyMC seeds those of a scan from the last on: the order in which the loss has them.
        rngs = [generator for generator in reversed(generators) if generator not in taken]
        after = [generators[generator] for generator in rngs]

        def one_step(row, *rest):
            drawn, now = rest[:n_draws], rest[n_draws:]
            replaced = {**self._stand_ins(row, drawn), **dict(zip([*state, *rngs], now))}
            nodes = rebuilt([*new, *after, outputs], replaced)
            typed = [
                variable.type.filter_variable(pt.cast(node, variable.dtype))
                for variable, node in zip(state, nodes)
            ]
            return [*typed, *nodes[n_state:]]

        results = pytensor.scan(
            one_step,
            sequences=[values, *(draws.stand_in for draws in self._draws)],
            outputs_info=[*state, *rngs, None],
            **_inner_mode(mode),
            return_updates=False,
        )
        # Else PyTensor takes what depends on the draws alone out of the scan: more to carry in, and
        # a message of its own where one dimension is 1.
        mode = mode.excluding("scan_push_out_seq")
        last = [result[-1] for result in results[:n_state]]
        last += results[n_state : n_state + len(rngs)]
        return compile(
            [], results[-1], updates=dict(zip([*state, *rngs], last)), mode=mode, **kwargs
        )

    def _stand_ins(self, row, drawn):
        found = {c.shared: row[i].astype(c.shared.dtype) for i, c in enumerate(self.controls)}
        for draws, numbers in zip(self._draws, drawn, strict=True):
            if draws.count is not None:
                numbers = numbers[: found[draws.count]]
            found.update(dict.fromkeys(draws.variables, numbers))
        return found


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _named(
    state: Sequence[Any], generators: Iterable[Any], roles: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Name what a step changes by its role, and its place among those of that role."""
    role_of = {variable: role for role, found in roles.items() for variable in found}
    by_role: dict[str, list[Any]] = {"parameter": [], "optimizer": [], "generator": []}
    for variable in state:
        by_role.setdefault(role_of.get(variable, "optimizer"), []).append(variable)
    by_role["generator"] = list(generators)
    return {f"{role}[{i}]": v for role, found in by_role.items() for i, v in enumerate(found)}


def _with_own_generators(nodes):
    """The nodes with generators that no other fit draws from: a minibatch's are the model's."""
    own = {
        rng: pytensor.shared(rng.get_value(borrow=False), name=rng.name)
        for rng in collect_default_updates(outputs=nodes)
    }
    for rng, new in own.items():
        if getattr(rng, "default_update", None) is not None:
            new.default_update = rebuilt([rng.default_update], own)[0]
    return rebuilt(nodes, own)


def _inner_mode(mode: Mode) -> dict[str, Mode]:
    """Make a scan treat a parameter out of its support as PyMC does: -inf, not an exception.

    PyTensor 3 hands the rewrites of the whole function down to the scan by itself.
    """
    if int(pytensor.__version__.split(".")[0]) >= 3:
        return {}
    model = Model.get_context(error_if_none=False)
    check = model is None or model.check_bounds
    rewrite = "local_check_parameter_to_ninf_switch" if check else "local_remove_check_parameter"
    optimizer = mode.provided_optimizer.including("random_make_inplace", rewrite)
    return {"mode": Mode(linker=mode.linker, optimizer=optimizer)}
