"""PyMC inferences that train the β-ELBO with one live β a variable.

They are what ``pm.fit(method=...)`` takes, and with β = 1 and the same seed they give the losses of
PyMC's own to the last digits; except for minibatches of observations with two or more dimensions,
where PyMC's constant c is wrong and its losses are too large or too small by a factor.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

import cloudpickle
import numpy as np
import pymc.pytensorf
import pytensor
from pymc.variational.approximations import FullRank, MeanField
from pymc.variational.inference import Inference, State
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pymc.variational.opvi import Approximation
from pymc.variational.updates import adagrad_window
from pytensor.compile.mode import get_mode
from pytensor.link.jax import JAXLinker
from pytensor.tensor import TensorVariable

from vitoolkit.averaging import averaged
from vitoolkit.by_variable import owners
from vitoolkit.checks import flag, seed, shown, unknown_option, whole_number
from vitoolkit.controls import Beta, Control, LearningRate, Switch, distinct_controls
from vitoolkit.fingerprint import fingerprint_of
from vitoolkit.gradient import GRADIENT
from vitoolkit.latents import (
    Latent,
    constant_value,
    kl_by_of_all,
    latents_of,
    observed_minibatches,
    rows_factor,
)
from vitoolkit.loop import LoopRun, begin, execute
from vitoolkit.objective import BetaKL
from vitoolkit.options import (
    callback_list,
    check_known,
    check_schedules,
    check_start,
    draws_of,
    fit_options,
    model_of,
    start_sigmas,
    start_values,
    step_count,
)
from vitoolkit.parts import Part
from vitoolkit.penalties import Penalty, penalized
from vitoolkit.points import Points
from vitoolkit.recipe import Recipe, SavedStep
from vitoolkit.recover import Recover, recover_of
from vitoolkit.state import State as Standing
from vitoolkit.step_function import StepFunction
from vitoolkit.steps import counter_of

__all__ = ["ADVI", "FullRankADVI", "KLqp"]

#: A start of more numbers is told of in words.
MOST_WRITTEN = 1_000

BetaLike: TypeAlias = float | Control | Callable[[int], float]


class Options(TypedDict, total=False):
    """What every inference is asked for, as :class:`KLqp` explains it."""

    beta: BetaLike | Mapping[str, BetaLike]
    total_size: Mapping[str, Any] | None
    kl_by: str | Mapping[str, str] | None
    closed_form: Sequence[str]
    steps_per_execution: int | str
    gradient: bool
    average: bool
    penalty: Penalty | Mapping[str, Penalty] | None
    gradient_estimator: str
    freezable: bool | Sequence[str]


class KLqp(Inference):
    r"""Variational inference that minimizes ``(-data term + Σ β_v KL_v) / c``, each β live.

    Parameters
    ----------
    approx : Approximation
        The approximation to train.
    beta : float, Control, schedule or mapping of str to one of these
        β of every variable, or of the variables named; those not named keep β = 1. A number becomes
        a :class:`~vitoolkit.controls.Beta`, so that it can be changed during the fit as well.
    total_size : mapping of str to int or TensorVariable
        Rows of the data set for each *local* latent, one row of which belongs to a row of the
        minibatch. Its KL is multiplied by N / rows, so that the loss is the AEVB objective of
        Kingma & Welling (2014, eq. 8), which PyMC cannot state. May be symbolic or shared.
    kl_by : str or mapping of str to str
        Variables whose KL is recorded in parts as well: "coordinate" for each coordinate, or one of
        the variable's dims, over all others of which is summed. A string alone is for every
        variable that it fits.
    closed_form : collection of str
        Variables whose KL is computed in closed form instead of from the draws: the same optimum,
        less noise. Their prior is Normal. Their group is mean-field, and the prior's parameters may
        depend on other variables, or it is full-rank, and they may not.
    random_seed : int, optional
        Seed of an approximation of several groups, which PyMC gives none.
    steps_per_execution : int or "auto"
        Steps taken in one compiled call. "auto" is 1 where a call is cheap (the C backend) and with
        callbacks that are not vitoolkit's, which PyMC promises the approximation of that very step;
        else, with Numba, it is what fits into 6 ms. Schedules are exact at every step and every
        step has its row either way, with the same bits; what a person asks for is in force from the
        next call on. A call ends where a callback of :func:`vitoolkit.every`, or a rule, is due.
        With a number above 1, other callbacks are called once a call.
    gradient : bool
        Whether to record norm and signal-to-noise ratio of the gradient as well, and its product
        with that of the step before, in the columns ``gradient_norm``, ``gradient_snr`` and
        ``gradient_dot`` of the trace; see :func:`vitoolkit.gradient.gradient_stats`. It costs some
        microseconds a step.
    average : bool
        Whether to average the iterates of q, see :attr:`averaged`: in the compiled step, whose
        state it is a part of, so that it goes on with ``refine`` and is the same however many steps
        a call takes.
    penalty : Penalty or mapping of str to Penalty, optional
        A function of the KL that stands in the loss in its place, of :mod:`vitoolkit.penalties`:
        for every variable that has a KL, each by itself, or for the variables named. β multiplies
        the penalty as it would multiply the KL. Its part of the loss, β times the penalty, in nats
        of the full data set, is in the column ``penalty[z]`` of the trace. The KL is that in closed
        form where there is one; else it is that of the step's draws, of which a penalty has a
        greater mean than of their mean (Jensen), less so with ``obj_n_mc``. ``elbo`` and ``kl[z]``
        are what they are without a penalty.
    gradient_estimator : {"total", "stl"}
        How the gradient is taken. "total", the default, is PyMC's: through the draws, with the
        entropy's part known without noise. "stl", sticking the landing, holds the parameters inside
        log q (with β, in ``-log lik + β (log q - log p)``). Both have one mean, and every loss and
        KL is the same number. At an optimum that q can reach, tempered by β or not, every single
        draw of "stl" is 0, while "total" has noise there: the fit ends sharper, with no decay of
        the learning rate. Far from it, or where q cannot reach the posterior, "stl" may be the
        noisier; ``gradient=True`` records the signal-to-noise ratio that tells which helps. A
        variable with a penalty whose KL has a closed form has that one's gradient. For full rank it
        costs a triangular solve a step.
    freezable : bool or collection of str
        Which variables can be frozen during a fit, see :meth:`freeze`: all, none or those named. It
        is a column ``frozen[z]`` each and, in a step, a choice for each number that the step
        changes: 0.2 µs of 0.9 for 10 coordinates, 2 % for 10,000, as was measured with Adam.

    Raises
    ------
    KeyError
        When `beta` names something that is not a free variable of the model; the message lists
        them.
    TypeError, ValueError
        When a β is not a number, a control or a schedule, is negative or not finite; when two
        controls write one shared variable or carry one name; when a group states no log q, or none
        that splits as asked; when a total size is given for a variable that is not local; when β is
        asked of missing entries whose density PyMC has only together with the observed ones.

    See Also
    --------
    ADVI, FullRankADVI

    Notes
    -----
    .. math::

        \mathcal L = \frac1c\Big(-\mathbb E_q[\log p(D\mid\theta)]
            + \sum_v \beta_v\, \mathbb E_q[\log q(v\mid\cdot) - \log p(v\mid\mathrm{pa})]\Big)

    with :math:`c = N/b` under minibatches. With one β for all it is eq. 4 of Higgins et al. (2017),
    "beta-VAE", ICLR. Sticking the landing is that of Roeder, Wu and Duvenaud (2017), "Sticking the
    Landing", NIPS, arXiv:1703.09194.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     w = pm.Normal("w")
    ...     y = pm.Normal("y", z + w, observed=[0.2, 1.1])
    ...     inference = vt.KLqp(pm.MeanField(random_seed=1), beta={"z": 4.0})
    >>> inference  # doctest: +NORMALIZE_WHITESPACE
    <KLqp Approximation{MeanFieldGroup[2]}: loss = -data term + beta[z] * KL(z) + KL(w), 0 steps
    taken>
    """

    def __init__(
        self,
        approx: Approximation,
        beta: BetaLike | Mapping[str, BetaLike] = 1.0,
        *,
        total_size: Mapping[str, Any] | None = None,
        kl_by: str | Mapping[str, str] | None = None,
        closed_form: Sequence[str] = (),
        random_seed: int | None = None,
        steps_per_execution: int | str = "auto",
        gradient: bool = False,
        average: bool = False,
        penalty: Penalty | Mapping[str, Penalty] | None = None,
        gradient_estimator: str = "total",
        freezable: bool | Sequence[str] = False,
        **unknown: Any,
    ) -> None:
        for option in unknown:
            raise unknown_option(type(self).__name__, option, _accepted_by(type(self)))
        if not isinstance(approx, Approximation):
            raise TypeError(
                "approx must be a PyMC Approximation such as pm.MeanField(), received "
                f"{shown(approx)}"
            )
        random_seed = seed("random_seed", random_seed)
        gradient = flag("gradient", gradient)
        #: Whether the iterates of q are averaged.
        self.average = flag("average", average)
        if gradient_estimator not in ("total", "stl"):
            raise ValueError(
                "gradient_estimator must be 'total' or 'stl' (sticking the landing), received "
                f"{shown(gradient_estimator)}"
            )
        self.steps_per_execution = _steps_per_execution(steps_per_execution)
        latents = latents_of(approx)
        self.beta = _controls_by_variable(approx, beta, latents)
        self.total_size = _total_sizes(approx, total_size)
        kl_by = _kl_by(approx, kl_by)
        closed_form = _closed_form(approx, closed_form)
        if closed_form and gradient_estimator == "stl":
            raise ValueError(
                f"closed_form={list(closed_form)} leaves gradient_estimator='stl' nothing to do: a "
                "KL in closed form has no draws of log q. Give one of the two"
            )
        #: The penalty of each variable that has one, with the control of its level.
        self.penalty = penalized(approx, penalty, latents)
        #: The switch of each variable that can be frozen.
        self.frozen = _switches(approx, freezable)
        #: Seed of the approximation's generator, None where the approximation brought one.
        self.seed: int | None = None
        if getattr(approx, "rng", None) is None:
            self.seed = _drawn(random_seed)
            approx.rng = np.random.RandomState(self.seed)
        #: What was asked of it, in words, for the fingerprint.
        self.asked = {
            "steps_per_execution": self.steps_per_execution,
            "gradient": gradient,
            "average": self.average,
            "gradient_estimator": gradient_estimator,
            "freezable": ", ".join(self.frozen) or None,
            **{
                f"penalty[{v}]": found.penalty.call(found.level.name)
                for v, found in self.penalty.items()
            },
            "closed_form": repr(list(closed_form)) if closed_form else None,
            "kl_by": repr(kl_by) if kl_by else None,
            **{f"beta[{variable}]": control.name for variable, control in self.beta.items()},
            **{f"total_size[{v}]": _number_or_words(n) for v, n in self.total_size.items()},
        }
        #: The switch of ``scale_cost_to_minibatch``, None without minibatches.
        self.scale_cost = (
            Switch(
                approx._scale_cost_to_minibatch,
                name="scale_cost_to_minibatch",
                words="Divide loss and gradient by rows of the data set / rows of a minibatch, "
                "so that a learning rate suits any size of the batch",
            )
            if observed_minibatches(approx)
            else None
        )
        switches = () if self.scale_cost is None else (self.scale_cost,)
        levels = [penalty.level for penalty in self.penalty.values()]
        self.controls = distinct_controls(
            [*self.beta.values(), *levels, *self.frozen.values(), *switches]
        )
        super().__init__(
            BetaKL,
            approx,
            None,
            beta=self.beta,
            total_size=self.total_size,
            kl_by=kl_by,
            closed_form=closed_form,
            measures=GRADIENT if gradient else (),
            penalty=self.penalty,
            estimator=gradient_estimator,
            frozen=self.frozen,
        )
        self.run: LoopRun | None = None
        self._recipe: Recipe | None = None
        self._recover: Recover | None = None
        self._options: dict[str, Any] = {}
        self._optimizer: str | None = None
        self.step_function: StepFunction | None = None
        #: What its fits can go back to.
        self.points = Points()
        self.goes_on_from: Standing | None = None
        self.hist: np.ndarray
        self.state: State | None
        counter_of(approx).inference = self

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the free variables, in the order of the KL terms."""
        return self.objective.op.variables

    @property
    def parts(self) -> tuple[Part, ...]:
        """The KL contributions that are recorded in parts, as asked for by ``kl_by``."""
        return self.objective.op.parts

    @property
    def measures(self) -> tuple[str, ...]:
        """Columns that are recorded beside the terms: penalties, and those on the gradient."""
        return self.objective.op.measures

    @property
    def notes(self) -> dict[str, str]:
        """What has to be said of terms that are not the KL from a proper prior, by name."""
        return self.objective.op.notes

    @property
    def scaling(self) -> dict[str, Any]:
        """What multiplies which term: c, and N / rows of each local latent; None when symbolic."""
        factors = {
            latent.name: constant_value(rows_factor(latent, self.total_size[latent.name]))
            for latent in self.objective.op.latents
            if latent.name in self.total_size
        }
        c = [constant_value(node) for node in observed_minibatches(self.approx).values()]
        numbers = [number for number in c if number is not None]
        return {
            "c": max([1.0, *numbers]) if len(numbers) == len(c) else None,
            "total_size": factors,
        }

    @property
    def local_rows(self) -> dict[str, int]:
        """Rows of the data set of each local latent, where they are a number."""
        return {name: size for name, size in self.total_size.items() if isinstance(size, int)}

    def described(self) -> dict[str, Any]:
        """What a record says of it: the loss in words, and what multiplies which term."""
        said = {"inference": repr(self), "scaling": self.scaling}
        return {**said, "terms": self.notes} if self.notes else said

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers of the coming steps depend on; see :mod:`vitoolkit.fingerprint`."""
        return fingerprint_of(self, self._options)

    @property
    def steps_taken(self) -> int:
        """Steps taken over the life of the inference, by ``fit`` and ``refine`` together."""
        return counter_of(self.approx).step + 1

    @property
    def terms(self) -> dict[str, Any]:
        """Terms of the last step in nats, ``{"data": ..., "kl": {variable: ...}}``; NaN before."""
        last = None if self.run is None else self.run.last_block
        if last is None:
            data, *kl = [np.nan] * (1 + len(self.variables))
        else:
            data, *kl = last.terms[-1, : 1 + len(self.variables)].tolist()
        return {"data": data, "kl": dict(zip(self.variables, kl, strict=True))}

    @property
    def averages(self) -> list[np.ndarray]:
        """The averages of the iterates so far, in the order of ``approx.params``; from any thread.

        The weights of networks that are trained beside them follow.

        Raises
        ------
        RuntimeError
            Without ``average=True``, and before the first step.
        """
        if not self.average:
            raise RuntimeError(
                "the iterates of this inference are not averaged: give average=True, as in "
                f"vitoolkit.{type(self).__name__}(average=True)"
            )
        step = self.step_function or (self.state and self.state.step)
        if step is None or not self.steps_taken:
            raise RuntimeError("there is no average before the first step: call fit(...) first")
        return step.averages

    @property
    def averaged(self) -> Approximation:
        """The approximation at the average of its iterates: a copy, with a copy of its model.

        Late iterates count by far the most, and none before a β moved last:
        :func:`vitoolkit.averaging.averages` says how. It is for sampling, beside ``approx``, which
        stays at the last iterate.

        Raises
        ------
        RuntimeError
            Without ``average=True``, and before the first step.

        Examples
        --------
        >>> import pymc as pm
        >>> import vitoolkit as vt
        >>> with pm.Model():
        ...     z = pm.Normal("z")
        ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
        ...     inference = vt.ADVI(average=True, random_seed=1)
        ...     approx = inference.fit(
        ...         1_000, obj_optimizer=pm.adam(learning_rate=0.1), progressbar=False
        ...     )
        >>> abs(inference.averaged.mean.eval()[0] - 1.3 / 3) < 0.02  # the exact mean
        np.True_
        """
        values = self.averages
        weights = (self._recipe.options if self._recipe else {}).get("more_obj_params") or ()
        found = averaged(self.approx, [*self.approx.params, *weights], values)
        counter_of(found).inference = self  # whose record is the record of the average, too
        return found

    def set_scale_cost(
        self, on: bool, *, learning_rate: Control | None = None, source: str = "code"
    ) -> None:
        """Flip ``scale_cost_to_minibatch``, and let a learning rate make up for it.

        Switching it off multiplies loss and gradient by c = N/b. An optimizer whose steps are
        proportional to the gradient then needs a learning rate c times smaller.

        Parameters
        ----------
        on : bool
            Whether loss and gradient are divided by c, from the next step on.
        learning_rate : Control, optional
            The learning rate to multiply or divide by c, so that steps keep their length.
        source : str
            Who asks; it is written into the event.

        Raises
        ------
        ValueError
            Without minibatches; with a learning rate of an optimizer that is scale-free or unknown,
            or when c is known only symbolically; when the new rate is out of its bounds.

        Notes
        -----
        Adam and its kin divide the gradient by its own size: c cancels, and a compensation would
        change the steps instead of keeping them (Kingma & Ba 2015, ICLR, section 2.1).
        """
        if self.scale_cost is None:
            raise ValueError(
                "scale_cost_to_minibatch has nothing to scale: no observed variable has a "
                "total_size, so that c is 1"
            )
        if learning_rate is None:
            self.scale_cost.set(on, source=source)
            return
        c = self.scaling["c"]
        if self._optimizer not in _PROPORTIONAL:
            raise ValueError(
                f"the learning rate of {self._optimizer or 'an unknown optimizer'} is not "
                f"compensated: only the steps of {', '.join(_PROPORTIONAL)} are proportional to "
                "the gradient; Adam and its kin divide by the gradient's size, and c cancels"
            )
        if c is None:
            raise ValueError("c is symbolic here: set the learning rate yourself")
        flips = bool(self.scale_cost.requested) != bool(on)
        rate = learning_rate.requested * (1.0 if not flips else c if on else 1 / c)
        steps = [
            lambda: learning_rate.set(rate, source=source),
            lambda: self.scale_cost.set(on, source=source),
        ]
        # A step that falls between the two, when another thread asks, is then short and not long.
        for step in reversed(steps) if on else steps:
            step()

    def freeze(self, *variables: str, source: str = "code") -> None:
        """Hold variables where they are, from any thread; in force from the next step on.

        Their parameters, and what the optimizer knows of these, stay as they are to the last bit;
        only what the optimizer counts for all together, as Adam does its steps, goes on. The draws
        of a frozen variable go on as well, and the others are trained given its q: they reach the
        optimum that is conditional on it. It is an event of kind "freeze" of the control
        ``frozen[z]``, which can be undone, recorded and asked for as every other.

        Parameters
        ----------
        *variables : str
            Names of variables that are `freezable`.
        source : str
            Who asks; it is written into the event.

        Raises
        ------
        KeyError
            When one is not freezable; the message lists those that are.

        Notes
        -----
        Of full rank, a variable's means and its rows of L are held, which is its whole marginal:
        how it depends on the variables before it in the order of the model stays, how those after
        it depend on it is trained. Of an amortized group it is what feeds its q, such as the
        weights of the encoder.

        Examples
        --------
        >>> import pymc as pm
        >>> import vitoolkit as vt
        >>> with pm.Model():
        ...     z, w = pm.Normal("z"), pm.Normal("w")
        ...     y = pm.Normal("y", z + w, observed=[0.2, 1.1])
        ...     inference = vt.ADVI(freezable=True, random_seed=1)
        >>> inference.freeze("z")
        >>> approx = inference.fit(100, progressbar=False)
        >>> mean = approx.mean.eval()
        >>> bool(mean[0] == 0.0), bool(mean[1] == 0.0)
        (True, False)
        """
        for switch in self._switches_of(variables):
            switch.set(True, source=source)

    def thaw(self, *variables: str, source: str = "code") -> None:
        """Train variables again that :meth:`freeze` held, from any thread.

        Parameters
        ----------
        *variables : str
            Their names.
        source : str
            Who asks; it is written into the event.

        Raises
        ------
        KeyError
            When one is not freezable.
        """
        for switch in self._switches_of(variables):
            switch.set(False, source=source)

    def _switches_of(self, variables: Sequence[str]) -> list[Switch]:
        for name in variables:
            if name not in self.frozen:
                there = ", ".join(map(repr, self.frozen)) or "none"
                raise KeyError(
                    f"{name!r} cannot be frozen: {there} can. Which, has to be known before the "
                    f"step is compiled: {type(self).__name__}(..., freezable=True)"
                )
        return [self.frozen[name] for name in variables]

    def fit(
        self,
        n: int = 10_000,
        score: bool | None = None,
        callbacks: list[Callable] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = None,
        *,
        backend: str | None = None,
        include_transformed: bool = False,
        recover: bool | Recover | None = None,
        **kwargs: Any,
    ) -> Approximation:
        """Train for `n` steps.

        Parameters
        ----------
        n : int
            Number of steps.
        score : bool, optional
            Whether losses are kept in ``hist`` and handed to callbacks; default True. A Recorder
            has them either way.
        callbacks : list of callable, optional
            Called with ``(approx, losses, i)`` after every step, ``i`` from 1 over the life of the
            inference.
        progressbar : bool
            Whether to show a progress bar; a Dashboard that is shown replaces it.
        progressbar_theme : rich.theme.Theme, optional
            Theme of the bar.
        backend : str, optional
            "numba", "c" or "jax", PyMC 6 only.
        include_transformed : bool
            PyMC 6 only: as in ``pm.fit``.
        recover : bool or Recover, optional
            Whether the fit goes on after NaN, see :class:`~vitoolkit.recover.Recover`; by default
            it does not, as in PyMC.
        **kwargs
            ``obj_n_mc``, a number or :class:`~vitoolkit.Draws` that can be moved,
            ``obj_optimizer``, ``more_obj_params``, ``more_updates``,
            ``more_replacements``, ``total_grad_norm_constraint`` and ``compile_kwargs``, as in
            ``pm.fit``.

        Returns
        -------
        Approximation
            The trained approximation.

        Raises
        ------
        FloatingPointError
            When a loss is NaN. What was recorded before is kept.
        ValueError
            When a control is written by ``more_updates`` as well, or `n` is negative.
        """
        self.begin(
            n,
            score,
            callbacks,
            progressbar,
            progressbar_theme,
            backend=backend,
            include_transformed=include_transformed,
            recover=recover,
            **kwargs,
        )()
        return self.approx

    def begin(
        self,
        n: int,
        score: bool | None = None,
        callbacks: list[Callable] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = None,
        *,
        backend: str | None = None,
        include_transformed: bool = False,
        recover: bool | Recover | None = None,
        background: bool = False,
        compile_step: Callable[[Recipe], StepFunction] = Recipe.compile,
        **kwargs: Any,
    ) -> Callable[[], None]:
        """Begin a fit as :meth:`fit` does, and return what compiles and trains.

        Arguments are checked, controls claimed and panels shown here, in the calling thread; what
        is returned is to be called once, in any thread. `compile_step` gives the step function of a
        recipe.
        """
        fit_options(f"{type(self).__name__}.fit", kwargs, progressbar=progressbar)
        score = self._maybe_score(score)
        self._recover = recover_of(recover)
        run = LoopRun(
            self,
            step_count(n),
            callback_list(callbacks),
            [*self.controls, *draws_of(kwargs)],
            background=background,
            recover=self._recover,
        )
        check_schedules(run.controls, run.first, run.n)
        for updated in kwargs.get("more_updates") or {}:
            for control in run.controls:
                if updated is control.shared:
                    raise ValueError(
                        f"two writers on one shared variable: more_updates and control "
                        f"{control.name!r} both write {updated}"
                    )
        self._options = kwargs = self._prepare(backend, include_transformed, kwargs)
        mode = (kwargs.get("compile_kwargs") or {}).get("mode")
        if draws_of(kwargs) and isinstance(get_mode(mode).linker, JAXLinker):
            raise ValueError(
                "obj_n_mc is a control that moves, and JAX compiles for one number of draws: give "
                "a whole number, or fit with another backend"
            )
        optimizer = kwargs.get("obj_optimizer", adagrad_window)
        self._optimizer = getattr(getattr(optimizer, "func", optimizer), "__name__", None)
        options = {**kwargs, "steps": self.steps_per_execution, "average": self.average}
        recipe = Recipe(self.objective, run.controls, options)

        def compiled() -> StepFunction:
            step = compile_step(recipe)
            self._recipe = recipe
            return step

        return self._begun(run, compiled, score, progressbar, progressbar_theme)

    def refine(
        self,
        n: int,
        progressbar: bool = True,
        progressbar_theme: Any = None,
        *,
        callbacks: list[Callable] | None = None,
    ) -> Approximation:
        """Train on with the step function and the optimizer's state of the last ``fit``.

        Parameters
        ----------
        n : int
            Number of steps.
        progressbar : bool
            Whether to show a progress bar.
        progressbar_theme : rich.theme.Theme, optional
            Theme of the bar.
        callbacks : list of callable, optional
            Other callbacks than those of the last fit.

        Returns
        -------
        Approximation

        Raises
        ------
        TypeError
            When there was no ``fit`` before.
        """
        self._check_free()
        if self.state is None:
            raise TypeError("refine goes on with a compiled fit: call fit(...) first")
        _, step, last_callbacks, score = self.state
        callbacks = last_callbacks if callbacks is None else callback_list(callbacks)
        controls = [*self.controls, *step.controls]
        run = LoopRun(self, step_count(n), callbacks, controls, recover=self._recover)
        # One that was pickled is compiled again first.
        compile_step = step.compile if isinstance(step, SavedStep) else step.again
        self._begun(run, compile_step, score, progressbar, progressbar_theme)()
        return self.approx

    def rewind(self, to: int | str) -> None:
        """Be again where a fit that has ended once was; ``refine`` goes on from there.

        Parameters
        ----------
        to : int or str
            The name of a bookmark, or a step: the last checkpoint up to it is meant.

        Raises
        ------
        RuntimeError
            While a fit runs, or when nothing is compiled in this process.
        TypeError, ValueError
            When there is no such point; the message lists those that there are.
        """
        self._check_free()
        run = self.run
        if run is None or self.step_function is None or self.state is None:
            raise RuntimeError("nothing is compiled in this process: call refine(0) first")
        scored = self.hist[: run.first]
        request = self.points.checked(run.point_request(to), self.step_function)
        run.go_to_point(request)
        self.goes_on_from = request.point.state
        losses = run.scores[: run.done] if self.state.score else run.scores[:0]
        self.hist = self.approx.hist = np.concatenate([scored[: run.first], losses])
        self.state = self.state._replace(i=run.step)

    def keep(self, run: LoopRun, score: bool) -> None:
        """Take over what a run has reached so far; the loop calls it however the run ended."""
        if score:
            losses = run.scores[: run.done]
            if len(losses) and np.isnan(
                losses[-1]
            ):  # the step that raised; PyMC leaves it out as well
                losses = losses[:-1]
            self.hist = np.concatenate([self.hist, losses])
        self.approx.hist = self.hist
        if self.step_function is not None:
            self.state = State(self.steps_taken, self.step_function, list(run.callbacks), score)

    def __getstate__(self) -> dict[str, Any]:
        """What it is and has learned, without the run, its locks and compiled code.

        A Dashboard among the callbacks of the last fit belongs to its page: its recorder stays.
        """
        self._check_free()
        kept = {**self.__dict__, "run": None, "step_function": None}
        if self.state is not None:
            i, step, callbacks, score = self.state
            if not isinstance(step, SavedStep):
                assert self._recipe is not None
                step = SavedStep(self._recipe, step)
            callbacks = [getattr(callback, "recorder", callback) for callback in callbacks]
            kept["state"] = State(i, step, callbacks, score)
        return {**kept, "steps_taken": self.steps_taken}

    def __setstate__(self, state: dict[str, Any]) -> None:
        counter = state.pop("steps_taken") - 1
        self.__dict__.update(state)
        counter_of(self.approx).step = counter
        counter_of(self.approx).inference = self

    def __deepcopy__(self, memo: dict[int, Any]) -> KLqp:
        """Copy it with its model: PyMC's own copy of a model has other variables."""
        memo[id(self)] = copied = cloudpickle.loads(cloudpickle.dumps(self))
        return copied

    def _begun(self, run, compile_step, score, progressbar, progressbar_theme):
        if self.run is not None:
            self.run.give_way()
        self._check_free()
        self.run, self.step_function = run, None

        def compiled() -> StepFunction:
            step = compile_step()
            step.prepare(alone=run.alone)
            run.unused = tuple(c.name for c in run.controls if c not in step.controls) + step.unused
            _refuse_unused(run)
            self.step_function = step
            return step

        begin(run, score=score)
        return lambda: execute(
            run,
            compiled,
            score=score,
            progressbar=progressbar,
            progressbar_theme=progressbar_theme,
        )

    def _check_free(self) -> None:
        if self.run is not None and self.run.running:
            raise RuntimeError(
                f"this inference is in a running fit already, at step {self.run.step:,}: wait for "
                "its end, or use another inference"
            )

    def _prepare(self, backend, include_transformed, kwargs) -> dict[str, Any]:
        if "fn_kwargs" in kwargs:
            kwargs["compile_kwargs"] = kwargs.pop("fn_kwargs")
        resolve = getattr(pymc.pytensorf, "resolve_backend_compile_kwargs", None)
        if resolve is not None:
            kwargs["compile_kwargs"] = resolve(backend, kwargs.get("compile_kwargs"))
        elif backend is not None:
            raise TypeError(
                f"backend={backend!r} needs PyMC 6; with this PyMC use "
                "compile_kwargs={'mode': ...}"
            )
        for group in self.approx.groups:
            group.include_transformed = include_transformed
        return kwargs

    def __repr__(self) -> str:
        taken = f"{self.steps_taken:,} steps taken"
        return f"<{type(self).__name__} {self.approx}: loss = {_loss_in_words(self)}, {taken}>"


