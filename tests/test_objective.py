import numpy as np
import pymc as pm
import pytensor
import pytest
from models import BATCH, ROWS, regression, two_gaussians
from scipy import stats

import vitoolkit as vt
from vitoolkit.objective import minibatch_constant

LOG_2PI = np.log(2 * np.pi)


# --- a drop-in for PyMC ------------------------------------------------------------------------


@pytest.mark.parametrize("minibatch", [False, True], ids=["full data", "minibatch"])
@pytest.mark.parametrize("family", ["ADVI", "FullRankADVI"])
def test_losses_are_those_of_pymc(fast, minibatch, family):
    with regression(minibatch=minibatch):
        stock = getattr(pm, family)(random_seed=7)
        stock.fit(200, **fast)
    for steps in (1, 50):
        with regression(minibatch=minibatch):
            ours = getattr(vt, family)(random_seed=7, steps_per_execution=steps)
            pm.fit(200, method=ours, **fast)
        np.testing.assert_allclose(ours.hist, stock.hist, rtol=1e-9)


@pytest.mark.parametrize(
    "optimizer", [pm.adam, pm.sgd, pm.momentum, pm.adagrad_window], ids=lambda o: o.__name__
)
def test_losses_are_those_of_pymc_under_every_kind_of_optimizer(fast, optimizer):
    with two_gaussians():
        stock = pm.ADVI(random_seed=7)
        stock.fit(60, obj_optimizer=optimizer(learning_rate=1e-3), **fast)
    with two_gaussians():
        rate = vt.LearningRate(1e-3)
        fit = vt.fit(60, optimizer=optimizer, learning_rate=rate, random_seed=7, **fast)
        fused = vt.ADVI(random_seed=7, steps_per_execution=50)
        fused.fit(60, obj_optimizer=optimizer(learning_rate=1e-3), **fast)
    np.testing.assert_allclose(fit.inference.hist, stock.hist, rtol=1e-9)
    np.testing.assert_allclose(fused.hist, stock.hist, rtol=1e-9)


def test_losses_are_those_of_pymc_with_several_draws_a_step(fast):
    with regression(minibatch=False):
        stock = pm.ADVI(random_seed=7)
        stock.fit(50, obj_n_mc=3, **fast)
    with regression(minibatch=False):
        ours = vt.ADVI(random_seed=7)
        ours.fit(50, obj_n_mc=3, **fast)
    np.testing.assert_allclose(ours.hist, stock.hist, rtol=1e-9)


def test_one_beta_is_that_of_pymc(fast):
    from pymc.variational.inference import KLqp

    with two_gaussians():
        stock = KLqp(pm.MeanField(random_seed=7), beta=4.0)
        stock.fit(50, **fast)
    with two_gaussians():
        ours = vt.KLqp(pm.MeanField(random_seed=7), beta=4.0)
        ours.fit(50, **fast)
    np.testing.assert_allclose(ours.hist, stock.hist, rtol=1e-9)


# --- closed forms --------------------------------------------------------------------------------


def tempered(observed, noise, beta):
    """Mean and sd of N(0, 1) prior times likelihood to the power 1/β."""
    precision = 1 + len(observed) / (beta * noise**2)
    return observed.sum() / (beta * noise**2) / precision, precision**-0.5


@pytest.mark.compiled
@pytest.mark.parametrize("when", ["from the start", "in mid-fit"])
@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_beta_of_one_variable_tempers_its_posterior_and_no_other(when, family):
    steps = 20_000
    with two_gaussians() as model:
        beta = vt.Beta(4.0 if when == "from the start" else 1.0)
        inference = family(beta={"z": beta}, random_seed=1)
        rate = vt.LearningRate(schedule=vt.schedules.cosine(0.05, 1e-5, steps=steps))

        class Steer(vt.Recorder):
            def on_block(self, run, block):
                super().on_block(run, block)
                if block.first > 1_000 and when == "in mid-fit":
                    beta.set(4.0)

        approx = inference.fit(
            steps,
            callbacks=[Steer(rate)],
            obj_optimizer=pm.adam(learning_rate=rate.shared),
            progressbar=False,
        )
    data = {name: model.rvs_to_values[model[name]].data for name in ("y_z", "y_w")}
    mean, std = approx.mean.eval(), approx.std.eval()
    for i, expected in enumerate(
        (tempered(data["y_z"], 2.0, 4.0), tempered(data["y_w"], 1.0, 1.0))
    ):
        assert abs(mean[i] - expected[0]) < 0.05 * expected[1]
        assert abs(std[i] / expected[1] - 1) < 0.05


