import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt


def test_one_call_gives_approximation_trace_controls_and_goes_on(gaussians, fast):
    fit = vt.fit(
        30,
        beta={"z": vt.schedules.linear(0.0, 1.0, steps=20)},
        learning_rate=vt.schedules.cosine(1e-2, 1e-3, steps=30),
        random_seed=1,
        **fast,
    )
    assert fit.approx is fit.inference.approx
    assert sorted(fit.controls) == ["beta[z]", "learning_rate"]
    assert len(fit.trace) == 30
    assert fit.trace.control["learning_rate"][0] == 1e-2
    fit.refine(5, progressbar=False)
    assert len(fit.trace) == 35
    posterior = fit.sample(20, random_seed=1)
    assert posterior.posterior["z"].shape == (1, 20)
    record = posterior["variational_trace"]
    np.testing.assert_array_equal(record["loss"], fit.trace.loss)


def test_methods(gaussians, fast):
    assert isinstance(vt.fit(2, method="FullRank_ADVI", **fast).inference, vt.FullRankADVI)
    mine = vt.ADVI()
    assert vt.fit(2, method=mine, **fast).inference is mine


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "nuts"}, ValueError, "'advi', 'fullrank_advi'"),
        ({"optimizer": "adam"}, TypeError, "such as pm.adam.*received 'adam'"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate must be in \[1e-06, 1\]"),
        ({"beta": {"x": 1.0}}, KeyError, "'z', 'w'"),
        ({"record": "run.db"}, NotImplementedError, "to_netcdf"),
        ({"background": True}, NotImplementedError, "sliders work"),
        ({"callbacks": [1]}, TypeError, "callable"),
    ],
)
def test_bad_arguments(gaussians, arguments, error, message):
    with pytest.raises(error, match=message):
        vt.fit(10, **arguments)


def test_an_inference_of_pymc_is_sent_to_pm_fit(gaussians):
    with pytest.raises(TypeError, match="PyMC's own, and trains with pm.fit"):
        vt.fit(10, method=pm.ADVI())


def test_an_inference_brings_its_own_beta(gaussians):
    with pytest.raises(TypeError, match="brings its own beta"):
        vt.fit(10, method=vt.ADVI(), beta=2.0)
