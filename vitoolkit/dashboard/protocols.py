"""What the panel needs of a fit, and what arrives from a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict

import ipywidgets

from vitoolkit.controls import Control

__all__ = ["Chosen", "Fit", "Message", "Points", "Row", "Toggled"]

#: What a page sends to a widget of ours: ``kind``, and what belongs to it.
Message: TypeAlias = Mapping[str, Any]


class Bookmark(Protocol):
    """A point that somebody has kept."""

    @property
    def name(self) -> str | None:
        """Its name."""

    @property
    def step(self) -> int:
        """Its step."""


class Points(Protocol):
    """What a fit can go back to."""

    @property
    def bookmarks(self) -> Sequence[Bookmark]:
        """Those with a name, in the order they were made."""

    def steps(self) -> list[int]:
        """Those of which the state is at hand."""


class Fit(Protocol):
    """A fit as the panel sees it, be it one of vitoolkit's, of PyMC's own, or one far away.

    All that the panel asks for is asked here or of a :class:`~vitoolkit.controls.Control`; who asks
    is its `source`.
    """

    @property
    def status(self) -> str:
        """Where it stands: compiling, running, paused, finished, stopped, interrupted, failed."""

    @property
    def running(self) -> bool:
        """False when it has ended, however it ended."""

    @property
    def first(self) -> int:
        """Index of the first step of this call, over the life of the inference."""

    @property
    def step(self) -> int:
        """Index of the next step."""

    @property
    def n(self) -> int:
        """Steps asked for."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls of the fit."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the controls that no step of the fit uses."""

    @property
    def compiles(self) -> str:
        """What is compiled before the first step, in words."""

    @property
    def took_before(self) -> float | None:
        """Seconds that compiling the like took the last time, None without one."""

    @property
    def holding(self) -> str:
        """What lets it go on, "start" or "resume"; "" while nothing holds it."""

    @property
    def steps_per_second(self) -> float | None:
        """The limit in force, None without one."""

    def limit(self, steps_per_second: float | None) -> None:
        """Take no more steps a second than so many; None lifts the limit."""

    @property
    def prepared(self) -> str:
        """Whether the step was compiled or reused, in words."""

    @property
    def error(self) -> BaseException | None:
        """What ended a fit that failed."""

    @property
    def can_undo(self) -> bool:
        """Whether a change is there to be taken back."""

    def pause(self, *, source: str = "code") -> None:
        """Wait at the next step boundary."""

    def resume(self, *, source: str = "code") -> None:
        """Go on."""

    def single_step(self, *, source: str = "code") -> None:
        """Take one more step and pause again."""

    def stop(self, *, source: str = "code", why: str | None = None) -> None:
        """End at the next step boundary and keep everything."""

    def undo(self, *, source: str = "code") -> bool:
        """Take back the last change; False when there was none."""

    def note(self, text: str, *, source: str = "code") -> None:
        """Write a note at the present step."""

    @property
    def points(self) -> Points | None:
        """What it can go back to; None where it cannot."""

    def bookmark(self, name: str | None = None, *, source: str = "code") -> None:
        """Keep this point."""

    def rewind(self, to: int | str, *, source: str = "code") -> None:
        """Go back to a bookmark, or to the last checkpoint up to a step."""


class Row(Protocol):
    """What shows one control in the panel."""

    @property
    def control(self) -> Control:
        """The control that is shown, and asked."""

    @property
    def widgets(self) -> tuple[ipywidgets.Widget, ...]:
        """The outermost of its widgets; the first is shown, others may be unfolded."""

    def follow(self) -> bool:
        """Show the value in force; tell whether anything was sent."""

    def close(self) -> None:
        """Close the widgets in the page and the kernel."""


class Toggled(TypedDict):
    """A widget that is on or off has changed."""

    new: bool
    owner: ipywidgets.Widget


class Chosen(TypedDict):
    """One of several has been chosen in a widget."""

    new: float
