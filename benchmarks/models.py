"""The models that every benchmark uses; another seed gives other data of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.variational.opvi import Approximation, Group

ROWS, SLOPES, GROUPS, BATCH, LARGE, HUGE = 5_000, 10, 20, 128, 10_000, 1_000_000
VAE_BATCH, VAE_HIDDEN, VAE_UNITS = 64, 32, 4
LAYERS = {"w1": (64, 400), "w2": (400, 60), "w3": (60, 10)}  # 50,200 weights
CORRELATED_ROWS, CORRELATED_SLOPES = 1_000, 299


@dataclass
class Case:
    """A model with the approximation to train and, for a VAE, the weights of its networks."""

    model: pm.Model
    approx: Approximation
    weights: list[Any] = field(default_factory=list)


def small_data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariates, outcome and group of the minibatch regression."""
    rng = np.random.default_rng(seed)
    x, group = rng.normal(size=(ROWS, SLOPES)), rng.integers(0, GROUPS, ROWS)
    y = x @ rng.normal(size=SLOPES) + rng.normal(size=GROUPS)[group] + rng.normal(size=ROWS)
    return x, y, group


def small(seed: int = 0) -> Case:
    """Minibatch regression with group intercepts, 32 unconstrained parameters."""
    with pm.Model() as model:
        x, y, group = pm.Minibatch(*small_data(seed), batch_size=BATCH)
        tau = pm.HalfNormal("tau", 1.0)
        intercept = pm.Normal("a", 0, tau, shape=GROUPS)
        slope = pm.Normal("w", 0, 1, shape=SLOPES)
        sigma = pm.HalfNormal("s", 1.0)
        pm.Normal("y", intercept[group] + x @ slope, sigma, observed=y, total_size=ROWS)
        return Case(model, pm.MeanField(random_seed=1))


def large_data(size: int = LARGE, seed: int = 0) -> np.ndarray:
    """One observation of each of the parameters."""
    return np.random.default_rng(1 + seed).normal(size=size)


def large(seed: int = 0, size: int = LARGE) -> Case:
    """Ten thousand independent parameters, full data."""
    with pm.Model() as model:
        theta = pm.Normal("th", 0, 1, shape=size)
        pm.Normal("y", theta, 1, observed=large_data(size, seed))
        return Case(model, pm.MeanField(random_seed=1))


def huge(seed: int = 0) -> Case:
    """A million independent parameters, full data."""
    return large(seed, HUGE)


def labelled_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 images of 8 x 8 pixels, black or white, and the digits they show."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.data > 8).astype(float), loaded.target.astype("int32")  # as PyMC keeps integers


def digits(seed: int = 0) -> np.ndarray:
    """The images alone; a seed other than 0 puts them in another order."""
    images, _ = labelled_digits()
    return np.random.default_rng(seed).permutation(images) if seed else images


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


def vae(seed: int = 0) -> Case:
    """VAE of the digits with an amortized group, batches of 64."""
    images = digits(seed)
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


def bnn() -> Case:
    """Bayesian neural network of 50,200 weights that reads the digits, batches of 128."""
    images, labels = labelled_digits()
    with pm.Model() as model:
        unit, label = pm.Minibatch(images, labels, batch_size=BATCH)
        *hidden, last = [pm.Normal(name, 0, 1, shape=size) for name, size in LAYERS.items()]
        for weight in hidden:
            unit = pt.tanh(unit @ weight / np.sqrt(weight.type.shape[0]))
        logit = unit @ last / np.sqrt(last.type.shape[0])
        pm.Categorical("y", logit_p=logit, observed=label, total_size=len(images))
        return Case(model, pm.MeanField(random_seed=1))


def fullrank_data() -> tuple[np.ndarray, np.ndarray]:
    """Covariates of which each is correlated with its neighbors, and the outcome."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(CORRELATED_ROWS, CORRELATED_SLOPES))
    for column in range(1, CORRELATED_SLOPES):
        x[:, column] = 0.9 * x[:, column - 1] + np.sqrt(1 - 0.9**2) * x[:, column]
    slope = rng.normal(size=CORRELATED_SLOPES)
    return x, x @ slope + rng.normal(size=CORRELATED_ROWS)


def fullrank() -> Case:
    """Regression on correlated covariates with a full-rank approximation of 300 coordinates."""
    x, y = fullrank_data()
    with pm.Model() as model:
        slope = pm.Normal("w", 0, 1, shape=CORRELATED_SLOPES)
        sigma = pm.HalfNormal("s", 1.0)
        pm.Normal("y", x @ slope, sigma, observed=y)
        return Case(model, pm.FullRank(random_seed=1))


def scalars(seed: int = 0, count: int = 200) -> Case:
    """So many scalar variables, each with one observation: a long graph, and hardly a number."""
    data = np.random.default_rng(seed).normal(size=count)
    with pm.Model() as model:
        variables = [pm.Normal(f"x{i}", 0, 1) for i in range(count)]
        pm.Normal("y", pt.stack(variables), 1, observed=data)
        return Case(model, pm.MeanField(random_seed=1))


MODELS: dict[str, Callable[[], Case]] = {
    "small": small,
    "vae": vae,
    "large": large,
    "huge": huge,
    "bnn": bnn,
    "fullrank": fullrank,
}
