"""Schedules: pure functions ``step -> value`` for β, a learning rate or any other control.

Steps count from 0 over the whole life of an inference. Every schedule follows one convention:
``schedule(0) == start``, ``schedule(steps) == end`` exactly, and ``end`` is held from there on.

=====================================================  ============================
what you want                                          which one
=====================================================  ============================
one value throughout                                   `constant`
KL annealing, β from 0 to 1                            `linear`, `sigmoid`
KL annealing again and again, against KL vanishing     `cyclical`
a learning rate that decays                            `cosine`, `exponential`, `polynomial`
a gentle start before any of these                     `warmup`
a high learning rate over a fixed, short budget        `one_cycle`
a decay that starts afresh to leave a poor optimum     `warm_restarts`
a drop at known steps                                  `piecewise_constant`
a path through known values                            `piecewise_interpolated`
a delay, a hold, one schedule after another            `join`
another end or length in mid-fit                       `redirected`
a function of your own                                 `as_schedule`
=====================================================  ============================

Wherever vitoolkit takes a schedule it also takes a number or a callable ``step -> value``.
"""

import ast
import inspect
import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Schedule",
    "ScheduleLike",
    "as_schedule",
    "constant",
    "cosine",
    "cyclical",
    "exponential",
    "join",
    "linear",
    "one_cycle",
    "parse",
    "piecewise_constant",
    "piecewise_interpolated",
    "polynomial",
    "redirected",
    "scaled",
    "sigmoid",
    "warm_restarts",
    "warmup",
]


