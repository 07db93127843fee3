"""What lr_find suggests, against the best of a grid of constant learning rates.

    python scripts/soak/lr_find.py [steps]

Three models: a small regression, a full-rank q of 20 coordinates of scales from 0.1 to 3, and a
regression on minibatches. Each rate of the grid has a fit of so many steps (2,000 unless told
otherwise) with Adam, and is judged by the mean ELBO of the last fifth. The best is the one with the
largest; those are as good that come within 0.1 nats of it, or within two standard errors. The
table says how many times too large (above 1) or too small each of the three readings of the sweep
is for the range of these: 1 within it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import numpy as np
import pymc as pm

import vitoolkit as vt

GRID = np.geomspace(1e-4, 1.0, 13)
READINGS = ("minimum_tenth", "valley", "steepest")


def regression(batch: int | None = None) -> pm.Model:
    """Three slopes, an intercept a group and the noise; with `batch`, on minibatches."""
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(1_000, 3)), rng.integers(0, 4, 1_000)
    y = x @ [1.0, -2.0, 0.5] + rng.normal(size=4)[group] + rng.normal(size=1_000)
    with pm.Model() as model:
        if batch is not None:
            x, y, group = pm.Minibatch(x, y, group, batch_size=batch)
        tau = pm.HalfNormal("tau", 1.0)
        a = pm.Normal("a", 0.0, tau, shape=4)
        w = pm.Normal("w", 0.0, 1.0, shape=3)
        sigma = pm.HalfNormal("sigma", 1.0)
        size = None if batch is None else 1_000
        pm.Normal("y", a[group] + x @ w, sigma, observed=y, total_size=size)
    return model


def ill_scaled() -> pm.Model:
    """Twenty slopes of columns whose scales go from 0.1 to 3."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(400, 20)) * np.logspace(-1, 0.5, 20)
    y = x @ rng.normal(size=20) + rng.normal(size=400)
    with pm.Model() as model:
        w = pm.Normal("w", 0.0, 10.0, shape=20)
        pm.Normal("y", x @ w, 1.0, observed=y)
    return model


MODELS: dict[str, tuple[Callable[[], pm.Model], str]] = {
    "regression": (regression, "advi"),
    "full rank of 20": (ill_scaled, "fullrank_advi"),
    "minibatches": (lambda: regression(batch=50), "advi"),
}


def ends(model: pm.Model, method: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean ELBO of the last fifth at each rate, and its standard error over ten blocks."""
    fits = vt.fit_many(
        steps,
        grid={"learning_rate": GRID.tolist()},
        model=model,
        method=method,
        random_seed=2,
        recover=False,
        progressbar=False,
    )
    blocks = np.full((len(GRID), 10), np.nan)
    for row, fit in zip(blocks, fits.values(), strict=True):
        if len(fit.trace) == steps:
            row[:] = fit.trace.elbo[-(steps // 5) // 10 * 10 :].reshape(10, -1).mean(axis=1)
    return blocks.mean(axis=1), blocks.std(axis=1, ddof=1) / 10**0.5


def judged(name: str, steps: int) -> tuple[vt.LRFind, float, dict[str, float]]:
    """The sweep of a model, the best of the grid, and how far off each reading is."""
    build, method = MODELS[name]
    model = build()
    family = vt.FullRankADVI if method == "fullrank_advi" else vt.ADVI
    found = vt.lr_find(family(model=model, random_seed=1))
    elbo, error = ends(model, method, steps)
    best = int(np.nanargmax(elbo))
    good = GRID[elbo >= elbo[best] - np.maximum(0.1, 2 * error[best])]
    off = {}
    for reading in READINGS:
        rate = getattr(found, reading)
        off[reading] = rate / float(np.clip(rate, good.min(), good.max()))
    return found, float(GRID[best]), off


def main() -> int:
    """Print the table; the number of suggestions that are off by more than a factor of 3."""
    logging.getLogger("pymc.variational.inference").setLevel(logging.ERROR)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    wrong = 0
    print(f"{steps:,} steps")
    columns = "  ".join(f"{reading:>13}" for reading in READINGS)
    print(f"{'model':16}  {'suggestion':>10} {'best':>8}  off by: {columns}")
    for name in MODELS:
        found, best, off = judged(name, steps)
        values = "  ".join(f"{off[reading]:13.2f}" for reading in READINGS)
        print(f"{name:16}  {found.suggestion:10.3g} {best:8.3g}          {values}", flush=True)
        wrong += not 1 / 3 <= off["minimum_tenth"] <= 3
    return wrong


if __name__ == "__main__":
    sys.exit(main())
