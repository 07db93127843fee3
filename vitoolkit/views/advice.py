"""What the record says in words: that nothing gets better any more, or worse."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vitoolkit.decimation import View

__all__ = ["advice"]

#: A verdict needs so many steps, and so much of the fit.
LEAST_STEPS, SHARE = 2_000, 0.25
#: A change of the mean counts from so many standard errors on.
ERRORS = 3.0
#: Below this part of its largest value a learning rate is small enough to explain a standstill.
SMALL_RATE = 0.02


def advice(view: View, scales: Mapping[str, str]) -> str:
    """Say in words that the objective stands still or gets worse, or return "".

    The means of the two halves of the last quarter of the fit are compared, as long as no control
    but a learning rate moved there: the loss moves when β does. At β = 1 the loss is minus the ELBO
    and is called so.

    Parameters
    ----------
    view : vitoolkit.decimation.View
        Of the record so far.
    scales : mapping of str to str
        How each control is shown; a learning rate is one on a "log" scale.

    Returns
    -------
    str
    """
    n, trace = len(view.step), view.trace
    count = max(int(SHARE * n), 0) // 2 * 2
    if count < 20:
        return ""
    steps = int(view.step[-1] - view.step[-count - 1])
    if steps < LEAST_STEPS:
        return ""
    late = slice(n - count, n)
    for name in trace.controls:
        (low,), (high,) = view.columns("low", [name]), view.columns("high", [name])
        if scales.get(name) == "log":
            if high[late].max() < SMALL_RATE * high.max():
                return ""
        elif low[late].min() != high[late].max():
            return ""
    loss = view.columns("mean", ["loss"])[0][late]
    if not np.isfinite(loss).all():
        return ""
    before, after = loss[: count // 2], loss[count // 2 :]
    # Differences of neighbors know the noise and hardly the trend.
    error = np.sqrt(np.mean(np.diff(loss) ** 2) / 2 * 4 / count)
    fall = before.mean() - after.mean()
    weights = [name for name in trace.controls if scales.get(name) != "log"]
    plain = all(view.columns("last", [name])[0][-1] == 1.0 for name in weights)
    if fall > ERRORS * error:
        return ""
    if fall < -ERRORS * error:
        what = "ELBO has fallen" if plain else "loss has risen"
        return f"the {what} for {steps:,} steps: a smaller learning rate may help"
    what = "ELBO has not risen" if plain else "loss has not fallen"
    return f"the {what} for {steps:,} steps: it has converged, or a smaller learning rate may help"
