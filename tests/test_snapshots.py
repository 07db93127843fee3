import warnings
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from models import regression
from pymc.variational.approximations import Empirical
from scipy import stats

import vitoolkit as vt
from vitoolkit import snapshots as module
from vitoolkit.coordinates import Coordinates, _spread, coordinates_of
from vitoolkit.prior import draw_prior
from vitoolkit.snapshots import Snapshots, rows_of

FAST = {"mode": "FAST_COMPILE"}


def fit(model, method, n=60, *callbacks, **kwargs):
    snapshots = Snapshots()
    with model:
        approx = pm.fit(
            n, method=method, callbacks=[snapshots, *callbacks], progressbar=False,
            compile_kwargs=FAST, **kwargs,
        )  # fmt: skip
    return approx, snapshots


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_the_last_snapshot_is_the_mean_and_sd_of_q(full, stock):
    package = pm if stock else vt
    method = package.FullRankADVI if full else package.ADVI
    model = regression(minibatch=False)
    with model:
        approx, snapshots = fit(model, method(random_seed=1))
    ordering = approx.groups[0].ordering
    places = [ordering[model.rvs_to_values[rv].name][1] for rv in model.free_RVs]
    at = np.concatenate([np.arange(place.start, place.stop) for place in places])
    np.testing.assert_allclose(snapshots.mean[-1], approx.mean.eval()[at], rtol=1e-12)
    np.testing.assert_allclose(snapshots.sd[-1], approx.std.eval()[at], rtol=1e-10)
    assert snapshots.step[-1] == 60
    assert (np.diff(snapshots.step) > 0).all()
    if not stock:
        assert snapshots.step[0] == 0


@pytest.mark.parametrize("family", [vt.ADVI, vt.FullRankADVI])
def test_q_at_the_average_of_its_iterates_is_followed_beside_the_last(family):
    model = regression(minibatch=False)
    with model:
        inference = family(average=True, random_seed=1)
        _, snapshots = fit(model, inference, 60, obj_optimizer=pm.adam(learning_rate=0.1))
    assert snapshots.averages and snapshots.step[[0, -1]].tolist() == [0, 60]
    averaged = inference.averaged
    ordering = averaged.groups[0].ordering
    places = [ordering[name] for name in (model.rvs_to_values[rv].name for rv in model.free_RVs)]
    at = np.concatenate([np.arange(place[1].start, place[1].stop) for place in places])
    mean, sd = averaged.mean.eval()[at], averaged.std.eval()[at]
    everything = range(len(at))
    expected = [snapshots.coordinates.quantile(mean, sd, z, list(everything)) for z in (-1, 0, 1)]
    np.testing.assert_allclose(snapshots.now(averaged=True), expected, rtol=1e-9)
    assert np.abs(snapshots.now(averaged=True) - snapshots.now()).max() > 0.01
    step, path = snapshots.path(everything, averaged=True)
    np.testing.assert_array_equal(path[:, :, 0], snapshots.path(everything)[1][:, :, 0])  # no step
    np.testing.assert_allclose(path[:, :, -1], expected, rtol=1e-9)
    np.testing.assert_allclose(snapshots.table()["averaged"], np.transpose(expected), rtol=1e-5)
    assert snapshots.still().now(averaged=True).tolist() == snapshots.now(averaged=True).tolist()
    with model:
        inference.refine(10, progressbar=False)
    assert snapshots.step[-1] == 70 and snapshots.averages


def test_without_an_average_there_is_none():
    _, snapshots = fit(regression(minibatch=False), "advi", 5)
    assert not snapshots.averages and "averaged" not in snapshots.table()
    assert np.isnan(rows_of(snapshots.table())[0].averaged).all()


def test_conjugate_normal_reaches_its_posterior():
    data = np.array([0.5, 1.5, 2.5, 3.5])
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 2)
        pm.Normal("y", mu, 1, observed=data)
    rate = vt.LearningRate(0.05, schedule=vt.schedules.cosine(0.05, 1e-5, steps=3_000))
    adam = pm.adam(learning_rate=rate.shared)
    _, snapshots = fit(model, vt.ADVI(model=model, random_seed=3), 3_000, rate, obj_optimizer=adam)
    precision = 1 / 4 + 4
    low, median, high = snapshots.now()[:, 0]
    assert median == pytest.approx(data.sum() / precision, abs=0.03)
    assert (high - low) / 2 == pytest.approx(precision**-0.5, rel=0.05)


