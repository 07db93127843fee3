import copy

import cloudpickle
import numpy as np
import pymc as pm
import pytensor
import pytest
from models import regression

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


# --- what PyMC's inferences can do ---------------------------------------------------------------


def test_beta_may_stand_second(gaussians):
    assert vt.KLqp(pm.MeanField(), 0.5).controls[0].value == 0.5


@pytest.mark.parametrize("gradient", [False, True])
def test_the_objective_gives_pymcs_step_function(gaussians, gradient):
    mode = {"mode": "FAST_COMPILE"}
    inference = vt.ADVI(random_seed=1, gradient=gradient)
    step = inference.objective.step_function(score=True, compile_kwargs=mode)
    before = inference.approx.params[0].get_value()
    losses = [float(step()) for _ in range(5)]
    assert np.isfinite(losses).all() and len(set(losses)) == 5
    assert (inference.approx.params[0].get_value() != before).all()
    stock = pm.ADVI(random_seed=1).objective.step_function(score=True, compile_kwargs=mode)
    np.testing.assert_allclose(losses, [float(stock()) for _ in range(5)], rtol=1e-9)
    assert not vt.ADVI().objective.step_function(compile_kwargs=mode)()


def test_a_step_can_be_profiled(gaussians):
    profile = vt.ADVI().run_profiling(n=5, compile_kwargs={"mode": "FAST_COMPILE"})
    assert profile.fct_callcount == 5


@pytest.mark.parametrize("option", ["kl_bi", "nope"])
def test_an_option_that_does_not_exist_is_named_with_the_nearest(gaussians, option):
    hint = "Did you mean 'kl_by'" if option == "kl_bi" else "It takes model, random_seed, start"
    with pytest.raises(TypeError, match=f"ADVI has no option '{option}'.*{hint}"):
        vt.ADVI(**{option: 1})
    with pytest.raises(TypeError, match=f"KLqp has no option '{option}'"):
        vt.KLqp(pm.MeanField(), **{option: 1})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 10**13}, ValueError, "losses alone take 80,000 GB"),
        ({"obj_n_mc": 0}, ValueError, "obj_n_mc must be a whole number of draws from 1 up"),
        ({"obj_nmc": 1}, TypeError, "ADVI.fit has no option 'obj_nmc'. Did you mean 'obj_n_mc'"),
        ({"obj_optimizer": 3}, TypeError, "obj_optimizer must be a PyMC optimizer"),
        ({"callbacks": 5}, TypeError, "callbacks must be a list"),
        ({"progressbar": "a"}, TypeError, "progressbar must be True or False"),
    ],
)
@pytest.mark.parametrize("through", ["fit", "pm.fit"])
def test_wrong_options_of_a_fit_are_refused_before_a_callback_hears_of_it(
    gaussians, options, error, message, through
):
    inference = vt.ADVI()
    options = {"n": 5, **options}
    with pytest.raises(error, match=message):
        inference.fit(**options) if through == "fit" else pm.fit(method=inference, **options)
    assert inference.run is None


# --- where a fit starts ---------------------------------------------------------------------------


def positive():
    with pm.Model() as model:
        pm.HalfNormal("s")
        pm.Normal("w", shape=(2, 3))
    return model


@pytest.mark.parametrize("name", ["s", "s_log__"])
def test_start_sigma_goes_by_the_variables_own_name_and_by_that_of_its_value(name):
    with positive():
        approx = vt.ADVI(start_sigma={name: 0.2}).approx
    np.testing.assert_allclose(approx.std.eval(), [0.2] + [np.log(2.0)] * 6)


def test_start_sigma_of_a_matrix_stands_where_its_coordinates_do():
    sigma = np.arange(1.0, 7.0).reshape(2, 3)
    with positive() as model:
        w = model["w"]
        approx = vt.ADVI(start_sigma={w: sigma}).approx
    np.testing.assert_allclose(approx.std.eval()[1:], sigma.ravel())


