"""Covariances that a mean-field q implies and does not show: how its means respond."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitoolkit.density import LogDensity, NormalQ, Unknown

__all__ = ["MOST_PARAMETERS", "linear_response"]

#: Most means and standard deviations that it is solved for, together.
MOST_PARAMETERS = 400
#: Gradients that are computed, about: two for each coordinate of each draw.
GRADIENTS = 4_000
FEWEST, MOST = 16, 64

Array = NDArray[np.float64]


def linear_response(q: NormalQ, log_p: LogDensity, *, seed: int = 0) -> Array:
    r"""Covariance of the posterior by linear response.

    Parameters
    ----------
    q : NormalQ
        At its optimum: where it is not, neither is the answer that of the posterior.
    log_p : LogDensity
    seed : int
        Of the draws.

    Returns
    -------
    ndarray, shape (coordinates, coordinates)
        On the unconstrained scale.

    Raises
    ------
    Unknown
        When q is not mean-field, has more parameters than :data:`MOST_PARAMETERS`, the Hessian is
        not finite, or not positive definite as it is at a minimum.

    Notes
    -----
    To tilt the posterior by :math:`t^\top z` moves the optimal means, and their derivative by t is
    its covariance (Giordano, Broderick & Jordan 2018, arXiv:1709.02536, section 3):

    .. math:: \hat\Sigma = \left[(\nabla^2_{\mu, \log\sigma}\mathrm{KL}(q\|p))^{-1}\right]_{\mu\mu}

    It is exact where the posterior is normal. The Hessian is that of an average over mirrored
    quasi-random draws, from central differences of the gradient of log p.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> with pm.Model():
    ...     z = pm.MvNormal("z", np.zeros(2), np.array([[1.0, 0.9], [0.9, 1.0]]))
    ...     approx = pm.MeanField()
    >>> q = NormalQ(approx)
    >>> linear_response(q, LogDensity(approx, q)).round(6)
    array([[1. , 0.9],
           [0.9, 1. ]])
    """
    if not q.mean_field:
        raise Unknown("q is not mean-field: it has correlations of its own")
    size = len(q.mean)
    if 2 * size > MOST_PARAMETERS:
        raise Unknown(
            f"q has {2 * size:,} parameters, and it is solved for up to {MOST_PARAMETERS}"
        )
    hessian = _hessian(q, log_p, seed)
    if not np.isfinite(hessian).all():
        raise Unknown("the Hessian of KL(q‖p) is not finite")
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:
        raise Unknown(
            "the Hessian of KL(q‖p) is not positive definite: q is not at an optimum"
        ) from None
    return np.asarray(np.linalg.inv(hessian)[:size, :size], np.float64)


def _hessian(q: NormalQ, log_p: LogDensity, seed: int) -> Array:
    """Second derivatives of KL(q‖p) in the means and the logs of the standard deviations."""
    noise = _noise(len(q.mean), seed)
    sd, size = q.sd, len(q.mean)
    step = np.cbrt(np.finfo(log_p.dtype).eps) * sd
    mean_mean, mean_sd, sd_sd = np.zeros((3, size, size))
    for each in noise:
        z, width = q.mean + sd * each, sd * each
        second = np.empty((size, size))
        for j in range(size):
            shift = np.zeros(size)
            shift[j] = step[j]
            second[j] = (log_p.gradient(z + shift) - log_p.gradient(z - shift)) / (2 * step[j])
        second = (second + second.T) / 2
        mean_mean -= second
        mean_sd -= second * width
        sd_sd -= second * np.outer(width, width) + np.diag(log_p.gradient(z) * width)
    return np.block([[mean_mean, mean_sd], [mean_sd.T, sd_sd]]) / len(noise)


def _noise(size: int, seed: int) -> Array:
    """Standard normal draws, evenly spread, each with its mirror image: their mean is 0 exactly."""
    from scipy.stats import qmc

    fit = np.clip(GRADIENTS // (2 * size), FEWEST, MOST)
    pairs = 2 ** int(np.log2(fit // 2))
    half = qmc.MultivariateNormalQMC(np.zeros(size), seed=seed).random(pairs)
    return np.concatenate([half, -half])