def set_q(inference, **values):
    for name, value in values.items():
        inference.approx.groups[0].shared_params[name].set_value(value)


def terms_of_a_fixed_q(inference, draws, fast):
    """Every step's terms of a q that does not move."""
    recorder = vt.Recorder()
    inference.fit(draws, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), **fast)
    return recorder.trace


def assert_mean(draws, expected):
    """The mean agrees within 4.5 standard errors, computed from the draws."""
    error = draws.std(ddof=1) / np.sqrt(len(draws))
    assert abs(draws.mean() - expected) < 4.5 * error + 1e-12


def priors():
    with pm.Model() as model:
        z = pm.Normal("z", 0.0, 2.0, shape=2)
        w = pm.Normal("w", 1.0, 0.5)
        pm.Normal("y", z.sum() + w, 1.0, observed=[0.3])
    return model


PRIOR_MEAN, PRIOR_SD = np.array([0.0, 0.0, 1.0]), np.array([2.0, 2.0, 0.5])


@pytest.mark.parametrize("n_mc", [1, 4])
def test_kl_contributions_of_mean_field_are_the_closed_form(fast, n_mc):
    mean, sd = np.array([0.5, -1.0, 0.2]), np.array([0.3, 1.5, 0.8])
    with priors():
        inference = vt.ADVI(random_seed=2)
        set_q(inference, mu=mean, rho=np.log(np.expm1(sd)))
        inference_kwargs = {**fast, "obj_n_mc": n_mc}
        trace = terms_of_a_fixed_q(inference, 3_000, inference_kwargs)
    kl = np.log(PRIOR_SD / sd) + (sd**2 + (mean - PRIOR_MEAN) ** 2) / (2 * PRIOR_SD**2) - 0.5
    assert_mean(trace.kl["z"], kl[:2].sum())
    assert_mean(trace.kl["w"], kl[2])
    assert_mean(trace.kl["z"] + trace.kl["w"], kl.sum())
    np.testing.assert_allclose(trace.elbo, trace.data - trace.kl["z"] - trace.kl["w"], rtol=1e-12)


def test_kl_contributions_of_full_rank_are_the_chain_rule_and_add_up(fast):
    mean = np.array([0.5, -1.0, 0.2])
    scale = np.array([[0.9, 0.0, 0.0], [-0.7, 0.4, 0.0], [0.5, 0.3, 0.6]])
    with priors():
        inference = vt.FullRankADVI(random_seed=2)
        raw = scale.copy()
        np.fill_diagonal(raw, np.log(np.expm1(np.diag(scale))))
        set_q(inference, mu=mean, L_tril=raw[np.tril_indices(3)])
        trace = terms_of_a_fixed_q(inference, 3_000, fast)
    covariance = scale @ scale.T
    # E_q[log q(z_k | z_<k)] - E_q[log p(z_k)], coordinate by coordinate
    log_q = -0.5 * (1 + LOG_2PI) - np.log(np.diag(scale))
    log_p = (
        -0.5 * LOG_2PI
        - np.log(PRIOR_SD)
        - (np.diag(covariance) + (mean - PRIOR_MEAN) ** 2) / (2 * PRIOR_SD**2)
    )
    # the whole, by the formula for two multivariate Gaussians
    ratio = covariance / PRIOR_SD[:, None] ** 2
    total = 0.5 * (
        np.trace(ratio)
        - 3
        + ((mean - PRIOR_MEAN) ** 2 / PRIOR_SD**2).sum()
        - np.linalg.slogdet(ratio)[1]
    )
    assert (log_q - log_p).sum() == pytest.approx(total)
    assert_mean(trace.kl["z"], (log_q - log_p)[:2].sum())
    assert_mean(trace.kl["w"], (log_q - log_p)[2])
    assert_mean(trace.kl["z"] + trace.kl["w"], total)