@dataclass(frozen=True, slots=True, repr=False)
class Schedule:
    """A pure function ``step -> value``, as the functions of this module make it.

    A schedule is immutable, hashable, and as pickleable as what it was made from. Its ``repr`` is
    the call that made it.

    Attributes
    ----------
    function : callable
        ``function(step, *args) -> float``, consulted before ``steps`` only; of an array of
        consecutive steps it returns the array of their values.
    args : tuple
        What ``function`` gets after the step.
    steps : int or None
        The schedule's length: from this step on its value is ``end`` for good. None if that is
        not known.
    end : float or None
        The final value, or None if ``steps`` is None.
    text : str
        The call that made the schedule.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> beta = schedules.linear(0.0, 1.0, steps=5_000)
    >>> beta
    linear(0.0, 1.0, steps=5000)
    >>> beta(1_000), beta(7_000), beta.steps, beta.end
    (0.2, 1.0, 5000, 1.0)
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    steps: int | None
    end: float | None
    text: str

    def __call__(self, step: int) -> float:
        """Return the value at ``step``, an integer of 0 or more."""
        if type(step) is not int or step < 0:
            step = _integer("step", step, least=0)
        if self.steps is not None and step >= self.steps:
            return self.end  # type: ignore[return-value]  # end is a float wherever steps is an int
        return self.function(step, *self.args)

    def __repr__(self) -> str:
        return self.text

    def values(self, first: int, n: int) -> NDArray[np.float64]:
        """Return the values of the steps ``first`` to ``first + n - 1``.

        Parameters
        ----------
        first : int
            The first step, 0 or more.
        n : int
            The number of steps, 0 or more.

        Returns
        -------
        numpy.ndarray of float64, shape (n,)
            The same numbers, bit for bit, as ``n`` single calls.

        Raises
        ------
        TypeError, ValueError
            If ``first`` or ``n`` is not an integer of 0 or more.

        Examples
        --------
        >>> from vitoolkit import schedules
        >>> schedules.linear(0.0, 1.0, steps=4).values(2, 4)
        array([0.5 , 0.75, 1.  , 1.  ])
        """
        first, n = _integer("first", first, least=0), _integer("n", n, least=0)
        if max(first + n, self.steps or 0) > _EXACT:
            return np.fromiter(map(self, range(first, first + n)), dtype=np.float64, count=n)
        before = n if self.steps is None else min(max(self.steps - first, 0), n)
        values = np.empty(n)
        if before:
            values[:before] = self.function(np.arange(first, first + before), *self.args)
        if before < n:
            values[before:] = self.end
        return values


ScheduleLike = Schedule | float | Callable[[int], float]


def as_schedule(obj: ScheduleLike) -> Schedule:
    """Make a schedule of a schedule, a number or a callable.

    Parameters
    ----------
    obj : Schedule, float or callable
        A schedule is returned as it is; a number becomes `constant`; a callable ``step -> value``
        is wrapped, with ``steps`` and ``end`` None.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError
        If ``obj`` is none of these, or a callable that cannot be called with one argument. Later,
        at the step in question, if the callable does not return a real number.
    ValueError
        If a number is not finite; likewise what the callable returns.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.as_schedule(0.5)
    constant(0.5)
    >>> def robbins_monro(step):
    ...     return (step + 1) ** -0.7
    >>> schedules.as_schedule(robbins_monro)
    as_schedule(robbins_monro)
    >>> schedules.as_schedule(robbins_monro).values(0, 3).round(4)
    array([1.    , 0.6156, 0.4635])
    """
    if isinstance(obj, Schedule):
        return obj
    if isinstance(obj, Real) and not isinstance(obj, bool):
        return constant(obj)
    accepted = "a Schedule, a number, or a callable step -> value is accepted"
    if not callable(obj):
        raise TypeError(f"this cannot be a schedule: received {_shown(obj)}; {accepted}")
    name = getattr(obj, "__name__", None) or repr(obj)
    # What is written in Python has a signature to look at; else the first call has to decide.
    own_call = type(obj).__call__
    if inspect.isfunction(obj) or inspect.ismethod(obj) or inspect.isfunction(own_call):
        try:
            inspect.signature(obj).bind(0)
        except TypeError as error:
            raise TypeError(f"{name} cannot be called with a step ({error}); {accepted}") from error
    return Schedule(_foreign, (obj, name), None, None, f"as_schedule({name})")


def constant(value: float) -> Schedule:
    """Keep one value.

    .. math:: s(k) = value

    Its ``steps`` is 0: it is at its end from the start. Inside a `join` it therefore needs
    ``boundaries`` to say how long it lasts.

    Parameters
    ----------
    value : float
        The value at every step.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If ``value`` is not a finite number.

    References
    ----------
    Higgins et al. (2017), "β-VAE: learning basic visual concepts with a constrained variational
    framework", ICLR: a constant β other than 1.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.constant(4.0).values(0, 3)
    array([4., 4., 4.])
    """
    value = _number("value", value)
    return Schedule(_pieces, ((0,), (value,)), 0, value, f"constant({value})")


def linear(start: float, end: float, *, steps: int) -> Schedule:
    r"""Go from one value to another on a straight line.

    .. math:: s(k) = start + (end - start) \, k / steps

    Parameters
    ----------
    start, end : float
        The values at step 0 and from step ``steps`` on.
    steps : int
        The length, 1 or more.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number or ``steps`` not an integer of 1 or more.

    References
    ----------
    Sønderby et al. (2016), "Ladder variational autoencoders", NeurIPS, arXiv:1602.02282: the
    linear warm-up of the KL term. Bowman et al. (2016): see `sigmoid`.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.linear(0.0, 1.0, steps=4).values(0, 6)
    array([0.  , 0.25, 0.5 , 0.75, 1.  , 1.  ])
    """
    return _ramped("linear", start, end, steps, _straight)


def cosine(start: float, end: float, *, steps: int) -> Schedule:
    r"""Go from one value to another on half a cosine wave: slow, fast, slow.

    .. math:: s(k) = start + (end - start) \, \frac{1 - \cos(\pi k / steps)}{2}

    Parameters
    ----------
    start, end : float
        The values at step 0 and from step ``steps`` on.
    steps : int
        The length, 1 or more.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number or ``steps`` not an integer of 1 or more.

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR: stochastic gradient descent with warm restarts", ICLR,
    arXiv:1608.03983, equation 5, without restarts.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.cosine(1.0, 0.0, steps=4).values(0, 6).round(4)
    array([1.    , 0.8536, 0.5   , 0.1464, 0.    , 0.    ])
    """
    return _ramped("cosine", start, end, steps, _half_wave)


def sigmoid(start: float, end: float, *, steps: int, sharpness: float = 12.0) -> Schedule:
    r"""Go from one value to another on a logistic curve: flat, steep, flat.

    .. math::

        s(k) = start + (end - start) \,
        \frac{\sigma(x_k) - \sigma(x_0)}{\sigma(x_{steps}) - \sigma(x_0)}, \qquad
        x_k = sharpness \, (k / steps - 1/2), \quad \sigma(x) = 1 / (1 + e^{-x})

    The logistic curve only tends to its ends; the fraction makes it reach them.

    Parameters
    ----------
    start, end : float
        The values at step 0 and from step ``steps`` on.
    steps : int
        The length, 1 or more.
    sharpness : float, default 12.0
        How much of the logistic curve is used, 1e-3 or more: it runs from ``-sharpness / 2`` to
        ``sharpness / 2``. Small is nearly `linear`, large nearly a jump half-way.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number, ``steps`` not an integer of 1 or more, or ``sharpness``
        less than 1e-3.

    References
    ----------
    Bowman et al. (2016), "Generating sentences from a continuous space", CoNLL,
    arXiv:1511.06349, section 3.1. The default sharpness is that of the code of Fu et al. (2019).

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.sigmoid(0.0, 1.0, steps=4).values(0, 6).round(4)
    array([0.    , 0.0452, 0.5   , 0.9548, 1.    , 1.    ])
    """
    sharpness = _number("sharpness", sharpness, least=1e-3)
    return _ramped("sigmoid", start, end, steps, _logistic, sharpness=sharpness)


def polynomial(start: float, end: float, *, steps: int, power: float) -> Schedule:
    r"""Go from one value to another on a power of the steps that are left.

    .. math:: s(k) = end + (start - end) \, (1 - k / steps)^{power}

    Parameters
    ----------
    start, end : float
        The values at step 0 and from step ``steps`` on.
    steps : int
        The length, 1 or more.
    power : float
        More than 0. Above 1 the value moves most at first, below 1 most at the end; 1 is `linear`.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number, ``steps`` not an integer of 1 or more, or ``power`` not
        more than 0.

    References
    ----------
    Chen et al. (2018), "DeepLab", IEEE TPAMI, arXiv:1606.00915: the "poly" policy, power 0.9.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.polynomial(1.0, 0.0, steps=4, power=2.0).values(0, 6)
    array([1.    , 0.5625, 0.25  , 0.0625, 0.    , 0.    ])
    """
    start, end = _number("start", start), _number("end", end)
    steps, power = _integer("steps", steps, least=1), _number("power", power, above=0.0)
    text = f"polynomial({start}, {end}, steps={steps}, power={power})"
    return Schedule(_polynomial, (start, end, steps, power), steps, end, text)


def exponential(start: float, end: float, *, steps: int) -> Schedule:
    r"""Go from one value to another by the same factor at every step.

    .. math:: s(k) = start \, (end / start)^{k / steps}

    On a logarithmic axis this is a straight line.

    Parameters
    ----------
    start, end : float
        The values at step 0 and from step ``steps`` on, both more than 0. For a decay by a factor
        ``d`` a step, ``end = start * d**steps``.
    steps : int
        The length, 1 or more.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number of more than 0 or ``steps`` not an integer of 1 or more.

    References
    ----------
    Kirkpatrick, Gelatt and Vecchi (1983), "Optimization by simulated annealing", Science 220:
    a temperature that falls geometrically.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.exponential(1.0, 0.0625, steps=4).values(0, 6)
    array([1.    , 0.5   , 0.25  , 0.125 , 0.0625, 0.0625])
    """
    start, end = _number("start", start, above=0.0), _number("end", end, above=0.0)
    steps = _integer("steps", steps, least=1)
    ratio = end / start
    if not 0.0 < ratio < math.inf:
        raise ValueError(
            f"end / start overflows: received start={start}, end={end}; "
            "values whose ratio is a finite number of more than 0 are accepted"
        )
    text = f"exponential({start}, {end}, steps={steps})"
    return Schedule(_geometric, (start, steps, ratio), steps, end, text)


def cyclical(
    start: float,
    end: float,
    *,
    steps: int,
    cycles: int = 4,
    proportion: float = 0.5,
    ramp: str = "linear",
) -> Schedule:
    r"""Repeat a ramp and a hold: cyclical annealing.

    .. math::

        s(k) = \begin{cases}
        start + (end - start) \, f(\tau_k / proportion) & \tau_k < proportion \\
        end & \tau_k \ge proportion
        \end{cases}

    where :math:`\tau_k` in [0, 1) is the part of its cycle that is over at step k, and f the
    ramp. Each cycle begins at ``start``; after the last one ``end`` is held. If ``cycles`` does
    not divide ``steps``, the cycles' lengths differ by one step.

    Parameters
    ----------
    start, end : float
        The values at which a cycle begins, and at which it and the schedule end.
    steps : int
        The length of all cycles together, ``cycles`` or more.
    cycles : int, default 4
        The number of cycles.
    proportion : float, default 0.5
        The part of a cycle that ramps, more than 0 and at most 1; in the rest ``end`` is held.
    ramp : {"linear", "cosine", "sigmoid"}, default "linear"
        The shape of the ramp, as of the schedule of that name.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    Fu et al. (2019), "Cyclical annealing schedule: a simple approach to mitigating KL vanishing",
    NAACL, arXiv:1903.10145. The shapes "cosine" and "sigmoid" are those of the
    authors' code.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.cyclical(0.0, 1.0, steps=8, cycles=2).values(0, 10)
    array([0. , 0.5, 1. , 1. , 0. , 0.5, 1. , 1. , 1. , 1. ])
    """
    start, end = _number("start", start), _number("end", end)
    steps, cycles = _integer("steps", steps, least=1), _integer("cycles", cycles, least=1)
    proportion = _number("proportion", proportion, above=0.0, most=1.0)
    shape = _shape(ramp)
    if cycles > steps:
        raise ValueError(
            f"cycles must be at most steps: received cycles={cycles}, steps={steps}; "
            "every cycle needs one step or more"
        )
    edges = tuple(cycle * steps // cycles for cycle in range(cycles + 1))
    text = (
        f"cyclical({start}, {end}, steps={steps}, cycles={cycles}, "
        f"proportion={proportion}, ramp={ramp!r})"
    )
    return Schedule(_cycles, (edges, start, end, proportion, shape), steps, end, text)


def warm_restarts(
    start: float, end: float, *, steps: int, cycles: int, growth: float = 1.0
) -> Schedule:
    r"""Repeat a cosine decay, each time from the start: SGDR.

    .. math:: s(k) = end + (start - end) \, \frac{1 + \cos(\pi \tau_k)}{2}

    where :math:`\tau_k` in [0, 1) is the part of its cycle that is over at step k. Cycle i has
    the length :math:`T_i = T_0 \, growth^i`, the bounds between cycles rounded to whole steps;
    after the last cycle ``end`` is held.

    Parameters
    ----------
    start, end : float
        The values at which a cycle begins, and to which it and the schedule go.
    steps : int
        The length of all cycles together. For a first cycle of ``T_0`` steps it is
        ``T_0 * (1 + growth + ... + growth**(cycles - 1))``.
    cycles : int
        The number of cycles, 1 or more.
    growth : float, default 1.0
        How many times longer a cycle is than the one before (the paper's T_mult), 1 or more.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a cycle would be shorter than one step.

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR: stochastic gradient descent with warm restarts", ICLR,
    arXiv:1608.03983, equation 5.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.warm_restarts(1.0, 0.0, steps=6, cycles=2, growth=2.0).values(0, 8).round(4)
    array([1.    , 0.5   , 1.    , 0.8536, 0.5   , 0.1464, 0.    , 0.    ])
    """
    start, end = _number("start", start), _number("end", end)
    steps, cycles = _integer("steps", steps, least=1), _integer("cycles", cycles, least=1)
    growth = _number("growth", growth, least=1.0)
    # Relative to the last cycle, so that a long row of growing cycles cannot overflow.
    lengths = [growth ** (cycle + 1 - cycles) for cycle in range(cycles)]
    total = math.fsum(lengths)
    bounds = accumulate(lengths[:-1], initial=0.0)
    edges = (*(round(steps * bound / total) for bound in bounds), steps)
    if any(left >= right for left, right in pairwise(edges)):
        raise ValueError(
            f"a cycle is shorter than one step: received steps={steps}, cycles={cycles}, "
            f"growth={growth}; more steps, fewer cycles or less growth are accepted"
        )
    text = f"warm_restarts({start}, {end}, steps={steps}, cycles={cycles}, growth={growth})"
    return Schedule(_cycles, (edges, start, end, 1.0, _half_wave), steps, end, text)


def one_cycle(
    start: float,
    end: float,
    *,
    peak: float,
    steps: int,
    proportion: float = 0.3,
    ramp: str = "cosine",
) -> Schedule:
    r"""Go up to a peak and down again: the 1cycle policy.

    .. math::

        s(k) = \begin{cases}
        start + (peak - start) \, f(k / m) & k < m \\
        peak + (end - peak) \, f((k - m) / (steps - m)) & m \le k < steps \\
        end & k \ge steps
        \end{cases}

    with f the ramp and m the step of the peak, ``round(proportion * steps)``.

    Parameters
    ----------
    start, end : float
        The values at step 0 and from step ``steps`` on. Usual for a learning rate: a tenth or
        less of the peak, and a ten-thousandth of the start.
    peak : float
        The value between. Below ``start`` and ``end`` it is a dip, as the paper has for momentum.
    steps : int
        The length, 2 or more.
    proportion : float, default 0.3
        The part of the steps that lies before the peak, between 0 and 1.
    ramp : {"linear", "cosine", "sigmoid"}, default "cosine"
        The shape of both ramps, as of the schedule of that name. The paper's is "linear" (with a
        proportion of just under 0.5, and a final descent that `piecewise_interpolated` can state).

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the peak would fall on the first or the last step.

    References
    ----------
    Smith (2018), "A disciplined approach to neural network hyper-parameters: part 1",
    arXiv:1803.09820. Smith and Topin (2018), "Super-convergence: very fast training of neural
    networks using large learning rates", arXiv:1708.07120.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.one_cycle(0.1, 0.0, peak=1.0, steps=6, proportion=1 / 3).values(0, 8).round(4)
    array([0.1   , 0.55  , 1.    , 0.8536, 0.5   , 0.1464, 0.    , 0.    ])
    """
    start, end, peak = _number("start", start), _number("end", end), _number("peak", peak)
    steps = _integer("steps", steps, least=2)
    proportion = _number("proportion", proportion, above=0.0, most=1.0)
    shape = _shape(ramp)
    top = round(proportion * steps)
    if not 0 < top < steps:
        raise ValueError(
            f"proportion puts the peak on step {top} of {steps}: received {proportion}; "
            f"one with 1 <= round(proportion * steps) <= {steps - 1} is accepted"
        )
    text = (
        f"one_cycle({start}, {end}, peak={peak}, steps={steps}, "
        f"proportion={proportion}, ramp={ramp!r})"
    )
    return Schedule(_path, ((0, top, steps), (start, peak, end), shape), steps, end, text)


def piecewise_constant(values: Sequence[float], *, boundaries: Sequence[int]) -> Schedule:
    r"""Jump from value to value at given steps.

    .. math:: s(k) = values_i \quad\text{for}\quad boundaries_{i-1} \le k < boundaries_i

    with 0 before the first boundary and no bound after the last.

    Parameters
    ----------
    values : sequence of float
        The values, in order; the first one from step 0 on.
    boundaries : sequence of int
        The steps from which on the second value, the third ... hold: increasing, 1 or more, one
        fewer than values.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number, a boundary not an integer of 1 or more, the boundaries
        do not increase, or their number does not fit that of the values.

    References
    ----------
    He et al. (2016), "Deep residual learning for image recognition", CVPR, arXiv:1512.03385: a
    learning rate divided by 10 at given steps.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.piecewise_constant([1.0, 0.1, 0.01], boundaries=[2, 4]).values(0, 6)
    array([1.  , 1.  , 0.1 , 0.1 , 0.01, 0.01])
    """
    levels = _numbers("values", values)
    edges = _edges(boundaries, len(levels), "values")
    text = f"piecewise_constant({list(levels)}, boundaries={list(edges[1:])})"
    return Schedule(_pieces, (edges, levels), edges[-1], levels[-1], text)


def piecewise_interpolated(
    values: Sequence[float], *, boundaries: Sequence[int], ramp: str = "linear"
) -> Schedule:
    r"""Go through given values at given steps.

    .. math::

        s(k) = values_i + (values_{i+1} - values_i) \, f\!\left(
        \frac{k - boundaries_{i-1}}{boundaries_i - boundaries_{i-1}} \right)
        \quad\text{for}\quad boundaries_{i-1} \le k < boundaries_i

    with f the ramp and 0 before the first boundary; after the last one the last value is held.

    Parameters
    ----------
    values : sequence of float
        The values, in order; the first one is that of step 0.
    boundaries : sequence of int
        The steps at which the second value, the third ... are reached: increasing, 1 or more, one
        fewer than values.
    ramp : {"linear", "cosine", "sigmoid"}, default "linear"
        The shape of every ramp, as of the schedule of that name.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number, a boundary not an integer of 1 or more, the boundaries
        do not increase, their number does not fit that of the values, or the ramp is unknown.

    References
    ----------
    Smith (2017), "Cyclical learning rates for training neural networks", WACV, arXiv:1506.01186:
    the triangular policies.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> schedules.piecewise_interpolated([0.0, 1.0, 0.5], boundaries=[2, 4]).values(0, 6)
    array([0.  , 0.5 , 1.  , 0.75, 0.5 , 0.5 ])
    """
    knots, shape = _numbers("values", values), _shape(ramp)
    edges = _edges(boundaries, len(knots), "values")
    text = f"piecewise_interpolated({list(knots)}, boundaries={list(edges[1:])}, ramp={ramp!r})"
    return Schedule(_path, (edges, knots, shape), edges[-1], knots[-1], text)


def warmup(start: float, then: ScheduleLike, *, steps: int) -> Schedule:
    r"""Lead up to another schedule on a straight line.

    .. math::

        s(k) = \begin{cases}
        start + (then(0) - start) \, k / steps & k < steps \\
        then(k - steps) & k \ge steps
        \end{cases}

    Parameters
    ----------
    start : float
        The value at step 0.
    then : Schedule, float or callable
        What follows, counted from its own start; see `as_schedule`.
    steps : int
        The length of the warm-up, 1 or more. That of the whole is ``steps + then.steps``.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If ``start`` is not a finite number, ``then`` not a schedule, or ``steps`` not an integer
        of 1 or more.

    References
    ----------
    Goyal et al. (2017), "Accurate, large minibatch SGD: training ImageNet in 1 hour",
    arXiv:1706.02677, section 2.2.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> rate = schedules.warmup(0.0, schedules.cosine(1.0, 0.0, steps=4), steps=2)
    >>> rate.values(0, 8).round(4)
    array([0.    , 0.5   , 1.    , 0.8536, 0.5   , 0.1464, 0.    , 0.    ])
    >>> rate.steps
    6
    """
    start, steps = _number("start", start), _integer("steps", steps, least=1)
    after = as_schedule(then)
    before = linear(start, after(0), steps=steps)
    return _end_to_end((before, after), (0, steps), f"warmup({start}, {after}, steps={steps})")


def join(*schedules: ScheduleLike, boundaries: Sequence[int] | None = None) -> Schedule:
    r"""Put schedules end to end, each counted from its own start.

    .. math:: s(k) = schedules_i(k - boundaries_{i-1})
        \quad\text{for}\quad boundaries_{i-1} \le k < boundaries_i

    with 0 before the first boundary and no bound after the last. Nothing smooths the seam.

    Parameters
    ----------
    *schedules : Schedule, float or callable
        The schedules, in order; see `as_schedule`.
    boundaries : sequence of int, optional
        The steps at which the second schedule, the third ... begin: increasing, 1 or more, one
        fewer than schedules. A schedule that is longer than its place is cut off, a shorter one
        holds its end. By default each begins where the one before has reached its end.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If something is not a schedule or there is none, the boundaries are not as described, or
        they are left out and a schedule other than the last has no length of its own.

    Examples
    --------
    A hold, then a ramp:

    >>> from vitoolkit import schedules
    >>> beta = schedules.join(0.0, schedules.linear(0.0, 1.0, steps=2), boundaries=[3])
    >>> beta.values(0, 7)
    array([0. , 0. , 0. , 0. , 0.5, 1. , 1. ])
    >>> beta.steps
    5

    One decay after another:

    >>> rate = schedules.join(
    ...     schedules.linear(1.0, 0.5, steps=2), schedules.linear(0.1, 0.0, steps=2)
    ... )
    >>> rate.values(0, 5)
    array([1.  , 0.75, 0.1 , 0.05, 0.  ])
    """
    parts = tuple(as_schedule(schedule) for schedule in schedules)
    if not parts:
        raise ValueError("join received no schedule; one or more are accepted")
    if boundaries is None:
        for part in parts[:-1]:
            if not part.steps:
                raise ValueError(
                    f"join cannot tell how long {part} lasts: received a schedule of "
                    f"steps={part.steps} that is not the last; give boundaries, the steps at "
                    "which the second schedule, the third ... begin"
                )
        edges = tuple(accumulate((part.steps or 0 for part in parts[:-1]), initial=0))
        text = f"join({', '.join(map(repr, parts))})"
    else:
        edges = _edges(boundaries, len(parts), "schedules")
        text = f"join({', '.join(map(repr, parts))}, boundaries={list(edges[1:])})"
    return _end_to_end(parts, edges, text)


def scaled(schedule: ScheduleLike, factor: float, *, least: float = 0.0) -> Schedule:
    r"""Multiply a schedule, and let it go no lower than a bound.

    .. math:: s(k) = \max(\text{factor} \cdot schedule(k),\ \text{least})

    Parameters
    ----------
    schedule : Schedule, float or callable
        See `as_schedule`.
    factor : float
        Not negative.
    least : float, default 0.0
        The lower bound.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If something is not a schedule or a finite number, or `factor` is negative.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> rate = schedules.scaled(schedules.linear(1.0, 0.0, steps=4), 0.5, least=0.25)
    >>> rate
    scaled(linear(1.0, 0.0, steps=4), 0.5, least=0.25)
    >>> rate.values(0, 5)
    array([0.5  , 0.375, 0.25 , 0.25 , 0.25 ])
    """
    inner = as_schedule(schedule)
    factor, least = _number("factor", factor), _number("least", least)
    if factor < 0:
        raise ValueError(f"factor must not be negative; received {factor!r}")
    end = None if inner.end is None else max(factor * inner.end, least)
    text = f"scaled({inner!r}, {factor!r}, least={least!r})"
    return Schedule(_scaled, (factor, least, inner), inner.steps, end, text)


def redirected(
    schedule: ScheduleLike, *, at: int, value: float, end: float, steps: int
) -> Schedule:
    """Leave a schedule at some step, and reach another end at another step.

    Before step `at` nothing changes. From there a new ramp goes from `value` to `end` and reaches
    it at step `steps`, counted from 0 like every step. The ramp is of the kind that was in force at
    that step if that was `cosine`, `sigmoid`, `polynomial` or `exponential`, and else `linear`.

    Parameters
    ----------
    schedule : Schedule, float or callable
        The schedule so far; see `as_schedule`.
    at : int
        The first step of the new ramp.
    value : float
        The value at step `at`.
    end : float
        The new end.
    steps : int
        The new length of the whole; where it is not more than `at`, `end` holds at once.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If something is not a schedule, a finite number or an integer as described.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> beta = schedules.linear(0.0, 1.0, steps=4)
    >>> schedules.redirected(beta, at=2, value=0.5, end=2.0, steps=5)
    join(linear(0.0, 1.0, steps=4), linear(0.5, 2.0, steps=3), boundaries=[2])
    >>> schedules.redirected(beta, at=2, value=0.5, end=2.0, steps=5).values(0, 6)
    array([0.  , 0.25, 0.5 , 1.  , 1.5 , 2.  ])
    """
    before = as_schedule(schedule)
    at, steps = _integer("at", at, least=0), _integer("steps", steps, least=1)
    value, end = _number("value", value), _number("end", end)
    rest: Schedule
    if steps <= at:
        rest = constant(end)
    else:
        rest = _kind_of(before, at)(value, end, steps=steps - at)
    if at == 0:
        return rest
    if before.function is _joined and before.args[0][-1] == at:  # redirected twice at one step
        edges, parts = before.args
        return join(*parts[:-1], rest, boundaries=edges[1:])
    return join(before, rest, boundaries=[at])


def parse(text: str) -> Schedule:
    """Read back the text of a schedule, as its ``repr`` and the events of a trace have it.

    Only the functions of this module, numbers, and lists of them are read; nothing is evaluated as
    code.

    Parameters
    ----------
    text : str
        Such as ``"linear(0.0, 1.0, steps=5000)"``.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError
        If `text` is not a string.
    ValueError
        If it is not the text of a schedule of this module. That of a function of your own,
        ``as_schedule(name)``, cannot be read back.

    Examples
    --------
    >>> from vitoolkit import schedules
    >>> text = repr(schedules.join(schedules.constant(0.0), schedules.cosine(1.0, 0.0, steps=9),
    ...                            boundaries=[3]))
    >>> schedules.parse(text)(3)
    1.0
    """
    if not isinstance(text, str):
        raise TypeError(f"the text of a schedule is a string; received {text!r}")

    def read(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in _PARSED and all(keyword.arg for keyword in node.keywords):
                arguments = {str(keyword.arg): read(keyword.value) for keyword in node.keywords}
                return globals()[node.func.id](*map(read, node.args), **arguments)
        elif isinstance(node, ast.List | ast.Tuple):
            return [read(item) for item in node.elts]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -read(node.operand)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, str):
            return node.value
        raise ValueError(f"{ast.unparse(node)} is neither a number nor one of {', '.join(_PARSED)}")

    try:
        found = read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"this is not the text of a schedule: {text!r} ({error})") from error
    if not isinstance(found, Schedule):
        raise ValueError(f"this is not the text of a schedule: {text!r}")
    return found


_PARSED = tuple(
    name
    for name in __all__
    if name not in ("Schedule", "ScheduleLike", "as_schedule", "parse", "redirected")
)


def _kind_of(schedule: Schedule, step: int) -> Callable[..., Schedule]:
    """Return what makes a ramp of the kind that is in force at a step, `linear` for most."""
    while schedule.function is _joined:
        edges, parts = schedule.args
        i = bisect_right(edges, step) - 1
        schedule, step = parts[i], step - edges[i]
    function, args = schedule.function, schedule.args
    if function is _geometric:
        return _geometric_if_positive
    if function is _polynomial:
        return partial(polynomial, power=args[3])
    if function is _ramp and args[3] is _half_wave:
        return cosine
    if function is _ramp and args[3] is _logistic:
        return partial(sigmoid, sharpness=args[4])
    return linear


def _geometric_if_positive(start: float, end: float, *, steps: int) -> Schedule:
    return (exponential if min(start, end) > 0 else linear)(start, end, steps=steps)


# How a value comes about before the end: functions of the module, so that schedules can be pickled.
# A step is an int or an array of consecutive ones. Both give the same bits on every machine, as
# NumPy does arithmetic as Python does; its sine, power and tanh may differ in the last digit.

#: Up to here integers are exact as floats.
_EXACT = 2**53


def _where(condition: Any, value: Any, otherwise: Any) -> Any:
    if condition is True or condition is False:
        return value if condition else otherwise
    return np.where(condition, value, otherwise)


def _each(function: Callable[[float], float], numbers: Any) -> Any:
    """Apply a function that is not NumPy's to a number, or to each of an array."""
    if type(numbers) is float:
        return function(numbers)
    return np.fromiter(map(function, numbers.tolist()), dtype=np.float64, count=len(numbers))


