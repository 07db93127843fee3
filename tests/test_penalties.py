"""Penalties against closed forms: prior N(0, 1), one datum y with noise variance s²."""

import json

import numpy as np
import pymc as pm
import pytest
from pymc.variational.opvi import Approximation, Group
from scipy.optimize import brentq

import vitoolkit as vt
from vitoolkit.given import again, told

Y, NOISE = 2.0, 0.5  # the datum, and the variance of its noise
FAST = {"progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}}


def optimum(beta, y=Y, noise=NOISE):
    """Mean and sd of q at the optimum of the β-ELBO."""
    return y / (1 + beta * noise), (1 + 1 / (beta * noise)) ** -0.5


def kl_of(mean, sd):
    return 0.5 * (sd**2 + mean**2 - 1) - np.log(sd)


def conjugate(y=Y, noise=NOISE):
    """The model of one variable, or of one coordinate for each datum."""
    with pm.Model() as model:
        z = pm.Normal("z", shape=np.shape(y))
        pm.Normal("y", z, np.sqrt(noise), observed=y)
    return model


def trained(family, penalty, y=Y, noise=NOISE, steps=2_000, **kwargs):
    """The end of a fit under a penalty; the data term has noise, so that the steps get short."""
    rate = vt.LearningRate(schedule=vt.schedules.exponential(0.05, 1e-4, steps=steps))
    recorder = vt.Recorder(rate)
    with conjugate(y, noise):
        inference = family(penalty={"z": penalty}, random_seed=1, **kwargs)
        inference.fit(
            steps,
            callbacks=[recorder],
            obj_optimizer=pm.adam(learning_rate=rate.shared),
            **FAST,
        )
    return inference, recorder.trace


CAPACITY = 0.6
STAR = brentq(lambda beta: kl_of(*optimum(beta)) - CAPACITY, 0.1, 10)  # β*(0.6)


@pytest.mark.parametrize(("family", "beta"), [(vt.ADVI, 1.0), (vt.FullRankADVI, 4.0)])
@pytest.mark.parametrize("share", [0.5, 2.0], ids=["too weak", "strong enough"])
def test_a_capacity_is_held_where_its_weight_is_beta_star_or_more(share, beta, family):
    gamma = share * STAR / beta
    _, trace = trained(family, vt.penalties.capacity(CAPACITY, gamma=gamma), beta={"z": beta})
    expected = CAPACITY if share > 1 else kl_of(*optimum(share * STAR))
    # Held, the KL has no noise; at the other optimum it has that of the data term's gradient.
    within = 0.02 if share > 1 else 0.1
    assert trace.kl["z"][-500:].mean() == pytest.approx(expected, abs=within)


def test_a_capacity_above_the_kl_of_the_data_pulls_the_kl_up():
    _, trace = trained(vt.ADVI, vt.penalties.capacity(3.0, gamma=50.0))
    assert trace.kl["z"][-500:].mean() == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_free_bits_by_coordinate_are_the_floor_or_the_kl_without_it(family):
    y, noise, least = np.array([0.1, 3.0]), np.array([20.0, 0.5]), 0.5
    inference, trace = trained(
        family,
        vt.penalties.free_bits(least, by="coordinate"),
        y,
        noise,
        steps=4_000,
        kl_by="coordinate",
    )
    free = np.array([kl_of(*optimum(1.0, a, b)) for a, b in zip(y, noise, strict=True)])
    found = trace.kl_by["z"][-500:].mean(axis=0)
    np.testing.assert_allclose(found, np.maximum(free, least), atol=0.04)
    assert free[0] < least < free[1]


def test_free_bits_of_a_whole_variable_are_of_its_sum():
    with conjugate(np.array([0.1, 3.0])):
        recorder = vt.Recorder()
        inference = vt.ADVI(penalty=vt.penalties.free_bits(1.5), kl_by="coordinate", random_seed=1)
        inference.fit(5, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.05), **FAST)
    trace = recorder.trace
    np.testing.assert_allclose(
        trace.measure["penalty[z]"], np.maximum(trace.kl_by["z"].sum(axis=1), 1.5), rtol=1e-9
    )


