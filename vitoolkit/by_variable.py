"""What is done to the step of one variable and not of another: held, or taken at its own rate.

The parameters of q are flat vectors of all variables of a group. Here stands which entries are
whose, so that a number for each variable becomes an array for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pytensor.tensor as pt
from pymc.pytensorf import floatX
from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.opvi import Approximation
from pytensor.graph.traversal import ancestors

from vitoolkit.alike import join, stack
from vitoolkit.controls import Control

__all__ = ["ByVariable", "RATES", "held", "owners", "spread", "variables_of"]

#: Optimizers whose learning rate multiplies the step, whatever the gradient was before.
RATES = (
    "sgd", "momentum", "nesterov_momentum", "adagrad", "adagrad_window", "rmsprop", "adadelta",
    "adam", "adamax",
)  # fmt: skip


class Owner(NamedTuple):
    """Neighboring entries of a parameter, and the variable whose q they are of.

    Attributes
    ----------
    variable : str or None
        None of a parameter that is of no q, such as a weight of a decoder.
    length : int or None
        How many entries; None of a whole parameter, of any shape.
    """

    variable: str | None
    length: int | None


def owners(approx: Approximation, parameter: Any) -> list[Owner]:
    """Whose the entries of a parameter are, in their order.

    Of full rank a variable has its means and its rows of L, which are all of its marginal.

    Parameters
    ----------
    approx : Approximation
        The approximation.
    parameter : SharedVariable
        One of its parameters, or a weight that is trained as well.

    Raises
    ------
    ValueError
        When the parameter is of the q of several variables at once, as a shared encoder's are.
    """
    for group in approx.groups:
        for role, mine in group.params_dict.items():
            if mine is parameter and role in ("mu", "rho", "L_tril"):
                if isinstance(group, MeanFieldGroup | FullRankGroup):
                    return _by_coordinate(group, role)
    variables = variables_of(approx, parameter)
    if len(variables) > 1:
        raise ValueError(
            f"the parameter {parameter.name or parameter} is of the q of several variables at "
            f"once, {', '.join(map(repr, variables))}: no one of them can be held, or trained at "
            "a rate of its own"
        )
    return [Owner(variables[0] if variables else None, None)]


def variables_of(approx: Approximation, parameter: Any) -> list[str]:
    """The variables whose q a parameter or a weight is part of; none of a decoder's weights."""
    groups = [g for g in approx.groups if parameter in ancestors(list(g.params_dict.values()))]
    return [variable.name for group in groups for variable in group.group]


def _by_coordinate(group: Any, role: str) -> list[Owner]:
    found = []
    names = {group.model.rvs_to_values[variable].name: variable.name for variable in group.group}
    for value, where, *_ in sorted(group.ordering.values(), key=lambda place: place[1].start):
        coordinates = range(where.start, where.stop)
        rows = sum(k + 1 for k in coordinates) if role == "L_tril" else len(coordinates)
        found.append(Owner(names[value], rows))
    return found


def spread(values: Sequence[Any], lengths: Sequence[int]) -> Any:
    """A vector that has each scalar as often as its length says.

    It is put together from pieces. To index the scalars would be rewritten to a join of scalars,
    one an entry, which Numba refuses from 1,000 on.
    """
    pieces = []
    for single, some in groupby(zip(lengths, values, strict=True), key=lambda x: x[0] == 1):
        if single:
            pieces.append(stack([value for _, value in some]))
        else:
            pieces += [pt.full((length,), value) for length, value in some]
    return join(pieces)


def of_parameter(approx: Approximation, parameter: Any, values: Mapping[Any, Any]) -> Any | None:
    """The number of each entry of a parameter, as an array of its shape or a scalar.

    Parameters
    ----------
    approx : Approximation
        The approximation.
    parameter : SharedVariable
        The parameter.
    values : mapping of str or None to TensorVariable
        A scalar for each variable; that of None is for all others.

    Returns
    -------
    TensorVariable or None
        None where no entry has a number of its own.
    """
    own = owners(approx, parameter)
    if not any(owner.variable in values for owner in own if owner.variable is not None):
        return None
    lengths = [owner.length for owner in own]
    scalars = [values.get(owner.variable, values[None]) for owner in own]
    if len(own) == 1:
        return scalars[0]
    return spread(scalars, [length for length in lengths if length is not None])


# --- held -----------------------------------------------------------------------------------------


