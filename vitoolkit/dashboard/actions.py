"""What a person does with a fit as a whole: the panel's buttons, and what they unfold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import ipywidgets

from vitoolkit.dashboard.download import Download
from vitoolkit.dashboard.lifetime import close_widgets, weakly
from vitoolkit.dashboard.protocols import Chosen, Fit, Message, Toggled
from vitoolkit.export import FORMATS, save
from vitoolkit.trace import Trace

__all__ = ["Actions"]

Handler: TypeAlias = Callable[..., None]

#: Label, icon and words of the first button, by what holds the fit.
_HOLDING = {
    "": ("Pause", "pause", "wait before the next step"),
    "start": ("Start", "play", "take the first step"),
    "resume": ("Resume", "play", "go on"),
}
#: Limits of steps a second that a person can choose; a choice of None would be none at all.
FULL = 0.0
_PACES = (1000.0, 100.0, 10.0, 1.0)


class Actions:
    """Pause, Step, Stop, Undo, Note, Keep, Rewind, Export and the pace.

    Parameters
    ----------
    fit : Fit
        What runs.
    trace : callable
        Returns the trace to export.
    scales : mapping of str to str
        How each control is shown, "linear", "log" or "switch", for the report.
    asked : callable
        Called when something was asked for that the panel tells in words.

    Attributes
    ----------
    buttons : HBox
        One row of buttons.
    drawer : VBox
        What Note, Rewind and Export unfold, empty by default.
    """

    def __init__(
        self,
        fit: Fit,
        trace: Callable[[], Trace | None],
        scales: Mapping[str, str],
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        self.fit, self._trace, self._scales, self._asked = fit, trace, scales, asked
        #: Path of the last file written, "" without one.
        self.saved = ""
        self.pause = _button(*_HOLDING[""], self._on_pause, 78)
        self.pause.add_class("vitoolkit-pause")
        self.step = _button("Step", "step-forward", "take one step and pause again", self._on_step)
        self.stop = _button("Stop", "stop", "end the fit and keep everything", self._on_stop)
        self.undo = _button("Undo", "undo", "take back the last change", self._on_undo)
        self.note = _toggle("Note", "pencil", "write a note at this step", self._on_drawer)
        self.keep = _button(
            "Keep", "bookmark", "keep this point, to come back to it with Rewind", self._on_keep
        )
        self.rewind = _toggle(
            "Rewind",
            "history",
            "back to an earlier point, and on from there",
            self._on_drawer,
            76,
        )
        goes_back = [self.keep, self.rewind] if getattr(fit, "points", None) is not None else []
        self.export = _toggle(
            "Export", "download", "write the record to a file", self._on_drawer, 72
        )
        self.stop.button_style = "danger"
        self.pace = ipywidgets.Dropdown(
            options=_paces(fit.steps_per_second),
            value=fit.steps_per_second or FULL,
            tooltip="most steps a second, for looking: no number depends on it",
            description="pace",
            style=dict(description_width="auto"),
            layout=dict(width="158px"),
        )
        self.pace.add_class("vitoolkit-pace")
        self.pace.observe(weakly(self._on_pace), "value")
        self.buttons = ipywidgets.HBox(
            [
                self.pause,
                self.step,
                self.stop,
                self.undo,
                self.note,
                *goes_back,
                self.export,
                self.pace,
            ],
            layout=dict(flex_flow="row wrap"),
        )
        self.buttons.add_class("vitoolkit-buttons")
        self.words = ipywidgets.Text(
            placeholder="what do you see? It becomes a mark on every chart",
            layout=dict(flex="1 1 160px", max_width="560px"),
        )
        self.words.on_msg(weakly(self._on_enter))
        self.add = _button("Add", "check", "write the note", self._on_note, 70)
        self.formats = {
            suffix: _button(made.label, "", made.words, self._on_export, 100)
            for suffix, made in FORMATS.items()
        }
        self.said = ipywidgets.Label(layout=dict(flex="0 1 auto", min_width="0"))
        self.download = Download()
        rows = dict(flex_flow="row wrap", align_items="center", margin="0 0 0 8px")
        self._noting = ipywidgets.HBox([self.words, self.add], layout=rows)
        self.to = ipywidgets.Dropdown(
            description="back to",
            tooltip="bookmarks, and steps whose state is at hand",
            style=dict(description_width="auto"),
            layout=dict(width="260px"),
        )
        self.go = _button("Go back", "", "with everything as it was then", self._on_go, 76)
        self.told = ipywidgets.Label(layout=dict(min_width="0"))
        self._rewinding = ipywidgets.HBox([self.to, self.go, self.told], layout=rows)
        # In a line of their own, there from the beginning: nothing below moves when they come.
        told = ipywidgets.HBox(
            [self.said, self.download],
            layout=dict(flex="1 1 100%", height="28px", min_width="0", align_items="center"),
        )
        self._exporting = ipywidgets.HBox([*self.formats.values(), told], layout=rows)
        self._drawers = {
            self.note: self._noting,
            self.rewind: self._rewinding,
            self.export: self._exporting,
        }
        self.drawer = ipywidgets.VBox()
        self.drawer.add_class("vitoolkit-drawer")
        self.show()

    def show(self) -> None:
        """Bring the buttons in line with the fit."""
        fit = self.fit
        paused = fit.status == "paused"
        label, icon, tip = _HOLDING[fit.holding]
        if self.pause.description != label:
            self.pause.description, self.pause.icon, self.pause.tooltip = label, icon, tip
        self.pause.disabled = self.note.disabled = self.pace.disabled = not fit.running
        self.step.disabled = not paused
        limit = fit.steps_per_second or FULL
        if self.pace.value != limit:
            if limit not in (rate for _, rate in self.pace.options):
                self.pace.options = _paces(limit)
            self.pace.value = limit
        self.undo.disabled = not fit.can_undo
        self.keep.disabled = self.rewind.disabled = not fit.running or fit.status == "compiling"
        if not fit.running:
            self.stop.disabled = True
            self.note.value = self.rewind.value = False

    @property
    def widgets(self) -> tuple[ipywidgets.Widget, ...]:
        """The outermost of its widgets; two of the buttons are not shown where nothing is kept."""
        drawers = self._noting, self._rewinding, self._exporting, self.drawer
        return self.buttons, self.keep, self.rewind, *drawers

    def close(self) -> None:
        """Close the widgets in the page and the kernel."""
        close_widgets(self.widgets)

    def _on_pause(self, button: ipywidgets.Button) -> None:
        if self.fit.holding:
            self.fit.resume(source="user")
        else:
            self.fit.pause(source="user")
        self._asked()

    def _on_step(self, button: ipywidgets.Button) -> None:
        self.fit.single_step(source="user")

    def _on_stop(self, button: ipywidgets.Button) -> None:
        self.stop.disabled = True
        self.fit.stop(source="user")

    def _on_pace(self, change: Chosen) -> None:
        if change["new"] != (self.fit.steps_per_second or FULL):
            self.fit.limit(change["new"] or None)

    def _on_undo(self, button: ipywidgets.Button) -> None:
        self.fit.undo(source="user")

    def _on_drawer(self, change: Toggled) -> None:
        """Unfold what a toggle stands for; one at a time."""
        if change["new"]:
            for toggle in self._drawers:
                toggle.value = toggle is change["owner"]
            if self.rewind.value:
                self._list_points()
            self.drawer.children = (self._drawers[change["owner"]],)
        elif not any(toggle.value for toggle in self._drawers):
            self.drawer.children = ()

    def _list_points(self) -> None:
        """Offer what there is now: it stays as it is while somebody chooses."""
        points = self.fit.points
        if points is None:
            return
        named = [(_kept_as(str(p.name), p.step), p.name) for p in reversed(points.bookmarks)]
        steps = [(f"step {step:,}", step) for step in reversed(points.steps())]
        self.to.options = [*named, *steps]
        self.to.value = self.to.options[0][1] if self.to.options else None
        self.go.disabled = not self.to.options
        self.told.value = "" if self.to.options else "there is no point yet"

    def _on_keep(self, button: ipywidgets.Button) -> None:
        if self.fit.running:
            self.fit.bookmark(source="user")

    def _on_go(self, button: ipywidgets.Button) -> None:
        if self.to.value is None or not self.fit.running:
            return
        try:
            self.fit.rewind(self.to.value, source="user")
        except ValueError as error:  # it was dropped meanwhile
            self._list_points()
            self.told.value = str(error)
        else:
            self.rewind.value = False

    def _on_enter(self, widget: ipywidgets.Text, content: Message, buffers: list[bytes]) -> None:
        if content.get("event") == "submit":
            self.words.value = str(content.get("words", self.words.value))
            self._on_note(self.add)

    def _on_note(self, button: ipywidgets.Button) -> None:
        words = self.words.value.strip()
        if words and self.fit.running:
            self.fit.note(words, source="user")
            self.words.value = ""

    def _on_export(self, button: ipywidgets.Button) -> None:
        suffix = next(suffix for suffix, made in self.formats.items() if made is button)
        trace = self._trace()
        if trace is None or not len(trace):
            self.said.value = "no step was recorded yet"
            return
        name = f"vitoolkit-{datetime.now():%Y-%m-%d-%H%M%S}{suffix}"
        self.download.offer(None)
        self.said.value = f"writing {name} ..."
        # In a thread: a long record takes seconds, and the fit goes on.
        threading.Thread(target=self._write, args=(trace[:], Path(name), suffix)).start()

    def _write(self, trace: Trace, path: Path, suffix: str) -> None:
        try:
            # A report of a panel shows the controls as the panel did.
            options: dict[str, Any] = {"scales": self._scales} if suffix == ".html" else {}
            written = save(trace, path, **options)
        except Exception as error:  # nobody is there to raise it to: a person reads it here
            self.said.value = self.said.tooltip = f"not written: {error}"
        else:
            where = Path(written).resolve()
            why = self.download.offer(where)
            self.said.value = f"{len(trace):,} steps are in {where}{why and f'; {why}'}"
            self.said.tooltip = str(where)
            self.saved = str(written)
            self._asked()


def _kept_as(name: str, step: int) -> str:
    """What a bookmark is called in the list; one that nobody named is called by its step."""
    return f"step {step:,}, kept" if name == f"step {step}" else f"{name} (step {step:,})"


def _paces(limit: float | None) -> list[tuple[str, float]]:
    """What can be chosen, the present limit among it."""
    limits = sorted({*_PACES, limit or _PACES[0]}, reverse=True)
    return [("full speed", FULL), *((f"{rate:,.6g} steps/s", rate) for rate in limits)]


def _button(text: str, icon: str, tip: str, act: Handler, width: int = 60) -> ipywidgets.Button:
    button = ipywidgets.Button(
        description=text, icon=icon, tooltip=tip, layout=dict(width=f"{width}px")
    )
    button.on_click(weakly(act))
    return button


def _toggle(
    text: str, icon: str, tip: str, act: Handler, width: int = 62
) -> ipywidgets.ToggleButton:
    toggle = ipywidgets.ToggleButton(
        description=text, icon=icon, tooltip=tip, layout=dict(width=f"{width}px")
    )
    toggle.observe(weakly(act), "value")
    return toggle
