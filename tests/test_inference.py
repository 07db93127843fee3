import numpy as np
import pymc as pm
import pytensor
import pytest

import vitoolkit as vt
from vitoolkit.steps import counter_of


@pytest.mark.parametrize(
    ("beta", "error", "message"),
    [
        ({"nope": 1.0}, KeyError, "no such variable. The free variables are 'z', 'w'"),
        ({"y_z": 1.0}, KeyError, "it is observed"),
        ({"z": -1.0}, ValueError, "from 0 up, received -1.0"),
        ({"z": float("nan")}, ValueError, "received nan"),
        ({"z": "1"}, TypeError, "received '1'"),
        ({"z": True}, TypeError, "received True"),
        (vt.Control(1.0, name="free"), ValueError, "cannot be negative.*'free' has bounds"),
        (
            {"z": vt.Beta(name="b"), "w": vt.Beta(name="b")},
            ValueError,
            "two controls are named 'b'",
        ),
    ],
)
def test_a_bad_beta_is_refused_before_anything_is_compiled(gaussians, beta, error, message):
    with pytest.raises(error, match=message):
        vt.ADVI(beta=beta)


def test_the_name_of_a_transformed_value_is_explained():
    with pm.Model():
        pm.HalfNormal("tau")
        with pytest.raises(KeyError, match="transformed value; use the variable's own"):
            vt.ADVI(beta={"tau_log__": 1.0})


def test_two_controls_on_one_shared_variable_are_refused(gaussians):
    shared = pytensor.shared(np.asarray(1.0))
    with pytest.raises(ValueError, match="two writers"):
        vt.ADVI(beta={"z": vt.Beta(shared=shared, name="a"), "w": vt.Beta(shared=shared, name="b")})


def test_more_updates_must_not_write_a_control(gaussians, fast):
    beta = vt.Beta()
    with pytest.raises(ValueError, match="more_updates and control 'beta'"):
        vt.ADVI(beta=beta).fit(3, more_updates={beta.shared: beta.shared * 0.9}, **fast)


def test_numbers_become_live_controls_and_unnamed_betas_get_the_names_of_their_variables(gaussians):
    shared = vt.Beta()
    assert [c.name for c in vt.ADVI().controls] == ["beta"]
    assert [c.name for c in vt.ADVI(beta={"z": 4.0}).controls] == ["beta[z]"]
    assert [c.name for c in vt.ADVI(beta={"z": shared}).controls] == ["beta"]
    assert vt.ADVI(beta={"z": shared, "w": shared}).controls == (shared,)
    named = vt.ADVI(beta={"z": vt.Beta(), "w": vt.Beta()}).controls
    assert [c.name for c in named] == ["beta[z]", "beta[w]"]
    assert vt.ADVI(beta=40.0).controls[0].bounds == (0.0, 80.0)


def test_an_approximation_is_needed(gaussians):
    with pytest.raises(TypeError, match="must be a PyMC Approximation"):
        vt.KLqp("advi")


def test_repr_says_the_loss_and_the_steps(gaussians, fast):
    inference = vt.ADVI(beta={"z": 4.0})
    assert "loss = -data term + beta[z] * KL(z) + KL(w), 0 steps taken" in repr(inference)
    inference.fit(7, **fast)
    assert "7 steps taken" in repr(inference)


def test_an_inference_is_found_from_its_approximation_and_not_kept_alive(gaussians):
    inference = vt.ADVI()
    counter = counter_of(inference.approx)
    assert counter.inference is inference


def test_backend_is_passed_on_or_refused(gaussians):
    inference = vt.ADVI(random_seed=1)
    if int(pm.__version__.split(".")[0]) < 6:
        with pytest.raises(TypeError, match="needs PyMC 6"):
            inference.fit(1, backend="numba", progressbar=False)
    else:
        inference.fit(2, backend="c", progressbar=False)
        assert "VMLinker" in inference.step_function.reason


def test_total_grad_norm_constraint_and_more_obj_params(gaussians, fast):
    extra = pytensor.shared(np.asarray(1.0), name="extra")
    with gaussians:
        pm.Potential("pull", -((extra - 3.0) ** 2))
        inference = vt.ADVI(random_seed=1, steps_per_execution=20)
        inference.fit(
            400,
            more_obj_params=[extra],
            total_grad_norm_constraint=10.0,
            obj_optimizer=pm.adam(learning_rate=0.05),
            **fast,
        )
    assert abs(float(extra.get_value()) - 3.0) < 0.05


def test_start_values(gaussians):
    approx = vt.ADVI(start={"z": 0.7}, start_sigma={"z": 0.2}).approx
    np.testing.assert_allclose(approx.mean.eval(), [0.7, 0.0])
    np.testing.assert_allclose(approx.std.eval()[0], 0.2)
