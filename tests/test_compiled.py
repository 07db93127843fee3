"""Compiled steps are kept by their structure, and hold nothing of a fit."""

import gc
import logging
import threading
import weakref

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import vitoolkit as vt
from vitoolkit import compiled
from vitoolkit.constants import data_as_shared
from vitoolkit.structure import in_order, rebuilt, structure


@pytest.fixture(autouse=True)
def empty():
    vt.clear_cache()
    yield
    vt.clear_cache()


def regression(seed=1, rows=40, scale=1.0, minibatch=True):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, 2)), rng.normal(size=rows)
    with pm.Model() as model:
        if minibatch:
            x, y = pm.Minibatch(x, y, batch_size=8)
        slope = pm.Normal("slope", 0, scale, shape=2)
        sd = pm.HalfNormal("sd", 1.0)
        pm.Normal("y", x @ slope, sd, observed=y, total_size=rows if minibatch else None)
    return model


def fitted(model, n=30, **options):
    with model:
        return vt.fit(
            n, **{"learning_rate": 0.01, "progressbar": False, "random_seed": 1, **options}
        )


def losses_of(fit):
    return fit.trace.loss.tolist()


def reused(fit):
    return fit.inference.step_function.reused


@pytest.mark.parametrize("minibatch", [True, False])
def test_the_same_model_built_again_reuses_the_code_and_takes_the_same_steps(fast, minibatch):
    first = fitted(regression(minibatch=minibatch), **fast)
    again = fitted(regression(minibatch=minibatch), **fast)
    assert (reused(first), reused(again)) == (False, True)
    assert losses_of(first) == losses_of(again)
    assert "compiled in" in first.trace.attrs["compilation"]
    assert "reused" in again.trace.attrs["compilation"]


@pytest.mark.parametrize(
    "model, options",
    [
        ({"seed": 2}, {}),
        ({}, {"beta": 4.0}),
        ({}, {"beta": vt.schedules.linear(0.0, 1.0, steps=20)}),
        ({}, {"random_seed": 7}),
        ({}, {"start": {"slope": [1.0, 2.0]}}),
    ],
    ids=["data", "beta", "schedule", "seed", "start"],
)
def test_what_is_other_in_value_only_reuses_it_and_equals_a_fresh_compilation(fast, model, options):
    fitted(regression(), **fast)
    again = fitted(regression(**model), **options, **fast)
    assert reused(again)
    vt.clear_cache()
    fresh = fitted(regression(**model), **options, **fast)
    assert not reused(fresh)
    assert losses_of(again) == losses_of(fresh)
    np.testing.assert_array_equal(again.trace.kl["slope"], fresh.trace.kl["slope"])


@pytest.mark.parametrize(
    "model, options",
    [
        ({"rows": 41}, {}),
        ({"scale": 2.0}, {}),
        ({"minibatch": False}, {}),
        ({}, {"beta": {"slope": 1.0}}),
        ({}, {"optimizer": pm.sgd}),
        ({}, {"obj_n_mc": 2}),
        ({}, {"gradient": True}),
        ({}, {"kl_by": "coordinate"}),
    ],
    ids=["rows", "prior", "no minibatch", "wiring", "optimizer", "draws", "gradient", "parts"],
)
def test_what_needs_other_code_gets_it(fast, model, options):
    fitted(regression(), **fast)
    assert not reused(fitted(regression(**model), **options, **fast))


def test_another_mode_is_other_code(fast):
    fitted(regression(), **fast)
    mode = pytensor.compile.mode.get_mode("FAST_COMPILE").including("canonicalize")
    assert not reused(fitted(regression(), progressbar=False, compile_kwargs={"mode": mode}))


def test_bounds_that_are_not_checked_are_other_code(fast):
    fitted(regression(), **fast)
    model = regression()
    model.check_bounds = False
    assert not reused(fitted(model, **fast))


