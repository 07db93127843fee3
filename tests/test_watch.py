import threading

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt


def watched(condition, fast, *, n=400, steps="auto", **options):
    recorder = vt.Recorder()
    watch = vt.watch(condition, every=50, **options)
    inference = vt.ADVI(beta=vt.Beta(1.0), random_seed=1, steps_per_execution=steps)
    inference.fit(n, callbacks=[recorder, watch], **fast)
    return recorder.trace


def test_it_stops_at_the_first_due_step_whose_mean_meets_the_condition(gaussians, fast):
    whole = watched("kl[z] < -1", fast)
    means = whole.kl["z"].reshape(-1, 50).mean(axis=1)
    bound = float(np.sort(means)[2])
    first = int(np.argmax(means <= bound))
    for steps in ("auto", 1, 7):
        trace = watched(f"kl[z] <= {bound!r}", fast, then="stop", steps=steps)
        assert len(trace) == 50 * (first + 1)
        note, stop = trace.events
        assert (note.kind, note.source, note.step) == ("note", "watch", len(trace))
        assert note.text == f"kl[z] <= {bound:g}: kl[z] is {means[first]:.4g}"
        assert (stop.kind, stop.source) == ("stop", "watch")


def test_it_acts_when_the_condition_comes_true_and_not_while_it_stays_so(gaussians, fast):
    trace = watched("step >= 100 and beta > 0.5", fast, then="note")
    assert [(e.step, e.kind) for e in trace.events] == [(100, "note")]
    assert "step is 100, beta is 1" in trace.events[0].text


def test_a_function_gets_the_run(gaussians, fast):
    seen = []
    watched("loss < 1e9", fast, then=lambda run: seen.append(run.step))
    assert seen == [50]


def test_it_pauses_and_somebody_may_go_on(gaussians, fast):
    recorder = vt.Recorder()
    inference = vt.ADVI(random_seed=1)

    def go_on():
        while inference.run is None or inference.run.status != "paused":
            pass
        inference.run.resume(source="user")

    thread = threading.Thread(target=go_on)
    thread.start()
    inference.fit(200, callbacks=[recorder, vt.watch("step > 90")], **fast)
    thread.join()
    kinds = [(e.step, e.kind, e.source) for e in recorder.trace.events]
    assert kinds == [(100, "note", "watch"), (100, "pause", "watch"), (100, "resume", "user")]


def test_under_pymcs_own_loop(gaussians, fast):
    recorder = vt.Recorder(monitor=vt.KLMonitor(every=10))
    fast = {"progressbar": False}
    pm.fit(400, callbacks=[recorder, vt.watch("step >= 200", then="stop")], **fast)
    assert len(recorder.trace) == 200 and recorder.trace.events[0].source == "watch"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("kl[z]",), ValueError, "such as 'kl"),
        (("kl[z] < x",), ValueError, "and a number"),
        (("kl[z] < nan",), ValueError, "and a number"),
        (("__import__('os').system('true')",), ValueError, "a condition is a column"),
        ((3,), TypeError, "a condition is text"),
        (("kl[z] < 1", "jump"), ValueError, 'then must be "pause"'),
    ],
)
def test_bad_conditions_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        vt.watch(*arguments)


def test_a_column_that_is_not_recorded_is_refused_before_anything_compiles(gaussians, fast):
    inference = vt.ADVI()
    with pytest.raises(ValueError, match=r"records no 'kl\[x\]', but loss, data, elbo"):
        inference.fit(10, callbacks=[vt.watch("kl[x] < 1")], **fast)
    assert inference.step_function is None
