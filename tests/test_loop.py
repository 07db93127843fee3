import os
import signal
import threading
import time
import warnings

import numpy as np
import pymc as pm
import pytest
from pymc.variational.callbacks import CheckParametersConvergence, Tracker

import vitoolkit as vt

FUSED = pytest.mark.parametrize("steps", [1, 50], ids=["one step a call", "fused"])


@pytest.fixture
def inference(gaussians):
    return vt.ADVI(random_seed=1)


# --- PyMC's contract with callbacks ------------------------------------------------------------


def test_callbacks_get_the_approximation_the_losses_so_far_and_a_number_from_1(inference, fast):
    seen = []

    def callback(approx, losses, i):
        assert approx is inference.approx
        seen.append((i, losses.copy()))

    inference.fit(4, callbacks=[callback], **fast)
    inference.refine(2, progressbar=False)
    assert [i for i, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert [len(losses) for _, losses in seen] == [1, 2, 3, 4, 1, 2]
    np.testing.assert_array_equal(np.concatenate([seen[3][1], seen[5][1]]), inference.hist)
    assert inference.approx.hist is inference.hist


def test_callbacks_of_pymc_work(inference, fast):
    tracker = Tracker(mean=inference.approx.mean.eval)
    inference.fit(5, callbacks=[tracker], **fast)
    assert len(tracker["mean"]) == 5
    converged = CheckParametersConvergence(every=2, tolerance=1e9)
    inference.fit(20, callbacks=[converged], **fast)
    assert inference.run.status == "stopped"


def test_score_false_hides_losses_from_callbacks_but_not_from_the_record(inference, fast):
    seen, recorder = [], vt.Recorder()
    inference.fit(
        3, score=False, callbacks=[lambda a, losses, i: seen.append(losses), recorder], **fast
    )
    assert seen == [None, None, None]
    assert len(inference.hist) == 0
    assert np.isfinite(recorder.trace.loss).all() and len(recorder.trace) == 3


@pytest.mark.parametrize("n", [0, 1, 7, 50, 51])
@FUSED
def test_any_number_of_steps(gaussians, fast, n, steps):
    recorder = vt.Recorder()
    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)
    inference.fit(n, callbacks=[recorder], **fast)
    assert len(recorder.trace) == len(inference.hist) == inference.steps_taken == n
    np.testing.assert_array_equal(recorder.trace.step, np.arange(n))
    np.testing.assert_array_equal(recorder.trace.loss, inference.hist)
    inference.refine(3, progressbar=False)
    np.testing.assert_array_equal(recorder.trace.step, np.arange(n + 3))


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_a_bad_number_of_steps_is_refused(inference, n, error):
    with pytest.raises(error, match="steps"):
        inference.fit(n)


def test_refine_before_fit_says_what_to_do(inference):
    with pytest.raises(TypeError, match=r"call fit\(...\) first"):
        inference.refine(10)


def test_a_callback_that_cannot_be_called_is_refused_before_compiling(inference):
    with pytest.raises(TypeError, match=r"\(approx, losses, i\), received 3"):
        inference.fit(10, callbacks=[3])


# --- whatever happens, nothing is lost ---------------------------------------------------------


@pytest.mark.parametrize("first", ["user", "recorder"])
def test_a_raising_callback_leaves_record_hist_and_state(inference, fast, first):
    recorder = vt.Recorder()

    def user(approx, losses, i):
        if i == 6:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        inference.fit(
            20, callbacks=[user, recorder] if first == "user" else [recorder, user], **fast
        )
    assert len(recorder.trace) == len(inference.hist) == len(inference.approx.hist) == 6
    assert recorder.trace.attrs["status"] == "failed"
    assert recorder.trace.attrs["error"] == "ZeroDivisionError: mine"
    inference.refine(2, progressbar=False, callbacks=[recorder])
    np.testing.assert_array_equal(recorder.trace.step, np.arange(8))


@pytest.mark.parametrize("n", [5, 50])
@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt])
def test_stopping_in_a_callback_keeps_the_last_step_and_returns(inference, fast, n, error):
    recorder = vt.Recorder()

    def user(approx, losses, i):
        if i == 3:
            raise error("enough")

    approx = inference.fit(n, callbacks=[user, recorder], **fast)
    assert approx is inference.approx
    assert len(recorder.trace) == len(inference.hist) == 3
    status = {StopIteration: "stopped", KeyboardInterrupt: "interrupted"}[error]
    assert (inference.run.status, recorder.trace.attrs["status"]) == (status, status)
    (event,) = recorder.trace.events
    assert event.step == 3


