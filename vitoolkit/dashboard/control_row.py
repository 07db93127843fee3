"""One control in the panel: a slider, its number box, who has the wheel, and its schedule."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from vitoolkit.controls import Beta, Control, Draws
from vitoolkit.dashboard.lifetime import close_widgets, weakly
from vitoolkit.dashboard.protocols import Message
from vitoolkit.views.assets import CONTROL_CSS, page_code
from vitoolkit.views.names import plain

__all__ = ["ControlRow", "slider_range"]


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


class RowWidget(anywidget.AnyWidget):
    """The page's side of a row. It shows `state`, and says by message what a hand does."""

    _esm = page_code("control")
    _css = CONTROL_CSS
    spec = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)


class ControlRow:
    """Slider, number box and auto/manual switch of one control.

    What a person moves becomes a request on the control. What the control does by itself is
    shown by :meth:`follow`; the page never sends back what it is shown, and leaves alone what a
    person has in hand.

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
        self._lock = threading.RLock()  # a person's move may come in another thread
        self._unused = False
        self._heard = ""
        self._ends = slider_range(control.bounds, control.value, control.scale)
        low, high = self._ends
        scale = control.scale
        if isinstance(control, Draws):
            scale = "whole"
        elif isinstance(control, Beta) and low == 0 and high > 1:
            scale = "weight"
        bounds = " to ".join(map(_number, control.bounds))
        self.widget = RowWidget(
            spec={
                "name": plain(control.name),
                "scale": scale,
                "words": f"{control.name}, from {bounds}",
            },
            state=self._state(),
        )
        self.widget.on_msg(weakly(self._on_page))

    def follow(self) -> bool:
        """Show the value in force; returns whether anything was sent."""
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

    def show_unused(self) -> None:
        """Say that no step of the fit uses the control, and take the handles away."""
        self._unused = True
        self.follow()

    def close(self) -> None:
        """Close the widget in the page and the kernel."""
        close_widgets(self.widgets)

    # --- a person ---------------------------------------------------------------------------

    def _on_page(self, widget: RowWidget, content: Message, buffers: list[bytes]) -> None:
        kind = content.get("kind")
        if kind == "set":
            self._ask(content["value"], str(content["number"]))
        elif kind == "wheel":
            with self._lock:
                if content["auto"]:
                    self.control.release(source="user")
                else:
                    self.control.set(self.control.value, source="user")
                self._complain("")
                self.follow()
        elif kind in ("preview", "reschedule"):
            self._answer(content, apply=kind == "reschedule")

    def _ask(self, value: float, number: str) -> None:
        with self._lock:
            try:
                self.control.set(value, source="user")
            except (TypeError, ValueError) as error:
                self._complain(str(error).replace(self.control.name, plain(self.control.name)))
            else:
                self._complain("")
            self._heard = number
            self.follow()

    def _answer(self, content: Message, *, apply: bool) -> None:
        """Say what shape the schedule would have, or why it cannot; or give it that shape."""
        course: dict[str, Any] = {"end": content.get("end"), "steps": content.get("steps")}
        answer: dict[str, Any] = {"kind": "preview", "number": content.get("number")}
        try:
            answer["values"] = self.control.preview(**course).tolist()
            if apply:
                self.control.reschedule(**course, source="user")
                answer["applied"] = True
        except (TypeError, ValueError) as error:
            answer["error"] = str(error)
        self.widget.send(answer)
        self.follow()

    # --- what the page shows ----------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        control, schedule = self.control, self.control.schedule
        value = control.requested
        low, high = self._ends
        if not low <= value <= high:  # without bounds: it makes room
            ends = slider_range(control.bounds, value, control.scale)
            low, high = self._ends = min(low, ends[0]), max(high, ends[1])
        who, why = self._wheel()
        return {
            "value": value,
            "low": low,
            "high": high,
            "who": who,
            "why": why,
            "can": control.follows and not self._unused,
            "schedule": schedule and {"end": schedule.end, "steps": schedule.steps},
            "heard": self._heard,
            "suggestion": getattr(control, "suggestion", None),
        }

    def _wheel(self) -> tuple[str, str]:
        """Who has the wheel, and in words what that means."""
        control = self.control
        law = "rule" if control.schedule is None else "schedule"
        if self._unused:
            return "not used", "is used by no step of this fit: moving it would do nothing"
        if not control.follows:
            return "manual" if control.manual else "constant", "has no schedule and no rule"
        if control.manual:
            return "manual", f"holds your value; press to follow the {law} again"
        return "auto", f"follows its {law}; press to hold the value"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("inf", "∞")
