"""L times noise and its gradient, of the triangle of L alone, are those of the square of PyMC."""

from importlib.util import find_spec

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from models import two_gaussians
from pytensor.compile.mode import get_mode

from vitoolkit import triangle
from vitoolkit.compilation import faster

# The oldest PyMC does not bring Numba, and none brings JAX.
MODES = [m for m in ("NUMBA", "JAX") if find_spec(m.lower())] + ["FAST_COMPILE", "FAST_RUN"]


def mode_of(name):
    return faster(get_mode(name))


@pytest.fixture(params=["float64", "float32"])
def group(request):
    rng = np.random.default_rng(4)
    with pytensor.config.change_flags(floatX=request.param, warn_float64="ignore"):
        with two_gaussians():
            (group,) = pm.FullRank(random_seed=1).groups
        for parameter in group.params:
            value = rng.normal(size=parameter.get_value().shape)
            parameter.set_value(value.astype(request.param))
        yield group


@pytest.mark.parametrize("mode", MODES)
def test_a_draw_and_its_gradient_are_those_of_pymc(group, mode):
    rng = np.random.default_rng(5)
    floatx = pytensor.config.floatX
    noise = rng.normal(size=(1, group.ddim)).astype(floatx)
    weights = rng.normal(size=group.ddim).astype(floatx)

    def computed(draw, diagonal, mode):
        loss = (weights * draw**2).sum() + diagonal.prod()
        outputs = [draw, diagonal, *pytensor.grad(loss, group.params)]
        given = {group.symbolic_initial: pytensor.shared(noise, shape=noise.shape)}
        return pytensor.function([], outputs, givens=given, mode=mode)()

    ours = computed(triangle.draw(group), triangle.diagonal(group), mode_of(mode))
    pymc = computed(group.symbolic_random[0], group.L.diagonal(), "FAST_COMPILE")
    rtol = 1e-12 if floatx == "float64" else 1e-5
    for one, other in zip(ours, pymc, strict=True):
        assert one.dtype == floatx
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol / 10)
    assert group.ddim > 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_sizes_may_be_known_only_at_the_call(n, mode):
    rng = np.random.default_rng(n)
    square, x, g = np.tril(rng.normal(size=(n, n))), rng.normal(size=n), rng.normal(size=n)
    packed = square[np.tril_indices(n)]
    given = [pytensor.shared(value) for value in (packed, x, g)]
    product = triangle._TIMES(*given[:2])
    gradient = pytensor.grad((product * given[2]).sum(), given[0])
    found = pytensor.function([], [product, gradient], mode=mode_of(mode))()
    for one, other in zip(found, [square @ x, np.outer(g, x)[np.tril_indices(n)]], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_parts_of_two_dtypes_have_that_of_both():
    product = triangle._TIMES(pt.vector(dtype="float32"), pt.vector(dtype="float64"))
    assert product.dtype == "float64"
