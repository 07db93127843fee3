"""One switch in the panel: something of the fit that is on or off."""

from __future__ import annotations

import threading
from typing import Any

from vitoolkit.controls import Switch
from vitoolkit.dashboard.control_row import RowWidget
from vitoolkit.dashboard.lifetime import close_widgets, weakly
from vitoolkit.dashboard.protocols import Message
from vitoolkit.views.assets import page_code

__all__ = ["SwitchRow"]


class SwitchWidget(RowWidget):
    """The page's side of a switch: a check box."""

    _esm = page_code("switch")


class SwitchRow:
    """Check box of one switch. A person's click becomes a request on the switch.

    Parameters
    ----------
    control : Switch
        The switch.
    """

    def __init__(self, control: Switch) -> None:
        self.control = control
        self._lock = threading.RLock()  # a person's click may come in another thread
        self._heard = ""
        self.widget = SwitchWidget(
            spec={
                "name": control.name.replace("_", " "),
                "words": control.words or control.name,
            },
            state=self._state(),
        )
        self.widget.add_class("vitoolkit-switch")
        self.widget.on_msg(weakly(self._on_page))

    def follow(self) -> bool:
        """Show what was asked for last; returns whether anything was sent."""
        with self._lock:
            state = self._state()
            if state == self.widget.state:
                return False
            self.widget.state = state
        return True

    @property
    def widgets(self) -> tuple[RowWidget, ...]:
        """The outermost of its widgets."""
        return (self.widget,)

    def close(self) -> None:
        """Close the widget in the page and the kernel."""
        close_widgets(self.widgets)

    def _on_page(self, widget: RowWidget, content: Message, buffers: list[bytes]) -> None:
        if content.get("kind") == "set":
            with self._lock:
                self.control.set(bool(content["on"]), source="user")
                self._heard = str(content["number"])
                self.follow()

    def _state(self) -> dict[str, Any]:
        return {"on": bool(self.control.requested), "heard": self._heard}
