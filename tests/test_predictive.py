"""The sketch of the posterior predictive: closed forms, every kind of model, no harm to a fit."""

import json
import time
import warnings

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from models import regression
from pymc.variational.opvi import Approximation, Group
from scipy import stats

import vitoolkit as vt
from vitoolkit import predictive as module
from vitoolkit.predictive import Bins, Predictive, PredictiveGraph, observed_of
from vitoolkit.views.picture import picture_svg

FAST = {"mode": "FAST_COMPILE"}
DATA = np.linspace(-1.0, 5.0, 40)


class Looks(vt.Callback):
    """Asks for a sketch at every block, as the panel does while somebody looks."""

    def __init__(self, name=None):
        self.predictive = Predictive(name)

    def on_fit_start(self, run):
        self.predictive.on_fit_start(run)

    def on_block(self, run, block):
        self.predictive.look(run.step)

    def on_fit_end(self, run):
        self.predictive.on_fit_end(run)


def normal(data=DATA):
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 2.0, observed=data)
    return model


def drawn(approx, draws=4_000, name=None):
    graph = PredictiveGraph(approx, name)
    return graph.draw(graph.parameters(), draws, np.random.default_rng(1), seconds=60.0)


def put(approx, mean, sd):
    """Give a mean-field q a mean and a standard deviation."""
    approx.params_dict["mu"].set_value(np.atleast_1d(mean).astype(float))
    approx.params_dict["rho"].set_value(np.log(np.expm1(np.atleast_1d(sd).astype(float))))


def test_of_a_normal_model_it_is_the_normal_of_the_closed_form():
    with normal():
        approx = pm.MeanField()
    put(approx, 1.5, 0.7)
    replicated, observed = drawn(approx)
    np.testing.assert_array_equal(observed, np.tile(DATA, (4_000, 1)))
    law = stats.norm(1.5, np.hypot(0.7, 2.0))
    assert stats.kstest(replicated[:, 0], law.cdf).pvalue > 1e-3
    # The values of one data set share their mu: their means vary by q and by the noise.
    sd = np.hypot(0.7, 2.0 / np.sqrt(40))
    assert stats.kstest(replicated.mean(axis=1), stats.norm(1.5, sd).cdf).pvalue > 1e-3


def test_a_sketch_has_the_shares_of_the_closed_form_in_its_bins(monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 2_000)
    with normal(np.repeat(DATA, 50)):
        approx = pm.MeanField()
    put(approx, 1.5, 1e-3)
    predictive = Predictive()
    graph = PredictiveGraph(approx)
    told = predictive._sketched(graph, graph.parameters(), 7)
    edges, draws = np.array(told["edges"]), 2_000
    share = np.diff(stats.norm(1.5, 2.0).cdf(edges))
    for name, q in (("low", 0.05), ("median", 0.5), ("high", 0.95)):
        exact = stats.binom(draws, share).ppf(q) / draws
        np.testing.assert_allclose(told[name], exact, atol=1.5e-3)
    counts, _ = np.histogram(np.repeat(DATA, 50), edges)
    np.testing.assert_allclose(told["observed"], counts / draws, atol=1e-4)
    assert told["beyond"] == [0.0, pytest.approx(1 - share.sum(), abs=1e-3)]
    assert (told["name"], told["step"], told["draws"], told["size"]) == ("y", 7, 2_000, 2_000)
    assert "% of what is drawn beyond the axis" in told["words"]
    assert json.loads(json.dumps(told)) == told


def test_constrained_variables_and_their_parents_are_drawn_in_their_order():
    with pm.Model():
        low = pm.Normal("low", 0, 1)
        u = pm.Uniform("u", low, low + 2.0)  # its transform needs a parent
        s = pm.HalfNormal("s", 1)
        pm.Normal("y", u, s, observed=np.zeros(3))
        approx = pm.MeanField()
    put(approx, [5.0, 0.0, np.log(0.5)], [1e-4, 1e-4, 1e-4])
    replicated, _ = drawn(approx)
    assert replicated.mean() == pytest.approx(6.0, abs=0.03)
    assert replicated.std() == pytest.approx(0.5, abs=0.01)


def test_a_full_rank_q_and_particles():
    with normal(DATA):
        full, particles = pm.FullRank(), pm.Empirical(size=3)
    full.params_dict["mu"].set_value(np.array([3.0]))
    assert drawn(full)[0].mean() == pytest.approx(3.0, abs=0.1)
    particles.params[0].set_value(np.array([[-100.0], [0.0], [100.0]]))
    means = drawn(particles)[0].mean(axis=1)
    assert [np.mean(abs(means - at) < 5) for at in (-100, 0, 100)] == pytest.approx(
        [1 / 3] * 3, abs=0.05
    )