# --- the record ----------------------------------------------------------------------------------


def two(penalty, steps=1, **kwargs):
    """20 steps of z, which has a penalty, and w, which has none."""
    beta = vt.Beta(0.5)
    with pm.Model():
        z, w = pm.Normal("z", shape=3), pm.HalfNormal("w")
        pm.Normal("y", z, 0.3 + w, observed=[0.4, 1.0, -2.0])
        recorder = vt.Recorder()
        inference = vt.ADVI(
            beta={"z": beta, "w": 2.0},
            penalty=penalty,
            random_seed=3,
            steps_per_execution=steps,
            **kwargs,
        )
        inference.fit(20, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.01), **FAST)
    return inference, recorder.trace


RAMP = vt.schedules.linear(0.0, 4.0, steps=10)


@pytest.mark.parametrize("steps", [1, 7], ids=["single", "fused"])
def test_the_loss_is_put_together_from_the_columns_of_every_step(steps):
    """The schedule of the capacity is exact at every step, fused or not."""
    _, trace = two({"z": vt.penalties.capacity(RAMP, gamma=3.0)}, steps, gradient=True)
    ramp = [RAMP(step) for step in range(20)]
    np.testing.assert_allclose(trace.control["capacity[z]"], ramp, rtol=1e-12)
    expected = 0.5 * 3.0 * np.abs(trace.kl["z"] - ramp)
    np.testing.assert_allclose(trace.measure["penalty[z]"], expected, rtol=1e-9)
    np.testing.assert_allclose(trace.loss, -trace.data + expected + 2.0 * trace.kl["w"], rtol=1e-9)
    np.testing.assert_allclose(trace.elbo, trace.data - trace.kl["z"] - trace.kl["w"], rtol=1e-9)
    assert trace.measures[0] == "penalty[z]" and "gradient_norm" in trace.measures


def test_fused_and_single_steps_are_the_same():
    penalty = {"z": vt.penalties.capacity(RAMP, gamma=3.0), "w": vt.penalties.free_bits(0.3)}
    (_, one), (_, many) = two(penalty), two(penalty, 7)
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-9)
    assert one.measures == ("penalty[z]", "penalty[w]")


def test_a_level_moves_live_and_without_a_new_step():
    with conjugate():
        recorder = vt.Recorder()
        inference = vt.ADVI(penalty={"z": vt.penalties.capacity(1.0)}, random_seed=1)
        level = inference.penalty["z"].level
        moved = vt.every(5, lambda *_: level.set(4.0))
        inference.fit(
            10,
            callbacks=[recorder, moved],
            obj_optimizer=pm.sgd(learning_rate=0.0),
            **FAST,
        )
        compiled = inference.step_function.function
    used = recorder.trace.control["capacity[z]"]
    assert used.tolist() == [1.0] * 5 + [4.0] * 5
    np.testing.assert_allclose(
        recorder.trace.measure["penalty[z]"], 10 * np.abs(recorder.trace.kl["z"] - used), rtol=1e-12
    )
    assert inference.step_function.function is compiled


def test_the_column_is_in_every_export_and_comes_back(tmp_path):
    _, trace = two({"z": vt.penalties.free_bits(0.5)})
    dataset, frame = trace.to_xarray(), trace.to_dataframe()
    assert dataset["penalty[z]"].attrs["units"] == frame.attrs["units"]["penalty[z]"] == "nats"
    for name, write in [("a.csv", trace.to_csv), ("a.nc", trace.to_netcdf)]:
        write(tmp_path / name)
        back = vt.Trace.open(tmp_path / name)
        np.testing.assert_array_equal(back.measure["penalty[z]"], trace.measure["penalty[z]"])


def test_the_verdict_says_that_it_is_not_the_posterior():
    _, trace = two({"w": vt.penalties.free_bits(0.5)})
    assert "w has a penalty in the place of its KL" in trace.attrs["verdict"]
    assert "z has a penalty" not in trace.attrs["verdict"]


