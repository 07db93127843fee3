"""What is frozen stays to the last bit, and what has a rate of its own goes at that rate."""

import threading

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt
from vitoolkit.by_variable import RATES, owners
from vitoolkit.requests import Request
from vitoolkit.steps import counter_of

FAST = {"progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}}
PRECISION, MEAN = np.array([[2.0, 0.8], [0.8, 1.5]]), np.array([1.0, -1.0])


def gaussian():
    """A posterior N(MEAN, PRECISION^-1) of a and b, which is all in a potential."""
    with pm.Model() as model:
        a, b = pm.Flat("a"), pm.Flat("b")
        away = pt.stack([a, b]) - MEAN
        pm.Potential("p", -0.5 * away @ PRECISION @ away)
    return model


def state_of(inference):
    return {name: v.get_value() for name, v in inference.step_function.state.items()}


# --- freeze ---------------------------------------------------------------------------------------


def test_a_frozen_variable_leaves_the_other_at_the_conditional_optimum():
    """At N(m2 - L22^-1 L21 (mu1 - m1), L22^-1); a's q is narrow, so that its draws are no noise."""
    expected = MEAN[1] - PRECISION[1, 0] / PRECISION[1, 1] * (0.2 - MEAN[0])
    assert expected == pytest.approx(-0.5733333333)
    with gaussian():
        inference = vt.ADVI(
            start={"a": 0.2},
            start_sigma={"a": 1e-7},
            random_seed=1,
            freezable=["a"],
            gradient_estimator="stl",
        )
        inference.freeze("a")
        approx = inference.fit(800, obj_optimizer=pm.adam(learning_rate=0.02), **FAST)
        mean, sd = approx.mean.eval(), approx.std.eval()
    assert mean[0] == 0.2 and sd[0] == pytest.approx(1e-7)
    assert mean[1] == pytest.approx(expected, abs=1e-4)
    assert sd[1] == pytest.approx(PRECISION[1, 1] ** -0.5, abs=1e-4)


def test_of_full_rank_the_marginal_is_held_and_the_rest_is_conditional_on_it():
    factor = np.array([np.log(np.expm1(0.3)), 0.7, 0.1])
    with gaussian():
        inference = vt.FullRankADVI(
            start={"a": 0.2}, random_seed=1, freezable=True, gradient_estimator="stl"
        )
        inference.approx.groups[0].shared_params["L_tril"].set_value(factor)
        inference.freeze("a")
        rate = vt.LearningRate(schedule=vt.schedules.exponential(0.05, 1e-4, steps=1_500))
        approx = inference.fit(
            1_500, callbacks=[rate], obj_optimizer=pm.adam(learning_rate=rate.shared), **FAST
        )
        mean, cov = approx.mean.eval(), approx.cov.eval()
    slope = -PRECISION[1, 0] / PRECISION[1, 1]
    assert mean[0] == 0.2 and cov[0, 0] == pytest.approx(0.09, rel=1e-12)
    assert mean[1] == pytest.approx(MEAN[1] + slope * (0.2 - MEAN[0]), abs=0.01)
    assert cov[0, 1] / cov[0, 0] == pytest.approx(slope, abs=0.02)
    conditional = cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0]
    assert conditional == pytest.approx(1 / PRECISION[1, 1], abs=0.02)


@pytest.mark.parametrize("steps", [1, 4], ids=["single", "fused"])
@pytest.mark.parametrize(
    "optimizer",
    [pm.adam, pm.momentum, pm.nesterov_momentum, pm.adagrad_window, pm.adadelta, pm.adamax],
    ids=lambda optimizer: optimizer.__name__,
)
def test_parameters_and_slots_are_held_bit_for_bit_while_frozen(optimizer, steps):
    with gaussian():
        inference = vt.ADVI(random_seed=1, freezable=True, steps_per_execution=steps)
        inference.fit(8, obj_optimizer=optimizer(learning_rate=0.01), **FAST)
        before = state_of(inference)
        inference.freeze("a")
        inference.refine(8, progressbar=False)
        after = state_of(inference)
        inference.thaw("a")
        inference.refine(8, progressbar=False)
        thawed = state_of(inference)
    arrays = [name for name, value in before.items() if getattr(value, "ndim", 0) > 0]
    assert len([name for name in arrays if name.startswith("optimizer")]) >= 2
    for name in arrays:
        np.testing.assert_array_equal(after[name][0], before[name][0], err_msg=name)
        assert (after[name][1] != before[name][1]).any(), name
        assert (thawed[name][0] != before[name][0]).any(), name


