"""A limit of steps a second: it moves the clock and no number."""

import os
import signal
import threading
import time

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.pace import checked_pace


class Slow(vt.Callback):
    """Sets a pace, counts the waits, and calls something in each."""

    every = None

    def __init__(self, rate, act=lambda run: None):
        self.rate, self.act, self.waits = rate, act, 0

    def on_fit_start(self, run):
        run.limit(self.rate)

    def on_idle(self, run):
        self.waits += 1
        self.act(run)


def losses(gaussians, fast, steps, rate=None, n=60, **kwargs):
    inference = vt.ADVI(random_seed=1, steps_per_execution=steps)
    slow = Slow(rate, **kwargs)
    recorder = vt.Recorder()
    begun = time.perf_counter()
    inference.fit(n, callbacks=[slow, recorder], **fast)
    return recorder.trace, slow, time.perf_counter() - begun


@pytest.mark.parametrize("steps", [1, 20, "auto"])
def test_a_pace_moves_the_clock_and_no_number(gaussians, fast, steps):
    free, not_slow, _ = losses(gaussians, fast, steps)
    paced, slow, _ = losses(gaussians, fast, steps, rate=100.0)
    assert not_slow.waits == 0 < slow.waits
    np.testing.assert_allclose(paced.loss, free.loss, rtol=1e-12)
    at = paced.time - paced.time[0]
    assert (at >= (np.arange(60) - 6) / 100).all()  # five steps may be saved up
    assert at[-1] < 5


def test_callbacks_are_asked_at_their_own_steps(gaussians, fast):
    seen = []
    look = vt.every(7, lambda approx, losses, i: seen.append(i))
    inference = vt.ADVI(random_seed=1, steps_per_execution=10)
    inference.fit(45, callbacks=[Slow(150.0), look], **fast)
    assert seen == [7, 14, 21, 28, 35, 42]


@pytest.mark.parametrize("steps", [1, 20])
def test_pause_step_and_ctrl_c_do_not_wait_for_the_next_step(gaussians, fast, steps):
    asked = iter(
        [lambda run: run.pause(), lambda run: run.single_step(), lambda run: run.single_step()]
    )

    def act(run):
        if run.done == 0:
            return
        turn = next(asked, None)
        if turn is not None:
            turn(run)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    trace, _, took = losses(gaussians, fast, steps, rate=0.01, act=act)
    assert [e.kind for e in trace.events] == ["pause", "step", "step", "interrupt"]
    assert len(trace) == 3 and trace.time[-1] - trace.time[0] < 30  # 200 s at this pace


def test_another_thread_lifts_the_limit(gaussians, fast):
    def lift(run):
        if run.done:
            threading.Thread(target=run.limit, args=(None,)).start()

    trace, _, _ = losses(gaussians, fast, 1, rate=0.01, act=lift)
    assert len(trace) == 60


def test_pymcs_own_loop_keeps_the_pace(gaussians, fast):
    def run(rate):
        recorder, slow = vt.Recorder(), Slow(rate)
        with gaussians:
            pm.fit(
                40, method=pm.ADVI(random_seed=1), callbacks=[slow, recorder], progressbar=False,
                compile_kwargs={"mode": "FAST_COMPILE"},
            )  # fmt: skip
        return recorder.trace, slow

    (free, _), (paced, slow) = run(None), run(100.0)
    np.testing.assert_array_equal(paced.loss, free.loss)
    assert slow.waits > 10 and len(paced) == 40


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1", True])
def test_what_is_no_limit_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="steps_per_second"):
        checked_pace(wrong)
