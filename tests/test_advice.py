"""Words of advice."""

import numpy as np
import pytest

import vitoolkit as vt
from vitoolkit.views.advice import advice


def record(loss, beta=1.0, rate=1e-2):
    n = len(loss)
    trace = vt.Trace(("z",), ("beta", "rate"))
    control = np.stack([np.broadcast_to(beta, n), np.broadcast_to(rate, n)], axis=1)
    trace.extend(np.arange(n), np.arange(n) * 1e-3, loss, np.ones((n, 2)), control)
    return advice(trace.view(points=500), {"beta": "linear", "rate": "log"})


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def test_a_standstill_and_a_rise_are_said_in_words():
    assert record(noise(20_000)).startswith("the ELBO has not risen for ")
    assert record(noise(20_000), beta=4.0).startswith("the loss has not fallen for ")
    assert record(noise(20_000) + 1e-4 * np.arange(20_000)).startswith("the ELBO has fallen for ")


@pytest.mark.parametrize(
    ("loss", "beta", "rate"),
    [
        (noise(20_000) - 1e-4 * np.arange(20_000), 1.0, 1e-2),  # still falls, within the noise
        (noise(1_000), 1.0, 1e-2),  # too short to tell
        (noise(20_000), np.linspace(0.0, 1.0, 20_000), 1e-2),  # β moves, and the loss with it
        (noise(20_000), 1.0, np.geomspace(1e-1, 1e-6, 20_000)),  # the rate has been sent to sleep
        (np.full(20_000, np.nan), 1.0, 1e-2),
        (noise(0), 1.0, 1e-2),
    ],
)
def test_nothing_is_said_without_a_reason(loss, beta, rate):
    assert record(loss, beta, rate) == ""


def test_noise_alone_seldom_makes_a_rise():
    wrong = [s for s in range(40) if "fallen for" in record(noise(20_000, s))]
    assert len(wrong) <= 1
