"""The end of a fit, found by itself: when neither q nor the ELBO moves any more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.checks import real_number, shown, whole_number
from vitoolkit.iterates import Iterates, Look, mcse_of, r_hat
from vitoolkit.run import Run
from vitoolkit.trend import ERRORS, trend_of_means

__all__ = ["METHODS", "StopWhenConverged", "Told", "elbo_still", "faso", "relative_elbo"]

METHODS = ("auto", "both", "faso", "elbo", "relative_elbo")
RESTORES = ("average", "best", None)
#: Fewest looks of which something is said.
LEAST = 40
#: The next decision comes when there are so many times more steps.
GROWTH = 1.1
#: A wandering of the parameters by less than this share of the sd of q is nothing.
FLOOR = 0.2
#: Steps over which a rise of the ELBO by a quarter of a single step's noise counts as none.
HORIZON = 10_000


class Told(NamedTuple):
    """Whether something is at its end, and why, in words."""

    done: bool
    why: str


def elbo_still(
    objective: np.ndarray, noise: float, each: int, name: str = "ELBO", settled: int = 0
) -> Told:
    """Tell whether the ELBO is still, in units of its own noise.

    Parameters
    ----------
    objective : ndarray, shape (looks,)
        Its mean over the steps of each look, nats; the last half is judged.
    noise : float
        Standard deviation of single steps, nats.
    each : int
        Steps a look.
    name : str
        What it is called.
    settled : int
        Looks that were taken while a learning rate was on its schedule. If these reach into the
        last half, the looks after them are judged as well, and either may be still: what the
        ELBO gained as the rate fell is not what it will gain.

    Returns
    -------
    Told
        It is still when a rise is ruled out, by 2.8 standard errors, that would come to a quarter
        of a single step's noise in as many steps as were judged, or in 10,000 if these are fewer;
        and it does not fall.

    Examples
    --------
    >>> import numpy as np
    >>> noise = 0.1 * np.random.default_rng(1).normal(size=200)  # of means of 100 steps
    >>> elbo_still(noise, 1.0, 100).done, elbo_still(noise + np.arange(200) / 100, 1.0, 100).done
    (True, False)
    """
    half = len(objective) // 2
    told = _still(objective[half:], noise, each, name)
    if told.done or len(objective) - settled < LEAST // 2 or settled <= half:
        return told
    after = _still(objective[settled:], noise, each, name)
    return after if after.done else told


def _still(means: np.ndarray, noise: float, each: int, name: str) -> Told:
    """Tell whether means of so many steps are still."""
    means = means[np.isfinite(means)]
    if len(means) < LEAST // 2:
        return Told(False, f"too few looks at the {name}")
    trend = trend_of_means(means, noise, each)
    steps = each * len(means)
    bound = trend.rise + ERRORS * trend.error
    done = not trend.falls and bound <= trend.tolerance * min(1.0, steps / HORIZON)
    return Told(
        done, f"the {name} rises by less than {max(bound, 0.0):.2g} nats in {steps:,} steps"
    )


def relative_elbo(objective: np.ndarray, tolerance: float = 0.01) -> Told:
    """Tell whether the ELBO changes little from look to look, relative to itself.

    Parameters
    ----------
    objective : ndarray, shape (looks,)
        Its mean over the steps of each look, nats.
    tolerance : float
        Mean or median change of the last tenth of the looks, ten at least.

    Returns
    -------
    Told

    References
    ----------
    Kucukelbir et al. (2015), "Automatic Variational Inference in Stan", NeurIPS; the rule of Stan's
    ``variational``, which looks at the ELBO of 100 draws.
    """
    recent = objective[np.isfinite(objective)]
    recent = recent[-(max(10, len(recent) // 10) + 1) :]
    if len(recent) < 11:
        return Told(False, "too few looks at the ELBO")
    scale = np.where(recent[1:] == 0, np.finfo(float).tiny, np.abs(recent[1:]))
    change = np.abs(np.diff(recent)) / scale
    least = min(float(change.mean()), float(np.median(change)))
    return Told(least < tolerance, f"the ELBO changes by {least:.2g} of itself from look to look")


def faso(
    moments: np.ndarray,
    names: Sequence[str] = (),
    *,
    rhat: float = 1.1,
    mcse: float = 0.2,
    ess: float = 5.0,
    window: int = LEAST,
    floor: float = FLOOR,
) -> Told:
    """Tell whether the iterates of q are stationary, and their mean is known well enough.

    Parameters
    ----------
    moments : ndarray, shape (looks, 2, coordinates)
        Mean and log sd of q at evenly spread steps.
    names : sequence of str
        Of the coordinates, for the words.
    rhat, mcse, ess : float
        Largest split R-hat; largest Monte Carlo standard error of the mean of the means, in sd of
        q, and of that of the log sds; fewest effective samples. The paper's largest error is 0.1;
        a mean that is off by 0.2 sd costs 0.02 nats of KL.
    window : int
        Fewest looks in a window.
    floor : float
        A wandering by less than this, in sd of q, is not held against a coordinate: its square is
        added to the variance within the halves.

    Returns
    -------
    Told

    Notes
    -----
    Of five windows at the end, from half of the looks, or `window`, to 95 % of all, the one with
    the least R-hat is taken; the paper's shortest one stays 200 iterates, in which a fit of 20,000
    moves little. Looks stand in for single iterates; as in the paper the effective samples are
    to be more than an eighth of the shortest window. `floor` is not in the paper: without it a fit
    is kept from its end by coordinates that wander slowly within a twentieth of their sd, see
    ``docs/convergence.md``.

    References
    ----------
    Welandawe, Andersen, Vehtari & Huggins (2022), "A framework for improving the reliability of
    black-box variational inference", arXiv:2203.15945, Algorithm 1 (FASO); R-hat and standard
    errors as in the authors' viabel.
    """
    looks, _, count = moments.shape
    longest = int(0.95 * looks)
    if longest < window:
        return Told(False, "too few looks at q")
    if not count:
        return Told(True, "q has no coordinate that can be followed")
    series = moments.reshape(looks, -1).copy()
    series[:, :count] /= np.exp(moments[-window:, 1].mean(axis=0))  # in sd of q
    best, found = longest, np.array([np.inf])
    shortest = min(max(window, looks // 2), longest)
    for w in np.unique(np.linspace(shortest, longest, 5).astype(int))[::-1]:
        now = r_hat(series[-w:], floor)
        if now.max() < found.max():
            best, found = int(w), now
    if not found.max() <= rhat:
        return Told(False, f"{_named(names, found, count)} still moves, R-hat {found.max():.3g}")
    errors, worth = mcse_of(series[-best:])
    if not errors.max() < mcse:
        which = _named(names, errors, count)
        return Told(False, f"the mean of {which} is not known yet, ±{errors.max():.2g} sd of q")
    if not worth.min() > ess:
        which = _named(names, -worth, count)
        return Told(False, f"{which} wanders, {worth.min():.0f} effective samples")
    return Told(
        True,
        f"q is stationary: R-hat {found.max():.3g} over {best} looks at it, whose mean is known to "
        f"{errors.max():.2g} sd",
    )


def _named(names: Sequence[str], values: np.ndarray, count: int) -> str:
    """The coordinate with the largest value: its mean comes before its sd."""
    at = int(np.argmax(values))
    name = names[at % count] if names else f"coordinate {at % count}"
    return name if at < count else f"the sd of {name}"


class StopWhenConverged(Callback):
    """End a fit when it has converged: a callback.

    It looks at q and at the ELBO every so many steps, waits until every schedule has ended and
    every β is at rest, and ends the fit when neither moves any more: at the same step on any
    machine, however many steps a compiled call takes. Why is an event of the trace, with source
    "converged", and the words that the log says.

    Parameters
    ----------
    method : {"auto", "both", "faso", "elbo", "relative_elbo"}
        "faso": the parameters of q are stationary, and their average is known
        (:func:`vitoolkit.stopping.faso`). "elbo": the ELBO at β = 1 is still in units of its own
        noise (:func:`vitoolkit.stopping.elbo_still`). "both": both of them. "auto", the default:
        "elbo" where a group of q is amortized, whose networks nobody follows, else "both".
        "relative_elbo": Stan's rule, for comparison; it stops too early on a noisy ELBO.
    every : int, default 50
        The first looks are so many steps apart; there are 200 at most, then every second one goes
        and they are taken half as often.
    restore : {"average", "best", None}
        What q is at the end: the average of its iterates since β is at rest, late ones by far the
        most (weights grow as the cube of the number of steps); the iterate at the end of the steps
        with the highest mean ELBO; or the last.
    rhat, mcse, ess : float
        Limits of "faso".
    tolerance : float
        Limit of "relative_elbo".

    Attributes
    ----------
    converged : bool
        Whether the last fit has converged.
    why : str
        Why it has, or has not yet.

    Raises
    ------
    TypeError, ValueError
        When an argument is not one of its kind.

    Notes
    -----
    A schedule of a learning rate is waited for as well, if it has an end, and the steps after it
    are looked at for themselves. A β under a rule is at rest while it stays within 1 %; a rule of
    the learning rate is not waited for. A decision costs
    most when there are few steps, and comes again when there are a tenth more. It is told of what
    was seen, not that q is near the posterior; see ``docs/convergence.md`` for how often it is
    wrong.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(
    ...         50_000,
    ...         learning_rate=0.02,
    ...         callbacks=vt.StopWhenConverged(),
    ...         random_seed=1,
    ...         progressbar=False,
    ...     )
    >>> fit.status, fit.trace.events[-1].source, len(fit.trace) < 20_000
    ('stopped', 'converged', True)
    """

    def __init__(
        self,
        method: str = "auto",
        *,
        every: int = 50,
        restore: str | None = "average",
        rhat: float = 1.1,
        mcse: float = 0.2,
        ess: float = 5.0,
        tolerance: float = 0.01,
    ) -> None:
        if method not in METHODS:
            raise ValueError(
                f"method must be one of {', '.join(map(repr, METHODS))}, received {shown(method)}"
            )
        if restore not in RESTORES:
            raise ValueError(
                f"restore must be 'average', 'best' or None, received {shown(restore)}"
            )
        self.method = self._by = method
        self.restore = restore
        self.rhat = real_number("rhat", rhat, above=1)
        self.mcse = real_number("mcse", mcse, above=0)
        self.ess = real_number("ess", ess, above=0)
        self.tolerance = real_number("tolerance", tolerance, above=0)
        self.iterates = Iterates(whole_number("every", every, least=1, of="steps"))
        self._forget()

    def _forget(self) -> None:
        self.converged, self.why = False, "nothing was seen yet"
        self._next = 0
        self._since: int | None = None
        self._average: list[np.ndarray] = []
        self._weight = 0.0
        self._best: list[np.ndarray] = []
        self._highest = -math.inf

    @property
    def due(self) -> int:
        """When the next look is due."""
        return self.iterates.every

    def on_fit_start(self, run: Run) -> None:
        """Begin anew."""
        self._forget()
        amortized = any(group.user_params is not None for group in run.approx.groups)
        auto = "elbo" if amortized else "both"
        self._by = auto if self.method == "auto" else self.method
        self.iterates = Iterates(self.iterates.first)
        self.iterates.on_fit_start(run)

    def on_block(self, run: Run, block: Block) -> None:
        """Look, and end the fit where it has converged."""
        if self.converged:  # what was asked for waits for the next step boundary
            return
        each, before = self.iterates.every, len(self.iterates.looks)
        self.iterates.on_block(run, block)
        looks = self.iterates.looks
        if not looks or looks[-1].step != run.step:
            if not looks:
                self.why = self._waits(run) or "too few looks"
            return
        if self.restore is not None:
            self._keep(run, looks[-1], thinned=len(looks) < before)
        if run.step < self._next or len(looks) < LEAST:
            return
        self._next = run.step + int((GROWTH - 1) * each * len(looks))
        waits = self._waits(run)
        told = Told(False, waits) if waits else self.tell(self._scheduled(run))
        self.why = told.why
        if told.done:
            self._end(run)

    def standing(self) -> dict[str, Any]:
        """What was seen, and what is kept of the iterates; {} when the end has been found."""
        if self.converged:
            return {}
        return {
            "asked": self._settings(),
            "why": self.why,
            "next": self._next,
            "since": self._since,
            "average": [mean.copy() for mean in self._average],
            "weight": self._weight,
            "best": list(self._best),
            "highest": self._highest,
            "iterates": self.iterates.standing(),
        }

    def stand(self, run: Run, found: dict[str, Any]) -> None:
        """Go on from what was seen there, or begin anew."""
        self._forget()
        found = found if found.get("asked") == self._settings() else {}
        self.iterates.stand(run, found.get("iterates", {}))
        if found:
            self.why, self._next, self._since = found["why"], found["next"], found["since"]
            self._average, self._weight = found["average"], found["weight"]
            self._best, self._highest = found["best"], found["highest"]

    def _settings(self) -> list[Any]:
        limits = [self.rhat, self.mcse, self.ess, self.tolerance]
        return [self.method, self.restore, self.iterates.first, *limits]

    def _waits(self, run: Run) -> str:
        """Which schedule has not ended yet, in words, or ""."""
        for control in run.controls:
            schedule = control.schedule
            if schedule is None or schedule.steps is None or control.manual:
                continue
            if run.step < schedule.steps:
                return f"{control.name} is on its schedule for {schedule.steps:,} steps"
        return ""

    def _scheduled(self, run: Run) -> int:
        """How many looks have steps of a schedule that has ended since."""
        schedules = [c.schedule for c in run.controls if c.schedule is not None and not c.manual]
        end = max((s.steps for s in schedules if s.steps is not None), default=0)
        return sum(look.step - self.iterates.every < end for look in self.iterates.looks)

    def tell(self, settled: int = 0) -> Told:
        """Whether what was seen since β is at rest has converged, and why.

        Parameters
        ----------
        settled : int
            Looks before the last schedule ended.

        Returns
        -------
        Told
        """
        iterates = self.iterates
        objective, noise = iterates.objective()
        name = "ELBO" if iterates.is_elbo else "objective"
        if self._by == "relative_elbo":
            return relative_elbo(objective, self.tolerance)
        told = []
        if self._by == "elbo" or (self._by == "both" and np.isfinite(noise)):
            told.append(elbo_still(objective, noise, iterates.every, name, settled))
        if self._by in ("both", "faso") and all(one.done for one in told):
            told.append(
                faso(
                    iterates.moments(), iterates.names,
                    rhat=self.rhat, mcse=self.mcse, ess=self.ess,
                )
            )  # fmt: skip
        missing = [one.why for one in told if not one.done]
        return Told(not missing, "; ".join(missing or [one.why for one in told]))

    def _keep(self, run: Run, look: Look, *, thinned: bool) -> None:
        """Take the present iterate into the average, or for the best one."""
        since = self.iterates.since
        if since != self._since or not self._average:
            self._since, self._weight = since, 0.0
            self._average = [parameter.copy() for parameter in run.parameters()]
            self._highest = -math.inf
        if self.restore == "average":
            weight = self.iterates.every * float(run.step - since) ** 3
            self._weight += weight
            share = weight / self._weight
            for mean, parameter in zip(self._average, run.parameters(), strict=True):
                mean += share * (parameter - mean)
        elif thinned or look.objective > self._highest:  # means of more steps are less noisy
            self._highest = look.objective
            self._best = [parameter.copy() for parameter in run.parameters()]

    def _end(self, run: Run) -> None:
        self.converged = True
        restored = {"average": self._average, "best": self._best}.get(str(self.restore), [])
        for parameter, value in zip(run.approx.params, restored):
            parameter.set_value(value)
        what = {"average": "; q is the average of its iterates", "best": "; q is its best iterate"}
        why = f"Converged: {self.why}{what.get(str(self.restore), '')}"
        if run.done < run.n:
            run.stop(source="converged", why=why)
        else:  # it ends here anyway
            run.add_event("note", "converged", why)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_average": [], "_best": []}

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        return f"<StopWhenConverged by {self.method!r}, {state}: {self.why}>"