@FUSED
def test_ctrl_c_between_steps_keeps_every_step_that_was_taken(gaussians, fast, steps):
    recorder = vt.Recorder()
    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)

    class Press(vt.Recorder):
        def on_block(self, run, block):
            super().on_block(run, block)
            if len(self.trace) > 100:
                os.kill(os.getpid(), signal.SIGINT)

    press = Press()
    inference.fit(1_000_000, callbacks=[press, recorder], **fast)
    taken = inference.steps_taken
    assert 100 < taken < 1_000_000
    assert len(recorder.trace) == len(press.trace) == len(inference.hist) == taken
    assert inference.run.status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_compiling_ends_it_at_once(gaussians, fast):
    recorder = vt.Recorder()
    inference = vt.ADVI(random_seed=1)

    def optimizer(loss, params):
        os.kill(os.getpid(), signal.SIGINT)
        return pm.sgd(loss, params)

    with pytest.raises(KeyboardInterrupt):
        inference.fit(10, callbacks=[recorder], obj_optimizer=optimizer, **fast)
    assert inference.run.status == recorder.trace.attrs["status"] == "interrupted"
    assert len(recorder.trace) == len(inference.hist) == inference.steps_taken == 0


@FUSED
def test_ctrl_c_during_the_first_steps_keeps_them(gaussians, fast, steps):
    armed = []

    def schedule(step):
        if armed and armed.pop():
            os.kill(os.getpid(), signal.SIGINT)
        return 1.0

    recorder = vt.Recorder()
    inference = vt.ADVI(beta=vt.Beta(schedule=schedule), random_seed=1, steps_per_execution=steps)

    class Arm(vt.Recorder):
        def on_compiled(self, run):
            armed.append(True)

    inference.fit(1_000, callbacks=[recorder, Arm()], **fast)
    assert inference.run.status == "interrupted"
    assert len(recorder.trace) == len(inference.hist) == inference.steps_taken == steps


def test_ctrl_c_in_a_slow_callback_of_the_user_arrives_at_once(inference, fast):
    def slow(approx, losses, i):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    clock = time.monotonic()
    inference.fit(5, callbacks=[slow], **fast)
    assert time.monotonic() - clock < 30
    assert len(inference.hist) == 1


def test_a_handler_of_the_users_own_is_left_alone(inference, fast):
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        inference.fit(3, callbacks=[lambda *_: os.kill(os.getpid(), signal.SIGINT)], **fast)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(inference.hist) == 3
    assert len(pressed) == 3


def poisoned(step_of_nan):
    """A model whose loss is NaN once z leaves (-inf, limit]."""
    with pm.Model() as model:
        z = pm.Normal("z")
        w = pm.Normal("w")
        pm.Normal("y", z + w, 1.0, observed=[0.1])
        pm.Potential("bad", pm.math.switch(z > 1.0, np.nan, 0.0))
    return model


@FUSED
def test_nan_raises_with_the_step_and_the_term_and_leaves_the_last_finite_parameters(fast, steps):
    with poisoned(None):
        recorder = vt.Recorder()
        inference = vt.ADVI(random_seed=3, steps_per_execution=steps)
        with pytest.raises(
            FloatingPointError, match=r"loss of step \d+ is NaN.*the data term"
        ) as caught:
            inference.fit(500, callbacks=[recorder], **fast)
    step = len(recorder.trace) - 1
    assert f"step {step} is NaN" in str(caught.value)
    assert np.isnan(recorder.trace.loss[-1])
    assert np.isfinite(recorder.trace.loss[:-1]).all()
    assert len(inference.hist) == step
    left = [p.get_value() for p in inference.approx.params]
    with poisoned(None):  # the same fit, stopped just before
        again = vt.ADVI(random_seed=3, steps_per_execution=1)
        again.fit(step, **fast)
    for a, b in zip(left, again.approx.params, strict=True):
        np.testing.assert_allclose(a, b.get_value(), rtol=1e-12)


@FUSED
def test_a_gradient_that_is_not_finite_is_found_one_step_back(fast, steps):
    with pm.Model():
        z = pm.Normal("z")
        pm.Normal("y", z, 1.0, observed=[0.1])
        # past 1 the value is 0 and the slope 0 times infinity
        pm.Potential("kink", pm.math.sqrt(pm.math.maximum(1.0 - z, 0.0)))
        inference = vt.ADVI(random_seed=3, steps_per_execution=steps)
        with pytest.raises(FloatingPointError, match=r"The gradient of step \d+ was not finite"):
            inference.fit(500, **fast)
    assert all(np.isfinite(p.get_value()).all() for p in inference.approx.params)


# --- stop, pause ---------------------------------------------------------------------------------