def test_freeze_and_thaw_are_events_of_the_step_they_are_in_force_from_and_can_be_undone():
    recorder = vt.Recorder()
    with gaussian():
        inference = vt.ADVI(random_seed=1, freezable=True)
        moved = []

        def steer(approx, losses, i):
            moved.append(approx.params[0].get_value().copy())
            act = {4: lambda: inference.freeze("a"), 8: lambda: inference.thaw("a", "b")}
            act |= {12: lambda: inference.freeze("b"), 14: lambda: inference.run.undo()}
            if i in act:
                other = threading.Thread(target=act[i])
                other.start()
                other.join()

        inference.fit(
            20,
            callbacks=[recorder, steer],
            obj_optimizer=pm.sgd(learning_rate=0.01),
            **FAST,
        )
    events = [(e.step, e.kind, e.control, e.new) for e in recorder.trace.events]
    assert events == [
        (4, "freeze", "frozen[a]", 1.0),
        (8, "thaw", "frozen[a]", 0.0),
        (8, "thaw", "frozen[b]", 0.0),
        (12, "freeze", "frozen[b]", 1.0),
        (14, "undo", "frozen[b]", 0.0),
    ]
    stays = (np.diff(np.array(moved), axis=0) == 0.0).T  # stays[v, i]: in step i + 1
    assert np.flatnonzero(stays[0]).tolist() == [3, 4, 5, 6]
    assert np.flatnonzero(stays[1]).tolist() == [11, 12]
    frozen = recorder.trace.control["frozen[a]"]
    assert np.flatnonzero(frozen).tolist() == [4, 5, 6, 7]


def test_a_run_with_freezing_is_repeated_to_the_last_bit():
    def run(**kwargs):
        with gaussian():
            return vt.fit(30, freezable=True, random_seed=1, learning_rate={"a": 0.01}, **kwargs)

    turns = iter([lambda i: i.freeze("a"), lambda i: i.thaw("a"), lambda i: i.freeze("b")])
    steer = vt.every(7, lambda approx, *_: next(turns, str)(counter_of(approx).inference))
    first = run(callbacks=steer, **FAST)
    assert [event.kind for event in first.trace.events] == ["freeze", "thaw", "freeze"]
    said = first.trace.attrs["verdict"]
    assert "b ended frozen" in said and "a ended frozen" not in said
    again = run(replay=first.trace, **FAST)
    np.testing.assert_array_equal(again.trace.loss, first.trace.loss)
    for name in ("frozen[a]", "frozen[b]"):
        np.testing.assert_array_equal(again.trace.control[name], first.trace.control[name])


def test_a_request_to_freeze_is_json():
    request = Request("freeze", "frozen[a]", 1.0, "user")
    assert Request.from_json(request.to_json()) == request


def test_with_nothing_frozen_the_steps_are_the_same():
    def losses(**kwargs):
        with gaussian():
            inference = vt.ADVI(random_seed=1, **kwargs)
            inference.fit(
                30,
                obj_optimizer=pm.adam(learning_rate=0.01),
                total_grad_norm_constraint=0.5,
                **FAST,
            )
        return inference.hist

    np.testing.assert_array_equal(losses(freezable=True), losses())


def test_the_norm_that_is_recorded_and_constrained_is_of_what_moves():
    recorder = vt.Recorder()
    with gaussian():
        inference = vt.ADVI(random_seed=1, freezable=True, gradient=True)
        inference.freeze("a")
        inference.fit(3, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), **FAST)
        inference.freeze("b")
        inference.refine(3, progressbar=False)
    norm = recorder.trace.measure["gradient_norm"]
    assert (norm[:3] > 0).all() and (norm[3:] == 0).all()