def test_the_loss_is_said_in_words():
    inference, _ = two({"z": vt.penalties.capacity(1.0, per=3.0), "w": vt.penalties.free_bits(0.5)})
    assert (
        "loss = -data term + beta * 10 * |KL(z) - 3 * capacity[z]| + "
        "beta[w] * max(KL(w), free_bits[w])" in repr(inference)
    )


# --- other approximations ---------------------------------------------------------------------


def test_a_kl_without_a_closed_form_is_that_of_the_draws():
    """The penalty is of the mean over the draws of a step, not the mean of penalties."""
    with pm.Model():
        z = pm.HalfNormal("z", shape=2)
        pm.Normal("y", z, 1.0, observed=[0.3, 2.0])
        recorder = vt.Recorder()
        inference = vt.FullRankADVI(penalty={"z": vt.penalties.capacity(1.0)}, random_seed=1)
        inference.fit(
            10, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), obj_n_mc=3, **FAST
        )
    trace = recorder.trace
    assert trace.kl["z"].std() > 0.01
    np.testing.assert_allclose(
        trace.measure["penalty[z]"], 10 * np.abs(trace.kl["z"] - 1.0), rtol=1e-9
    )


def test_amortized_minibatches_are_penalized_in_nats_of_the_full_data_set():
    rows, batch, units = 40, 8, 2
    data = np.random.default_rng(0).normal(size=(rows, 3))
    import pytensor
    import pytensor.tensor as pt

    weights = pytensor.shared(np.full((3, units), 0.2), "encoder", shape=(3, units))
    with pm.Model(coords={"row": range(batch), "unit": range(units)}):
        x = pm.Minibatch(data, batch_size=batch)
        z = pm.Normal("z", dims=("row", "unit"))
        pm.Normal("x", z @ np.eye(units, 3), 0.5, observed=x, total_size=rows)
        params = {"mu": x @ weights, "rho": pt.zeros((batch, units)) - 1.0}
        recorder = vt.Recorder()
        inference = vt.KLqp(
            Approximation([Group([z], params=params)]),
            total_size={"z": rows},
            kl_by={"z": "unit"},
            penalty={"z": vt.penalties.free_bits(0.78, by="coordinate", per=rows)},
            random_seed=1,
        )
        inference.fit(
            20,
            callbacks=[recorder],
            obj_optimizer=pm.adam(learning_rate=0.01),
            more_obj_params=[weights],
            **FAST,
        )
        trace = recorder.trace
        expected = np.maximum(trace.kl_by["z"], 0.78 * rows).sum(axis=1)
        c = rows / batch
        assert (trace.kl_by["z"] < 0.78 * rows).any() and (trace.kl_by["z"] > 0.78 * rows).any()
        np.testing.assert_allclose(trace.measure["penalty[z]"], expected, rtol=1e-9)
        np.testing.assert_allclose(trace.loss, (expected - trace.data) / c, rtol=1e-9)
        inference.set_scale_cost(False)
        inference.refine(5, progressbar=False)
    whole = recorder.trace
    np.testing.assert_allclose(
        whole.loss[-5:], (whole.measure["penalty[z]"] - whole.data)[-5:], rtol=1e-9
    )


def test_hundreds_of_scalars_may_have_one_that_is_penalized():
    with pm.Model():
        x = [pm.Normal(f"x{i}", i / 10, 1.0) for i in range(20)]
        pm.Normal("y", sum(x), 1.0, observed=3.0)
        recorder = vt.Recorder()
        vt.ADVI(penalty={"x3": vt.penalties.capacity(1.0)}, random_seed=1).fit(
            3, callbacks=[recorder], **FAST
        )
    trace = recorder.trace
    others = sum(kl for name, kl in trace.kl.items() if name != "x3")
    np.testing.assert_allclose(
        trace.loss, -trace.data + others + trace.measure["penalty[x3]"], rtol=1e-9
    )


# --- what is refused, and what is not mixed up ------------------------------------------------


@pytest.mark.parametrize(
    "penalty",
    [
        vt.penalties.capacity(RAMP, gamma=3.0, per=7.0),
        vt.penalties.free_bits(0.5, by="coordinate"),
        vt.penalties.free_bits(1),
    ],
)
def test_a_file_can_hold_it(penalty):
    assert again(json.loads(json.dumps(told({"z": penalty})))) == {"z": penalty}


