"""The average of the iterates of q, taken in the compiled step: late ones count by far the most.

A learning rate that stays above zero leaves q wandering about its optimum. The average of where it
was is nearer to it, by the more the longer it wanders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cloudpickle
import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.variational.opvi import Approximation

from vitoolkit.controls import Control

__all__ = ["POWER", "REST", "averaged", "averages"]

#: The weight of an iterate grows as this power of the number of steps.
POWER = 3
#: A β is at rest while it stays within this share of its value.
REST = 0.01


def averages(
    updates: Mapping[Any, Any], parameters: Sequence[Any], controls: Iterable[Control]
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    r"""What a step changes beside parameters and optimizer when the iterates are averaged.

    Parameters
    ----------
    updates : mapping
        New values of the parameters, symbolic.
    parameters : sequence of SharedVariable
        What is averaged.
    controls : iterable of Control
        The average begins anew when one of these moves, by more than 1 %.

    Returns
    -------
    means, counters : dict of SharedVariable to Variable
        The average of each parameter, in their order; the number of steps in it, and the values
        that the controls are held at; each with its update.

    Notes
    -----
    .. math::

        \bar\lambda_n = \bar\lambda_{n-1}
            + \frac{\eta + 1}{n + \eta}\,(\lambda_n - \bar\lambda_{n-1}), \qquad \eta = 3

    for the n-th step since the controls are at rest: polynomial-decay averaging. No step has to be
    named where the tail begins; the last half of the steps has 94 % of the weight. For iterates of
    constant step its variance is (η + 1)² / (2η + 1) = 16/7 times that of the plain average, and
    what is left of the start falls as :math:`n^{-4}` where the plain average's falls as 1/n.

    References
    ----------
    Polyak & Juditsky (1992), "Acceleration of stochastic approximation by averaging", SIAM J.
    Control Optim. 30(4). Shamir & Zhang (2013), "Stochastic gradient descent for non-smooth
    optimization", ICML, eq. 4.
    """
    controls = list(dict.fromkeys(controls))
    count = pytensor.shared(np.array(0, "int64"), name="steps in the average")
    held = [pytensor.shared(np.array(c.value, c.shared.dtype), name=f"held {c}") for c in controls]
    moved = pt.zeros((), "bool")
    for control, at in zip(controls, held, strict=True):
        moved = moved | (abs(control.shared - at) > REST * abs(at))
    n = pt.switch(moved, np.int64(1), count + 1)
    counters: dict[Any, Any] = {count: n}
    for control, at in zip(controls, held, strict=True):
        counters[at] = pt.switch(moved, control.shared, at)
    means = {}
    for parameter in parameters:
        value = parameter.get_value(borrow=False)
        mean = pytensor.shared(
            value, name=f"average of {parameter.name}", shape=parameter.type.shape
        )
        share = ((POWER + 1) / (n + POWER)).astype(parameter.dtype)
        means[mean] = mean + share * (updates[parameter] - mean)
    return means, counters


def averaged(
    approx: Approximation, parameters: Sequence[Any], values: Sequence[np.ndarray]
) -> Approximation:
    """A copy of an approximation, with its model, that has other values of its parameters.

    Parameters
    ----------
    approx : Approximation
    parameters : sequence of SharedVariable
        Its own, and others that its graph uses, such as the weights of an encoder.
    values : sequence of ndarray
        Of each in the copy.
    """
    copied, own = cloudpickle.loads(cloudpickle.dumps((approx, list(parameters))))
    for parameter, value in zip(own, values, strict=True):
        parameter.set_value(value)
    return copied
