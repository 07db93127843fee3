"""Approximations beyond one mean-field or full-rank group, local latents, scaling, parts."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.variational.approximations import Empirical
from pymc.variational.opvi import Approximation, Group

import vitoolkit as vt
from vitoolkit.latents import dims_of
from vitoolkit.objective import BetaKL, latents_of

LOG_2PI = np.log(2 * np.pi)
ROWS, BATCH, UNITS = 200, 20, 3


def set_q(group, **values):
    for name, value in values.items():
        group.shared_params[name].set_value(np.asarray(value))


def held_still(inference, draws, fast, **kwargs):
    """Terms of a q that does not move, one row a draw."""
    recorder = vt.Recorder()
    inference.fit(
        draws, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), **fast, **kwargs
    )
    return recorder.trace


def assert_mean(draws, expected):
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (abs(draws.mean(axis=0) - expected) < 4.5 * error + 1e-12).all()


def normal_kl(mean, sd, prior_mean, prior_sd):
    """KL between Gaussians, elementwise, nats."""
    return np.log(prior_sd / sd) + (sd**2 + (mean - prior_mean) ** 2) / (2 * prior_sd**2) - 0.5


# --- several groups -----------------------------------------------------------------------------


def test_mean_field_beside_full_rank_trains_and_its_kl_adds_up_to_the_closed_form(fast):
    with pm.Model():
        a = pm.Normal("a", 0.0, 2.0, shape=2)
        b = pm.Normal("b", 1.0, 0.5)
        pm.Normal("y", a.sum() + b, 1.0, observed=[0.3, 0.5])
        approx = Approximation([Group([b], vfam="mf"), Group([a], vfam="fr")])
        inference = vt.KLqp(approx, beta={"b": 2.0}, random_seed=1)
        inference.fit(50, **fast)
        assert np.isfinite(inference.hist).all()
        scale = np.array([[0.9, 0.0], [-0.7, 0.4]])
        raw = scale.copy()
        np.fill_diagonal(raw, np.log(np.expm1(np.diag(scale))))
        set_q(approx.groups[0], mu=[0.2], rho=np.log(np.expm1([0.8])))
        set_q(approx.groups[1], mu=[0.5, -1.0], L_tril=raw[np.tril_indices(2)])
        trace = held_still(inference, 3_000, fast)
    rows = trace[50:] if len(trace) > 3_000 else trace
    covariance = scale @ scale.T
    kl_a = (
        -0.5 * (1 + LOG_2PI) * 2
        - np.log(np.diag(scale)).sum()
        + (0.5 * LOG_2PI + np.log(2.0)) * 2
        + (np.diag(covariance) + np.array([0.5, -1.0]) ** 2).sum() / 8
    )
    kl_b = normal_kl(0.2, 0.8, 1.0, 0.5)
    assert_mean(rows.kl["a"], kl_a)
    assert_mean(rows.kl["b"], kl_b)
    assert_mean(rows.kl["a"] + rows.kl["b"], kl_a + kl_b)


class Laplace(Group):
    """A family of the user's own: it states a log q for the whole group."""

    __param_spec__ = {"centre": ("d",)}
    short_name = "test_laplace"
    shift = 0.7

    def __init_group__(self, group):
        super().__init_group__(group)
        self.shared_params = {
            "centre": pytensor.shared(np.zeros(self.ddim), "centre", shape=(self.ddim,))
        }
        self._finalize_init()

    @property
    def symbolic_random(self):
        return self.symbolic_initial + self.shared_params["centre"]

    @property
    def symbolic_logq_not_scaled(self):
        return (-0.5 * self.symbolic_initial**2 - 0.5 * LOG_2PI).sum(axis=1)


def test_a_group_that_only_states_its_whole_log_q_has_one_term(fast):
    with pm.Model():
        a = pm.Normal("a", 0.0, 2.0)
        b = pm.Normal("b", 0.0, 3.0)
        c = pm.Normal("c")
        pm.Normal("y", a + b + c, 1.0, observed=[0.3])
        approx = Approximation([Laplace([a, b]), Group([c], vfam="mf")])
        with pytest.raises(ValueError, match="give 'a', 'b' one β"):
            vt.KLqp(approx, beta={"a": 2.0})
        with pytest.raises(ValueError, match="kl_by of 'a'.*does not split"):
            vt.KLqp(approx, kl_by={"a": "coordinate"})
        inference = vt.KLqp(approx, beta=2.0, random_seed=1)
        assert inference.variables == ("a+b", "c")
        trace = held_still(inference, 3_000, fast)
    assert_mean(trace.kl["a+b"], normal_kl(0, 1, 0, 2) + normal_kl(0, 1, 0, 3))


