import numpy as np
import pymc as pm
import pytest
from models import regression

import vitoolkit as vt

FAST = {"mode": "FAST_COMPILE"}


def monitor(**kwargs):
    return vt.KLMonitor(random_seed=5, compile_kwargs=FAST, **kwargs)


def test_the_fit_is_what_it_would_be_without(fast):
    with regression(minibatch=True):
        alone = pm.ADVI(random_seed=1)
        alone.fit(100, **fast)
    with regression(minibatch=True):
        watched = pm.ADVI(random_seed=1)
        watched.fit(100, callbacks=[monitor(budget=0.9)], **fast)
    np.testing.assert_array_equal(watched.hist, alone.hist)


@pytest.mark.parametrize("family", ["ADVI", "FullRankADVI"])
@pytest.mark.parametrize("draws", [1, 5])
def test_it_agrees_with_the_terms_of_the_step(fast, family, draws):
    with regression(minibatch=True):
        inference = getattr(vt, family)(random_seed=1)
        recorder = vt.Recorder()
        still = pm.sgd(learning_rate=0.0)
        inference.fit(1_500, callbacks=[recorder], obj_optimizer=still, **fast)
        watch = monitor(budget=0.999, draws=draws)
        rows = []
        while len(rows) < 1_500:
            row = watch.evaluate(inference.approx)
            if row is not None:
                rows.append(row.copy())
    rows, trace = np.array(rows), recorder.trace
    inside = np.column_stack([trace.data, *[trace.kl[v] for v in trace.variables]])
    error = np.sqrt(inside.var(axis=0) / len(inside) + rows.var(axis=0) / len(rows))
    assert (abs(inside.mean(axis=0) - rows.mean(axis=0)) < 4.5 * error).all()


def test_it_stays_within_its_budget_and_is_compiled_once_a_model(fast):
    with regression(minibatch=False):
        watch, spent = monitor(budget=0.05), [0.0]
        pm.fit(
            300,
            callbacks=[watch, lambda *_: spent.append(watch.evaluate_seconds)],
            random_seed=1,
            **fast,
        )
        assert watch.evaluations >= 1
        longest = np.diff(spent).max()  # one evaluation can overdraw, the next ones then wait
        assert watch.evaluate_seconds <= 0.05 * watch.elapsed_seconds + longest
        compiled = watch.compile_seconds
        assert compiled > 0
        again = monitor()
        pm.fit(50, callbacks=[watch, again], random_seed=2, **fast)
        assert watch.compile_seconds == compiled
        assert again.compile_seconds == 0


def test_a_recorder_records_what_it_finds(gaussians, fast):
    recorder = vt.Recorder(monitor=monitor(budget=0.5))
    approx = pm.fit(200, callbacks=[recorder], random_seed=1, **fast)
    trace = recorder.trace
    assert trace.variables == ("z", "w")
    np.testing.assert_array_equal(trace.loss, approx.hist)
    found = np.isfinite(trace.elbo)
    assert 0 < found.sum() <= 200
    np.testing.assert_allclose(
        trace.elbo[found], (trace.data - trace.kl["z"] - trace.kl["w"])[found]
    )


def test_svgd_is_recorded_without_terms(gaussians, fast):
    recorder = vt.Recorder(monitor=monitor())
    pm.fit(5, method="svgd", callbacks=[recorder], **fast)
    assert recorder.trace.variables == () and len(recorder.trace) == 5
    with pytest.raises(TypeError, match="no log q"):
        monitor().evaluate(pm.SVGD(n_particles=3).approx)


@pytest.mark.parametrize(
    "arguments", [{"budget": 0}, {"budget": 1.0}, {"draws": 0}, {"draws": 1.5}]
)
def test_bad_arguments(arguments):
    with pytest.raises((TypeError, ValueError), match="budget is a share|draws must be"):
        vt.KLMonitor(**arguments)