def _loss_in_words(inference: KLqp) -> str:
    op, scaling = inference.objective.op, inference.scaling
    flat = {latent.name: latent.flat and latent.splits for latent in op.latents}
    terms = []
    for label in inference.variables:
        name = next(v for v in op.labels if op.labels[v] == label)
        factors = []
        if name in inference.beta:
            factors.append(inference.beta[name].name)
        if name in inference.total_size:
            factor = scaling["total_size"][name]
            factors.append("N / rows" if factor is None else f"{factor:g}")
        term = f"E[log q({label})]" if flat.get(name) else f"KL({label})"
        if name in inference.penalty:
            term, factors = inference.penalty[name].words(term), factors[:1]
        terms.append(" * ".join([*factors, term]))
    shown = terms if len(terms) <= 8 else [*terms[:6], f"... {len(terms) - 7} more", terms[-1]]
    loss = f"-data term + {' + '.join(shown)}"
    if inference.scale_cost is not None:
        c = "N / b" if scaling["c"] is None else f"{scaling['c']:g}"
        loss = f"({loss}) / {c if inference.scale_cost.value else f'1, not {c}'}"
    return loss


def _refuse_unused(run: LoopRun) -> None:
    """Refuse a β or a learning rate that no step would feel; other controls may be for code."""
    for control in run.controls:
        if control.name not in run.unused:
            continue
        if isinstance(control, LearningRate):
            raise ValueError(
                f"the optimizer does not use {control.name!r}, so that moving it would do nothing: "
                f"give it the control itself, such as obj_optimizer=pm.adam(learning_rate=...)"
            )
        if isinstance(control, Beta):
            raise ValueError(
                f"no step uses {control.name!r}, so that moving it would do nothing: give it to "
                "the inference, such as vitoolkit.ADVI(beta=...)"
            )