def test_one_penalty_is_for_every_variable_by_itself_and_has_one_level():
    inference, trace = two(vt.penalties.free_bits(0.5))
    assert [control.name for control in inference.controls] == ["beta", "beta[w]", "free_bits"]
    for name in ("z", "w"):
        assert (trace.measure[f"penalty[{name}]"] >= 0.5 * 0.5).all()


def test_a_control_that_is_given_is_the_one_that_is_used():
    level = vt.Control(2.0, bounds=(0.0, 5.0), name="my capacity")
    inference, trace = two({"z": vt.penalties.capacity(level)})
    assert inference.penalty["z"].level is level and "my capacity" in trace.controls


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: p.capacity(-1.0), ValueError, r"target must be .* from 0 up, received -1"),
        (lambda p: p.capacity("a"), TypeError, "A schedule or a Control is accepted"),
        (lambda p: p.capacity(1.0, gamma=0.0), ValueError, "gamma must be .* above 0"),
        (lambda p: p.capacity(1.0, per=-2.0), ValueError, "per must be .* above 0"),
        (lambda p: p.free_bits(True), TypeError, "least must be a real number, received True"),
        (lambda p: p.free_bits(0.5, by=2), TypeError, "by must be 'coordinate'"),
        (lambda p: p.capacity(lambda step: -1.0), ValueError, "target at step 0"),
        (
            lambda p: p.capacity(vt.Control(0.0, name="c")),
            ValueError,
            "a KL is not negative, but control 'c'",
        ),
    ],
)
def test_a_bad_penalty_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(vt.penalties)


@pytest.mark.parametrize(
    ("penalty", "error", "message"),
    [
        (3.0, TypeError, "penalty must be one of vitoolkit.penalties.*received 3.0"),
        ({"z": 3.0}, TypeError, "for 'z', penalty must be one of"),
        ({"q": vt.penalties.capacity(1.0)}, KeyError, "penalty was given for 'q'"),
        ({"flat": vt.penalties.capacity(1.0)}, ValueError, "the prior of 'flat' is flat"),
        ({"z": vt.penalties.free_bits(1.0, by="town")}, ValueError, "by must be one of 'coord"),
        ({"m": vt.penalties.free_bits(1.0, by="coordinate")}, ValueError, "is multivariate"),
        (vt.penalties.free_bits(1.0, by="town"), ValueError, "fits no variable of the model"),
    ],
)
def test_a_penalty_that_does_not_fit_the_model_is_refused(penalty, error, message):
    with pm.Model():
        pm.Normal("z", shape=2)
        pm.Flat("flat")
        pm.MvNormal("m", np.zeros(2), np.eye(2))
        with pytest.raises(error, match=message):
            vt.ADVI(penalty=penalty)


def test_steps_of_other_penalties_are_other_code():
    def code(penalty):
        with conjugate():
            inference = vt.ADVI(penalty=penalty, random_seed=1)
            inference.fit(1, obj_optimizer=pm.sgd(learning_rate=0.1), **FAST)
        return inference.step_function.function

    penalties = vt.penalties
    given = [None, penalties.capacity(1.0), penalties.capacity(1.0, gamma=2.0)]
    given += [penalties.capacity(1.0, per=3.0), penalties.free_bits(1.0)]
    codes = [code(penalty) for penalty in given]
    assert len(set(map(id, codes))) == len(codes)
    assert code(penalties.capacity(2.0)) is codes[1]


def test_fits_of_a_grid_have_levels_of_their_own():
    with conjugate():
        grid = {"penalty": {c: vt.penalties.capacity(c) for c in (0.5, 3.0)}}
        fits = vt.fit_many(30, grid=grid, random_seed=1, compile_kwargs=FAST["compile_kwargs"])
    for (c,), fit in fits.items():
        kl = fit.trace.kl["z"]
        np.testing.assert_allclose(fit.trace.measure["penalty[z]"], 10 * np.abs(kl - c), rtol=1e-9)
