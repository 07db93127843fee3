import time

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.views.frame import frame_of


def test_one_row_a_step_with_terms_and_controls(gaussians, fast):
    recorder = vt.Recorder()
    inference = vt.ADVI(beta={"z": 2.0}, random_seed=1)
    inference.fit(20, callbacks=[recorder], **fast)
    trace = recorder.trace
    assert (trace.variables, trace.controls) == (("z", "w"), ("beta[z]",))
    np.testing.assert_array_equal(trace.step, np.arange(20))
    np.testing.assert_array_equal(trace.loss, inference.hist)
    assert (np.diff(trace.time) >= 0).all() and trace.time[0] >= 0
    assert trace.attrs["status"] == "finished"


@pytest.fixture
def latents():
    with pm.Model(coords={"row": ["a", "b"], "latent": [10, 20, 30]}) as model:
        z = pm.Normal("z", dims=("row", "latent"))
        w = pm.Normal("w")
        pm.Normal("y", z.sum(axis=1) + w, observed=[0.2, 1.1])
        yield model


def test_parts_have_the_dims_and_coords_of_the_model(latents, fast):
    recorder, sparse = vt.Recorder(), vt.Recorder(every=3)
    inference = vt.ADVI(kl_by={"z": "coordinate"}, random_seed=1)
    inference.fit(10, callbacks=[recorder, sparse], **fast)
    trace = recorder.trace
    dataset = trace.to_xarray()
    z = dataset["kl_by_z"]
    assert z.dims == ("step", "row", "latent") and list(trace.parts) == ["z"]
    for dim, labels in latents.coords.items():
        assert z[dim].values.tolist() == list(labels)
    np.testing.assert_allclose(z.sum(("row", "latent")), trace.kl["z"], rtol=1e-10)
    np.testing.assert_array_equal(sparse.trace.kl_by["z"], trace.kl_by["z"][::3])
    assert inference.terms["kl"] == {name: column[-1] for name, column in trace.kl.items()}


def test_nan_is_laid_to_a_term_and_not_to_a_part(latents, fast):
    pm.Potential("bad", pm.math.switch(latents["w"] > 0.5, np.nan, 0.0))
    inference = vt.ADVI(kl_by={"z": "coordinate"}, random_seed=1)
    with pytest.raises(FloatingPointError, match=r"Not finite: the data term\. Controls"):
        inference.fit(200, **fast)


def test_other_parts_start_a_new_record(latents, fast):
    recorder = vt.Recorder()
    approx = pm.MeanField(random_seed=1)
    first = vt.KLqp(approx, kl_by={"z": "latent"})
    first.fit(3, callbacks=[recorder], **fast)
    first.refine(2, progressbar=False)
    assert len(recorder.trace) == 5 and recorder.trace.kl_by["z"].shape == (5, 3)
    vt.KLqp(approx).fit(3, callbacks=[recorder], **fast)
    assert [tuple(trace.parts) for trace in recorder.traces] == [("z",), ()]
    assert [len(trace) for trace in recorder.traces] == [5, 3]
    np.testing.assert_array_equal(recorder.trace.step, [5, 6, 7])


def test_every_keeps_the_multiples(gaussians, fast):
    dense, sparse = vt.Recorder(), vt.Recorder(every=3)
    vt.ADVI(random_seed=1).fit(10, callbacks=[dense, sparse], **fast)
    np.testing.assert_array_equal(sparse.trace.step, [0, 3, 6, 9])
    np.testing.assert_array_equal(sparse.trace.loss, dense.trace.loss[::3])


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_every(every, error):
    with pytest.raises(error, match="every must be"):
        vt.Recorder(every=every)


def test_listed_twice_records_once(gaussians, fast):
    recorder = vt.Recorder()
    vt.ADVI().fit(5, callbacks=[recorder, recorder], **fast)
    assert len(recorder.trace) == 5


def test_wrapped_in_a_plain_function_it_records_the_same(gaussians, fast):
    plain, wrapped = vt.Recorder(), vt.Recorder()
    inference = vt.ADVI(random_seed=1)
    inference.fit(5, callbacks=[plain, lambda *a: wrapped(*a)], **fast)
    np.testing.assert_array_equal(wrapped.trace.values(), plain.trace.values())


