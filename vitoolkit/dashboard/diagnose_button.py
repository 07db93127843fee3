"""The button of an ended fit that asks whether it can be trusted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from vitoolkit.dashboard.protocols import Message
from vitoolkit.views.assets import CSS, page_code

__all__ = ["DiagnoseButton"]


class DiagnoseButton(anywidget.AnyWidget):
    """Asks for a diagnosis in a thread of its own; the kernel stays free for other cells.

    Parameters
    ----------
    diagnose : callable
        Computes it, and has :meth:`tell` called with what it found.
    place : str
        By what a page finds the picture of the fit, under whose verdict the button is to stand; ""
        where the widget itself is shown.
    found : str
        HTML of a diagnosis that there is, "" without one.
    """

    _esm = page_code("diagnosis")
    _css = CSS
    _place = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(
        self, diagnose: Callable[[], Any], *, place: str = "", found: str = "", **kwargs: Any
    ) -> None:
        self._diagnose = diagnose
        super().__init__(_place=place, **kwargs)
        self.tell(found)
        self.on_msg(self._on_page)

    @property
    def place(self) -> str:
        """By what a page finds the picture, "" without one."""
        return self._place

    def tell(self, found: str) -> None:
        """Show a diagnosis, or take away what is none any more."""
        self.state = {"phase": "done" if found else "ready", "found": found, "words": ""}

    def _on_page(self, widget: DiagnoseButton, content: Message, buffers: list[bytes]) -> None:
        if content.get("kind") == "diagnose" and self.state["phase"] != "busy":
            self.state = {**self.state, "phase": "busy", "words": ""}
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            self._diagnose()
        except Exception as error:  # nobody is there to raise it to: a person reads it here
            words = f"not diagnosed: {error}"
            self.state = {**self.state, "phase": "failed", "words": words}
