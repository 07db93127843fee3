import numpy as np
import pymc as pm
import pytest
from models import regression, two_gaussians

import vitoolkit as vt


def inference_of(model, rate):
    with model:
        inference = vt.ADVI(random_seed=4)
        inference.fit(
            30, obj_optimizer=pm.adam(learning_rate=rate), callbacks=[rate], progressbar=False
        )
    return inference


def test_it_leaves_no_trail():
    model = two_gaussians()
    rate, twin_rate = vt.LearningRate(0.01), vt.LearningRate(0.01)
    inference, twin = inference_of(model, rate), inference_of(model, twin_rate)
    hist, state = inference.hist.copy(), [p.get_value() for p in inference.approx.params]
    found = vt.lr_find(inference)
    assert len(found.loss) > 40 and inference.steps_taken == 30
    np.testing.assert_array_equal(inference.hist, hist)
    for parameter, before in zip(inference.approx.params, state, strict=True):
        np.testing.assert_array_equal(parameter.get_value(), before)
    assert rate.value == 0.01 and rate.schedule is None and not rate.log
    assert rate.suggestion == found.suggestion and twin_rate.suggestion is None
    recorder, twins = vt.Recorder(), vt.Recorder()
    inference.refine(100, progressbar=False, callbacks=[recorder])
    twin.refine(100, progressbar=False, callbacks=[twins])
    np.testing.assert_array_equal(recorder.trace.loss, twins.trace.loss)
    np.testing.assert_array_equal(recorder.trace.kl["z"], twins.trace.kl["z"])
    assert recorder.trace.step[0] == 30


def ill_scaled():
    rng = np.random.default_rng(7)
    with pm.Model() as model:
        w = pm.Normal("w", 0, 10, shape=20)
        x = rng.normal(size=(400, 20)) * np.logspace(-1, 0.5, 20)
        pm.Normal("y", x @ w, 1.0, observed=x @ rng.normal(size=20) + rng.normal(size=400))
    return model


@pytest.mark.parametrize("build", [two_gaussians, lambda: regression(minibatch=False), ill_scaled])
def test_the_suggestion_is_near_the_best_of_a_grid(build):
    model = build()
    with model:
        found = vt.lr_find(vt.ADVI(random_seed=1))
    grid = np.geomspace(1e-4, 1.0, 13)
    ends = []
    for rate in grid:
        recorder = vt.Recorder()
        with model:
            vt.ADVI(random_seed=2).fit(
                1_500,
                obj_optimizer=pm.adam(learning_rate=vt.LearningRate(rate, bounds=(1e-6, 2.0))),
                callbacks=[recorder],
                progressbar=False,
            )
        ends.append(recorder.trace.elbo[-300:].mean())
    good = grid[ends >= np.nanmax(ends) - 0.1]  # nats: as good as the best, within its noise
    assert good.min() / 3 <= found.suggestion <= good.max() * 3, (found, grid, ends)


def test_a_sweep_that_diverges_is_ended(gaussians):
    rate = vt.LearningRate(0.01, bounds=(1e-6, 1e6))
    inference = vt.ADVI(random_seed=1)
    inference.fit(0, obj_optimizer=pm.sgd(learning_rate=rate), callbacks=[rate], progressbar=False)
    found = vt.lr_find(inference, high=1e6)
    assert found.diverged and len(found.loss) < 400
    assert np.isfinite([found.suggestion, found.steepest, found.minimum_tenth]).all()


def test_it_shows_itself(gaussians):
    found = vt.lr_find(vt.ADVI(random_seed=1))
    assert "suggestion" in repr(found) and found.plot().title.text.startswith("Suggestion")
    assert found._repr_html_().startswith("<iframe")


def test_bad_arguments_are_refused(gaussians, fast):
    inference = vt.ADVI()
    inference.fit(0, obj_optimizer=pm.adam(learning_rate=0.01), **fast)
    with pytest.raises(ValueError, match="one learning rate that is a control.* it has none"):
        vt.lr_find(inference)
    with pytest.raises(TypeError, match="an inference of vitoolkit is swept"):
        vt.lr_find(3)
    with pytest.raises(ValueError, match="increasing pair within the bounds"):
        vt.lr_find(vt.ADVI(), low=1.0, high=0.1)
    with pytest.raises(ValueError, match="not part of the last fit's step"):
        vt.lr_find(inference, vt.LearningRate(0.01))