def test_quantiles_are_those_of_the_constrained_variable():
    with pm.Model(coords={"arm": ["control", "treatment"]}):
        pm.HalfNormal("s", 1, dims="arm")
        pm.Beta("p", 2, 2)
        pm.Uniform("u", -1, 3)
        pm.TruncatedNormal("t", 0, 1, lower=2.0)
        pm.TruncatedNormal("b", 0, 1, upper=-2.0)
        pm.Dirichlet("d", np.ones(3))
        approx = pm.MeanField()
    found = coordinates_of(approx)
    assert found.names[:4] == ("s[control]", "s[treatment]", "p", "u")
    assert found.names[-2:] == ("d_simplex__[0]", "d_simplex__[1]")
    assert found.constrained.tolist() == [True] * 6 + [False] * 2
    mean, sd = np.linspace(-0.6, 0.7, 8), np.linspace(0.2, 0.9, 8)
    for z in (-1.0, 0.0, 1.0):
        shown, q = found.quantile(mean, sd, z), stats.norm.cdf(z)
        lognormal = stats.lognorm(sd, scale=np.exp(mean)).ppf
        np.testing.assert_allclose(shown[:2], lognormal(q)[:2], rtol=1e-12)
        logit = stats.norm(mean, sd).ppf(q)
        assert shown[2] == pytest.approx(1 / (1 + np.exp(-logit[2])))
        assert shown[3] == pytest.approx(-1 + 4 / (1 + np.exp(-logit[3])))
        assert shown[4] == pytest.approx(2 + lognormal(q)[4])
        assert shown[5] == pytest.approx(-2 - lognormal(1 - q)[5])
        np.testing.assert_allclose(shown[6:], logit[6:])
        assert found.quantile(mean[[5, 0]], sd[[5, 0]], z, [5, 0]) == pytest.approx(shown[[5, 0]])


def test_the_quantile_goes_through_pymcs_own_transform():
    with pm.Model() as model:
        pm.Uniform("u", -1, 3)
        pm.Gamma("g", 2, 1)
        pm.Normal("e", transform=pm.distributions.transforms.log_exp_m1)
        approx = pm.MeanField()
    at = np.array([0.3, -0.7, 0.4])
    shown = coordinates_of(approx).quantile(at, np.ones(3), 0.0)
    for rv, value, got in zip(model.free_RVs, at, shown, strict=True):
        backward = model.rvs_to_transforms[rv].backward(value, *rv.owner.inputs)
        assert got == pytest.approx(float(backward.eval()))


def synthetic(step, mean, sd):
    """Snapshots of coordinates that moved as told."""
    snapshots = Snapshots()
    mean = np.asarray(mean, float)
    names = tuple(f"z[{i}]" for i in range(mean.shape[1]))
    snapshots._begin(_Plain(names))
    for k, at in enumerate(step):
        snapshots._step[k] = at
        snapshots._values[k] = mean[k], np.broadcast_to(sd, mean.shape)[k]
    snapshots._n = len(step)
    return snapshots


class _Plain:
    """Coordinates without a transform, as far as a record needs them."""

    sources = notes = ()

    def __init__(self, names):
        self.names, self.variable = names, ("z",) * len(names)
        self.constrained = np.ones(len(names), bool)

    def __len__(self):
        return len(self.names)

    def quantile(self, mean, sd, z, which=slice(None)):
        return mean + z * sd

    ends = Coordinates.ends


def test_what_moved_furthest_in_its_sd_comes_first():
    step = np.arange(0, 101, 10)
    mean = np.zeros((11, 3))
    mean[-1] = [0.5, 3.0, 0.0]  # in the last tenth alone
    mean[:9, 2] = 100.0  # long ago
    sd = np.tile([0.1, 2.0, 1.0], (11, 1))
    snapshots = synthetic(step, mean, sd)
    np.testing.assert_allclose(snapshots.moved(), [5.0, 1.5, 0.0])
    rows = rows_of(snapshots.table())
    assert [row.name for row in rows] == ["z[0]", "z[1]", "z[2]"]
    assert rows[0].posterior == (0.4, 0.5, 0.6) and np.isnan(rows[0].prior).all()


