import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode, get_mode
from pytensor.link.numba import NumbaLinker

import vitoolkit as vt
from vitoolkit.compilation import faster


def count(function, name):
    return sum(str(node.op).count(name) for node in function.maker.fgraph.apply_nodes)


def compiled(inputs, output):
    mode = Mode(linker="py", optimizer="fast_run").excluding("fusion")
    return [
        pytensor.function(inputs, output, mode=m, on_unused_input="ignore")
        for m in (mode, faster(mode))
    ]


def test_a_switch_of_one_function_computes_it_once():
    c, x = pt.vector("c"), pt.vector("x")
    stock, ours = compiled([c, x], pt.switch(c > 0, -pt.softplus(-x), -pt.softplus(x)))
    assert (count(stock, "oftplus"), count(ours, "oftplus")) == (2, 1)
    rng = np.random.default_rng(1)
    values = rng.normal(size=100).astype(c.dtype), 50 * rng.normal(size=100).astype(x.dtype)
    np.testing.assert_array_equal(ours(*values), stock(*values))


@pytest.mark.parametrize(
    "output",
    [
        lambda c, x, s: pt.switch(c > 0, pt.exp(x), pt.exp(s)),  # s is a scalar: exp of one number
        lambda c, x, s: pt.switch(c > 0, pt.exp(x), pt.tanh(-x)),
        lambda c, x, s: [pt.switch(c > 0, pt.exp(x), pt.exp(-x)), pt.exp(x)],
        lambda c, x, s: pt.switch(c > 0, x, pt.exp(-x)),
    ],
    ids=["broadcast", "two functions", "needed elsewhere", "no function"],
)
def test_other_switches_stay(output):
    c, x, s = pt.vector("c"), pt.vector("x"), pt.scalar("s")
    stock, ours = compiled([c, x, s], output(c, x, s))
    assert [str(node.op) for node in ours.maker.fgraph.toposort()] == [
        str(node.op) for node in stock.maker.fgraph.toposort()
    ]


@pytest.mark.parametrize("which", ["x", "-x", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_and_its_derivative_share_an_exponential(dtype, which):
    x = pt.vector("x", dtype=dtype)
    both = [pt.softplus(x), pt.grad(pt.softplus(x).sum(), x)]
    both += [pt.softplus(-x), pt.grad(pt.softplus(-x).sum(), x)]
    stock, ours = compiled([x], both[:2] if which == "x" else both[2:] if which == "-x" else both)
    assert count(stock, "oftplus") == count(stock, "igmoid") == (2 if which == "both" else 1)
    assert count(ours, "oftplus") == count(ours, "igmoid") == 0
    assert [str(node.op) for node in ours.maker.fgraph.apply_nodes].count("Exp") == 1
    far = [-800, -104, -88, -37, -18, 0, -0.0, 18, 33.3, 88, 104, 800, -np.inf, np.inf, np.nan]
    values = np.concatenate([np.linspace(-40, 40, 4001), far]).astype(dtype)
    for actual, expected in zip(ours(values), stock(values), strict=True):
        assert actual.dtype == expected.dtype == dtype
        np.testing.assert_allclose(actual, expected, rtol=8 * np.finfo(dtype).eps)


def test_a_bernoulli_by_logits_takes_one_exponential():
    c, x = pt.vector("c"), pt.vector("x")
    loss = pt.switch(c > 0, pt.softplus(-x), pt.softplus(x)).sum()
    stock, ours = compiled([c, x], [loss, pt.grad(loss, x)])
    for name in ("Exp", "Log1p"):
        assert [str(node.op) for node in ours.maker.fgraph.apply_nodes].count(name) == 1
    rng = np.random.default_rng(1)
    values = rng.normal(size=100).astype(c.dtype), 50 * rng.normal(size=100).astype(x.dtype)
    for actual, expected in zip(ours(*values), stock(*values), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_one_of_the_two_alone_stays():
    x, y = pt.vectors("x", "y")
    stock, ours = compiled([x, y], [pt.softplus(x), pt.sigmoid(y)])
    assert [str(node.op) for node in ours.maker.fgraph.toposort()] == [
        str(node.op) for node in stock.maker.fgraph.toposort()
    ]


def test_a_mode_of_the_users_own_rewriter_is_left_alone():
    mode = Mode(linker="py", optimizer=None)
    assert faster(mode).linker is mode.linker
    own = Mode(linker="py", optimizer=pytensor.compile.mode.optdb.query("+merge"))
    assert faster(own) is own


def test_the_entry_of_numba_takes_arguments_by_position():
    x = pytensor.shared(np.zeros(3), shape=(3,))
    rng = pytensor.shared(np.random.default_rng(1))
    next_rng, draw = pt.random.normal(size=3, rng=rng).owner.outputs
    updates = {x: x + draw, rng: next_rng}
    function = pytensor.function([], x.sum(), updates=updates, mode=faster(get_mode("NUMBA")))
    entry = function.vm.jit_fn
    assert isinstance(function.maker.linker, NumbaLinker)
    assert entry.py_func.__code__.co_argcount == len(function.maker.fgraph.inputs)
    assert not entry.py_func.__code__.co_flags & 0x04  # no *args
    for _ in range(2):
        function()
    expected = np.random.default_rng(1).normal(size=(2, 3)).sum(axis=0)
    np.testing.assert_allclose(x.get_value(), expected, rtol=1e-12)


def test_the_step_function_is_compiled_that_way(gaussians):
    inference = vt.ADVI(random_seed=1)
    inference.fit(2, progressbar=False, compile_kwargs={"mode": "FAST_COMPILE"})
    tags = inference.step_function.function.maker.mode.provided_optimizer.include
    assert "vitoolkit" in tags


def test_a_call_that_was_held_up_says_nothing_about_the_pace(gaussians, fast):
    inference = vt.ADVI(random_seed=1)
    inference.fit(2, **fast)
    step = inference.step_function
    step.auto = step.fused = True
    step.capacity = 16
    for _ in range(10):
        step.tune(1e-5 * step.capacity, step.capacity)
    assert step.capacity == 600
    step.tune(0.1, step.capacity)  # once
    assert step.capacity >= 540
    for _ in range(30):  # always
        step.tune(1e-4 * step.capacity, step.capacity)
    assert step.capacity == 60
