"""Small models that the tests share."""

from __future__ import annotations

import numpy as np
import pymc as pm

ROWS, BATCH = 1_000, 50


def two_gaussians() -> pm.Model:
    """z and w with standard normal priors, each with Gaussian observations of its own."""
    rng = np.random.default_rng(5)
    with pm.Model() as model:
        z = pm.Normal("z", 0.0, 1.0)
        w = pm.Normal("w", 0.0, 1.0)
        pm.Normal("y_z", z, 2.0, observed=rng.normal(1.5, 2.0, size=20))
        pm.Normal("y_w", w, 1.0, observed=rng.normal(-1.0, 1.0, size=5))
    return model


def regression(*, minibatch: bool) -> pm.Model:
    """A hierarchical regression with vector and positive variables."""
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(ROWS, 3)), rng.integers(0, 4, ROWS)
    y = x @ [1.0, -2.0, 0.5] + rng.normal(size=4)[group] + rng.normal(size=ROWS)
    with pm.Model() as model:
        total_size = None
        if minibatch:
            x, y, group = pm.Minibatch(x, y, group, batch_size=BATCH)
            total_size = ROWS
        tau = pm.HalfNormal("tau", 1.0)
        a = pm.Normal("a", 0.0, tau, shape=4)
        w = pm.Normal("w", 0.0, 1.0, shape=3)
        sigma = pm.HalfNormal("sigma", 1.0)
        pm.Normal("y", a[group] + x @ w, sigma, observed=y, total_size=total_size)
    return model
