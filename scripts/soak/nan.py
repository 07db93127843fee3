"""NaN and ±inf at random steps, by data, by gradient, by a callback: who survives, what is named.

    python -m scripts.soak.nan [--times 100] [--models regression full-rank amortized]

Each model is fitted so many times; at a random step one variable of it is spoiled, by turns in its
data, in the slope of one of its coordinates while the loss stays finite, and in a parameter that a
callback writes. The fit has to finish with all its steps, with finite losses and parameters, and
its "rollback" event has to name that variable and no other. A line a model and kind, the runs that
were otherwise one by one; the exit code is 1 where there are any.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt

KINDS = ("data", "gradient", "callback")
VALUES = (np.nan, np.inf, -np.inf)
STEPS, EVERY = 160, 25
FAR = 1e6


class Spoiled(NamedTuple):
    """A model of which one variable can be spoiled.

    Attributes
    ----------
    inference : KLqp
    weights : list
        More parameters to train.
    variable : str
        Name of the variable, as an event has it.
    data, trap : SharedVariable
        Data of that variable alone; a number that is 1, and at 0 makes a slope NaN.
    parameter : SharedVariable
        One that belongs to the variable.
    place : tuple of int
        A place in it.
    """

    inference: vt.KLqp
    weights: Sequence[Any]
    variable: str
    data: Any
    trap: Any
    parameter: Any
    place: tuple[int, ...]


def _trap(x: Any) -> Any:
    """A potential of no slope; at 0 the slope is 0 times infinity, and the value stays 0."""
    trap = pm.Data("trap", 1.0)
    pm.Potential("flat", pt.sqrt(pt.maximum(x - FAR, trap)) - pt.sqrt(trap))
    return trap


def regression() -> Spoiled:
    """Three variables in mean field; each of the two groups has data of its own."""
    rng = np.random.default_rng(1)
    with pm.Model(coords={"who": ["ann", "bob", "cy"]}) as model:
        tau = pm.HalfNormal("tau", 1.0)
        z = pm.Normal("z", 0.0, tau, dims="who")
        w = pm.Normal("w", shape=2)
        data = pm.Data("d", rng.normal(size=2))
        pm.Normal("y_z", z, 0.5, observed=rng.normal(size=3))
        pm.Normal("y_w", w, 0.5, observed=data)
        trap = _trap(w[1])
    inference = vt.ADVI(model=model, random_seed=1, steps_per_execution=7)
    mu = inference.approx.params[0]
    ordering = inference.approx.groups[0].ordering
    place = ordering["w"][1].start + 1
    return Spoiled(inference, (), "w", data, trap, mu, (place,))


def full_rank() -> Spoiled:
    """Two variables in full rank, of which each parameter of the triangle belongs to both."""
    with pm.Model() as model:
        z = pm.Normal("z", shape=2)
        w = pm.Normal("w")
        data = pm.Data("d", np.array([0.3, -0.2]))
        pm.Normal("y_z", z, 0.5, observed=data)
        pm.Normal("y_w", w, 0.5, observed=1.0)
        trap = _trap(z[0])
    inference = vt.FullRankADVI(model=model, random_seed=1, steps_per_execution=1)
    (mu,) = [p for p in inference.approx.params if p.get_value().shape == (3,)]
    place = inference.approx.groups[0].ordering["z"][1].start
    return Spoiled(inference, (), "z", data, trap, mu, (place,))


def amortized() -> Spoiled:
    """A local latent with a linear encoder, and a variable of its own beside it."""
    rng = np.random.default_rng(4)
    loadings = rng.normal(size=(4, 2))
    encoder = pytensor.shared(np.zeros((4, 2)), "encoder")
    rho = pytensor.shared(np.zeros(2), "rho")
    with pm.Model():
        data = pm.Data("d", rng.normal(size=(10, 4)))
        z = pm.Normal("z", shape=(10, 2))
        w = pm.Normal("w")
        pm.Normal("x", z @ loadings.T, 0.5, observed=data)
        pm.Normal("y", w, 0.5, observed=1.0)
        trap = _trap(z[0, 0])
        params = {"mu": data @ encoder, "rho": pt.broadcast_to(rho, (10, 2))}
        groups = [Group([z], params=params), Group([w], vfam="mean_field")]
        inference = vt.KLqp(Approximation(groups), random_seed=1, steps_per_execution=7)
    return Spoiled(inference, (encoder, rho), "z", data, trap, encoder, (1, 0))


MODELS: dict[str, Callable[[], Spoiled]] = {
    "regression": regression,
    "full-rank": full_rank,
    "amortized": amortized,
}


def spoiling(model: Spoiled, kind: str, at: int, value: float) -> Callable:
    """A callback that spoils the next call from a step on, once, and mends what it has spoiled."""
    good = np.array(model.data.get_value())
    bad = np.array(good)
    bad.flat[0] = value
    state = {"done": False}

    def spoil(approx: Any, losses: Any, i: int) -> None:
        now = i >= at and not state["done"]
        state["done"] |= now
        if kind == "data":
            model.data.set_value(bad if now else good)
        elif kind == "gradient":
            model.trap.set_value(0.0 if now else 1.0)
        elif now:
            numbers = model.parameter.get_value()
            numbers[model.place] = value
            model.parameter.set_value(numbers)

    return spoil


class Mend(vt.Callback):
    """Takes the trap away when the fit goes back: it is finite, so that nothing else would."""

    def __init__(self, trap: Any) -> None:
        self._trap = trap

    def on_rewind(self, run: Any) -> None:
        """Mend it."""
        self._trap.set_value(1.0)


def named(text: str, variables: Sequence[str]) -> set[str]:
    """The variables that an event names."""
    first = text.partition(". Back to step")[0]
    return {v for v in variables if re.search(rf"(?<![\w']){v}(\[| |,|$)|'{v}'", first)}


def faults_of(model: Spoiled, kind: str, at: int, value: float) -> list[str]:
    """Fit once, and say what is otherwise than it should be."""
    recorder = vt.Recorder()
    model.inference.fit(
        STEPS,
        callbacks=[recorder, spoiling(model, kind, at, value), Mend(model.trap)],
        obj_optimizer=pm.adam(learning_rate=0.02),
        more_obj_params=list(model.weights) or None,
        compile_kwargs={"mode": "FAST_COMPILE"},
        recover=vt.Recover(every=EVERY),
        progressbar=False,
    )
    trace, faults = recorder.trace, []
    if trace.attrs["status"] != "finished" or len(trace) != STEPS:
        faults.append(f"{trace.attrs['status']} with {len(trace)} steps")
    if not np.isfinite(trace.loss).all():
        faults.append("a loss is not finite")
    for p in (*model.inference.approx.params, *model.weights):
        if not np.isfinite(p.get_value()).all():
            faults.append(f"{p.name} is not finite")
    told = [event.text or "" for event in trace.events if event.kind == "rollback"]
    if len(told) != 1:
        faults.append(f"{len(told)} rollbacks")
    variables = [rv.name for rv in model.inference.approx.model.free_RVs]
    if told and named(told[0], variables) != {model.variable}:
        faults.append(f"named is {named(told[0], variables) or 'nothing'}: {told[0]!r}")
    return faults


def main() -> int:
    """Take the fits, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    rng, good, done = np.random.default_rng(asked.seed), 0, 0
    print(f"PyMC {pm.__version__}", flush=True)
    for name in asked.models:
        seen = dict.fromkeys(KINDS, 0)
        counts = dict.fromkeys(KINDS, 0)
        for i in range(asked.times):
            kind = KINDS[i % len(KINDS)]
            at, value = int(rng.integers(1, STEPS - 8)), VALUES[rng.integers(len(VALUES))]
            faults = faults_of(MODELS[name](), kind, at, value)
            done, counts[kind] = done + 1, counts[kind] + 1
            good, seen[kind] = good + (not faults), seen[kind] + (not faults)
            if faults:
                print(f"{name:10} {kind:8} {value} at {at}: {'; '.join(faults)}", flush=True)
        words = ", ".join(f"{kind} {seen[kind]} of {counts[kind]}" for kind in KINDS)
        print(f"{name:10} {words}", flush=True)
    print(f"{good} of {done} as they should be")
    return int(good < done)


if __name__ == "__main__":
    raise SystemExit(main())
