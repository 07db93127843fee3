"""Hooks of a run: one does not cost another its steps or its end."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.requests import Request
from vitoolkit.trial import without_trail


class Failing(vt.Callback):
    def __init__(self, hook, error, at=25):
        self.hook, self.error, self.at = hook, error, at

    def on_block(self, run, block):
        if self.hook == "block" and run.step >= self.at:
            raise self.error

    def on_fit_end(self, run):
        if self.hook == "end":
            raise self.error


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("steps", [1, 10])
def test_a_hook_that_raises_costs_no_other_its_rows(gaussians, fast, first, steps):
    recorder, failing = vt.Recorder(), Failing("block", ZeroDivisionError("mine"))
    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)
    callbacks = [failing, recorder] if first else [recorder, failing]
    with pytest.raises(ZeroDivisionError, match="mine"):
        inference.fit(400, callbacks=callbacks, **fast)
    assert len(recorder.trace) == len(inference.hist) == inference.steps_taken >= 25
    assert recorder.trace.attrs["status"] == "failed"
    assert recorder.trace.attrs["error"] == "ZeroDivisionError: mine"


def test_an_end_that_raises_costs_no_other_its_end(gaussians, fast):
    recorder, rate = vt.Recorder(), vt.LearningRate(1e-2)
    failing = [Failing("end", ZeroDivisionError("mine")), Failing("end", KeyError("other"))]
    inference = vt.ADVI(random_seed=1)
    adam = pm.adam(learning_rate=rate)
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        inference.fit(5, callbacks=[*failing, recorder, rate], obj_optimizer=adam, **fast)
    assert "KeyError: 'other'" in caught.value.__notes__[0]
    assert recorder.trace.attrs["status"] == "finished" and len(recorder.trace) == 5
    vt.ADVI().fit(2, callbacks=[rate], obj_optimizer=adam, **fast)  # the control is free


@pytest.mark.parametrize("steps", [1, 10])
def test_a_second_ctrl_c_costs_no_row(gaussians, fast, steps):
    recorder, late = vt.Recorder(), vt.Recorder()

    class Press(vt.Callback):
        def on_block(self, run, block):
            if run.step > 30:
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGINT)

    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)
    inference.fit(400, callbacks=[recorder, Press(), late], **fast)
    assert recorder.trace.attrs["status"] == late.trace.attrs["status"] == "interrupted"
    taken = inference.steps_taken
    assert len(recorder.trace) == len(late.trace) == len(inference.hist) == taken < 400
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_hook_that_hangs_is_ended_by_another_ctrl_c(gaussians, fast):
    recorder, late = vt.Recorder(), vt.Recorder()

    class Hangs(vt.Callback):
        def on_block(self, run, block):
            os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(1.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            time.sleep(60)

    inference = vt.ADVI(random_seed=1)
    clock = time.monotonic()
    inference.fit(400, callbacks=[recorder, Hangs(), late], **fast)
    assert time.monotonic() - clock < 50
    assert len(recorder.trace) == len(late.trace) == len(inference.hist) < 400


def test_ctrl_c_that_a_finalizer_swallows_while_compiling_ends_the_fit(gaussians, fast):
    class Swallows:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    def optimizer(loss, params):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thing = Swallows()
            del thing
        return pm.sgd(loss, params)

    inference, recorder = vt.ADVI(random_seed=1), vt.Recorder()
    with pytest.raises(KeyboardInterrupt):
        inference.fit(10**6, callbacks=[recorder], obj_optimizer=optimizer, **fast)
    assert inference.steps_taken == 0 and recorder.trace.attrs["status"] == "interrupted"


test_ctrl_c_that_a_finalizer_swallows_while_compiling_ends_the_fit = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)(test_ctrl_c_that_a_finalizer_swallows_while_compiling_ends_the_fit)


@pytest.mark.parametrize("steps", ["auto", 1, 16])
def test_a_callback_that_is_due_finds_a_boundary(gaussians, fast, steps):
    class Due(vt.Callback):
        every = 30
        seen = ()

        def on_block(self, run, block):
            if run.step % 30 == 0:
                self.seen = (*self.seen, run.step)

    due, plain = Due(), []
    inference = vt.ADVI(steps_per_execution=steps)
    look = vt.every(40, lambda approx, losses, i: plain.append((i, len(losses))))
    inference.fit(100, callbacks=[due, look], **fast)
    inference.refine(30, progressbar=False)
    assert due.seen == (30, 60, 90, 120)
    assert plain == [(40, 40), (80, 80), (120, 20)]


def test_every_under_pymcs_own_loop(gaussians, fast):
    seen = []
    callbacks = [vt.Recorder(), vt.every(4, lambda approx, losses, i: seen.append(i))]
    pm.fit(10, method="advi", callbacks=callbacks, **fast)
    assert seen == [4, 8]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, print), ValueError, "from 1 up, received 0"),
        ((1.5, print), TypeError, "whole number of steps from 1 up, received 1.5"),
        ((5, 3), TypeError, r"\(approx, losses, i\), received 3"),
        ((5, vt.Recorder()), TypeError, "list it as it is"),
    ],
)
def test_bad_arguments_of_every(arguments, error, message):
    with pytest.raises(error, match=message):
        vt.every(*arguments)


def test_a_request_for_a_control_that_is_not_there_is_refused(gaussians, fast):
    def ask(approx, losses, i):
        with pytest.raises(ValueError, match="no control 'gamma'; it has 'beta'"):
            inference.run.ask(Request("set", "gamma", 1.0))
        inference.run.ask(Request.from_json({"kind": "set", "control": "beta", "value": 2}))

    inference, recorder = vt.ADVI(), vt.Recorder()
    inference.fit(3, callbacks=[recorder, ask], **fast)
    assert recorder.trace.control["beta"].tolist() == [1.0, 2.0, 2.0]


def test_one_log_has_the_order_in_which_it_was_asked(gaussians, fast):
    betas = {"z": vt.Beta(1.0, name="a"), "w": vt.Beta(1.0, name="b")}
    recorder = vt.Recorder()

    def ask(approx, losses, i):
        if i == 3:
            betas["w"].set(2.0)
            inference.run.note("between")
            betas["z"].set(3.0)
            inference.run.undo()
            betas["w"].release()

    inference = vt.ADVI(beta=betas)
    inference.fit(6, callbacks=[recorder, ask], **fast)
    assert [(e.kind, e.control, e.step) for e in recorder.trace.events] == [
        ("set", "b", 3), ("note", None, 3), ("set", "a", 3), ("undo", "a", 3), ("release", "b", 3),
    ]  # fmt: skip


# --- a control that the step does not contain ---------------------------------------------------


def test_a_learning_rate_that_the_optimizer_does_not_use_is_refused(gaussians, fast):
    rate = vt.LearningRate(1e-2)
    with pytest.raises(ValueError, match="the optimizer does not use 'learning_rate'"):
        vt.ADVI().fit(
            10, callbacks=[vt.Recorder(rate)], obj_optimizer=pm.adam(learning_rate=1e-2), **fast
        )
    with pytest.raises(ValueError, match="no step uses 'b', so that moving it would do nothing"):
        vt.ADVI().fit(10, callbacks=[vt.Recorder(vt.Beta(name="b"))], **fast)


def test_another_control_that_no_step_uses_is_recorded_as_nan(gaussians, fast):
    knob = vt.Control(3.0, name="knob")
    recorder = vt.Recorder(knob)
    vt.ADVI().fit(4, callbacks=[recorder], **fast)
    assert np.isnan(recorder.trace.control["knob"]).all()
    assert recorder.trace.attrs["unused"] == ["knob"]


# --- fused steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 50])
def test_a_schedule_that_fails_leaves_the_rows_before_it(gaussians, fast, steps):
    beta = vt.Beta(schedule=lambda step: 0.01 * step if step < 75 else -1.0)
    recorder = vt.Recorder()
    with pytest.raises(ValueError, match=r"in \[0, 10\], received -1") as caught:
        vt.ADVI(beta=beta, steps_per_execution=steps).fit(200, callbacks=[recorder], **fast)
    assert "at step 75" in caught.value.__notes__[0]
    assert len(recorder.trace) == 75
    np.testing.assert_array_equal(recorder.trace.control["beta"], 0.01 * np.arange(75))


def test_after_a_nan_in_a_fused_call_a_control_has_the_value_of_the_last_step(fast):
    with pm.Model():
        z = pm.Normal("z")
        pm.Potential("bad", pm.math.switch(z > 1.0, np.nan, 0.0))
        beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=1000))
        recorder = vt.Recorder()
        inference = vt.ADVI(beta=beta, random_seed=3, steps_per_execution=50)
        with pytest.raises(FloatingPointError):
            inference.fit(500, callbacks=[recorder], **fast)
    assert len(recorder.trace) % 50  # in the middle of a call
    assert beta.value == recorder.trace.control["beta"][-1]


@pytest.mark.compiled
def test_a_short_fit_and_a_long_refine_is_fused_and_the_same_to_the_last_bit(gaussians):
    pytest.importorskip("numba")  # which the oldest PyMC does not bring
    recorder, numba = vt.Recorder(), {"mode": "NUMBA"}
    inference = vt.ADVI(random_seed=1)
    inference.fit(300, callbacks=[recorder], progressbar=False, compile_kwargs=numba)
    inference.refine(6_000, progressbar=False)
    assert recorder.trace.attrs["steps_per_execution"].startswith("up to ")
    for steps in (1, 7):
        other = vt.ADVI(random_seed=1, steps_per_execution=steps)
        other.fit(6_300, progressbar=False, compile_kwargs=numba)
        np.testing.assert_array_equal(inference.hist, other.hist)


@pytest.mark.compiled
def test_a_plain_callback_wants_single_steps_and_the_record_says_so(gaussians):
    pytest.importorskip("numba")  # which the oldest PyMC does not bring
    recorder = vt.Recorder()
    vt.ADVI(random_seed=1).fit(
        6_000, callbacks=[recorder, lambda *_: None], progressbar=False,
        compile_kwargs={"mode": "NUMBA"},
    )  # fmt: skip
    said = recorder.trace.attrs["steps_per_execution"]
    assert said.startswith("one step a call: a callback is called after every step")


def test_without_a_trail_all_is_as_it_was(gaussians, fast):
    rate, recorder = vt.LearningRate(1e-2), vt.Recorder()
    adam = pm.adam(learning_rate=rate)

    def fresh():
        inference = vt.ADVI(random_seed=1)
        inference.fit(20, callbacks=[recorder, rate], obj_optimizer=adam, **fast)
        return inference

    twin = fresh()
    twin.refine(30, progressbar=False, callbacks=[rate])
    tried = fresh()
    with without_trail(tried):
        tried.refine(
            40, progressbar=False, callbacks=[rate, lambda a, _, i: rate.set(1.01 * rate.value)]
        )
        assert tried.steps_taken == 60
    assert tried.steps_taken == len(tried.hist) == 20 and rate.value == 1e-2 and not rate.manual
    assert max(tried.points.steps()) <= 20
    tried.refine(30, progressbar=False, callbacks=[rate])
    np.testing.assert_array_equal(tried.hist, twin.hist)


def test_without_a_trail_a_schedule_and_a_rule_are_as_they_were(gaussians, fast):
    class Up(vt.rules.Rule):
        every = 5

        def begin(self, value):
            self.seen = [value]

        def value(self, step):
            self.seen.append(1.1 * self.seen[-1])
            return self.seen[-1]

    ramp = vt.schedules.linear(0.5, 1.0, steps=100)
    beta = {"z": vt.Beta(1.0, rule=Up(), name="ruled"), "w": vt.Beta(schedule=ramp, name="ramped")}
    inference = vt.ADVI(beta=beta, random_seed=1)
    inference.fit(12, **fast)
    rule, value, seen = beta["z"].rule, beta["z"].value, list(beta["z"].rule.seen)
    with without_trail(inference):
        beta["w"].reschedule(end=0.0, steps=40)
        inference.refine(20, progressbar=False)
        assert len(rule.seen) > len(seen) and beta["w"].schedule != ramp
    assert (beta["z"].value, rule.seen, beta["w"].schedule) == (value, seen, ramp)
    assert beta["z"].rule is rule
    inference.refine(3, progressbar=False)
    assert len(rule.seen) == len(seen) + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_compiles_can_fit():
    code = """
        import os, threading, time, warnings
        warnings.simplefilter("ignore")
        import pymc as pm
        import vitoolkit as vt
        from vitoolkit import loop
        held = threading.Event()
        def compile_for_ever():
            with loop._compiling:
                held.set()
                time.sleep(600)
        threading.Thread(target=compile_for_ever, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            with pm.Model():
                z = pm.Normal("z")
                pm.Normal("y", z, observed=[0.2])
                inference = vt.ADVI()
                inference.fit(3, progressbar=False, compile_kwargs={"mode": "FAST_COMPILE"})
            os._exit(7 if len(inference.hist) == 3 else 1)
        print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert "child ended with 7" in done.stdout, done.stderr[-2000:]


# --- what is not finite --------------------------------------------------------------------------


def test_losses_that_are_not_finite_are_said(fast, caplog):
    with pm.Model():
        z = pm.Normal("z")
        w = pm.Normal("w")
        pm.Potential("p", pm.math.switch(z > 1.0, -np.inf, -((z - 3) ** 2) + w))
        recorder = vt.Recorder()
        with caplog.at_level(logging.INFO, logger="pymc.variational.inference"):
            vt.ADVI(random_seed=1).fit(60, callbacks=[recorder], **fast)
    infinite = int(np.isinf(recorder.trace.loss).sum())
    assert infinite > 0
    assert f"the loss of {infinite} of 60 steps was not finite" in caplog.text