def _piece(step: Any, *tables: tuple[float, ...]) -> tuple[Any, Sequence[Any]]:
    """Return an index into tables, the first of which has the steps at which pieces begin."""
    edges = tables[0]
    if type(step) is int:
        return bisect_right(edges, step) - 1, tables
    # Only what these steps need, as there may be many more pieces than steps.
    first, stop = bisect_right(edges, step[0]) - 1, bisect_right(edges, step[-1]) + 1
    near = [np.array(table[first:stop]) for table in tables]
    return near[0].searchsorted(step, side="right") - 1, near


def _ramp(
    done: Any, start: Any, end: Any, whole: Any, shape: Callable[..., Any], *more: float
) -> Any:
    # From the nearer end, as the shapes are symmetric: exact at both ends, and never outside them
    # by a rounding error, which would carry a control out of its bounds.
    part = done / whole
    early = part < 0.5
    moved = (end - start) * shape(_where(early, part, 1.0 - part), *more)
    return _where(early, start + moved, end - moved)


def _polynomial(step: Any, start: float, end: float, steps: int, power: float) -> Any:
    left = _each(power.__rpow__, 1.0 - step / steps)
    return _where(left < 0.5, end + (start - end) * left, start - (start - end) * (1.0 - left))


def _geometric(step: Any, start: float, steps: int, ratio: float) -> Any:
    return start * _each(ratio.__pow__, step / steps)


