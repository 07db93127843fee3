"""Amortized inference against closed forms: probabilistic PCA with a linear encoder.

Rows x ~ N(W z, s² I) with z ~ N(0, I). The columns of W are orthogonal, so that the posterior of z
given x has a diagonal covariance and a mean linear in x: a mean-field q with a linear encoder can
represent it, and the bound is tight.
"""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.variational.opvi import Approximation, Group
from scipy import stats

import vitoolkit as vt

ROWS, BATCH, UNITS, PIXELS, NOISE = 600, 50, 3, 6, 0.5
STEPS = 5_000


def loadings():
    """W with orthogonal columns of different length; the last column, of length 0, is no use."""
    columns = np.linalg.qr(np.random.default_rng(3).normal(size=(PIXELS, UNITS)))[0]
    return columns * [2.0, 0.8, 0.0]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(ROWS, UNITS))
    return z @ loadings().T + NOISE * rng.normal(size=(ROWS, PIXELS))


class Optimum:
    r"""What minimizes ``Σ_rows -E_q[log p(x|z)] + β KL(q(z|x) || N(0, I))``, and what is reached.

    Divided by β the objective of a row is ``-E_q[log p(x|z)^(1/β)] + KL``, an ELBO with the
    likelihood to the power 1/β. So the best q is the posterior under that likelihood, which is a
    Gaussian of variance β s² up to a factor, and the minimum is -β log of its evidence:

    .. math:: \int N(z; 0, I) N(x; Wz, s^2)^{1/β} dz
              = (2πs^2)^{-D/(2β)} (2πβs^2)^{D/2} N(x; 0, W W^T + β s^2 I)
    """

    def __init__(self, data, beta):
        w, variance = loadings(), beta * NOISE**2
        precision = 1 + (w**2).sum(axis=0) / variance
        self.encoder = w / variance / precision
        self.sd = precision**-0.5
        mean = data @ self.encoder
        self.kl = (0.5 * (self.sd**2 + mean**2 - 1) - np.log(self.sd)).sum(axis=0)
        marginal = stats.multivariate_normal(np.zeros(PIXELS), w @ w.T + variance * np.eye(PIXELS))
        log_evidence = (
            marginal.logpdf(data)
            - PIXELS / (2 * beta) * np.log(2 * np.pi * NOISE**2)
            + PIXELS / 2 * np.log(2 * np.pi * variance)
        )
        self.objective = -beta * log_evidence.sum()


def objective(data, encoder, sd, beta):
    """The same objective of any linear encoder, all expectations in closed form."""
    w, mean = loadings(), data @ encoder
    squares = ((data - mean @ w.T) ** 2).sum() + ROWS * (sd**2 * (w**2).sum(axis=0)).sum()
    log_likelihood = -0.5 * squares / NOISE**2 - ROWS * PIXELS * 0.5 * np.log(2 * np.pi * NOISE**2)
    kl = (0.5 * (sd**2 + mean**2 - 1) - np.log(sd)).sum()
    return -log_likelihood + beta * kl


class Amortized:
    """The model on minibatches, with a linear encoder as its approximation."""

    def __init__(self, data, encoder=None, sd=1.0):
        encoder = np.zeros((PIXELS, UNITS)) if encoder is None else encoder
        rho = np.broadcast_to(np.log(np.expm1(sd)), (UNITS,))
        self.encoder = pytensor.shared(np.array(encoder), "encoder", shape=(PIXELS, UNITS))
        self.rho = pytensor.shared(np.array(rho), "rho", shape=(UNITS,))
        self.weights = [self.encoder, self.rho]
        with pm.Model(coords={"row": range(BATCH), "latent": range(UNITS)}) as self.model:
            batch = pm.Minibatch(data, batch_size=BATCH)
            self.z = pm.Normal("z", dims=("row", "latent"))
            pm.Normal("x", self.z @ loadings().T, NOISE, observed=batch, total_size=ROWS)
            self.params = {
                "mu": batch @ self.encoder,
                "rho": pt.broadcast_to(self.rho, (BATCH, UNITS)),
            }

    @property
    def sd(self):
        return np.logaddexp(0, self.rho.get_value())

    def approx(self, *groups):
        return Approximation([Group([self.z], params=self.params), *groups])