def test_an_approximation_without_log_q_is_refused_with_what_still_works(gaussians):
    with pytest.raises(TypeError, match="EmpiricalGroup states no log q.*Recorder work there"):
        vt.KLqp(Empirical(size=10))


# --- local latents --------------------------------------------------------------------------------


def local_model():
    data = np.random.default_rng(0).normal(size=(ROWS, UNITS))
    with pm.Model(coords={"latent": ["left", "middle", "right"], "row": range(BATCH)}) as model:
        batch = pm.Minibatch(data, batch_size=BATCH)
        slope = pm.Normal("slope", 0.0, 1.0)
        z = pm.Normal("z", 0.0, 1.0, dims=("row", "latent"))
        pm.Normal("x", slope * z, 1.0, observed=batch, total_size=ROWS)
    mu = pytensor.shared(np.linspace(-1, 1, UNITS), "mu", shape=(UNITS,))
    rho = pytensor.shared(np.zeros(UNITS), "rho", shape=(UNITS,))
    with model:
        amortized = Group([z], params={"mu": pt.tile(mu, BATCH), "rho": pt.tile(rho, BATCH)})
        approx = Approximation([amortized, Group([slope], vfam="mf")])
    return model, approx, [mu, rho]


def local_kl():
    """KL of one row's units, and all rows together, under the q of local_model."""
    return normal_kl(np.linspace(-1, 1, UNITS), np.log(2.0), 0.0, 1.0)


@pytest.mark.parametrize("size", ["number", "shared"])
def test_the_kl_of_a_local_latent_stands_for_the_whole_data_set(fast, size):
    model, approx, params = local_model()
    n = ROWS if size == "number" else pytensor.shared(np.int64(ROWS))
    with model:
        inference = vt.KLqp(approx, total_size={"z": n}, kl_by={"z": "latent"}, random_seed=1)
        trace = held_still(inference, 2_000, fast, more_obj_params=params)
    assert_mean(trace.kl["z"], ROWS * local_kl().sum())
    assert_mean(trace.kl_by["z"], ROWS * local_kl())
    np.testing.assert_allclose(trace.kl_by["z"].sum(axis=1), trace.kl["z"], rtol=1e-9)
    loss = (trace.kl["z"] + trace.kl["slope"] - trace.data) / (ROWS / BATCH)
    np.testing.assert_allclose(trace.loss, loss, rtol=1e-9)
    record = trace.to_xarray()["kl_by_z"]
    assert record.dims == ("step", "latent")
    assert record["latent"].values.tolist() == ["left", "middle", "right"]
    if size == "number":
        assert "10 * KL(z)" in repr(inference) and "/ 10" in repr(inference)
        assert trace.attrs["scaling"] == {"c": 10.0, "total_size": {"z": 10.0}}
    else:
        assert "N / rows * KL(z)" in repr(inference)


@pytest.mark.parametrize(
    ("total_size", "error", "message"),
    [
        ({"slope": ROWS}, ValueError, r"'slope' of shape \(\), which is global"),
        ({"nope": ROWS}, KeyError, "total_size was given for 'nope'"),
        ({"x": ROWS}, KeyError, "it is observed"),
        ({"z": -3}, ValueError, "a whole number of rows from 1 up, received -3"),
        ({"z": 10}, ValueError, "at least its 20 rows"),
        ({"z": 0.5}, TypeError, "whole number"),
        ({"z": pt.vector()}, TypeError, "scalar"),
    ],
)
def test_a_bad_total_size_is_refused(total_size, error, message):
    _, approx, _ = local_model()
    with pytest.raises(error, match=message):
        vt.KLqp(approx, total_size=total_size)


def test_a_total_size_that_disagrees_with_the_observed_one_warns_with_both():
    _, approx, _ = local_model()
    with pytest.warns(UserWarning, match="'z' is 1000, that of the observed 'x' 200"):
        vt.KLqp(approx, total_size={"z": 1_000})


