"""Diagnosis of a fit, against closed forms where there are some."""

import builtins
import pickle

import cloudpickle
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from models import regression

import vitoolkit as vt
from vitoolkit.density import LogDensity, NormalQ, Unknown
from vitoolkit.diagnose import AGREE
from vitoolkit.linear_response import linear_response
from vitoolkit.psis import good_khat, khat_of, rhat_of


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Densities are compiled in a moment, and take their time."""
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        yield


def normal_model(covariance, mean=0.0):
    """A posterior that is normal, without data."""
    size = len(covariance)
    with pm.Model() as model:
        pm.MvNormal("z", np.full(size, mean), np.asarray(covariance, float), shape=size)
    return model


def put(approx, mean, sd):
    """Set the parameters of a mean-field q."""
    group = approx.groups[0]
    group.params_dict["mu"].set_value(np.broadcast_to(mean, group.ddim).astype(float))
    sd = np.broadcast_to(np.asarray(sd, float), group.ddim)
    group.params_dict["rho"].set_value(np.log(np.expm1(sd)))


def optimal(covariance):
    """Mean-field q at the optimum of a normal posterior: variances 1 / Λ_ii."""
    approx = pm.MeanField(model=normal_model(covariance), random_seed=1)
    put(approx, 0.0, 1 / np.sqrt(np.diag(np.linalg.inv(covariance))))
    return approx


@pytest.fixture(scope="module")
def finished():
    """A fit of a conjugate model that has ended: q is the posterior."""
    with pm.Model(coords={"arm": ["control", "treated"]}):
        z = pm.Normal("z", dims="arm")
        pm.Deterministic("difference", z[1] - z[0])
        pm.Normal("y", z, 0.5, observed=[1.0, -2.0])
        with pytensor.config.change_flags(mode="Mode"):
            return vt.fit_many(
                12_000, grid={"random_seed": [1, 2]}, learning_rate=5e-3, progressbar=False
            )


# --- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7, 0.9])
def test_khat_of_a_correlated_normal_is_the_correlation(rho):
    approx = optimal([[1.0, rho], [rho, 1.0]])
    q = NormalQ(approx)
    precision = np.linalg.inv([[1.0, rho], [rho, 1.0]])
    exact = 1 - np.linalg.eigvals(np.diag(q.sd**2) @ precision).min()
    assert exact == pytest.approx(rho)
    with pytensor.config.change_flags(mode="Mode"):  # the default: many draws
        d = vt.diagnose(approx, draws=100_000, random_seed=3, linear_response=False)
    assert d.khat == pytest.approx(rho, abs=0.1)
    assert (d.khat > d.threshold) == (rho == 0.9)


def test_a_funnel_is_over_the_threshold():
    with pm.Model() as model:
        v = pm.Normal("v", 0, 3)
        pm.Normal("x", 0, pt.exp(v / 2), shape=9)
    approx = pm.MeanField(model=model, random_seed=1)
    put(approx, 0.0, 1.0)
    d = vt.diagnose(approx, random_seed=1, linear_response=False)
    assert d.threshold == good_khat(2_000) == pytest.approx(1 - 1 / np.log10(2_000))
    assert d.khat > d.threshold and not d.ok
    assert f"k-hat is {d.khat:.2f}, above 0.70: q is not near the posterior." in d.verdict
    assert any("vt.FullRankADVI" in advice for advice in d.advice)


def test_linear_response_is_exact_on_a_normal_posterior():
    rng = np.random.default_rng(5)
    factor = rng.normal(size=(4, 4))
    covariance = factor @ factor.T + np.eye(4)
    d = vt.diagnose(optimal(covariance), random_seed=1)
    np.testing.assert_allclose(d.covariance, covariance, rtol=0, atol=1e-6)
    np.testing.assert_allclose(d.table["lr_sd"], np.sqrt(np.diag(covariance)), atol=1e-6)
    narrow = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)) * np.diag(covariance))
    np.testing.assert_allclose(d.table["ratio"], narrow, atol=1e-6)


def test_linear_response_through_a_transform_and_several_variables():
    """s ~ LogNormal is normal on the log scale, x given s is normal there: a normal posterior."""
    with pm.Model() as model:
        s = pm.LogNormal("s", 0.3, 0.8)
        pm.Normal("x", 2 * pt.log(s), 0.5, shape=2)
    approx = pm.MeanField(model=model, random_seed=1)
    put(approx, [0.3, 0.6, 0.6], [0.2, 0.5, 0.5])
    d = vt.diagnose(approx, random_seed=1)
    var = 0.8**2
    exact = np.array([[1, 2, 2], [2, 4, 4], [2, 4, 4]]) * var + np.diag([0, 0.25, 0.25])
    np.testing.assert_allclose(d.covariance, exact, atol=1e-6)
    assert list(d.table.index) == ["s_log__", "x[0]", "x[1]"]
    assert list(d.table["variable"]) == ["s", "x", "x"]
    assert list(d.covariance.columns) == list(d.table.index)


def test_elbo_and_importance_weighted_bound_of_a_conjugate_model():
    y, noise = 2.0, 0.5
    with pm.Model() as model:
        z = pm.Normal("z")
        pm.Normal("y", z, np.sqrt(noise), observed=y)
    mean, sd = y / (1 + noise), 1 / np.sqrt(1 + 1 / noise)
    approx = pm.MeanField(model=model, random_seed=1)
    put(approx, mean, 1.5 * sd)
    evidence = -0.5 * np.log(2 * np.pi * (1 + noise)) - y**2 / (2 * (1 + noise))
    elbo = evidence - (-np.log(1.5) + 1.5**2 / 2 - 0.5)
    d = vt.diagnose(approx, draws=20_000, random_seed=1)
    assert d.elbo == pytest.approx(elbo, abs=4 * d.elbo_error) and d.elbo_error < 0.01
    assert d.iw_bound == pytest.approx(evidence, abs=4 * d.iw_error) and d.iw_error < 0.01
    assert d.elbo < d.iw_bound and d.iw_draws == 100
    put(approx, mean, sd)  # q is the posterior: every ratio is the evidence
    exact = vt.diagnose(approx, random_seed=1)
    assert exact.khat == 0.0
    assert exact.elbo == pytest.approx(evidence, abs=1e-9)
    assert exact.iw_bound == pytest.approx(evidence, abs=1e-9)


def test_log_q_of_full_rank_and_of_several_groups():
    model = normal_model([[1.0, 0.5], [0.5, 2.0]])
    with model:
        pm.Normal("a", shape=2)
    full = pm.FullRank(model=model, random_seed=1)
    entries = np.random.default_rng(3).normal(size=10)
    full.groups[0].params_dict["L_tril"].set_value(entries)
    for approx in (full, _mixed(model)):
        q = NormalQ(approx)
        z, log_q = q.draw(40_000, np.random.default_rng(2))
        np.testing.assert_allclose(z.mean(axis=0), q.mean, atol=5 * q.sd.max() / 200)
        np.testing.assert_allclose(z.std(axis=0), q.sd, rtol=0.03)
        covariance = np.cov(z.T)
        rest = np.einsum("ij,jk,ik->i", z - q.mean, np.linalg.inv(covariance), z - q.mean)
        sign, det = np.linalg.slogdet(2 * np.pi * covariance)
        np.testing.assert_allclose(log_q, -0.5 * (rest + det), atol=0.1)
    d = vt.diagnose(full, random_seed=1)
    assert d.table["lr_sd"].isna().all() and d.covariance.empty
    assert any("not mean-field" in note for note in d.notes)
    assert np.isfinite(d.khat) and not NormalQ(full).mean_field


def _mixed(model):
    with model:
        return pm.variational.Approximation(
            [pm.variational.approximations.FullRankGroup(group=[model["z"]]),
             pm.variational.approximations.MeanFieldGroup(group=[model["a"]])]
        )  # fmt: skip


def test_log_p_of_a_minibatch_is_that_of_all_rows():
    whole, parts = (pm.MeanField(model=regression(minibatch=m)) for m in (False, True))
    q = NormalQ(whole)
    z = q.mean + 0.1 * np.random.default_rng(1).normal(size=len(q.mean))
    log_p, by_parts = LogDensity(whole, q), LogDensity(parts, NormalQ(parts))
    assert by_parts(z) == pytest.approx(log_p(z), rel=1e-12)
    np.testing.assert_allclose(by_parts.gradient(z), log_p.gradient(z), rtol=1e-9)
    assert (log_p.calls, by_parts.calls) == (1, 21)


def test_the_last_minibatch_is_not_full():
    y = np.random.default_rng(1).normal(2.0, size=(103, 2))
    with pm.Model() as model:
        z = pm.Normal("z", shape=2)
        rows = pm.Minibatch(y, batch_size=20)
        pm.Normal("y", z, observed=rows, total_size=(103, 2))
    approx = pm.MeanField(model=model)
    log_p = LogDensity(approx, NormalQ(approx))
    at = np.array([0.5, 1.5])
    square = ((y - at) ** 2).sum() + (at**2).sum()
    assert log_p(at) == pytest.approx(-0.5 * square - np.log(2 * np.pi) * 104)
    np.testing.assert_allclose(log_p.gradient(at), (y - at).sum(axis=0) - at)


# --- what is said -------------------------------------------------------------------------------


def test_a_fit_that_is_done(finished):
    d = vt.diagnose(finished[1], restarts=finished, random_seed=1)
    assert d.ok, d
    assert d.verdict.startswith("Finished and still: the ELBO")
    assert "q is near the posterior. 2 runs agree: R-hat is 1.0" in d.verdict
    assert d.still_moving == () and d.advice == () and d.notes == ()
    assert list(d.table.index) == ["z[control]", "z[treated]"]
    np.testing.assert_allclose(d.table["mean"], [0.8, -1.6], atol=0.1)
    np.testing.assert_allclose(d.table["ratio"], 1.0, atol=0.1)
    assert d.rhat == d.table["r_hat"].max() < 1.01
    assert repr(d).startswith("<Diagnosis: ok>\nFinished and still")
    assert "<b>OK</b>" in d._repr_html_() and "z[treated]" in d._repr_html_()


def test_draws_have_their_densities_beside_them(finished):
    d = vt.diagnose(finished[1], draws=200, random_seed=1, linear_response=False)
    data = d.draws
    assert d.draws is data
    z, stats = data["posterior"]["z"], data["sample_stats"]
    assert z.dims == ("chain", "draw", "arm") and z.shape == (1, 200, 2)
    difference = data["posterior"]["difference"].values
    np.testing.assert_allclose(difference, (z[..., 1] - z[..., 0]).values)
    prior = -0.5 * (z.values**2).sum(axis=-1) - np.log(2 * np.pi)
    data_term = -2 * ((z.values - [1.0, -2.0]) ** 2).sum(axis=-1) - 2 * np.log(
        0.5 * np.sqrt(2 * np.pi)
    )
    np.testing.assert_allclose(stats["log_p"].values, prior + data_term)
    np.testing.assert_array_equal(stats["log_q"].values[0], d.log_q)


def test_the_same_seed_gives_the_same_numbers(finished):
    one, two, other = (
        vt.diagnose(finished[1], draws=200, random_seed=seed, linear_response=False)
        for seed in (1, 1, 2)
    )
    assert (one.khat, one.elbo) == (two.khat, two.elbo) != (other.khat, other.elbo)
    loaded = pickle.loads(cloudpickle.dumps(one))
    assert repr(loaded) == repr(one)


def test_restarts_that_do_not_agree(finished):
    other = pm.MeanField(model=finished[1].approx.model, random_seed=1)
    put(other, [0.8, 3.0], 0.4)
    d = vt.diagnose(finished[1], restarts=[other], random_seed=1, linear_response=False)
    assert not d.ok and d.rhat > 1.5 > AGREE > d.table["r_hat"]["z[control]"]
    assert "2 runs do not agree: R-hat is" in d.verdict
    assert any("where the runs differ" in advice for advice in d.advice)


def test_6271_with_pymcs_defaults_is_not_done():
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", x, 0.5, observed=10.0)
        recorder = vt.Recorder()
        with pytensor.config.change_flags(mode="Mode"):
            approx = pm.fit(callbacks=[recorder], progressbar=False, random_seed=1)
    d = vt.diagnose(approx, random_seed=1)
    assert d.verdict.startswith("Not finished: the loss still falls by 8.") and not d.ok
    assert d.khat > d.threshold
    assert d.advice[0].startswith("go on")
    assert d.still_moving is None and any("which variables" in note for note in d.notes)
    # the posterior is normal: linear response has its sd from a q that is elsewhere
    assert d.table["lr_sd"]["x"] == pytest.approx(np.sqrt(0.2), abs=1e-6)


def test_what_still_moves_is_named(fast):
    with pm.Model():
        pm.Normal("near")
        far = pm.Normal("far")
        pm.Normal("y", far, 0.5, observed=10.0)
        snapshots = vt.snapshots.Snapshots()
        fit = vt.fit(1_500, learning_rate=2e-3, random_seed=1, callbacks=[snapshots], **fast)
    d = vt.diagnose(fit, draws=100, linear_response=False, random_seed=1)
    assert d.still_moving == ("far",) and "Still moving: far." in repr(d)
    assert d.table["moved"]["far"] > 5 * d.table["moved"]["near"]


def test_a_beta_that_ended_elsewhere_is_said(fast):
    with pm.Model():
        z = pm.Normal("z")
        pm.Normal("y", z, observed=1.0)
        fit = vt.fit(10, beta=4.0, random_seed=1, **fast)
        bare = vt.ADVI(beta=4.0, random_seed=1)
        bare.fit(0, **fast)
    d = vt.diagnose(fit, draws=100, random_seed=1)
    assert "beta ended at 4, so this is the optimum of a weighted loss" in d.verdict
    assert any("bring β back to 1" in advice for advice in d.advice) and not d.ok
    bare = vt.diagnose(bare, draws=100, random_seed=1)
    assert "There is no record of this fit" in bare.verdict
    assert "beta ended at 4, so this is not the posterior's approximation" in bare.verdict


def test_what_cannot_be_computed_is_said(fast):
    with pm.Model() as local:
        rows = pm.Minibatch(np.arange(40.0), batch_size=4)
        z = pm.Normal("z", shape=4)
        pm.Normal("y", z, observed=rows, total_size=40)
    d = vt.diagnose(vt.KLqp(pm.MeanField(model=local), total_size={"z": 40}))
    assert np.isnan([d.khat, d.elbo, d.iw_bound]).all() and not d.ok
    assert "How near q is to the posterior could not be computed." in d.verdict
    assert d.notes[0].endswith("q of z is of the rows of one minibatch.")
    with pytest.raises(RuntimeError, match="there are no draws: k-hat"):
        _ = d.draws
    with local:
        particles = vt.diagnose(pm.Empirical(size=10))
    assert "q is a set of particles" in repr(particles) and not len(particles.table)


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (lambda z, rows: pm.Normal("y", z, observed=rows), "no total_size"),
        (lambda z, rows: pm.Normal("y", z, observed=rows, total_size=50), "4 of 40 rows"),
        (lambda z, rows: pm.Normal("y", z, observed=np.ones(4), total_size=40), "a part of its"),
        (lambda z, rows: pm.Potential("p", 10 * (z * rows).sum()), "p depends on a minibatch"),
    ],
)
def test_a_minibatch_that_does_not_stand_for_all_rows_is_refused(observe, message):
    with pm.Model() as model:
        z = pm.Normal("z")
        rows = pm.Minibatch(np.arange(40.0), batch_size=4)
        if message.startswith("p"):
            pm.Normal("y", z, observed=rows, total_size=40)
        observe(z, rows)
    approx = pm.MeanField(model=model)
    with pytest.raises(Unknown, match=message):
        LogDensity(approx, NormalQ(approx))


def test_a_hessian_that_is_none_of_a_minimum_is_said():
    with pm.Model() as model:
        pm.Potential("two hills", pt.log(pt.cosh(3 * pm.Flat("z"))))
    approx = pm.MeanField(model=model)
    put(approx, 0.0, 0.1)
    with pytest.raises(Unknown, match="not positive definite"):
        linear_response(NormalQ(approx), LogDensity(approx, NormalQ(approx)))
    with pm.Model() as model:
        pm.Normal("z", shape=300)
    approx = pm.MeanField(model=model)
    with pytest.raises(Unknown, match="600 parameters, and it is solved for up to 400"):
        linear_response(NormalQ(approx), LogDensity(approx, NormalQ(approx)))


def test_khat_of_log_ratios_that_are_none():
    assert np.isnan(khat_of(np.array([0.0, np.nan, 1.0])))
    uniform = np.random.default_rng(1).uniform(size=4_000)
    assert khat_of(-np.log(uniform)) == pytest.approx(1.0, abs=0.2)  # the heavy tail is above,
    assert khat_of(np.log(uniform)) < 0.0  # and not below
    outside = np.r_[np.random.default_rng(1).normal(size=1_000), -np.inf]
    assert khat_of(outside) < 0.5
    same = np.random.default_rng(1).normal(size=(3, 400, 2))
    assert (rhat_of(same) < 1.01).all()


# --- what is refused ----------------------------------------------------------------------------


def test_other_things_are_refused_before_anything_is_compiled(finished, fast):
    fit = finished[1]
    for wrong in (None, "fit", fit.trace, finished):
        with pytest.raises(TypeError, match="diagnosed"):
            vt.diagnose(wrong)
    with pytest.raises(ValueError, match="draws must be a whole number from 100 up, received 10"):
        vt.diagnose(fit, draws=10)
    with pytest.raises(TypeError, match="linear_response must be True or False"):
        vt.diagnose(fit, linear_response="auto")
    with pytest.raises(TypeError, match="restarts must be several fits"):
        vt.diagnose(fit, restarts=fit)
    with pytest.raises(ValueError, match="at least one other fit"):
        vt.diagnose(fit, restarts=[fit])
    with pytest.raises(ValueError, match="restarts must be of the same model"):
        vt.diagnose(fit, restarts=[pm.MeanField(model=normal_model(np.eye(3)))])
    with fit.approx.model:
        weighted = vt.ADVI(beta=2.0)
    with pytest.raises(ValueError, match="ended at different β"):
        vt.diagnose(fit, restarts=[weighted])


def test_a_running_fit_is_refused():
    def look(approx, losses, i):
        with pytest.raises(RuntimeError, match="the fit still runs"):
            vt.diagnose(approx)

    with pm.Model():
        pm.Normal("z")
        vt.ADVI(random_seed=1).fit(
            2, callbacks=[look], progressbar=False, compile_kwargs={"mode": "FAST_COMPILE"}
        )


def test_a_missing_arviz_names_the_extra(monkeypatch):
    found = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("arviz"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("vitoolkit.files.importlib.import_module", without)
    with pytest.raises(ImportError, match=r'pip install "vitoolkit\[diagnose\]"'):
        khat_of(np.arange(100.0))
