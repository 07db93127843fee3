"""What a run's numbers depend on, in a few words and hashes: enough to tell two runs apart.

The fingerprint is flat and JSON-able, and the same in every process. It stands in the attributes of
a trace, where a replay looks before it compiles anything.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pytensor
from pymc.variational.updates import adagrad_window
from pytensor.compile.mode import get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable

from vitoolkit.controls import Control
from vitoolkit.structure import in_order

__all__ = ["differences", "fingerprint_of", "fingerprint_of_model", "fingerprint_of_run"]

_PACKAGES = ("vitoolkit", "pymc", "pytensor", "numpy")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
#: Hashes of what cannot change: the constants of a graph.
_hashed: weakref.WeakKeyDictionary[Constant, str] = weakref.WeakKeyDictionary()


def fingerprint_of(inference: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything that the numbers of a run depend on, but for what is done to its controls.

    Call it before the fit: it looks at the starting parameters and the random generator.

    Parameters
    ----------
    inference : KLqp or pymc.variational.inference.Inference
        What is going to be trained.
    options : mapping, optional
        Keywords of its fit: ``obj_optimizer``, ``obj_n_mc``, ``compile_kwargs`` ...

    Returns
    -------
    dict of str to str, int, float, bool or None
        Versions, dtype and machine; a hash of the model's graph, of each set of data
        (``data[y]``: the observed values, of a ``pm.Minibatch`` the whole data set; ``pm.Data`` by
        name), of the other arrays in the graph, of the approximation and of its starting
        parameters; seed and generator; method, optimizer and the options.

    Notes
    -----
    It costs some milliseconds for the graph, and a millisecond or two a megabyte of data; what a
    graph holds as constants is hashed once a process.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> from vitoolkit.fingerprint import differences, fingerprint_of
    >>> def model(sd):
    ...     with pm.Model() as built:
    ...         z = pm.Normal("z", 0.0, sd)
    ...         y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     return built
    >>> one = fingerprint_of(vt.ADVI(model=model(1.0), random_seed=1))
    >>> one["method"], one["seed"]
    ('ADVI', 1)
    >>> two = fingerprint_of(vt.ADVI(model=model(2.0), random_seed=2))
    >>> [words.split(":")[0] for words in differences(one, two)]
    ['generator', 'model', 'seed']
    """
    approx, options = inference.approx, dict(options or {})
    compile_kwargs = options.pop("compile_kwargs", None) or {}
    more = list(options.pop("more_obj_params", None) or ())
    trained = [*approx.params, *more]
    linker = get_mode(compile_kwargs.get("mode")).linker
    found = {
        **{f"version[{name}]": _version(name) for name in _PACKAGES},
        "version[python]": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "floatX": pytensor.config.floatX,
        "backend": type(linker).__name__,
        **fingerprint_of_model(approx.model),
        "method": type(inference).__name__,
        "approximation": _approximation(approx),
        "parameters": _digest(parameter.get_value(borrow=True) for parameter in trained),
        "seed": getattr(inference, "seed", None),
        "generator": _generator(approx),
        "optimizer": _optimizer(options.pop("obj_optimizer", None)),
        "obj_n_mc": _words(options.pop("obj_n_mc", None) or 1),
        "more_obj_params": len(more),
    }
    found.update(getattr(inference, "asked", {}))
    found.update({name: _words(value) for name, value in options.items() if value is not None})
    return found


def fingerprint_of_run(run: Any) -> dict[str, Any]:
    """The fingerprint of a run that starts: of what is trained, its controls, and how long it is.

    Parameters
    ----------
    run : Run
        A run of which no step is taken yet.

    Returns
    -------
    dict
        As :func:`fingerprint_of` and, for each control, the call that makes it, with the value, the
        schedule and the rule it begins with.
    """
    controls = {f"control[{c.name}]": _control(c, run.inbox.waiting(c.name)) for c in run.controls}
    return {**run.inference.fingerprint(), **controls, "first": run.first, "n": run.n}


def differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say in words what two fingerprints do not have in common.

    Parameters
    ----------
    recorded, here : mapping
        Fingerprints.

    Returns
    -------
    list of str
        One for each difference, in the order of the names; empty when there is none.

    Examples
    --------
    >>> differences({"seed": 1, "floatX": "float64"}, {"seed": 2, "floatX": "float64"})
    ['seed: 1 was recorded, here it is 2']
    """
    return [
        f"{name}: {_said(recorded, name)} was recorded, here it is {_said(here, name)}"
        for name in sorted({*recorded, *here})
        if recorded.get(name) != here.get(name)
    ]


def _said(found: Mapping[str, Any], name: str) -> str:
    return "nothing" if found.get(name) is None else str(found[name])


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


# --- the graph ------------------------------------------------------------------------------------


def fingerprint_of_model(model: Any) -> dict[str, str]:
    """A hash of the model, and those of its data by name: a part of :func:`fingerprint_of`."""
    values = [model.rvs_to_values[rv] for rv in model.basic_RVs]
    names = [rv.name for rv in model.basic_RVs]
    nodes = [*model.basic_RVs, *model.potentials]
    arrays: list[Any] = []
    lines = list(_lines(nodes, arrays))
    transforms = [_plain(model.rvs_to_transforms.get(rv)) for rv in model.free_RVs]
    data = {}
    seen = [*model.data_vars]
    for rv in model.observed_RVs:
        leaves: list[Any] = []
        lines.extend(_lines([model.rvs_to_values[rv]], leaves, scalars=True))
        data[f"data[{rv.name}]"] = _digest(map(_content, leaves))
        seen += leaves
    for variable in model.data_vars:
        if isinstance(variable, SharedVariable):
            data[f"data[{variable.name}]"] = _digest([_content(variable)])
    others = [leaf for leaf in arrays if leaf not in seen]
    if others:
        data["data[of the graph]"] = _digest(map(_content, others))
    types = [str(value.type) for value in values]
    return {"model": _hash([*lines, *transforms, *names, *types]), **data}


def _approximation(approx: Any) -> str:
    lines: list[str] = []
    arrays: list[Any] = []
    for group in approx.groups:
        lines += [type(group).__name__, *(value.name for value in group.group)]
        for name, parameter in group.params_dict.items():
            lines += [name, *_lines([parameter], arrays)]
    constants = [leaf for leaf in arrays if isinstance(leaf, Constant)]
    return _hash([*lines, *map(_content, constants)])


def _lines(nodes: Sequence[Variable], arrays: list[Any], *, scalars: bool = False) -> Iterator[str]:
    """A graph as text, one line a node; leaves that hold arrays are put into `arrays`.

    Constant numbers are in the text, or with `scalars` among the arrays.
    """
    number: dict[Any, int] = {}
    for item in in_order(nodes):
        if not isinstance(item, Variable):
            inputs = ",".join(str(number[variable]) for variable in item.inputs)
            types = ",".join(str(variable.type) for variable in item.outputs)
            yield f"{type(item.op).__name__} {_plain(item.op)} ({inputs}) {types}"
            inner = getattr(item.op, "fgraph", None)
            if inner is not None:
                yield from _lines(inner.outputs, arrays, scalars=scalars)
            for variable in item.outputs:
                number[variable] = len(number)
            continue
        number[item] = len(number)
        content = ""
        if isinstance(item, Constant) and np.ndim(item.data) == 0 and not scalars:
            content = _plain(item.data)
        elif isinstance(item, Constant) or _is_data(item):
            arrays.append(item)
        yield f"{type(item).__name__} {item.type} {content}"
    yield ",".join(str(number[node]) for node in nodes)


def _is_data(item: Any) -> bool:
    return isinstance(item, SharedVariable) and isinstance(item.get_value(borrow=True), np.ndarray)


def _plain(thing: Any) -> str:
    """What something says of itself, without where it is in memory."""
    return _ADDRESS.sub("", str(thing))


def _content(leaf: Any) -> str:
    if not isinstance(leaf, Constant):
        return _digest([leaf.get_value(borrow=True)])
    if leaf not in _hashed:
        _hashed[leaf] = _digest([leaf.data])
    return _hashed[leaf]


# --- hashes ---------------------------------------------------------------------------------------


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _digest(contents: Iterable[Any]) -> str:
    """A hash of arrays, with their dtypes and shapes, or of texts."""
    found = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            found.update(f"{content.dtype.str}{content.shape}".encode())
            found.update(np.ascontiguousarray(content).data.cast("B") if content.size else b"")
        else:
            found.update(f"{_plain(content)}\n".encode())
    return found.hexdigest()[:16]


def _generator(approx: Any) -> str | None:
    rng = getattr(approx, "rng", None)
    if rng is None:
        return None
    name, keys, *rest = rng.get_state()
    return _digest([name, keys, str(rest)])


# --- options --------------------------------------------------------------------------------------


def _optimizer(optimizer: Any) -> str:
    optimizer = adagrad_window if optimizer is None else optimizer
    keywords = dict(getattr(optimizer, "keywords", {}))
    name = getattr(getattr(optimizer, "func", optimizer), "__name__", type(optimizer).__name__)
    return f"{name}({', '.join(f'{key}={_words(keywords[key])}' for key in sorted(keywords))})"


def _control(control: Any, waiting: Sequence[Any]) -> str:
    """The call that makes a control, as it was before what was asked between two fits."""
    value = next((r.old for r in waiting if r.in_force and r.old is not None), control.value)
    kind = type(control).__name__
    if kind == "Switch":
        return f"{kind}({bool(value)})"
    given: dict[str, Any] = {"bounds": control.bounds}
    if kind == "Draws":
        value, given["bounds"] = int(value), tuple(map(int, control.bounds))
    if kind == "Control":
        given["scale"] = control.scale
    if control.schedule is not None:
        given["schedule"] = control.schedule
    if control.rule is not None:
        given["rule"] = _call(control.rule)
    start = "" if "schedule" in given and not control._manual else f"{value!r}, "
    held = ", manual" if control._manual else ""
    arguments = ", ".join(f"{key}={_code(item)}" for key, item in given.items())
    return f"{kind}({start}{arguments}, name={control.name!r}){held}"


def _code(item: Any) -> str:
    return item if isinstance(item, _Text) else repr(item)


class _Text(str):
    """Python, to be written as it is."""

    __slots__ = ()


def _call(rule: Any) -> _Text:
    """The call that makes a rule, with what differs from the defaults."""
    arguments = []
    for name, parameter in inspect.signature(type(rule)).parameters.items():
        value = getattr(rule, name, parameter.default)
        if value != parameter.default:
            keyword = f"{name}=" if parameter.kind is parameter.KEYWORD_ONLY else ""
            arguments.append(f"{keyword}{value!r}")
    return _Text(f"{type(rule).__name__}({', '.join(arguments)})")


def _words(value: Any) -> Any:
    """An option in words: a shared variable, such as that of a control, by its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Control):
        return value.name
    if isinstance(value, Variable):
        return value.name or str(value.type)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_words(k)}: {_words(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(_words(item)) for item in value) + "]"
    return _plain(value)