def _pieces(step: Any, edges: tuple[int, ...], values: tuple[float, ...]) -> Any:
    i, (_, near) = _piece(step, edges, values)
    return near[i]


def _path(
    step: Any, edges: tuple[int, ...], values: tuple[float, ...], shape: Callable[[Any], Any]
) -> Any:
    i, (begin, value) = _piece(step, edges, values)
    return _ramp(step - begin[i], value[i], value[i + 1], begin[i + 1] - begin[i], shape)


def _cycles(
    step: Any,
    edges: tuple[int, ...],
    start: float,
    end: float,
    proportion: float,
    shape: Callable[[Any], Any],
) -> Any:
    i, (begin,) = _piece(step, edges)
    part = (step - begin[i]) / (begin[i + 1] - begin[i])
    return _ramp(_where(part < proportion, part, proportion), start, end, proportion, shape)


def _joined(step: Any, edges: tuple[int, ...], schedules: tuple[Schedule, ...]) -> Any:
    if type(step) is int:
        i = bisect_right(edges, step) - 1
        return schedules[i](step - edges[i])
    first, stop = int(step[0]), int(step[-1]) + 1
    values = []
    for i in range(bisect_right(edges, first) - 1, bisect_right(edges, stop - 1)):
        begin = max(first, edges[i])
        end = min([stop, *edges[i + 1 : i + 2]])
        values.append(schedules[i].values(begin - edges[i], end - begin))
    return np.concatenate(values)


