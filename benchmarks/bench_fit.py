"""Wall time of a fit with every instrument on, as a ratio to plain ``pm.fit`` in the same run.

    python -m benchmarks.bench_fit [--models small large] [--rounds 7] [--cold]

Instrumented: one β a variable (one of them on a schedule), a learning rate on a schedule, a
Recorder of every step. Plain: ``pm.ADVI`` with the same optimizer and ``progressbar=False``. The
two take turns, so that a machine whose speed drifts slows both; the ratio is the median over the
rounds of the ratio within a round. Compile times are those of ``fit(1)``, of fresh models by turns
with whatever the compile cache holds; ``--cold`` measures them in new processes with an empty
cache.
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

import pymc as pm
import pytensor

import vitoolkit as vt
from benchmarks.models import MODELS

SECONDS_A_ROUND = 1.0


def plain(build):
    with build():
        inference = pm.ADVI(random_seed=1)
        optimizer = pm.adam(learning_rate=1e-2)
        clock = time.perf_counter()
        inference.fit(1, obj_optimizer=optimizer, progressbar=False)
    return inference, time.perf_counter() - clock


def instrumented(build):
    with build() as model:
        names = [variable.name for variable in model.free_RVs]
        beta = {name: vt.Beta(1.0, name=f"beta[{name}]") for name in names}
        steps = 1_000_000_000
        beta[names[0]] = vt.Beta(
            schedule=vt.schedules.linear(0.5, 1.0, steps=steps), name=f"beta[{names[0]}]"
        )
        rate = vt.LearningRate(schedule=vt.schedules.cosine(1e-2, 9e-3, steps=steps))
        inference = vt.ADVI(beta=beta, random_seed=1)
        optimizer = pm.adam(learning_rate=rate.shared)
        clock = time.perf_counter()
        inference.fit(1, obj_optimizer=optimizer, callbacks=[vt.Recorder(rate)], progressbar=False)
    return inference, time.perf_counter() - clock


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
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(done.stdout.strip().splitlines()[-1])


def quiet() -> None:
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.WARNING)


def measure(model: str, rounds: int, cold: bool) -> None:
    build = MODELS[model]
    compiled: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(3):
        inference = {}
        for kind, make in KINDS.items():
            inference[kind], seconds = make(build)
            compiled[kind].append(seconds)
    steps = max(200, int(steps_a_second(inference["plain"], 200) * SECONDS_A_ROUND))
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            rates[kind].append(steps_a_second(inference[kind], steps))
    ratios = [a / b for a, b in zip(rates["plain"], rates["instrumented"], strict=True)]
    micro = {kind: 1e6 / statistics.median(rates[kind]) for kind in KINDS}
    warm = {kind: statistics.median(compiled[kind][1:]) for kind in KINDS}
    print(
        f"{model:6}  step: plain {micro['plain']:.1f} us, "
        f"instrumented {micro['instrumented']:.1f} us, ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}, "
        f"{rounds} rounds of {steps} steps)"
    )
    print(
        f"{model:6}  compile, warm cache: plain {warm['plain']:.2f} s, "
        f"instrumented {warm['instrumented']:.2f} s, "
        f"ratio {warm['instrumented'] / warm['plain']:.2f}"
    )
    if cold:
        seconds = {kind: cold_compile(model, kind) for kind in KINDS}
        print(
            f"{model:6}  compile, empty cache: plain {seconds['plain']:.1f} s, instrumented "
            f"{seconds['instrumented']:.1f} s, "
            f"ratio {seconds['instrumented'] / seconds['plain']:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--cold", action="store_true", help="measure compilation in an empty cache too"
    )
    arguments = parser.parse_args()
    quiet()
    print(
        f"PyMC {pm.__version__}, PyTensor {pytensor.__version__} "
        f"({pytensor.config.mode}, linker {pytensor.config.linker}), "
        f"Python {sys.version.split()[0]}"
    )
    for model in arguments.models:
        measure(model, arguments.rounds, arguments.cold)


if __name__ == "__main__":
    main()
