import importlib.util
from pathlib import Path

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.iterates import Iterates, mcse_of, r_hat
from vitoolkit.stopping import elbo_still, faso, relative_elbo

_spec = importlib.util.spec_from_file_location(
    "soak_stopping", Path(__file__).parents[1] / "scripts" / "soak" / "stopping.py"
)
soak = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(soak)


def ar1(rho, shape, rng):
    """Stationary AR(1) series of unit variance, along the first axis."""
    values = np.empty(shape)
    values[0] = rng.normal(size=shape[1:])
    for k in range(1, shape[0]):
        values[k] = rho * values[k - 1] + np.sqrt(1 - rho**2) * rng.normal(size=shape[1:])
    return values


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_samples_and_their_error_are_those_of_an_ar1(rho):
    n = 4_000
    mcse, ess = mcse_of(ar1(rho, (n, 40), np.random.default_rng(1)))
    worth = n * (1 - rho) / (1 + rho)  # closed form
    assert np.median(ess) == pytest.approx(worth, rel=0.15)
    assert np.median(mcse) == pytest.approx(worth**-0.5, rel=0.1)
    assert [float(one[0]) for one in mcse_of(np.ones((50, 1)))] == [0.0, 50.0]


def test_constant_step_iterates_wander_as_the_law_says():
    # SGD on a quadratic a/2 (x - 1)², gradient noise of variance v, constant step γ
    a, v, rate, n = 1.3, 4.0, 0.05, 150_000
    rng = np.random.default_rng(2)
    noise = rng.normal(size=n) * v**0.5
    x = np.empty(n)
    x[0] = 1.0
    for k in range(1, n):
        x[k] = x[k - 1] - rate * (a * (x[k - 1] - 1.0) + noise[k])
    assert x.var() == pytest.approx(rate * v / (a * (2 - rate * a)), rel=0.05)
    mcse, _ = mcse_of(x[::3, None])  # looks are worth single iterates where these are correlated
    assert mcse[0] ** 2 == pytest.approx(v / (a**2 * n), rel=0.25)


def test_r_hat_by_hand():
    one, two = np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 4.5])
    within = (one.var(ddof=1) + two.var(ddof=1)) / 2
    between = 3 * np.var([one.mean(), two.mean()], ddof=1)
    expected = np.sqrt(2 / 3 + between / (3 * within))
    assert r_hat(np.concatenate([one, two])) == pytest.approx(expected)
    assert r_hat(np.concatenate([[99.0], one, two])) == pytest.approx(expected)  # an odd one first
    assert r_hat(np.full(10, 3.0)) == 1.0


def test_a_jump_a_drift_and_a_mean_that_is_not_known_are_told_apart():
    rng = np.random.default_rng(3)
    still = np.zeros((200, 2, 5))
    still[:, 0] = 0.2 * rng.normal(size=(200, 5))
    still[:, 1] = 0.05 * rng.normal(size=(200, 5))
    assert faso(still, "abcde").done
    moves = still.copy()
    moves[:, 0, 3] += np.linspace(0, 4, 200)
    assert "d still moves" in faso(moves, "abcde").why
    moves = still.copy()
    moves[:, 1, 1] -= np.linspace(0, 2, 200)
    assert "the sd of b still moves" in faso(moves, "abcde").why
    wide = still.copy()
    wide[:, 0, 2] *= 40
    assert "the mean of c is not known yet" in faso(wide, "abcde").why
    assert "too few" in faso(still[:30], "abcde").why
    early = still.copy()
    early[:60, 0] += np.linspace(30, 0, 60)[:, None]
    assert faso(early, "abcde").done  # over a window without the beginning


def test_rules_of_the_elbo():
    noise = np.random.default_rng(4).normal(size=200) / 7  # of means of 50 steps
    assert elbo_still(noise, 1.0, 50).done
    assert not elbo_still(noise + np.arange(200) / 200, 1.0, 50).done
    assert not elbo_still(noise - np.arange(200) / 50, 1.0, 50).done
    assert not elbo_still(noise[:30], 1.0, 50).done
    assert relative_elbo(-200 + noise).done
    assert not relative_elbo(-200 + 40 * noise).done


def test_what_a_falling_rate_brought_is_not_held_against_what_came_after():
    noise = np.random.default_rng(4).normal(size=200) / 7  # of means of 50 steps
    rose = noise + 6 * np.minimum(np.arange(200) / 150, 1.0)  # the schedule ends after 150 looks
    assert not elbo_still(rose, 2.0, 200).done
    told = elbo_still(rose, 2.0, 200, settled=150)
    assert told.done and "10,000 steps" in told.why
    assert not elbo_still(noise + np.arange(200) / 20, 2.0, 200, settled=150).done
    assert not elbo_still(rose, 2.0, 200, settled=190).done  # too few to tell
    assert elbo_still(noise, 1.0, 50, settled=190).done  # the last half is as good as before


def toy(**options):
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, observed=10.0)
        return vt.ADVI(random_seed=1, **options)


def stopped(n=20_000, rate=0.1, callback=None, **options):
    inference = toy(**options)
    callback = callback or vt.StopWhenConverged()
    recorder = vt.Recorder()
    inference.fit(
        n,
        obj_optimizer=pm.adam(learning_rate=rate),
        callbacks=[callback, recorder],
        progressbar=False,
    )
    return inference, recorder.trace, callback


