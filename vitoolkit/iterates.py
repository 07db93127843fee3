"""Looks at a fit at evenly spread steps: few enough to keep, whatever its length.

They are taken at steps that the seed alone decides, so that what is concluded from them is the same
on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.controls import Control, Draws, LearningRate
from vitoolkit.coordinates import coordinates_of
from vitoolkit.run import Run
from vitoolkit.snapshots import moments
from vitoolkit.trend import drift_of

__all__ = ["Iterates", "Look", "Move", "departed", "mcse_of", "r_hat"]

#: Most looks; when there would be more, every second one goes.
MOST = 200
#: Looks without which nothing is said of a movement, and a movement that counts as none, sd of q.
LEAST, FAR = 8, 0.25
#: A control under a rule is at rest while it stays within this share of its value.
REST = 0.01

Array = NDArray[np.float64]


class Look(NamedTuple):
    """What was seen at a step, and in the steps since the look before.

    Attributes
    ----------
    step : int
        Steps that had been taken.
    objective, noise : float
        Mean of the ELBO at β = 1, or of minus the loss, since the look before, and the standard
        deviation of single steps about their neighbors; nats.
    moments : ndarray, shape (2, coordinates)
        Mean and log sd of q, on the unconstrained scale.
    """

    step: int
    objective: float
    noise: float
    moments: Array


class Move(NamedTuple):
    """How far a coordinate of q moved.

    Attributes
    ----------
    name : str
        The coordinate, or "the sd of" it.
    rise, error : float
        In sd of q, of a sd in units of itself; and its standard error.
    steps : int
        In how many steps.
    """

    name: str
    rise: float
    error: float
    steps: int


_START = Look(0, float("nan"), float("nan"), np.empty((2, 0)))


class Iterates(Callback):
    """Look at q and its objective every so many steps, since anything but a learning rate moved.

    Parameters
    ----------
    every : int
        The first looks are so many steps apart; each time there are too many of them, every second
        one goes, and they are taken half as often.
    most : int
        Most looks.

    Attributes
    ----------
    looks : list of Look
    since : int
        The step since which every control but a learning rate has held its value; one that has a
        rule may move by 1 %.
    names : tuple of str
        Of the coordinates that are followed, 2,000 at most.
    is_elbo : bool
        Whether the objective is the ELBO at β = 1, and not minus the loss.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> from vitoolkit.iterates import Iterates
    >>> iterates = Iterates(50)
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     approx = vt.ADVI(random_seed=1).fit(160, callbacks=[iterates], progressbar=False)
    >>> [look.step for look in iterates.looks], iterates.names
    ([50, 100, 150], ('z',))
    """

    def __init__(self, every: int, most: int = MOST) -> None:
        self.first, self.most = every, most
        self.every: int = every
        self.names: tuple[str, ...] = ()
        self.since, self.is_elbo = 0, False
        self._approx: Any = None
        #: The controls of the run, those that blocks have, and which of them are no learning rate.
        self._known: tuple[tuple[Control, ...], int] = (), 0
        self._at: list[int] = []
        self._held: Array | None = None
        self._begin(0)

    def _begin(self, step: int) -> None:
        self.looks: list[Look] = []
        self.since = step
        self._values: list[Array] = []

    def on_fit_start(self, run: Run) -> None:
        """Begin, or go on with the same approximation."""
        if run.approx is self._approx and run.step >= (self.looks or [_START])[-1].step:
            return
        self._approx, self.every = run.approx, self.first
        self._coordinates = coordinates_of(run.approx)
        self.names = self._coordinates.names
        self.is_elbo = bool(run.variables) and getattr(run.inference, "monitor", None) is None
        self._held = None
        self._begin(run.step)

    def on_block(self, run: Run, block: Block) -> None:
        """Take a look where one is due."""
        rows = self._moved(run, block)
        if rows is not None:
            self._begin(block.first + rows)
        values = block.elbo if self.is_elbo else -block.loss
        self._values.append(values[rows:].copy())
        if run.step % self.every == 0:
            self._look(run)

    def standing(self) -> dict[str, Any]:
        """What was seen; a look is never changed."""
        return {
            "asked": [self.first, self.most, *self.names],
            "every": self.every,
            "since": self.since,
            "held": self._held,
            "values": list(self._values),
            "looks": [tuple(look) for look in self.looks],
        }

    def stand(self, run: Run, found: dict[str, Any]) -> None:
        """Go on from what was seen there, or forget the looks that were left behind."""
        if found.get("asked") == [self.first, self.most, *self.names]:
            self.every, self.since, self._held = found["every"], found["since"], found["held"]
            self._values, self.looks = found["values"], [Look(*told) for told in found["looks"]]
        else:
            self.looks = [look for look in self.looks if look.step <= run.step]
            self.since, self._values = min(self.since, run.step), []

    def _moved(self, run: Run, block: Block) -> int | None:
        """The row of a block since which its controls are at rest; None where they were before."""
        if self._known != (run.controls, block.control.shape[1]):
            self._known = run.controls, block.control.shape[1]
            of = enumerate(run.controls[: block.control.shape[1]])
            self._at = [i for i, control in of if not isinstance(control, LearningRate | Draws)]
        at = self._at
        used = block.control[:, at]
        if self._held is None or len(self._held) != len(at):
            self._held = used[0].copy()
        if (used == self._held).all():
            return None
        ruled = np.array([run.controls[i].rule is not None for i in at])
        rows, self._held = departed(used, self._held, np.where(ruled, REST, 0.0))
        return rows

    def _look(self, run: Run) -> None:
        values = np.concatenate(self._values)
        self._values = []
        if len(values) < self.every:  # the first one, since a control moved
            return
        values = values[np.isfinite(values)]
        if len(values) > 2:
            mean, steps = float(values.mean()), np.abs(np.diff(values))
            noise = float(steps.mean()) * 0.886226925  # √π / 2, of Gaussian noise
        else:
            mean = noise = float("nan")
        seen = moments(self._coordinates)
        with np.errstate(divide="ignore"):
            seen[1] = np.log(seen[1])
        self.looks.append(Look(run.step, mean, noise, seen))
        if len(self.looks) >= self.most and run.step % (2 * self.every) == 0:
            self._thin(run)

    def _thin(self, run: Run) -> None:
        """Drop every second look: what it knows of its steps goes into the next one."""
        self.every *= 2
        pairs = zip(self.looks[:-1], self.looks[1:], strict=True)
        self.looks = [
            Look(
                after.step,
                (before.objective + after.objective) / 2,
                (before.noise + after.noise) / 2,
                after.moments,
            )
            for before, after in pairs
            if after.step % self.every == 0
        ]
        run.renew_due()

    def objective(self, looks: Sequence[Look] | None = None) -> tuple[Array, float]:
        """Mean objective of each look, and the noise of single steps; nats."""
        looks = self.looks if looks is None else looks
        noise = np.array([look.noise for look in looks])
        noise = noise[np.isfinite(noise)]
        return (
            np.array([look.objective for look in looks]),
            float(np.median(noise)) if len(noise) else float("nan"),
        )

    def moments(self, looks: Sequence[Look] | None = None) -> Array:
        """Mean and log sd at each look, shape (looks, 2, coordinates)."""
        looks = self.looks if looks is None else looks
        return np.array([look.moments for look in looks]).reshape(len(looks), 2, len(self.names))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_approx": None, "_coordinates": None, "_known": ((), 0)}

    def moves(self) -> Move | None:
        """What moved furthest in the last half of the looks, of what moves beyond doubt.

        Returns
        -------
        Move or None
            None where nothing moves beyond doubt by more than a quarter of a sd, or there are fewer
            than 8 looks in that half.

        Notes
        -----
        By the slope of a line, see :func:`vitoolkit.trend.drift_of`; a false word in 200 for all
        coordinates together.
        """
        half = self.looks[len(self.looks) // 2 :]
        if len(half) < LEAST or not self.names:
            return None
        seen = self.moments(half)
        seen[:, 0] /= np.exp(seen[-1, 1])
        rise, error = drift_of(seen.reshape(len(half), -1))
        doubt = NormalDist().inv_cdf(1 - 0.0025 / rise.size)
        sure = (np.abs(rise) > doubt * error) & (np.abs(rise) > FAR) & np.isfinite(rise)
        if not sure.any():
            return None
        at = int(np.argmax(np.where(sure, np.abs(rise), 0.0)))
        name = self.names[at % len(self.names)]
        name = name if at < len(self.names) else f"the sd of {name}"
        steps = half[-1].step - half[0].step + self.every
        return Move(name, float(rise[at]), float(error[at]), steps)


def departed(used: Array, held: Array, width: Array) -> tuple[int | None, Array]:
    """The last row that is too far from where the controls stood, which is where they stand then.

    One row after the other is looked at: where a block ends, which is the clock's, has no part in
    it.

    Parameters
    ----------
    used : ndarray, shape (rows, controls)
        What each step used.
    held : ndarray, shape (controls,)
        Where the controls stood before.
    width : ndarray, shape (controls,)
        How far each may be from there, as a part of it.

    Returns
    -------
    row : int or None
        None without such a row.
    held : ndarray, shape (controls,)
        Where the controls stand.

    Examples
    --------
    >>> import numpy as np
    >>> drift = np.array([[1.0], [1.006], [1.012], [1.018], [1.024]])
    >>> row, held = departed(drift, drift[0], np.array([0.01]))
    >>> row, held.tolist()
    (4, [1.024])
    """
    steady = width == 0
    moved = np.abs(used - np.vstack([held, used[:-1]]))  # NaN of one that no step uses
    found = np.flatnonzero((moved[:, steady] > 0).any(axis=1))
    row = int(found[-1]) if len(found) else None
    while True:
        start = 0 if row is None else row + 1
        held = held if row is None else used[row].copy()
        far = np.abs(used[start:] - held) > width * np.abs(held)
        later = np.flatnonzero(far[:, ~steady].any(axis=1))
        if not len(later):
            return row, held
        row = start + int(later[0])


def r_hat(samples: Array, floor: float = 0.0) -> Array:
    """Split R-hat of one chain: its two halves against each other.

    Parameters
    ----------
    samples : ndarray, shape (n, ...)
    floor : float
        Its square is added to the variance within the halves.

    Returns
    -------
    ndarray, shape (...)
        1 where nothing moves at all.

    References
    ----------
    Gelman et al. (2013), "Bayesian Data Analysis", section 11.4.

    Examples
    --------
    >>> import numpy as np
    >>> float(r_hat(np.array([0.0, 1.0, 0.0, 1.0]))), float(r_hat(np.arange(4.0)))
    (0.7071067811865476, 2.1213203435596424)
    """
    half = len(samples) // 2
    one, two = samples[len(samples) - 2 * half : -half], samples[-half:]
    within = (one.var(axis=0, ddof=1) + two.var(axis=0, ddof=1)) / 2 + floor**2
    between = (one.mean(axis=0) - two.mean(axis=0)) ** 2 / 2
    still = within + between == 0
    within = np.where(within > 0, within, np.finfo(float).tiny)
    return np.where(still, 1.0, np.sqrt((half - 1) / half + between / within))


def mcse_of(samples: Array) -> tuple[Array, Array]:
    """Monte Carlo standard error of the mean of correlated samples, and how many they are worth.

    Parameters
    ----------
    samples : ndarray, shape (n, series)

    Returns
    -------
    mcse, ess : ndarray, shape (series,)
        Standard error, and effective sample size by Geyer's initial monotone sequence. A series
        that does not move at all has an error of 0, and n effective samples.

    References
    ----------
    Geyer (1992), "Practical Markov Chain Monte Carlo", Statistical Science 7(4), section 3.3.
    """
    n = len(samples)
    rest = samples - samples.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(rest, 2 * n, axis=0)) ** 2
    covariance = np.fft.irfft(spectrum, axis=0)[:n] / n
    variance = covariance[0]
    moves = variance > 0
    rho = covariance / np.where(moves, variance, 1.0)
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, -1).sum(axis=1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    pairs = np.minimum.accumulate(np.where(positive, pairs, 0.0), axis=0)
    tau = np.maximum(2 * pairs.sum(axis=0) - 1, 1 / np.log10(max(n, 10)))
    ess = np.where(moves, n / tau, n)
    return np.sqrt(variance * n / (n - 1) / ess), ess
