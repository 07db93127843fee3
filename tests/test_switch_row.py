"""One switch in the panel."""

import numpy as np
import pytensor

import vitoolkit as vt
from vitoolkit.dashboard.switch_row import SwitchRow


def a_switch(on=True):
    shared = pytensor.shared(np.int8(on))
    return vt.Switch(shared, name="scale_cost_to_minibatch", words="Divide the loss")


def test_a_click_flips_a_switch():
    row = SwitchRow(a_switch())
    assert (row.widget.value, row.widget.description) == (True, "scale cost to minibatch")
    assert row.widget.tooltip == "Divide the loss"
    row.widget.value = False
    row.control.advance(9)
    (event,) = row.control.log
    assert (event.kind, event.old, event.new, event.source) == ("set", 1.0, 0.0, "user")
    assert row.control.shared.get_value() == 0


def test_a_switch_that_code_flips_is_shown_and_asks_for_nothing():
    row = SwitchRow(a_switch())
    row.control.set(False)
    assert row.follow() and not row.widget.value
    assert not row.follow()
    row.control.advance(1)
    assert [event.source for event in row.control.log] == ["code"]
