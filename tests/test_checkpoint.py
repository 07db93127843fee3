import numpy as np
import pymc as pm
import pytensor
import pytest

import vitoolkit as vt
from vitoolkit.checkpoint import Checkpoint


@pytest.fixture
def state(minibatch_regression, fast):
    inference = vt.ADVI(random_seed=1)
    inference.fit(12, obj_optimizer=pm.adam, **fast)
    return inference


def test_everything_has_a_name_by_its_role(state):
    names = list(state.state.step.state)
    assert names[:2] == ["parameter[0]", "parameter[1]"]
    assert sum(name.startswith("optimizer[") for name in names) == 5  # two moments each, a clock
    assert sum(name.startswith("generator[") for name in names) == 2  # of q and of the minibatch
    assert state.state.step.variables["parameter[0]"] in state.approx.params


def test_a_fit_goes_on_from_bytes_as_if_nothing_had_happened(state):
    step = state.state.step
    data = Checkpoint.of(step.state).to_bytes()
    state.refine(30, progressbar=False)
    expected = state.hist[12:]
    Checkpoint.from_bytes(data).restore(step.state)
    state.refine(30, progressbar=False)
    np.testing.assert_array_equal(state.hist[42:], expected)


def test_bytes_hold_nothing_that_is_pickled(state):
    data = Checkpoint.of(state.state.step.state).to_bytes()
    assert b"numpy.core" not in data and b"pickle" not in data
    again = Checkpoint.from_bytes(data)
    assert again.fingerprint == Checkpoint.of(state.state.step.state).fingerprint
    assert again.finite()


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_generators_of_every_kind(bits):
    generator = pytensor.shared(np.random.Generator(bits(5)))
    generator.get_value(borrow=True).normal(size=3)
    saved = Checkpoint.from_bytes(Checkpoint.of({"generator[0]": generator}).to_bytes())
    expected = generator.get_value(borrow=True).normal(size=4)
    saved.restore({"generator[0]": generator})
    np.testing.assert_array_equal(generator.get_value(borrow=True).normal(size=4), expected)


def test_another_step_function_is_refused_with_the_difference_named():
    saved = Checkpoint({"parameter[0]": np.zeros(3), "optimizer[0]": np.zeros(3)})
    with pytest.raises(ValueError, match=r"has optimizer\[0\] that is not there"):
        saved.restore({"parameter[0]": pytensor.shared(np.zeros(3))})
    with pytest.raises(ValueError, match=r"parameter\[0\] .* of shape \(3,\), and here .* \(4,\)"):
        saved.restore(
            {"parameter[0]": pytensor.shared(np.zeros(4)), "optimizer[0]": pytensor.shared(1.0)}
        )