def until(condition, seconds=30):
    """Wait in a thread for something the fit does."""
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.002)


class From(vt.Recorder):
    """Do something from another thread once `steps` rows are there."""

    def __init__(self, steps, action):
        super().__init__()
        self.steps, self.action, self.thread = steps, action, None

    def on_block(self, run, block):
        super().on_block(run, block)
        if len(self.trace) >= self.steps and self.thread is None:
            self.thread = threading.Thread(target=self.action, args=(run,))
            self.thread.start()


@FUSED
def test_stop_from_another_thread_ends_the_fit_and_keeps_everything(gaussians, fast, steps):
    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)
    recorder = From(60, lambda run: run.stop(source="user"))
    inference.fit(10_000_000, callbacks=[recorder], **fast)
    assert inference.run.status == "stopped"
    (event,) = recorder.trace.events
    assert (event.kind, event.source, event.step) == ("stop", "user", len(recorder.trace))
    assert len(inference.hist) == len(recorder.trace)


def test_pause_waits_calls_idle_hooks_and_resume_goes_on(inference, fast):
    idle = []

    def pause(run):
        run.pause(source="user")
        until(lambda: len(idle) >= 3)
        step = run.step
        run.resume(source="user")
        until(lambda: run.step > step + 100)
        run.stop()

    class Idle(From):
        def on_idle(self, run):
            idle.append((run.status, run.step))

    recorder = Idle(20, pause)
    inference.fit(10_000_000, callbacks=[recorder], **fast)
    assert {status for status, _ in idle} == {"paused"}
    assert len({step for _, step in idle}) == 1 and len(idle) >= 3
    assert len(recorder.trace) > idle[0][1] + 100
    assert [e.kind for e in recorder.trace.events] == ["pause", "resume", "stop"]


@pytest.mark.parametrize("foreign", [False, True])
@FUSED
def test_single_steps_take_one_step_each(gaussians, fast, steps, foreign):
    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)
    seen = []

    def press(run):
        run.single_step(source="user")
        until(lambda: len(seen) >= 1)
        run.single_step(source="user")
        until(lambda: len(seen) >= 2)
        for _ in range(3):
            run.single_step(source="user")
        until(lambda: run.step == seen[1] + 3)
        run.resume(source="user")
        run.stop()

    class Idle(From):
        def on_idle(self, run):
            super().on_idle(run)
            if run.status == "paused" and (not seen or seen[-1] != run.step):
                seen.append(run.step)

    recorder = Idle(60, press)
    callbacks = [recorder, lambda *_: None] if foreign else [recorder]
    inference.fit(1_000_000, callbacks=callbacks, **fast)
    *events, end = recorder.trace.events
    if events[-1].kind == "resume":  # or stop came before it
        assert events.pop().step == end.step or end.step > 60
    assert [e.kind for e in events] == ["pause", *["step"] * 5]
    first = events[0].step
    assert [e.step for e in events] == [first, *range(first, first + 5)]
    assert {e.source for e in events} == {"user"} and end.kind == "stop"
    np.testing.assert_array_equal(recorder.trace.step, np.arange(end.step))


def test_a_request_is_in_force_while_paused_and_in_the_record(gaussians, fast):
    beta, recorder = vt.Beta(1.0), None
    values = []

    def press(run):
        run.pause(source="user")
        until(lambda: run.status == "paused")
        beta.set(2.0, source="user")
        until(lambda: len(recorder.trace.events) == 2)
        values.append((beta.value, recorder.trace.events[-1].step, run.step))
        run.undo(source="user")
        until(lambda: len(recorder.trace.events) == 3)
        run.resume(source="user")
        run.stop()

    recorder = From(20, press)
    inference = vt.ADVI(beta=beta, random_seed=1)
    inference.fit(1_000_000, callbacks=[recorder], **fast)
    ((value, step, boundary),) = values
    assert value == 2.0 and step == boundary
    assert [e.kind for e in recorder.trace.events][:3] == ["pause", "set", "undo"]
    assert (recorder.trace.control["beta"] == 1.0).all()


def test_notes_are_events_with_words(inference, fast):
    recorder = vt.Recorder()

    def user(approx, losses, i):
        if i == 4:
            inference.run.note("  KL of z collapses ", source="user")

    inference.fit(8, callbacks=[recorder, user], **fast)
    (event,) = recorder.trace.events
    assert (event.step, event.kind, event.text, event.source) == (
        4, "note", "KL of z collapses", "user",
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"the fit has ended \(finished\)"):
        inference.run.note("late")
    with pytest.raises(ValueError, match="needs words"):
        inference.run.note(" ")
    with pytest.raises(TypeError, match="a note is a string, received 3"):
        inference.run.note(3)


