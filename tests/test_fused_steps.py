"""Many steps in one call give the numbers of single steps, and those of PyMC."""

from importlib.util import find_spec

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from models import regression, two_gaussians
from pymc.variational.inference import KLqp as PlainKLqp
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt

ROWS, BATCH = 400, 20


def minibatches():
    with regression(minibatch=True) as model:
        return model, pm.MeanField(random_seed=1), []


def full_data():
    with two_gaussians() as model:
        return model, pm.MeanField(random_seed=1), []


def full_rank():
    with two_gaussians() as model:
        return model, pm.FullRank(random_seed=1), []


def amortized():
    """One latent a row, whose mean and scale an encoder computes, and one of all rows."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=ROWS)
    y = 2.0 * x + rng.normal(size=ROWS)
    weights = [
        pytensor.shared(np.array(value, pytensor.config.floatX), name=name, shape=(2,))
        for name, value in (("mu", [0.1, 0.0]), ("rho", [0.0, -1.0]))
    ]
    with pm.Model() as model:
        x, y = pm.Minibatch(x, y, batch_size=BATCH)
        z = pm.Normal("z", 0.0, 1.0, shape=BATCH)
        s = pm.HalfNormal("s", 1.0)
        pm.Normal("y", z, s, observed=y, total_size=ROWS)
        mu, rho = (pt.atleast_1d(w[0] * x + w[1]) for w in weights)
        groups = [Group([z], params={"mu": mu, "rho": rho}), Group([s], vfam="mean_field")]
        approx = Approximation(groups)
    approx.rng = np.random.RandomState(1)
    return model, approx, weights


def trained(build, inference, n=1_000, *, recorder=None, **kwargs):
    """The losses of a fit; `inference` makes it from the approximation."""
    model, approx, weights = build()
    with model:
        fit = inference(approx)
        fit.fit(
            n,
            progressbar=False,
            more_obj_params=weights,
            callbacks=[] if recorder is None else [recorder],
            compile_kwargs={"mode": "FAST_COMPILE"},
            **kwargs,
        )
    return fit.hist


def ours(steps):
    return lambda approx: vt.KLqp(approx, steps_per_execution=steps)


@pytest.mark.parametrize(
    ("build", "optimizer"),
    [
        (minibatches, pm.adam(learning_rate=0.01)),
        (full_rank, pm.adagrad_window(learning_rate=0.01)),
        (amortized, pm.momentum(learning_rate=1e-3)),
        (full_data, pm.sgd(learning_rate=1e-3)),
    ],
    ids=["minibatches, adam", "full rank, adagrad", "amortized, momentum", "full data, sgd"],
)
def test_a_thousand_steps_are_those_of_single_calls_and_of_pymc(build, optimizer):
    stock = trained(build, PlainKLqp, obj_optimizer=optimizer)
    traces = []
    for steps in (1, 50):
        recorder = vt.Recorder()
        hist = trained(build, ours(steps), recorder=recorder, obj_optimizer=optimizer)
        np.testing.assert_allclose(hist, stock, rtol=1e-9)
        traces.append(recorder.trace)
    one, fused = (trace.values() for trace in traces)
    np.testing.assert_array_equal(fused, one)
    assert stock[-100:].mean() < stock[:100].mean()


OPTIMIZERS = [
    (pm.sgd, {}),
    (pm.momentum, {}),
    (pm.nesterov_momentum, {}),
    (pm.adagrad, {}),
    (pm.adagrad_window, {}),
    (pm.rmsprop, {}),
    (pm.adadelta, {}),
    (pm.adam, {}),
    (pm.adamax, {}),
    (pm.adam, {"obj_n_mc": 3}),
    (pm.sgd, {"total_grad_norm_constraint": 1.0}),
]


@pytest.mark.parametrize(
    ("optimizer", "options"),
    OPTIMIZERS,
    ids=[" ".join([optimizer.__name__, *options]) for optimizer, options in OPTIMIZERS],
)
def test_every_optimizer_of_pymc(optimizer, options):
    options = {"obj_optimizer": optimizer(learning_rate=1e-3), **options}
    stock = trained(full_data, PlainKLqp, 7, **options)
    np.testing.assert_allclose(trained(full_data, ours(4), 7, **options), stock, rtol=1e-9)


def test_the_backend_of_this_pymc_gives_the_same(minibatch_regression):
    """In its own mode, not the quick one of the other tests: what people run."""
    values = []
    for steps in (1, 50):
        ramp = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=700), name="b")
        rate = vt.LearningRate(schedule=vt.schedules.cosine(0.05, 1e-3, steps=1_000))
        recorder = vt.Recorder(rate)
        inference = vt.ADVI(beta={"w": ramp, "tau": 2.0}, random_seed=1, steps_per_execution=steps)
        optimizer = pm.adam(learning_rate=rate.shared)
        inference.fit(1_000, callbacks=[recorder], obj_optimizer=optimizer, progressbar=False)
        values.append(recorder.trace.values())
    np.testing.assert_array_equal(values[1], values[0])


@pytest.mark.parametrize("mode", ["JAX"] if find_spec("jax") else ["FAST_COMPILE"])
def test_several_steps_a_call_draw_what_pymc_draws(minibatch_regression, mode):
    """Noise and the rows of a minibatch, each of its own generator; JAX scans over the steps."""
    losses = []
    for inference in pm.ADVI, lambda **seed: vt.ADVI(steps_per_execution=3, **seed):
        fit = inference(random_seed=1)
        fit.fit(6, compile_kwargs={"mode": mode}, progressbar=False)
        losses.append(fit.hist)
    np.testing.assert_allclose(*losses, rtol=1e-9)


@pytest.mark.parametrize("error", [StopIteration, ValueError])
def test_a_callback_that_ends_the_fit_keeps_the_call_and_refine_goes_on(error):
    """Other callbacks are called once a call of 8 steps; this one ends the fit at the second."""
    model, approx, _ = full_data()
    told = []

    def ends(approx, losses, i):
        told.append((i, len(losses)))
        if i == 16:
            raise error("enough")

    recorder = vt.Recorder()
    fast = {"compile_kwargs": {"mode": "FAST_COMPILE"}, "progressbar": False}
    with model:
        inference = vt.KLqp(approx, steps_per_execution=8)
        if error is StopIteration:
            inference.fit(51, callbacks=[recorder, ends], **fast)
        else:
            with pytest.raises(ValueError, match="enough"):
                inference.fit(51, callbacks=[recorder, ends], **fast)
        assert told == [(8, 8), (16, 16)]
        assert inference.steps_taken == len(inference.hist) == len(recorder.trace) == 16
        inference.refine(5, callbacks=[recorder], progressbar=False)
    assert recorder.trace.step.tolist() == list(range(21))
    np.testing.assert_array_equal(recorder.trace.loss, inference.hist)
    stock = trained(full_data, PlainKLqp, 21)
    np.testing.assert_allclose(inference.hist, stock, rtol=1e-9)