def _scaled(step: Any, factor: float, least: float, schedule: Schedule) -> Any:
    if type(step) is int:
        return max(factor * schedule(step), least)
    values = factor * schedule.values(int(step[0]), len(step))
    return np.maximum(values, least)


def _foreign(step: Any, function: Callable[[int], float], name: str) -> Any:
    if type(step) is not int:
        return [_foreign(one, function, name) for one in step.tolist()]
    value = function(step)
    if getattr(value, "shape", None) == ():
        value = value.item()  # type: ignore[attr-defined]  # NumPy's, JAX's, PyTorch's scalars
    if type(value) is float and math.isfinite(value):
        return value
    return _number(f"the value of {name} at step {step}", value)


# Shapes of a ramp: functions f of the part that is over, from f(0) = 0 to f(1) = 1, all of them
# with f(1 - x) = 1 - f(x).


def _straight(part: Any) -> Any:
    return part


def _half_wave(part: Any) -> Any:
    sine = _each(math.sin, 0.5 * math.pi * part)
    return sine * sine  # (1 - cos(pi part)) / 2 without the cancellation


def _logistic(part: Any, sharpness: float = 12.0) -> Any:
    # The docstring's fraction of logistic functions, in a form that cannot overflow.
    lean = _each(math.tanh, sharpness * (part - 0.5) / 2.0)
    return 0.5 * (1.0 + lean / math.tanh(sharpness / 4.0))


