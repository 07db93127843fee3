"""PyMC's own loop as a run."""

import gc
import threading
import weakref

import numpy as np
import pymc as pm
import pytest
from pymc.variational.inference import KLqp as PyMCKLqp

import vitoolkit as vt


class Seen(vt.Callback):
    """Note which hooks are called."""

    def __init__(self):
        self.hooks, self.rows = [], []

    def on_fit_start(self, run):
        self.hooks.append("start")
        self.run = run

    def on_compiled(self, run):
        self.hooks.append("compiled")

    def on_block(self, run, block):
        assert run is self.run and run.step == block.step[-1] + 1
        self.rows.extend(zip(block.step.tolist(), block.loss.tolist(), strict=True))

    def on_fit_end(self, run):
        self.hooks.append(f"end: {run.status}")


def fit(callbacks, fast, n=30, **kwargs):
    return pm.fit(n, method="advi", callbacks=callbacks, random_seed=1, **kwargs, **fast)


def test_hooks_run_under_a_fit_of_pymcs_own(gaussians, fast):
    seen, other = Seen(), Seen()
    approx = fit([seen, lambda *_: None, other], fast)
    assert seen.hooks == other.hooks == ["start", "compiled", "end: finished"]
    assert seen.rows == other.rows == list(enumerate(approx.hist.tolist()))
    assert (seen.run.n, seen.run.done, seen.run.first) == (30, 30, 0)


def test_fit_and_refine_are_two_runs_of_one_clock(gaussians, fast):
    seen, recorder = Seen(), vt.Recorder()
    inference = pm.ADVI(random_seed=1)
    inference.fit(12, callbacks=[seen, recorder], **fast)
    inference.refine(5, progressbar=False)
    assert seen.hooks == ["start", "compiled", "end: finished"] * 2
    assert [step for step, _ in seen.rows] == list(range(17)) == recorder.trace.step.tolist()
    assert (seen.run.first, seen.run.n) == (12, 5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_recorder_gets_a_status(gaussians, fast, wrapped):
    recorder = vt.Recorder()
    fit([lambda *args: recorder(*args)] if wrapped else [recorder], fast)
    assert recorder.trace.attrs["status"] == "finished" and len(recorder.trace) == 30
    ((row),) = vt.Comparison({"it": recorder}).rows()
    assert row["status"] == "finished"


def test_a_recorder_wrapped_in_a_function_under_our_own_loop_gets_a_status(gaussians, fast):
    recorder = vt.Recorder()
    vt.ADVI().fit(5, callbacks=[lambda *args: recorder(*args)], **fast)
    assert recorder.trace.attrs["status"] == "finished" and len(recorder.trace) == 5


def raising(error, at=20):
    def callback(approx, losses, i):
        if i == at:
            raise error

    return callback


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("error", "status"), [(StopIteration, "stopped"), (ZeroDivisionError("mine"), "failed")]
)
def test_an_end_that_pymc_tells_nobody_of_is_seen(gaussians, fast, error, status, first):
    seen, recorder = Seen(), vt.Recorder()
    callbacks = [seen, recorder]
    callbacks.insert(0 if first else 2, raising(error))
    try:
        fit(callbacks, fast)
    except ZeroDivisionError:
        assert status == "failed"
    trace = recorder.trace
    assert trace.attrs["status"] == status and seen.hooks[-1] == f"end: {status}"
    assert len(trace) == (19 if first else 20)
    if status == "stopped":
        assert [(e.kind, e.source) for e in trace.events] == [("stop", "callback")]


def test_an_exception_that_somebody_holds_is_seen_when_asked(gaussians, fast):
    seen, recorder = Seen(), vt.Recorder()
    with pytest.raises(ZeroDivisionError) as held:
        fit([seen, recorder, raising(ZeroDivisionError())], fast)
    assert seen.hooks[-1] == "compiled"  # the frame of the loop is alive in the traceback
    assert recorder.trace.attrs["status"] == "failed" and held.tb is not None
    assert seen.hooks[-1] == "end: failed"


