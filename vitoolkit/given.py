"""What a fit was asked for, as far as a file can hold it, and made again of what is there."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from pymc.variational import updates

from vitoolkit import penalties, schedules
from vitoolkit.checks import shown
from vitoolkit.controls import Beta, Control, Draws, LearningRate
from vitoolkit.plain import from_plain, to_plain
from vitoolkit.recover import Recover

__all__ = ["again", "told"]

_CONTROLS = {"Beta": Beta, "LearningRate": LearningRate, "Draws": Draws, "Control": Control}
AGAIN = "__again__"


def told(value: Any) -> Any:
    """What JSON can hold of an option; of what it cannot, that it has to be given again.

    Parameters
    ----------
    value : object
        A number, a string, an array, a list or dict of these, a schedule of vitoolkit, a control
        without a rule, an optimizer of PyMC. Anything else has to be given again.

    Examples
    --------
    >>> from vitoolkit import penalties, schedules
    >>> told({"z": schedules.linear(0.0, 1.0, steps=100)})
    {'z': {'__schedule__': 'linear(0.0, 1.0, steps=100)'}}
    >>> again(told([1, None, "auto"]))
    [1, None, 'auto']
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return to_plain(value, lambda array: {AGAIN: shown(array)})
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: told(item) for key, item in value.items()}
    if isinstance(value, schedules.Schedule) and _can_be_read(value):
        return {"__schedule__": repr(value)}
    if isinstance(value, Control):
        return _control(value)
    if isinstance(value, penalties.Penalty) and value.name in penalties.__all__:
        options = {name: told(option) for name, option in vars(value).items() if name != "level"}
        return {"__penalty__": value.name, "level": told(value.level), "options": options}
    if isinstance(value, Recover):
        return {"__recover__": vars(value)}
    if callable(value) and not isinstance(value, type):
        function = getattr(value, "func", value)
        name = getattr(function, "__name__", "")
        keywords = dict(getattr(value, "keywords", {}))
        plain = all(isinstance(item, bool | int | float | None) for item in keywords.values())
        if name in updates.__all__ and getattr(updates, name) is function and plain:
            if not getattr(value, "args", ()):
                return {"__optimizer__": name, "keywords": keywords}
    return {AGAIN: shown(value)}


def _control(control: Control) -> dict[str, Any]:
    schedule = control.schedule
    kind = type(control).__name__
    if control.rule is not None or _CONTROLS.get(kind) is not type(control):
        return {AGAIN: shown(control)}
    if schedule is not None and not _can_be_read(schedule):
        return {AGAIN: shown(control)}
    number = int if kind == "Draws" else float
    fields: dict[str, Any] = {"__control__": kind, "value": number(control.value)}
    fields |= {"bounds": [number(bound) for bound in control.bounds], "scale": control.scale}
    if not isinstance(control, Beta) or control.named:
        fields["name"] = control.name
    if schedule is not None:
        fields["schedule"] = repr(schedule)
    return fields


def _can_be_read(schedule: schedules.Schedule) -> bool:
    try:
        schedules.parse(repr(schedule))
    except ValueError:
        return False
    return True


def again(value: Any, name: str = "an option") -> Any:
    """Make what :func:`told` has told of; only what it can tell is made, and nothing is run.

    Raises
    ------
    TypeError
        When it has to be given again.
    """
    if isinstance(value, list):
        return [again(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    if AGAIN in value:
        raise TypeError(
            f"{name} was {value[AGAIN]}, which no file can hold: give {name}= again, as it was"
        )
    if "__array__" in value:
        return from_plain(value)
    if "__schedule__" in value:
        return schedules.parse(value["__schedule__"])
    if "__recover__" in value:
        return Recover(**value["__recover__"])
    if "__control__" in value:
        fields = dict(value)
        kind = _CONTROLS[fields.pop("__control__")]
        fields["bounds"] = tuple(fields["bounds"])
        if kind is not Control:
            fields.pop("scale")
        if "schedule" in fields:
            fields["schedule"] = schedules.parse(fields["schedule"])
        return kind(**fields)
    if "__penalty__" in value:
        if value["__penalty__"] not in ("capacity", "free_bits"):
            raise ValueError(f"{value['__penalty__']!r} is no penalty of vitoolkit's")
        make = getattr(penalties, value["__penalty__"])
        found = {key: item for key, item in value["options"].items() if item is not None}
        return make(again(value["level"], name), **found)
    if "__optimizer__" in value:
        if value["__optimizer__"] not in updates.__all__:
            raise ValueError(f"{value['__optimizer__']!r} is no optimizer of PyMC's")
        optimizer = getattr(updates, value["__optimizer__"])
        return functools.partial(optimizer, **value["keywords"]) if value["keywords"] else optimizer
    return {key: again(item, name) for key, item in value.items()}
