"""Who is asked for what: a slider's value can be followed by types alone, to the control."""

import inspect
import typing
from collections.abc import Iterator

import pytest

from vitoolkit.controls import Control
from vitoolkit.dashboard.actions import Actions
from vitoolkit.dashboard.control_row import ControlRow
from vitoolkit.dashboard.panel import Panel
from vitoolkit.dashboard.protocols import Fit, Row
from vitoolkit.dashboard.switch_row import SwitchRow
from vitoolkit.run import Run
from vitoolkit.stock import StockRun


def members(protocol: type) -> Iterator[str]:
    return (name for name in vars(protocol) if not name.startswith("_"))


def test_from_the_slider_to_the_control_by_types():
    assert typing.get_type_hints(ControlRow.__init__)["control"] is Control
    asked = inspect.getsource(ControlRow._ask)
    assert "self.control.set(value" in asked and hasattr(Control, "set")
    for kind in (Panel, Actions):
        assert inspect.signature(kind.__init__).parameters["fit"].annotation == "Fit"


@pytest.mark.parametrize("kind", [Run, StockRun])
def test_what_runs_is_asked_as_a_fit_is(kind):
    for name in ("pause", "resume", "single_step", "stop", "undo", "note"):
        wanted, has = (inspect.signature(getattr(k, name)) for k in (Fit, kind))
        assert list(wanted.parameters) == list(has.parameters)


@pytest.mark.parametrize("kind", [ControlRow, SwitchRow])
def test_both_kinds_of_row_are_rows(kind):
    assert not [name for name in members(Row) if name != "control" and not hasattr(kind, name)]
