"""What people and code ask of a running fit: pause, single steps, stop, undo, notes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from vitoolkit.controls import Control
from vitoolkit.events import Event

__all__ = ["Steered"]

_PAUSE_SECONDS = 0.02


class Steered:
    """A running fit that heeds requests between two steps.

    Every method but :meth:`heed` may be called from any thread. What is done is an
    :class:`~vitoolkit.events.Event` in :attr:`log`, with the first step that ran with it.

    Parameters
    ----------
    controls : sequence of Control
        The controls of the fit.
    step : int
        Index of the next step.

    Attributes
    ----------
    controls : tuple of Control
    step : int
        Index of the next step.
    status : {"compiling", "running", "paused", "finished", "stopped", "interrupted", "failed"}
        Where the fit stands.
    log : list of Event
        What happened to the fit itself: pause, step, resume, stop, interrupt, note.
    asked : bool
        Whether the next step boundary has something to heed: a control's request, or one of these.
    """

    def __init__(self, controls: Sequence[Control], step: int) -> None:
        self.controls = tuple(controls)
        self.step = step
        self.status = "compiling"
        self.log: list[Event] = []
        self.asked = False
        self._stop: str | None = None
        self._interrupt: str | None = None
        self._paused: str | None = None
        self._resumed_by = "code"
        self._single: deque[str] = deque()

    @property
    def running(self) -> bool:
        """False when the fit has ended, however it ended."""
        return self.status in ("compiling", "running", "paused")

    def stop(self, *, source: str = "code") -> None:
        """End the fit at the next step boundary and keep everything."""
        self._stop, self.asked = source, True

    def interrupt(self, *, source: str = "user") -> None:
        """End the fit at the next step boundary as Ctrl-C does."""
        self._interrupt, self.asked = source, True

    def pause(self, *, source: str = "code") -> None:
        """Wait at the next step boundary until :meth:`resume` or :meth:`stop`."""
        self._paused, self.asked = source, True

    def resume(self, *, source: str = "code") -> None:
        """Go on after :meth:`pause`."""
        if self._paused is not None:
            self._single.clear()
            self._resumed_by, self._paused = source, None

    def single_step(self, *, source: str = "code") -> None:
        """Take exactly one more step and pause again; a running fit pauses first."""
        self._single.append(source)
        if self._paused is None:
            self._paused = source
        self.asked = True

    @property
    def can_undo(self) -> bool:
        """Whether a change of a control is there to be taken back."""
        return self._last_changed() is not None

    def undo(self, *, source: str = "code") -> bool:
        """Take back the last change of a control: its value, who has the wheel, its schedule.

        Once more takes back the change before that. A slider that is dragged is one change.

        Returns
        -------
        bool
            False when there was nothing to take back.
        """
        control = self._last_changed()
        return control is not None and control.undo(source=source)

    def _last_changed(self) -> Control | None:
        times = [(control.last_change, i) for i, control in enumerate(self.controls)]
        known = [(when, i) for when, i in times if when is not None]
        return self.controls[max(known)[1]] if known and self.running else None

    def note(self, text: str, *, source: str = "code") -> None:
        """Write a note at the present step.

        Parameters
        ----------
        text : str
            The words.
        source : str
            Who writes them.

        Raises
        ------
        TypeError, ValueError
            When `text` is not a string, or empty.
        RuntimeError
            When the fit has ended.
        """
        words = checked_note(text)
        if not self.running:
            raise RuntimeError(
                f"the fit has ended ({self.status}): a note belongs to a step of a running fit. "
                "trace.add_event(vitoolkit.Event(...)) adds to the record afterwards"
            )
        self.add_event("note", source, words)

    def add_event(self, kind: str, source: str, text: str | None = None) -> None:
        """Log something that happened to the fit, in force from the next step on."""
        now = time.perf_counter()
        self.log.append(Event(self.step, now, kind, source=source, text=text))

    def heed(self, idle: Callable[[], None]) -> None:
        """Do what was asked for; only the fitting thread calls this, between two steps.

        Parameters
        ----------
        idle : callable
            Called again and again while the fit is paused.

        Raises
        ------
        StopIteration
            When the fit shall end; its argument says who wants it.
        KeyboardInterrupt
            Likewise, as by Ctrl-C.
        """
        self.asked = False
        if self._paused is not None and not self._ending():
            self._wait(idle)
        if self._interrupt is not None:
            raise KeyboardInterrupt
        if self._stop is not None:
            raise StopIteration(self._stop)

    def _ending(self) -> bool:
        return self._stop is not None or self._interrupt is not None

    def _wait(self, idle: Callable[[], None]) -> None:
        if self.status != "paused":
            self.status = "paused"
            self.add_event("pause", str(self._paused))
        while self._paused is not None and not self._ending():
            if self._single:
                self.add_event("step", self._single.popleft())
                self.asked = True  # so that only one step is taken, and we are here again
                return
            for control in self.controls:
                control.advance(self.step)
            idle()
            time.sleep(_PAUSE_SECONDS)
        self.status = "running"
        if not self._ending():
            self.add_event("resume", self._resumed_by)


def checked_note(text: str) -> str:
    """Return the words of a note, or say what is wrong with them."""
    if not isinstance(text, str):
        raise TypeError(f"a note is a string, received {text!r}")
    if not text.strip():
        raise ValueError("a note needs words, received an empty string")
    return text.strip()
