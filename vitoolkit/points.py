"""Points of a fit that it can go back to: bookmarks, and others that are taken now and then."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from vitoolkit.checks import shown, whole_number
from vitoolkit.requests import Request
from vitoolkit.state import State

__all__ = ["Point", "Points"]

#: Most points that are taken without being asked for; when there are more, every second one goes.
MOST = 32
#: Most bytes that those may have together.
BYTES = 1 << 26
#: Taking them has at most one part in this of the time.
SHARE = 400


class Point:
    """A moment that a fit can go back to.

    Attributes
    ----------
    state : State
        Everything that the coming steps depend on.
    turns : int
        How often the fit had gone back before.
    name : str or None
        Of a bookmark.
    """

    def __init__(self, state: State, turns: int, name: str | None = None) -> None:
        self.state, self.turns, self.name = state, turns, name

    step = property(lambda self: self.state.step)

    def __repr__(self) -> str:
        return f"<Point of step {self.step:,}{'' if self.name is None else f': {self.name!r}'}>"


class Shelf(Protocol):
    """Where more points are kept, such as a journal."""

    def state_at(self, step: int) -> State | None:
        """The last state up to a step, None without one."""

    def saved_steps(self) -> list[int]:
        """Steps of the states that there are."""


class Points:
    """What a fit can go back to, over the whole life of its inference.

    A fit that goes back leaves its steps behind, and with them the points there; a bookmark stays,
    and to go back to it is to be on its line of steps again.

    Attributes
    ----------
    bookmarks : list of Point
        Points with a name, in the order they were made; none is ever dropped.
    turns : list of int
        For each time that the fit has gone back, the first step that it left behind.
    shelf : Shelf or None
        Where more points are kept.
    """

    def __init__(self) -> None:
        self.bookmarks: list[Point] = []
        self.turns: list[int] = []
        self.shelf: Shelf | None = None
        self._kept: list[Point] = []
        self._recent: list[Point] = []
        self._apart, self._next, self._free = 1, 0, 0.0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shelf": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _free=0.0)

    # --- what the fitting thread does -------------------------------------------------------------

    def look(self, run: Any) -> None:
        """Take a point at a step boundary, if there are enough steps and seconds since the last.

        What a callback has asked for at this very step would be missing in it.
        """
        if run.step >= self._next and time.perf_counter() >= self._free:
            if not run.inbox.waiting():
                self.take(run)

    def take(self, run: Any) -> None:
        """Take a point."""
        begun = time.perf_counter()
        variables = run.inference.step_function.state.values()
        arrays = [variable.get_value(borrow=True) for variable in variables]
        size = sum(getattr(array, "nbytes", 0) for array in arrays)
        most = min(MOST, BYTES // max(size, 1))
        if most < 2:  # so large that only what somebody asks for is copied
            return
        state = State.of(run)
        if state.checkpoint.finite():
            with self._lock:
                self._recent.append(Point(state, len(self.turns)))
                while len(self._recent) > most:
                    del self._recent[1::2]
                    self._apart *= 2
        self._next = run.step + self._apart
        now = time.perf_counter()
        self._free = now + SHARE * (now - begun)

    def keep(self, run: Any, name: str | None = None) -> Point:
        """Take a point that is never dropped."""
        taken = {point.name for point in self.bookmarks}
        number, wanted = 2, name
        while name is not None and name in taken:
            name, number = f"{wanted} ({number})", number + 1
        point = Point(State.of(run), len(self.turns), name)
        with self._lock:
            (self._kept if name is None else self.bookmarks).append(point)
        return point

    def turned(self, step: int, turns: int) -> int:
        """Note that the fit goes back to a step, when it had gone back so often.

        Returns
        -------
        int
            The first step that is left behind, or was on another line of steps.
        """
        common = min([step, *self.turns[turns:]])
        with self._lock:
            self.turns.append(common)
            for points in (self._recent, self._kept):
                points[:] = [point for point in points if point.step <= common]
        self._next = step + self._apart
        return common

    # --- what any thread asks ---------------------------------------------------------------------

    def here(self) -> list[Point]:
        """The points in memory on the present line of steps, by step."""
        with self._lock:
            bookmarks = [
                p for p in self.bookmarks if min(self.turns[p.turns :] or [p.step]) >= p.step
            ]
            return sorted([*self._recent, *self._kept, *bookmarks], key=lambda point: point.step)

    def steps(self) -> list[int]:
        """Steps that can be gone back to without a name."""
        saved = [] if self.shelf is None else self.shelf.saved_steps()
        return sorted({*saved, *(point.step for point in self.here())})

    def find(self, to: Any) -> Point:
        """The bookmark of a name, or the last point up to a step.

        Raises
        ------
        TypeError, ValueError
            When it is neither a name nor a step, or there is no such point; the message lists those
            that there are.
        """
        if isinstance(to, str):
            for point in self.bookmarks:
                if point.name == to:
                    return point
            names = ", ".join(repr(point.name) for point in self.bookmarks) or "none"
            raise ValueError(f"there is no bookmark {to!r}; there are {names}")
        step = whole_number("step", to, least=0)
        early = [point for point in self.here() if point.step <= step]
        found = early[-1] if early else None
        saved = None if self.shelf is None else self.shelf.state_at(step)
        if saved is not None and (found is None or saved.step > found.step):
            found = Point(saved, len(self.turns))
        if found is None:
            known = ", ".join(f"{known:,}" for known in self.steps()) or "none"
            raise ValueError(
                f"there is no checkpoint up to step {step:,}; there are those of step {known}"
            )
        return found

    def checked(self, request: Request, step_function: Any) -> Request:
        """Check a request of a "rewind" or "bookmark", and find out where it goes.

        Raises
        ------
        TypeError, ValueError
            When it cannot be done; the message says why.
        """
        if request.kind == "bookmark":
            return request._replace(text=self._free_name(request.text))
        if (request.value is None) == (request.text is None):
            raise ValueError(
                "a rewind goes to a step, or to the name of a bookmark: received "
                f"{shown(request.value)} and {shown(request.text)}"
            )
        if step_function is None:
            raise ValueError("the fit has taken no step yet: there is nothing to go back to")
        point = self.find(request.value if request.text is None else request.text)
        point.state.checkpoint.check(step_function.state)
        return request._replace(point=point)

    def _free_name(self, name: Any) -> str | None:
        """A name that a bookmark can have; None to be named by its step."""
        if name is None:
            return None
        if not isinstance(name, str):
            raise TypeError(f"the name of a bookmark is a string, received {shown(name)}")
        name = name.strip()
        if not name:
            raise ValueError("a bookmark needs a name, received an empty string")
        if any(point.name == name for point in self.bookmarks):
            raise ValueError(f"there is a bookmark {name!r} already: give this one another name")
        return name
