"""The future of the controls that are on a schedule."""

import numpy as np

import vitoolkit as vt
from vitoolkit.views.ahead import Ahead


def test_the_future_is_that_of_the_schedules_in_force():
    auto = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=1000))
    manual = vt.Control(schedule=vt.schedules.linear(0.0, 1.0, steps=1000), name="manual")
    manual.set(3.0)
    fails = vt.Control(schedule=lambda step: 1.0 if step < 10 else 1 / 0, name="fails")
    ahead = Ahead([vt.Control(1.0), manual, fails, auto]).look(100, 500, 2000)
    assert ahead.which == [2, 3]
    np.testing.assert_allclose(ahead.values[1], ahead.step / 1000)
    assert np.isnan(ahead.values[0][ahead.step >= 10]).all()  # where it fails is a gap
    assert ahead.step[-1] == 500
    before = ahead.values
    assert ahead.look(200, 500, 2000).values is before  # nothing to evaluate anew
    assert ahead.look(600, 1000, 2000).step[-1] == 1000
    auto.set(0.5)
    assert ahead.look(600, 1000, 2000).which == [2]
