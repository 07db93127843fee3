"""How noisy the gradient of one draw is at q, and how much of that sticking the landing leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vitoolkit.density import LogDensity, NormalQ, Unknown

__all__ = ["GradientNoise", "gradient_noise"]


class GradientNoise(NamedTuple):
    """Of the gradient of the ELBO by the means and the logs of the sd of q, for steps in q's sd.

    Attributes
    ----------
    mean : float
        Norm of its mean, as far as it is more than chance: 0 at an optimum; nats.
    total : float
        Standard deviation of the gradient of one draw, as PyMC takes it; nats.
    stl : float
        The same of ``gradient_estimator="stl"``; nats.
    """

    mean: float
    total: float
    stl: float


def gradient_noise(
    q: NormalQ, log_p: LogDensity, draws: int, rng: np.random.Generator
) -> GradientNoise:
    r"""Measure the noise of both estimators of the gradient, on the same draws.

    Parameters
    ----------
    q : NormalQ
        A mean-field q.
    log_p : LogDensity
    draws : int
        Each is one gradient of log p.
    rng : numpy.random.Generator

    Returns
    -------
    GradientNoise

    Raises
    ------
    Unknown
        When q is not mean-field, or a gradient is not finite.

    Notes
    -----
    With a draw :math:`z = \mu + \sigma\varepsilon` and :math:`g = \sigma\,\partial_z \log p(z)`,
    the gradient by :math:`(\mu / \sigma, \log\sigma)` is :math:`(g, g\varepsilon + 1)`, and by
    sticking the landing :math:`(g + \varepsilon, (g + \varepsilon)\varepsilon)` (Roeder, Wu &
    Duvenaud 2017, arXiv:1703.09194). The noise of a minibatch, which both have in common, is not
    in it. A mean of n draws has :math:`1/\sqrt n` of it.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> with pm.Model():
    ...     z = pm.Normal("z", 0.0, 2.0)
    ...     approx = pm.MeanField(start_sigma={"z": np.array([2.0])})
    >>> q = NormalQ(approx)
    >>> found = gradient_noise(q, LogDensity(approx, q), 2_000, np.random.default_rng(1))
    >>> abs(found.total - 3**0.5) < 0.1, found.stl < 1e-6
    (True, True)
    """
    if not q.mean_field:
        raise Unknown("q is not mean-field")
    noise = rng.standard_normal((draws, len(q.mean)))
    moved = np.array([q.sd * log_p.gradient(q.mean + q.sd * each) for each in noise])
    if not np.isfinite(moved).all():
        raise Unknown("the gradient of log p is not finite at a draw")
    total = np.hstack([moved, moved * noise + 1])
    stl = np.hstack([moved + noise, (moved + noise) * noise])
    of_total, of_stl = (float(each.var(axis=0, ddof=1).sum()) for each in (total, stl))
    mean = total if of_total < of_stl else stl  # both have the same mean: the one known better
    square = float((mean.mean(axis=0) ** 2).sum()) - min(of_total, of_stl) / draws
    return GradientNoise(max(square, 0.0) ** 0.5, of_total**0.5, of_stl**0.5)
