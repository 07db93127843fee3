import numpy as np
import pymc as pm
import pytensor
import pytest

import vitoolkit as vt
from vitoolkit.gradient import DECAY, GRADIENT, gradient_stats

FAST = {"mode": "FAST_COMPILE"}


def stats_of(gradients):
    """Norm and ratio of a sequence of gradients, shape (steps, parameters), from two parameters."""
    now = pytensor.shared(np.zeros(gradients.shape[1]), shape=(gradients.shape[1],))
    parts = [now[:1], now[1:]]
    parameters = [
        pytensor.shared(np.zeros(n), name=f"p{n}", shape=(n,)) for n in (1, gradients.shape[1] - 1)
    ]
    stats, updates = gradient_stats(parts, parameters)
    step = pytensor.function([], stats, updates=updates, mode="FAST_COMPILE")
    rows = []
    for gradient in gradients:
        now.set_value(gradient)
        rows.append(step())
    return np.array(rows)


def test_the_formula():
    gradients = np.random.default_rng(1).normal(0.3, 1.0, (50, 4))
    found = stats_of(gradients)
    np.testing.assert_allclose(found[:, 0], np.linalg.norm(gradients, axis=1))
    for t in (1, 7, 49):
        weights = DECAY ** np.arange(t, -1, -1)
        weights /= weights.sum()
        mean = weights @ gradients[: t + 1]
        variance = weights @ (gradients[: t + 1] - mean) ** 2
        expected = np.sqrt((mean**2).sum() / variance.sum())
        np.testing.assert_allclose(found[t, 1], expected, rtol=1e-6)


def test_noise_has_the_ratio_that_is_stated_and_signal_its_own():
    noise = np.random.default_rng(2).normal(size=(3_000, 200))
    ratio = stats_of(noise)[1_000:, 1].mean()
    assert ratio == pytest.approx(np.sqrt((1 - DECAY) / (1 + DECAY)), rel=0.05)
    ratio = stats_of(noise + 2.0)[1_000:, 1].mean()
    assert ratio == pytest.approx(2.0, rel=0.05)


def fitted(steps=1, gradient=True, **kwargs):
    recorder = vt.Recorder()
    with pm.Model():
        z = pm.Normal("z", shape=2)
        pm.Normal("y", z, 0.5, observed=np.array([0.3, -1.0]))
        inference = vt.ADVI(random_seed=3, gradient=gradient, steps_per_execution=steps)
        inference.fit(
            40,
            obj_optimizer=pm.adam(learning_rate=0.01),
            callbacks=[recorder],
            progressbar=False,
            compile_kwargs=FAST,
            **kwargs,
        )
    return recorder.trace


@pytest.mark.parametrize("constraint", [None, 0.1])
def test_recording_changes_no_loss_and_is_before_the_constraint(constraint):
    plain = fitted(gradient=False, total_grad_norm_constraint=constraint)
    trace = fitted(total_grad_norm_constraint=constraint)
    assert trace.measures == GRADIENT and plain.measures == ()
    np.testing.assert_allclose(trace.loss, plain.loss, rtol=1e-12)
    norm = trace.measure["gradient_norm"]
    assert norm.min() > 0.1 and (trace.measure["gradient_snr"][1:] > 0).all()


def test_many_steps_a_call_measure_the_same():
    one, many = fitted(), fitted(8)
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-9)
    for name in GRADIENT:
        np.testing.assert_allclose(many.measure[name][1:], one.measure[name][1:], rtol=1e-6)


def test_the_norm_is_that_of_the_losses_own_gradient():
    recorder = vt.Recorder()
    with pm.Model():
        pm.Normal("z")
        inference = vt.ADVI(random_seed=3, gradient=True)
        mu, rho = inference.approx.params
        rate = pytensor.shared(np.float64(0.0))
        before = [p.get_value().copy() for p in (mu, rho)]
        moved = []

        def watch(approx, losses, i):
            moved.append([p.get_value().copy() for p in (mu, rho)])

        rate.set_value(1e-3)
        inference.fit(
            3,
            obj_optimizer=pm.sgd(learning_rate=rate),
            callbacks=[recorder, watch],
            progressbar=False,
            compile_kwargs=FAST,
        )
    path = np.array([np.concatenate(x) for x in [before, *moved]])
    expected = np.linalg.norm(np.diff(path, axis=0), axis=1) / 1e-3  # sgd steps by the gradient
    np.testing.assert_allclose(recorder.trace.measure["gradient_norm"], expected, rtol=1e-6)


def test_only_a_switch_is_accepted():
    with pm.Model():
        pm.Normal("z")
        with pytest.raises(TypeError, match="gradient must be True or False, received 'norm'"):
            vt.ADVI(gradient="norm")
