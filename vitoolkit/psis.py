"""What ArviZ computes: the tail index of importance ratios, and R-hat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit.files import require

__all__ = ["good_khat", "khat_of", "rhat_of"]

#: Log ratios that differ by less are equal: q is the posterior, up to rounding.
EQUAL = 1e-6

Array = NDArray[np.float64]


def khat_of(log_ratio: Array) -> float:
    """Tail index k-hat of importance ratios, by Pareto smoothing.

    Parameters
    ----------
    log_ratio : ndarray, shape (draws,)
        log p - log q of draws from q; a constant does not matter.

    Returns
    -------
    float
        0 where all ratios are equal; NaN where one is NaN or p is infinite.

    Raises
    ------
    ImportError
        Without arviz-stats or ArviZ; the message names the extra that brings them.

    References
    ----------
    Yao, Vehtari, Simpson & Gelman (2018), "Yes, but Did It Work?", arXiv:1802.02538, section 3.1;
    Vehtari et al. (2024), "Pareto Smoothed Importance Sampling", JMLR 25(72).

    Examples
    --------
    >>> import numpy as np
    >>> heavy = -np.log(np.random.default_rng(1).uniform(size=4_000))  # a ratio's tail of index 1
    >>> 0.8 < khat_of(heavy) < 1.2
    True
    """
    if np.isnan(log_ratio).any() or np.isposinf(log_ratio).any():
        return float("nan")
    inside = log_ratio[np.isfinite(log_ratio)]
    if not len(inside):
        return float("nan")
    if len(inside) == len(log_ratio) and np.ptp(log_ratio) <= EQUAL:
        return 0.0
    # Draws outside of the support of p have no weight; PSIS cannot subtract their infinity.
    ratios = np.where(np.isfinite(log_ratio), log_ratio, inside.min() - 100.0)
    arviz = _arviz()
    # arviz-stats takes log likelihoods, and turns their sign; ArviZ 0 takes log ratios.
    sign = 1.0 if hasattr(arviz, "InferenceData") else -1.0
    return float(np.asarray(arviz.psislw(sign * ratios)[1]))


def good_khat(draws: int) -> float:
    """Compute k-hat up to which so many draws can be trusted: min(1 - 1 / log10 S, 0.7).

    References
    ----------
    Vehtari et al. (2024), "Pareto Smoothed Importance Sampling", JMLR 25(72), section 3.2.4.

    Examples
    --------
    >>> round(good_khat(1_000), 3), good_khat(10_000)
    (0.667, 0.7)
    """
    return min(1 - 1 / float(np.log10(draws)), 0.7)


def rhat_of(values: Array) -> Array:
    """Rank-normalized split R-hat of each coordinate.

    Parameters
    ----------
    values : ndarray, shape (runs, draws, coordinates)

    Returns
    -------
    ndarray, shape (coordinates,)

    References
    ----------
    Vehtari et al. (2021), "Rank-normalization, folding, and localization", Bayesian Analysis 16(2).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> apart = rng.normal(size=(2, 500, 1)) + np.array([0.0, 3.0])[:, None, None]
    >>> bool(rhat_of(apart)[0] > 1.5)
    True
    """
    arviz = _arviz()
    return np.array([float(arviz.rhat(values[:, :, i])) for i in range(values.shape[2])])


def _arviz() -> Any:
    """Its functions of arrays: those of arviz-stats, or of ArviZ 0, which PyMC 5 has."""
    try:
        from arviz_stats.base import array_stats

        return array_stats
    except ImportError:
        require("arviz", extra="diagnose")
        import arviz

        return arviz