def test_refine_goes_on_and_a_fit_of_another_approximation_starts_anew(gaussians, fast):
    recorder = vt.Recorder()
    first = vt.ADVI(random_seed=1)
    first.fit(5, callbacks=[recorder], **fast)
    first.refine(3, progressbar=False)
    assert len(recorder.trace) == 8
    vt.ADVI(random_seed=1).fit(4, callbacks=[recorder], **fast)
    assert [len(trace) for trace in recorder.traces] == [8, 4]
    assert recorder.trace is recorder.traces[-1]


@pytest.mark.parametrize("method", ["advi", "fullrank_advi", "svgd"])
def test_under_an_inference_of_pymc_it_keeps_losses_and_controls(gaussians, fast, method):
    rate = vt.LearningRate(schedule=vt.schedules.linear(1e-2, 1e-3, steps=5))
    recorder = vt.Recorder(rate)
    approx = pm.fit(
        5,
        method=method,
        callbacks=[recorder],
        obj_optimizer=pm.adam(learning_rate=rate.shared),
        random_seed=1,
        **fast,
    )
    trace = recorder.trace
    np.testing.assert_array_equal(trace.step, np.arange(5))
    np.testing.assert_allclose(
        trace.control["learning_rate"], [1e-2, 8.2e-3, 6.4e-3, 4.6e-3, 2.8e-3], rtol=1e-12
    )
    if method == "svgd":
        assert np.isnan(trace.loss).all()
    else:
        np.testing.assert_array_equal(trace.loss, approx.hist)


def test_two_controls_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two controls are named 'beta'"):
        vt.Recorder(vt.Beta(), vt.Beta())


def test_something_else_than_a_control_is_refused():
    with pytest.raises(TypeError, match="expected a vitoolkit Control, received 0.5"):
        vt.Recorder(0.5)


def test_two_recorders_that_would_keep_the_same_rows_keep_them_once(gaussians, fast):
    first, second, sparse = vt.Recorder(), vt.Recorder(), vt.Recorder(every=2)
    inference = vt.ADVI(random_seed=1)

    def note(approx, losses, i):
        if i == 3:
            inference.run.note("once")

    inference.fit(6, callbacks=[first, second, sparse, vt.Dashboard(), note], **fast)
    assert second.trace is first.trace and len(first.trace) == 6 and len(sparse.trace) == 3
    assert [event.text for event in first.trace.events] == ["once"]
    inference.refine(4, progressbar=False, callbacks=[second])
    assert first.trace.step.tolist() == list(range(10))
    assert (np.diff(first.trace.time) > 0).all()


@pytest.fixture
def gap(monkeypatch):
    """What a clock is ahead: a list of one number, in seconds."""
    real, ahead = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: real() + ahead[0])
    return ahead


@pytest.mark.parametrize("package", [pm, vt])
def test_the_time_between_two_fits_is_none_of_the_fit(package, gaussians, fast, gap):
    recorder = vt.Recorder()
    inference = package.ADVI(random_seed=1)
    inference.fit(20, callbacks=[recorder], **fast)
    before = float(recorder.trace.time[-1])
    gap[0] += 1e6
    inference.refine(20, progressbar=False)
    seconds = recorder.trace.time
    assert len(seconds) == 40 and (np.diff(seconds) >= 0).all()
    assert before <= seconds[20] < 1e5
    assert frame_of(recorder.trace.view(50), (), end=40).seconds[-1] < 1e5


def test_the_time_before_an_ended_fit_is_taken_back_is_none_of_it(gaussians, fast, gap):
    recorder = vt.Recorder()
    inference = vt.ADVI(random_seed=1)
    inference.fit(20, callbacks=[recorder], **fast)
    ended = float(recorder.trace.time[-1])
    gap[0] += 1e6
    inference.rewind(0)
    (event,) = [event for event in recorder.trace.events if event.kind == "rewind"]
    assert event.time == pytest.approx(ended)
    gap[0] += 1e6
    inference.refine(20, progressbar=False)
    assert (recorder.trace.time[[0, -1]] - ended < 1e5).all() and recorder.trace.time[
        0
    ] > ended - 1e-3
