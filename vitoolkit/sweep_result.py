"""What a sweep has come to, as one data set over its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitoolkit.means import TAIL, final
from vitoolkit.sweep_point import Outcome
from vitoolkit.trace import Trace

if TYPE_CHECKING:
    import xarray

__all__ = ["RESERVED", "dataset_of"]

_NATS = {
    "elbo": "ELBO at β = 1",
    "rate": "sum of the KL contributions, not multiplied by β",
    "distortion": "minus the data term",
}
_WORDS = {
    "status": "how the fit ended",
    "verdict": "whether the fit is done, or what is missing",
    "error": "why it failed, or nothing",
    "record": "file of the record, for vitoolkit.Trace.open",
}
_ENDS = ("low", "median", "high")
#: Names that an axis cannot have.
RESERVED = (*_NATS, *_WORDS, "kl", "q", "steps", "variable", "coordinate", "end")


def dataset_of(
    names: Sequence[str],
    outcomes: Mapping[tuple, Outcome],
    records: Mapping[tuple, tuple[Trace, Path]],
) -> xarray.Dataset:
    """Put what is known of each point at its place.

    Parameters
    ----------
    names : sequence of str
        Names of the grid's axes.
    outcomes : mapping of tuple to Outcome
        By the grid's points.
    records : mapping of tuple to Trace and Path
        The records, and their files.
    """
    import xarray

    axes = [list(dict.fromkeys(key[i] for key in records)) for i in range(len(names))]
    shape = tuple(map(len, axes))
    place = {
        key: tuple(axis.index(label) for axis, label in zip(axes, key, strict=True))
        for key in records
    }
    known = {key: trace for key, (trace, _) in records.items() if outcomes[key].status != "failed"}
    variables = list(dict.fromkeys(name for trace in known.values() for name in trace.variables))
    of_q = {key: trace.attrs["q"] for key, trace in known.items() if "q" in trace.attrs}
    coordinates = list(dict.fromkeys(name for q in of_q.values() for name in q["name"]))

    nats = {name: np.full(shape, np.nan) for name in _NATS}
    words = {name: np.full(shape, "", dtype=object) for name in _WORDS}
    steps = np.zeros(shape, np.int64)
    kl = np.full((*shape, len(variables)), np.nan)
    q = np.full((*shape, len(coordinates), len(_ENDS)), np.nan)
    for key, (trace, path) in records.items():
        at, outcome = place[key], outcomes[key]
        steps[at] = trace[-1:].step[0] + 1 if len(trace) else 0
        words["status"][at], words["error"][at] = outcome.status, outcome.error
        words["record"][at] = str(path)
        words["verdict"][at] = str(trace.attrs.get("verdict", ""))
        if key not in known or not len(trace):
            continue
        contributions = [final(trace, f"kl[{name}]") for name in trace.variables]
        nats["elbo"][at] = final(trace, "elbo")
        nats["rate"][at] = sum(contributions)
        nats["distortion"][at] = -final(trace, "data")
        for name, value in zip(trace.variables, contributions, strict=True):
            kl[*at, variables.index(name)] = value
        if key in of_q:
            columns = [coordinates.index(name) for name in of_q[key]["name"]]
            q[at][columns] = of_q[key]["posterior"]
    mean = f"mean of the last {TAIL} rows"
    content: dict[str, Any] = {
        name: (names, nats[name], {"units": "nats", "long_name": _NATS[name], "of": mean})
        for name in _NATS
    }
    of_kl = {"units": "nats", "long_name": "KL contribution, not multiplied by β", "of": mean}
    content["kl"] = ((*names, "variable"), kl, of_kl)
    of_ends = {"long_name": "q: ends and median of the middle 68 %"}
    content["q"] = ((*names, "coordinate", "end"), q, of_ends)
    content["steps"] = (names, steps, {"long_name": "steps that were taken"})
    for name, values in words.items():
        content[name] = (names, values, {"long_name": _WORDS[name]})
    coords = {name: _coord(axis) for name, axis in zip(names, axes, strict=True)}
    coords |= {"variable": _coord(variables), "coordinate": _coord(coordinates)}
    coords["end"] = _coord(_ENDS)
    return xarray.Dataset(content, coords, {"title": f"sweep over {', '.join(names)}"})


def _coord(labels: Sequence[Any]) -> np.ndarray:
    """Labels as a file can hold them: numbers of one kind, or words."""
    kinds = {type(label) for label in labels}
    if kinds and (kinds <= {int, float} or kinds == {bool}):
        return np.array(labels)
    return np.array([label if isinstance(label, str) else str(label) for label in labels], object)
