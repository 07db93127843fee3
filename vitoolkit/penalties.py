"""Functions of a KL that stand in the loss in its place: a capacity, free bits.

They are part of the graph, so that their gradient is exact in every step: no rule has to move a β
after the fact. A penalty is a recipe: every inference makes the control of its level anew, unless
it is given one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias

import pytensor.tensor as pt
from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation

from vitoolkit.checks import real_number, shown
from vitoolkit.controls import Control
from vitoolkit.latents import Latent, dims_of
from vitoolkit.options import check_known
from vitoolkit.schedules import Schedule, as_schedule

__all__ = ["Penalty", "capacity", "free_bits"]

Level: TypeAlias = "float | Control | Callable[[int], float]"


@dataclass(frozen=True, repr=False)
class Penalty:
    """A function of the KL of a variable, which the loss has in the place of that KL.

    Attributes
    ----------
    level : float, Schedule or Control
        The capacity, or the free nats; live in every fit.
    per : float
        Divisor of the KL: with the number of rows, `level` is of one row.
    by : str or None
        What the KL is taken apart by first: "coordinate" or a dim; None for the whole.

    See Also
    --------
    capacity, free_bits

    Examples
    --------
    >>> import vitoolkit as vt
    >>> found = vt.penalties.free_bits(0.5, by="coordinate")
    >>> isinstance(found, vt.penalties.Penalty), found.level, found.by
    (True, 0.5, 'coordinate')
    """

    level: Any
    per: float = 1.0
    by: str | None = None

    #: What a control of its level is called.
    name = "penalty"

    def control(self, of: str | None) -> Control:
        """The control of the level, of one variable or, without a name, of all."""
        if isinstance(self.level, Control):
            return self.level
        name = self.name if of is None else f"{self.name}[{of}]"
        ends = [self.level] if isinstance(self.level, float) else [self.level(0), self.level.end]
        bounds = (0.0, max(10.0, 2 * max(end for end in ends if end is not None)))
        if isinstance(self.level, float):
            return Control(self.level, bounds=bounds, name=name)
        if self.level.end is None:
            bounds = (0.0, float("inf"))
        return Control(schedule=self.level, bounds=bounds, name=name)

    def __call__(self, kl: Any, level: Any) -> Any:
        """The penalty of one KL or several, elementwise.

        Parameters
        ----------
        kl : TensorVariable
            The KL, or its parts; nats of the full data set.
        level : TensorVariable
            The level, times `per`: a scalar; nats.

        Returns
        -------
        TensorVariable
            Of the shape of `kl`; nats.
        """
        raise NotImplementedError

    def words(self, kl: str, level: str) -> str:
        """What stands in the loss, to be read."""
        raise NotImplementedError

    def call(self, level: str) -> str:
        """The call that makes it, of a level that is written so."""
        said = [level]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name != "level" and value != option.default:
                said.append(f"{option.name}={value!r}")
        return f"{self.name}({', '.join(said)})"

    def __repr__(self) -> str:
        return self.call(repr(self.level))


@dataclass(frozen=True, repr=False)
class _Capacity(Penalty):
    gamma: float = 10.0

    name = "capacity"

    def __call__(self, kl: Any, level: Any) -> Any:
        return floatX(self.gamma) * pt.abs(kl - level)

    def words(self, kl: str, level: str) -> str:
        return f"{self.gamma:g} * |{kl} - {level}|"


@dataclass(frozen=True, repr=False)
class _FreeBits(Penalty):
    name = "free_bits"

    def __call__(self, kl: Any, level: Any) -> Any:
        return pt.maximum(kl, level)

    def words(self, kl: str, level: str) -> str:
        if self.by is None:
            return f"max({kl}, {level})"
        return f"sum by {self.by} of max({kl}, {level})"


def capacity(target: Level, *, gamma: float = 10.0, per: float = 1.0) -> Penalty:
    r"""Hold the KL of a variable at a capacity, which may rise during the fit.

    Parameters
    ----------
    target : float, schedule or Control
        The capacity C, nats of the full data set, as the KL in the trace; divided by `per`. A
        number or a schedule becomes a control, named ``capacity[z]`` after the variable, so that it
        can be moved during the fit; a schedule is exact at every step.
    gamma : float, default 10.0
        γ, what a nat beside the capacity costs.
    per : float, default 1.0
        Divisor of the KL: with the number of rows, `target` is of one row, as in the paper.

    Returns
    -------
    Penalty
        For ``penalty=`` of an inference.

    Raises
    ------
    TypeError, ValueError
        When `target` is no number from 0 up, schedule or control, or `gamma` or `per` is not
        positive and finite.

    Notes
    -----
    In the loss :math:`\beta_v \gamma\, |KL_v - C|` stands in the place of :math:`\beta_v KL_v`.

    The KL is held at C exactly if :math:`\beta_v \gamma \ge \beta^*(C)`, the β at which the KL of
    the β-ELBO's optimum is C. Else the pull of the data is the stronger, and the fit ends where
    :math:`\beta = \beta_v \gamma` would end it, above C.

    References
    ----------
    Burgess et al. (2018), "Understanding disentangling in β-VAE", arXiv:1804.03599, equation 8.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.penalties.capacity(vt.schedules.linear(0.0, 25.0, steps=10_000), gamma=100.0, per=1797)
    capacity(linear(0.0, 25.0, steps=10000), per=1797.0, gamma=100.0)
    """
    return _Capacity(
        _level("target", target),
        per=real_number("per", per, above=0, finite=True),
        gamma=real_number("gamma", gamma, above=0, finite=True),
    )


def free_bits(least: Level, by: str | None = None, *, per: float = 1.0) -> Penalty:
    r"""Let a variable, or each of its coordinates, have some nats for nothing.

    Parameters
    ----------
    least : float, schedule or Control
        λ, nats of the full data set, as the KL in the trace; divided by `per`. A number or a
        schedule becomes a control, named ``free_bits[z]`` after the variable.
    by : str, optional
        "coordinate" for λ nats a coordinate, or one of the variable's dims, over all others of
        which the KL is summed first; None for the whole variable. The rows of a local latent (one
        with a ``total_size``) are summed in any case, because other rows come with the next
        minibatch.
    per : float, default 1.0
        Divisor of the KL: with the number of rows, `least` is of one row, as in the paper.

    Returns
    -------
    Penalty
        For ``penalty=`` of an inference.

    Raises
    ------
    TypeError, ValueError
        When `least` is no number from 0 up, schedule or control, `by` is no text, or `per` is not
        positive and finite.

    Notes
    -----
    In the loss :math:`\beta_v \sum_j \max(\lambda, KL_j)` stands in the place of
    :math:`\beta_v \sum_j KL_j`. So β is in force where :math:`KL_j > \lambda`, and 0 below: at the
    optimum :math:`KL_j` is λ, or that of the β-ELBO's optimum where that is greater.

    References
    ----------
    Kingma et al. (2016), "Improving Variational Inference with Inverse Autoregressive Flow", NIPS,
    appendix C.8 (equation 15).

    Examples
    --------
    >>> import vitoolkit as vt
    >>> vt.penalties.free_bits(0.5, by="coordinate")
    free_bits(0.5, by='coordinate')
    """
    if by is not None and not isinstance(by, str):
        raise TypeError(f"by must be 'coordinate', the name of a dim or None, received {shown(by)}")
    return _FreeBits(
        _level("least", least), per=real_number("per", per, above=0, finite=True), by=by
    )


def _level(what: str, level: Any) -> float | Schedule | Control:
    if isinstance(level, Control):
        if level.bounds[0] < 0:
            raise ValueError(
                f"a KL is not negative, but control {level.name!r}, given as {what}, has bounds "
                f"{level.bounds}"
            )
        return level
    if callable(level):
        schedule = as_schedule(level)
        real_number(f"{what} at step 0", schedule(0), least=0, finite=True)
        return schedule
    try:
        return real_number(what, level, least=0, finite=True)
    except TypeError as error:
        raise TypeError(f"{error}. A schedule or a Control is accepted as well") from None


# --- what an inference is given -----------------------------------------------------------------


class Penalized(NamedTuple):
    """The penalty of one variable in one inference, and the control of its level."""

    penalty: Penalty
    level: Control

    @property
    def by(self) -> str | None:
        """What the KL is taken apart by first."""
        return self.penalty.by

    def __call__(self, kl: Any) -> Any:
        """The penalty, a scalar; nats of the full data set."""
        return self.penalty(kl, floatX(self.level.shared) * floatX(self.penalty.per)).sum()

    def words(self, kl: str) -> str:
        """What stands in the loss, to be read."""
        per = self.penalty.per
        return self.penalty.words(
            kl, f"{per:g} * {self.level.name}" if per != 1 else self.level.name
        )


def penalized(
    approx: Approximation, penalty: Any, latents: Sequence[Latent]
) -> dict[str, Penalized]:
    """The penalty of each variable that has one.

    Parameters
    ----------
    approx : Approximation
        What is trained.
    penalty : Penalty, mapping of str to Penalty, or None
        One for every variable that has a KL, each by itself and all with one level, or one for each
        variable named.
    latents : sequence of Latent
        The free variables.

    Raises
    ------
    KeyError, TypeError, ValueError
        When it is none, or of a variable that has no KL of its own.
    """
    if penalty is None:
        return {}
    if isinstance(penalty, Penalty):
        fit = [latent for latent in latents if not _why_not(latent, penalty)]
        if not fit:
            raise ValueError(
                f"penalty={penalty!r} fits no variable of the model: "
                f"{'; '.join(_why_not(latent, penalty) for latent in latents)}"
            )
        one = Penalized(penalty, penalty.control(fit[0].name if len(fit) == 1 else None))
        return {latent.name: one for latent in fit}
    if not isinstance(penalty, Mapping):
        raise TypeError(_ACCEPTED + shown(penalty))
    check_known(approx.model, "penalty", penalty)
    found = {}
    for latent in latents:
        if latent.name not in penalty:
            continue
        given = penalty[latent.name]
        if not isinstance(given, Penalty):
            raise TypeError(f"for {latent.name!r}, {_ACCEPTED}{shown(given)}")
        if why := _why_not(latent, given):
            raise ValueError(f"penalty of {latent.name!r} is refused: {why}")
        found[latent.name] = Penalized(given, given.control(latent.name))
    return found


_ACCEPTED = (
    "penalty must be one of vitoolkit.penalties, such as capacity(20.0) or free_bits(0.5), or a "
    "mapping from the variables' names to these; received "
)


def _why_not(latent: Latent, penalty: Penalty) -> str:
    """Why a variable cannot have a penalty; empty when it can."""
    family = type(latent.group).__name__
    if latent.flat:
        return f"the prior of {latent.name!r} is flat, so that it has no KL"
    if not latent.has_prior:
        return f"{latent.name!r} has no KL apart from the data: its density is joined with theirs"
    if not latent.splits and (penalty.by is not None or len(latent.group.group) > 1):
        return f"log q of {family}, which holds {latent.name!r}, does not split"
    names = ("coordinate", *dims_of(latent))
    if penalty.by is not None and penalty.by not in names:
        return (
            f"by must be one of {', '.join(map(repr, names))} for {latent.name!r}, received "
            f"{penalty.by!r}"
        )
    return ""