def train(data, fast, **kwargs):
    """The encoder after training from zero, and the trace."""
    amortized = Amortized(data)
    decay = vt.schedules.exponential(2e-2, 1e-5, steps=STEPS - 1_500)
    rate = vt.LearningRate(schedule=vt.schedules.join(2e-2, decay, boundaries=[1_500]))
    recorder = vt.Recorder(rate)
    with amortized.model:
        inference = vt.KLqp(
            amortized.approx(),
            kl_by={"z": "latent"},
            random_seed=1,
            steps_per_execution=1,
            **kwargs,
        )
        inference.fit(
            STEPS,
            callbacks=[recorder],
            obj_optimizer=pm.adam(learning_rate=rate.shared),
            more_obj_params=amortized.weights,
            **fast,
        )
    return amortized, recorder.trace


def assert_at_the_optimum(amortized, best, data, beta):
    reached = objective(data, amortized.encoder.get_value(), amortized.sd, beta)
    assert best.objective <= reached <= best.objective + 0.01 * abs(best.objective)
    distance = np.linalg.norm(amortized.encoder.get_value() - best.encoder)
    assert distance < 0.05 * np.linalg.norm(best.encoder)
    np.testing.assert_allclose(amortized.sd, best.sd, rtol=0.05)


@pytest.fixture(scope="module")
def quick():
    return {"progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}}


@pytest.fixture(scope="module", params=[1.0, 4.0], ids=["β = 1", "β = 4"])
def trained(request, data, quick):
    beta = request.param
    return beta, *train(data, quick, beta={"z": beta}, total_size={"z": ROWS})


# --- the closed forms of this file ----------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_the_derived_optimum_is_the_minimum(data, beta):
    best = Optimum(data, beta)
    assert objective(data, best.encoder, best.sd, beta) == pytest.approx(best.objective)
    rng = np.random.default_rng(0)
    for _ in range(20):
        encoder = best.encoder + 0.02 * rng.normal(size=best.encoder.shape)
        sd = best.sd * np.exp(0.02 * rng.normal(size=UNITS))
        assert objective(data, encoder, sd, beta) > best.objective


# --- training -------------------------------------------------------------------------------------


def test_training_on_minibatches_reaches_the_optimum(trained, data):
    beta, amortized, _ = trained
    assert_at_the_optimum(amortized, Optimum(data, beta), data, beta)


def test_the_trace_is_in_nats_of_the_full_data_set(trained, data):
    beta, _, trace = trained
    best = Optimum(data, beta)
    last = slice(STEPS - 2_000, None)
    kl = trace.kl["z"][last]
    assert (kl - trace.data[last] / beta).mean() == pytest.approx(best.objective / beta, rel=0.01)
    assert kl.mean() == pytest.approx(best.kl.sum(), rel=0.01)
    parts = trace.kl_by["z"]
    assert parts.shape == (STEPS, UNITS)
    np.testing.assert_allclose(parts.sum(axis=1), trace.kl["z"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        parts[last].mean(axis=0), best.kl, rtol=0.02, atol=0.01 * best.kl.sum()
    )
    if beta == 1:
        log_marginal = -best.objective
        assert trace.elbo[last].mean() == pytest.approx(log_marginal, rel=0.01)


def test_a_unit_the_decoder_does_not_use_is_not_active(trained):
    _, _, trace = trained
    assert trace.active_units(0.01, rows=2_000, per=ROWS) == {"z": 2}


def test_without_total_size_the_kl_has_the_weight_of_the_rows_of_one_batch(data, quick):
    """What stock PyMC trains: the optimum at β = rows of the batch / rows of the data."""
    amortized, _ = train(data, quick)
    beta = BATCH / ROWS
    best = Optimum(data, beta)
    assert_at_the_optimum(amortized, best, data, beta)
    wanted = Optimum(data, 1.0)
    assert (best.sd[:2] < 0.5 * wanted.sd[:2]).all()


# --- beside other groups ----------------------------------------------------------------------


def test_amortized_beside_mean_field_and_full_rank_adds_up_to_the_closed_form(data, quick):
    encoder = Optimum(data, 1.0).encoder + 0.1
    sd = np.array([0.3, 0.7, 1.2])
    amortized = Amortized(data, encoder, sd)
    mean_a, sd_a = 0.4, 0.2
    mean_w, scale = np.array([0.5, -1.0]), np.array([[0.9, 0.0], [-0.7, 0.4]])
    raw = scale.copy()
    np.fill_diagonal(raw, np.log(np.expm1(np.diag(scale))))
    with amortized.model:
        a, w = pm.Normal("a", 1.0, 2.0), pm.Normal("w", 0.0, 3.0, shape=2)
        pm.Normal("y", a + w.sum(), 1.0, observed=[0.3, 0.5])
        approx = amortized.approx(Group([a], vfam="mf"), Group([w], vfam="fr"))
        for group, values in zip(
            approx.groups[1:],
            [
                {"mu": [mean_a], "rho": np.log(np.expm1([sd_a]))},
                {"mu": mean_w, "L_tril": raw[np.tril_indices(2)]},
            ],
            strict=True,
        ):
            for name, value in values.items():
                group.shared_params[name].set_value(np.asarray(value))
        recorder = vt.Recorder()
        inference = vt.KLqp(approx, total_size={"z": ROWS}, kl_by={"z": "latent"}, random_seed=1)
        inference.fit(2_000, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), **quick)
    trace = recorder.trace
    mean = data @ encoder
    units = (0.5 * (sd**2 + mean**2 - 1) - np.log(sd)).sum(axis=0)
    kl_a = np.log(2.0 / sd_a) + (sd_a**2 + (mean_a - 1.0) ** 2) / 8 - 0.5
    covariance = scale @ scale.T
    kl_w = 0.5 * (
        (np.trace(covariance) + (mean_w**2).sum()) / 9 - 2 - np.linalg.slogdet(covariance / 9)[1]
    )
    expected = {"z": units.sum(), "a": kl_a, "w": kl_w}
    assert set(trace.variables) == set(expected)
    drawn = {name: trace.kl[name] for name in trace.variables}
    drawn |= {k: trace.kl_by["z"][:, k] for k in range(UNITS)}
    expected |= dict(enumerate(units))
    drawn["all"] = trace.data - trace.elbo
    expected["all"] = units.sum() + kl_a + kl_w
    for name, value in expected.items():
        error = drawn[name].std(ddof=1) / np.sqrt(len(trace))
        assert abs(drawn[name].mean() - value) < 4.5 * error, name
        assert error < 0.05 * abs(value), name


@pytest.mark.compiled
def test_a_large_local_latent_compiles_beside_a_beta_of_another_variable():
    """1,000 scalars joined into one vector are more than Numba takes."""
    with pm.Model():
        w, z = pm.Normal("w"), pm.Normal("z", shape=(200, 6))
        pm.Normal("y", w + z.sum(axis=1), 1.0, observed=np.zeros(200), total_size=400)
        inference = vt.ADVI(beta={"z": 2.0}, total_size={"z": 400}, random_seed=1)
        recorder = vt.Recorder()
        mode = "NUMBA" if pm.__version__ >= "6" else "FAST_COMPILE"
        inference.fit(5, callbacks=[recorder], progressbar=False, compile_kwargs={"mode": mode})
    trace = recorder.trace
    loss = -trace.data + 2 * trace.kl["z"] + trace.kl["w"]
    np.testing.assert_allclose(trace.loss, loss / 2, rtol=1e-9)


# --- rules --------------------------------------------------------------------------------------


def test_dlrd_looks_at_the_weights_of_the_networks(data, quick):
    amortized, looks = Amortized(data), []
    with amortized.model:
        inference = vt.KLqp(amortized.approx(), total_size={"z": ROWS}, random_seed=1)
    assert not inference.approx.params

    class Looking(vt.rules.dlrd):
        def look(self, parameters):
            looks.append([value.copy() for value in parameters])
            super().look(parameters)

    rate = vt.LearningRate(5e-3, rule=Looking(every=20))
    inference.fit(
        60,
        callbacks=[vt.Recorder(rate)],
        obj_optimizer=pm.adam(learning_rate=rate),
        more_obj_params=amortized.weights,
        **quick,
    )
    assert len(looks) == 3
    weights = [weight.get_value() for weight in amortized.weights]
    assert [value.shape for value in looks[-1]] == [weight.shape for weight in weights]
    for value, weight in zip(looks[-1], weights, strict=True):
        np.testing.assert_array_equal(value, weight)
    with pytest.raises(ValueError, match="own loop does not tell of its networks' weights"):
        vt.rules.dlrd().look([])


# --- stopping -------------------------------------------------------------------------------------


def test_a_fit_with_an_encoder_ends_by_its_elbo(data, quick):
    amortized, callback = Amortized(data), vt.StopWhenConverged()
    with amortized.model:
        pm.Normal("other", 0.0, 1.0)
        inference = vt.KLqp(
            amortized.approx(Group(None, vfam="mf")), total_size={"z": ROWS}, random_seed=1
        )
        inference.fit(
            30_000,
            callbacks=[callback],
            obj_optimizer=pm.adam(learning_rate=5e-3),
            more_obj_params=amortized.weights,
            **quick,
        )
    assert callback.converged and inference.steps_taken < 30_000
    assert "ELBO" in callback.why and "q is stationary" not in callback.why
    best = Optimum(data, 1.0).objective
    reached = objective(data, amortized.encoder.get_value(), amortized.sd, 1.0)
    assert best <= reached <= best + 0.005 * abs(best)
