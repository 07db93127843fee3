"""Sticking the landing against closed forms: no noise where q is the tempered posterior."""

import numpy as np
import pymc as pm
import pytest
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt

FAST = {"progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}}
DESIGN = np.array([[1.0, 0.5], [-0.3, 1.2], [0.8, -0.4]])
Y, NOISE = np.array([1.0, -0.5, 2.0]), 0.5


def model(design):
    with pm.Model() as regression:
        z = pm.Normal("z", shape=2)
        pm.Normal("y", design @ z, np.sqrt(NOISE), observed=Y)
    return regression


def put(inference, design, beta):
    """Put q where the β-ELBO has its optimum: the posterior of a likelihood to the power 1/β."""
    precision = np.eye(2) + design.T @ design / (beta * NOISE)
    mean = np.linalg.solve(precision, design.T @ Y / (beta * NOISE))
    params = inference.approx.groups[0].shared_params
    params["mu"].set_value(mean)
    if "rho" in params:
        params["rho"].set_value(np.log(np.expm1(np.diag(precision) ** -0.5)))
        return
    factor = np.linalg.cholesky(np.linalg.inv(precision))
    np.fill_diagonal(factor, np.log(np.expm1(np.diag(factor))))
    params["L_tril"].set_value(factor[np.tril_indices(2)])


ORTHOGONAL = np.array([[1.0, 0.0], [0.0, 1.2], [0.0, 0.0]])


def norms(family, design, beta, estimator, **kwargs):
    """Norm of the gradient of each of 50 draws at the optimum, where q stays."""
    recorder = vt.Recorder()
    with model(design):
        inference = family(
            beta=beta, random_seed=1, gradient=True, gradient_estimator=estimator, **kwargs
        )
        put(inference, design, beta)
        inference.fit(50, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), **FAST)
    return recorder.trace.measure["gradient_norm"]


@pytest.mark.parametrize("steps", [1, 10], ids=["single", "fused"])
@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(
    ("family", "design"),
    [(vt.ADVI, ORTHOGONAL), (vt.FullRankADVI, DESIGN)],
    ids=["mean field", "full rank"],
)
def test_the_gradient_of_every_draw_at_the_optimum_is_zero(family, design, beta, steps):
    stuck = norms(family, design, beta, "stl", steps_per_execution=steps)
    assert stuck.max() < 1e-12
    assert norms(family, design, beta, "total").min() > 1e-2


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_losses_are_the_same_numbers_and_the_gradient_has_the_same_mean(family, draws):
    def run(estimator, rate):
        recorder = vt.Recorder()
        with model(DESIGN):
            inference = family(random_seed=1, gradient_estimator=estimator, beta=2.0)
            inference.fit(
                400,
                callbacks=[recorder],
                obj_optimizer=pm.sgd(learning_rate=rate),
                obj_n_mc=draws,
                **FAST,
            )
        return recorder.trace.loss, inference.approx.groups[0].shared_params

    (total, _), (stuck, _) = run("total", 0.0), run("stl", 0.0)
    np.testing.assert_allclose(stuck, total, rtol=1e-9)
    (_, ordinary), (_, moved) = run("total", 1e-5), run("stl", 1e-5)  # 400 steps from one place
    for name, parameter in ordinary.items():
        start = {"mu": 0.0, "rho": 0.0, "L_tril": np.eye(2)[np.tril_indices(2)]}[name]
        a, b = parameter.get_value() - start, moved[name].get_value() - start
        assert np.linalg.norm(a - b) < 0.3 * np.linalg.norm(a)


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_the_fit_ends_sharp_without_a_decay_of_the_learning_rate(family):
    design = ORTHOGONAL if family is vt.ADVI else DESIGN
    with model(design):
        inference = family(random_seed=1, gradient_estimator="stl")
        inference.fit(1_500, obj_optimizer=pm.adam(learning_rate=0.02), **FAST)
        found = inference.approx.cov.eval()
    np.testing.assert_allclose(
        found, np.linalg.inv(np.eye(2) + design.T @ design / NOISE), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_estimator": "path"}, "must be 'total' or 'stl'.*received 'path'"),
        ({"gradient_estimator": "stl", "closed_form": ["z"]}, "Give one of the two"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with model(DESIGN), pytest.raises(ValueError, match=message):
        vt.ADVI(**options)


def test_a_penalty_in_closed_form_goes_beside_it_and_the_rest_sticks():
    with pm.Model():
        pm.Normal("z", shape=2)
        pm.HalfNormal("w")
        recorder = vt.Recorder()
        vt.ADVI(
            penalty={"z": vt.penalties.free_bits(0.1)}, gradient_estimator="stl", random_seed=1
        ).fit(20, callbacks=[recorder], **FAST)
    assert np.isfinite(recorder.trace.loss).all()


def test_steps_of_the_two_are_other_code():
    def code(estimator):
        with model(DESIGN):
            inference = vt.ADVI(gradient_estimator=estimator, random_seed=1)
            inference.fit(1, obj_optimizer=pm.sgd(learning_rate=0.1), **FAST)
        return inference.step_function.function

    assert code("stl") is not code("total") and code("stl") is code("stl")


def test_amortized_groups_stick():
    """A linear encoder that is the posterior of every row: the gradient of the encoder is 0."""
    import pytensor
    import pytensor.tensor as pt

    data = np.random.default_rng(0).normal(size=(12, 2))
    precision = 1 + 1 / NOISE
    encoder = pytensor.shared(np.eye(2) / NOISE / precision, "encoder", shape=(2, 2))
    with pm.Model():
        x = pm.Minibatch(data, batch_size=4)
        z = pm.Normal("z", shape=(4, 2))
        pm.Normal("x", z, np.sqrt(NOISE), observed=x, total_size=12)
        rho = pt.full((4, 2), np.log(np.expm1(precision**-0.5)))
        recorder = vt.Recorder()
        inference = vt.KLqp(
            Approximation([Group([z], params={"mu": x @ encoder, "rho": rho})]),
            total_size={"z": 12},
            gradient=True,
            gradient_estimator="stl",
            random_seed=1,
        )
        inference.fit(
            10,
            callbacks=[recorder],
            obj_optimizer=pm.sgd(learning_rate=0.0),
            more_obj_params=[encoder],
            **FAST,
        )
    assert recorder.trace.measure["gradient_norm"].max() < 1e-12
