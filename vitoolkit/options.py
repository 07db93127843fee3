"""What a fit is asked for, checked in one place before anything is shown or compiled.

``vitoolkit.fit``, the inferences and ``pm.fit(method=...)`` all come through here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pymc as pm
from pymc.variational.opvi import Approximation, ObjectiveFunction, ParametrizationError
from pytensor.graph.basic import Variable

from vitoolkit.checks import (
    callables,
    flag,
    real_number,
    shown,
    unknown_option,
    whole_number,
)
from vitoolkit.controls import Draws

__all__ = [
    "FIT_OPTIONS",
    "callback_list",
    "check_known",
    "check_schedules",
    "check_start",
    "draws_of",
    "fit_options",
    "model_of",
    "start_sigmas",
    "start_values",
    "step_count",
]

#: Keywords of a fit that reach the objective, as in ``pm.fit``.
FIT_OPTIONS = tuple(
    name
    for name in (*inspect.signature(ObjectiveFunction.updates).parameters, "compile_kwargs")
    if name != "self"
)
#: The losses of ten thousand million steps take 80 GB, and the steps themselves a working day.
MOST_STEPS = 10**10
#: Words of PyMC's for a starting value, in place of a number.
_STRATEGIES = ("prior", "support_point", "moment")


# --- the model and its variables ----------------------------------------------------------------


def model_of(model: Any) -> pm.Model:
    """The model to fit: the one given, or the one in context.

    Raises
    ------
    TypeError
        When there is none, what is given is none, or it has no free variable, as in PyMC.
    ParametrizationError
        When it has discrete ones; PyMC's, a ValueError.
    """
    if model is None:
        model = pm.Model.get_context(error_if_none=False)
        if model is None:
            raise TypeError(
                "there is no model: call this inside `with model:`, or give model=, a pymc.Model"
            )
    if not isinstance(model, pm.Model):
        raise TypeError(f"model must be a pymc.Model, received {shown(model)}")
    if not model.free_RVs:
        raise TypeError(
            f"the model has nothing to fit: it needs a free variable, one that is not observed; "
            f"its variables are {_names(model.named_vars) or 'none'}"
        )
    if model.discrete_value_vars:
        discrete = [model.values_to_rvs[value].name for value in model.discrete_value_vars]
        raise ParametrizationError(
            f"Discrete variables are not supported by variational inference: {_names(discrete)}. "
            "Marginalize, or sample the model with pm.sample"
        )
    return model


def check_known(model: pm.Model, option: str, names: Iterable[Any]) -> None:
    """Refuse a name that is not that of a free variable, with the reason.

    Raises
    ------
    KeyError
        When there is one; the message lists the free variables.
    """
    free = [variable.name for variable in model.free_RVs]
    for name in names:
        if name not in free:
            raise KeyError(_unknown(model, option, name))


def _unknown(model: pm.Model, option: str, name: Any) -> str:
    if name in {v.name for v in model.observed_RVs}:
        why = "it is observed, and only a free variable has a KL"
    elif name in {v.name for v in model.deterministics}:
        why = "it is a Deterministic, and only a free variable has a KL"
    elif name in {v.name for v in model.value_vars}:
        why = "that is the name of a transformed value; use the variable's own"
    else:
        why = "the model has no such variable"
    free = _names(variable.name for variable in model.free_RVs)
    return f"{option} was given for {name!r}: {why}. The free variables are {free}."


# --- where a fit starts ---------------------------------------------------------------------------


def start_values(model: pm.Model, start: Any) -> dict[Any, Any] | None:
    """Starting means by variable, as PyMC takes them.

    Parameters
    ----------
    model : pymc.Model
        The model.
    start : mapping of str to array, optional
        By the variable's own name on its own scale, or by the name of its transformed value
        (``sigma_log__``) on that scale.

    Raises
    ------
    KeyError
        For a name of no free variable.
    TypeError, ValueError
        For a value that is no finite array of the variable's shape.
    """
    found: dict[Any, Any] = {}
    for variable, key, value in _by_variable(model, "start", start):
        symbolic = isinstance(value, Variable)
        if not symbolic and not (isinstance(value, str) and value in _STRATEGIES):
            scaled = variable if key == variable.name else model.rvs_to_values[variable]
            value = _array(f"start of {key!r}", value)
            _check_shape(f"start of {key!r}", value, scaled.type.shape, broadcast=False)
        found[key] = value
    return found or None


def start_sigmas(model: pm.Model, start_sigma: Any) -> dict[str, np.ndarray] | None:
    """Starting standard deviations by the name of the value, flat, as PyMC takes them.

    Raises
    ------
    KeyError
        For a name of no free variable.
    TypeError, ValueError
        For a value that is not positive and finite, or has neither the variable's shape, flat or
        not, nor is a scalar.
    """
    found: dict[str, np.ndarray] = {}
    for variable, key, value in _by_variable(model, "start_sigma", start_sigma):
        sigma = _array(f"start_sigma of {key!r}", value)
        if not (sigma > 0).all():
            raise ValueError(f"start_sigma of {key!r} must be positive, received {shown(value)}")
        target = model.rvs_to_values[variable]
        known = None not in target.type.shape
        if not (known and sigma.shape == (math.prod(target.type.shape),)):  # flat, as PyMC has it
            _check_shape(f"start_sigma of {key!r}", sigma, target.type.shape, broadcast=True)
        found[target.name] = sigma.ravel() if sigma.ndim and known else sigma
    return found or None


def check_start(approx: Approximation, start: Mapping[Any, Any] | None) -> None:
    """Refuse a start that is out of a variable's support: its mean is not finite.

    Parameters
    ----------
    approx : Approximation
        One of a single group with shared parameters.
    start : mapping, optional
        What :func:`start_values` told.

    Raises
    ------
    ValueError
        When there is one; the message names the variable.
    """
    (group,) = approx.groups
    means = group.shared_params["mu"].get_value(borrow=True)
    for variable, key, value in _by_variable(group.model, "start", start):
        where = group.ordering[group.model.rvs_to_values[variable].name][1]
        if not np.isfinite(means[where]).all():
            raise ValueError(
                f"start of {key!r} is out of its support: {shown(value)} is "
                f"{shown(means[where])} on the unconstrained scale"
            )


def _by_variable(model: pm.Model, option: str, given: Any) -> list[tuple[Any, str, Any]]:
    """Variable, the key as a name, and value of what is given by variable or by name."""
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{option} must be a mapping from the variables' names to values, received "
            f"{shown(given)}"
        )
    names = {variable.name: variable for variable in model.free_RVs}
    names.update({model.rvs_to_values[v].name: v for v in model.free_RVs})
    found: dict[Any, tuple[Any, str, Any]] = {}
    for key, value in given.items():
        name: Any = key.name if isinstance(key, Variable) else key
        if name not in names:
            raise KeyError(_unknown(model, option, name))
        variable = names[name]
        if variable in found:
            raise ValueError(
                f"{option} was given twice for {variable.name!r}: as {found[variable][1]!r} and as "
                f"{name!r}"
            )
        found[variable] = (variable, name, value)
    return list(found.values())


def _array(what: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} must be a number or an array, received {shown(value)}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite, received {shown(value)}")
    return array


def _check_shape(what: str, value: np.ndarray, shape: tuple, *, broadcast: bool) -> None:
    """Compare with a static shape, whose unknown lengths are None."""
    if broadcast and value.ndim == 0:
        return
    fits = value.ndim == len(shape) and all(
        wanted in (None, length) for length, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits:
        wanted = "(" + "".join(f"{'?' if n is None else n}, " for n in shape).strip() + ")"
        or_scalar = " or a scalar" if broadcast else ""
        raise ValueError(f"{what} must have the shape {wanted}{or_scalar}, received {value.shape}")


# --- a call of fit --------------------------------------------------------------------------------


def step_count(n: Any) -> int:
    """Number of steps of a fit.

    Raises
    ------
    TypeError
        When it is no whole number.
    ValueError
        When it is negative, or so large that this machine could not even keep the losses.
    """
    n = whole_number("n", n, least=0, of="steps")
    try:
        if n > MOST_STEPS:
            raise MemoryError
        np.empty(n)  # what `hist` will take; nothing is written, so that it costs nothing
    except MemoryError:
        raise ValueError(
            f"n = {n:.3g} steps are too many here: their losses alone take {8 * n / 1e9:,.0f} GB, "
            f"and a record with every=1 many times that. At most {MOST_STEPS:,} are accepted, if "
            "there is memory; with every= a record keeps fewer rows, and fit.stop() ends a fit of "
            "any length"
        ) from None
    return n


def callback_list(callbacks: Any) -> list[Callable]:
    """The callbacks of a fit: a list, or a single one.

    Raises
    ------
    TypeError
        When one cannot be called.
    """
    return callables("callbacks", callbacks, "(approx, losses, i)")


def check_schedules(controls: Iterable[Any], first: int, n: int) -> None:
    """Refuse a schedule whose first two values its control cannot have.

    The value at the start has been seen when the control was made; a schedule that runs the wrong
    way shows at the next.

    Raises
    ------
    TypeError, ValueError
        When there is one.
    """
    for control in controls:
        if control.schedule is None or control.manual:
            continue
        low, high = control.bounds
        for step in range(first, first + min(n, 2)):
            value = control.schedule(step)
            if not low <= value <= high:
                raise ValueError(
                    f"{control.name} must be in [{low:g}, {high:g}], received {value!r} from the "
                    f"schedule {control.schedule!r} at step {step}"
                )


def fit_options(
    what: str, options: Mapping[str, Any], others: Iterable[str] = (), **flags: Any
) -> None:
    """Refuse keywords of a fit that do not exist, or values they cannot have.

    Parameters
    ----------
    what : str
        What was called, for the message.
    options : mapping of str to object
        Keywords that reach the objective.
    others : iterable of str
        Names that are accepted beside them, for the message.
    **flags
        Keywords that must be True or False.

    Raises
    ------
    TypeError
        For a keyword that does not exist, with the nearest that does, or a value of a wrong type.
    ValueError
        For a number out of its range.
    """
    for name in options:
        if name not in (*FIT_OPTIONS, "fn_kwargs"):
            raise unknown_option(what, name, (*others, *FIT_OPTIONS))
    for name, value in flags.items():
        flag(name, value)
    for name in ("obj_n_mc", "tf_n_mc"):
        if options.get(name) is not None and not (name == "obj_n_mc" and draws_of(options)):
            whole_number(name, options[name], least=1, of="draws")
    for name in ("obj_optimizer", "test_optimizer"):
        if name in options and not callable(options[name]):
            raise TypeError(
                f"{name} must be a PyMC optimizer such as pm.adam(learning_rate=0.01), received "
                f"{shown(options[name])}"
            )
    for name in ("compile_kwargs", "fn_kwargs", "more_updates", "more_replacements"):
        value = options.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping, received {shown(value)}")
    bound = options.get("total_grad_norm_constraint")
    if bound is not None and not isinstance(bound, Variable):
        real_number("total_grad_norm_constraint", bound, least=0.0)


def draws_of(options: Mapping[str, Any]) -> tuple[Draws, ...]:
    """The control of the number of draws a step, where a fit was given one."""
    draws = options.get("obj_n_mc")
    return (draws,) if isinstance(draws, Draws) else ()


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
