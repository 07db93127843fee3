import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.trace import Trace
from vitoolkit.trend import TOLERANCE, steps_to_go, trend_of
from vitoolkit.verdict import verdict_of

STEPS = 20_000


def record(elbo, *, beta=None, kinds=None, terms=True):
    """Trace with this ELBO, one KL of 1 nat, and a β."""
    elbo = np.asarray(elbo, float)
    n = len(elbo)
    controls = {} if beta is None else {"beta": np.broadcast_to(beta, n)}
    attrs = {"controls": kinds or dict.fromkeys(controls, "Beta"), "status": "finished"}
    trace = Trace(("z",) if terms else (), tuple(controls), attrs=attrs)
    values = np.column_stack([*controls.values()]) if controls else np.empty((n, 0))
    data = np.column_stack([elbo + 1, np.ones(n)]) if terms else np.full((n, 1), np.nan)
    trace.extend(np.arange(n), np.arange(n) / 1e3, -elbo, data, values)
    return trace


def noise(kind, n, rng):
    if kind == "heavy-tailed":
        return rng.standard_t(2.2, n)
    if kind == "heteroscedastic":
        return rng.normal(size=n) * np.exp(0.7 * np.sin(np.arange(n) / n * rng.uniform(2, 20)))
    return rng.normal(size=n)


