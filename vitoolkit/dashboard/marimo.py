"""The panel in marimo, which draws anywidgets and has none of Jupyter's own widgets in its page.

One anywidget stands for the whole panel: its page code draws the buttons and boxes out of their
models, and lets marimo draw the anywidgets among them. Everything else is as in Jupyter.
"""

from __future__ import annotations

import math
import sys
import threading
import time

import anywidget
import ipywidgets
import traitlets

from vitoolkit.run import Run
from vitoolkit.views.assets import TREE_CSS, page_code

__all__ = ["MarimoEvents", "Tree", "in_marimo", "show_in_marimo"]

#: Seconds between two looks whether the cell of a fit was run anew.
LOOK = 0.1
_BLOCKED = (
    "the controls of this panel act only after the cell: run the fit beside it "
    "(vitoolkit.fit(..., background=True), or any fit in a marimo.Thread) to steer it."
)


def in_marimo() -> bool:
    """Whether this is a notebook of marimo.

    Examples
    --------
    >>> in_marimo()
    False
    """
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def show_in_marimo(widget: ipywidgets.Widget) -> None:
    """Put a widget below what the running cell, or the cell of this thread, has shown so far."""
    import marimo

    marimo.output.append(Tree(widget))


class Tree(anywidget.AnyWidget):
    """A Jupyter widget, and all that it holds, where only anywidgets are drawn.

    Parameters
    ----------
    root : Widget
        The outermost.
    """

    _esm = page_code("tree")
    _css = TREE_CSS
    root = traitlets.Any().tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, root: ipywidgets.Widget) -> None:
        super().__init__(root=root)


class MarimoEvents:
    """What :class:`~vitoolkit.dashboard.kernel_events.KernelEvents` is in Jupyter.

    marimo answers widgets whenever no cell runs, so a fit in a thread is steered, and there is no
    queue to read. A fit ends when its cell is run anew or deleted: its panel is gone by then.

    Parameters
    ----------
    run : Run
        The fit, at its start.

    Attributes
    ----------
    way : str
        "thread", or "none" for a fit in a cell.
    words : str
        The same for people to read.
    due : float
        When to look next, seconds of ``time.perf_counter``; infinite in a cell.
    """

    def __init__(self, run: Run) -> None:
        self.kernel = marimo = sys.modules["marimo"]
        self._run = run
        beside = run.background or isinstance(threading.current_thread(), marimo.Thread)
        self.way = "thread" if beside else "none"
        self.words = f"steering by thread, marimo {marimo.__version__}" if beside else _BLOCKED
        self.due = 0.0 if beside else math.inf

    def start(self) -> None:
        """Do nothing: marimo's own thread has the interpreter often enough."""

    def stop(self) -> None:
        """Do nothing."""

    def poll(self) -> int:
        """End the fit when its cell is gone; returns 0, the number of messages read."""
        now = time.perf_counter()
        if now >= self.due:
            self.due = now + LOOK
            self._run.give_way()
        return 0
