"""pymc-extras: the compiled step of its ADVI, a call a step in a bare Python loop."""

from __future__ import annotations

import time
from collections.abc import Callable

import pymc as pm
import pytensor.tensor as pt
from pymc_extras.inference.advi import (
    AutoDiagonalNormal,
    AutoGuideModel,
    AutoMultivariateNormal,
    adam,
)
from pymc_extras.inference.advi.compile import compile_svi_step_fn

from benchmarks.models import MODELS, VAE_BATCH, VAE_UNITS, Case


def amortized(case: Case) -> AutoGuideModel:
    """The VAE's encoder; the weights of both networks are parameters of the guide."""
    layer = {weight.name: weight for weight in case.weights}
    batch = case.model.rvs_to_values[case.model["x"]]
    encoded = pt.tanh(batch @ layer["in"])
    with pm.Model(model=None) as guide:
        noise = pm.Normal("noise", 0, 1, shape=(VAE_BATCH, VAE_UNITS))
        sd = pt.softplus(encoded @ layer["rho"])
        pm.Deterministic("z", encoded @ layer["mu"] + sd * noise)
    return AutoGuideModel(guide, {weight: weight.get_value() for weight in case.weights})


GUIDES = {"vae": amortized, "fullrank": lambda case: AutoMultivariateNormal(case.model)}


def steps_a_second(model: str) -> Callable[[int], float]:
    """A function ``steps -> steps a second``."""
    case = MODELS[model]()
    guide = GUIDES.get(model, lambda case: AutoDiagonalNormal(case.model))(case)
    step, *_ = compile_svi_step_fn(
        case.model,
        guide,
        adam(1e-3),
        path_derivative_gradient=not case.weights,  # it needs each parameter in the guide's density
    )

    def run(steps: int) -> float:
        clock = time.perf_counter()
        for _ in range(steps):
            step()
        return steps / (time.perf_counter() - clock)

    return run
