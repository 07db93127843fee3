"""A loop of steps compiled by JAX, whose length is an input, so that it compiles once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax


def runner(step: Callable[[Any], tuple[Any, Any]], state: Any) -> Callable[[int], float]:
    """Time ``step(state) -> (state, loss)`` in a compiled loop that sums the losses up."""

    @jax.jit
    def loop(state, steps):
        def body(_, carried):
            state, total = carried
            state, loss = step(state)
            return state, total + loss

        return jax.lax.fori_loop(0, steps, body, (state, 0.0))

    def run(steps: int) -> float:
        nonlocal state
        clock = time.perf_counter()
        state, total = jax.block_until_ready(loop(state, steps))
        return steps / (time.perf_counter() - clock)

    return run


def faster(runs: list[Callable[[int], float]], steps: int = 500) -> Callable[[int], float]:
    """The fastest of several, after each was compiled."""
    return max(runs, key=lambda run: (run(1), run(steps))[1]) if len(runs) > 1 else runs[0]
