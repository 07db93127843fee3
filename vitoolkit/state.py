"""Everything the coming steps of a run depend on, at one moment: to write down, and to go back to.

That is what a step changes (parameters, the optimizer's state, random generators, the place in a
minibatch), where each control stands: its value, who has the wheel, its schedule, what its rule
has learned; and what the callbacks have seen that decide something, such as the end of the fit.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from vitoolkit import schedules
from vitoolkit.checkpoint import Checkpoint
from vitoolkit.controls import Control
from vitoolkit.plain import from_plain, to_plain
from vitoolkit.rules.rule import Mean

__all__ = ["State"]


class State(NamedTuple):
    """A run at a step boundary.

    Attributes
    ----------
    step : int
        Index of the next step.
    checkpoint : Checkpoint
        What a step changes.
    controls : dict
        What :meth:`Control.standing` told of each control, by name.
    callbacks : dict
        What :meth:`Callback.standing` told, by kind and place among those of its kind.
    """

    step: int
    checkpoint: Checkpoint
    controls: dict[str, dict[str, Any]]
    callbacks: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, run: Any) -> State:
        """What is there now; only the fitting thread calls this, between two steps."""
        standing = {control.name: control.standing() for control in run.controls}
        told = {name: found for name, c in _named(run.own) if (found := c.standing())}
        return cls(run.step, Checkpoint.of(run.inference.step_function.state), standing, told)

    def put_back(self, step_function: Any, controls: Iterable[Control]) -> None:
        """Be there again. Controls that the state does not know are left alone.

        Raises
        ------
        ValueError
            When the step function, or what moves a control, is another; nothing has changed then.
        """
        self.checkpoint.check(step_function.state)
        known = [(c, self.controls[c.name]) for c in controls if c.name in self.controls]
        standing = [(control, _with_schedule(control, found)) for control, found in known]
        self.checkpoint.restore(step_function.state)
        for control, found in standing:
            control.stand(copy.deepcopy(found))

    def put_back_callbacks(self, run: Any) -> None:
        """Tell the callbacks of a run what was told of each; {} to those that are not known."""
        for name, callback in _named(run.own):
            callback.stand(run, copy.deepcopy(self.callbacks.get(name, {})))
        run.renew_due()

    def controls_to_json(self) -> str:
        """Where controls and callbacks stand, as text."""
        told = {"controls": self.controls, "callbacks": self.callbacks}
        return json.dumps(to_plain(told, _stand_in))

    @classmethod
    def read(cls, step: int, data: bytes, controls: str) -> State:
        """The state of what ``checkpoint.to_bytes`` and :meth:`controls_to_json` gave."""
        told = from_plain(json.loads(controls), _meant)
        return cls(step, Checkpoint.from_bytes(data), told["controls"], told["callbacks"])


def _named(callbacks: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Callbacks by kind and place, as a process to come can name them, too."""
    seen: Counter[str] = Counter()
    for callback in callbacks:
        kind = type(callback).__name__
        yield f"{kind} {seen[kind]}", callback
        seen[kind] += 1


def _with_schedule(control: Control, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was read, with the schedule that a text stands for."""
    text = found["schedule"]
    own = control.schedule
    rule = None if control.rule is None else type(control.rule).__name__
    if rule != found["rule"]:
        raise ValueError(
            f"{control.name!r} was moved by the rule {found['rule']}, and is given {rule} here: "
            "give it the same again"
        )
    if control.rule is not None:
        found = {**found, "learned": _learned(control, found["learned"])}
    if not isinstance(text, str):
        return dict(found)
    if own is not None and repr(own) == text:
        return {**found, "schedule": own}
    try:
        return {**found, "schedule": schedules.parse(text)}
    except ValueError as error:
        raise ValueError(
            f"{control.name!r} was on the schedule {text}, a function that no file can hold, and "
            f"is on {own!r} here: give it the same again"
        ) from error


def _learned(control: Control, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule has learned, with its functions, which no file can hold, as they are here."""
    here = vars(control.rule)
    learned = {}
    for name, value in found.items():
        if isinstance(value, Unwritten):
            if not callable(here.get(name)):
                raise ValueError(
                    f"the rule of {control.name!r} has a {value.kind} as {name!r}, which no file "
                    "can hold: numbers, strings, arrays, and lists and dicts of them can be kept"
                )
            value = here[name]
        learned[name] = value
    return learned


def _stand_in(value: Any) -> Any:
    """What stands in a file for a value that JSON does not know."""
    if isinstance(value, schedules.Schedule):
        return repr(value)
    if isinstance(value, Mean):
        return {"__mean__": [to_plain(item, _stand_in) for item in vars(value).values()]}
    return {"__unwritten__": type(value).__name__}


def _meant(item: dict[str, Any]) -> Any:
    if "__mean__" in item:
        mean = Mean()
        for name, value in zip(vars(mean), item["__mean__"], strict=True):
            setattr(mean, name, value)
        return mean
    if "__unwritten__" in item:
        return Unwritten(item["__unwritten__"])
    return item


class Unwritten(NamedTuple):
    """Stands for a value that no file can hold."""

    kind: str
