"""The models that every benchmark uses; synthetic data have a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.variational.opvi import Approximation, Group

ROWS, SLOPES, GROUPS, BATCH, LARGE = 5_000, 10, 20, 128, 10_000
VAE_BATCH, VAE_HIDDEN, VAE_UNITS = 64, 32, 4


@dataclass
class Case:
    """A model with the approximation to train and, for a VAE, the weights of its networks."""

    model: pm.Model
    approx: Approximation
    weights: list[Any] = field(default_factory=list)


def small_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariates, outcome and group of the minibatch regression."""
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(ROWS, SLOPES)), rng.integers(0, GROUPS, ROWS)
    y = x @ rng.normal(size=SLOPES) + rng.normal(size=GROUPS)[group] + rng.normal(size=ROWS)
    return x, y, group


def small() -> Case:
    """Minibatch regression with group intercepts, 32 unconstrained parameters."""
    with pm.Model() as model:
        x, y, group = pm.Minibatch(*small_data(), batch_size=BATCH)
        tau = pm.HalfNormal("tau", 1.0)
        intercept = pm.Normal("a", 0, tau, shape=GROUPS)
        slope = pm.Normal("w", 0, 1, shape=SLOPES)
        sigma = pm.HalfNormal("s", 1.0)
        pm.Normal("y", intercept[group] + x @ slope, sigma, observed=y, total_size=ROWS)
        return Case(model, pm.MeanField(random_seed=1))


def large_data() -> np.ndarray:
    """One observation of each of the ten thousand parameters."""
    return np.random.default_rng(1).normal(size=LARGE)


def large() -> Case:
    """Ten thousand independent parameters, full data."""
    with pm.Model() as model:
        theta = pm.Normal("th", 0, 1, shape=LARGE)
        pm.Normal("y", theta, 1, observed=large_data())
        return Case(model, pm.MeanField(random_seed=1))


def digits() -> np.ndarray:
    """scikit-learn's 1,797 images of 8 x 8 pixels, black or white."""
    from sklearn.datasets import load_digits

    return (load_digits().data > 8).astype(float)


def vae_weights() -> dict[str, np.ndarray]:
    """Starting weights of the networks: 64-32-(4, 4) encoder, 4-32-64 decoder."""
    rng = np.random.default_rng(2)
    sizes = {
        "in": (64, VAE_HIDDEN),
        "mu": (VAE_HIDDEN, VAE_UNITS),
        "rho": (VAE_HIDDEN, VAE_UNITS),
        "up": (VAE_UNITS, VAE_HIDDEN),
        "out": (VAE_HIDDEN, 64),
    }
    return {name: rng.normal(size=size) / np.sqrt(size[0]) for name, size in sizes.items()}


def vae() -> Case:
    """VAE of the digits with an amortized group, batches of 64."""
    images = digits()
    layer = {
        name: pytensor.shared(value.astype(pytensor.config.floatX), name, shape=value.shape)
        for name, value in vae_weights().items()
    }
    with pm.Model() as model:
        batch = pm.Minibatch(images, batch_size=VAE_BATCH)
        z = pm.Normal("z", 0, 1, shape=(VAE_BATCH, VAE_UNITS))
        logit = pt.tanh(z @ layer["up"]) @ layer["out"]
        pm.Bernoulli("x", logit_p=logit, observed=batch, total_size=len(images))
        encoded = pt.tanh(batch @ layer["in"])
        group = Group([z], params={"mu": encoded @ layer["mu"], "rho": encoded @ layer["rho"]})
        approx = Approximation([group])
    approx.rng = np.random.RandomState(1)  # PyMC gives an approximation of groups none
    return Case(model, approx, list(layer.values()))


MODELS: dict[str, Callable[[], Case]] = {"small": small, "vae": vae, "large": large}
