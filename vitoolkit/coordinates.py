"""The coordinates of q that have a marginal of their own: what they are called, and their scale.

A mean-field or full-rank q is normal on the unconstrained scale. Where the variable's transform is
elementwise and monotone, quantiles go through it; elsewhere they stay on the unconstrained scale.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymc.distributions.transforms import LogExpM1
from pymc.logprob.transforms import IntervalTransform, LogOddsTransform, LogTransform
from pytensor.compile.sharedvalue import SharedVariable

from vitoolkit.latents import Latent, constant_value, dims_of, latents_of

__all__ = ["MOST", "Coordinates", "Source", "coordinates_of", "labels_of"]

#: Most coordinates that are followed; of larger variables every so many-th then.
MOST = 2_000

Array = NDArray[np.float64]


class Source(NamedTuple):
    """A variable whose coordinates are followed.

    Attributes
    ----------
    latent : Latent
    at : ndarray of int
        Which of its coordinates, in flat order.
    constrained : bool
        Whether they are shown on the scale of the model; else on the unconstrained one.
    """

    latent: Latent
    at: NDArray[np.int64]
    constrained: bool


class Coordinates:
    """The coordinates that are followed, one after the other.

    Parameters
    ----------
    sources : sequence of Source
    notes : sequence of str
        What is not there, in words.

    Attributes
    ----------
    names : tuple of str
        Such as ``"tau"`` or ``"beta[treatment]"``, with the coords of the model; on the
        unconstrained scale the variable is called as PyMC calls its value there.
    variable : tuple of str
        The variable of each.
    constrained : ndarray of bool
        Whether each is shown on the scale of the model.
    groups : list of (Group, ndarray of int, ndarray of int)
        Groups of the approximation; which coordinates are theirs, and where they stand in them.
    sources, notes : tuple
    """

    def __init__(self, sources: Sequence[Source], notes: Sequence[str]) -> None:
        self.sources, self.notes = tuple(sources), tuple(notes)
        self.names = tuple(name for source in sources for name in _names(source))
        self.variable = tuple(s.latent.name for s in sources for _ in range(len(s.at)))
        self.constrained = np.repeat(
            [source.constrained for source in sources], [len(source.at) for source in sources]
        ).astype(bool)
        places: dict[Any, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
        self._kinds: dict[str, tuple[NDArray[np.int64], Array, Array]] = {}
        parts: dict[str, list[tuple[Any, Array, Array]]] = {}
        first = 0
        for source in sources:
            here = np.arange(first, first + len(source.at))
            first += len(source.at)
            latent = source.latent
            places.setdefault(latent.group, []).append((here, latent.where.start + source.at))
            found = _transform(latent) if source.constrained else None
            if found is not None and found[0] != "none":
                ends = (np.broadcast_to(end, latent.shape).ravel() for end in found[1:])
                low, high = (end[source.at].astype(float) for end in ends)
                parts.setdefault(found[0], []).append((here, low, high))
        self.groups = [
            (group, *map(np.concatenate, zip(*held, strict=True))) for group, held in places.items()
        ]
        for kind, found_parts in parts.items():
            here, low, high = map(np.concatenate, zip(*found_parts, strict=True))
            place = np.full(len(self), -1)
            place[here] = np.arange(len(here))
            self._kinds[kind] = (place, low, high)

    def still(self) -> Coordinates:
        """Names and scales, without the approximation and the model."""
        other = copy.copy(self)
        other.sources, other.groups = (), []
        return other

    def __len__(self) -> int:
        return len(self.names)

    def quantile(self, mean: Array, sd: Array, z: float, which: Any = slice(None)) -> Array:
        """Compute a quantile of each marginal, on the scale on which it is shown.

        Parameters
        ----------
        mean, sd : ndarray, shape (..., coordinates)
            Of q on the unconstrained scale; of the coordinates `which`.
        z : float
            Of the standard normal: 0 is the median, -1 and 1 are the ends of the middle 68 %.
        which : slice or sequence of int
            Indices of coordinates.

        Returns
        -------
        ndarray, shape (..., coordinates)
        """
        unconstrained = mean + z * sd
        shown = unconstrained.copy()
        for kind, (place, low, high) in self._kinds.items():
            of = place[which]
            mask = of >= 0
            if not mask.any():
                continue
            of = of[mask]
            sign = -1 if kind == "upper" else 1  # the one that decreases
            x = mean[..., mask] + sign * z * sd[..., mask]
            with np.errstate(over="ignore"):
                shown[..., mask] = _BACKWARD[kind](x, low[of], high[of])
        return shown

    def ends(self, mean: Array, sd: Array, which: Any = slice(None)) -> Array:
        """Low end, median and high end of the middle 68 %; arguments as of :meth:`quantile`.

        Returns
        -------
        ndarray, shape (3, ..., coordinates)
        """
        return np.array([self.quantile(mean, sd, z, which) for z in (-1, 0, 1)])


def _interval(x: Array, low: Array, high: Array) -> Array:
    share = 1 / (1 + np.exp(-x))
    return share * high + (1 - share) * low


_BACKWARD = {
    "lower": lambda x, low, high: low + np.exp(x),
    "upper": lambda x, low, high: high - np.exp(x),
    "interval": _interval,
    "softplus": lambda x, low, high: np.logaddexp(0, x),
}


def coordinates_of(approx: Any, most: int = MOST) -> Coordinates:
    """Find the coordinates of an approximation whose marginals are known at no cost.

    Parameters
    ----------
    approx : Approximation
    most : int
        Most coordinates.

    Returns
    -------
    Coordinates
        In the order of the model. Of an encoder's variable, whose q is another one for each row of
        data, and of particles and flows there are none; its `notes` say so.
    """
    try:
        latents = latents_of(approx)
    except TypeError:
        return Coordinates((), ("q is a set of particles: no marginal is known in closed form",))
    notes, plain = [], []
    for latent in latents:
        if not latent.splits:
            notes.append(f"{latent.name}: {type(latent.group).__name__} states no marginals")
        elif not all(isinstance(p, SharedVariable) for p in latent.group.params_dict.values()):
            notes.append(f"{latent.name}: q depends on the row of data")
        elif int(np.prod(latent.shape)):
            plain.append(latent)
    kept = _spread([int(np.prod(latent.shape)) for latent in plain], most)
    sources = []
    for latent, count in zip(plain, kept, strict=True):
        size = int(np.prod(latent.shape))
        if count:
            at = np.arange(count) * size // count
            sources.append(Source(latent, at, _transform(latent) is not None))
        if count < size:
            notes.append(f"{latent.name}: {count:,} of {size:,} coordinates, evenly spaced")
    if len(notes) > 4:
        notes[3:] = [f"likewise {len(notes) - 3:,} more variables"]
    return Coordinates(sources, notes)


def _spread(sizes: Sequence[int], most: int) -> list[int]:
    """Give each variable its coordinates, or an equal share of `most`: small ones stay whole."""
    if sum(sizes) <= most:
        return list(sizes)
    limit = 1
    while sum(min(size, limit + 1) for size in sizes) <= most:
        limit += 1
    return [min(size, limit) * (i < most) for i, size in enumerate(sizes)]


def _names(source: Source) -> list[str]:
    latent = source.latent
    model = latent.group.model
    name = latent.name if source.constrained else model.rvs_to_values[latent.variable].name
    if not latent.shape:
        return [name]
    labels: list[Sequence[Any]] = []
    for dim, length in zip(dims_of(latent), latent.shape, strict=True):
        coords = model.coords.get(dim)
        labels.append(coords if coords is not None and len(coords) == length else range(length))
    places = zip(*np.unravel_index(source.at, latent.shape), strict=True)
    return [
        f"{name}[{', '.join(str(label[i]) for label, i in zip(labels, place, strict=True))}]"
        for place in places
    ]


def labels_of(latent: Latent, at: NDArray[np.int64]) -> list[str]:
    """Names of coordinates of a variable, given by their places in flat order."""
    return _names(Source(latent, at, True)) if len(at) else []


def _transform(latent: Latent) -> tuple[str, Any, Any] | None:
    """What takes the unconstrained scale to the model's: its kind and ends; None if unknown."""
    transform = latent.group.model.rvs_to_transforms[latent.variable]
    if transform is None:
        return "none", 0.0, 0.0
    if isinstance(transform, LogTransform):
        return "lower", 0.0, 0.0
    if isinstance(transform, LogExpM1):
        return "softplus", 0.0, 0.0
    if isinstance(transform, LogOddsTransform):
        return "interval", 0.0, 1.0
    if not isinstance(transform, IntervalTransform):
        return None
    low, high = map(_bound, transform.args_fn(*latent.variable.owner.inputs))
    if low is None or high is None or (np.isinf(low) and np.isinf(high)):
        return None
    if np.isinf(high):
        return "lower", low, 0.0
    return ("upper", 0.0, high) if np.isinf(low) else ("interval", low, high)


def _bound(end: Any) -> float | None:
    """A bound that is one number; None where it is known only when the model is drawn."""
    if end is None:
        return np.inf
    if getattr(end, "ndim", 0):
        return None
    value = constant_value(end)
    return None if value is None else float(value)
