"""Calibration of q for a model, against closed forms."""

import numpy as np
import pymc as pm
import pytest
from scipy.stats import ks_2samp, norm

import vitoolkit as vt
from vitoolkit.vsbc import probabilities, symmetry


def conjugate(y=None):
    """A conjugate model of which a normal q is exact."""
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, shape=4, observed=y)
    return model


def test_an_exact_q_is_uniform_and_a_shifted_one_is_as_phi_says():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=4_000)
    mean, sd = (truth + 0.5 * rng.normal(size=4_000)) / 1.25, np.full(4_000, np.sqrt(0.2))
    exact = vt.Calibration(["x"], probabilities(mean, sd, truth)[:, None])
    assert exact.biased == exact.uncalibrated == ()
    assert exact.table["mean"]["x"] == pytest.approx(0.5, abs=0.02)
    delta = 0.4
    shifted = vt.Calibration(["x"], probabilities(mean + delta * sd, sd, truth)[:, None])
    for level in (0.1, 0.5, 0.9):
        exactly = norm.cdf(norm.ppf(level) + delta)
        assert (shifted.p < level).mean() == pytest.approx(exactly, abs=0.03)
    assert shifted.biased == ("x",)
    # the mean of p is Φ(-δ / √2), by the law of the difference of two normals
    assert shifted.table["mean"]["x"] == pytest.approx(norm.cdf(-delta / np.sqrt(2)), abs=0.02)
    assert "x: q is too high; the truth is above its median in 3" in repr(shifted)
    narrow = vt.Calibration(["x"], probabilities(mean, 0.5 * sd, truth)[:, None])
    assert narrow.biased == () and narrow.uncalibrated == ("x",)
    assert "x: q is too narrow; its 90 % hold the truth in 5" in repr(narrow)


def test_the_p_value_of_symmetry_is_exact():
    rng = np.random.default_rng(2)
    statistic, p_value = symmetry(p := rng.uniform(size=37))
    assert statistic == pytest.approx(ks_2samp(p, 1 - p).statistic)
    seen = [symmetry(rng.uniform(size=37))[0] for _ in range(4_000)]
    assert p_value == pytest.approx(np.mean(np.array(seen) >= statistic - 1e-9), abs=0.03)
    # all on one side: of 2^n walks two go as far as this
    assert symmetry(np.linspace(0.1, 0.4, 10)) == (1.0, pytest.approx(2 * 0.5**10))


def test_fits_to_drawn_data_are_calibrated_where_q_is_exact():
    c = vt.vsbc(
        conjugate, 1_500, replications=10, random_seed=3,
        learning_rate=vt.schedules.cosine(0.1, 1e-3, steps=1_500),
    )  # fmt: skip
    assert c.names == ("x",) and c.p.shape == (10, 1)
    assert c.biased == c.uncalibrated == ()


def test_a_q_that_never_left_its_start_is_not(fast):
    """After no steps q is N(0, log 2 squared): of x ~ N(3, 1) it is far too low."""

    def build(y=None):
        with pm.Model() as model:
            x = pm.Normal("x", 3.0, initval=0.0)
            pm.Normal("y", x, observed=y)
        return model

    fast.pop("progressbar")
    c = vt.vsbc(build, 0, replications=12, start={"x": 0.0}, random_seed=1, **fast)
    assert (c.p > 0.5).all()  # all but one in a thousand truths are above 0
    assert c.biased == ("x",) and "x: q is too low" in repr(c)
    same = vt.vsbc(build, 0, replications=3, start={"x": 0.0}, random_seed=1, **fast)
    again = vt.vsbc(build, 0, replications=3, start={"x": 0.0}, random_seed=1, **fast)
    np.testing.assert_array_equal(same.p, again.p)


def test_truths_are_on_the_scale_of_q(fast):
    def build(y=None):
        with pm.Model() as model:
            low = pm.Normal("low")
            s = pm.LogNormal("s", 0.5, 0.1)
            u = pm.Uniform("u", low, low + 2.0, shape=2)
            pm.Normal("y", u.sum() + s, observed=y)
        return model

    fast.pop("progressbar")
    c = vt.vsbc(build, 0, replications=10, random_seed=1, **fast)
    assert c.names == ("low", "s_log__", "u_interval__[0]", "u_interval__[1]")
    # q starts at log s = its prior's median, within the sd of its start: p is near one half
    assert np.abs(c.p[:, 1] - 0.5).max() < 0.35 and np.isfinite(c.p).all()
    assert np.ptp(c.p[:, 2]) > 0.5


def test_it_is_drawn_and_shown():
    p = np.random.default_rng(1).uniform(size=(200, 14))
    c = vt.Calibration([f"z[{i}]" for i in range(14)], p)
    assert len(c.plot().children) == 12
    bars = c.plot().children[0][0].renderers[0].data_source.data["top"]
    assert sum(bars) == 200
    shown = c._repr_html_()
    assert "No miscalibration is seen in 200 replications" in shown and "<iframe" in shown
    assert list(c.table.columns) == ["mean", "ks", "symmetric", "uniform"]


def _without_data(y=None):
    with pm.Model() as model:
        pm.Normal("x")
    return model


def _with_potential(y=None):
    model = conjugate(y)
    with model:
        pm.Potential("p", model["x"])
    return model


@pytest.mark.parametrize(
    ("build", "options", "error", "message"),
    [
        (3, {}, TypeError, "build must be a function that makes a pymc.Model, received 3"),
        (lambda: 3, {}, TypeError, "build must return a pymc.Model"),
        (_without_data, {}, ValueError, "received 'y'; the variables are x"),
        (lambda: conjugate(np.ones(4)), {}, ValueError, r"such as build\(y=None\) for 'y'"),
        (_with_potential, {}, ValueError, "cannot be drawn from"),
        (conjugate, {"replications": 1}, ValueError, "replications must be a whole number from 2"),
        (conjugate, {"model": None}, TypeError, "vsbc takes no model="),
        (conjugate, {"lerning_rate": 1}, TypeError, "Did you mean 'learning_rate'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(build, options, error, message):
    with pytest.raises(error, match=message):
        vt.vsbc(build, 10, **options)