@FUSED
def test_stop_and_interrupt_end_a_paused_fit(gaussians, fast, steps):
    for ask, status in (("stop", "stopped"), ("interrupt", "interrupted")):
        inference = vt.ADVI(random_seed=1, steps_per_execution=steps)

        def press(run, ask=ask):
            run.pause()
            until(lambda: run.status == "paused")
            getattr(run, ask)(source="user")

        recorder = From(60, press)
        inference.fit(1_000_000, callbacks=[recorder], **fast)
        assert inference.run.status == recorder.trace.attrs["status"] == status
        assert [e.kind for e in recorder.trace.events] == ["pause", ask]


# --- fused calls -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_fused_steps_are_the_single_steps_with_schedules_exact(minibatch_regression, fast, family):
    def fit(steps):
        beta = {
            "w": vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=90), name="b"),
            "tau": 2.0,
        }
        rate = vt.LearningRate(schedule=vt.schedules.cosine(0.1, 1e-3, steps=100))
        recorder = vt.Recorder(rate)
        inference = family(beta=beta, random_seed=1, steps_per_execution=steps)
        inference.fit(
            120, callbacks=[recorder], obj_optimizer=pm.adam(learning_rate=rate.shared), **fast
        )
        return recorder.trace

    one, fused = fit(1), fit(50)
    assert one.columns == fused.columns
    np.testing.assert_array_equal(fused.values(), one.values())


def test_a_request_during_a_fused_call_is_in_force_from_the_next_call(gaussians, fast):
    beta = vt.Beta(1.0)
    recorder = vt.Recorder()
    numbers = []

    def user(approx, losses, i):
        numbers.append(i)
        if i == 20:
            beta.set(3.0)

    inference = vt.ADVI(beta=beta, random_seed=1, steps_per_execution=10)
    inference.fit(35, callbacks=[recorder, user], **fast)
    assert numbers == [10, 20, 30, 35]
    np.testing.assert_array_equal(recorder.trace.control["beta"], [1.0] * 20 + [3.0] * 15)
    assert recorder.trace.events[0].step == 20


def test_auto_is_one_step_with_a_callback_of_somebody_else(gaussians, fast):
    numbers = []
    vt.ADVI().fit(5, callbacks=[lambda a, _, i: numbers.append(i)], **fast)
    assert numbers == [1, 2, 3, 4, 5]


@FUSED
def test_the_trace_says_how_many_steps_a_call_took_and_why(gaussians, fast, steps):
    recorder = vt.Recorder()
    inference = vt.ADVI(steps_per_execution=steps)
    inference.fit(3, callbacks=[recorder], **fast)
    many = "one step" if steps == 1 else "up to 50 steps"
    assert recorder.trace.attrs["steps_per_execution"] == (
        f"{many} a call: steps_per_execution={steps} was asked for"
    )
    assert recorder.trace.attrs["steps_per_execution"] in repr(inference.step_function)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "many", True])
def test_bad_steps_per_execution(gaussians, steps):
    with pytest.raises(ValueError, match="steps_per_execution must be 'auto' or a whole number"):
        vt.ADVI(steps_per_execution=steps)


# --- what is said ----------------------------------------------------------------------------


def ramp():
    return vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100))


def test_a_schedule_longer_than_the_fit_is_said_before_it(gaussians, fast):
    with pytest.warns(
        UserWarning, match=r"beta will end at 0.39: its schedule ends at 1 after 100 steps"
    ):
        vt.ADVI(beta=ramp()).fit(40, **fast)


def test_a_schedule_cut_short_is_said_at_the_end(gaussians, fast):
    def stop(approx, losses, i):
        if i == 40:
            raise StopIteration

    with pytest.warns(
        UserWarning, match=r"beta ended at 0.39, its schedule ends at 1 after 100 steps"
    ):
        vt.ADVI(beta=ramp()).fit(200, callbacks=[stop], **fast)


def test_a_schedule_as_long_as_the_fit_says_nothing(gaussians, fast):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        vt.ADVI(beta=ramp()).fit(100, **fast)


def test_beta_zero_at_the_end_is_said(gaussians, fast):
    with pytest.warns(UserWarning, match="beta ended at 0: .* not a posterior"):
        vt.ADVI(beta=0.0).fit(3, **fast)


def test_a_progress_bar_is_drawn(inference, capsys):
    inference.fit(30, compile_kwargs={"mode": "FAST_COMPILE"})
    out = capsys.readouterr().out
    assert "Fitting" in out and "Average Loss" in out and "100%" in out