# --- scale_cost_to_minibatch ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["switch", "attribute of PyMC"])
def test_flipping_the_scaling_multiplies_loss_and_gradient_and_leaves_the_elbo(
    minibatch_regression, fast, how
):
    norm = pytensor.shared(np.float64(0.0), "norm")

    def recording_sgd(loss_or_grads, params):
        updates = pm.sgd(loss_or_grads, params, learning_rate=0.0)
        updates[norm] = pt.sqrt(
            sum((g**2).sum() for g in pm.updates.get_or_compute_grads(loss_or_grads, params))
        )
        return updates

    def fit(flip):
        norms, recorder = [], vt.Recorder()
        inference = vt.ADVI(random_seed=1)

        def user(approx, losses, i):
            norms.append(float(norm.get_value()))
            if i == 5 and flip and how == "switch":
                inference.scale_cost.set(False)
            elif i == 5 and flip:
                approx.scale_cost_to_minibatch = False

        from pymc.variational import updates

        pm.updates = updates
        inference.fit(10, callbacks=[recorder, user], obj_optimizer=recording_sgd, **fast)
        return recorder.trace, np.array(norms)

    plain, plain_norms = fit(False)
    flipped, norms = fit(True)
    factor = np.where(np.arange(10) < 5, 1.0, 20.0)
    np.testing.assert_allclose(flipped.loss, plain.loss * factor, rtol=1e-12)
    np.testing.assert_allclose(norms, plain_norms * factor, rtol=1e-12)
    np.testing.assert_array_equal(flipped.elbo, plain.elbo)
    (event,) = flipped.events
    assert (event.step, event.control, event.new) == (5, "scale_cost_to_minibatch", 0.0)
    np.testing.assert_array_equal(flipped.control["scale_cost_to_minibatch"], factor == 1.0)


def test_the_learning_rate_makes_up_for_the_scaling_under_sgd(minibatch_regression, fast):
    rate = vt.LearningRate(1e-3, bounds=(1e-9, 1.0))
    recorder = vt.Recorder(rate)
    inference = vt.ADVI(random_seed=1)

    def user(approx, losses, i):
        if i == 5:
            inference.set_scale_cost(False, learning_rate=rate)
        if i == 8:
            inference.set_scale_cost(True, learning_rate=rate)

    inference.fit(
        10,
        callbacks=[recorder, user],
        obj_optimizer=pm.sgd(learning_rate=rate.shared),
        **fast,
    )
    plain = vt.Recorder()
    vt.ADVI(random_seed=1).fit(
        10, callbacks=[plain], obj_optimizer=pm.sgd(learning_rate=1e-3), **fast
    )
    np.testing.assert_allclose(recorder.trace.elbo, plain.trace.elbo, rtol=1e-9)
    assert recorder.trace.control["learning_rate"][6] == pytest.approx(1e-3 / 20)


def test_compensation_is_refused_where_it_would_do_harm(minibatch_regression, fast):
    inference = vt.ADVI()
    rate = vt.LearningRate(1e-3)
    inference.fit(2, obj_optimizer=pm.adam(learning_rate=rate.shared), **fast)
    with pytest.raises(ValueError, match="learning rate of adam is not compensated.*c cancels"):
        inference.set_scale_cost(False, learning_rate=rate)
    assert inference.scale_cost.value == 1.0
    with pm.Model() as model:
        pm.Normal("z")
    without = vt.ADVI(model=model)
    assert without.scale_cost is None
    with pytest.raises(ValueError, match="nothing to scale"):
        without.set_scale_cost(False)


@pytest.mark.parametrize("value", [0.5, 2, "on", None])
def test_a_switch_is_on_or_off(minibatch_regression, value):
    with pytest.raises((TypeError, ValueError), match="scale_cost_to_minibatch must be"):
        vt.ADVI().scale_cost.set(value)


def test_several_observed_variables_give_the_largest_constant():
    data = np.zeros((600, 2))
    with pm.Model():
        mu = pm.Normal("mu")
        pm.Normal("few", mu, observed=pm.Minibatch(data[:, 0], batch_size=100), total_size=600)
        pm.Normal("many", mu, observed=pm.Minibatch(data[:, 1], batch_size=10), total_size=600)
        assert vt.ADVI().scaling["c"] == 60.0


