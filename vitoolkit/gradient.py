"""How large a step's gradient is, and how much of it is signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.pytensorf import floatX

__all__ = ["GRADIENT", "gradient_stats"]

#: Names of the columns.
GRADIENT = ("gradient_norm", "gradient_snr", "gradient_dot")
#: Weight of the past in the running moments: they look back over about a hundred steps.
DECAY = 0.99


def gradient_stats(
    gradients: Sequence[pt.TensorVariable], parameters: Sequence[Any]
) -> tuple[pt.TensorVariable, dict[Any, pt.TensorVariable]]:
    r"""Norm and signal-to-noise ratio of the gradient of the loss, and its product with the last.

    Parameters
    ----------
    gradients : sequence of TensorVariable
        The gradient with respect to each parameter, before any constraint of its norm.
    parameters : sequence of SharedVariable
        The parameters.

    Returns
    -------
    stats : TensorVariable
        Norm, signal-to-noise ratio, and the inner product with the gradient of the step before,
        shape (3,), floatX. The norm is in nats divided by c for a unit of the parameters, the
        product in its square; that of the first step is 0.
    updates : dict
        What a step does to the running moments and the last gradient.

    Notes
    -----
    The ratio is :math:`\|m\| / \sqrt{\sum_k (v_k - m_k^2)}`, where m and v are exponential means of
    the gradient and of its square over about a hundred steps, as in Adam. Of pure noise it is about
    0.07, from the steps that the means look back on: :math:`\sqrt{(1 - 0.99) / (1 + 0.99)}`.

    References
    ----------
    Kingma and Ba (2015), "Adam: A Method for Stochastic Optimization", ICLR, section 2.1.
    Rainforth et al. (2018), "Tighter Variational Bounds are Not Necessarily Better", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor
    >>> x = pytensor.shared(np.array([3.0, 4.0]))
    >>> stats, updates = gradient_stats([1.0 * x], [x])
    >>> step = pytensor.function([], stats, updates=updates, mode="FAST_COMPILE")
    >>> float(step()[0])
    5.0
    """
    decay, rest = floatX(DECAY), floatX(1 - DECAY)

    def moment(value: Any, shape: Any, name: str) -> Any:
        return pytensor.shared(
            np.zeros_like(value, dtype=pytensor.config.floatX), name=name, shape=shape
        )

    weight = moment(0.0, (), "gradient_weight")
    updates: dict[Any, pt.TensorVariable] = {weight: decay * weight + rest}
    squares, signal, power, product = [], [], [], []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        value = parameter.get_value(borrow=True)
        mean = moment(value, parameter.type.shape, f"{parameter.name}_gradient")
        square = moment(value, parameter.type.shape, f"{parameter.name}_gradient_square")
        last = moment(value, parameter.type.shape, f"{parameter.name}_gradient_last")
        gradient = floatX(gradient)
        product.append((gradient * last).sum())
        updates[last] = gradient
        updates[mean] = decay * mean + rest * gradient
        updates[square] = decay * square + rest * gradient**2
        squares.append((gradient**2).sum())
        signal.append((updates[mean] ** 2).sum())
        power.append(updates[square].sum())
    seen = updates[weight]
    mean_square = pt.add(*signal) / seen**2
    noise = pt.maximum(pt.add(*power) / seen - mean_square, 0)
    stats = [pt.sqrt(pt.add(*squares)), pt.sqrt(mean_square / noise), pt.add(*product)]
    return pt.stack(stats), updates