def test_a_minibatch_is_compared_with_its_own_rows():
    x = np.arange(500.0)
    with pm.Model():
        slope = pm.Normal("slope")
        rows, values = pm.Minibatch(x, 3 * x, batch_size=20)
        pm.Normal("y", slope * rows, 1e-3, observed=values, total_size=500)
        approx = pm.MeanField()
    put(approx, 3.0, 1e-9)
    replicated, observed = drawn(approx, 50)
    np.testing.assert_allclose(replicated, observed, atol=0.01)
    assert len(np.unique(observed)) > 300  # other rows in each draw


def test_an_encoder_codes_the_rows_that_it_is_compared_with():
    data = np.arange(300.0)
    weight = pytensor.shared(np.array(1.0), name="weight")
    with pm.Model():
        rows = pm.Minibatch(data, batch_size=10)
        z = pm.Normal("z", 0, 1, shape=10)
        pm.Normal("y", z, 1e-3, observed=rows, total_size=300)
        local = Group([z], params={"mu": weight * rows, "rho": pt.full(10, -20.0)})
        approx = Approximation([local])
    replicated, observed = drawn(approx, 20)
    np.testing.assert_allclose(replicated, observed, atol=0.01)
    graph = PredictiveGraph(approx)
    parameters = graph.parameters()
    weight.set_value(np.array(2.0))  # the fit goes on: what was copied stays
    replicated, observed = graph.draw(parameters, 20, np.random.default_rng(2))
    np.testing.assert_allclose(replicated, observed, atol=0.01)


@pytest.mark.parametrize(
    ("law", "edges"),
    [
        (lambda p: pm.Bernoulli("y", logit_p=p, observed=[0, 1, 1]), [-0.5, 0.5, 1.5]),
        (lambda p: pm.Poisson("y", pm.math.exp(p), observed=[0, 3, 8]), np.arange(12) - 0.5),
    ],
)
def test_whole_numbers_have_bins_of_whole_numbers(law, edges):
    with pm.Model():
        law(pm.Normal("p"))
        approx = pm.MeanField()
    graph = PredictiveGraph(approx)
    replicated, observed = drawn(approx, 30)
    assert graph.discrete and replicated.shape == (30, 3)
    np.testing.assert_array_equal(Bins(observed, discrete=True).edges, edges)


def test_bins_hold_any_data():
    assert len(Bins(np.arange(100_000) * 7, discrete=True).edges) - 1 <= 40
    far = Bins(np.concatenate([stats.norm().ppf(np.linspace(0.001, 0.999, 999)), [1e9]]),
               discrete=False)  # fmt: skip
    assert far.edges[0] > -5 and far.edges[-1] < 5
    same = Bins(np.full(20, 3.0), discrete=False)
    np.testing.assert_allclose(same.shares(np.array([[3.0, 3.0, np.nan, 99.0]])).sum(), 0.5)
    with pytest.raises(ValueError, match="not finite"):
        Bins(np.full(3, np.nan), discrete=False)


def test_several_dims_and_a_missing_value():
    data = np.ma.masked_invalid([[1.0, np.nan], [2.0, 3.0]])
    with pm.Model(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC tells that it imputes
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=data)
        approx = pm.MeanField()
    replicated, observed = drawn(approx, 20)
    assert replicated.shape == observed.shape == (20, 3)
    with pm.Model():
        pm.MvNormal("y", pm.Normal("mu"), np.eye(2), observed=np.zeros((5, 2)))
        approx = pm.MeanField()
    assert drawn(approx, 20)[0].shape == (20, 10)


