"""Snapshots of q while it is trained: mean and sd of each coordinate, from its parameters alone.

They are taken in the fitting thread between two calls and need no compiled function. What one costs
is measured, and the next one waits until it is a small share of the time.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable as AnyCallable
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymc.variational.approximations import FullRankGroup

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.coordinates import Coordinates, coordinates_of
from vitoolkit.prior import draw_prior
from vitoolkit.run import Run

__all__ = ["POINTS", "Row", "Snapshots", "moments", "rows_of"]

#: Most snapshots; when there would be more, every second one goes.
POINTS = 200
#: Seconds between two of them at least.
FASTEST = 0.02
#: Share of the time of a fit that they may take.
SHARE = 1 / 200
#: Draws of the prior, fewer where they would be more numbers than this together; with fewer than so
#: many an interval says too little.
DRAWS, NUMBERS, FEWEST = 128, 4_000_000, 16
#: Seconds that they may take: in a notebook, before anything is compiled.
PRIOR_SECONDS = 0.3
#: What moved is told of this last share of the steps.
LATE = 0.1
_MIDDLE = (0.15865525393145707, 0.5, 0.8413447460685429)

Array = NDArray[np.float64]


class Row(NamedTuple):
    """One coordinate in a table of prior and posterior.

    Attributes
    ----------
    name : str
        With coords, such as ``"beta[treatment]"``.
    posterior, prior : tuple of float
        Low end, median and high end of the middle 68 %; NaN where nothing is known.
    moved : float
        How far q moved in the last tenth of the steps, in its sd.
    averaged : tuple of float
        As `posterior`, of q at the average of its iterates; NaN where they are not averaged.
    """

    name: str
    posterior: tuple[float, float, float]
    prior: tuple[float, float, float]
    moved: float
    averaged: tuple[float, float, float] = (np.nan,) * 3


class Snapshots(Callback):
    """Follow q while it is trained: where each coordinate stands, and how wide it is.

    A callback. Mean and sd of a mean-field or full-rank q are read off its parameters between two
    compiled calls, at no more than half a percent of the time; at most 200 snapshots of 2,000
    coordinates are kept, 6.4 MB. A hundred draws of the prior, for comparison, take milliseconds,
    0.3 s at most: when somebody looks, or at the end. Where an inference averages its iterates, q
    at the average is followed beside the last one, at twice the room.

    Attributes
    ----------
    coordinates : Coordinates
        What is followed, and in words what is not.
    step : ndarray of int64, shape (points,)
        Steps that had been taken.
    seconds : float
        Of the processor that snapshots have cost since the first step.
    averages : bool
        Whether q at the average of its iterates is followed, too.

    Notes
    -----
    A failure warns once, and the fit goes on without snapshots.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> from vitoolkit.snapshots import Snapshots
    >>> snapshots = Snapshots()
    >>> with pm.Model(coords={"arm": ["control", "treatment"]}):
    ...     beta = pm.Normal("beta", dims="arm")
    ...     y = pm.Normal("y", beta, observed=[0.2, 1.1])
    ...     approx = vt.ADVI(random_seed=1).fit(200, callbacks=[snapshots], progressbar=False)
    >>> snapshots.coordinates.names
    ('beta[control]', 'beta[treatment]')
    >>> snapshots.step[[0, -1]].tolist()
    [0, 200]
    """

    def __init__(self) -> None:
        self._approx: Any = None
        self._lock = threading.Lock()
        self._begin(Coordinates((), ()))

    def _begin(self, coordinates: Coordinates, averages: bool = False) -> None:
        self.coordinates, self.averages = coordinates, averages
        self._n, self._stride = 0, 1.0
        self._step = np.zeros(POINTS, np.int64)
        # Mean and sd of q as it is, and of q at the average of its iterates.
        self._values = np.empty((POINTS, 4 if averages else 2, len(coordinates)))
        self.seconds = 0.0
        self._due = 0.0
        self._off = False
        #: How many draws of the prior there are.
        self.draws = 0
        self._prior: Array | None = None
        self._looked = False
        #: Why there is no prior, in words, or "".
        self.without_prior = ""

    # --- what a fit tells -------------------------------------------------------------------------

    def on_fit_start(self, run: Run) -> None:
        """Begin, or go on with the same approximation."""

        def start() -> None:
            if run.approx is not self._approx:
                averages = getattr(run.inference, "average", False)
                with self._lock:
                    self._begin(coordinates_of(run.approx), averages)
                self._approx = run.approx
            self._cut(run.step)
            self._take(run)

        self._safely(start)

    def on_block(self, run: Run, block: Block) -> None:
        """Take a snapshot if one is due."""
        if self._off or block.time[-1] < self._due or run.step < self._next:
            return
        begun = time.thread_time()  # not what other programs take of a busy machine
        self._safely(lambda: self._take(run))
        took = time.thread_time() - begun
        self.seconds += took
        self._due = time.perf_counter() + max(FASTEST, took / SHARE)

    def on_rewind(self, run: Run) -> None:
        """Forget what was left behind."""
        self._safely(lambda: self._cut(run.step))

    def on_fit_end(self, run: Run) -> None:
        """Take the last one: of a fit that failed, whose parameters went back, there is none."""
        if run.error is None or isinstance(run.error, KeyboardInterrupt):
            self._safely(lambda: self._take(run))

    # --- what there is ----------------------------------------------------------------------------

    @property
    def step(self) -> NDArray[np.int64]:
        """Steps that had been taken at each snapshot."""
        return self._step[: self._n].copy()

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables whose coordinates are followed, in the order of the model."""
        return tuple(dict.fromkeys(self.coordinates.variable))

    @property
    def last(self) -> int | None:
        """Steps that had been taken at the last snapshot, None before the first."""
        return int(self._step[self._n - 1]) if self._n else None

    @property
    def mean(self) -> Array:
        """Means on the unconstrained scale, shape (points, coordinates)."""
        return self._values[: self._n, 0].copy()

    @property
    def sd(self) -> Array:
        """Standard deviations on the unconstrained scale, shape (points, coordinates)."""
        return self._values[: self._n, 1].copy()

    def path(
        self, which: Sequence[int], *, points: int = POINTS, averaged: bool = False
    ) -> tuple[Array, Array]:
        """Compute the middle 68 % of some coordinates over the steps.

        Parameters
        ----------
        which : sequence of int
            Indices of coordinates.
        points : int
            Most points; the last one is always there.
        averaged : bool
            Of q at the average of its iterates, see :attr:`averages`.

        Returns
        -------
        step : ndarray, shape (points,)
        ends : ndarray, shape (3, coordinates, points)
            Low end, median and high end, on the scale of the model where the transform is known.
        """
        with self._lock:
            every = -(-self._n // points) if self._n else 1
            rows = np.arange(self._n - 1, -1, -every)[::-1]
            step, values = self._step[rows].astype(float), self._values[rows][:, :, list(which)]
        mean, sd = values[:, 2:].swapaxes(0, 1) if averaged else (values[:, 0], values[:, 1])
        return step, self.coordinates.ends(mean, sd, list(which)).swapaxes(1, 2)

    def now(self, which: slice = slice(None), *, averaged: bool = False) -> Array:
        """Low end, median and high end of the middle 68 % of each coordinate, now.

        Parameters
        ----------
        which : slice
            Of coordinates; default is all.
        averaged : bool
            Of q at the average of its iterates, see :attr:`averages`.

        Returns
        -------
        ndarray, shape (3, coordinates)
        """
        with self._lock:
            if not self._n:
                return np.full((3, len(self.coordinates)), np.nan)[:, which]
            of = slice(2, 4) if averaged else slice(0, 2)
            mean, sd = self._values[self._n - 1, of, which].copy()
        return self.coordinates.ends(mean, sd, which)

    def moved(self) -> Array:
        """Tell how far each coordinate moved in the last tenth of the steps, in its present sd.

        It is the 2-Wasserstein distance of the two normals, then and now, on the unconstrained
        scale: a mean that wanders counts, and so does an sd that still shrinks.

        Returns
        -------
        ndarray, shape (coordinates,)
        """
        with self._lock:
            if self._n < 2:
                return np.full(len(self.coordinates), np.nan)
            step, last = self._step[: self._n], self._n - 1
            then = step[last] - LATE * (step[last] - step[0])
            after = min(max(int(np.searchsorted(step, then)), 1), last)
            share = (then - step[after - 1]) / (step[after] - step[after - 1])
            before = (1 - share) * self._values[after - 1] + share * self._values[after]
            mean, sd = self._values[last, :2].copy()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.hypot(mean - before[0], sd - before[1]) / sd

    def prior(self) -> Array | None:
        """Low end, median and high end of the middle 68 % of the prior of each coordinate.

        Returns
        -------
        ndarray or None
            Shape (3, coordinates), NaN where there is none; None where the model could not be
            drawn, and :attr:`without_prior` says why.

        Notes
        -----
        It is drawn at the first call: no step of a fit in a script waits for it.
        """
        if not self._looked:
            self._looked = True
            self._draw()
        return self._prior

    def table(self) -> dict[str, Any] | None:
        """Tell where q stands, what its prior is and how far it moved, for the record of a fit.

        Returns
        -------
        dict or None
            Of lists, coordinate by coordinate: ``name``, ``posterior`` and ``prior`` (low end,
            median and high end of the middle 68 %, to six digits; the prior is None where it could
            not be drawn) and ``moved`` (in the last tenth of the steps, in sd of q); ``step`` is
            how many steps had been taken; ``averaged`` is as ``posterior``, where the iterates are
            averaged. None before the first snapshot.
        """
        if self.last is None:
            return None
        prior = self.prior()
        table = {
            "step": self.last,
            "name": list(self.coordinates.names),
            "posterior": _six(self.now().T),
            "prior": None if prior is None else _six(prior.T),
            "moved": _six(self.moved()),
        }
        return {**table, "averaged": _six(self.now(averaged=True).T)} if self.averages else table

    def write(self, attrs: dict[str, Any]) -> None:
        """Write :meth:`table` into the attributes of a record, as "q", for exports and pictures."""
        table = self.table()
        if table is not None:
            attrs["q"] = table

    def still(self) -> Snapshots:
        """What was seen, without the approximation and the model."""
        other = Snapshots()
        other.__setstate__(self.__getstate__())
        return other

    def __getstate__(self) -> dict[str, Any]:
        self.prior()  # as long as the model is at hand
        still = self.coordinates.still()
        return {**self.__dict__, "_approx": None, "_lock": None, "coordinates": still}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"<Snapshots: {self._n} of {len(self.coordinates)} coordinates>"

    # --- internals --------------------------------------------------------------------------------

    @property
    def _next(self) -> float:
        """Step from which on there is room for another one."""
        return self._step[self._n - 1] + self._stride if self._n else 0.0

    def _take(self, run: Run) -> None:
        self.take(run.step, *([run.averages()] if self.averages else []))

    def take(self, step: int, averages: Sequence[Array] = ()) -> None:
        """Take a snapshot now, in the thread that trains, after so many steps.

        Parameters
        ----------
        step : int
        averages : sequence of ndarray
            Of the parameters of q, in their order, where they are followed; before the first step
            there are none, and the average is q itself.
        """
        if not len(self.coordinates):
            return
        values = moments(self.coordinates)
        if self.averages:
            known = dict(zip(self._approx.params, averages, strict=True)) if averages else {}
            values = np.concatenate([values, moments(self.coordinates, known)])
        if self._n and self._step[self._n - 1] == step:
            self._n -= 1  # a later look at the same step
        with self._lock:
            if self._n == POINTS:
                half = POINTS // 2
                self._step[:half] = self._step[::2]
                self._values[:half] = self._values[::2]
                self._n = half
                self._stride = (self._step[half - 1] - self._step[0]) / (half - 1)
            self._step[self._n], self._values[self._n] = step, values
            self._n += 1

    def _cut(self, step: int) -> None:
        """Forget what is later: the fit went back."""
        with self._lock:
            self._n = int(np.searchsorted(self._step[: self._n], step, "right"))

    def _draw(self) -> None:
        """Draw the prior; what cannot be drawn in Python does without, as it is a comparison."""
        sources = self.coordinates.sources
        if not sources:
            return
        size = sum(int(np.prod(source.latent.shape)) for source in sources)
        draws = min(DRAWS, NUMBERS // size)
        if draws < FEWEST:
            self.without_prior = f"no prior: {size:,} coordinates are too many to draw beside a fit"
            return
        try:
            drawn = draw_prior([s.latent.variable for s in sources], draws, seconds=PRIOR_SECONDS)
            columns = []
            for source, values in zip(sources, drawn, strict=True):
                if values is None or not source.constrained:
                    columns.append(np.full((draws, len(source.at)), np.nan))
                else:
                    columns.append(values.reshape(draws, -1)[:, source.at].astype(float))
            self._prior = np.quantile(np.concatenate(columns, axis=1), _MIDDLE, axis=0)
            self.draws = draws
        except Exception as error:
            self.without_prior = f"no prior: {error or type(error).__name__}".partition("\n")[0]

    def _safely(self, act: AnyCallable[[], None]) -> None:
        if self._off:
            return
        try:
            act()
        except Exception as error:
            self._off = True
            warnings.warn(
                f"q is not followed any more, the fit goes on: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )


def rows_of(table: Mapping[str, Any]) -> list[Row]:
    """Rows of what :meth:`Snapshots.table` tells, what moved furthest first.

    Examples
    --------
    >>> told = {"name": ["a", "b"], "posterior": [[0.0, 1.0, 2.0]] * 2, "moved": [0.1, 2.0]}
    >>> [row.name for row in rows_of({**told, "prior": None})]
    ['b', 'a']
    """
    nothing = (np.nan,) * 3
    prior = table["prior"] or [nothing] * len(table["name"])
    averaged = table.get("averaged") or [nothing] * len(table["name"])
    columns = (table["name"], table["posterior"], prior, table["moved"], averaged)
    rows = [
        Row(name, tuple(now), tuple(before), moved, tuple(average))
        for name, now, before, moved, average in zip(*columns, strict=True)
    ]
    return sorted(rows, key=lambda row: -np.nan_to_num(row.moved))


def _six(values: Array) -> Any:
    """Nested lists of numbers of six digits."""
    if values.ndim > 1:
        return [_six(row) for row in values]
    return [float(f"{value:.6g}") for value in values.tolist()]


def moments(coordinates: Coordinates, known: Mapping[Any, Array] | None = None) -> Array:
    """Mean and sd of each coordinate, shape (2, coordinates), from q's parameters as they are.

    Parameters
    ----------
    coordinates : Coordinates
    known : mapping of SharedVariable to ndarray, optional
        Values of parameters in the place of their own.
    """
    found = np.empty((2, len(coordinates)))
    for group, columns, at in coordinates.groups:
        mean, sd = _of_group(group, known or {})
        found[0, columns], found[1, columns] = mean[at], sd[at]
    return found


def _of_group(group: Any, known: Mapping[Any, Array]) -> tuple[Array, Array]:
    values = {
        name: np.asarray(
            known[parameter] if parameter in known else parameter.get_value(borrow=True), float
        )
        for name, parameter in group.params_dict.items()
    }
    if not isinstance(group, FullRankGroup):
        return values["mu"], np.logaddexp(0, values["rho"])
    entries = values["L_tril"]  # row by row, up to the diagonal
    ends = np.cumsum(np.arange(1, len(values["mu"]) + 1))
    diagonal = entries[ends - 1]
    square = np.add.reduceat(entries * entries, ends - np.arange(1, len(ends) + 1))
    return values["mu"], np.sqrt(square - diagonal**2 + np.logaddexp(0, diagonal) ** 2)
