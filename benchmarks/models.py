"""The models that every benchmark uses, on synthetic data with a fixed seed."""

from __future__ import annotations

import numpy as np
import pymc as pm

ROWS, SLOPES, GROUPS, BATCH, LARGE = 5_000, 10, 20, 128, 10_000


def small() -> pm.Model:
    """Minibatch regression with group intercepts: 32 unconstrained parameters and their scales."""
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(ROWS, SLOPES)), rng.integers(0, GROUPS, ROWS)
    y = x @ rng.normal(size=SLOPES) + rng.normal(size=GROUPS)[group] + rng.normal(size=ROWS)
    with pm.Model() as model:
        x_batch, y_batch, group_batch = pm.Minibatch(x, y, group, batch_size=BATCH)
        tau = pm.HalfNormal("tau", 1.0)
        intercept = pm.Normal("a", 0, tau, shape=GROUPS)
        slope = pm.Normal("w", 0, 1, shape=SLOPES)
        sigma = pm.HalfNormal("s", 1.0)
        mean = intercept[group_batch] + x_batch @ slope
        pm.Normal("y", mean, sigma, observed=y_batch, total_size=ROWS)
    return model


def large() -> pm.Model:
    """Ten thousand independent parameters, full data."""
    with pm.Model() as model:
        theta = pm.Normal("th", 0, 1, shape=LARGE)
        pm.Normal("y", theta, 1, observed=np.random.default_rng(1).normal(size=LARGE))
    return model


MODELS = {"small": small, "large": large}
