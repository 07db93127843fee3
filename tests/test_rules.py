import numpy as np
import pymc as pm
import pytest
from pymc.variational.inference import KLqp as PyMCKLqp

import vitoolkit as vt
from vitoolkit.rules import Rule


class Up(Rule):
    """β up by 1 % at every 50th step if the KL of z was over a target in the mean."""

    every = 50

    def __init__(self, target=0.01):
        self.target, self.begun = target, []

    def begin(self, value):
        self.begun.append(value)
        self.beta, self.seen = value, []

    def observe(self, block):
        self.seen.extend(block.kl["z"].tolist())

    def value(self, step):
        mean = np.nanmean(self.seen)
        self.seen, self.why = [], f"the KL of z is {mean:.3g} nats"
        self.beta *= 1.01 if mean > self.target else 1.0
        return self.beta


class UpByCallback(vt.Callback):
    """The same feedback as a callback that asks, as anybody can write one."""

    every = 50

    def __init__(self, beta):
        self.beta, self.kl = beta, []

    def on_block(self, run, block):
        self.kl.extend(block.kl["z"].tolist())
        if run.step % self.every == 0:
            if np.nanmean(self.kl[-50:]) > 0.01:
                self.beta.set(1.01 * self.beta.value, source="rule")


@pytest.mark.parametrize("how", ["rule", "callback"])
def test_a_feedback_law_gives_the_same_run_however_many_steps_a_call_takes(gaussians, fast, how):
    def run(steps):
        beta = vt.Beta(1.0, rule=Up()) if how == "rule" else vt.Beta(1.0)
        recorder = vt.Recorder()
        callbacks = [recorder] if how == "rule" else [recorder, UpByCallback(beta)]
        inference = vt.ADVI(beta=beta, random_seed=1, steps_per_execution=steps)
        inference.fit(620, callbacks=callbacks, **fast)
        return recorder.trace

    first, *others = [run(steps) for steps in ("auto", "auto", "auto", 1, 7, 16)]
    changes = [event.step for event in first.events]
    assert len(changes) > 5 and all(step % 50 == 0 for step in changes)
    for other in others:
        np.testing.assert_array_equal(other.loss, first.loss)
        np.testing.assert_array_equal(other.control["beta"], first.control["beta"])


@pytest.mark.parametrize("how", ["rule", "callback"])
def test_a_feedback_law_gives_the_same_run_under_pymcs_own_loop(gaussians, fast, how):
    def run():
        beta = vt.Beta(1.0, rule=Up()) if how == "rule" else vt.Beta(1.0)
        recorder = vt.Recorder(beta, monitor=vt.KLMonitor(every=10))
        callbacks = [recorder] if how == "rule" else [recorder, UpByCallback(beta)]
        inference = PyMCKLqp(pm.MeanField(random_seed=1), beta=beta)
        inference.fit(420, callbacks=callbacks, **fast)
        return recorder.trace

    first, *others = [run() for _ in range(3)]
    assert len(first.events) > 3 and all(event.step % 50 == 0 for event in first.events)
    for other in others:
        np.testing.assert_array_equal(other.loss, first.loss)
        np.testing.assert_array_equal(other.kl["z"], first.kl["z"])


def test_a_rule_says_what_it_did_and_takes_the_wheel_when_nobody_holds_it(gaussians, fast):
    rule = Up(-np.inf)
    beta = vt.Beta(1.0, rule=rule)
    recorder = vt.Recorder()

    def hand(approx, losses, i):
        if i == 120:
            beta.set(3.0, source="user")
        if i == 230:
            beta.release(source="user")

    vt.ADVI(beta=beta, random_seed=1).fit(301, callbacks=[recorder, hand], **fast)
    events = [(e.step, e.kind, e.source) for e in recorder.trace.events]
    assert events == [
        (50, "rule", "rule"), (100, "rule", "rule"), (120, "set", "user"), (230, "release", "user"),
        (250, "rule", "rule"), (300, "rule", "rule"),
    ]  # fmt: skip
    assert recorder.trace.events[0].text.startswith("the KL of z is ")
    values = recorder.trace.control["beta"]
    assert (values[:50] == 1.0).all() and values[50] == 1.01
    assert (values[120:250] == 3.0).all() and values[250] == pytest.approx(3.03)
    assert rule.begun == [1.0, 3.0]  # without a jump
    assert not beta.manual


def test_a_schedule_to_its_end_and_then_the_rule(gaussians, fast):
    rule = Up(-np.inf)
    beta = vt.Beta(schedule=vt.schedules.linear(0.0, 2.0, steps=80), rule=rule)
    recorder = vt.Recorder()
    vt.ADVI(beta=beta, random_seed=1).fit(160, callbacks=[recorder], **fast)
    values = recorder.trace.control["beta"]
    np.testing.assert_allclose(values[:100], np.minimum(2.0, np.arange(100) / 40))
    assert rule.begun == [2.0] and values[100] == pytest.approx(2.02)
    assert rule.seen == pytest.approx(recorder.trace.kl["z"][150:])
    assert "linear(0.0, 2.0, steps=80), then <" in repr(beta)