def shape(kind, n, gain):
    """A rise by `gain` over the last half."""
    t = np.arange(1, n + 1) / n
    path = -(t**-0.7) if kind == "power-law" else t
    return gain * path / (path[-1] - path[n // 2])


FAMILIES = ("linear", "power-law", "heteroscedastic", "heavy-tailed")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rise_is_never_called_still_and_a_still_trace_is(family):
    rng = np.random.default_rng(FAMILIES.index(family))
    still, risen = [], []
    for _ in range(40):
        flat = 5 + 3.0 * noise(family, STEPS, rng)
        still.append(verdict_of(record(flat)).kind == "still")
        rise = shape(family, STEPS, rng.uniform(3.0, 30.0)) + 3.0 * noise(family, STEPS, rng)
        risen.append(verdict_of(record(rise)).kind == "still")
    assert not any(risen)
    assert sum(still) >= (28 if family == "heavy-tailed" else 36)  # seen: 80 and 97 % and more


def test_the_trend_knows_slope_error_and_noise():
    rng = np.random.default_rng(1)
    found = [trend_of(4 * rng.normal(size=8_000) + np.linspace(0, 2, 8_000)) for _ in range(200)]
    rises = np.array([trend.rise for trend in found])
    assert rises.mean() == pytest.approx(2.0, abs=0.05)
    assert rises.std() == pytest.approx(np.mean([t.error for t in found]), rel=0.2)
    assert np.mean([t.noise for t in found]) == pytest.approx(4.0, rel=0.02)
    assert np.mean([t.wander for t in found]) == pytest.approx(1.0, abs=0.3)
    assert found[0].tolerance == TOLERANCE * found[0].noise


def test_outliers_do_not_move_the_trend():
    rng = np.random.default_rng(2)
    values = rng.normal(size=8_000)
    values[rng.integers(0, 8_000, 3)] = 1e5
    assert trend_of(values).rise == pytest.approx(0.0, abs=0.2)


def test_a_wandering_level_is_seen():
    rng = np.random.default_rng(3)
    level = np.zeros(20_000)
    for k in range(1, 20_000):
        level[k] = 0.998 * level[k - 1] + 0.1 * rng.normal()
    assert trend_of(level + rng.normal(size=20_000)).wander > 3


def test_steps_to_go_of_a_power_law():
    n, power, gap = 40_000, 1.0, 100.0
    steps = np.arange(1, n + 1)
    rng = np.random.default_rng(4)
    elbo = -gap * (1_000 / steps) ** power + 0.5 * rng.normal(size=n)
    before, after = trend_of(elbo[n // 4 : n // 2]), trend_of(elbo[n // 2 :])
    more = steps_to_go(before, after, n)
    # the rise over the last half of T steps is about gap * 1,000 / T: TOLERANCE * noise at the end
    end = gap * 1_000 / (TOLERANCE * 0.5)
    assert 0.4 * end < n + more < 2.5 * end
    line = trend_of(steps / 1_000 + rng.normal(size=n))
    assert steps_to_go(line, line, n) is None


def test_the_sentences():
    rng = np.random.default_rng(5)
    flat = 2.0 * rng.normal(size=STEPS)
    verdict = verdict_of(record(flat))
    assert verdict.ok and verdict.text.startswith("Finished and still: the ELBO rises by less than")
    verdict = verdict_of(record(flat + 0.01 * np.arange(STEPS)))
    assert verdict.text == "Not finished: the ELBO still rises by 10 nats per 1,000 steps."
    assert verdict.kind == "rising" and verdict.rise == pytest.approx(10, rel=0.01)
    falling = flat + np.arange(STEPS) / 100
    assert "loss still falls by 10 nats" in verdict_of(record(falling, terms=False)).text
    power = flat - 1e5 / (50 + np.arange(STEPS))
    verdict = verdict_of(record(power))
    assert "more steps" in verdict.text and verdict.more > 1_000
    assert verdict_of(record(flat - 0.01 * np.arange(STEPS))).kind == "falling"
    verdict = verdict_of(record(flat, beta=4.0))
    assert not verdict.ok and "beta ended at 4, so this is the optimum" in verdict.text
    assert verdict_of(record(flat, beta=1.0)).ok
    assert verdict_of(record(flat[:500])).kind == "short"
    assert verdict_of(record([])).text == "No step was recorded."
    flat[[3, 700]] = np.inf
    verdict = verdict_of(record(flat))
    assert not verdict.ok and verdict.text.endswith("The loss of 2 of 20,000 rows was not finite.")


def test_nothing_is_said_of_the_time_when_beta_moved():
    rng = np.random.default_rng(6)
    ramp = np.minimum(np.arange(STEPS) / 16_000, 1.0)
    elbo = np.where(ramp < 1, 0.05 * np.arange(STEPS), 0.05 * 16_000) + rng.normal(size=STEPS)
    verdict = verdict_of(record(elbo, beta=ramp))
    assert verdict.ok and "in 4,000 steps" in verdict.text
    short = np.minimum(np.arange(STEPS) / 19_500, 1.0)
    assert "since β moved last" in verdict_of(record(elbo, beta=short)).text
    to_the_end = verdict_of(record(elbo, beta=np.linspace(0.5, 1.0, STEPS)))
    assert to_the_end.text.startswith("Too short to tell: 1 step since β moved last.")
    # a learning rate may move
    verdict = verdict_of(record(elbo[-4_000:], beta=ramp[:4_000], kinds={"beta": "LearningRate"}))
    assert verdict.kind == "still"


def test_pymcs_defaults_on_its_issue_6271_are_not_finished(caplog):
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, observed=10.0)
        recorder = vt.Recorder()
        with caplog.at_level("INFO", logger="pymc.variational.inference"):
            pm.fit(callbacks=[recorder], progressbar=False, random_seed=1)
            assert not recorder._run.running
    verdict = recorder.trace.attrs["verdict"]
    assert verdict.startswith("Not finished: the loss still falls by 8.")
    assert verdict in caplog.messages


def test_6271_reaches_the_posterior_by_rule_alone():
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, observed=10.0)
        rate = vt.LearningRate(0.1, rule=vt.rules.reduce_on_plateau())
        recorder = vt.Recorder(rate)
        approx = vt.ADVI(random_seed=1).fit(
            12_000,
            obj_optimizer=pm.adam(learning_rate=rate),
            callbacks=[recorder],
            progressbar=False,
        )
    assert approx.mean.eval() == pytest.approx([8.0], abs=0.05)
    assert recorder.trace.attrs["verdict"].startswith("Finished and still")
    assert "verdict" in recorder.trace.to_xarray().attrs


def test_a_trifle_is_no_rise():
    """Without noise, as near the optimum of a model whose posterior is in the family of q."""
    trace = Trace()
    for step in range(4_000):
        trace.append(step, 0.1 * step, 1e-5 * step, np.nan, ())
    assert verdict_of(trace).kind == "still"
    for step in range(4_000, 8_000):
        trace.append(step, 0.1 * step, 0.04 - 1e-5 * (step - 4_000), np.nan, ())
    assert verdict_of(trace).kind == "rising"


def test_a_still_elbo_of_a_q_that_moves_is_not_finished():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2_000, 2))
    y = 8.0 + x @ [1.0, -1.0] + 40.0 * rng.normal(size=2_000)
    with pm.Model():
        rows, seen = pm.Minibatch(x, y, batch_size=10)
        intercept = pm.Normal("intercept", 0, 100)
        slope = pm.Normal("slope", 0, 100, shape=2)
        pm.Normal("y", intercept + rows @ slope, 40.0, observed=seen, total_size=2_000)
        inference = vt.ADVI(random_seed=1, start={"intercept": 6.0, "slope": [1.0, -1.0]})
    recorder = vt.Recorder()
    inference.fit(
        10_000,
        obj_optimizer=pm.sgd(learning_rate=2e-2),
        callbacks=[recorder],
        progressbar=False,
    )
    attrs = dict(recorder.trace.attrs)
    assert attrs["moves"]["name"] == "intercept" and attrs["moves"]["steps"] == 5_200
    assert "but intercept still moves, by" in attrs["verdict"]
    assert verdict_of(recorder.trace).kind == "moving" and not verdict_of(recorder.trace).ok
    del attrs["moves"]
    assert verdict_of(recorder.trace, attrs).kind == "still"  # by the ELBO alone
    inference.refine(40_000, progressbar=False)
    assert "moves" not in recorder.trace.attrs


def test_a_fit_that_computes_no_loss_is_not_said_to_have_had_one():
    trace = vt.Trace()
    trace.extend(
        np.arange(30),
        np.zeros(30),
        np.full(30, np.nan),
        np.full((30, 1), np.nan),
        np.empty((30, 0)),
    )
    said = verdict_of(trace)
    assert said.text == "Too short to tell: 30 steps. No finite loss was recorded." and not said.ok
