"""numpyro: ``SVI.update`` in one compiled loop, as ``SVI.run`` does; the faster of two batches."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks import models
from benchmarks.peers.jax_loop import faster, runner

numpyro.enable_x64()


def _batch(way: str, name: str, rows: int, size: int, *arrays):
    """A minibatch and its plate, by numpyro's subsampling plate or by drawn indices."""
    if way == "plate":
        plate = numpyro.plate(name, rows, subsample_size=size)
        with plate as index:
            return plate, [a[index] for a in arrays]
    index = jax.random.randint(numpyro.prng_key(), (size,), 0, rows)
    return numpyro.handlers.scale(scale=rows / size), [a[index] for a in arrays]


def small(way: str):
    data = [jnp.asarray(a) for a in models.small_data()]

    def model():
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        a = numpyro.sample("a", dist.Normal(0.0, tau).expand([models.GROUPS]).to_event(1))
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([models.SLOPES]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        context, (x, y, group) = _batch(way, "rows", models.ROWS, models.BATCH, *data)
        with context:
            numpyro.sample("y", dist.Normal(a[group] + x @ w, s), obs=y)

    return model, AutoNormal(model)


def large(way: str, size: int = models.LARGE):
    data = jnp.asarray(models.large_data(size))

    def model():
        theta = numpyro.sample("th", dist.Normal(0.0, 1.0).expand([size]).to_event(1))
        numpyro.sample("y", dist.Normal(theta, 1.0).to_event(1), obs=data)

    return model, AutoNormal(model)


def huge(way: str):
    return large(way, models.HUGE)


def vae(way: str):
    images = jnp.asarray(models.digits())
    start = {name: jnp.asarray(value) for name, value in models.vae_weights().items()}

    def batch():
        if way == "plate":
            with numpyro.plate("rows", len(images), subsample_size=models.VAE_BATCH) as index:
                return images[index]
        index = jax.random.randint(numpyro.prng_key(), (models.VAE_BATCH,), 0, len(images))
        return images[index]

    scale = len(images) / models.VAE_BATCH
    shared: dict[str, jax.Array] = {}

    def model():
        up, out = numpyro.param("up", start["up"]), numpyro.param("out", start["out"])
        x = shared.pop("x")
        shape = (models.VAE_BATCH, models.VAE_UNITS)
        with numpyro.handlers.scale(scale=scale):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand(shape).to_event(2))
            logit = jnp.tanh(z @ up) @ out
            numpyro.sample("x", dist.Bernoulli(logits=logit).to_event(2), obs=x)

    def guide():
        x = shared["x"] = batch()
        encoded = jnp.tanh(x @ numpyro.param("in", start["in"]))
        mu = encoded @ numpyro.param("mu", start["mu"])
        sd = jax.nn.softplus(encoded @ numpyro.param("rho", start["rho"]))
        with numpyro.handlers.scale(scale=scale):
            numpyro.sample("z", dist.Normal(mu, sd).to_event(2))

    return model, guide


def bnn(way: str):
    images, labels = map(jnp.asarray, models.labelled_digits())

    def model():
        *hidden, last = [
            numpyro.sample(name, dist.Normal(0.0, 1.0).expand(size).to_event(2))
            for name, size in models.LAYERS.items()
        ]
        context, (unit, label) = _batch(way, "rows", len(images), models.BATCH, images, labels)
        for weight in hidden:
            unit = jnp.tanh(unit @ weight / len(weight) ** 0.5)
        with context:
            numpyro.sample("y", dist.Categorical(logits=unit @ last / len(last) ** 0.5), obs=label)

    return model, AutoNormal(model)


def fullrank(way: str):
    x, y = map(jnp.asarray, models.fullrank_data())

    def model():
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(x @ w, s).to_event(1), obs=y)

    return model, AutoMultivariateNormal(model)


BUILDERS = {f.__name__: f for f in (small, vae, large, huge, bnn, fullrank)}
WITH_BATCHES = ("small", "vae", "bnn")


def steps_a_second(model: str) -> Callable[[int], float]:
    """A function ``steps -> steps a second`` for the faster way to draw a minibatch."""
    runs = []
    for way in ("plate", "randint") if model in WITH_BATCHES else ("plate",):
        svi = SVI(*BUILDERS[model](way), numpyro.optim.Adam(1e-3), Trace_ELBO())
        runs.append(runner(svi.update, svi.init(jax.random.PRNGKey(0))))
    return faster(runs)
