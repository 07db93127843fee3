"""Wall time of a fit with every instrument on, as a ratio to plain ``pm.fit`` in the same run.

    python -m benchmarks.bench_fit [--models small vae large] [--rounds 7] [--cold] [--numpyro]

Instrumented: one β a variable, one of them and the learning rate on schedules, a Recorder of every
step. Plain: PyMC's own ``KLqp`` with the same
approximation and optimizer and ``progressbar=False``. They take turns, so that a machine whose
speed drifts slows all; a ratio is the median over the rounds of the ratio within a round. Compile
times are those of fresh models by turns with whatever the compile cache holds; ``--cold`` measures
them in new processes with an empty cache. ``--numpyro`` puts numpyro's ``SVI.run`` on the same
models into the turns (float64, on the CPU, the same optimizer, the faster of two ways to draw a
minibatch).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import pymc as pm
import pytensor
from pymc.variational.inference import KLqp as PlainKLqp

import vitoolkit as vt
from benchmarks.models import MODELS

SECONDS_A_ROUND = 1.0


def plain(build):
    case = build()
    with case.model:
        inference = PlainKLqp(case.approx)
        optimizer = pm.adam(learning_rate=1e-3)
        clock = time.perf_counter()
        inference.fit(1, obj_optimizer=optimizer, more_obj_params=case.weights, progressbar=False)
    return inference, time.perf_counter() - clock


def instrumented(build):
    case = build()
    with case.model:
        first, *others = [variable.name for variable in case.model.free_RVs]
        endless = 1_000_000_000
        beta = {name: vt.Beta(1.0, name=f"beta[{name}]") for name in others}
        ramp = vt.schedules.linear(0.5, 1.0, steps=endless)
        beta[first] = vt.Beta(schedule=ramp, name=f"beta[{first}]")
        rate = vt.LearningRate(schedule=vt.schedules.cosine(1e-3, 9e-4, steps=endless))
        inference = vt.KLqp(case.approx, beta=beta)
        optimizer = pm.adam(learning_rate=rate.shared)
        inference.fit(
            1,
            obj_optimizer=optimizer,
            more_obj_params=case.weights,
            callbacks=[vt.Recorder(rate)],
            progressbar=False,
        )
    return inference, inference.run.compile_seconds


KINDS = {"plain": plain, "instrumented": instrumented}


def steps_a_second(inference, steps: int) -> float:
    clock = time.perf_counter()
    inference.refine(steps, progressbar=False)
    return steps / (time.perf_counter() - clock)


def cold_compile(model: str, kind: str) -> float:
    code = (
        f"from benchmarks.bench_fit import KINDS, MODELS, quiet; quiet(); "
        f"print(KINDS[{kind!r}](MODELS[{model!r}])[1])"
    )
    with tempfile.TemporaryDirectory() as cache:
        flags = f"{os.environ.get('PYTENSOR_FLAGS', '')},base_compiledir={cache}".strip(",")
        env = {**os.environ, "PYTENSOR_FLAGS": flags, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.WARNING)


def measure(model: str, rounds: int, cold: bool, numpyro: bool) -> None:
    build = MODELS[model]
    compiled: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(4):
        inference = {}
        for kind, make in KINDS.items():
            inference[kind], seconds = make(build)
            compiled[kind].append(seconds)
    runs = {kind: lambda steps, i=i: steps_a_second(i, steps) for kind, i in inference.items()}
    if numpyro:
        from benchmarks.numpyro_models import steps_a_second as numpyro_run

        runs["numpyro"] = numpyro_run(model)
    steps = max(200, int(runs["plain"](200) * SECONDS_A_ROUND))
    for run in runs.values():
        run(steps)
    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            rates[kind].append(run(steps))
    print(f"{model:6} {rounds} rounds of {steps:,} steps")
    for kind in runs:
        ratios = [a / b for a, b in zip(rates["plain"], rates[kind], strict=True)]
        print(
            f"       {kind:13} {1e6 / statistics.median(rates[kind]):8.1f} us a step, "
            f"ratio to plain {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )
    step = inference["instrumented"].step_function
    print(f"       instrumented runs {step!r}")
    for cache, seconds in (
        ("warm", {kind: statistics.median(compiled[kind][1:]) for kind in KINDS}),
        ("empty", {kind: cold_compile(model, kind) for kind in KINDS} if cold else None),
    ):
        if seconds is not None:
            ratio = seconds["instrumented"] / seconds["plain"]
            print(
                f"       compile, {cache} cache: plain {seconds['plain']:.2f} s, "
                f"instrumented {seconds['instrumented']:.2f} s (ratio {ratio:.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold", action="store_true", help="compile in an empty cache as well")
    parser.add_argument("--numpyro", action="store_true", help="put numpyro's SVI into the turns")
    arguments = parser.parse_args()
    quiet()
    print(
        f"PyMC {pm.__version__}, PyTensor {pytensor.__version__}, "
        f"Python {sys.version.split()[0]}, {os.cpu_count()} cores"
    )
    for model in arguments.models:
        measure(model, arguments.rounds, arguments.cold, arguments.numpyro)


if __name__ == "__main__":
    main()