def test_shared_data_that_is_set_is_read_by_code_that_is_reused(fast):
    def model(y):
        with pm.Model() as built:
            z = pm.Normal("z")
            pm.Normal("y", z, 1.0, observed=pm.Data("data", y))
        return built

    fitted(model([1.0, 2.0]), **fast)
    again = model([5.0, 6.0])
    fit = fitted(again, **fast)
    assert reused(fit)
    with again:
        pm.set_data({"data": [7.0, 8.0]})
    fit.refine(5, progressbar=False)
    vt.clear_cache()
    other = model([5.0, 6.0])
    fresh = fitted(other, **fast)
    with other:
        pm.set_data({"data": [7.0, 8.0]})
    fresh.refine(5, progressbar=False)
    assert losses_of(fit) == losses_of(fresh)


def test_a_model_and_its_data_are_not_held(fast):
    model = regression(minibatch=False)
    data = model.rvs_to_values[model["y"]].data
    alive = [weakref.ref(model), weakref.ref(data)]
    fit = fitted(model, **fast)
    alive.append(weakref.ref(fit.approx))
    del model, data, fit
    gc.collect()
    assert [ref() for ref in alive] == [None, None, None]
    assert vt.clear_cache() == 1


def test_no_more_are_kept_than_were_asked_for_lately(fast, monkeypatch):
    monkeypatch.setattr(compiled, "MOST", 2)
    for rows in (40, 41, 40, 42):  # 41 goes
        fitted(regression(rows=rows), n=1, **fast)
    assert reused(fitted(regression(rows=40), n=1, **fast))
    assert not reused(fitted(regression(rows=41), n=1, **fast))
    assert vt.clear_cache() == 2


def test_refine_says_that_it_reuses_and_the_log_does_too(fast, caplog):
    with caplog.at_level(logging.INFO, "pymc.variational.inference"):
        fit = fitted(regression(), **fast)
        fit.refine(5, progressbar=False)
    said = [record.message.partition(" in ")[0] for record in caplog.records]
    assert [words for words in said if "ompiled" in words] == [
        "Compiled",
        "Reused a compiled step, ready",
    ]
    assert fit.run.prepared.startswith("reused")


def test_fits_that_share_code_at_the_same_time_are_those_of_one_after_the_other(fast):
    alone = [losses_of(fitted(regression(seed), n=200, **fast)) for seed in (1, 2)]
    fits = [fitted(regression(seed), n=200, background=True, **fast) for seed in (1, 2)]
    assert [losses_of(fit.result()) for fit in fits] == alone


@pytest.mark.compiled
def test_numba_code_lets_go_of_the_interpreter_and_does_not_change_what_others_read():
    fit = fitted(regression(), n=40, compile_kwargs={"mode": "NUMBA"})
    assert fit.inference.step_function.function.vm.jit_fn.targetoptions["nogil"]
    read = [parameter.get_value(borrow=True) for parameter in fit.approx.params]
    before = [values.copy() for values in read]
    fit.refine(40, progressbar=False)
    np.testing.assert_array_equal(read, before)
    assert not np.array_equal(fit.approx.params[0].get_value(), before[0])


@pytest.mark.compiled
def test_numba_runs_the_code_of_its_cache_by_itself():
    """What was just compiled is joined with its pieces by name, and may add in another order."""
    fit = fitted(regression(), n=10, compile_kwargs={"mode": "NUMBA"})
    jitted = fit.inference.step_function.function.vm.jit_fn
    ((types, code),) = jitted.overloads.items()
    if hasattr(jitted, "made_by"):  # the PyTensor of PyMC 5.26 keeps no code on disk
        engine = jitted.targetctx.codegen()
        assert code.library.codegen is engine is not jitted.made_by.targetctx.codegen()
        jitted.made_by.compile(types)
        assert code.entry_point is not jitted.made_by.overloads[types].entry_point
    else:
        assert code.library.codegen is jitted.targetctx.codegen()


# --- the structure of a graph -----------------------------------------------------------------


def test_the_order_of_a_graph_has_everything_after_what_it_needs():
    x, y = pt.vector("x"), pt.vector("y")
    z = pt.exp(x) + y
    graph = in_order([z.sum(), z * y])
    place = {item: i for i, item in enumerate(graph)}
    assert len(graph) == len(place)
    for item in graph:
        for variable in getattr(item, "inputs", ()):
            assert place[variable.owner or variable] < place[item]


def test_a_graph_of_thousands_of_nodes_in_a_row_has_an_order():
    x = pytensor.shared(1.0)
    node = x
    for _ in range(5_000):
        node = node + x
    assert len(in_order([node])) == 5_001


