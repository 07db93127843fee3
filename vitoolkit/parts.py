"""The KL contribution of a variable taken apart: by coordinate, or by one of its dims."""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Part", "PartArrays"]

Label: TypeAlias = str | int | float

#: of each unit of NumPy's that has a fixed length
ATTOSECONDS = {
    **{"D": 86_400 * 10**18, "h": 3_600 * 10**18, "m": 60 * 10**18, "s": 10**18},
    **{"ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 10**3, "as": 1},
}


@dataclass(frozen=True)
class Part:
    """What the parts of one variable's KL contribution are called, and where they stand.

    Parameters
    ----------
    variable : str
        Name of the variable whose KL contribution is taken apart.
    dims : tuple of str
        Name of each dimension. No name twice.
    shape : tuple of int
        Length of each dimension.
    coords : dict of str to list, optional
        Labels along a dimension, by its name; a dimension may have none. Numbers and strings are
        kept, other labels become strings: dates, times and spans of time as ISO 8601 writes them.

    Raises
    ------
    TypeError
        If a name is not a string or a length is not an integer.
    ValueError
        If a name is empty or given twice, a length is negative, there are not as many lengths as
        names or labels as the length says, or labels are given for a dimension that is not there.

    Examples
    --------
    >>> part = Part("z", ("latent",), (3,), {"latent": ["a", "b", "c"]})
    >>> part.size
    3
    >>> part.columns
    ('kl[z, latent=a]', 'kl[z, latent=b]', 'kl[z, latent=c]')
    """

    variable: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: Mapping[str, list[Label]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.dims, str):
            raise TypeError(f"dims is a sequence of names; received the string {self.dims!r}")
        dims, shape = tuple(self.dims), tuple(operator.index(length) for length in self.shape)
        for name in (self.variable, *dims):
            if not isinstance(name, str):
                raise TypeError(f"variables and dims have strings as names; received {name!r}")
            if not name:
                raise ValueError(
                    f"names are not empty; received {self.variable!r} with dims {dims}"
                )
        if len(set(dims)) < len(dims) or len(dims) != len(shape) or min(shape, default=0) < 0:
            raise ValueError(
                f"the part of {self.variable!r} needs one length from 0 up for each dim, and every "
                f"dim once; received dims {dims} and shape {shape}"
            )
        unknown = [name for name in self.coords if name not in dims]
        if unknown:
            raise ValueError(
                f"the part of {self.variable!r} has labels for {unknown}; its dims are {dims}"
            )
        coords = {name: _plain_labels(self.coords[name]) for name in dims if name in self.coords}
        for name, length in zip(dims, shape, strict=True):
            if name in coords and len(coords[name]) != length:
                raise ValueError(
                    f"dim {name!r} of {self.variable!r} has the length {length}; "
                    f"received {len(coords[name])} labels"
                )
        object.__setattr__(self, "dims", dims)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "coords", coords)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """A name for each coordinate, such as ``latent=3``, in C order.

        A label of the dim is used where the dim has labels and all of them differ, else the
        position, counted from 0.
        """
        axes = []
        for name, length in zip(self.dims, self.shape, strict=True):
            texts = [str(label) for label in self.coords.get(name, range(length))]
            axes.append(texts if len(set(texts)) == length else [str(i) for i in range(length)])
        labels = self._joined(axes)
        if len(set(labels)) < len(labels):  # labels that hold ", dim=" themselves
            labels = self._joined([[str(i) for i in range(length)] for length in self.shape])
        return labels

    def _joined(self, axes: Sequence[Sequence[str]]) -> tuple[str, ...]:
        if not axes:
            return ("()",)
        return tuple(
            ", ".join(f"{dim}={text}" for dim, text in zip(self.dims, texts, strict=True))
            for texts in product(*axes)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of each coordinate's column in a table, such as ``kl[z, latent=3]``, in C order."""
        return tuple(f"kl[{self.variable}, {label}]" for label in self.labels)


class PartArrays(Mapping[str, NDArray[np.float64]]):
    """Read-only mapping from a variable to the parts of its KL contribution, of one moment.

    Parameters
    ----------
    parts : mapping of str to Part
        What stands in `array`, part after part.
    array : ndarray, shape (rows, coordinates of all parts)
        The numbers, each part flattened in C order.

    Raises
    ------
    KeyError
        If a variable is asked for that has no parts. The message lists those that have.
    """

    def __init__(self, parts: Mapping[str, Part], array: NDArray[np.float64]):
        self._parts = parts
        self._array = array

    @property
    def array(self) -> NDArray[np.float64]:
        """All parts side by side, shape (rows, coordinates of all parts)."""
        return self._array

    def _between(self, start: int, stop: int) -> NDArray[np.float64]:
        return self._array[:, start:stop]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._parts:
            accepted = ", ".join(map(repr, self._parts)) or "none: fit with kl_by= to record them"
            raise KeyError(f"no parts of the KL of {name!r}; the variables with parts: {accepted}")
        start = 0
        for variable, part in self._parts.items():
            if variable == name:
                break
            start += part.size
        columns = self._between(start, start + part.size)
        parts = columns.reshape(len(columns), *part.shape)  # of one axis: no copy
        parts.flags.writeable = False
        return parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        shapes = {name: part.shape for name, part in self._parts.items()}
        return f"PartArrays({shapes}, {len(self._between(0, 0))} rows)"


def _plain_labels(labels: Iterable[Any]) -> list[Label]:
    return [_plain_label(label) for label in labels]


def _plain_label(label: Any) -> Label:
    if hasattr(label, "to_timedelta64"):  # of pandas, to the nanosecond
        label = label.to_timedelta64()
    elif isinstance(label, timedelta):
        label = np.timedelta64(label)
    if isinstance(label, np.timedelta64):  # an integer to NumPy
        return str(label) if np.isnat(label) else _duration(label)
    if isinstance(label, np.datetime64) or hasattr(label, "isoformat"):
        return _moment(str(label) if isinstance(label, np.datetime64) else label.isoformat())
    if isinstance(label, np.bool | np.integer | np.floating):
        label = label.item()
    return label if type(label) in (str, int, float) else str(label)


def _moment(iso: str) -> str:
    """Leave out what says nothing: nine zeros behind a second, and that a day begins."""
    whole, point, fraction = iso.partition(".")
    if fraction.isdigit():
        fraction = fraction.rstrip("0")
        iso = f"{whole}.{fraction}" if fraction else whole
    return iso.removesuffix("T00:00:00")


def _duration(span: np.timedelta64) -> str:
    """Write a span of time as ISO 8601 does: ``P1DT2H``, ``PT0.5S``, ``P3M``."""
    unit, multiple = np.datetime_data(span.dtype)
    count = int(span.astype(np.int64)) * multiple
    sign, count = "-" * (count < 0), abs(count)
    if unit in ("Y", "M", "W"):  # years and months have no fixed length
        return f"{sign}P{count}{unit}"
    if unit not in ATTOSECONDS:
        return str(span)
    seconds, rest = divmod(count * ATTOSECONDS[unit], 10**18)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    decimals = f"{seconds}.{rest:018}".rstrip("0").rstrip(".") if rest else f"{seconds}"
    clock = "".join(
        f"{number}{letter}"
        for number, letter in ((hours, "H"), (minutes, "M"), (decimals, "S"))
        if number not in (0, "0")
    )
    if not days and not clock:
        clock = "0S"
    return f"{sign}P{f'{days}D' if days else ''}{f'T{clock}' if clock else ''}"
