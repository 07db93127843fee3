"""PyMC's own ``fit`` compiled for JAX (PyMC 6): a call a step, from Python."""

from __future__ import annotations

import time
from collections.abc import Callable

import pymc as pm
from pymc.variational.inference import KLqp

from benchmarks.models import MODELS


def steps_a_second(model: str) -> Callable[[int], float]:
    """A function ``steps -> steps a second``."""
    if int(pm.__version__.split(".")[0]) < 6:
        raise NotImplementedError("PyMC before 6 does not fit on JAX")
    case = MODELS[model]()
    with case.model:
        inference = KLqp(case.approx)
        inference.fit(
            1,
            obj_optimizer=pm.adam(learning_rate=1e-3),
            more_obj_params=case.weights,
            progressbar=False,
            backend="jax",
        )

    def run(steps: int) -> float:
        clock = time.perf_counter()
        inference.refine(steps, progressbar=False)
        return steps / (time.perf_counter() - clock)

    return run
