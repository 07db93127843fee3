"""Does a slider get through to a running fit, in this very front end? A cell that finds out."""

from __future__ import annotations

import os
import time

import anywidget
import traitlets

from vitoolkit.checks import real_number
from vitoolkit.dashboard.kernel_events import KernelEvents, current_kernel
from vitoolkit.dashboard.marimo import in_marimo
from vitoolkit.dashboard.protocols import Message
from vitoolkit.views.assets import CSS, page_code

__all__ = ["Probe", "check"]

#: Seconds in which a page that can be heard shows the slider, and from a last move to the verdict.
SHOWN, QUIET = 30.0, 1.0
NO_FRONT_END = (
    "There is no notebook here, so there is no panel and nothing to steer by hand. A fit runs and "
    "is recorded all the same; code steers it, as in beta.set(0.5)."
)
NO_SLIDER = (
    "No slider was shown, or none could be heard. If there is none above, this front end draws no "
    "widgets: restart the kernel and reload the page after an installation; in VS Code allow "
    "jupyter.widgetScriptSources, in Colab run google.colab.output.enable_custom_widget_manager()."
)
MOVE = "Move the slider. The cell is running for {seconds:.0f} s, as it does during a fit."
MOVE_NOW = "Nothing arrived while the cell was running. Move the slider now."
MOVE_ONCE = "Move the slider."
WORKS = (
    "{count} arrived, answered in {busy}, while the {what} was running{idle}: "
    "steering works here ({way})."
)
BESIDE = (
    "{count} arrived, answered in {idle}, with no cell running: here a fit beside the cell can be "
    "steered, vitoolkit.fit(..., background=True){thread}."
)


class Probe(anywidget.AnyWidget):
    """A slider that measures how soon it is heard, while Python is busy and while it is not.

    Parameters
    ----------
    words : str
        What the page shows at first.
    """

    _esm = page_code("check")
    _css = CSS
    words = traitlets.Unicode().tag(sync=True)

    def __init__(self, words: str = MOVE_ONCE) -> None:
        super().__init__(words=words)
        #: Whether a page has shown the slider; moves it sent and moves heard.
        self.shown = False
        self.sent = self.heard = 0
        #: Milliseconds from a move to its answer, the last one while busy and while idle.
        self.took: dict[str, float] = {}
        self.events: KernelEvents | None = None
        self.what = "cell"
        #: Seconds to be busy for at the first move: where a page is shown after all cells.
        self.busy_then = 0.0
        self._last = 0.0
        self._busy = False
        self.on_msg(self._on_page)

    def be_busy(self, seconds: float) -> None:
        """Keep the thread busy as a fit does until a hand was heard, or the time is up."""
        began = now = time.perf_counter()
        with KernelEvents() as events:
            self.events, self._busy = events, True
            deaf = events.way == "none"  # then the page cannot tell that it is there
            while now - began < seconds and (self.shown or deaf or now - began < SHOWN):
                if "busy" in self.took and now - self._last > QUIET:
                    break
                time.sleep(0.002)  # a fit's longest block is a few milliseconds
                events.poll()
                now = time.perf_counter()
            self._busy = False
        self.words = self.verdict()

    def verdict(self) -> str:
        """What is known so far, in words."""
        took = {when: f"{ms:.0f} ms" for when, ms in self.took.items()}
        count = f"{self.heard} of {self.sent} moves"
        if "busy" in took and self.events is not None:
            way = self.events.words.removeprefix("steering by ")
            idle = f", and in {took['idle']} after it" if "idle" in took else ""
            return WORKS.format(count=count, busy=took["busy"], what=self.what, idle=idle, way=way)
        if "idle" in took:
            thread = " or any fit in a marimo.Thread" if in_marimo() else ""
            return BESIDE.format(count=count, idle=took["idle"], thread=thread)
        return MOVE_NOW if self.events is not None else MOVE_ONCE

    def _on_page(self, widget: Probe, content: Message, buffers: list[bytes]) -> None:
        kind = content.get("kind")
        self.shown = True
        if kind == "moved":
            self._last = time.perf_counter()
            self.heard += 1
            self.sent = max(self.sent, int(content["number"]))
            when = "busy" if self._busy else "idle"
            self.send({"kind": "heard", "number": content["number"], "when": when})
        elif kind == "measured":
            self.took[str(content["when"])] = float(content["ms"])
            self.words = self.verdict()
            seconds, self.busy_then = self.busy_then, 0.0
            if seconds:
                self.words = MOVE.format(seconds=seconds)
                self.be_busy(seconds)


def check(seconds: float = 20.0) -> None:
    """Tell whether the sliders of a panel get through to a running fit, in this front end.

    Shows a slider to move while the cell runs, and says in words how soon the moves arrived, or
    what to do where they do not. It ends a second after the last move.

    Parameters
    ----------
    seconds : float
        How long the cell waits for a move, at most.

    Raises
    ------
    ValueError
        When `seconds` is below 0 or not finite.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.dashboard.check()  # doctest: +ELLIPSIS
    There is no notebook here, so there is no panel and nothing to steer by hand. ...
    """
    seconds = real_number("seconds", seconds, least=0.0, finite=True)
    if in_marimo():
        import marimo

        marimo.output.append(Probe())  # no cell there hears anything while it runs
        return
    if current_kernel() is None:
        print(NO_FRONT_END)
        return
    from IPython.display import display

    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    probe = Probe(MOVE_ONCE if voila else MOVE.format(seconds=seconds))
    display(probe)
    if voila:  # shows its page when all cells have ended: a fit there is a button's
        probe.what, probe.busy_then = "callback of a button", seconds
        return
    probe.be_busy(seconds)
    if not probe.heard:
        print(probe.words if probe.shown else NO_SLIDER)
