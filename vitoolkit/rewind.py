"""The way back to the last finite step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vitoolkit.checkpoint import Checkpoint, all_finite
from vitoolkit.step_function import StepFunction

__all__ = ["Culprit", "Rewind"]

_SHARE = 100  # a checkpoint may take one part in this of the time
_LEAST_SECONDS = 0.005
#: Most bytes of data that calls have read, and others have replaced since, that are kept.
_MOST_BYTES = 1 << 26


class Culprit(NamedTuple):
    """The step after which something was not finite.

    Attributes
    ----------
    step : int
        The parameters are back where they were before it.
    exact : bool
        False when that is a step before the one in question: what a step reads was changed in
        place, so that the steps since the last checkpoint could not be taken again.
    generators : dict
        States of the random generators after that step, by name.
    spoiled : dict
        Which parameters it left without a finite value: places in flat order, by the number of the
        parameter.
    """

    step: int
    exact: bool
    generators: Mapping[str, Any] = {}
    spoiled: Mapping[int, list[int]] = {}


class _Call(NamedTuple):
    """A call that was made: what it was given and what it read, and the losses it gave."""

    values: np.ndarray
    read: list[object]
    loss: np.ndarray


class Rewind:
    """A recent checkpoint, and the calls since with all that they read.

    The steps since the checkpoint are taken again to find the one that spoiled the parameters. They
    are the same steps only if they read the same: the data that a call read is kept, as it may have
    been replaced since, and parameters that somebody else wrote are a new checkpoint. Whether the
    steps are the same is seen by their losses.

    Parameters
    ----------
    step : StepFunction
        Takes the steps.
    """

    def __init__(self, step: StepFunction) -> None:
        self._step = step
        self._read = [variable.container.storage for variable in step.reads]
        self._save(time.perf_counter())

    def start_again(self) -> None:
        """Somebody has put another state in place: that is the one to go back to."""
        self._save(time.perf_counter())

    def _save(self, now: float) -> None:
        self._checkpoint = Checkpoint.of(self._step.state)
        self._calls: list[_Call] = []
        self._bytes, self._last_read = 0, self._reading()
        self._next_step: int | None = None
        self._left = self._step.marks()
        self._due = now + max(_LEAST_SECONDS, _SHARE * (time.perf_counter() - now))

    def _reading(self) -> list[object]:
        return [storage[0] for storage in self._read]

    def before(self) -> None:
        """Note what the coming call reads."""
        if self._step.marks() != self._left:  # somebody wrote a parameter since the last call
            self._save(time.perf_counter())
        read = self._reading()
        for now, then in zip(read, self._last_read, strict=True):
            if now is not then:
                self._bytes += getattr(then, "nbytes", 0)
        self._last_read = read

    def taken(self, values: np.ndarray, loss: np.ndarray, next_step: int) -> None:
        """Note steps that were taken with these values of the controls, and their losses."""
        self._calls.append(_Call(values, self._last_read, np.array(loss)))
        self._next_step = next_step
        self._left = self._step.marks()

    def save_when_due(self, now: float) -> None:
        """Start afresh from here, unless that was just done or something is not finite."""
        if (now > self._due or self._bytes > _MOST_BYTES) and self.finite():
            self._save(now)

    def finite(self) -> bool:
        """Whether parameters and the optimizer's state are, ±inf included."""
        return all_finite(v.get_value(borrow=True) for v in self._step.state.values())

    def to_last_finite(self) -> Culprit:
        """Go back to where everything was still finite, and tell which step ended that."""
        present = self._reading()
        try:
            return self._replayed()
        finally:
            self._put(present)

    def _put(self, values: list[object]) -> None:
        for storage, value in zip(self._read, values, strict=True):
            storage[0] = value

    def _replayed(self) -> Culprit:
        state = self._step.state
        self._checkpoint.restore(state)
        assert self._next_step is not None
        first = step = self._next_step - sum(len(call.values) for call in self._calls)
        for call in self._calls:
            self._put(call.read)
            for values, known in zip(call.values, call.loss, strict=True):
                before = Checkpoint.of(state)
                loss = self._step(values[None])[0, 0]
                if not np.isclose(loss, known, rtol=1e-6, equal_nan=True):
                    self._checkpoint.restore(state)
                    return Culprit(first, exact=False)
                if np.isnan(loss) or not self.finite():
                    after = Checkpoint.of(self._step.state)
                    before.restore(state)
                    # What somebody wrote was spoiled before, and has spoiled the rest.
                    spoiled = _spoiled(before) or _spoiled(after)
                    return Culprit(step, True, _generators(after), spoiled)
                step += 1
        return Culprit(step - 1, exact=True)


def _generators(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: saved for name, saved in checkpoint.values.items() if isinstance(saved, dict)}


def _spoiled(checkpoint: Checkpoint) -> dict[int, list[int]]:
    found = {}
    for name, saved in checkpoint.values.items():
        if name.startswith("parameter[") and saved.dtype.kind == "f":
            places = np.flatnonzero(~np.isfinite(saved)).tolist()
            if places:
                found[int(name[len("parameter[") : -1])] = places
    return found