def test_the_kl_of_a_positive_variable_is_on_the_unconstrained_scale_with_its_jacobian(fast):
    mean, sd = 0.3, 0.4  # of log tau
    with pm.Model():
        tau = pm.HalfNormal("tau", 1.0)
        pm.Normal("y", 0.0, tau, observed=[0.5])
        inference = vt.ADVI(random_seed=2)
        set_q(inference, mu=np.array([mean]), rho=np.log(np.expm1(np.array([sd]))))
        trace = terms_of_a_fixed_q(inference, 3_000, fast)
    grid = np.linspace(mean - 10 * sd, mean + 10 * sd, 20_001)
    q = stats.norm.pdf(grid, mean, sd)
    log_p = stats.halfnorm.logpdf(np.exp(grid)) + grid
    expected = np.trapezoid(q * (stats.norm.logpdf(grid, mean, sd) - log_p), grid)
    assert_mean(trace.kl["tau"], expected)


# --- units ---------------------------------------------------------------------------------------


def test_the_loss_is_the_terms_over_c_and_the_elbo_does_not_know_beta(fast, minibatch_regression):
    recorder = vt.Recorder()
    inference = vt.ADVI(beta={"w": 3.0, "tau": 0.5}, random_seed=1)
    inference.fit(20, callbacks=[recorder], **fast)
    trace = recorder.trace
    weighted = sum({"w": 3.0, "tau": 0.5}.get(v, 1.0) * trace.kl[v] for v in trace.variables)
    np.testing.assert_allclose(trace.loss, (weighted - trace.data) / (ROWS / BATCH), rtol=1e-9)
    np.testing.assert_allclose(
        trace.elbo, trace.data - sum(trace.kl[v] for v in trace.variables), rtol=1e-12
    )
    last = inference.terms
    assert last["data"] == trace.data[-1]
    assert last["kl"] == {v: trace.kl[v][-1] for v in trace.variables}


@pytest.mark.parametrize("batch", ["constant", "symbolic"])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_c_is_rows_over_batch_whatever_the_rank_of_an_observation(rank, batch):
    rows, size = 1_000, 10
    data = np.random.default_rng(0).normal(size=(rows, 4, 3, 2)[:rank])
    with pm.Model():
        if batch == "constant":
            observed = pm.Minibatch(data, batch_size=size)
        else:
            observed = pm.Data("data", data[:size])
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1.0, observed=observed, total_size=rows)
        approx = pm.MeanField()
    assert minibatch_constant(approx).eval() == pytest.approx(rows / size)
    approx.scale_cost_to_minibatch = False
    assert minibatch_constant(approx).eval() == 1


# --- β = 0 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_warm_up_from_zero_has_no_nan_in_5000_steps(fast, dtype):
    with pytensor.config.change_flags(floatX=dtype), two_gaussians():
        recorder = vt.Recorder()
        beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=4_000))
        vt.ADVI(beta=beta, random_seed=1).fit(
            5_000, callbacks=[recorder], obj_optimizer=pm.adam(learning_rate=0.01), **fast
        )
    assert len(recorder.trace) == 5_000
    assert np.isfinite(recorder.trace.loss).all()
    assert recorder.trace.control["beta"][[0, 2_000, 4_999]].tolist() == [0.0, 0.5, 1.0]


# --- missing entries of a multivariate observation ---------------------------------------------


SHARED = np.array([[1.0, 0.6], [0.6, 1.0]])


