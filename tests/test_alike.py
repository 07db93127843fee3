"""Models of many scalar variables."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.variational.inference import KLqp as PlainKLqp
from pytensor.graph.traversal import applys_between

import vitoolkit as vt


def one_by_one(n):
    """Scalars of a loop with priors of their own, some of a hierarchy, and a vector among them."""
    with pm.Model() as model:
        top = [pm.Normal(f"top{i}", 0.1 * i, 1.0 + 0.01 * i) for i in range(n)]
        v = pm.Normal("v", 0.0, 2.0, shape=3)
        sd = pm.HalfNormal("sd", 1.0)
        low = [pm.Normal(f"low{i}", top[i] + v[0], sd) for i in range(n)]
        odd = pm.Laplace("odd", 0.0, 1.0)
        pm.Normal("y", pt.stack(low) + v.sum() + odd, 1.0, observed=np.linspace(-1.0, 1.0, n))
    return model


def loop(n):
    with pm.Model() as model:
        total = pt.add(*[pm.Normal(f"x{i}") for i in range(n)])
        pm.Normal("y", total, 1.0, observed=0.3)
    return model


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("family", ["ADVI", "FullRankADVI"])
def test_losses_of_many_scalars_are_those_of_pymc(fast, family, draws):
    losses = []
    for module in (pm, vt):
        with one_by_one(10):
            inference = getattr(module, family)(random_seed=7)
            inference.fit(30, obj_n_mc=draws, **fast)
        losses.append(inference.hist)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


@pytest.mark.parametrize("apart", [False, True], ids=["alike", "each by itself"])
def test_terms_of_many_scalars_with_betas_of_their_own_are_the_closed_form(
    fast, monkeypatch, apart
):
    if apart:
        monkeypatch.setattr("vitoolkit.alike.FEWEST", 1_000)
    n = 20
    beta = {f"x{i}": 0.5 + i for i in range(0, n, 2)}
    rng = np.random.default_rng(0)
    mean, sd = rng.normal(size=n), rng.uniform(0.5, 2.0, n)
    with loop(n):
        inference, recorder = vt.ADVI(beta=beta, random_seed=1), vt.Recorder()
        group = inference.approx.groups[0]
        group.shared_params["mu"].set_value(mean)
        group.shared_params["rho"].set_value(np.log(np.expm1(sd)))
        inference.fit(3_000, callbacks=[recorder], obj_optimizer=pm.sgd(learning_rate=0.0), **fast)
    trace = recorder.trace
    assert trace.variables == tuple(f"x{i}" for i in range(n))
    for i in range(n):
        draws = trace.kl[f"x{i}"]
        expected = -np.log(sd[i]) + (sd[i] ** 2 + mean[i] ** 2 - 1) / 2
        assert abs(draws.mean() - expected) < 5 * draws.std() / np.sqrt(len(draws))
    weighted = sum(beta.get(v, 1.0) * trace.kl[v] for v in trace.variables)
    np.testing.assert_allclose(trace.loss, weighted - trace.data, rtol=1e-9)


def test_terms_are_the_same_whether_or_not_variables_are_taken_together(fast, monkeypatch):
    traces = []
    for fewest in (2, 1_000):
        monkeypatch.setattr("vitoolkit.alike.FEWEST", fewest)
        with one_by_one(10):
            recorder = vt.Recorder()
            inference = vt.ADVI(beta={"low3": 2.0, "top1": 0.0, "v": 3.0}, random_seed=1)
            assert len(inference.objective.op._batches) == (2 if fewest == 2 else 0)
            inference.fit(20, callbacks=[recorder], **fast)
        traces.append(recorder.trace)
    first, second = traces
    assert first.variables == second.variables
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-9)
    for name in first.variables:
        np.testing.assert_allclose(first.kl[name], second.kl[name], rtol=1e-7, atol=1e-10)


def test_betas_of_scalars_may_move_apart(fast):
    with loop(12):
        beta = {f"x{i}": vt.Beta(1.0, name=f"beta{i}") for i in range(12)}
        beta["x5"] = vt.Beta(schedule=vt.schedules.linear(0.0, 3.0, steps=10), name="beta5")
        recorder = vt.Recorder()
        vt.ADVI(beta=beta, random_seed=1).fit(15, callbacks=[recorder], **fast)
    trace = recorder.trace
    weighted = sum(trace.control[b.name] * trace.kl[name] for name, b in beta.items())
    np.testing.assert_allclose(trace.loss, weighted - trace.data, rtol=1e-9)


def nodes(loss, parameters):
    outputs = [loss, *pt.grad(loss, parameters)]
    return sum(1 for _ in applys_between([], outputs))


def test_the_graph_grows_by_a_third_of_what_that_of_pymc_does_for_each_variable():
    size = {}
    for n in (20, 60):
        with loop(n):
            ours, plain = vt.ADVI(), PlainKLqp(pm.MeanField())
        for kind, inference in (("ours", ours), ("plain", plain)):
            loss = inference.objective(1)
            size[kind, n] = nodes(loss, inference.approx.params)
    grown = {kind: size[kind, 60] - size[kind, 20] for kind in ("ours", "plain")}
    assert grown["ours"] < grown["plain"] / 3