def amortized():
    encoder = pytensor.shared(np.full((2, 1), 0.1), "encoder", shape=(2, 1))
    decoder = pytensor.shared(np.array(0.5), "decoder", shape=())
    with pm.Model() as model:
        x = np.array([[1.0, 0.0], [0.5, -1.0]])
        z = pm.Normal("z", shape=(2, 1))
        pm.Normal("x", decoder * z, 1.0, observed=x[:, :1])
        params = {"mu": pt.constant(x) @ encoder, "rho": pt.zeros((2, 1))}
        approx = Approximation([Group([z], params=params)])
    return model, approx, encoder, decoder


def test_of_an_amortized_group_the_encoder_is_held_and_the_decoder_is_not():
    model, approx, encoder, decoder = amortized()
    with model:
        inference = vt.KLqp(approx, freezable=True, random_seed=1)
        inference.freeze("z")
        inference.fit(
            3,
            obj_optimizer=pm.adam(learning_rate=0.01),
            more_obj_params=[encoder, decoder],
            **FAST,
        )
        assert (encoder.get_value() == 0.1).all() and decoder.get_value() != 0.5
        inference.thaw("z")
        inference.refine(1, progressbar=False)
        assert (encoder.get_value() != 0.1).all()


def test_a_shared_encoder_cannot_be_held_by_variable():
    weight = pytensor.shared(np.array([0.1]), "both", shape=(1,))
    with pm.Model():
        a, b = pm.Normal("a", shape=1), pm.Normal("b", shape=1)
        groups = [Group([v], params={"mu": weight * 2.0, "rho": pt.zeros(1)}) for v in (a, b)]
        inference = vt.KLqp(Approximation(groups), freezable=True)
        with pytest.raises(ValueError, match="both is of the q of several variables .*'a', 'b'"):
            inference.fit(1, more_obj_params=[weight], **FAST)


@pytest.mark.parametrize(
    ("freezable", "error", "message"),
    [
        ("a", TypeError, r"a list of names, such as \['z'\], received 'a'"),
        (3, TypeError, "freezable must be True, False or a list"),
        (["q"], KeyError, "freezable was given for 'q'"),
    ],
)
def test_a_bad_freezable_is_refused(freezable, error, message):
    with gaussian(), pytest.raises(error, match=message):
        vt.ADVI(freezable=freezable)


def test_what_is_not_freezable_is_said():
    with gaussian():
        inference = vt.ADVI(freezable=["a"])
        with pytest.raises(KeyError, match="'b' cannot be frozen: 'a' can"):
            inference.freeze("b")


def test_an_optimizer_whose_state_goes_by_no_entry_is_refused():
    def odd(gradients, parameters):
        total = pytensor.shared(np.zeros(3))
        grown = total + gradients[0].sum()
        steps = {p: p - g / grown.sum() for p, g in zip(parameters, gradients, strict=True)}
        return {**{p: p - 0 * total.sum() for p in parameters}, **steps, total: grown}

    with gaussian():
        with pytest.raises(ValueError, match="does not go by the entries of one parameter"):
            vt.ADVI(freezable=True).fit(1, obj_optimizer=odd, **FAST)


# --- a rate of its own ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", RATES)
def test_one_rate_for_each_is_as_one_rate_for_all(optimizer):
    def losses(rate):
        with gaussian():
            fit = vt.fit(
                40, optimizer=getattr(pm, optimizer), learning_rate=rate, random_seed=1, **FAST
            )
        return fit.trace.loss

    np.testing.assert_allclose(losses({"a": 0.01, "b": 0.01}), losses(0.01), rtol=1e-9)


def quadratic(rates, steps=30, family="advi", **kwargs):
    """Means on a quadratic of curvature 2 and 0.5, whose gradient has no noise: (1 - γ a)^t."""
    with pm.Model() as model:
        a, b = pm.Flat("a"), pm.Flat("b")
        pm.Potential("p", -0.5 * (2.0 * a**2 + 0.5 * b**2))
        fit = vt.fit(
            steps,
            method=family,
            optimizer=pm.sgd,
            learning_rate=rates,
            start={"a": 1.0, "b": 1.0},
            random_seed=1,
            **({} if family != "advi" else {"start_sigma": {"a": 1e-12, "b": 1e-12}}),
            **FAST,
            **kwargs,
        )
    del model
    return fit


