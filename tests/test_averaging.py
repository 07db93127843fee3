import cloudpickle
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt
from vitoolkit.averaging import POWER, averages


class Iterates(vt.Callback):
    """Keeps all iterates; takes single steps."""

    every = 1

    def __init__(self):
        self.seen = []

    def on_block(self, run, block):
        self.seen.append([p.copy() for p in run.parameters()])


def expected(iterates):
    """The average by its weights: n (n + 1) (n + 2), a cube but for small n."""
    n = np.arange(1, len(iterates) + 1)
    weights = n * (n + 1.0) * (n + 2.0)
    return [np.average(values, axis=0, weights=weights) for values in zip(*iterates, strict=True)]


def inference_of(**options):
    with pm.Model():
        x = pm.Normal("x", shape=2)
        pm.Normal("y", x, 0.5, observed=[10.0, -3.0])
        return vt.ADVI(random_seed=1, average=True, **options)


OPTIONS = {"progressbar": False, "obj_optimizer": pm.adam(learning_rate=0.1)}


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_the_average_is_that_of_all_iterates_however_many_steps_a_call_takes(family):
    found = []
    for steps in ("auto", 1, 7):
        with pm.Model():
            x = pm.Normal("x", shape=2)
            pm.Normal("y", x, 0.5, observed=[10.0, -3.0])
            inference = family(random_seed=1, average=True, steps_per_execution=steps)
        seen = Iterates()
        inference.fit(150, callbacks=[seen] if steps == 1 else [], **OPTIONS)
        inference.refine(50, progressbar=False)
        found.append(inference.averages)
        if steps == 1:
            for value, other in zip(inference.averages, expected(seen.seen), strict=True):
                np.testing.assert_allclose(value, other, rtol=1e-9)
    for values in zip(*found, strict=True):
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(values[0], values[2])


def test_it_changes_no_step_and_begins_anew_when_beta_moves():
    beta = vt.Beta(1.0)
    inference, seen = inference_of(beta=beta), Iterates()
    inference.fit(60, callbacks=[seen], **OPTIONS)
    beta.set(1.005)  # nothing to speak of
    inference.refine(10, progressbar=False)
    np.testing.assert_allclose(inference.averages[0], expected(seen.seen)[0])
    beta.set(2.0)
    inference.refine(40, progressbar=False)
    np.testing.assert_allclose(inference.averages[0], expected(seen.seen[70:])[0])
    with pm.Model():
        x = pm.Normal("x", shape=2)
        pm.Normal("y", x, 0.5, observed=[10.0, -3.0])
        plain = vt.ADVI(random_seed=1)
    plain.fit(60, **OPTIONS)
    np.testing.assert_array_equal(plain.hist, inference.hist[:60])


def test_its_variance_is_that_of_the_law():
    # iterates of constant step on a quadratic: v / (a² n) for the plain average of n of them,
    # (η + 1)² / (2 η + 1) times that for polynomial decay
    a, v, rate, n, chains = 1.0, 4.0, 0.1, 2_000, 400
    rng = np.random.default_rng(1)
    x = np.zeros(chains)
    mean, plain = np.zeros(chains), np.zeros(chains)
    for k in range(1, n + 1):
        x = x - rate * (a * x + v**0.5 * rng.normal(size=chains))
        mean += (POWER + 1) / (k + POWER) * (x - mean)
        plain += (x - plain) / k
    assert plain.var() == pytest.approx(v / (a**2 * n), rel=0.2)
    factor = (POWER + 1) ** 2 / (2 * POWER + 1)
    assert mean.var() == pytest.approx(factor * v / (a**2 * n), rel=0.2)
    # the compiled one is the same recursion
    parameter = pytensor.shared(1.0, name="p")
    means, counters = averages({parameter: parameter * 0.5}, [parameter], [])
    step = pytensor.function([], [], updates={parameter: parameter * 0.5, **means, **counters})
    for _ in range(4):
        step()
    n = np.arange(1, 5)
    weights = n * (n + 1) * (n + 2)
    assert next(iter(means)).get_value() == pytest.approx(np.average(0.5**n, weights=weights))


def test_the_averaged_q_is_nearer_and_can_be_sampled():
    inference = inference_of()
    inference.fit(4_000, **OPTIONS)
    averaged = inference.averaged
    exact = np.array([8.0, -2.4])
    last, mean = (np.abs(q.mean.eval() - exact).max() for q in (inference.approx, averaged))
    assert mean < 0.02 and mean < last
    assert averaged.std.eval() == pytest.approx(0.2**0.5, rel=0.05)
    assert averaged.model is not inference.approx.model
    drawn = averaged.sample(2_000, random_seed=1)["posterior"]["x"].mean(("chain", "draw"))
    assert drawn.values == pytest.approx(exact, abs=0.05)
    before = inference.approx.mean.eval()
    inference.averaged.params[0].set_value(np.zeros(2))
    np.testing.assert_array_equal(inference.approx.mean.eval(), before)


def test_the_average_is_diagnosed_with_the_record_of_its_fit():
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, observed=10.0)
        fit = vt.fit(50, average=True, beta=2.0, random_seed=1, progressbar=False)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        found = vt.diagnose(fit.averaged, draws=200, linear_response=False, random_seed=1)
    assert "no record" not in found.verdict
    assert found.verdict.startswith("Too short to tell: 50 steps")
    assert "beta ended at 2" in found.verdict


def test_it_is_kept_with_the_fit():
    with pm.Model():
        x = pm.Normal("x", shape=2)
        pm.Normal("y", x, 0.5, observed=[10.0, -3.0])
        fit = vt.fit(300, average=True, learning_rate=0.1, random_seed=1, progressbar=False)
    copied = cloudpickle.loads(cloudpickle.dumps(fit))
    np.testing.assert_array_equal(copied.inference.averages[0], fit.inference.averages[0])
    np.testing.assert_array_equal(copied.averaged.mean.eval(), fit.averaged.mean.eval())
    fit.refine(100, progressbar=False)
    copied.refine(100, progressbar=False)
    np.testing.assert_array_equal(copied.inference.averages[0], fit.inference.averages[0])


def test_the_weights_of_networks_are_averaged_as_well():
    rows = np.random.default_rng(2).normal(size=(20, 3))
    weight = pytensor.shared(np.zeros((3, 1)), "weight", shape=(3, 1))
    with pm.Model():
        z = pm.Normal("z", shape=(20, 1))
        pm.Normal("y", z @ np.ones((1, 3)), observed=rows)
        mu = pt.as_tensor(rows) @ weight
        group = Group([z], params={"mu": mu, "rho": pt.zeros((20, 1))})
        inference = vt.KLqp(Approximation([group]), average=True, random_seed=1)
        inference.fit(2_000, more_obj_params=[weight], **OPTIONS)
    assert len(inference.averages) == 1 + len(inference.approx.params)
    average = inference.averages[-1]
    assert average == pytest.approx(np.full((3, 1), 0.25), abs=0.05)  # of the exact posterior
    q = inference.averaged
    np.testing.assert_allclose(q.groups[0].params_dict["mu"].eval(), (rows @ average).ravel())


def test_what_it_refuses():
    with pm.Model():
        pm.Normal("x")
        plain, early = vt.ADVI(), vt.ADVI(average=True)
        with pytest.raises(TypeError, match="average"):
            vt.ADVI(average="tail")
    with pytest.raises(RuntimeError, match="average=True"):
        _ = plain.averaged
    with pytest.raises(RuntimeError, match="before the first step"):
        _ = early.averaged
