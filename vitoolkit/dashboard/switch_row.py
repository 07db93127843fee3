"""One switch in the panel: something of the fit that is on or off."""

from __future__ import annotations

import threading

import ipywidgets

from vitoolkit.controls import Switch
from vitoolkit.dashboard.lifetime import close_widgets, weakly
from vitoolkit.dashboard.protocols import Toggled

__all__ = ["SwitchRow"]


class SwitchRow:
    """Checkbox of one switch. A person's click becomes a request on the switch.

    Parameters
    ----------
    control : Switch
        The switch.
    """

    def __init__(self, control: Switch) -> None:
        self.control = control
        self._writer: int | None = None
        self.widget = ipywidgets.Checkbox(
            value=bool(control.requested),
            description=control.name.replace("_", " "),
            tooltip=control.words or control.name,
            indent=False,
            layout=dict(width="auto"),
        )
        self.widget.add_class("vitoolkit-switch")
        self.widget.observe(weakly(self._on_click), "value")

    def follow(self) -> bool:
        """Show what was asked for last; returns whether anything was sent."""
        on = bool(self.control.requested)
        if on == self.widget.value:
            return False
        self._writer = threading.get_ident()
        try:
            self.widget.value = on
        finally:
            self._writer = None
        return True

    @property
    def widgets(self) -> tuple[ipywidgets.Widget, ...]:
        """The outermost of its widgets."""
        return (self.widget,)

    def close(self) -> None:
        """Close the widget in the page and the kernel."""
        close_widgets(self.widgets)

    def _on_click(self, change: Toggled) -> None:
        # Compared by thread: a person's click may come in another one while this one writes.
        if self._writer != threading.get_ident():
            self.control.set(bool(change["new"]), source="user")
