"""The one call that wires a model, an inference, its controls, a recorder and a dashboard."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import numpy as np
import pymc as pm
from pymc.variational.inference import Inference
from pymc.variational.opvi import Approximation
from pytensor.graph.basic import Variable

from vitoolkit.arviz_groups import with_record
from vitoolkit.background import Background
from vitoolkit.by_variable import RATES, ByVariable, owners
from vitoolkit.checks import flag, shown, unknown_option
from vitoolkit.controls import Control, LearningRate, distinct_controls
from vitoolkit.events import Event
from vitoolkit.given import told
from vitoolkit.inference import ADVI, BetaLike, FullRankADVI, KLqp
from vitoolkit.journal import journal_of
from vitoolkit.options import (
    FIT_OPTIONS,
    callback_list,
    check_known,
    draws_of,
    fit_options,
    step_count,
)
from vitoolkit.penalties import Penalty
from vitoolkit.recipe import Recipe
from vitoolkit.recorder import Recorder
from vitoolkit.recover import Recover
from vitoolkit.replay import Replay, replay_of
from vitoolkit.run import Run
from vitoolkit.step_function import StepFunction
from vitoolkit.trace import Trace

__all__ = ["Fit", "check_option_names", "fit", "fit_async"]

#: Steps of a fit that is not told how many.
STEPS = 10_000

Rate: TypeAlias = float | Control | Callable[[int], float]

_METHODS: dict[str, Callable[..., KLqp]] = {"advi": ADVI, "fullrank_advi": FullRankADVI}


class Fit:
    """A fit: the approximation and everything around it, running or finished.

    Attributes
    ----------
    approx : Approximation
        The trained approximation.
    inference : KLqp
        What trained it; ``inference.refine(n)`` goes on.
    trace : Trace
        The record of the fit, readable and exportable while it grows.
    controls : dict of str to Control
        The controls of the fit by name.
    dashboard : Dashboard or None
        The panel, if one was asked for.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(200, random_seed=1, background=True)
    >>> fit.wait(), fit.status, len(fit.trace)
    (True, 'finished', 200)
    >>> fit.sample(100, random_seed=1)["posterior"]["z"].sizes["draw"]
    100
    """

    def __init__(
        self,
        inference: KLqp,
        recorder: Recorder,
        controls,
        dashboard,
        background: Background | None = None,
    ) -> None:
        self.inference = inference
        self.recorder = recorder
        self.controls: dict[str, Control] = {control.name: control for control in controls}
        self.dashboard = dashboard
        self._background = background
        self._status = "finished"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process: the thread, and the panel on its page."""
        if not self.done:
            raise RuntimeError(
                f"the fit still runs ({self._where()}), so that it cannot be pickled or copied: "
                "call fit.wait() for its end, or fit.stop()"
            )
        gone = {"dashboard": None, "_background": None, "_status": self.status}
        return {**self.__dict__, **gone}

    def __deepcopy__(self, memo: dict[int, Any]) -> Fit:
        memo[id(self)] = copied = cloudpickle.loads(cloudpickle.dumps(self))
        return copied

    @property
    def approx(self) -> Approximation:
        """The trained approximation."""
        return self.inference.approx

    @property
    def averaged(self) -> Approximation:
        """The approximation at the average of its iterates, a copy; needs ``average=True``."""
        self._check_quiet()
        return self.inference.averaged

    @property
    def trace(self) -> Trace:
        """The record of the fit."""
        return self.recorder.trace

    # --- a fit in the background --------------------------------------------------------------

    @property
    def run(self) -> Run:
        """What steers it: pause, resume, single_step, stop, undo, note; from any thread."""
        if self.inference.run is None:
            raise RuntimeError(
                f"this fit was loaded, and nothing runs ({self._status}): fit.refine(n) goes on"
            )
        return self.inference.run

    @property
    def status(self) -> str:
        """Where it stands: "compiling", "running", "paused", or how it ended."""
        return self._status if self.inference.run is None else self.run.status

    @property
    def done(self) -> bool:
        """Whether it has ended, however it ended."""
        return self._background is None or self._background.done

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of a fit in the background; the widgets of its panel act meanwhile.

        Parameters
        ----------
        timeout : float, optional
            Most seconds to wait.

        Returns
        -------
        bool
            Whether the fit has ended.

        Raises
        ------
        Exception
            What the fit raised.
        KeyboardInterrupt
            On Ctrl-C, or the notebook's stop button, while the fit compiles.

        Notes
        -----
        Ctrl-C, or the notebook's stop button, ends the fit at the next step boundary as it ends one
        in the cell: everything is kept, the status is "interrupted", and `wait` returns. A fit that
        still compiles ends right after that, but `wait` does not wait for it.
        """
        return True if self._background is None else self._background.wait(timeout)

    def result(self, timeout: float | None = None) -> Fit:
        """Wait for the end and return the fit itself.

        Raises
        ------
        TimeoutError
            When it has not ended after `timeout` seconds, or some seconds after an interrupt.
        Exception
            As for :meth:`wait`.
        """
        if not self.wait(timeout):
            after = "it was interrupted" if timeout is None else f"{timeout:g} s"
            raise TimeoutError(f"the fit still runs after {after}: {self._where()}")
        return self

    def __await__(self) -> Generator[Any, None, Fit]:
        if self._background is not None:
            yield from self._background.awaited().__await__()
        return self

    def stop(self) -> None:
        """End the fit at the next step boundary and keep everything."""
        self.run.stop()

    def pause(self) -> None:
        """Wait at the next step boundary until :meth:`resume` or :meth:`stop`."""
        self.run.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self.run.resume()

    def _check_quiet(self) -> None:
        if not self.done and self.status != "paused":
            raise RuntimeError(
                f"the fit still runs ({self._where()}), so that its parameters change under way: "
                "call fit.wait() for the end, or fit.pause() to sample where it stands"
            )

    def freeze(self, *variables: str) -> None:
        """Hold variables where they are from the next step on; from any thread.

        They were named by ``freezable=``; see :meth:`vitoolkit.inference.KLqp.freeze`.
        """
        self.inference.freeze(*variables)

    def thaw(self, *variables: str) -> None:
        """Train variables again that :meth:`freeze` held."""
        self.inference.thaw(*variables)

    def _where(self) -> str:
        run = self.run
        return f"{run.status}, step {run.done:,} of {run.n:,}"

    # --- what came of it ----------------------------------------------------------------------

    def refine(self, n: int, *, progressbar: bool = True) -> Fit:
        """Train `n` more steps with the same step function, optimizer state and trace."""
        self.inference.refine(n, progressbar=progressbar)
        return self

    def rewind(self, to: int | str) -> Fit:
        """Go back to a bookmark, or to the last checkpoint up to a step.

        Everything is as it was then: parameters, the optimizer's state, random generators, controls
        and their rules. A fit that runs or is paused goes back at the next step boundary, and on
        from there; after the end of one, :meth:`refine` goes on. Set afterwards what shall be
        otherwise. The rows that are left behind stay in the trace, as a branch, and a "rewind" is
        among its events.

        Parameters
        ----------
        to : int or str
            A step, or the name that :meth:`bookmark` gave. Which steps there are is the clock's
            choice, see :attr:`points`: at most 32 are in memory, and some more in a journal; a
            bookmark is of the very step.

        Returns
        -------
        Fit
            Itself.

        Raises
        ------
        RuntimeError
            When nothing is compiled in this process.
        TypeError, ValueError
            When it is neither a step nor a name, or there is no such point; the message lists those
            that there are.

        Examples
        --------
        >>> import pymc as pm
        >>> import vitoolkit as vt
        >>> with pm.Model():
        ...     z = pm.Normal("z")
        ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
        ...     fit = vt.fit(100, progressbar=False)
        ...     fit = fit.rewind(0)
        ...     fit.controls["beta"].set(4.0)
        ...     fit = fit.refine(60, progressbar=False)
        >>> len(fit.trace), [len(branch.rows) for branch in fit.trace.branches]
        (60, [100])
        """
        if self.inference.run is not None and self.run.running:
            self.run.rewind(to)
        else:
            self.inference.rewind(to)
        return self

    def bookmark(self, name: str | None = None) -> None:
        """Keep this point of a running fit: :meth:`rewind` goes back to it by name, whatever comes.

        It is never dropped, is in the journal if there is one, and a "bookmark" is among the events
        of the trace. In force at the next step boundary; from any thread.

        Parameters
        ----------
        name : str, optional
            Default is that of its step, such as ``"step 1200"``.

        Raises
        ------
        RuntimeError
            When the fit has ended.
        TypeError, ValueError
            When it is no name, or another bookmark has it.

        Examples
        --------
        >>> import pymc as pm
        >>> import vitoolkit as vt
        >>> with pm.Model():
        ...     z = pm.Normal("z")
        ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
        ...     fit = vt.fit(1_000_000, background=True, progressbar=False)
        >>> fit.bookmark("so far")
        >>> fit.controls["beta"].set(4.0)
        >>> fit = fit.rewind("so far")
        >>> fit.stop()
        >>> fit.wait(), [event.kind for event in fit.trace.events]
        (True, ['bookmark', 'set', 'rewind', 'stop'])
        """
        if not self.run.running:
            raise RuntimeError(
                f"the fit has ended ({self.status}): a bookmark is of a step of a running fit"
            )
        self.run.bookmark(name)

    @property
    def points(self) -> dict[int | str, int]:
        """What :meth:`rewind` can go back to: steps, and bookmarks by name, each with its step."""
        points = self.inference.points
        found: dict[int | str, int] = {step: step for step in points.steps()}
        return found | {str(point.name): point.step for point in points.bookmarks}

    def sample(self, draws: int = 1_000, *, random_seed: Any = None) -> Any:
        """Draw from the approximation, with the trace beside the draws.

        Parameters
        ----------
        draws : int
            Number of draws.
        random_seed : int, optional
            Seed of the draws.

        Raises
        ------
        RuntimeError
            While the fit runs: its parameters would change between two draws. A fit that is paused
            can be sampled.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            What ``approx.sample`` of the installed PyMC returns, with the ELBO over the steps in
            the group ``fit``, what else was recorded in ``fit_stats``, and the whole record with
            its events in ``variational_trace``, where :meth:`Trace.open` finds it in a saved file.
        """
        self._check_quiet()
        with self.approx.model:
            posterior = self.approx.sample(draws, random_seed=random_seed)
        return with_record(posterior, self.trace)

    def __repr__(self) -> str:
        if not self.done:
            return f"<Fit in the background: {self._where()}>"
        return f"<Fit of {self.inference!r}; {self.trace!r}>"


def fit(
    n: int | None = None,
    *,
    beta: BetaLike | Mapping[str, BetaLike] = 1.0,
    learning_rate: Rate | Mapping[str, Rate] | None = None,
    optimizer: Callable[..., Any] = pm.adam,
    method: str | KLqp = "advi",
    model: Any = None,
    record: Any = None,
    recover: bool | Recover = True,
    dashboard: Any = False,
    background: bool = False,
    callbacks: Callable | Sequence[Callable] = (),
    random_seed: int | None = None,
    start: Mapping[str, Any] | None = None,
    start_sigma: Mapping[str, Any] | None = None,
    total_size: Mapping[str, Any] | None = None,
    kl_by: str | Mapping[str, str] | None = None,
    closed_form: Sequence[str] = (),
    steps_per_execution: int | str = "auto",
    every: int = 1,
    gradient: bool = False,
    average: bool = False,
    penalty: Penalty | Mapping[str, Penalty] | None = None,
    gradient_estimator: str = "total",
    freezable: bool | Sequence[str] = False,
    progressbar: bool = True,
    replay: Trace | Replay | Sequence[Event] | str | Path | None = None,
    **kwargs: Any,
) -> Fit:
    """Fit a model with live β and learning rate, and keep the whole record.

    Parameters
    ----------
    n : int, optional
        Number of steps; default is 10,000, or what the run of `replay` was asked for.
    beta : float, Control, schedule or mapping of str to one of these
        β of every variable, or of the variables named; see :class:`~vitoolkit.inference.KLqp`.
    learning_rate : float, Control, schedule or mapping of str to one of these, optional
        Learning rate of the optimizer, live as well; default is the one in `optimizer`, else 1e-3.
        A mapping gives variables rates of their own, ``learning_rate[z]`` in the trace; all other
        parameters have the default. PyMC's optimizers take it, whose steps are proportional to
        their learning rate; see :class:`vitoolkit.by_variable.ByVariable`.
    optimizer : callable
        A PyMC optimizer that takes ``learning_rate=``, such as ``pm.adam``, ``pm.adam(beta1=0.8)``
        or ``pm.adam(learning_rate=0.01)``; a control is taken there as well.
    method : {"advi", "fullrank_advi"} or KLqp
        How to approximate; an inference of vitoolkit brings its own β.
    model : pymc.Model, optional
        The model; default is the one in context.
    record : path or Journal, optional
        A journal: an SQLite file that holds the record while it grows, at most a second behind, and
        the state to go on from, see :class:`~vitoolkit.journal.Journal`.
    recover : bool or Recover
        Whether the fit goes on after NaN or ±inf: back to the last good state, with a smaller
        learning rate; see :class:`~vitoolkit.recover.Recover`.
    dashboard : bool or Dashboard
        Show a live panel in the notebook.
    background : bool
        Return at once and fit in a thread: the cell is free, and the panel stays live.
    callbacks : callable or sequence of callable
        More callbacks.
    random_seed : int, optional
        Seed of the draws.
    start, start_sigma : mapping of str to array, optional
        Starting means and standard deviations; see :class:`~vitoolkit.inference.ADVI`.
    total_size, kl_by, closed_form, steps_per_execution
        As in :class:`~vitoolkit.inference.KLqp`.
    every : int
        Record the steps that are a multiple of `every`.
    gradient : bool
        Whether to record norm and signal-to-noise ratio of the gradient as well.
    average : bool
        Whether to average the iterates of q: ``fit.averaged`` samples from the average.
    penalty : Penalty or mapping of str to Penalty, optional
        A function of the KL that stands in the loss in its place, such as
        ``vitoolkit.penalties.capacity(20.0)``; see :class:`~vitoolkit.inference.KLqp`.
    gradient_estimator : {"total", "stl"}
        How the gradient is taken, see :class:`~vitoolkit.inference.KLqp`; "stl" is sticking the
        landing.
    freezable : bool or collection of str
        Which variables ``fit.freeze`` can hold during the fit.
    progressbar : bool
        Whether to show a progress bar where no dashboard is shown.
    replay : Trace, path, Replay or list of Event, optional
        A recorded run that is repeated: what a person or a callback did to its controls is done
        again, each at its step, and every number is the same. Give model and options as they were;
        `n` and `random_seed` are those of the record unless they are given. Whatever else differs
        is named, and refused, before anything is compiled; see :class:`~vitoolkit.Replay`.
    **kwargs
        Passed on to the inference's ``fit``: ``obj_n_mc``, a number or :class:`~vitoolkit.Draws`
        that can be moved, ``compile_kwargs``, ``backend`` ...

    Returns
    -------
    Fit
        With ``background=True`` one that still runs: ``fit.wait()`` and ``fit.result()`` wait for
        its end, as does ``await fit``; ``fit.stop()``, ``fit.pause()`` and ``fit.run`` steer it.

    Raises
    ------
    KeyError, TypeError, ValueError
        For an option that does not exist or cannot have its value, a β of an unknown variable, an
        unknown method, an optimizer without learning rate or a learning rate given twice. All of it
        is said before anything is shown or compiled.
    RuntimeError
        When a control, or the inference, is in another running fit.
    FileNotFoundError
        When there is no folder for `record`. Whatever else is wrong with it is a warning.

    Notes
    -----
    An exception in the background is raised by ``wait``, ``result`` and ``await``, shown in the
    panel, and printed in the output of the cell if nobody waits. Fits in the background have
    parameters, random generators and controls of their own; they compile one after the other,
    because PyTensor's settings belong to the process. No progress bar is drawn. A program that ends
    stops what still runs.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(
    ...         300,
    ...         beta=vt.schedules.linear(0.0, 1.0, steps=100),
    ...         learning_rate=1e-2,
    ...         random_seed=1,
    ...         progressbar=False,
    ...     )
    >>> len(fit.trace), sorted(fit.controls)
    (300, ['beta', 'learning_rate'])
    """
    return start_fit(
        n,
        Recipe.compile,
        beta=beta,
        learning_rate=learning_rate,
        optimizer=optimizer,
        method=method,
        model=model,
        record=record,
        recover=recover,
        dashboard=dashboard,
        background=background,
        callbacks=callbacks,
        random_seed=random_seed,
        start=start,
        start_sigma=start_sigma,
        total_size=total_size,
        kl_by=kl_by,
        closed_form=closed_form,
        steps_per_execution=steps_per_execution,
        every=every,
        gradient=gradient,
        average=average,
        penalty=penalty,
        gradient_estimator=gradient_estimator,
        freezable=freezable,
        progressbar=progressbar,
        replay=replay,
        **kwargs,
    )


def start_fit(n: int | None, compile_step: Callable[[Recipe], StepFunction], **options: Any) -> Fit:
    """Wire a fit and train it, here or in the background; the parameters are those of `wire`."""
    wired = wire(n, compile_step, **options)
    if not options["background"]:
        wired.train()
        return wired.fit()
    return wired.fit(Background(wired.run, wired.train).start())


#: What a journal does not hold of the arguments of `wire`: it is given anew in another process.
_OF_A_PROCESS = (
    "n", "compile_step", "model", "record", "dashboard", "background", "progressbar", "before",
    "kwargs",
)  # fmt: skip


class Wired(NamedTuple):
    """A fit that has begun, with all around it, before anything is compiled."""

    inference: KLqp
    recorder: Recorder
    controls: tuple[Control, ...]
    dashboard: Any
    train: Callable[[], None]

    @property
    def run(self) -> Run:
        """The run that has begun."""
        assert self.inference.run is not None
        return self.inference.run

    def fit(self, background: Background | None = None) -> Fit:
        """The fit as its user sees it."""
        return Fit(self.inference, self.recorder, self.controls, self.dashboard, background)


def wire(
    n: int | None,
    compile_step: Callable[[Recipe], StepFunction],
    *,
    beta,
    learning_rate,
    optimizer,
    method,
    model,
    record,
    dashboard,
    background,
    callbacks,
    every,
    progressbar,
    random_seed,
    start,
    start_sigma,
    total_size,
    kl_by,
    closed_form,
    steps_per_execution,
    gradient,
    average,
    penalty,
    gradient_estimator,
    freezable,
    replay=None,
    before: Callable[[KLqp, Recorder], None] | None = None,
    **kwargs: Any,
) -> Wired:
    """Check what :func:`fit` was given, and begin the fit.

    Parameters
    ----------
    n : int or None
        Number of steps.
    compile_step : callable
        Gives the step function of a recipe.
    beta, learning_rate, optimizer, ...
        As for :func:`fit`.
    before : callable, optional
        Called with inference and recorder before the fit begins.
    """
    asked = {name: value for name, value in locals().items() if name not in _OF_A_PROCESS}
    check_option_names(kwargs)
    journal = journal_of(record)
    if journal is not None:
        journal.options = {name: told(value) for name, value in {**asked, **kwargs}.items()}
    repeated = replay_of(replay)
    recorded = {} if repeated is None else repeated.fingerprint
    n = step_count(recorded.get("n", STEPS) if n is None else n)
    if random_seed is None and isinstance(method, str):
        random_seed = recorded.get("seed")
    background, progressbar = flag("background", background), flag("progressbar", progressbar)
    given = callback_list(callbacks)
    fit_options("vitoolkit.fit", _without_begin(kwargs))
    options = dict(
        random_seed=random_seed,
        start=start,
        start_sigma=start_sigma,
        total_size=total_size,
        kl_by=kl_by,
        closed_form=closed_form,
        steps_per_execution=steps_per_execution,
        gradient=gradient,
        average=average,
        penalty=penalty,
        gradient_estimator=gradient_estimator,
        freezable=freezable,
    )
    inference = _inference(method, beta, model, options)
    live, rates = _live_optimizer(
        inference.approx, optimizer, learning_rate, given, kwargs.get("more_obj_params") or ()
    )
    recorder = Recorder(*rates, every=every, record=journal)
    panel = _dashboard(dashboard, recorder)
    if panel is not None:
        recorder = panel.recorder
        if journal is not None:
            recorder.journal = journal
    if before is not None:
        before(inference, recorder)
    train = inference.begin(
        n,
        callbacks=[
            *([] if repeated is None else [repeated]),
            recorder if panel is None else panel,
            *rates,
            *given,
        ],
        obj_optimizer=live,
        progressbar=progressbar and not background,
        background=background,
        compile_step=compile_step,
        **kwargs,
    )
    controls = (*inference.controls, *rates, *draws_of(kwargs))
    return Wired(inference, recorder, controls, panel, train)


async def fit_async(n: int | None = None, **kwargs: Any) -> Fit:
    """Fit in the background and await the end: :func:`fit` for an ``async`` cell or program.

    Parameters
    ----------
    n : int, optional
        Number of steps.
    **kwargs
        As for :func:`fit`.

    Returns
    -------
    Fit

    Raises
    ------
    Exception
        What the fit raised.

    Notes
    -----
    A task that is cancelled ends its fit at the next step boundary; the trace is kept.

    Examples
    --------
    >>> import asyncio
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> async def both():
    ...     with pm.Model():
    ...         z = pm.Normal("z")
    ...         y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...         return await asyncio.gather(vt.fit_async(200), vt.fit_async(200, beta=4.0))
    >>> [len(fit.trace) for fit in asyncio.run(both())]
    [200, 200]
    """
    return await fit(n, **{**kwargs, "background": True})


#: Keywords of ``inference.begin`` that are no option of the objective.
_BEGIN = ("score", "progressbar_theme", "backend", "include_transformed", "recover")


def _without_begin(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _BEGIN}


def check_option_names(kwargs: Mapping[str, Any]) -> None:
    """Refuse a keyword that does not exist, and name the one that was meant."""
    own = [name for name in inspect.signature(fit).parameters if name != "kwargs"]
    passed_on = [name for name in FIT_OPTIONS if name != "obj_optimizer"]
    for name in _without_begin(kwargs):
        if name == "obj_optimizer":
            raise TypeError(
                "vitoolkit.fit takes optimizer= in place of obj_optimizer=, and keeps its learning "
                "rate live: optimizer=pm.adam, learning_rate=0.01"
            )
        if name not in (*passed_on, "fn_kwargs"):
            raise unknown_option("vitoolkit.fit", name, (*own, *_BEGIN, *passed_on))


def _inference(method, beta, model, options: dict[str, Any]) -> KLqp:
    if isinstance(method, str) and method.lower() in _METHODS:
        method = method.lower()
        if method != "advi":
            if options["start_sigma"] is not None:
                raise TypeError(f"start_sigma belongs to method='advi', not to {method!r}")
            options = {name: value for name, value in options.items() if name != "start_sigma"}
        return _METHODS[method](beta=beta, model=model, **options)
    if isinstance(method, KLqp):
        defaults = inspect.signature(fit).parameters
        own = {name: value for name, value in options.items() if name != "closed_form" or value}
        if not (isinstance(beta, int | float) and beta == 1) or any(
            not _is_default(value, defaults[name].default) for name, value in own.items()
        ):
            raise TypeError(
                f"an inference brings its own beta, {', '.join(options)}: give them to "
                f"{type(method).__name__}(...), not to vitoolkit.fit"
            )
        if model is not None and model is not method.approx.model:
            raise TypeError("an inference brings its own model: leave out model=")
        return method
    accepted = f"one of {', '.join(map(repr, _METHODS))} or a vitoolkit inference"
    if isinstance(method, Inference):
        raise TypeError(
            f"method must be {accepted}; {type(method).__name__} is PyMC's own, and trains with "
            "pm.fit(method=..., callbacks=[vitoolkit.Dashboard(...)])"
        )
    raise ValueError(f"method must be {accepted}, received {shown(method)}")


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, type(default)) and value == default)


def _optimizer_and_rate(optimizer: Any, rate: Any, callbacks: Sequence[Any]) -> tuple[Any, Control]:
    """The optimizer without a learning rate of its own, and the control of it.

    PyMC's ``adam(beta1=0.8)`` is a partial of ``adam`` that holds the default of every argument as
    if it had been given: a learning rate is one only where it differs from the default.
    """
    held = getattr(optimizer, "keywords", {}).get("learning_rate")
    if held is None:
        return optimizer, _learning_rate(1e-3 if rate is None else rate)
    of_func = inspect.signature(optimizer.func).parameters.get("learning_rate")
    if isinstance(held, int | float) and of_func is not None and held == of_func.default:
        return optimizer, _learning_rate(1e-3 if rate is None else rate)
    if rate is not None:
        raise TypeError(
            f"the learning rate is given twice, as learning_rate={shown(rate)} and as "
            f"{shown(held)} in the optimizer: give it once"
        )
    if isinstance(held, Variable):
        held = _control_of(held, callbacks)
    return optimizer, _learning_rate(held)


def _control_of(shared: Variable, callbacks: Sequence[Any]) -> Control:
    """The control among the callbacks that writes a shared variable, or a new one for it."""
    if not hasattr(shared, "get_value"):
        raise TypeError(
            "a learning rate in the optimizer is a number, a Control or a Control's .shared, "
            f"received {shared!r}"
        )
    held = [c for callback in callbacks for c in getattr(callback, "controls", (callback,))]
    for control in held:
        if isinstance(control, Control) and control.shared is shared:
            return control
    return LearningRate(float(shared.get_value()), shared=shared)


def _learning_rate(learning_rate) -> Control:
    if isinstance(learning_rate, Control):
        return learning_rate
    if callable(learning_rate):
        return LearningRate(schedule=learning_rate)
    return LearningRate(learning_rate)


def _live_optimizer(
    approx: Approximation,
    optimizer: Any,
    learning_rate: Any,
    callbacks: Sequence[Any],
    weights: Sequence[Any],
) -> tuple[Callable[..., Any], tuple[Control, ...]]:
    """The optimizer with live learning rates, and their controls."""
    if not isinstance(learning_rate, Mapping):
        optimizer, rate = _optimizer_and_rate(optimizer, learning_rate, callbacks)
        return _called(optimizer, rate.shared), (rate,)
    check_known(approx.model, "learning_rate", learning_rate)
    optimizer, rest = _optimizer_and_rate(optimizer, None, callbacks)
    _called(optimizer, 1.0)
    name = getattr(getattr(optimizer, "func", optimizer), "__name__", shown(optimizer))
    if name not in RATES:
        raise ValueError(
            f"a learning rate by variable is a scale of each variable's step, and whether that is "
            f"a learning rate of {name} is not known: it is of {', '.join(RATES)}"
        )
    rates = {variable: _learning_rate(rate) for variable, rate in learning_rate.items()}
    for rate in rates.values():
        if rate.name == "learning_rate":
            whose = [variable for variable, other in rates.items() if other is rate]
            rate.name = f"learning_rate[{'+'.join(whose)}]"
    owned = [o.variable for p in (*approx.params, *weights) for o in owners(approx, p)]
    all_named = all(variable in rates for variable in owned)
    controls = distinct_controls([*rates.values(), *([] if all_named else [rest])])
    return ByVariable(approx, optimizer, rates, None if all_named else rest), controls


def _called(optimizer: Any, rate: Any) -> Callable[..., Any]:
    refused = TypeError(
        "optimizer must be a PyMC optimizer that takes learning_rate=, such as pm.adam or "
        f"pm.adam(beta1=0.8); received {shown(optimizer)}"
    )
    try:
        live = optimizer(learning_rate=rate)
    except TypeError as error:
        raise refused from error
    if not callable(live):
        raise refused
    return live


def _dashboard(dashboard, recorder: Recorder):
    if dashboard is None or isinstance(dashboard, bool | np.bool_) and not dashboard:
        return None
    from vitoolkit.dashboard import Dashboard

    if isinstance(dashboard, Dashboard):
        return dashboard
    flag("dashboard", dashboard)
    return Dashboard(recorder=recorder)
