"""A recorded run as a Python script: one ``vitoolkit.fit``, and the changes at their steps."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pymc.variational import updates

from vitoolkit import penalties, rules, schedules
from vitoolkit.events import Event
from vitoolkit.options import FIT_OPTIONS
from vitoolkit.requests import HOLDS, POINTS
from vitoolkit.table import Table

__all__ = ["script_of"]

_METHODS = {"ADVI": "advi", "FullRankADVI": "fullrank_advi"}
_QUALIFIED = {
    **{name: f"vt.rules.{name}" for name in rules.__all__},
    **{name: f"vt.schedules.{name}" for name in schedules.__all__},
    **{name: f"vt.penalties.{name}" for name in penalties.__all__},
    **{name: f"vt.{name}" for name in ("Beta", "LearningRate", "Draws", "Control")},
}
#: Names that the script has for other things.
_TAKEN = ("changes", "fit", "inference", "model", "pm", "recorded", "vt", "weights")
_CALL = re.compile(rf"\b({'|'.join(_QUALIFIED)})\(")


def script_of(trace: Table) -> str:
    """Write the script of a run; see :meth:`vitoolkit.Trace.to_script`."""
    recorded = trace.attrs.get("fingerprint")
    if not recorded or "seed" not in recorded:
        raise ValueError(
            "this trace does not say what was fitted: a script is written of a fit of vitoolkit's "
            "own, not of one of PyMC's or of one recorded before there were fingerprints"
        )
    made = {
        name.removeprefix("control[").removesuffix("]"): text.removesuffix(", manual")
        for name, text in recorded.items()
        if name.startswith("control[") and not text.startswith("Switch(")
    }
    names = _identifiers(made)
    own = recorded["method"] not in _METHODS
    optimizer, _ = _called(recorded["optimizer"])
    lines = [
        f'"""{trace.attrs.get("inference", "A fit")}."""',
        "",
        "import pymc as pm",
        "",
        "import vitoolkit as vt",
        "",
        "# Before this: `model`, the model of the run with its data"
        + (", and `inference`, which trains it with the controls below" if own else "")
        + (", and `weights`, its more_obj_params" if recorded.get("more_obj_params") else "")
        + (f", and `{optimizer}`, its optimizer." if optimizer not in updates.__all__ else "."),
        *(f"{names[name]} = {_qualified(text)}" for name, text in made.items()),
        "",
        "# What was done to them: step, seconds since the beginning, kind, control.",
        "changes = [",
        *(f"    {_event(event)}," for event in trace.events if event.kind != "rule"),
        "]",
        "# What the numbers depend on: a difference is named before anything is compiled.",
        "recorded = {",
        *(f"    {key!r}: {value!r}," for key, value in recorded.items() if value is not None),
        "}",
        "fit = vt.fit(",
        *(f"    {line}," for line in _arguments(trace, recorded, names, own)),
        ")",
    ]
    return "\n".join(lines) + "\n"


def _arguments(
    trace: Table, recorded: Mapping[str, Any], names: Mapping[str, str], own: bool
) -> Iterable[str]:
    yield f"{recorded['n']}"
    if own:
        yield "method=inference"
    else:
        yield "model=model"
        yield f"method={_METHODS[recorded['method']]!r}"
        betas = {key[5:-1]: names[recorded[key]] for key in _keys(recorded, "beta")}
        yield f"beta={{{', '.join(f'{name!r}: {beta}' for name, beta in betas.items())}}}"
        yield f"random_seed={recorded['seed']}"
        for option in ("steps_per_execution", "gradient", "average", "gradient_estimator"):
            yield f"{option}={recorded[option]!r}"
        for option in ("start", "start_sigma"):
            values = {key[len(option) + 1 : -1]: recorded[key] for key in _keys(recorded, option)}
            for name, text in values.items():
                if text.startswith("<"):
                    raise ValueError(
                        f"{option} of {name!r} was {text[1:-1]}, which a script does not tell. "
                        "vitoolkit.fit(..., replay=trace) repeats the run, if it is given again"
                    )
            if values:
                yield f"{option}={{{', '.join(f'{v!r}: {text}' for v, text in values.items())}}}"
        punished = {key[8:-1]: _penalty(recorded[key], names) for key in _keys(recorded, "penalty")}
        if punished:
            yield f"penalty={{{', '.join(f'{v!r}: {code}' for v, code in punished.items())}}}"
        if recorded.get("freezable"):
            yield f"freezable={recorded['freezable'].split(', ')!r}"
        for option in ("kl_by", "closed_form"):
            if recorded.get(option):
                yield f"{option}={recorded[option]}"
        sizes = {key[11:-1]: recorded[key] for key in _keys(recorded, "total_size")}
        for name, size in sizes.items():
            if not isinstance(size, int):
                raise ValueError(f"total_size of {name!r} was {size}, which a script does not tell")
        if sizes:
            yield f"total_size={sizes!r}"
    yield from _optimizer(recorded["optimizer"], names)
    draws = recorded["obj_n_mc"]
    others = [control for name, control in names.items() if name not in _placed(recorded, names)]
    if others:
        yield f"callbacks=[{', '.join(others)}]"
    steps = trace[:2].step
    if len(steps) == 2 and (every := int(np.diff(steps)[0])) > 1:
        yield f"every={every}"
    if recorded.get("more_obj_params"):
        yield "more_obj_params=weights"
    if draws != 1:
        yield f"obj_n_mc={names.get(draws, draws)}"
    for option in FIT_OPTIONS:
        value = None if option in ("more_obj_params", "obj_n_mc") else recorded.get(option)
        if isinstance(value, bool | int | float):
            yield f"{option}={value!r}"
    yield "replay=vt.Replay(changes, fingerprint=recorded)"


def _keys(recorded: Mapping[str, Any], option: str) -> list[str]:
    """The names of what is recorded of an option by variable."""
    return [key for key in recorded if key.startswith(f"{option}[")]


def _placed(recorded: Mapping[str, Any], names: Mapping[str, str]) -> set[str]:
    """The controls that stand in an argument of the fit, or belong to its inference."""
    levels = [_level(recorded[key], names) for key in _keys(recorded, "penalty")]
    betas = [recorded[key] for key in _keys(recorded, "beta")]
    return {*levels, *betas, *_called(recorded["optimizer"])[1].values(), recorded["obj_n_mc"]}


def _called(words: str) -> tuple[str, dict[str, str]]:
    """Name and keywords of an optimizer that is recorded as a call."""
    name, _, rest = words.partition("(")
    items = rest.removesuffix(")").split(", ") if rest != ")" else []
    return name, dict(item.rpartition("=")[::2] for item in items)


def _optimizer(words: str, names: Mapping[str, str]) -> Iterable[str]:
    """The optimizer, and its learning rates, as arguments."""
    name, given = _called(words)
    for key, value in given.items():
        if value not in names and not _is_literal(value):
            raise ValueError(f"{key} of {name} was {value}, which a script does not tell")
    own = {key[14:-1]: given.pop(key) for key in _keys(given, "learning_rate")}
    # By variable, that of all others is given with the optimizer.
    rate = None if own else given.pop("learning_rate", None)
    arguments = ", ".join(f"{key}={names.get(value, value)}" for key, value in given.items())
    module = "pm." if name in updates.__all__ else ""
    yield f"optimizer={module}{name}" + (f"({arguments})" if arguments else "")
    if own:
        own = dict(sorted(own.items(), key=lambda item: [*names].index(item[1])))  # as recorded
        rates = ", ".join(f"{variable!r}: {names[control]}" for variable, control in own.items())
        yield f"learning_rate={{{rates}}}"
    elif rate is not None:
        yield f"learning_rate={names.get(rate, rate)}"


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _penalty(text: str, names: Mapping[str, str]) -> str:
    """The call that makes a penalty, of a level that has a name of Python's."""
    function, _, rest = text.partition("(")
    level = _level(text, names)
    return _qualified(f"{function}({names[level]}{rest[len(level) :]}")