def test_it_stops_at_the_same_step_however_many_a_call_takes_and_says_why():
    runs = [stopped(steps_per_execution=k) for k in ("auto", 7, 1)]
    inference, trace, callback = runs[0]
    assert 2_000 < len(trace) < 15_000
    assert [len(other.loss) for _, other, _ in runs] == [len(trace)] * 3
    means = [other.approx.mean.eval()[0] for other, _, _ in runs]
    assert means == [means[0]] * 3
    assert means[0] == pytest.approx(8.0, abs=0.05)
    assert inference.approx.std.eval()[0] == pytest.approx(0.2**0.5, rel=0.05)
    assert trace.attrs["status"] == "stopped" and callback.converged
    event = trace.events[-1]
    assert (event.kind, event.source, event.step) == ("stop", "converged", len(trace))
    assert event.text.startswith("Converged: the ELBO rises by less than")
    assert "q is stationary" in event.text and "q is the average of its iterates" in event.text
    assert "converged: the ELBO" in repr(callback)
    assert trace.attrs["verdict"].startswith("Stopped, and still")


def test_it_waits_for_schedules_and_looks_at_what_comes_after():
    late = vt.schedules.linear(0.0, 1.0, steps=9_000)
    _, trace, _ = stopped(beta=late)
    assert len(trace) > 9_000 + 2_000
    beta = vt.Beta(1.0)

    def hand(approx, losses, i):
        beta.set(2.0 if i < 5_000 else 1.0)

    rows = stopped(beta=beta, callback=None)[1]  # nobody moves it
    moved = toy(beta=beta)
    callback = vt.StopWhenConverged()
    moved.fit(
        20_000,
        obj_optimizer=pm.adam(learning_rate=0.1),
        callbacks=[vt.every(1_000, hand), callback],
        progressbar=False,
    )
    assert moved.steps_taken > len(rows) and callback.iterates.since == 5_000


def test_it_tells_the_looks_before_a_rates_schedule_ended_from_those_after():
    class Asked(vt.StopWhenConverged):
        found = ()

        def tell(self, settled=0):
            self.found += ((self.iterates.looks[-1].step, self.iterates.every, settled),)
            return super().tell(settled)

    for by_hand in (False, True):  # a schedule that a hand has put aside does not count
        rate = vt.LearningRate(1e-4, schedule=vt.schedules.linear(2e-4, 1e-4, steps=2_950))
        if by_hand:
            rate.set(1e-4)
        callback = Asked("elbo", restore=None)
        toy().fit(
            6_000,
            obj_optimizer=pm.adam(learning_rate=rate.shared),
            callbacks=[callback, vt.Recorder(rate)],
            progressbar=False,
        )
        end = 0 if by_hand else 2_950
        assert callback.found and callback.found[0][0] >= max(end, 2_000)
        assert all(settled == -(-end // each) for _, each, settled in callback.found)


def test_it_does_not_stop_what_still_moves():
    inference, trace, callback = stopped(4_000, rate=1e-4)
    assert trace.attrs["status"] == "finished" and not callback.converged
    assert "not converged" in repr(callback)
    inference.run.step = 1_000  # as a rewind does
    callback.stand(inference.run, {})
    assert callback.iterates.looks[-1].step == 1_000 and "nothing was seen" in callback.why


def test_what_q_is_at_the_end():
    kept = {}
    for restore in ("average", "best", None):
        inference, trace, _ = stopped(callback=vt.StopWhenConverged(restore=restore))
        kept[restore] = (len(trace), inference.approx.mean.eval()[0])
    steps, means = zip(*kept.values(), strict=True)
    assert len(set(steps)) == 1 and len(set(means)) == 3
    exact = abs(kept["average"][1] - 8.0)
    assert exact < 0.02  # the last iterate wanders by 0.06, learning rate 0.1
    inference.refine(10, progressbar=False)  # and it goes on


def test_it_stops_pymcs_own_loop():
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, observed=10.0)
        callback, recorder = vt.StopWhenConverged(), vt.Recorder()
        approx = pm.fit(
            20_000,
            obj_optimizer=pm.adam(learning_rate=0.1),
            callbacks=[callback, recorder],
            progressbar=False,
            random_seed=1,
        )
    assert not recorder._run.running
    event = recorder.trace.events[-1]
    assert (event.kind, event.source, recorder.trace.attrs["status"]) == (
        "stop",
        "converged",
        "stopped",
    )
    assert "the objective rises by less than" in event.text
    assert approx.mean.eval()[0] == pytest.approx(8.0, abs=0.05)


@pytest.mark.parametrize(
    "wrong", [{"method": "rhat"}, {"restore": "first"}, {"rhat": 1.0}, {"mcse": 0}, {"every": 0}]
)
def test_what_it_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        vt.StopWhenConverged(**wrong)


def test_looks_are_few_and_even_and_know_all_steps(fast):
    iterates, recorder = Iterates(10, most=20), vt.Recorder()
    with pm.Model():
        z = pm.Normal("z")
        pm.Normal("y", z, observed=[0.2, 1.1])
        inference = vt.ADVI(random_seed=1)
        inference.fit(1_000, callbacks=[iterates, recorder], **fast)
    steps = np.array([look.step for look in iterates.looks])
    assert iterates.every == 80 and set(np.diff(steps)) == {80} and steps[-1] == 960
    means, noise = iterates.objective()
    expected = recorder.trace.elbo[80:960].reshape(-1, 80).mean(axis=1)
    assert means[1:] == pytest.approx(expected)
    assert noise == pytest.approx(np.diff(recorder.trace.elbo).std() / 2**0.5, rel=0.3)
    assert iterates.moments().shape == (12, 2, 1)


@pytest.mark.parametrize("family", ["linear", "heavy-tailed"])
def test_a_share_of_the_proof_of_how_often_it_is_wrong(family):
    false, early, missed, _ = soak.measured(family, 10, ("both",))["both"]
    assert (false, early) == (0.0, 0.0) and missed <= 0.1  # of 1,000: docs/convergence.md