def test_on_a_quadratic_each_shrinks_by_its_own_factor():
    rate = vt.LearningRate(0.1)
    fit = quadratic({"a": rate, "b": 0.4})
    expected = [(1 - 0.1 * 2.0) ** 30, (1 - 0.4 * 0.5) ** 30]
    np.testing.assert_allclose(fit.approx.mean.eval(), expected, atol=1e-6)
    assert sorted(fit.controls) == ["beta", "learning_rate[a]", "learning_rate[b]"]
    assert fit.controls["learning_rate[a]"] is rate


def test_what_is_not_named_has_the_rate_of_the_optimizer_and_all_are_live():
    rate = vt.LearningRate(0.1, schedule=vt.schedules.linear(0.1, 0.2, steps=10))
    fit = quadratic({"a": rate}, steps=10, steps_per_execution=5)
    np.testing.assert_allclose(fit.trace.control["learning_rate"], 1e-3)
    used = fit.trace.control["learning_rate[a]"]
    np.testing.assert_allclose(used, [rate.schedule(step) for step in range(10)])
    np.testing.assert_allclose(
        fit.approx.mean.eval(), [np.prod(1 - 2.0 * used), (1 - 0.5e-3) ** 10], rtol=1e-6
    )


def test_full_rank_goes_by_rows():
    with pm.Model():
        a, b = pm.Normal("a", shape=2), pm.Normal("b")
        pm.Normal("y", a.sum() + b, 1.0, observed=2.0)
        inference = vt.FullRankADVI(random_seed=1)
        parameter = inference.approx.groups[0].shared_params["L_tril"]
        lengths = owners(inference.approx, parameter)
        fit = vt.fit(
            1,
            method="fullrank_advi",
            optimizer=pm.sgd,
            learning_rate={"a": 1e-6, "b": 1e-1},
            random_seed=1,
            **FAST,
        )
        params = fit.approx.groups[0].shared_params
        mean, factor = params["mu"].get_value(), params["L_tril"].get_value()
    assert [(o.variable, o.length) for o in lengths] == [("a", 3), ("b", 3)]
    moved = np.abs(factor - np.eye(3)[np.tril_indices(3)])
    assert moved[:3].max() < 1e-4 < moved[3:].min() and abs(mean[:2]).max() < 1e-4 < abs(mean[2])


def test_an_encoder_has_the_rate_of_its_variable_and_a_decoder_the_other():
    model, approx, encoder, decoder = amortized()
    with model:
        fit = vt.fit(
            1,
            method=vt.KLqp(approx, random_seed=1),
            optimizer=pm.sgd(learning_rate=1e-1),
            learning_rate={"z": 1e-6},
            more_obj_params=[encoder, decoder],
            **FAST,
        )
    assert sorted(fit.controls) == ["beta", "learning_rate", "learning_rate[z]"]
    assert 0 < np.abs(encoder.get_value() - 0.1).max() < 1e-4 < abs(decoder.get_value() - 0.5)


@pytest.mark.parametrize(
    ("rates", "optimizer", "error", "message"),
    [
        ({"q": 0.1}, pm.adam, KeyError, "learning_rate was given for 'q'"),
        ({"a": "fast"}, pm.adam, TypeError, "must be a real number"),
        ({"a": 0.1}, lambda learning_rate: pm.adam, ValueError, "is not known: it is of sgd"),
    ],
)
def test_a_bad_rate_by_variable_is_refused(rates, optimizer, error, message):
    with gaussian(), pytest.raises(error, match=message):
        vt.fit(1, learning_rate=rates, optimizer=optimizer, **FAST)


def test_a_grid_of_rates_by_variable_does_not_mix_them_up():
    with gaussian():
        grid = {"learning_rate": {"a": {"a": 1e-6}, "b": {"b": 1e-6}}}
        fits = vt.fit_many(
            1, grid=grid, optimizer=pm.sgd(learning_rate=0.1), random_seed=1,
            compile_kwargs=FAST["compile_kwargs"],
        )  # fmt: skip
    for (slow,), fit in fits.items():
        mean = np.abs(fit.approx.mean.eval())
        assert mean["ab".index(slow)] < 1e-4 < mean["ba".index(slow)]
