"""A recorded run as a Python script: one ``vitoolkit.fit``, and the changes at their steps."""

from __future__ import annotations

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
    **{name: f"vt.{name}" for name in ("Beta", "LearningRate", "Control")},
}
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
    names = {name: _identifier(name) for name in made}
    own = recorded["method"] not in _METHODS
    lines = [
        f'"""{trace.attrs.get("inference", "A fit")}."""',
        "",
        "import pymc as pm",
        "",
        "import vitoolkit as vt",
        "",
        "# Before this: `model`, the model of the run with its data"
        + (", and `inference`, which trains it with the controls below" if own else "")
        + (", and `weights`, its more_obj_params." if recorded.get("more_obj_params") else "."),
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
        betas = {key[5:-1]: names[recorded[key]] for key in _keys(recorded, "beta[")}
        yield f"beta={{{', '.join(f'{name!r}: {beta}' for name, beta in betas.items())}}}"
        yield f"random_seed={recorded['seed']}"
        for option in ("steps_per_execution", "gradient", "average", "gradient_estimator"):
            yield f"{option}={recorded[option]!r}"
        punished = {key[8:-1]: _qualified(recorded[key]) for key in _keys(recorded, "penalty[")}
        if punished:
            yield f"penalty={{{', '.join(f'{v!r}: {code}' for v, code in punished.items())}}}"
        if recorded.get("freezable"):
            yield f"freezable={recorded['freezable'].split(', ')!r}"
        for option in ("kl_by", "closed_form"):
            if recorded.get(option):
                yield f"{option}={recorded[option]}"
        sizes = {key[11:-1]: recorded[key] for key in _keys(recorded, "total_size[")}
        if sizes:
            yield f"total_size={sizes!r}"
    optimizer, rate = _optimizer(recorded["optimizer"])
    yield f"optimizer={optimizer}"
    if rate in names:
        yield f"learning_rate={names[rate]}"
    others = set(names) - {rate} - {recorded[key] for key in _keys(recorded, "beta[")}
    if others:
        yield f"callbacks=[{', '.join(names[name] for name in names if name in others)}]"
    steps = trace[:2].step
    if len(steps) == 2 and (every := int(np.diff(steps)[0])) > 1:
        yield f"every={every}"
    if recorded.get("more_obj_params"):
        yield "more_obj_params=weights"
    for option in FIT_OPTIONS:
        value = None if option == "more_obj_params" else recorded.get(option)
        if isinstance(value, bool | int | float) and (option, value) != ("obj_n_mc", 1):
            yield f"{option}={value!r}"
    yield "replay=vt.Replay(changes, fingerprint=recorded)"


def _keys(recorded: Mapping[str, Any], start: str) -> list[str]:
    return [key for key in recorded if key.startswith(start)]


def _optimizer(words: str) -> tuple[str, str]:
    """The optimizer as code without its learning rate, and the name of that."""
    name, _, rest = words.partition("(")
    given = dict(item.split("=", 1) for item in rest.removesuffix(")").split(", ") if item)
    rate = given.pop("learning_rate", "")
    module = "pm." if name in updates.__all__ else ""
    arguments = ", ".join(f"{key}={value}" for key, value in given.items())
    return f"{module}{name}({arguments})" if arguments else f"{module}{name}", rate


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


def _identifier(name: str) -> str:
    """A name of Python's for a control: ``beta[z]`` is ``beta_z``."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "control"
    return f"control_{plain}" if plain[0].isdigit() or plain in ("model", "fit") else plain