# --- parts ----------------------------------------------------------------------------------------


def test_parts_by_coordinate_are_the_closed_form_and_carry_the_models_coordinates(fast):
    sd = np.array([[0.5, 1.0, 2.0], [0.3, 0.7, 1.5]])
    mean = np.array([[0.0, 1.0, -1.0], [2.0, 0.5, 0.1]])
    with pm.Model(coords={"city": ["Oslo", "Rome"], "year": [2001, 2002, 2003]}):
        w = pm.Normal("w", 0.0, 1.0, dims=("city", "year"))
        v = pm.Normal("v", 0.0, 1.0, shape=2)
        pm.Normal("y", w.sum() + v.sum(), 1.0, observed=[0.3])
        inference = vt.ADVI(kl_by={"w": "coordinate", "v": "coordinate"}, random_seed=1)
        group = inference.approx.groups[0]
        where = {name: group.ordering[name][1] for name in ("w", "v")}
        mu, rho = np.zeros(8), np.zeros(8)
        mu[where["w"]], rho[where["w"]] = mean.ravel(), np.log(np.expm1(sd)).ravel()
        set_q(group, mu=mu, rho=rho)
        trace = held_still(inference, 2_000, fast)
    assert_mean(trace.kl_by["w"], normal_kl(mean, sd, 0.0, 1.0))
    np.testing.assert_allclose(trace.kl_by["w"].sum(axis=(1, 2)), trace.kl["w"], rtol=1e-9)
    record = trace.to_xarray()["kl_by_w"]
    assert record.dims == ("step", "city", "year")
    assert record["city"].values.tolist() == ["Oslo", "Rome"]
    assert record["year"].values.tolist() == [2001, 2002, 2003]
    assert trace.parts["v"].dims == ("v_dim_0",)


CITIES, DAYS = (
    ["Oslo", "Rome"],
    np.array(["2024-02-28", "2024-02-29", "2024-03-01"], "datetime64[ns]"),
)


@pytest.mark.parametrize("by", ["coordinate", "day"])
def test_a_transformed_variable_keeps_the_dims_whose_length_it_keeps(by):
    with pm.Model(coords={"city": CITIES, "day": DAYS}):
        pm.HalfNormal("scale", dims=("city", "day"))
        pm.Beta("share", 2.0, 2.0, dims=("city", "day"))
        pm.Dirichlet("simplex", np.ones(3), dims=("city", "day"))
        inference = vt.ADVI(kl_by={"scale": by, "share": by})
        with pytest.raises(ValueError, match="prior is multivariate"):
            vt.ADVI(kl_by={"simplex": "city"})
        simplex = inference.objective.op.latents[2]
        assert dims_of(simplex) == ("city", "simplex_dim_1")
    for part in inference.parts:
        assert part.dims == (("city", "day") if by == "coordinate" else ("day",))


@pytest.mark.parametrize("unit", ["ns", "D"])
def test_dates_stay_dates_in_the_labels(unit):
    with pm.Model(coords={"day": DAYS.astype(f"datetime64[{unit}]")}):
        pm.Normal("w", dims="day")
        (part,) = vt.ADVI(kl_by="day").parts
    assert [str(label)[:10] for label in part.coords["day"]] == DAYS.astype("<M8[D]").astype(
        str
    ).tolist()


def test_labels_are_handed_on_as_the_model_has_them(monkeypatch):
    handed = []
    monkeypatch.setattr("vitoolkit.latents.Part", lambda *names: handed.append(names[-1]["lag"]))
    lags = np.array([60, 90], "timedelta64[ns]")
    with pm.Model(coords={"lag": lags}):
        pm.Normal("w", dims="lag")
        BetaKL(pm.MeanField(), {}, kl_by={"w": "lag"})
    assert [type(label) for label in handed[0]] == [np.timedelta64] * 2


def test_a_dim_without_labels_keeps_its_name_by_its_length():
    with pm.Model() as model:
        model.add_coord("row", length=3)
        pm.HalfNormal("scale", dims="row")
        (part,) = vt.ADVI(kl_by="row").parts
    assert part.dims == ("row",) and part.coords["row"] == [0, 1, 2]