_PROPORTIONAL = ("sgd", "momentum", "nesterov_momentum")


class ADVI(KLqp):
    """Mean-field ADVI with one live β a variable.

    Parameters
    ----------
    model : pymc.Model, optional
        The model; default is the one in context.
    random_seed : int, optional
        Seed of the draws.
    start : mapping of str to array, optional
        Starting means, on the scale of the model's variables; by the name of a transformed value
        (``sigma_log__``) on its scale.
    start_sigma : mapping of str to array, optional
        Starting standard deviations, on the unconstrained scale, by the variables' own names or
        those of their values; a scalar is for all coordinates.
    beta, total_size, kl_by, closed_form, steps_per_execution, gradient, penalty,
    gradient_estimator, freezable, average
        As in :class:`KLqp`.

    Raises
    ------
    KeyError, TypeError, ValueError
        As in :class:`KLqp`.

    References
    ----------
    Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference", JMLR 18(14).

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100))
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     inference = vt.ADVI(beta=beta, random_seed=1)
    ...     approx = pm.fit(200, method=inference, progressbar=False)
    >>> beta.value, len(approx.hist)
    (1.0, 200)
    """

    def __init__(
        self,
        *,
        model: Any = None,
        random_seed: int | None = None,
        start: Mapping[str, Any] | None = None,
        start_sigma: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        model = model_of(model)
        start, sigma = start_values(model, start), start_sigmas(model, start_sigma)
        random_seed = _drawn(seed("random_seed", random_seed))
        approx = MeanField(model=model, random_seed=random_seed, start=start, start_sigma=sigma)
        check_start(approx, start)
        super().__init__(approx, **options)
        self.seed = random_seed
        self.asked |= _written("start", start) | _written("start_sigma", sigma)


class FullRankADVI(KLqp):
    """Full-rank ADVI with one live β a variable.

    Parameters
    ----------
    model : pymc.Model, optional
        The model; default is the one in context.
    random_seed : int, optional
        Seed of the draws.
    start : mapping of str to array, optional
        As in :class:`ADVI`.
    beta, total_size, kl_by, closed_form, steps_per_execution, gradient, penalty,
    gradient_estimator, freezable, average
        As in :class:`KLqp`.

    Raises
    ------
    KeyError, TypeError, ValueError
        As in :class:`KLqp`.

    Notes
    -----
    The KL contribution of a variable is conditional on the coordinates before it, in the order of
    the model (chain rule); the contributions add up to the whole KL.

    References
    ----------
    Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference", JMLR 18(14).

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z", shape=2)
    ...     y = pm.Normal("y", z.sum(), observed=[0.2, 1.1])
    ...     approx = vt.FullRankADVI(random_seed=1).fit(200, progressbar=False)
    >>> len(approx.hist)
    200
    """

    def __init__(
        self,
        *,
        model: Any = None,
        random_seed: int | None = None,
        start: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        model = model_of(model)
        start = start_values(model, start)
        random_seed = _drawn(seed("random_seed", random_seed))
        approx = FullRank(model=model, random_seed=random_seed, start=start)
        check_start(approx, start)
        super().__init__(approx, **options)
        self.seed = random_seed
        self.asked |= _written("start", start)


def _drawn(random_seed: int | None) -> int:
    """The seed that was given, or one that nobody knew before, so that it can be recorded."""
    if random_seed is not None:
        return random_seed
    return int(np.random.SeedSequence().generate_state(1)[0])


def _written(option: str, values: Mapping[Any, Any] | None) -> dict[str, str]:
    """Values by variable as Python; of one that is too long, or symbolic, what it is, in < >."""
    found = {}
    for name, value in (values or {}).items():
        text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
        if isinstance(value, TensorVariable):
            text = "<a symbolic value>"
        elif isinstance(value, np.ndarray) and value.size > MOST_WRITTEN:
            text = f"<an array of {value.size:,} numbers>"
        found[f"{option}[{name}]"] = text
    return found


def _number_or_words(size: Any) -> int | str:
    return size if isinstance(size, int) else "symbolic"


def _accepted_by(family: type) -> list[str]:
    """Names of the options that an inference takes."""
    own = inspect.signature(family).parameters.values()
    named = [option.name for option in own if option.kind is option.KEYWORD_ONLY]
    return list(dict.fromkeys([*named, *Options.__annotations__]))


def _controls_by_variable(
    approx: Approximation,
    beta: BetaLike | Mapping[str, BetaLike],
    latents: tuple[Latent, ...],
) -> dict[str, Control]:
    variables = tuple(latent.name for latent in latents)
    if not isinstance(beta, Mapping):
        control = _beta_control(beta, "beta")
        without = [latent.group for latent in latents if not latent.has_prior]
        weighed = [
            latent.name
            for latent in latents
            if latent.has_prior and (latent.splits or latent.group not in without)
        ]
        # The β = 1 that nobody asked for is left to the others; any other is refused by the terms.
        return dict.fromkeys(weighed if _is_one(beta) else variables, control)
    check_known(approx.model, "β", beta)
    controls = {name: _beta_control(value, f"beta[{name}]") for name, value in beta.items()}
    _name_apart(controls)
    return controls


def _switches(approx: Approximation, freezable: Any) -> dict[str, Switch]:
    """A switch for each variable that can be frozen."""
    free = [variable.name for variable in approx.model.free_RVs]
    if isinstance(freezable, bool | np.bool_):
        names = free if freezable else []
    elif isinstance(freezable, str) or not isinstance(freezable, Iterable):
        raise TypeError(
            f"freezable must be True, False or a list of names, such as ['z'], received "
            f"{shown(freezable)}"
        )
    else:
        given = list(freezable)
        check_known(approx.model, "freezable", given)
        names = [name for name in free if name in given]
    found = {}
    for name in names:
        for parameter in approx.params:
            owners(approx, parameter)
        found[name] = Switch(
            pytensor.shared(np.int8(0), name=f"frozen[{name}]"),
            name=f"frozen[{name}]",
            words=f"Hold {name} where it is; the others are trained on",
            kinds=("freeze", "thaw"),
        )
    return found


def _kl_by(approx: Approximation, kl_by: Any) -> dict[str, str]:
    if isinstance(kl_by, str):
        return kl_by_of_all(approx, kl_by)
    if kl_by is None:
        return {}
    if not isinstance(kl_by, Mapping):
        raise TypeError(
            "kl_by must be 'coordinate', a dim, or a mapping from the variables' names to these, "
            f"received {shown(kl_by)}"
        )
    check_known(approx.model, "kl_by", kl_by)
    return dict(kl_by)


def _closed_form(approx: Approximation, names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(
            f"closed_form must be a list of names, such as ['z'], received {shown(names)}"
        )
    names = tuple(names)
    check_known(approx.model, "closed_form", names)
    return names


def _total_sizes(approx: Approximation, total_size: Any) -> dict[str, Any]:
    if total_size is None:
        return {}
    if not isinstance(total_size, Mapping):
        raise TypeError(
            "total_size must be a mapping from the local variables' names to numbers of rows, "
            f"received {shown(total_size)}"
        )
    check_known(approx.model, "total_size", total_size)
    model = approx.model
    observed = {}
    for rv in model.observed_RVs:
        shape = model.rvs_to_values[rv].shape
        rows = constant_value(shape[0]) if rv.ndim else None
        minibatch = isinstance(rv.owner.op, MinibatchRandomVariable)
        observed[rv.name] = (rows, constant_value(rv.owner.inputs[1]) if minibatch else rows)
    sizes = {}
    for latent in latents_of(approx):
        if latent.name not in total_size:
            continue
        size = sizes[latent.name] = _total_size(latent.name, total_size[latent.name])
        rows = latent.shape[0] if latent.shape else None
        with_rows = {
            name: full for name, (found, full) in observed.items() if found in (rows, None)
        }
        if rows is None or not with_rows:
            shapes = ", ".join(f"{name!r} {found:g}" for name, (found, _) in observed.items())
            raise ValueError(
                f"total_size was given for {latent.name!r} of shape {latent.shape}, which is "
                "global: it belongs to a local variable, one row of which belongs to a row of an "
                f"observed variable (rows: {shapes})"
            )
        number = constant_value(size)
        if number is not None and number < rows:
            raise ValueError(
                f"total_size of {latent.name!r} must be at least its {rows} rows, received {size}"
            )
        for name, full in with_rows.items():
            if number is not None and full is not None and number != full:
                warnings.warn(
                    f"total_size of {latent.name!r} is {number:g}, that of the observed {name!r} "
                    f"{full:g}: the KL and the data term stand for data sets of different size",
                    UserWarning,
                    stacklevel=5,
                )
    return sizes


def _total_size(name: str, size: Any) -> Any:
    if isinstance(size, TensorVariable):
        if size.ndim != 0:
            raise TypeError(f"total_size of {name!r} must be a scalar, received {size!r}")
        return size
    try:
        return whole_number(f"total_size of {name!r}", size, least=1, of="rows")
    except TypeError as error:
        raise TypeError(f"{error}. A scalar PyTensor variable is accepted as well") from None


def _beta_control(beta: Any, name: str) -> Control:
    if isinstance(beta, Control):
        if beta.bounds[0] < 0:
            raise ValueError(
                f"β cannot be negative, but control {beta.name!r} has bounds {beta.bounds}"
            )
        return beta
    if callable(beta):
        control = Beta(schedule=beta)
    elif isinstance(beta, int | float | np.integer | np.floating) and not isinstance(beta, bool):
        if not 0 <= beta < np.inf:
            raise ValueError(f"{name} must be a number from 0 up, received {beta!r}")
        control = Beta(float(beta), bounds=(0.0, max(10.0, 2.0 * float(beta))))
    else:
        raise TypeError(
            f"{name} must be a number, a Control, a schedule step -> β, or for several variables a "
            f"mapping from their names to these; received {beta!r}"
        )
    control.name = name
    control.named = True
    return control


def _is_one(beta: Any) -> bool:
    return isinstance(beta, int | float) and beta == 1


def _name_apart(controls: Mapping[str, Control]) -> None:
    """Two controls that were given no name are named after their variables."""
    unnamed = {
        id(c): (name, c) for name, c in controls.items() if isinstance(c, Beta) and not c.named
    }
    if len(unnamed) > 1:
        for name, control in unnamed.values():
            control.name = f"beta[{name}]"


def _steps_per_execution(steps: Any) -> int | str:
    if isinstance(steps, str) and steps == "auto":
        return steps
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(
            f"steps_per_execution must be 'auto' or a whole number from 1 up, received "
            f"{shown(steps)}"
        )
    return int(steps)
