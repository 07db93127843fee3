"""Optimization steps as a compiled function: control values in, losses and terms out.

Most of the time of a small step is not arithmetic but the call itself: what crosses into compiled
code, the random generators above all, costs microseconds apiece. A fused function takes many steps
in one call, with parameters and optimizer state as the recurrent state of a scan. Either is handed
its random draws, as far as they can be taken ahead.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.model import Model
from pymc.pytensorf import collect_default_updates, compile, floatX, reseed_rngs
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.replace import graph_replace
from pytensor.link.jax import JAXLinker
from pytensor.link.numba import NumbaLinker

from vitoolkit.compilation import compile_now, faster
from vitoolkit.controls import Control
from vitoolkit.draws import DrawsAhead, draws_ahead, inlined_minibatches

__all__ = ["StepFunction"]

#: A call of a fused function should take about this long, so that a person's request is soon in
# force.
CALL_SECONDS = 0.006
MOST_STEPS = 1_000
#: A fit of fewer steps is not fused: with a warm cache the compilation takes half a second longer,
#: and a small step gains a tenth of a millisecond.
FUSE_FROM = 5_000


class StepFunction:
    """Compiled optimization steps.

    The values of all controls are handed in as one array that stands, in the graph, in the place of
    their shared variables, and losses and terms come out as another.

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
    compile_kwargs : mapping
        Passed to ``pymc.pytensorf.compile``.
    steps : int or "auto"
        Steps in one call. "auto" fuses long fits with Numba, and then chooses by the clock;
        elsewhere it is 1.
    n : int, optional
        Steps of the fit, for "auto".

    Attributes
    ----------
    capacity : int
        Steps that one call should take now; 1 when the function is not fused.
    fused : bool
        Whether a call can take many steps.
    reason : str
        Why it is fused, or not.
    function : pytensor.compile.function.types.Function
        The compiled function.
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
        n: int | None = None,
    ) -> None:
        self.controls = tuple(controls)
        self.auto = steps == "auto"
        self._pace = float("inf")
        # JAX copies the generators when it compiles; for the others they are seeded below.
        kwargs = {"random_seed": seed, **compile_kwargs}
        mode = faster(get_mode(kwargs.pop("mode", None)))
        values = pytensor.shared(
            np.array([[control.value for control in self.controls]], pytensor.config.floatX),
            name="controls",
            shape=(None, len(self.controls)),
        )
        self._values = values.container.storage
        state, new = list(updates), list[Any](updates.values())
        loss, terms, *new = _with_own_generators([loss, terms, *new])
        generators = collect_default_updates(outputs=[loss])
        outputs, *new = inlined_minibatches(
            [pt.concatenate([floatX(loss)[None], floatX(terms)]), *new]
        )
        self._draws: list[DrawsAhead] = []
        if not isinstance(mode.linker, JAXLinker):  # it keeps generators of its own
            self._draws = draws_ahead(generators, [outputs, *new])
        if steps != "auto":
            self.fused, self.reason = int(steps) > 1, f"steps_per_execution={steps} was asked for"
        elif not isinstance(mode.linker, NumbaLinker):
            linker = type(mode.linker).__name__
            self.fused, self.reason = False, f"fusing does not pay with {linker}"
            if isinstance(mode.linker, JAXLinker):
                self.reason = "JAX compiles anew for each number of steps; a fixed one is faster"
        elif n is not None and n < FUSE_FROM:
            self.fused, self.reason = False, f"{n:,} steps do not pay for a longer compilation"
        else:
            self.fused, self.reason = True, "Numba pays per call, and little per step"
        if self.fused:
            try:
                self.function = self._many(state, new, generators, outputs, values, mode, kwargs)
            except (TypeError, ValueError, NotImplementedError) as error:
                warnings.warn(
                    f"these steps cannot be fused, so that each is a call of its own: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.fused, self.reason = False, f"scan refuses it: {error}"
        if not self.fused:
            self.function = self._one(state, new, generators, outputs, values, mode, kwargs)
        self.function.trust_input = True  # it has none; PyTensor would check the shared variables
        self._state = (*state, *generators)
        self.capacity = 1 if not self.fused else 16 if self.auto else int(steps)
        reseed_rngs(list(generators), seed)
        compile_now(self.function)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Take as many steps as there are rows of control values.

        Parameters
        ----------
        values : numpy.ndarray
            Value of each control in each step, shape (steps, controls), contiguous and floatX. It
            is not copied.

        Returns
        -------
        numpy.ndarray
            Loss and terms of each step, shape (steps, 1 + terms); nats.
        """
        self._values[0] = values
        for draws in self._draws:
            draws.advance(len(values))
        return self.function()

    @property
    def state(self) -> tuple[Any, ...]:
        """Everything a step changes: parameters, the optimizer's state, random generators."""
        for draws in self._draws:
            draws.settle()
        return self._state

    def tune(self, seconds: float, steps: int) -> None:
        """Learn from the time a call took how many steps the next should take."""
        if self.auto and self.fused and seconds > 0:
            # The fastest lately: on a loaded machine a call that was held up says nothing.
            self._pace = min(seconds / steps, 1.1 * self._pace)
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
        outputs, *new = graph_replace([outputs, *new], stand_ins, strict=False)
        return compile([], outputs[None], updates=dict(zip(state, new)), mode=mode, **kwargs)

    def _many(self, state, new, generators, outputs, values, mode, kwargs):
        n_state, n_draws = len(state), len(self._draws)
        taken = {draws.source for draws in self._draws}
        rngs = [generator for generator in generators if generator not in taken]
        after = [generators[generator] for generator in rngs]

        def one_step(row, *rest):
            drawn, now = rest[:n_draws], rest[n_draws:]
            replaced = {**self._stand_ins(row, drawn), **dict(zip([*state, *rngs], now))}
            nodes = graph_replace([*new, *after, outputs], replaced, strict=False)
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
            found.update(dict.fromkeys(draws.variables, numbers))
        return found


def _with_own_generators(nodes):
    """The nodes with generators that no other fit draws from: a minibatch's are the model's."""
    own = {
        rng: pytensor.shared(rng.get_value(borrow=False), name=rng.name)
        for rng in collect_default_updates(outputs=nodes)
    }
    for rng, copy in own.items():
        if getattr(rng, "default_update", None) is not None:
            copy.default_update = graph_replace([rng.default_update], own, strict=False)[0]
    return graph_replace(nodes, own, strict=False)


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
