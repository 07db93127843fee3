"""Snapshots of q while it is trained: mean and sd of each coordinate, from its parameters alone.

They are taken in the fitting thread between two calls and need no compiled function. What one costs
is measured, and the next one waits until it is a small share of the time.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable as AnyCallable
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymc.variational.approximations import FullRankGroup

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.coordinates import Coordinates, coordinates_of
from vitoolkit.prior import Prior
from vitoolkit.run import Run

__all__ = ["POINTS", "Row", "Snapshots"]

#: Most snapshots; when there would be more, every second one goes.
POINTS = 200
#: Seconds between two of them at least.
FASTEST = 0.02
#: Share of the time of a fit that snapshots may take, and draws of the prior beside them.
SHARE = PRIOR_SHARE = 1 / 200
#: Draws of the prior, seconds that they may take before the first step, and the longest of one.
DRAWS, HEAD_START, LONGEST = 128, 0.1, 0.1
#: With fewer draws than this an interval of the prior says too little.
FEWEST = 16
#: What moved is told of this last share of the steps.
LATE = 0.1

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
    """

    name: str
    posterior: tuple[float, float, float]
    prior: tuple[float, float, float]
    moved: float


class Snapshots(Callback):
    """Follow q while it is trained: where each coordinate stands, and how wide it is.

    A callback. Mean and sd of a mean-field or full-rank q are read off its parameters between two
    compiled calls, at no more than half a percent of the time; at most 200 snapshots of 2,000
    coordinates are kept, 6.4 MB. Draws of the prior, for comparison, may take a tenth of a second
    before the first step and another half percent of the time after it.

    Attributes
    ----------
    coordinates : Coordinates
        What is followed, and in words what is not.
    step : ndarray of int64, shape (points,)
        Steps that had been taken.
    seconds : float
        What snapshots and draws have cost since the first step.

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

    def _begin(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates
        self._n, self._stride = 0, 1.0
        self._step = np.zeros(POINTS, np.int64)
        self._values = np.empty((POINTS, 2, len(coordinates)))
        self.seconds = 0.0
        self._due = self._prior_due = 0.0
        self._off = False
        self._prior: Prior | None = None
        self._draws: list[Array] = []
        self._ends: Array | None = None
        #: Why there is no prior, in words, or "".
        self.without_prior = ""

    # --- what a fit tells -------------------------------------------------------------------------

    def on_fit_start(self, run: Run) -> None:
        """Begin, or go on with the same approximation."""

        def start() -> None:
            if run.approx is not self._approx:
                with self._lock:
                    self._begin(coordinates_of(run.approx))
                self._approx = run.approx
                self._safely_prior(self._head_start)
            self._cut(run.step)
            self._take(run.step)

        self._safely(start)

    def on_block(self, run: Run, block: Block) -> None:
        """Take a snapshot if one is due, or draw from the prior."""
        now = float(block.time[-1])
        if self._off or now < min(self._due, self._prior_due):
            return
        if now >= self._due and run.step >= self._next:
            took = self._timed(lambda: self._take(run.step))
            self._due = time.perf_counter() + max(FASTEST, took / SHARE)
        elif now >= self._prior_due:
            took = self._timed(lambda: self._safely_prior(self._draw))
            self._prior_due = time.perf_counter() + took / PRIOR_SHARE

    def on_idle(self, run: Run) -> None:
        """Draw from the prior while nothing else is to be done."""
        self._safely(lambda: self._safely_prior(self._draw))

    def on_fit_end(self, run: Run) -> None:
        """Take the last one: of a fit that failed, whose parameters went back, there is none."""
        if run.error is None or isinstance(run.error, KeyboardInterrupt):
            self._safely(lambda: self._take(run.step))
        self._safely(lambda: self._safely_prior(self._head_start))

    # --- what there is ----------------------------------------------------------------------------

    @property
    def step(self) -> NDArray[np.int64]:
        """Steps that had been taken at each snapshot."""
        return self._step[: self._n].copy()

    @property
    def mean(self) -> Array:
        """Means on the unconstrained scale, shape (points, coordinates)."""
        return self._values[: self._n, 0].copy()

    @property
    def sd(self) -> Array:
        """Standard deviations on the unconstrained scale, shape (points, coordinates)."""
        return self._values[: self._n, 1].copy()

    def path(self, which: Sequence[int], *, points: int = POINTS) -> tuple[Array, Array]:
        """Compute the middle 68 % of some coordinates over the steps.

        Parameters
        ----------
        which : sequence of int
            Indices of coordinates.
        points : int
            Most points; the last one is always there.

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
        mean, sd = values[:, 0], values[:, 1]
        ends = [self.coordinates.quantile(mean, sd, z, list(which)).T for z in (-1, 0, 1)]
        return step, np.array(ends)

    def now(self) -> Array:
        """Low end, median and high end of the middle 68 % of each coordinate, now.

        Returns
        -------
        ndarray, shape (3, coordinates)
        """
        with self._lock:
            if not self._n:
                return np.full((3, len(self.coordinates)), np.nan)
            mean, sd = self._values[self._n - 1].copy()
        return np.array([self.coordinates.quantile(mean, sd, z) for z in (-1, 0, 1)])

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
            mean, sd = self._values[last].copy()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.hypot(mean - before[0], sd - before[1]) / sd

    @property
    def draws(self) -> int:
        """How many draws of the prior there are."""
        return len(self._draws)

    def prior(self) -> Array | None:
        """Low end, median and high end of the middle 68 % of the prior of each coordinate.

        Returns
        -------
        ndarray or None
            Shape (3, coordinates), NaN where there is none; None while there are too few draws.
        """
        if len(self._draws) < FEWEST:
            return None
        if self._ends is None:
            drawn = np.sort(self._draws, axis=0)  # NaN goes last; a column of them stays one
            places = (np.array([0.1586553, 0.5, 0.8413447]) * (len(drawn) - 1))[:, None]
            low, share = places.astype(int), places % 1
            self._ends = (1 - share) * drawn[low[:, 0]] + share * drawn[low[:, 0] + 1]
        return self._ends

    def rows(self) -> list[Row]:
        """Tell prior and posterior of each coordinate, what moved furthest first, for a table."""
        now, moved, prior = self.now(), self.moved(), self.prior()
        nothing = (np.nan, np.nan, np.nan)
        return [
            Row(
                self.coordinates.names[i],
                tuple(now[:, i].tolist()),
                nothing if prior is None else tuple(prior[:, i].tolist()),
                float(moved[i]),
            )
            for i in np.argsort(-np.nan_to_num(moved), kind="stable").tolist()
        ]

    def __getstate__(self) -> dict[str, Any]:
        """What was seen, without the approximation and the model."""
        return {**self.__dict__, "_approx": None, "_prior": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"<Snapshots: {self._n} of {len(self.coordinates)} coordinates>"

    # --- internals --------------------------------------------------------------------------------

    @property
    def _next(self) -> float:
        """Step from which on there is room for another one."""
        return self._step[self._n - 1] + self._stride if self._n else 0.0

    def _take(self, step: int) -> None:
        if not len(self.coordinates):
            return
        if self._n and self._step[self._n - 1] == step:
            self._n -= 1  # a later look at the same step
        values = _moments(self.coordinates)
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

    def _head_start(self) -> None:
        until = time.perf_counter() + HEAD_START
        while not self.without_prior and len(self._draws) < DRAWS:
            self._draw()
            if time.perf_counter() > until:
                return

    def _draw(self) -> None:
        sources = self.coordinates.sources
        if self.without_prior or not sources or len(self._draws) >= DRAWS:
            self._prior_due = np.inf
            if not sources:
                self.without_prior = "no coordinates"
            return
        if self._prior is None:
            self._prior = Prior([s.latent.variable for s in sources], seconds=LONGEST)
        found = []
        for source, value in zip(sources, self._prior.draw(), strict=True):
            known = value is not None and source.constrained
            flat = np.asarray(value, float).ravel()[source.at] if known else np.nan
            found.append(np.broadcast_to(flat, len(source.at)))
        self._draws.append(np.concatenate(found))
        self._ends = None

    def _safely_prior(self, act: AnyCallable[[], None]) -> None:
        """Do without a prior where the model cannot be drawn in Python: a comparison, no more."""
        try:
            act()
        except Exception as error:
            self.without_prior = f"no prior: {error or type(error).__name__}".partition("\n")[0]
            self._draws, self._ends = [], None

    def _timed(self, act: AnyCallable[[], None]) -> float:
        begun = time.perf_counter()
        self._safely(act)
        took = time.perf_counter() - begun
        self.seconds += took
        return took

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


def _moments(coordinates: Coordinates) -> Array:
    """Mean and sd of each coordinate, from the parameters of its group as they are now."""
    groups: dict[Any, tuple[Array, Array]] = {}
    means, sds = [], []
    for source in coordinates.sources:
        group = source.latent.group
        if group not in groups:
            groups[group] = _of_group(group)
        mean, sd = groups[group]
        at = source.latent.where.start + source.at
        means.append(mean[at])
        sds.append(sd[at])
    return np.array([np.concatenate(means), np.concatenate(sds)])


def _of_group(group: Any) -> tuple[Array, Array]:
    values = {
        name: np.asarray(parameter.get_value(borrow=True), float)
        for name, parameter in group.params_dict.items()
    }
    if not isinstance(group, FullRankGroup):
        return values["mu"], np.logaddexp(0, values["rho"])
    entries = values["L_tril"]  # row by row, up to the diagonal
    ends = np.cumsum(np.arange(1, len(values["mu"]) + 1))
    diagonal = entries[ends - 1]
    square = np.add.reduceat(entries * entries, ends - np.arange(1, len(ends) + 1))
    return values["mu"], np.sqrt(square - diagonal**2 + np.logaddexp(0, diagonal) ** 2)
