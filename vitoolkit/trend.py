"""Whether a noisy series of a fit still rises: its slope, and how well that is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCHES", "Trend", "drift_of", "steps_to_go", "trend_of", "trend_of_means"]

#: Batches that the series is cut into: enough for a regression, few enough to be nearly Gaussian.
BATCHES = 40
#: Standard errors of the bounds: the normal quantile of a false word in 200.
ERRORS = 2.8
#: A rise over the series that is smaller than this share of a single step's noise counts as none.
TOLERANCE = 0.25
#: So does one of fewer nats: a q with 0.03 less of KL is nearer by a quarter of its sd at most.
LEAST_NATS = 0.03


class Trend(NamedTuple):
    """How a series moves.

    Attributes
    ----------
    rise : float
        Of the fitted line from one end of the series to the other, nats.
    error : float
        Standard error of `rise`.
    noise : float
        Standard deviation of single steps about their neighbors, robust against outliers.
    wander : float
        How much larger `error` is than noise of independent steps would make it: 1 for a series of
        independent steps, more where its level itself wanders, as it does when the parameters do.
    """

    rise: float
    error: float
    noise: float
    wander: float

    @property
    def tolerance(self) -> float:
        """A smaller rise than this counts as none, nats."""
        return max(TOLERANCE * self.noise, LEAST_NATS)

    @property
    def rises(self) -> bool:
        """Whether it rises beyond doubt, and by more than a trifle."""
        return self.rise > ERRORS * self.error and self.rise > LEAST_NATS

    @property
    def falls(self) -> bool:
        """Whether it falls beyond doubt, and by more than counts as none."""
        return self.rise < -ERRORS * self.error and -self.rise > self.tolerance

    @property
    def still(self) -> bool:
        """Whether a rise that counts is ruled out, and it does not fall."""
        return not self.falls and self.rise + ERRORS * self.error <= self.tolerance


def trend_of(values: NDArray[np.float64]) -> Trend | None:
    """Fit a line to a series, robustly.

    Parameters
    ----------
    values : ndarray, shape (steps,)
        One number a step; those that are not finite are left out.

    Returns
    -------
    Trend or None
        None of a series of fewer than two values a batch.

    Notes
    -----
    The series is cut into :data:`BATCHES` batches. The slope is the median of the slopes between
    the means of any two of them (Theil, 1950; Sen, 1968), which a few outliers do not move; its
    standard error is that of least squares for the rests of the means, which are clipped at three
    robust standard deviations, times the square root of (1 + ρ) / (1 - ρ) where neighboring rests
    are correlated by ρ beyond chance.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(1).normal(size=10_000)
    >>> trend_of(noise).still, trend_of(noise + np.linspace(0, 1, 10_000)).rises
    (True, True)
    """
    values = values[np.isfinite(values)]
    each = len(values) // BATCHES
    if each < 2:
        return None
    values = values[len(values) - each * BATCHES :]
    noise = _deviation(np.diff(values)) / math.sqrt(2)
    return trend_of_means(values.reshape(BATCHES, each).mean(axis=1), noise, each)


def trend_of_means(means: NDArray[np.float64], noise: float, each: int) -> Trend:
    """Fit a line to means of so many steps each, as :func:`trend_of` does.

    Parameters
    ----------
    means : ndarray, shape (n,)
        Finite, 8 at least.
    noise : float
        Standard deviation of single steps about their neighbors.
    each : int
        Steps a mean.

    Returns
    -------
    Trend
    """
    n = len(means)
    first, second = np.triu_indices(n, 1)
    slope = float(np.median((means[second] - means[first]) / (second - first)))
    rests = means - slope * np.arange(n)
    rests -= np.median(rests)
    width = 3 * _deviation(rests)
    rests = np.clip(rests, -width, width)
    power = float(rests @ rests)
    rho = float(rests[1:] @ rests[:-1]) / power if power else 0.0
    rho = min(rho, 0.9) if rho > 2 / math.sqrt(n) else 0.0
    spread = math.sqrt(power / (n - 2))
    # The median of slopes knows the slope of Gaussian means 5 % less well than least squares.
    error = 1.05 * spread * math.sqrt(12 / n * (1 + rho) / (1 - rho))
    alone = noise * math.sqrt(12 / (n * each))
    return Trend(slope * n, error, noise, error / alone if alone else 1.0)


def drift_of(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a line to each of many series, by least squares.

    Parameters
    ----------
    samples : ndarray, shape (n, series)
        Evenly spread, 8 a series at least.

    Returns
    -------
    rise, error : ndarray, shape (series,)
        From one end to the other, and its standard error, in which neighbors whose rests are
        correlated beyond chance count for less.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(1).normal(size=(200, 1))
    >>> rise, error = drift_of(noise + np.linspace(0, 2, 200)[:, None])
    >>> bool(abs(rise[0] - 2) < 3 * error[0])
    True
    """
    n = len(samples)
    at = np.arange(n) - (n - 1) / 2
    spread = float(at @ at)
    slope = at @ samples / spread
    rests = samples - samples.mean(axis=0) - at[:, None] * slope
    power = (rests * rests).sum(axis=0)
    rho = (rests[1:] * rests[:-1]).sum(axis=0) / np.where(power > 0, power, 1.0)
    rho = np.where(rho > 2 / math.sqrt(n), np.minimum(rho, 0.9), 0.0)
    error = np.sqrt(power / (n - 2) / spread * (1 + rho) / (1 - rho))
    return slope * n, error * n


def steps_to_go(before: Trend, after: Trend, steps: int) -> int | None:
    """Guess how many more steps there are until a rise counts as none.

    Parameters
    ----------
    before, after : Trend
        Of the second quarter of the steps and of the last half.
    steps : int
        Steps so far, at the end of `after`.

    Returns
    -------
    int or None
        None where no end is in sight: the rise does not shrink from doubling to doubling.
    """
    if not (before.rise > after.rise > 0):
        return None
    shrinks = after.rise / before.rise
    aim = max(after.tolerance, 1e-12)
    if shrinks > 0.95 or after.rise <= aim:
        return None
    doublings = math.log(aim / after.rise) / math.log(shrinks)
    return int(steps * (2**doublings - 1)) if doublings < 20 else None


def _deviation(values: NDArray[np.float64]) -> float:
    """Standard deviation of Gaussian values, from their median distance to the median."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