def _level(text: str, names: Iterable[str]) -> str:
    """The control that is the level of a penalty."""
    rest = text.partition("(")[2]
    return max((name for name in names if rest.startswith((f"{name},", f"{name})"))), key=len)


def _event(event: Event) -> str:
    fields = [repr(event.step), f"{event.time:.3f}", repr(event.kind)]
    fields += [repr(event.control)] if event.control is not None else []
    shown: dict[str, Any] = {}
    if event.kind in HOLDS:
        shown["new"] = event.new
    if event.control is not None and event.asked is None:  # it was in force before the fit
        shown["old"] = event.old
    if event.kind == "rewind":
        shown["old"] = event.old
    if event.text is not None and event.kind in ("note", "reschedule", "stop", *POINTS):
        shown["text"] = event.text
    shown["source"] = event.source
    if event.asked is not None:
        shown["asked"] = event.asked
    return f"vt.Event({', '.join([*fields, *(f'{key}={item!r}' for key, item in shown.items())])})"


def _qualified(text: str) -> str:
    return _CALL.sub(lambda found: f"{_QUALIFIED[found[1]]}(", text)


def _identifiers(controls: Iterable[str]) -> dict[str, str]:
    """A name of Python's for each control: ``beta[z]`` is ``beta_z``."""
    found: dict[str, str] = {}
    for name in controls:
        plain = re.sub(r"\W+", "_", name).strip("_") or "control"
        if plain[0].isdigit() or plain in _TAKEN or keyword.iskeyword(plain):
            plain = f"control_{plain}"
        while plain in found.values():
            plain += "_"
        found[name] = plain
    return found
