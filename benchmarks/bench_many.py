"""Many fits of one model: ``vt.fit_many`` against a loop over ``vt.fit``.

    python -m benchmarks.bench_many [--steps 20000] [--fits 32] [--rounds 1]

The small model at 8 values of β and 4 seeds. The loop builds and compiles a new model for each fit,
with no compiled step kept from the one before. Each fit of the many must have the losses of its
solo fit bit for bit; if one has not, the benchmark says which and fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time

import numpy as np
import pymc as pm
import pytensor

import vitoolkit as vt
from benchmarks.bench_fit import clear_cache, quiet, ratio
from benchmarks.models import small

BETAS, SEEDS = 8, 4


def one_by_one(grid: dict, steps: int) -> dict:
    losses = {}
    for beta, seed in itertools.product(*grid.values()):
        clear_cache()
        with small().model:
            fit = vt.fit(steps, beta=beta, random_seed=seed, learning_rate=1e-3, progressbar=False)
        losses[beta, seed] = np.array(fit.trace.loss)
    return losses


def together(grid: dict, steps: int) -> dict:
    clear_cache()
    with small().model:
        fits = vt.fit_many(steps, grid=grid, learning_rate=1e-3)
    return {point: np.array(fit.trace.loss) for point, fit in fits.items()}


def timed(run, grid: dict, steps: int) -> tuple[dict, float, float]:
    clock, work = time.perf_counter(), time.process_time()
    losses = run(grid, steps)
    return losses, time.perf_counter() - clock, time.process_time() - work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--fits", type=int, default=BETAS * SEEDS)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    quiet()
    seeds = min(SEEDS, arguments.fits)
    betas = -(-arguments.fits // seeds)
    grid = {
        "beta": np.geomspace(0.25, 4.0, betas).tolist(),
        "random_seed": list(range(1, seeds + 1)),
    }
    print(
        f"PyMC {pm.__version__}, PyTensor {pytensor.__version__}, "
        f"Python {sys.version.split()[0]}, {os.cpu_count()} cores; "
        f"{betas} values of β x {seeds} seeds, {arguments.steps:,} steps each"
    )
    wall, work = [], []
    for _ in range(arguments.rounds):
        solo, *loop = timed(one_by_one, grid, arguments.steps)
        many, *once = timed(together, grid, arguments.steps)
        wall.append((loop[0], once[0]))
        work.append((loop[1], once[1]))
        unequal = [point for point in solo if not np.array_equal(solo[point], many[point])]
        if unequal or len(many) != len(solo):
            sys.exit(
                f"not the losses of the solo fit at {unequal}, {len(many)} of {len(solo)} fits"
            )
    for name, times in (("wall", wall), ("processor", work)):
        loop, once = zip(*times, strict=True)
        print(
            f"{name:9}: loop {statistics.median(loop):.1f} s, "
            f"fit_many {statistics.median(once):.1f} s, ratio {ratio(once, loop)}"
        )
    print(f"{len(solo)} of {len(solo)} traces equal their solo fits bit for bit")


if __name__ == "__main__":
    main()