def test_start_goes_by_the_variables_own_name_and_by_that_of_its_value():
    with positive() as model:
        for start in ({"s": 2.0}, {"s_log__": np.log(2.0)}, {model["s"]: 2.0}):
            np.testing.assert_allclose(vt.ADVI(start=start).approx.mean.eval()[0], np.log(2.0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": {"s": 1.0, "s_log__": 0.0}}, ValueError, "given twice for 's'"),
        ({"start": {"s": -1.0}}, ValueError, "start of 's' is out of its support"),
        ({"start": {"w": np.zeros((3, 2))}}, ValueError, r"shape \(2, 3,?\), received \(3, 2\)"),
        ({"start": {"w": [[1.0], "a"]}}, TypeError, "must be a number or an array"),
        ({"start_sigma": {"s": 1.0, "s_log__": 0.0}}, ValueError, "given twice for 's'"),
        ({"start_sigma": {"w": np.ones(2)}}, ValueError, "or a scalar, received"),
        ({"start_sigma": {"w": -1.0}}, ValueError, "must be positive"),
        ({"start_sigma": [1.0]}, TypeError, "start_sigma must be a mapping"),
    ],
)
def test_a_bad_start_is_refused(options, error, message):
    with positive(), pytest.raises(error, match=message):
        vt.ADVI(**options)


# --- pickled and copied --------------------------------------------------------------------------


def pickled(thing):
    return cloudpickle.loads(cloudpickle.dumps(thing))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy], ids=["cloudpickle", "deepcopy"])
@pytest.mark.parametrize("steps", ["auto", 7])
@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_a_copy_goes_on_as_the_fit_would_have_bit_for_bit(fast, family, steps, copied):
    with regression(minibatch=True):
        beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=30))
        inference = family(beta=beta, random_seed=1, gradient=True, steps_per_execution=steps)
        inference.fit(30, obj_optimizer=pm.adam(learning_rate=0.01), **fast)
    other = copied(inference)
    assert other.approx is not inference.approx and other.steps_taken == 30
    assert other.controls[0].value == beta.value
    other.refine(25, progressbar=False)
    assert inference.steps_taken == 30
    inference.refine(25, progressbar=False)
    np.testing.assert_array_equal(other.hist, inference.hist)
    for mine, yours in zip(other.approx.params, inference.approx.params, strict=True):
        np.testing.assert_array_equal(mine.get_value(), yours.get_value())
    twice = copied(copied(inference))
    twice.refine(5, progressbar=False)
    inference.refine(5, progressbar=False)
    np.testing.assert_array_equal(twice.hist, inference.hist)


def test_an_inference_that_has_not_begun_is_copied_as_well(gaussians, fast):
    inference = vt.ADVI(beta={"z": 4.0}, random_seed=3)
    other = pickled(inference)
    np.testing.assert_array_equal(other.fit(10, **fast).hist, inference.fit(10, **fast).hist)


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy], ids=["cloudpickle", "deepcopy"])
def test_a_control_is_copied_without_its_lock(copied):
    beta = vt.Beta(schedule=vt.schedules.linear(0.0, 2.0, steps=10), name="mine")
    beta.advance(5)
    beta.set(1.5)
    other = copied(beta)
    assert (other.name, other.value, other.bounds) == ("mine", 1.5, beta.bounds)
    assert other.manual and other.advance(6) == 1.5
    other.set(0.5)
    assert beta.value == 1.5 and other.shared is not beta.shared


def test_starting_deviations_may_be_flat(fast):
    with pm.Model():
        pm.Normal("m", shape=(2, 3))
        s = pm.Normal("s")
        pm.Normal("y", s, observed=1.0)
        flat = vt.ADVI(start_sigma={"m": np.linspace(0.1, 0.6, 6), "s": [0.2]})
        full = vt.ADVI(start_sigma={"m": np.linspace(0.1, 0.6, 6).reshape(2, 3), "s": 0.2})
        with pytest.raises(ValueError, match=r"shape \(2, 3,\) or a scalar, received \(5,\)"):
            vt.ADVI(start_sigma={"m": np.full(5, 0.1)})
    np.testing.assert_array_equal(flat.approx.std.eval(), full.approx.std.eval())
    np.testing.assert_allclose(flat.approx.std.eval(), [*np.linspace(0.1, 0.6, 6), 0.2])