@pytest.mark.parametrize(
    "other, same",
    [
        (lambda x, y: x * 2.0 + y, True),
        (lambda x, y: x * 3.0 + y, False),
        (lambda x, y: y * 2.0 + x, True),  # the two are told apart by their places only
        (lambda x, y: y + x * 2.0, False),
        (lambda x, y: x * 2.0 - y, False),
        (lambda x, y: x * 2.0 + x, False),
        (lambda x, y: x * pt.constant([2.0]) + y, False),
    ],
)
def test_structures_are_equal_where_the_code_is(other, same):
    def key(of):
        return structure([of(pytensor.shared(1.0), pytensor.shared(2.0))])[0]

    assert (key(other) == key(lambda x, y: x * 2.0 + y)) is same


def test_a_graph_with_an_input_has_no_structure():
    assert structure([pt.scalar("x") * 2.0])[0] is None


def test_variables_of_a_graph_are_replaced_whatever_needs_them():
    x, y = pt.vector("x"), pt.vector("y")
    a = x + 1.0
    b = a * 2.0
    graph = [b.sum(), pt.exp(b) + y]
    one, two = rebuilt(graph, {b: pt.constant([1.0, 2.0]), a: pt.constant([5.0])})
    np.testing.assert_allclose(one.eval(), 3.0)
    np.testing.assert_allclose(two.eval({y: [0.0, 1.0]}), np.exp([1.0, 2.0]) + [0.0, 1.0])
    assert rebuilt([x, b], {x: y})[0] is y
    assert rebuilt([b], {})[0] is b


# --- data -------------------------------------------------------------------------------------


def data_of(node, x):
    """Values of the shared variables of a graph but one."""
    leaves = [leaf for leaf in in_order([node]) if hasattr(leaf, "get_value") and leaf is not x]
    return [leaf.get_value() for leaf in leaves]


def test_what_depends_on_data_alone_is_computed_once():
    y = np.array([1.0, 2.0, 4.0])
    x = pytensor.shared(np.zeros(3), shape=(3,))
    (node,) = data_as_shared([(pt.gammaln(pt.constant(y) + 1) * x).sum()])
    (data,) = data_of(node, x)
    np.testing.assert_allclose(data, [0.0, np.log(2.0), np.log(24.0)], atol=1e-12)


@pytest.mark.parametrize(
    "constant",
    [
        2.0,
        np.zeros(50),
        np.arange(5),
        np.array([True, False] * 30),
        np.array([[1, 1], [1, 1]]),
    ],
    ids=["number", "one value", "few whole numbers", "mask", "one whole number"],
)
def test_what_code_may_depend_on_stays_a_constant(constant):
    x = pytensor.shared(1.0)
    (node,) = data_as_shared([pt.constant(constant) * x])
    assert data_of(node, x) == []


def test_data_in_another_layout_needs_no_other_code():
    x = pytensor.shared(np.ones(2), shape=(2,))
    for layout in (np.asfortranarray, np.ascontiguousarray):
        (node,) = data_as_shared([pt.constant(layout(np.arange(60.0).reshape(30, 2))) @ x])
        (data,) = data_of(node, x)
        assert data.flags.c_contiguous and data.flags.writeable


def test_data_in_a_condition_that_holds_throughout_leaves_no_condition():
    """As PyTensor does with constants: a bound that all data keep costs nothing in a step."""
    y = np.arange(1.0, 50.0)
    x = pytensor.shared(2.0)
    (node,) = data_as_shared([pt.switch(pt.constant(y) > 0, pt.constant(y) * x, -np.inf).sum()])
    conditions = [
        v for v in in_order([node]) if getattr(v, "type", None) and v.type.dtype == "bool"
    ]
    assert conditions and all(hasattr(v, "data") and v.data.all() for v in conditions)


def test_compilations_in_threads_do_not_disturb_each_other(fast):
    """A cache that is emptied in the middle of a fit leaves it its code."""
    done = threading.Event()

    class Clears(vt.Callback):
        def on_block(self, run, block):
            vt.clear_cache()
            done.set()

    fit = fitted(regression(), callbacks=[Clears()], **fast)
    assert done.is_set() and fit.status == "finished"
