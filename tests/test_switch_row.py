"""One switch in the panel."""

import anywidget
import numpy as np
import pytensor

import vitoolkit as vt
from vitoolkit.dashboard.switch_row import SwitchRow


def a_switch(on=True):
    shared = pytensor.shared(np.int8(on))
    return vt.Switch(shared, name="scale_cost_to_minibatch", words="Divide the loss")


def click(row, on, number="page 1"):
    row._on_page(row.widget, {"kind": "set", "on": on, "number": number}, [])


def test_a_click_flips_a_switch():
    row = SwitchRow(a_switch())
    assert isinstance(row.widget, anywidget.AnyWidget)  # marimo draws no other
    assert row.widget.spec == {"name": "scale cost to minibatch", "words": "Divide the loss"}
    assert row.widget.state == {"on": True, "heard": ""}
    click(row, False)
    assert row.widget.state == {"on": False, "heard": "page 1"}
    row.control.advance(9)
    (event,) = row.control.log
    assert (event.kind, event.old, event.new, event.source) == ("set", 1.0, 0.0, "user")
    assert row.control.shared.get_value() == 0


def test_a_click_that_changes_nothing_is_answered_all_the_same():
    row = SwitchRow(a_switch())
    click(row, True, "page 7")
    assert row.widget.state == {"on": True, "heard": "page 7"}


def test_a_switch_that_code_flips_is_shown_and_asks_for_nothing():
    row = SwitchRow(a_switch())
    row.control.set(False)
    assert row.follow() and not row.widget.state["on"]
    assert not row.follow()
    row.control.advance(1)
    assert [event.source for event in row.control.log] == ["code"]