_RAMPS: dict[str, Callable[[Any], Any]] = {
    "linear": _straight,
    "cosine": _half_wave,
    "sigmoid": _logistic,
}


# Building and checking.


def _ramped(
    name: str,
    start: float,
    end: float,
    steps: int,
    shape: Callable[..., float],
    **options: float,
) -> Schedule:
    start, end = _number("start", start), _number("end", end)
    steps = _integer("steps", steps, least=1)
    more = "".join(f", {key}={value}" for key, value in options.items())
    text = f"{name}({start}, {end}, steps={steps}{more})"
    return Schedule(_ramp, (start, end, steps, shape, *options.values()), steps, end, text)


def _end_to_end(parts: tuple[Schedule, ...], edges: tuple[int, ...], text: str) -> Schedule:
    last = parts[-1]
    steps = None if last.steps is None else edges[-1] + last.steps
    return Schedule(_joined, (edges, parts), steps, last.end, text)


def _shown(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _number(
    name: str,
    value: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    problem: type[Exception] = TypeError
    if isinstance(value, Real) and not isinstance(value, bool):
        problem = ValueError
        # An integer as it is, for it may be too large; NumPy's scalars would compare in their type.
        number = value if isinstance(value, int) else float(value)
        # Half the range of a float, so that the difference of two values is finite too; NaN fails.
        if abs(number) <= sys.float_info.max / 2 and least <= number <= most and number > above:
            return float(number)
    accepted = ["a finite number"]
    for words, bound in (("at least", least), ("more than", above), ("at most", most)):
        if math.isfinite(bound):
            accepted.append(f"{words} {bound:g}")
    raise problem(f"{name} must be {', '.join(accepted)}: received {_shown(value)}")


def _integer(name: str, value: int, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer of {least} or more: received {_shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be an integer of {least} or more: received {value}")
    return int(value)


def _numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(_number(f"{name}[{i}]", value) for i, value in enumerate(_list(name, values)))
    if not numbers:
        raise ValueError(f"{name} must hold one number or more: received {values!r}")
    return numbers


def _edges(boundaries: Sequence[int], count: int, what: str) -> tuple[int, ...]:
    given = [
        _integer(f"boundaries[{i}]", boundary, least=1)
        for i, boundary in enumerate(_list("boundaries", boundaries))
    ]
    if len(given) != count - 1:
        raise ValueError(
            f"boundaries must be one fewer than {what}: received {len(given)} boundaries for "
            f"{count} {what}; {count - 1} are accepted"
        )
    if any(left >= right for left, right in pairwise(given)):
        raise ValueError(f"boundaries must increase from each to the next: received {given}")
    return (0, *given)


def _list(name: str, values: Sequence[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        raise TypeError(f"{name} must be a list, a tuple or an array: received {_shown(values)}")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"{name} must have one dimension: received shape {values.shape}")
    return list(values)


def _shape(ramp: str) -> Callable[[Any], Any]:
    if not isinstance(ramp, str) or ramp not in _RAMPS:
        accepted = ", ".join(map(repr, _RAMPS))
        raise ValueError(f"unknown ramp: received {ramp!r}; {accepted} are accepted")
    return _RAMPS[ramp]
