"""blackjax: steps of ``meanfield_vi`` and ``fullrank_vi`` in one compiled loop."""

from __future__ import annotations

from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import optax
from jax.scipy.stats import norm

from benchmarks import models
from benchmarks.peers.jax_loop import runner

jax.config.update("jax_enable_x64", True)


def half_normal(log_value):
    """Density of HalfNormal(1) at the exponential of the argument, with the Jacobian."""
    return jnp.log(2.0) + norm.logpdf(jnp.exp(log_value)) + log_value


def small():
    data = [jnp.asarray(a) for a in models.small_data()]
    position = {
        "tau": jnp.zeros(()),
        "a": jnp.zeros(models.GROUPS),
        "w": jnp.zeros(models.SLOPES),
        "s": jnp.zeros(()),
    }

    def density(z, batch):
        x, y, group = batch
        prior = norm.logpdf(z["a"], 0.0, jnp.exp(z["tau"])).sum() + norm.logpdf(z["w"]).sum()
        prior += half_normal(z["tau"]) + half_normal(z["s"])
        data = norm.logpdf(y, z["a"][group] + x @ z["w"], jnp.exp(z["s"])).sum()
        return prior + models.ROWS / models.BATCH * data

    return density, position, data, models.BATCH


def large(size: int = models.LARGE):
    y = jnp.asarray(models.large_data(size))

    def density(z, batch):
        return norm.logpdf(z).sum() + norm.logpdf(y, z).sum()

    return density, jnp.zeros(size), (), None


def huge():
    return large(models.HUGE)


def bnn():
    images, labels = map(jnp.asarray, models.labelled_digits())

    def density(z, batch):
        unit, label = batch
        *hidden, last = [z[name] for name in models.LAYERS]
        for weight in hidden:
            unit = jnp.tanh(unit @ weight / len(weight) ** 0.5)
        logp = jax.nn.log_softmax(unit @ last / len(last) ** 0.5)
        data = jnp.take_along_axis(logp, label[:, None], 1).sum()
        prior = sum(norm.logpdf(weight).sum() for weight in z.values())
        return prior + len(images) / models.BATCH * data

    position = {name: jnp.zeros(size) for name, size in models.LAYERS.items()}
    return density, position, (images, labels), models.BATCH


def fullrank():
    x, y = map(jnp.asarray, models.fullrank_data())

    def density(z, batch):
        data = norm.logpdf(y, x @ z["w"], jnp.exp(z["s"])).sum()
        return norm.logpdf(z["w"]).sum() + half_normal(z["s"]) + data

    return density, {"w": jnp.zeros(x.shape[1]), "s": jnp.zeros(())}, (), None


BUILDERS = {f.__name__: f for f in (small, large, huge, bnn, fullrank)}


def steps_a_second(model: str) -> Callable[[int], float]:
    """A function ``steps -> steps a second``."""
    if model not in BUILDERS:
        raise NotImplementedError("blackjax has no amortized approximation")
    density, position, data, batch_size = BUILDERS[model]()
    algorithm = blackjax.fullrank_vi if model == "fullrank" else blackjax.meanfield_vi
    optimizer = optax.adam(1e-3)

    def inference(batch=None):
        return algorithm(lambda z: density(z, batch), optimizer, num_samples=1)

    def step(carried):
        key, state = carried
        key, for_batch, for_step = jax.random.split(key, 3)
        batch = None
        if batch_size is not None:
            index = jax.random.randint(for_batch, (batch_size,), 0, len(data[0]))
            batch = [a[index] for a in data]
        state, information = inference(batch).step(for_step, state)
        return (key, state), information.elbo

    return runner(step, (jax.random.PRNGKey(0), inference().init(position)))
