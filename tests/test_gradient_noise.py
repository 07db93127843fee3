"""The noise of one draw's gradient, against a normal posterior, where it is known."""

from importlib import import_module

import numpy as np
import pymc as pm
import pytensor
import pytest

import vitoolkit as vt
from vitoolkit.density import LogDensity, NormalQ, Unknown
from vitoolkit.diagnose import _of_noise
from vitoolkit.gradient_noise import GradientNoise, gradient_noise
from vitoolkit.verdict import Verdict


def measured(mean, sd, approx=pm.MeanField, draws=4_000):
    """Of q = N(mean, sd²), where the posterior is N(0, 2²) in each of two coordinates."""
    with pm.Model(), pytensor.config.change_flags(mode="FAST_COMPILE"):
        pm.Normal("z", 0.0, 2.0, shape=2)
        approximation = approx(random_seed=1)
        q = NormalQ(approximation)
        q.mean[:], q.sd[:] = mean, sd
        return gradient_noise(q, LogDensity(approximation, q), draws, np.random.default_rng(1))


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 2.0), (0.0, 1.0), (1.5, 2.0), (-4.0, 0.5)])
def test_it_is_the_closed_form(mean, sd):
    found = measured(mean, sd)
    m, r = sd * mean / 4, sd**2 / 4  # of the gradient by the mean: m + r noise
    total = 2 * (r**2 + m**2 + 2 * r**2)
    stl = 2 * ((1 - r) ** 2 + m**2 + 2 * (1 - r) ** 2)
    assert found.total == pytest.approx(np.sqrt(total), rel=0.05)
    assert found.stl == pytest.approx(np.sqrt(stl), rel=0.05, abs=1e-12)
    signal = np.sqrt(2 * (m**2 + (1 - r) ** 2))
    assert found.mean == pytest.approx(signal, rel=0.05, abs=1e-12)


def test_of_full_rank_it_is_not_told():
    with pytest.raises(Unknown, match="not mean-field"):
        measured(0.0, 1.0, approx=pm.FullRank, draws=10)


@pytest.mark.parametrize(
    ("noise", "estimator", "said"),
    [
        (GradientNoise(0.02, 2.0, 0.5), "total", "noise of 2 nats about a mean of 0.02"),
        (GradientNoise(0.02, 2.0, 0.5), "total", "'stl' would leave 0.25 of it"),
        (GradientNoise(0.02, 2.0, 1.9), "total", "'stl' would not help"),
        (GradientNoise(0.02, 2.0, 0.5), "stl", "noise of 0.5 nats"),
        (GradientNoise(0.02, 2.0, 0.5), "stl", "'total' would not help"),
    ],
)
def test_what_is_said_of_it(noise, estimator, said):
    assert said in _of_noise(noise, estimator)


def test_a_fit_whose_learning_rate_is_the_noise_is_told_what_helps(monkeypatch):
    noisy = Verdict("The learning rate is the noise.", "noisy", False)
    module = import_module("vitoolkit.diagnose")
    monkeypatch.setattr(module, "verdict_of", lambda record: noisy)
    with pm.Model(), pytensor.config.change_flags(mode="FAST_COMPILE"):
        pm.Normal("z", 0.0, 2.0, shape=2)
        start = {"start": {"z": np.zeros(2)}, "start_sigma": {"z": 2.0}}
        fit = vt.fit(20, learning_rate=0.01, random_seed=2, progressbar=False, **start)
        found = vt.diagnose(fit, linear_response=False, draws=200, random_seed=1)
    (said,) = (words for words in found.advice if "noise of" in words)
    assert "gradient_estimator='stl' would leave 0.0" in said