def test_a_nan_of_pymcs_own_is_a_failed_run(fast):
    with pm.Model():
        z = pm.Normal("z")
        pm.Potential("bad", pm.math.switch(z > 1.0, np.nan, 0.0))
        recorder = vt.Recorder()
        with pytest.raises(FloatingPointError):
            fit([recorder], fast, n=500)
    assert recorder.trace.attrs["status"] == "failed"


def test_a_control_is_free_again_after_a_fit_that_failed(gaussians, fast):
    rate = vt.LearningRate(1e-2)
    with pytest.raises(ZeroDivisionError) as held:
        fit([rate, raising(ZeroDivisionError())], fast, obj_optimizer=pm.adam(learning_rate=rate))
    rate.set(0.5)
    assert rate.value == 0.5 and held.tb is not None


def test_one_control_in_two_fits_at_once_is_refused(gaussians, fast):
    rate = vt.LearningRate(1e-2)
    adam = {"obj_optimizer": pm.adam(learning_rate=rate)}

    def nested(approx, losses, i):
        fit([rate], fast, n=3, **adam)

    with pytest.raises(RuntimeError, match="'learning_rate' is steered by a running fit"):
        fit([rate, nested], fast, **adam)
    fit([rate], fast, n=3, **adam)  # free again


@pytest.mark.parametrize("first", ["recorder", "dashboard"])
def test_a_control_that_the_step_does_not_contain_is_not_said_to_be_in_force(
    gaussians, fast, first
):
    beta, rate = vt.Beta(1.0), vt.LearningRate(1e-2)
    callback = (vt.Recorder if first == "recorder" else vt.Dashboard)(beta, rate)
    with pytest.warns(UserWarning, match="is not used by this fit") as caught:
        fit([callback], fast, obj_optimizer=pm.adam(learning_rate=rate))
    assert len([w for w in caught if "not used" in str(w.message)]) == 1
    trace = callback.trace
    assert np.isnan(trace.control["beta"]).all() and trace.attrs["unused"] == ["beta"]
    assert (trace.control["learning_rate"] == 1e-2).all()


def test_the_control_itself_stands_where_pymc_takes_a_number(gaussians, fast):
    beta, rate = vt.Beta(1.0), vt.LearningRate(1e-2)
    recorder = vt.Recorder(beta, rate)

    def move(approx, losses, i):
        if i == 10:
            beta.set(4.0)
            rate.set(1e-3)

    inference = PyMCKLqp(pm.MeanField(random_seed=1), beta=beta)
    inference.fit(20, callbacks=[move, recorder], obj_optimizer=pm.adam(learning_rate=rate), **fast)
    losses = recorder.trace.loss.copy()
    with pm.Model.get_context():
        again = PyMCKLqp(pm.MeanField(random_seed=1), beta=(same := vt.Beta(1.0)).shared)
    slow = vt.LearningRate(1e-2)

    def move_again(approx, losses, i):
        if i == 10:
            same.set(4.0)
            slow.set(1e-3)

    again.fit(
        20, callbacks=[move_again, same, slow], obj_optimizer=pm.adam(learning_rate=slow.shared),
        **fast,
    )  # fmt: skip
    np.testing.assert_array_equal(again.hist, losses)


def test_a_stopped_run_in_a_thread(gaussians, fast):
    seen = Seen()

    def work():
        with gaussians:
            fit([seen, raising(StopIteration)], fast)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen.hooks[-1] == "end: stopped"


def test_nothing_keeps_an_approximation_alive(gaussians, fast):
    approx = fit([vt.Recorder(), vt.LearningRate(1e-2)], fast, obj_optimizer=pm.sgd)
    held = weakref.ref(approx)
    del approx
    gc.collect()
    assert held() is None
