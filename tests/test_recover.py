"""NaN survived: back to a good state, with a smaller learning rate; what went first is named."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt


@pytest.fixture
def data():
    with pm.Model() as model:
        d = pm.Data("d", np.array([0.2, 1.1, -0.4]))
        z = pm.Normal("z", shape=3)
        w = pm.Normal("w")
        pm.Normal("y", z + w, 0.5, observed=d)
        yield model


@pytest.fixture
def quick(fast):
    return {"recover": vt.Recover(every=25), "random_seed": 1, **fast}


def spoiling(model, at, value=np.nan):
    """Data that is spoiled for one step."""

    def spoil(approx, losses, i):
        good = np.array([0.2, 1.1, -0.4])
        model["d"].set_value(np.full(3, value) if i == at and not spoil.done else good)
        spoil.done |= i == at

    spoil.done = False
    return spoil


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [28, 60, 99])
def test_data_that_is_spoiled_once(data, quick, at, value):
    fit = vt.fit(100, callbacks=spoiling(data, at, value), learning_rate=0.02, **quick)
    assert fit.status == "finished" and len(fit.trace) == 100
    assert np.isfinite(fit.trace.loss).all() and np.isfinite(fit.inference.hist).all()
    assert all(np.isfinite(p.get_value()).all() for p in fit.approx.params)
    (event,) = fit.trace.events
    back = at // 25 * 25
    assert (event.kind, event.source, event.step) == ("rollback", "recover", back)
    assert f"not finite at step {at}: " in event.text and "the data term" in event.text
    assert "learning_rate 0.02 → 0.01 (1 of 5)" in event.text
    rate = fit.trace.control["learning_rate"]
    assert set(rate[:back]) <= {0.02} and set(rate[back:]) == {0.01}
    (branch,) = fit.trace.branches
    assert branch.step == back and branch.rows.step[-1] == at


def test_the_event_names_the_coordinate_whose_gradient_went_first(fast):
    with pm.Model(coords={"who": ["ann", "bob"]}):
        pm.Normal("w")
        z = pm.Normal("z", dims="who")
        d = pm.Data("d", 0.0)
        # The value is 0, and the slope 0 times infinity.
        pm.Potential("trap", d * pm.math.sqrt(pm.math.maximum(z[1] - 1e6, 0.0)))
        with pytest.raises(FloatingPointError):
            vt.fit(50, recover=vt.Recover(tries=2), random_seed=1, **fast)
        recorder = vt.Recorder()
        with pytest.raises(FloatingPointError, match="NaN occurred"):
            vt.ADVI(random_seed=1).fit(
                50, callbacks=[recorder], recover=vt.Recover(tries=2, every=10), **fast
            )
    told = [event.text for event in recorder.trace.events]
    assert len(told) == 2 and "z[bob]" in told[0] and "ann" not in told[0] and "w" not in told[0]
    assert recorder.trace.attrs["status"] == "failed"


def test_parameters_that_a_callback_spoils(data, quick):
    def spoil(approx, losses, i):
        if i == 40 and not spoil.done:
            mu = approx.params[0].get_value()
            mu[2] = np.nan
            approx.params[0].set_value(mu)
            spoil.done = True

    spoil.done = False
    fit = vt.fit(80, callbacks=spoil, **quick)
    assert fit.status == "finished"
    assert all(np.isfinite(p.get_value()).all() for p in fit.approx.params)
    (event,) = fit.trace.events
    assert "z[2]" in event.text and "z[0]" not in event.text and "w" not in event.text[:60]


def test_weights_of_an_encoder_that_are_spoiled(fast):
    rng = np.random.default_rng(4)
    encoder, scale = pytensor.shared(np.zeros((4, 2)), "encoder"), pytensor.shared(np.zeros(2))
    decoder = pytensor.shared(rng.normal(size=(2, 4)), "decoder")
    with pm.Model():
        data = rng.normal(size=(10, 4))
        z = pm.Normal("z", shape=(10, 2))
        w = pm.Normal("w")
        pm.Normal("x", z @ decoder + w, 0.5, observed=data)
        params = {"mu": pt.as_tensor(data) @ encoder, "rho": pt.broadcast_to(scale, (10, 2))}
        groups = [Group([z], params=params), Group([w], vfam="mean_field")]
        inference = vt.KLqp(Approximation(groups), random_seed=1)
    left = [
        (encoder, "the weights 'encoder' of z"),
        (decoder, "the weights 'decoder'"),
        (scale, ""),
    ]

    def spoil(approx, losses, i):
        if left and i % 30 == 10:
            weights = left.pop(0)[0]
            weights.set_value(np.full_like(weights.get_value(), np.nan))

    told, recorder = [words for _, words in left], vt.Recorder()
    inference.fit(
        100, callbacks=[recorder, spoil], more_obj_params=[encoder, scale, decoder],
        recover=vt.Recover(every=25), **fast,
    )  # fmt: skip
    assert recorder.trace.attrs["status"] == "finished"
    first, second, third = [event.text for event in recorder.trace.events]
    assert told[0] in first and told[1] in second and "weights without a name of z" in third
    assert "decoder" not in first and "encoder" not in second
    assert all(np.isfinite(weights.get_value()).all() for weights in (encoder, scale, decoder))


def test_data_that_is_spoiled_before_anything_was_kept(data, quick):
    """The callback that hands data in is not asked before the first step."""
    good = data["d"].get_value()

    def hand_in(approx, losses, i):
        data["d"].set_value(np.full(3, np.nan) if i == 7 and not fed.count(7) else good)
        fed.append(i)

    fed = []
    fit = vt.fit(60, callbacks=hand_in, **quick)
    assert fit.status == "finished" and np.isfinite(fit.trace.loss).all()
    (event,) = fit.trace.events
    assert event.step == 0 and "not finite at step 7: the data 'd', the data term" in event.text


def test_the_same_seed_recovers_the_same_way_however_calls_fall(data, fast):
    def run(steps):
        spoil = spoiling(data, 60)
        fit = vt.fit(
            100, callbacks=vt.every(10, spoil), random_seed=1, recover=vt.Recover(every=25),
            steps_per_execution=steps, **fast,
        )  # fmt: skip
        return fit.trace

    one, many = run(1), run(8)
    assert len(one.branches) == 1
    np.testing.assert_array_equal(one.loss, many.loss)
    np.testing.assert_array_equal(one.branches[0].rows.loss, many.branches[0].rows.loss)


def test_a_schedule_is_scaled_and_a_person_s_value_stays(data, quick):
    rate = vt.LearningRate(schedule=vt.schedules.linear(0.02, 0.01, steps=100))
    beta = vt.Beta(1.0)

    def change(approx, losses, i):
        if i == 55:
            beta.set(2.0, source="user")

    fit = vt.fit(
        100, learning_rate=rate, beta=beta, callbacks=[change, spoiling(data, 60)], **quick
    )
    np.testing.assert_allclose(
        fit.trace.control["learning_rate"][50:], 0.5 * np.linspace(0.02, 0.01, 101)[50:100]
    )
    assert repr(rate.schedule).startswith("scaled(linear(0.02, 0.01, steps=100), 0.5")
    assert set(fit.trace.control["beta"][50:]) == {2.0}


def test_it_gives_up_with_pymcs_error_and_everything_saved(data, quick, tmp_path):
    def spoil(approx, losses, i):
        if i >= 60:
            data["d"].set_value(np.full(3, np.nan))

    with pytest.raises(FloatingPointError, match="NaN occurred in optimization"):
        vt.fit(100, callbacks=spoil, record=tmp_path / "run.db", **quick)
    trace = vt.Trace.open(tmp_path / "run.db")
    rates = [float(e.text.split("→ ")[1].split()[0]) for e in trace.events]
    assert len(rates) == 5 and rates == sorted(rates, reverse=True)
    assert rates[-1] >= 1e-3 / 2**5 and trace.attrs["status"] == "failed"
    assert len(trace.branches) == 5


def test_off_by_an_argument(data, fast):
    with pytest.raises(FloatingPointError, match="the loss of step 60 is NaN"):
        vt.fit(100, recover=False, callbacks=spoiling(data, 60), random_seed=1, **fast)


def test_a_journal_has_the_branch_and_resumes_after_it(data, quick, tmp_path):
    path = tmp_path / "run.db"
    fit = vt.fit(100, callbacks=spoiling(data, 60), record=path, **quick)
    assert vt.Trace.open(path).equals(fit.trace) and len(fit.trace.branches) == 1
    assert len(vt.resume(path, callbacks=[], progressbar=False).trace) == 100


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"factor": 1.0}, ValueError), ({"tries": 0}, ValueError), ({"every": 0.5}, TypeError)],
)
def test_arguments(gaussians, arguments, error):
    with pytest.raises(TypeError, match="recover must be"):
        vt.fit(10, recover="yes")
    with pytest.raises(error):
        vt.Recover(**arguments)


def test_steps_that_recover_nothing_are_the_steps_of_before(data, quick, fast):
    with_it = vt.fit(60, **quick)
    without = vt.fit(60, random_seed=1, recover=False, **fast)
    np.testing.assert_array_equal(with_it.trace.loss, without.trace.loss)