def test_a_rule_has_seen_every_step_since_it_began(gaussians, fast):
    class Counts(Rule):
        every = 20
        asked = ()

        def begin(self, value):
            self.now, self.steps = value, 0

        def observe(self, block):
            self.steps += len(block.loss)

        def value(self, step):
            self.asked = (*self.asked, self.steps)
            return self.now

    for options in ({"steps_per_execution": 1}, {"steps_per_execution": 7}, {}):
        alone, after = Counts(), Counts()
        schedule = vt.schedules.linear(0.0, 1.0, steps=33)
        beta = {"z": vt.Beta(rule=alone), "w": vt.Beta(schedule=schedule, rule=after)}
        vt.ADVI(beta=beta, **options).fit(81, **fast)
        assert alone.asked == (20, 40, 60, 80) and after.asked == (7, 27, 47)


def test_a_value_out_of_bounds_is_moved_to_the_nearest(gaussians, fast):
    class Far(Rule):
        every = 5

        def value(self, step):
            return 1e9

    beta = vt.Beta(1.0, rule=Far())
    vt.ADVI(beta=beta).fit(6, **fast)
    assert beta.value == 10.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": 3}, TypeError, "must be a vitoolkit Rule, received 3"),
        ({"rule": Up(), "schedule": lambda step: 1.0}, ValueError, "would wait for the end"),
    ],
)
def test_bad_rules_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        vt.Beta(**arguments)


class Broken(Rule):
    every = 20

    def __init__(self):
        self.seen, self.asked = [], 0

    def observe(self, block):
        self.seen.extend(block.step.tolist())

    def value(self, step):
        self.asked += 1
        raise ZeroDivisionError("mine")


@pytest.mark.parametrize("steps", [1, 20, 50])
def test_a_rule_that_fails_ends_the_fit_with_the_record_kept(gaussians, fast, steps):
    recorder, rule = vt.Recorder(), Broken()
    inference = vt.ADVI(beta=vt.Beta(rule=rule), steps_per_execution=steps)
    with pytest.raises(ZeroDivisionError, match="mine"):
        inference.fit(50, callbacks=[recorder], **fast)
    assert len(recorder.trace) == 20 and recorder.trace.attrs["status"] == "failed"
    assert rule.seen == list(range(20)) and rule.asked == 1


class Blocks(vt.Callback):
    """The first step of each block, what its steps used, and the rule's events by then."""

    def __init__(self, every=None):
        self.every, self.first, self.beta, self.events = every, [], [], []

    def on_block(self, run, block):
        self.first.append(block.first)
        self.beta.extend(block.control[:, 0].tolist())
        self.events.append(sum(event.source == "rule" for event in run.log))


@pytest.mark.parametrize(("every", "first"), [(None, [0, 70, 140]), (40, [0, 40, 80, 120])])
def test_a_rule_ends_a_call_and_no_block(gaussians, fast, every, first):
    def fitted(steps, callback):
        beta, recorder = vt.Beta(1.0, rule=Up(target=-9.0)), vt.Recorder()
        inference = vt.ADVI(beta=beta, random_seed=1, steps_per_execution=steps)
        inference.fit(150, callbacks=[callback, recorder], **fast)
        return recorder.trace

    one, blocks = Blocks(), Blocks(every)
    single, fused = fitted(1, one), fitted(70, blocks)
    assert blocks.first == first
    assert one.beta == blocks.beta and len(set(blocks.beta)) == 3
    np.testing.assert_array_equal(single.loss, fused.loss)
    assert [e.step for e in single.events] == [e.step for e in fused.events] == [50, 100, 150]
    # One that is due with a callback decides after it; one before is there when it is called.
    assert blocks.events == [min(f, 149) // 50 for f in [*first[1:], 150]]


def test_a_step_that_is_not_finite_ends_a_block_and_is_the_last_that_a_rule_sees(fast):
    with pm.Model():
        z = pm.Normal("z")
        pm.Potential("bad", pm.math.switch(abs(z) > 9.0, np.nan, 0.0))
        pm.Normal("y", z, 1.0, observed=[0.1])
        rule = Up()
        inference = vt.ADVI(beta=vt.Beta(rule=rule), random_seed=1, steps_per_execution=200)
        rate = vt.LearningRate(
            0.01, bounds=(1e-3, 1e3), schedule=lambda step: 0.01 if step < 70 else 1e3
        )
        recorder = vt.Recorder(rate)
        with pytest.raises(FloatingPointError):
            inference.fit(
                200, obj_optimizer=pm.sgd(learning_rate=rate), callbacks=[recorder], **fast
            )
    rows = len(recorder.trace)
    assert 70 < rows < 100 and np.isnan(recorder.trace.loss[-1])
    assert len(rule.seen) == rows - 50
