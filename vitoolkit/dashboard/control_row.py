"""One control in the panel: a slider, its number box, and who has the wheel."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

import ipywidgets

from vitoolkit.controls import Control
from vitoolkit.dashboard.lifetime import close_widgets, weakly
from vitoolkit.dashboard.protocols import Moved, Toggled

__all__ = ["ControlRow", "slider_range"]

#: Seconds after a person's last move in which the row is left as it is.
QUIET = 1.0
#: Seconds in which the page sends back what it was shown, at the latest.
ECHO = 2.0
#: Seconds between two moves of a slider that follows its schedule.
PACE = 0.25


def slider_range(
    bounds: tuple[float, float], value: float, scale: str = "linear"
) -> tuple[float, float]:
    """Return the ends of a slider: the bounds where finite, else a range around the value.

    Examples
    --------
    >>> slider_range((0.0, 10.0), 1.0)
    (0.0, 10.0)
    >>> slider_range((0.0, float("inf")), 3.0)
    (0.0, 30.0)
    >>> slider_range((1e-9, float("inf")), 1e-3, "log")
    (1e-09, 1.0)
    """
    low, high = bounds
    if scale == "log":
        value = max(value, low, 1e-300)
        low = max(low, value / 1e6) if low < value / 1e12 else low
        return low, high if math.isfinite(high) else max(value, low) * 1e3
    reach = 10 * max(abs(value), abs(low) if math.isfinite(low) else 0.0, 0.1)
    return (
        low if math.isfinite(low) else min(-reach, value),
        high if math.isfinite(high) else max(reach, value),
    )


class ControlRow:
    """Slider, number box and auto/manual switch of one control.

    What a person moves becomes a request on the control. What the control does by itself is
    shown by :meth:`follow`, which never turns into a request and never moves what a person has
    in hand.

    Parameters
    ----------
    control : Control
        The control.
    complain : callable
        Called with the text of a refusal, and with "" when all is well again.
    """

    def __init__(self, control: Control, complain: Callable[[str], None]) -> None:
        self.control = control
        self._complain = complain
        self._lock = threading.RLock()
        self._writer: int | None = None
        self._unused = False
        self._moved = self._followed = -math.inf
        #: Values shown on the slider of late, and until when the page may send each back.
        self._shown: deque[tuple[float, float]] = deque(maxlen=16)
        kind = ipywidgets.FloatLogSlider if self._log else ipywidgets.FloatSlider
        low, high, step = self._range(control.value)
        self.slider = kind(
            value=min(max(control.value, self._value(low)), self._value(high)),
            min=low,
            max=high,
            step=step,
            readout=False,
            layout=dict(flex="4 1 80px", min_width="80px"),
        )
        self.box = ipywidgets.FloatText(
            value=_rounded(control.value), continuous_update=False, layout=dict(width="78px")
        )
        self.auto = ipywidgets.ToggleButton(layout=dict(width="70px"))
        self.auto.add_class("vitoolkit-wheel")
        self.label = ipywidgets.Label(
            control.name,
            layout=dict(flex="1 1 124px", min_width="60px", max_width="220px"),
            tooltip=f"{control.name}, from {' to '.join(map(_number, control.bounds))}",
        )
        self.label.add_class("vitoolkit-name")
        self.ends = [ipywidgets.Label(layout=dict(width="34px")) for _ in range(2)]
        for label, side in zip(self.ends, ("low", "high"), strict=True):
            label.add_class(f"vitoolkit-{side}")
        self.edit = ipywidgets.ToggleButton(
            icon="pencil",
            tooltip="give its schedule another end or length",
            layout=dict(
                width="20px", margin="2px 0", visibility="visible" if control.schedule else "hidden"
            ),
        )
        self.edit.add_class("vitoolkit-edit")
        self.edit.observe(weakly(self._on_edit), "value")
        self._line = ipywidgets.HBox(
            [self.label, self.ends[0], self.slider, self.ends[1], self.box, self.auto, self.edit],
            layout=dict(flex_flow="row wrap", align_items="center", width="100%"),
        )
        self.end = ipywidgets.FloatText(layout=dict(width="92px"))
        self.steps = ipywidgets.IntText(layout=dict(width="104px"))
        self.apply = ipywidgets.Button(
            description="Apply",
            tooltip="from the present value to this end, reached at this step",
            layout=dict(width="74px"),
        )
        self.apply.on_click(weakly(self._on_apply))
        words = [ipywidgets.Label(text) for text in ("goes to", "at step")]
        self._editor = ipywidgets.HBox(
            [words[0], self.end, words[1], self.steps, self.apply],
            layout=dict(flex_flow="row wrap", align_items="center", justify_content="flex-end"),
        )
        self.widget = ipywidgets.VBox([self._line])
        self._move_slider(control.value)
        self._show_wheel(control.manual)
        self.slider.observe(weakly(self._on_slider), "value")
        self.box.observe(weakly(self._on_box), "value")
        self.auto.observe(weakly(self._on_auto), "value")

    def follow(self, *, held: bool = False) -> bool:
        """Show the value in force, unless a person is at it; returns whether anything was sent."""
        now = time.monotonic()
        if held or now - self._moved < QUIET or now - self._followed < PACE:
            return False
        with self._lock:
            control = self.control
            value = control.value if control.pending is None else control.pending
            if self._shows(value) and self.auto.value == self._on_schedule(control.manual):
                return False
            self._followed = now
            self._write(value, control.manual)
        return True

    def settle(self) -> None:
        """Show the value in force, whatever a person has in hand: the fit has ended."""
        self._moved = self._followed = -math.inf
        self.follow()

    @property
    def widgets(self) -> tuple[ipywidgets.Widget, ...]:
        """The outermost of its widgets."""
        return self.widget, self._editor

    def show_unused(self) -> None:
        """Say that no step of the fit uses the control, and take the handles away."""
        self._unused = True
        for widget in (self.slider, self.box, self.auto, self.edit):
            widget.disabled = True
            widget.tooltip = "no step of this fit uses it: moving it would do nothing"
        self.auto.description, self.auto.value = "not used", False

    def close(self) -> None:
        """Close the widgets in the page and the kernel."""
        close_widgets(self.widgets)

    # --- a person ---------------------------------------------------------------------------

    def _on_slider(self, change: Moved) -> None:
        if self._mine():
            return
        if self._echoes(change["new"], change["old"]):
            return
        self._shown.clear()
        low, high = self.control.bounds
        self._ask(min(max(change["new"], low), high), self.slider)

    def _on_box(self, change: Moved) -> None:
        if not self._mine():
            self._ask(change["new"], self.box)

    def _on_auto(self, change: Toggled) -> None:
        if self._mine():
            return
        with self._lock:
            self._moved = -math.inf
            if change["new"]:
                self.control.release(source="user")
            else:
                self.control.set(self.control.value, source="user")
            self._complain("")
            self._writing(self._show_wheel, not change["new"])

    def _on_edit(self, change: Toggled) -> None:
        if not change["new"]:
            self.widget.children = (self._line,)
            return
        schedule = self.control.schedule
        if schedule is not None and schedule.steps and schedule.end is not None:
            self.end.value, self.steps.value = _rounded(schedule.end), schedule.steps
        self.widget.children = (self._line, self._editor)

    def _on_apply(self, button: ipywidgets.Button) -> None:
        try:
            self.control.reschedule(end=self.end.value, steps=self.steps.value, source="user")
        except (TypeError, ValueError) as error:
            self._complain(str(error))
            return
        self._complain("")
        self._moved = -math.inf
        self.edit.value = False

    def _ask(self, value: float, by: ipywidgets.Widget) -> None:
        with self._lock:
            self._moved = time.monotonic()
            try:
                self.control.set(value, source="user")
            except (TypeError, ValueError) as error:
                self._complain(str(error))
                self._writing(setattr, by, "value", _rounded(self.control.value))
                return
            self._complain("")
            self._write(value, True, but=by)

    # --- the widgets ------------------------------------------------------------------------

    def _write(self, value: float, manual: bool, but: ipywidgets.Widget | None = None) -> None:
        def write() -> None:
            if but is not self.slider:
                self._move_slider(value)
            if but is not self.box:
                self.box.value = _rounded(value)
            self._show_wheel(manual)

        self._writing(write)

    def _writing(self, act: Callable[..., None], *args: object) -> None:
        self._writer = threading.get_ident()
        try:
            act(*args)
        finally:
            self._writer = None

    def _mine(self) -> bool:
        """Whether a change comes from this row; a person's may come in another thread meanwhile."""
        return self._writer == threading.get_ident()

    def _shows(self, value: float) -> bool:
        return self.box.value in (value, _rounded(value))

    @property
    def _log(self) -> bool:
        return self.control.scale == "log"

    def _position(self, value: float) -> float:
        """Position of a value along the slider."""
        return math.log10(max(value, 1e-300)) if self._log else value

    def _value(self, position: float) -> float:
        return 10.0**position if self._log else position

    def _range(self, value: float) -> tuple[float, float, float]:
        """Ends and step of the slider, as positions, with room for a value."""
        ends = slider_range(self.control.bounds, value, self.control.scale)
        low, high = map(self._position, ends)
        return low, high, (high - low) / (400 if self._log else 500)

    def _move_slider(self, value: float) -> None:
        """Put the slider on the point of its grid next to a value, making room where there is none.

        A slider in the page goes to its grid by itself and reports that as a move, unless it is
        there: hence the very arithmetic of noUiSlider, which counts in percent.
        """
        at, slider = self._position(value), self.slider
        with slider.hold_sync():  # a new range around the old value would be a move, too
            if not slider.min <= at <= slider.max:
                low, high, slider.step = self._range(value)
                slider.min, slider.max = min(low, slider.min), max(high, slider.max)
            width = slider.max - slider.min
            percent = slider.step * 100 / width
            at = round((at - slider.min) * 100 / width / percent) * percent
            shown = self._value(slider.max if at >= 100 else at * width / 100 + slider.min)
            self._shown.append((shown, time.monotonic() + ECHO))
            slider.value = shown
        for label, end in zip(self.ends, (slider.min, slider.max), strict=True):
            label.value = _number(self._value(end))

    def _echoes(self, new: float, old: float) -> bool:
        """Whether a value is what the page was shown, as rounded by a browser's own powers of ten.

        The page does not send back the very number, so that is a person's.
        """
        now, near = time.monotonic(), 0.01 * self.slider.step
        shown = [old] + [value for value, until in self._shown if now < until]
        at = self._position(new)
        return any(new != value and abs(at - self._position(value)) < near for value in shown)

    def _on_schedule(self, manual: bool) -> bool:
        return self.control.follows and not manual

    def _show_wheel(self, manual: bool) -> None:
        if self._unused:
            return
        auto, law = (
            self._on_schedule(manual),
            "rule" if self.control.schedule is None else "schedule",
        )
        self.auto.value = auto
        self.auto.disabled = not self.control.follows
        self.auto.description = "auto" if auto else "manual" if manual else "constant"
        self.auto.tooltip = (
            "no schedule and no rule to follow"
            if self.auto.disabled
            else f"follows its {law}; press to hold the value"
            if auto
            else f"holds your value; press to follow the {law} again"
        )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _number(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("inf", "∞")