def half_observed(covariance=SHARED):
    """The second entry of a bivariate normal is missing, the first is 0.5."""
    with pm.Model() as model, pytest.warns(pm.exceptions.ImputationWarning):
        pm.MvNormal("y", np.zeros(2), covariance, observed=np.array([[0.5, np.nan]]))
    return model


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_missing_entries_have_the_kl_from_their_own_prior_and_not_from_the_data(fast, family, beta):
    with half_observed():
        inference = family(beta=beta, random_seed=1)
        set_q(inference, mu=np.array([0.3]))
        if family is vt.ADVI:
            set_q(inference, rho=np.log(np.expm1([0.5])))
        else:
            set_q(inference, L_tril=np.log(np.expm1([0.5])))
        trace = terms_of_a_fixed_q(inference, 4_000, fast)
    kl = -np.log(0.5) + (0.5**2 + 0.3**2) / 2 - 0.5  # from N(0, 1), the marginal
    noise = 1 - 0.6**2  # of the observed entry given the missing one, whose slope is 0.6
    square = (0.5 - 0.6 * 0.3) ** 2 + (0.6 * 0.5) ** 2
    data = -0.5 * LOG_2PI - 0.5 * np.log(noise) - square / (2 * noise)
    assert trace.variables == ("y_unobserved",)
    assert_mean(trace.kl["y_unobserved"], kl)
    assert_mean(trace.data, data)
    assert_mean(trace.loss, beta * kl - data)


@pytest.mark.compiled
def test_beta_of_missing_entries_tempers_them_as_the_loss_says():
    with half_observed():
        rate = vt.LearningRate(schedule=vt.schedules.cosine(0.05, 1e-5, steps=40_000))
        fit = vt.fit(40_000, beta=4.0, learning_rate=rate, random_seed=1, progressbar=False)
    precision = 1 + 0.6**2 / (4 * (1 - 0.6**2))
    mean = 0.6 * 0.5 / (4 * (1 - 0.6**2)) / precision
    assert abs(fit.approx.mean.eval()[0] - mean) < 0.05
    assert abs(fit.approx.std.eval()[0] * np.sqrt(precision) - 1) < 0.05


def test_losses_with_missing_entries_are_those_of_pymc(fast):
    with half_observed():
        stock = pm.ADVI(random_seed=7)
        stock.fit(50, **fast)
    with half_observed():
        ours = vt.ADVI(random_seed=7)
        ours.fit(50, **fast)
    np.testing.assert_allclose(ours.hist, stock.hist, rtol=1e-9)


def missing_rows():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(6, 3))
    data[[0, 1, 1, 2, 4, 4, 4], [0, 1, 2, 0, 0, 1, 2]] = np.nan
    return data


def student(data):
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.MvStudentT("y", nu=4.0, mu=mu * np.ones(3), scale=np.eye(3), observed=data)
    return model


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
def test_a_density_that_only_exists_together_is_one_term_without_a_beta(fast):
    with student(missing_rows()):
        for beta in (2.0, vt.Beta(), {"y_unobserved": 1.0}, vt.schedules.constant(1.0)):
            with pytest.raises(ValueError, match="β of 'y_unobserved' is refused.*beta={...}"):
                vt.ADVI(beta=beta)
        with pytest.raises(ValueError, match="multivariate"):
            vt.ADVI(kl_by={"y_unobserved": "coordinate"})
        with pytest.raises(ValueError, match="closed_form of 'y_unobserved' is refused"):
            vt.ADVI(closed_form=["y_unobserved"])
        stock = pm.ADVI(random_seed=7)
        stock.fit(20, **fast)
        recorder = vt.Recorder()
        inference = vt.ADVI(random_seed=7)
        assert list(inference.beta) == ["mu"]
        inference.fit(20, callbacks=[recorder], **fast)
        assert vt.ADVI(beta={"mu": 4.0}).variables == inference.variables
    np.testing.assert_allclose(inference.hist, stock.hist, rtol=1e-9)
    assert inference.variables == ("mu", "y_unobserved+y_observed")
    trace = recorder.trace
    np.testing.assert_allclose(trace.elbo, -trace.loss, rtol=1e-9)
    assert "weighted by 1" in trace.attrs["terms"]["y_unobserved+y_observed"]


