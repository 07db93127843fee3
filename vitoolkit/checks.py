"""Checks of what a caller gives: each returns the value in its own type, or says what is accepted.

Every message names what was given, what is accepted and what was received.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

__all__ = ["callables", "flag", "real_number", "seed", "shown", "unknown_option", "whole_number"]


def shown(value: Any) -> str:
    """A value as a message shows it: what is long is cut.

    Examples
    --------
    >>> shown("a"), shown(10**400)
    ("'a'", 'a whole number of 401 digits')
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        # Python refuses to write out the digits of a very large integer.
        return f"a whole number of {int(math.log10(abs(value))) + 1:,} digits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def whole_number(
    what: str, value: Any, *, least: int | None = None, most: int | None = None, of: str = ""
) -> int:
    """A whole number: an int or a NumPy integer, no bool and no float.

    Parameters
    ----------
    what : str
        What the number is called.
    value : int
        The number.
    least, most : int, optional
        Smallest and largest number accepted.
    of : str
        What is counted, for the message: "steps".

    Returns
    -------
    int

    Raises
    ------
    TypeError
        When it is no whole number.
    ValueError
        When it is too small or too large.

    Examples
    --------
    >>> whole_number("every", 3, least=1)
    3
    >>> whole_number("every", 0, least=1, of="steps")
    Traceback (most recent call last):
    ...
    ValueError: every must be a whole number of steps from 1 up, received 0
    """
    problem: type[Exception] | None = None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        problem = TypeError
    elif (least is not None and value < least) or (most is not None and value > most):
        problem = ValueError
    if problem is None:
        return int(value)
    counted = f" of {of}" if of else ""
    raise problem(
        f"{what} must be a whole number{counted}{_range(least, most)}, received {shown(value)}"
    )


def real_number(
    what: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    finite: bool = False,
) -> float:
    """A real number: whatever ``float`` makes one of, but no text, no bool, no None and not NaN.

    Parameters
    ----------
    what : str
        What the number is called.
    value : float
        The number.
    least, most : float, optional
        Smallest and largest number accepted.
    above, below : float, optional
        Ends of the range that are not accepted themselves.
    finite : bool
        Whether ±inf is refused.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        When it is no real number.
    ValueError
        When it is NaN, out of the range of a float, too small or too large.

    Examples
    --------
    >>> real_number("beta", 4)
    4.0
    >>> real_number("beta", 10**400)
    Traceback (most recent call last):
    ...
    ValueError: beta must be a number that a float can hold, received a whole number of 401 digits
    """
    if isinstance(value, bool | np.bool_ | str | bytes | complex) or value is None:
        raise TypeError(f"{what} must be a real number, received {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(
            f"{what} must be a number that a float can hold, received {shown(value)}"
        ) from None
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a real number, received {shown(value)}") from None
    if math.isnan(number):
        raise ValueError(f"{what} must not be NaN, received {shown(value)}")
    too_small = (least is not None and number < least) or (above is not None and number <= above)
    too_large = (most is not None and number > most) or (below is not None and number >= below)
    if too_small or too_large or (finite and math.isinf(number)):
        kind = "a finite number" if finite else "a number"
        range_ = _range(least, most, above, below)
        raise ValueError(f"{what} must be {kind}{range_}, received {shown(value)}")
    return number


def flag(what: str, value: Any) -> bool:
    """True or False, Python's or NumPy's.

    Raises
    ------
    TypeError
        When it is anything else, such as ``"no"``, which Python would take for true.

    Examples
    --------
    >>> flag("background", "no")
    Traceback (most recent call last):
    ...
    TypeError: background must be True or False, received 'no'
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what} must be True or False, received {shown(value)}")
    return bool(value)


def seed(what: str, value: Any) -> Any:
    """A seed of NumPy's generators: None, a whole number or a list of them.

    Raises
    ------
    TypeError, ValueError
        When it is none.

    Examples
    --------
    >>> seed("random_seed", 1)
    1
    """
    accepted = f"{what} must be None or a whole number from 0 to {2**32 - 1}"
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{accepted}, received {value!r}")
    try:
        np.random.RandomState(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{accepted}, received {shown(value)}") from None
    return value


def callables(what: str, values: Any, called: str) -> list[Callable[..., Any]]:
    """A list of callables; None is an empty one, and a single callable a list of one.

    Parameters
    ----------
    what : str
        What the list is called.
    values : callable or iterable of callable, optional
        The callables.
    called : str
        What each is called with, for the message: "(approx, losses, i)".

    Returns
    -------
    list of callable

    Raises
    ------
    TypeError
        When one is not callable.

    Examples
    --------
    >>> callables("callbacks", print, "(approx, losses, i)")
    [<built-in function print>]
    """
    if values is None:
        return []
    if callable(values):
        return [values]
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(
            f"{what} must be a list of what can be called as {called}, received {shown(values)}"
        )
    given = list(values)
    for value in given:
        if not callable(value):
            raise TypeError(f"each of {what} must be callable as {called}, received {shown(value)}")
    return given


def unknown_option(what: str, name: str, accepted: Iterable[str]) -> TypeError:
    """The error that says that an option does not exist, and which one was probably meant.

    Parameters
    ----------
    what : str
        What was given the option.
    name : str
        Name of the option.
    accepted : iterable of str
        Names that exist.

    Returns
    -------
    TypeError

    Examples
    --------
    >>> unknown_option("vitoolkit.fit", "lerning_rate", ["learning_rate", "beta"])
    TypeError("vitoolkit.fit has no option 'lerning_rate'. Did you mean 'learning_rate'?")
    """
    accepted = list(accepted)
    near = difflib.get_close_matches(name, accepted, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"It takes {', '.join(accepted)}."
    return TypeError(f"{what} has no option {name!r}. {hint}")


def _range(
    least: float | None,
    most: float | None,
    above: float | None = None,
    below: float | None = None,
) -> str:
    if above is not None:
        end = f" and below {below:,}" if below is not None else ""
        return f" above {above:,}{end}" + (f", at most {most:,}" if most is not None else "")
    if below is not None:
        return f" from {least:,} to below {below:,}" if least is not None else f" below {below:,}"
    if least is None and most is None:
        return ""
    if most is None:
        return f" from {least:,} up"
    if least is None:
        return f" up to {most:,}"
    return f" from {least:,} to {most:,}"