def test_the_table_of_q_keeps_the_order_of_the_model_and_unknown_ones_move_last():
    table = synthetic([0], [[1.0, 2.0]], [[1.0, 1.0]]).table()
    assert table["name"] == ["z[0]", "z[1]"] and table["step"] == 0
    assert table["posterior"] == [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    assert [row.name for row in rows_of({**table, "moved": [np.nan, 0.1]})] == ["z[1]", "z[0]"]
    assert Snapshots().table() is None
    attrs = {}
    Snapshots().write(attrs)
    assert attrs == {}


def test_what_moved_is_between_two_snapshots_too_and_of_a_width_too():
    snapshots = synthetic([0, 50, 100], [[0.0], [0.0], [1.0]], [[1.0], [1.0], [1.0]])
    assert snapshots.moved() == pytest.approx([0.2])  # of the way from 0 at 50 to 1 at 100
    snapshots = synthetic([0, 90, 100], [[0.0], [0.0], [3.0]], [[1.0], [6.0], [2.0]])
    assert snapshots.moved() == pytest.approx([2.5])  # hypot(3, 4) / 2


class _Run:
    def __init__(self, approx):
        self.approx, self.step, self.error = approx, 0, None
        self.inference = SimpleNamespace(average=False)


def taken(snapshots, run, steps, clock):
    """How many snapshots were taken in so many steps of so many seconds."""
    count = 0
    take = snapshots.take

    def counted(step):
        nonlocal count
        count += 1
        take(step)

    snapshots.take = counted
    for _ in range(steps):
        run.step += 1
        snapshots.on_block(run, SimpleNamespace(time=np.array([clock()])))
    return count


def test_snapshots_are_bounded_and_halve():
    with pm.Model():
        pm.Normal("z", shape=3)
        approx = pm.MeanField()
    snapshots, run = Snapshots(), _Run(approx)
    snapshots.on_fit_start(run)
    for step in range(1, 5_000):
        snapshots._due = 0.0
        run.step = step
        snapshots.on_block(run, SimpleNamespace(time=np.array([1e9])))
    step = snapshots.step
    assert 90 <= len(step) <= module.POINTS
    assert step[0] == 0 and step[-1] > 4_900
    assert np.diff(step).max() <= 2.5 * np.diff(step).min()
    assert snapshots._values.nbytes == 200 * 2 * 3 * 8


def test_dear_snapshots_back_off(monkeypatch):
    with pm.Model():
        pm.Normal("z", shape=3)
        approx = pm.MeanField()
    snapshots, run, now = Snapshots(), _Run(approx), [0.0]
    snapshots.on_fit_start(run)
    moments = module.moments

    def dear(coordinates):
        now[0] += 0.01  # ten milliseconds each
        return moments(coordinates)

    monkeypatch.setattr(module, "moments", dear)
    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(module.time, name, lambda: now[0])

    def clock():
        now[0] += 0.005
        return now[0]

    count = taken(snapshots, run, 20_000, clock)  # 100 seconds
    assert 20 <= count <= 51
    assert snapshots.seconds <= 0.01 * now[0]


def test_prior_draws_are_those_of_the_model():
    with pm.Model(coords={"arm": ["control", "treatment"]}) as model:
        tau = pm.HalfNormal("tau", 2.0)
        pm.Normal("a", 3.0, tau, dims="arm")
        pm.LogNormal("l", 0.5, 0.3)
        pm.ZeroSumNormal("zero", shape=3)
        pm.Dirichlet("d", np.ones(3))
        pm.LKJCholeskyCov("c", n=2, eta=1, sd_dist=pm.Exponential.dist(1.0))
        pm.Flat("f")
        pm.Normal("after_f", model["f"], 1)
    drawn = draw_prior(model.free_RVs, 400, seconds=30.0)
    value = dict(zip([rv.name for rv in model.free_RVs], drawn, strict=True))
    assert value["f"] is value["after_f"] is None
    for rv in model.free_RVs:
        if value[rv.name] is not None:
            assert value[rv.name].shape == (400, *rv.shape.eval())
    assert stats.kstest(value["tau"], stats.halfnorm(scale=2.0).cdf).pvalue > 1e-4
    assert stats.kstest(value["l"], stats.lognorm(0.3, scale=np.exp(0.5)).cdf).pvalue > 1e-4
    np.testing.assert_allclose(np.sum(value["zero"], axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(np.sum(value["d"], axis=1), 1)
    for arm in (0, 1):
        pulled = (value["a"][:, arm] - 3.0) / value["tau"]
        assert stats.kstest(pulled, "norm").pvalue > 1e-4
    own = {tuple(np.round(row, 6)) for row in value["a"]}
    assert len(own) == 400


def test_prior_beside_posterior():
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1.0)
        pm.Dirichlet("d", np.ones(3))
        pm.Normal("y", 0, s, observed=[1.0, -1.0])
    _, snapshots = fit(model, vt.ADVI(model=model, random_seed=1))
    prior = snapshots.prior()
    assert snapshots.draws == module.DRAWS
    exact = stats.halfnorm.ppf(stats.norm.cdf([-1, 0, 1]))
    np.testing.assert_allclose(prior[:, 0], exact, atol=0.35)
    assert np.isnan(prior[:, 1:]).all()  # of another scale than what is shown


def test_no_step_waits_for_the_prior(monkeypatch):
    order = []
    drawn = module.draw_prior

    def told(*args, **kwargs):
        order.append("prior")
        return drawn(*args, **kwargs)

    monkeypatch.setattr(module, "draw_prior", told)
    dashboard = vt.Dashboard()  # in a script
    with regression(minibatch=False):
        vt.ADVI(random_seed=1).fit(
            20, callbacks=[dashboard, vt.every(20, lambda *_: order.append("steps"))],
            progressbar=False, compile_kwargs=FAST,
        )  # fmt: skip
    assert order == ["steps", "prior"]
    assert dashboard.trace.attrs["q"]["prior"] is not None
    assert dashboard.snapshots.still().prior() is not None and order == ["steps", "prior"]


def test_a_prior_that_cannot_be_had_is_said_in_words(monkeypatch):
    monkeypatch.setattr(module, "PRIOR_SECONDS", -1.0)
    model = regression(minibatch=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with model:
            _, snapshots = fit(model, vt.ADVI(random_seed=1))
    assert snapshots.prior() is None
    assert snapshots.without_prior == "no prior: drawing it takes longer than -1 s"
    assert len(snapshots.step) > 1


@pytest.mark.parametrize(
    ("rv", "law"),
    [
        (pm.HalfNormal.dist(2), stats.halfnorm(0, 2)),
        (pm.HalfCauchy.dist(2), stats.halfcauchy(0, 2)),
        (pm.Cauchy.dist(1, 2), stats.cauchy(1, 2)),
        (pm.StudentT.dist(nu=4, mu=1, sigma=2), stats.t(4, 1, 2)),
        (pm.Pareto.dist(alpha=3, m=2), stats.pareto(3, scale=2)),
        (pm.Gumbel.dist(1, 2), stats.gumbel_r(1, 2)),
        (pm.Beta.dist(2, 3), stats.beta(2, 3)),
        (pm.InverseGamma.dist(3, 2), stats.invgamma(3, scale=2)),
        (pm.Gamma.dist(3, 2), stats.gamma(3, scale=1 / 2)),
        (pm.TruncatedNormal.dist(0, 1, lower=1), stats.truncnorm(1, np.inf)),
    ],
    ids=lambda value: "",
)
def test_draws_have_the_law_of_the_prior(rv, law):
    (found,) = draw_prior([rv], 2_000, seconds=30.0)
    assert found.shape == (2_000,)
    assert stats.kstest(found, law.cdf).pvalue > 1e-4


def test_a_failure_warns_once_and_the_fit_goes_on(monkeypatch):
    model = regression(minibatch=False)
    monkeypatch.setattr(module, "moments", lambda coordinates: 1 / 0)
    with pytest.warns(RuntimeWarning, match="q is not followed any more") as told, model:
        approx, snapshots = fit(model, vt.ADVI(random_seed=1))
    assert len([w for w in told if "followed" in str(w.message)]) == 1
    assert len(approx.hist) == 60 and not len(snapshots.step)


def test_refine_goes_on_and_another_approximation_begins_anew():
    model = regression(minibatch=False)
    snapshots = Snapshots()
    with model:
        first = vt.ADVI(random_seed=1)
        first.fit(40, callbacks=[snapshots], progressbar=False, compile_kwargs=FAST)
        first.refine(30, progressbar=False, callbacks=[snapshots])
        assert snapshots.step[0] == 0 and snapshots.step[-1] == 70
        second = vt.ADVI(random_seed=1)
        second.fit(20, callbacks=[snapshots], progressbar=False, compile_kwargs=FAST)
    assert snapshots.step[-1] == 20


def test_what_has_no_marginal_is_said_in_words():
    with pm.Model():
        pm.Normal("z")
        assert "particles" in coordinates_of(Empirical(size=5)).notes[0]
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        z = pm.Normal("z", shape=(10,))
        w = pm.Normal("w")
        x = rng.normal(size=10)
        pm.Normal("x", z * w, observed=x)
        mu = pt.as_tensor(x).flatten() * 0.5
        group = pm.Group([z], params=dict(mu=mu, rho=mu * 0))
        rest = pm.Group([w], vfam="mean_field")
        approx = pm.variational.opvi.Approximation([group, rest], model=model)
    found = coordinates_of(approx)
    assert found.names == ("w",)
    assert found.notes == ("z: q depends on the row of data",)


def test_of_many_coordinates_small_variables_stay_whole():
    assert _spread([3, 5], 10) == [3, 5]
    assert _spread([3, 500, 100], 103) == [3, 50, 50]
    assert _spread([1] * 7, 4) == [1, 1, 1, 1, 0, 0, 0]
    with pm.Model():
        pm.Normal("small")
        pm.Normal("large", shape=(50, 100))
        found = coordinates_of(pm.MeanField(), most=11)
    assert found.names[:3] == ("small", "large[0, 0]", "large[5, 0]")
    assert found.notes == ("large: 10 of 5,000 coordinates, evenly spaced",)