def batched_covariance(data):
    with pm.Model() as model:
        mu, sd = pm.Normal("mu", shape=3), pm.HalfNormal("sd", shape=6)
        covariance = sd[:, None, None] ** 2 * (np.eye(3) + 0.3)
        pm.MvNormal("y", mu, covariance, observed=data)
    return model


def one_covariance(data):
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=(6, 3))
        chol, *_ = pm.LKJCholeskyCov("chol", eta=2.0, n=3, sd_dist=pm.HalfNormal.dist(1.0))
        pm.MvNormal("y", mu, chol=chol, observed=data)
    return model


def univariate(data):
    with pm.Model() as model:
        sd = pm.HalfNormal("sd")
        pm.Normal("y", 0.0, sd, observed=data)
        pm.Potential("pull", -((sd - 1.0) ** 2))
    return model


def of_all_kinds(data):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        ordered = pm.distributions.transforms.ordered
        means = pm.Normal("means", shape=3, transform=ordered, initval=[-1.0, 0.0, 1.0])
        pm.Flat("free")
        pm.GaussianRandomWalk("walk", init_dist=pm.Normal.dist(), steps=3)
        pm.TruncatedNormal("truncated", 0, 1, lower=0.0)
        pm.NormalMixture("y", w, means, 1.0, observed=np.nan_to_num(data))
    return model


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
@pytest.mark.parametrize(
    "build", [student, batched_covariance, one_covariance, univariate, of_all_kinds, regression]
)
def test_priors_and_data_term_add_up_to_the_log_density_of_the_model(build):
    model = build(minibatch=False) if build is regression else build(missing_rows())
    with model:
        data, priors = vt.ADVI().objective.op.log_p()
        point = model.initial_point(random_seed=1)
        rng = np.random.default_rng(2)
        point = {name: value + 0.3 * rng.random(np.shape(value)) for name, value in point.items()}
        nodes = [data, *(prior.sum() for prior in priors)]
        terms = model.compile_fn(nodes, mode="FAST_COMPILE")(point)
        whole = model.compile_logp(mode="FAST_COMPILE")(point)
    np.testing.assert_allclose(sum(terms), whole, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
def test_the_prior_of_missing_entries_is_the_marginal_of_every_row():
    data = missing_rows()
    sd = np.linspace(0.5, 1.5, 6)
    with batched_covariance(data) as model:
        _, (*_, prior) = vt.ADVI().objective.op.log_p()
        point = model.initial_point()
        point["mu"] = np.array([0.1, -0.2, 0.4])
        point["sd_log__"] = np.log(sd)
        point["y_unobserved"] = filled = np.linspace(-1, 1, 7)
        found = model.compile_fn(prior.sum(), mode="FAST_COMPILE")(point)
    values = data.copy()
    values[np.isnan(data)] = filled
    expected = 0.0
    for row, value, scale in zip(np.isnan(data), values, sd, strict=True):
        if row.any():
            covariance = scale**2 * (np.eye(3) + 0.3)[np.ix_(row, row)]
            expected += stats.multivariate_normal.logpdf(value[row], point["mu"][row], covariance)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_flat_prior_is_said_to_be_no_kl(fast):
    with pm.Model():
        pm.Flat("a")
        b = pm.Normal("b")
        pm.Normal("y", b, 1.0, observed=[0.3])
        stock = pm.ADVI(random_seed=7)
        stock.fit(20, **fast)
        inference, recorder = vt.ADVI(random_seed=7), vt.Recorder()
        inference.fit(20, callbacks=[recorder], **fast)
    np.testing.assert_allclose(inference.hist, stock.hist, rtol=1e-9)
    (name,) = recorder.trace.attrs["terms"]
    assert name == "a" and "log p = 0" in recorder.trace.attrs["terms"]["a"]
    assert "beta * E[log q(a)] + beta * KL(b)" in recorder.trace.attrs["inference"]


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
def test_a_variable_without_a_density_of_its_own_is_refused_at_construction(monkeypatch):
    monkeypatch.setattr("vitoolkit.latents._joined", lambda model, variable: None)
    with (
        half_observed(),
        pytest.raises(TypeError, match="'y_unobserved' no log density of its own"),
    ):
        vt.ADVI()