@pytest.mark.parametrize("stock", [False, True])
def test_no_number_of_a_fit_depends_on_it(stock, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    monkeypatch.setattr(module, "SHARE", 1e9)

    def losses(*callbacks):
        with regression(minibatch=True):
            method = (pm if stock else vt).ADVI(random_seed=3)
            approx = pm.fit(
                100, method=method, callbacks=[*callbacks, vt.Recorder()], progressbar=False,
                compile_kwargs=FAST,
            )  # fmt: skip
        return approx.hist, approx.mean.eval()

    if stock:  # the rows of a minibatch are of the generator of the model
        seeded = np.random.default_rng
        monkeypatch.setattr(np.random, "default_rng", lambda seed=None: seeded(seed or 5))
    plain, looks = losses(), Looks()
    seen = losses(looks)
    assert looks.predictive.sketch["step"] == 100
    np.testing.assert_array_equal(plain[0], seen[0])
    np.testing.assert_array_equal(plain[1], seen[1])


def test_a_sketch_is_drawn_beside_the_fit_and_the_last_one_is_of_its_end(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    looks, steps = Looks(), []

    def until_two(approx, losses, i):
        sketch = looks.predictive.sketch
        if sketch is not None and sketch["step"] not in steps:
            steps.append(sketch["step"])
        if len(steps) == 2:
            raise StopIteration

    with normal():
        vt.ADVI(random_seed=1).fit(
            10_000_000, callbacks=[looks, vt.every(10, until_two)], progressbar=False,
            compile_kwargs=FAST,
        )  # fmt: skip
    assert 0 < steps[0] < steps[1] <= looks.predictive.sketch["step"]
    assert looks.predictive.seconds > 0


def fitted(model, callback, n=30):
    with model:
        return pm.fit(
            n, method=vt.ADVI(random_seed=1), callbacks=[callback], progressbar=False,
            compile_kwargs=FAST,
        )  # fmt: skip


def test_a_model_without_data_says_so():
    with pm.Model() as model:
        z = pm.Normal("z")
        pm.Potential("far", -(z**2))
    looks = Looks()
    fitted(model, looks)
    assert looks.predictive.told == {
        "words": "no predictive sketch: the model has no observed variable"
    }
    with normal() as model:
        pm.Potential("far", -(model["mu"] ** 2))
    fitted(model, looks)
    assert "values each, without the potentials" in looks.predictive.told["words"]


def test_another_name_is_refused_before_anything_is_compiled():
    with normal() as model:
        pm.Poisson("counts", pm.math.exp(model["mu"]), observed=[1, 2])
    assert observed_of(model, "counts").name == "counts"
    dashboard = vt.Dashboard(predictive="z")
    with pytest.raises(KeyError, match="received 'z'; there is 'y', 'counts'"):
        fitted(model, dashboard)
    with pytest.raises(TypeError, match="predictive must be True, False or the name"):
        vt.Dashboard(predictive=3)
    assert vt.Dashboard().predictive is None


def test_what_cannot_be_drawn_warns_once_and_harms_no_fit():
    def logp(value, mu):
        return -((value - mu) ** 2)

    with pm.Model() as model:
        pm.CustomDist("y", pm.Normal("mu"), logp=logp, observed=[1.0, 2.0])
    looks = Looks()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        approx = fitted(model, looks)
    ours = [str(w.message) for w in caught if "posterior predictive" in str(w.message)]
    assert len(ours) == 1 and "the fit goes on" in ours[0]
    assert len(approx.hist) == 30 and looks.predictive.sketch is None
    assert looks.predictive.told["words"].startswith("no predictive sketch: ")


def test_a_loop_is_not_compiled_beside_a_fit():
    with pm.Model():
        start = pm.Normal.dist(0, 1, shape=1)
        pm.AR("y", [0.5, pm.Normal("rho")], constant=True, init_dist=start, observed=np.zeros(20))
        approx = pm.MeanField()
    with pytest.raises(NotImplementedError, match="loop"):
        drawn(approx, 20)


def test_what_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", -1.0)
    looks = Looks()
    with pytest.warns(RuntimeWarning, match="12 data sets take longer than -1 s"):
        fitted(normal(), looks)
    begun = time.perf_counter()
    looks.predictive.look(31)  # quiet now
    assert looks.predictive._thread is None and time.perf_counter() >= begun


def test_the_record_its_picture_and_its_report_have_the_last_sketch(tmp_path):
    dashboard = vt.Dashboard(predictive=True)
    fitted(normal(), dashboard)
    told = dashboard.trace.attrs["predictive"]
    assert told["step"] == 30 and told["draws"] == 48
    svg = picture_svg(dashboard.trace)
    assert "Posterior predictive, share by bin: y" in svg
    assert svg.count("<circle") == len(told["median"]) + 1  # and that of rate and distortion
    page = dashboard.to_html(tmp_path / "run.html").read_text("utf-8")
    assert json.dumps(told["words"]) in page
    path = dashboard.trace.to_netcdf(tmp_path / "run.nc")
    assert vt.Trace.open(path).attrs["predictive"] == told
    fitted(normal(), vt.Dashboard(recorder=dashboard.recorder))
    assert "predictive" not in dashboard.trace.attrs