def test_one_word_takes_every_variable_apart_that_it_fits():
    with pm.Model(coords={"city": ["Oslo", "Rome"]}):
        pm.Normal("w", dims="city")
        pm.Normal("v", shape=3)
        pm.Normal("scalar")
        pm.MvNormal("m", np.zeros(2), np.eye(2))
        assert [p.variable for p in vt.ADVI(kl_by="coordinate").parts] == ["w", "v"]
        assert [p.variable for p in vt.ADVI(kl_by="city").parts] == ["w"]
        with pytest.raises(ValueError, match="fits no variable.*'coordinate', 'city', 'v_dim_0'"):
            vt.ADVI(kl_by="town")


@pytest.mark.parametrize(
    ("kl_by", "error", "message"),
    [
        ({"w": "town"}, ValueError, "one of 'coordinate', 'city', received 'town'"),
        ({"nope": "coordinate"}, KeyError, "kl_by was given for 'nope'"),
        ({"m": "coordinate"}, ValueError, "prior is multivariate"),
    ],
)
def test_a_bad_kl_by_is_refused(kl_by, error, message):
    with pm.Model(coords={"city": ["Oslo", "Rome"]}):
        pm.Normal("w", dims="city")
        pm.MvNormal("m", np.zeros(2), np.eye(2))
        with pytest.raises(error, match=message):
            vt.ADVI(kl_by=kl_by)


# --- closed form ------------------------------------------------------------------------------


def test_a_closed_form_kl_has_the_same_mean_and_no_noise_of_its_own(fast):
    with pm.Model():
        tau = pm.Normal("tau", 0.0, 0.3)
        z = pm.Normal("z", tau, pm.math.exp(tau), shape=3)
        w = pm.Normal("w", 1.0, 2.0)
        pm.Normal("y", z.sum() + w, 1.0, observed=[0.4])
        drawn = held_still(vt.ADVI(random_seed=1), 4_000, fast)
        exact = held_still(vt.ADVI(closed_form=["z", "w"], random_seed=1), 4_000, fast)
    kl_w = normal_kl(1.0, np.log(2.0), 1.0, 2.0)  # q starts at the prior's mean
    assert_mean(drawn.kl["w"], kl_w)
    np.testing.assert_allclose(exact.kl["w"], kl_w, rtol=1e-9)
    difference = drawn.kl["z"] - exact.kl["z"]
    assert_mean(difference, 0.0)
    assert drawn.kl["w"].std() > 0.1
    assert abs(exact.loss.mean() - drawn.loss.mean()) < 4.5 * drawn.loss.std() / np.sqrt(4_000)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        (vt.FullRankADVI, "h", "its prior depends on other variables"),
        (vt.ADVI, "tau", "its prior is transformed"),
        (vt.ADVI, "t", "its prior is not a Normal"),
    ],
)
def test_a_closed_form_that_does_not_exist_is_refused(family, name, message):
    with pm.Model():
        z = pm.Normal("z")
        pm.Normal("h", z)
        pm.HalfNormal("tau")
        pm.StudentT("t", nu=4)
        with pytest.raises(ValueError, match=message):
            family(closed_form=[name])


def test_a_closed_form_of_full_rank_is_the_mean_of_the_draws(fast):
    with pm.Model():
        z, w = pm.Normal("z", 1.0, 2.0, shape=2), pm.Normal("w", 0.0, 0.5)
        pm.Normal("y", z.sum() + w, 1.0, observed=[0.4])
        drawn, exact = (
            vt.FullRankADVI(closed_form=names, random_seed=1) for names in ((), ("z", "w"))
        )
        factor = np.array([0.3, 0.4, -0.2, 0.5, -0.6, 0.1])
        for inference in (drawn, exact):
            inference.approx.groups[0].shared_params["L_tril"].set_value(factor)
        drawn, exact = held_still(drawn, 4_000, fast), held_still(exact, 4_000, fast)
    for name in ("z", "w"):
        assert exact.kl[name].std() < 1e-9
        assert_mean(drawn.kl[name] - exact.kl[name], 0.0)


def test_latents_are_in_the_order_of_the_model(gaussians):
    approx = Approximation([Group([gaussians["w"]], vfam="fr"), Group(None, vfam="mf")])
    assert [latent.name for latent in latents_of(approx)] == ["z", "w"]
