"""Elementary functions as plain arithmetic, and that steps on Numba, and only those, use them."""

import re

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import get_mode
from pytensor.link.jax import JAXLinker
from pytensor.link.numba import NumbaLinker

from vitoolkit import elementary
from vitoolkit.compilation import faster

INF, NAN, TINY = float("inf"), float("nan"), 5e-324


def powers(low, high, count=2_000):
    return 10 ** np.random.default_rng(2).uniform(low, high, count)


def between(low, high, count=2_000):
    return np.random.default_rng(1).uniform(low, high, count)


CASES = {
    "exp": (np.exp, 1.0, [between(-746, 710), between(-1, 1), -powers(-300, 2)]),
    "log": (np.log, 1.0, [powers(-323, 308), between(0.5, 2), 1 - powers(-16, -1)]),
    "log1p": (
        np.log1p,
        1.0,
        [powers(-320, 308), between(-1, 2), -powers(-320, -0.01), powers(-17, 0) - 1],
    ),
    "tanh": (np.tanh, 2.0, [between(-2, 2), between(-25, 25), powers(-320, 0)]),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2.0, [between(-700, 40), between(-2, 2)]),
    "softplus": (lambda x: np.logaddexp(0, x), 2.0, [between(-700, 100), between(-2, 2)]),
}


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no reference that is exact enough")
@pytest.mark.parametrize("name", CASES)
def test_error_in_units_in_the_last_place(name):
    reference, bound, arguments = CASES[name]
    x = np.concatenate(arguments)
    found = np.array([getattr(elementary, name)(value) for value in x])
    with np.errstate(over="ignore"):
        exact = reference(x.astype(np.longdouble))
        unit = np.spacing(np.abs(exact.astype(float)))
    finite = np.isfinite(exact.astype(float))
    np.testing.assert_array_equal(found[~finite], exact[~finite].astype(float))
    assert np.max(np.abs(found - exact)[finite] / unit[finite]) <= bound


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", -INF, 0.0),
        ("exp", INF, INF),
        ("exp", 0.0, 1.0),
        ("exp", 709.782712893384, 1.797693134862273e308),
        ("exp", 709.7827128933841, INF),
        ("exp", -745.1332191019411, TINY),
        ("exp", -745.1332191019412, 0.0),
        ("exp", -1e308, 0.0),
        ("log", 0.0, -INF),
        ("log", -0.0, -INF),
        ("log", -TINY, NAN),
        ("log", -INF, NAN),
        ("log", INF, INF),
        ("log", 1.0, 0.0),
        ("log", TINY, -744.4400719213812),
        ("log1p", -1.0, -INF),
        ("log1p", np.nextafter(-1.0, -2.0), NAN),
        ("log1p", -INF, NAN),
        ("log1p", INF, INF),
        ("log1p", TINY, TINY),
        ("log1p", -1e-300, -1e-300),
        ("tanh", INF, 1.0),
        ("tanh", -INF, -1.0),
        ("tanh", TINY, TINY),
        ("tanh", -1e-300, -1e-300),
        ("sigmoid", -INF, 0.0),
        ("sigmoid", INF, 1.0),
        ("softplus", -INF, 0.0),
        ("softplus", INF, INF),
        *((name, NAN, NAN) for name in CASES),
    ],
)
def test_special_values(name, x, expected):
    np.testing.assert_allclose(getattr(elementary, name)(x), expected, rtol=3e-16, atol=0)


def test_tanh_keeps_the_sign_of_zero():
    assert [float(np.signbit(elementary.tanh(x))) for x in (0.0, -0.0)] == [0, 1]


def scalars(function):
    """The scalar operations of a compiled function, those of fused ones too."""

    def of(op):
        inner = getattr(op, "fgraph", None)
        if inner is not None:
            return {found for node in inner.apply_nodes for found in of(node.op)}
        scalar = getattr(op, "scalar_op", None)
        return {type(op)} if scalar is None else of(scalar)

    return {found for node in function.maker.fgraph.apply_nodes for found in of(node.op)}


OWN = {elementary.Exp, elementary.Log, elementary.Log1p, elementary.Tanh}


def compiled(mode, dtype="float64"):
    x = pt.vector("x", dtype=dtype)
    output = [pt.exp(x) + pt.log(x) * 2, (pt.log1p(x) * pt.tanh(x)).sum(), pt.exp(-x)]
    return pytensor.function([x], output, mode=mode)


def test_steps_on_numba_use_them():
    mode = get_mode("NUMBA")
    assert type(mode.linker) is NumbaLinker
    ours, stock = compiled(faster(mode)), compiled(mode)
    assert scalars(ours) >= OWN
    assert not scalars(stock) & OWN
    assert not scalars(compiled(faster(mode), "float32")) & OWN
    x = powers(-3, 2)
    for one, other in zip(ours(x), stock(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("linker", ["py", "cvm"])
def test_other_backends_do_not(linker):
    mode = pytensor.compile.mode.Mode(linker=linker, optimizer="fast_run")
    assert not scalars(compiled(faster(mode))) & OWN


def test_jax_does_not():
    mode = pytensor.compile.mode.Mode(linker=JAXLinker(), optimizer="fast_run")
    assert elementary.TAG not in faster(mode).provided_optimizer.include


def test_loops_of_several_become_vector_instructions():
    """None of the functions is left as a call, whatever is fused, sums and one number among it."""
    x, y = pt.vector("x", dtype="float64"), pt.vector("y", dtype="float64")
    s = pt.scalar("s", dtype="float64")
    output = [pt.softplus(x) * y, pt.sigmoid(x) * s, (pt.log(y) * pt.exp(x)).sum(), pt.tanh(y * s)]
    with pytensor.config.change_flags(numba__cache=False):
        function = pytensor.function([x, y, s], output, mode=faster(get_mode("NUMBA")))
        function(np.ones(3), np.ones(3), 1.0)
    code = "".join(function.vm.jit_fn.inspect_llvm().values())
    assert re.search(r"fdiv [a-z ]*<\d+ x double>", code)
