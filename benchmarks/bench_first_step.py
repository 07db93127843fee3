"""Seconds from a model that is built to its first step, against plain ``pm.fit``.

    python -m benchmarks.bench_first_step [--models small vae large scalars] [--scalars 200]
                                          [--rounds 5]

Each round starts new processes, PyMC and vitoolkit by turns, and times ``fit(1)``:

- cold: the caches on disk, PyTensor's and Numba's, are empty;
- new process: they hold what the cold process left;
- again: the same model built a second time in that process;
- new data: the model built with other data of the same shape, in that process.

The reference of a row is PyMC in a process that did the same. Wall and processor time, medians over
the rounds; the ratio is the median of the ratio within a round, with the least and the most.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import pymc as pm
import pytensor
from pymc.variational.inference import KLqp as PlainKLqp

import vitoolkit as vt
from benchmarks import models
from benchmarks.bench_fit import ratio

BUILDERS = {f.__name__: f for f in (models.small, models.vae, models.large, models.scalars)}
ROWS = ("cold", "new process", "again", "new data")


def pymc_fit(case: models.Case) -> None:
    adam = pm.adam(learning_rate=1e-3)
    with case.model:
        if case.weights:
            inference = PlainKLqp(case.approx)
            inference.fit(1, obj_optimizer=adam, more_obj_params=case.weights, progressbar=False)
        else:
            pm.fit(1, obj_optimizer=adam, random_seed=1, progressbar=False)


def vitoolkit_fit(case: models.Case) -> None:
    with case.model:
        if case.weights:
            options = dict(method=vt.KLqp(case.approx), more_obj_params=case.weights)
        else:
            options = dict(random_seed=1)
        vt.fit(1, learning_rate=1e-3, progressbar=False, **options)


FITS = {"pymc": pymc_fit, "vitoolkit": vitoolkit_fit}


def first_step(kind: str, model: str, count: int, seed: int) -> tuple[float, float]:
    """Wall and processor time of a fit of one step."""
    build = BUILDERS[model]
    if model == "scalars":
        build = functools.partial(build, count=count)
    case = build(seed)
    clock, work = time.perf_counter(), time.process_time()
    FITS[kind](case)
    return time.perf_counter() - clock, time.process_time() - work


def in_new_process(kind: str, model: str, count: int, seeds: list[int], cache: str) -> list:
    """Time the first step of models of such data, one after the other in a process."""
    code = (
        "import json; from benchmarks.bench_fit import quiet; quiet(); "
        "from benchmarks.bench_first_step import first_step; "
        f"times = [first_step({kind!r}, {model!r}, {count}, seed) for seed in {seeds}]; "
        "print(json.dumps(times))"
    )
    flags = f"{os.environ.get('PYTENSOR_FLAGS', '')},base_compiledir={cache}".strip(",")
    env = {**os.environ, "PYTENSOR_FLAGS": flags, "NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(model: str, count: int, rounds: int) -> None:
    times = {kind: {row: [] for row in ROWS} for kind in FITS}
    for _ in range(rounds):
        for kind in FITS:
            with tempfile.TemporaryDirectory() as cache:
                run = functools.partial(in_new_process, kind, model, count, cache=cache)
                for row, took in zip(ROWS, run(seeds=[0]) + run(seeds=[0, 0, 1]), strict=True):
                    times[kind][row].append(took)
    print(f"{model}: {rounds} rounds" + (f", {count} variables" if model == "scalars" else ""))
    for row in ROWS:
        line = f"  {row:12}"
        for i, name in enumerate(("wall", "processor")):
            reference, own = ([took[i] for took in times[kind][row]] for kind in FITS)
            line += (
                f" {name}: PyMC {statistics.median(reference):.2f} s, vitoolkit "
                f"{statistics.median(own):.2f} s, ratio {ratio(own, reference)};"
            )
        print(line.rstrip(";"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--scalars", type=int, default=200, help="variables of the model scalars")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"PyMC {pm.__version__}, PyTensor {pytensor.__version__}, "
        f"Python {sys.version.split()[0]}, {os.cpu_count()} cores"
    )
    for model in arguments.models:
        measure(model, arguments.scalars, arguments.rounds)


if __name__ == "__main__":
    main()