def held(
    approx: Approximation,
    frozen: Mapping[str, Control],
    optimizer: Callable[..., Mapping[Any, Any]],
) -> Callable[..., dict[Any, Any]]:
    """An optimizer that leaves parameters and state of frozen variables as they are, bit for bit.

    Parameters
    ----------
    approx : Approximation
        What is trained.
    frozen : mapping of str to Control
        1 while a variable is frozen, else 0.
    optimizer : callable
        Of gradients and parameters.

    Returns
    -------
    callable
        Likewise. What the optimizer counts for all variables together, as Adam does its steps, goes
        on.

    Raises
    ------
    ValueError
        When it is called, of an optimizer whose state does not go by entries of the parameters.
    """
    values: dict[Any, Any] = {name: control.shared for name, control in frozen.items()}
    values[None] = pt.constant(0, dtype="int8")

    def steps(gradients: Sequence[Any], parameters: Sequence[Any]) -> dict[Any, Any]:
        updates = optimizer(gradients, parameters)
        found = dict(updates)
        known: dict[Any, Any] = {}
        for parameter in parameters:
            mask = of_parameter(approx, parameter, values)
            if mask is None:
                continue
            read = set(ancestors([updates[parameter]]))
            slots = [v for v in updates if v in read and v not in parameters and v.ndim > 0]
            shape = parameter.get_value(borrow=True).shape
            for variable in (parameter, *slots):
                full = variable.get_value(borrow=True).shape
                if full[: len(shape)] != shape or known.setdefault(variable, mask) is not mask:
                    raise ValueError(
                        f"the optimizer has a state of shape {full} for {parameter.name!r} of "
                        f"shape {shape}: it does not go by the entries of one parameter, so that "
                        "no variable can be frozen. PyMC's optimizers can be"
                    )
                more = variable.ndim - mask.ndim
                wide = mask[(..., *[None] * more)] if mask.ndim else mask
                found[variable] = pt.switch(wide, variable, updates[variable])
        return found

    return steps


def without(approx: Approximation, frozen: Mapping[str, Control], gradients, parameters) -> list:
    """The gradients, 0 of what is frozen."""
    values: dict[Any, Any] = {name: control.shared for name, control in frozen.items()}
    values[None] = pt.constant(0, dtype="int8")
    masks = [of_parameter(approx, parameter, values) for parameter in parameters]
    return [
        gradient if mask is None else pt.switch(mask, pt.zeros_like(gradient), gradient)
        for gradient, mask in zip(gradients, masks, strict=True)
    ]


# --- a rate of its own ----------------------------------------------------------------------------


class ByVariable:
    """An optimizer with a learning rate by variable.

    The optimizer takes a step of learning rate 1, of which each variable goes as far as its own
    rate says. Momentum is then a mean of gradients, which a rate that moves does not change.

    Parameters
    ----------
    approx : Approximation
        What is trained.
    optimizer : callable
        One of PyMC's that is called with ``learning_rate=``.
    rates : mapping of str to Control
        The rates, by variable.
    rest : Control or None
        That of all other parameters, None where there are none.

    Attributes
    ----------
    func : callable
        PyMC's function of the optimizer.
    keywords : dict
        What it was called with, and the rates.
    """

    def __init__(
        self, approx: Approximation, optimizer: Any, rates: Mapping[str, Control], rest: Any
    ) -> None:
        self.func = getattr(optimizer, "func", optimizer)
        own = {f"learning_rate[{name}]": rate for name, rate in rates.items()}
        kept = {**getattr(optimizer, "keywords", {})}
        kept["learning_rate"] = 1.0 if rest is None else rest
        self.keywords = {**kept, **own}
        self._optimizer, self._approx = optimizer, approx
        self._rates: dict[Any, Any] = {name: floatX(rate.shared) for name, rate in rates.items()}
        self._rates[None] = floatX(1.0) if rest is None else floatX(rest.shared)

    def __call__(self, gradients: Any, parameters: Sequence[Any]) -> dict[Any, Any]:
        """The updates of a step, as of PyMC's optimizers."""
        updates = dict(self._optimizer(gradients, parameters, learning_rate=1.0))
        for parameter in parameters:
            rate = of_parameter(self._approx, parameter, self._rates)
            rate = self._rates[None] if rate is None else rate
            updates[parameter] = parameter + rate * (updates[parameter] - parameter)
        return updates
