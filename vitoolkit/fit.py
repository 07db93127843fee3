"""The one call that wires a model, an inference, its controls, a recorder and a dashboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pymc as pm
from pymc.variational.inference import Inference
from pymc.variational.opvi import Approximation

from vitoolkit.controls import Control, LearningRate
from vitoolkit.inference import ADVI, BetaLike, FullRankADVI, KLqp
from vitoolkit.recorder import Recorder
from vitoolkit.trace import Trace

__all__ = ["Fit", "fit"]

_METHODS: dict[str, Callable[..., KLqp]] = {"advi": ADVI, "fullrank_advi": FullRankADVI}


class Fit:
    """A finished fit: the approximation and everything around it.

    Attributes
    ----------
    approx : Approximation
        The trained approximation.
    inference : KLqp
        What trained it; ``inference.refine(n)`` goes on.
    trace : Trace
        The record of the fit.
    controls : dict of str to Control
        The controls of the fit by name.
    dashboard : Dashboard or None
        The panel, if one was asked for.
    """

    def __init__(self, inference: KLqp, recorder: Recorder, controls, dashboard) -> None:
        self.inference = inference
        self.recorder = recorder
        self.controls: dict[str, Control] = {control.name: control for control in controls}
        self.dashboard = dashboard

    @property
    def approx(self) -> Approximation:
        """The trained approximation."""
        return self.inference.approx

    @property
    def trace(self) -> Trace:
        """The record of the fit."""
        return self.recorder.trace

    def refine(self, n: int, *, progressbar: bool = True) -> Fit:
        """Train `n` more steps with the same step function, optimizer state and trace."""
        self.inference.refine(n, progressbar=progressbar)
        return self

    def sample(self, draws: int = 1_000, *, random_seed: Any = None) -> Any:
        """Draw from the approximation, with the trace beside the draws.

        Parameters
        ----------
        draws : int
            Number of draws.
        random_seed : int, optional
            Seed of the draws.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            What ``approx.sample`` of the installed PyMC returns, with the trace in the group
            ``variational_trace``.
        """
        with self.approx.model:
            posterior = self.approx.sample(draws, random_seed=random_seed)
        record = self.trace.to_xarray()
        if hasattr(posterior, "add_groups"):
            posterior.add_groups({"variational_trace": record}, warn_on_custom_groups=False)
        else:
            import xarray

            posterior["variational_trace"] = xarray.DataTree(record)
        return posterior

    def __repr__(self) -> str:
        return f"<Fit of {self.inference!r}; {self.trace!r}>"


def fit(
    n: int = 10_000,
    *,
    beta: BetaLike | Mapping[str, BetaLike] = 1.0,
    learning_rate: float | Control | Callable[[int], float] = 1e-3,
    optimizer: Callable[..., Any] = pm.adam,
    method: str | KLqp = "advi",
    model: Any = None,
    record: Any = None,
    dashboard: Any = False,
    background: bool = False,
    callbacks: Sequence[Callable] = (),
    random_seed: int | None = None,
    start: Mapping[str, Any] | None = None,
    every: int = 1,
    progressbar: bool = True,
    **kwargs: Any,
) -> Fit:
    """Fit a model with live β and learning rate, and keep the whole record.

    Parameters
    ----------
    n : int
        Number of steps.
    beta : float, Control, schedule or mapping of str to one of these
        β of every variable, or of the variables named; see :class:`~vitoolkit.inference.KLqp`.
    learning_rate : float, Control or schedule
        Learning rate of the optimizer, live as well.
    optimizer : callable
        A PyMC optimizer that takes ``learning_rate=``, such as ``pm.adam`` or
        ``pm.adam(beta1=0.8)``.
    method : {"advi", "fullrank_advi"} or KLqp
        How to approximate; an inference of vitoolkit brings its own β.
    model : pymc.Model, optional
        The model; default is the one in context.
    record : path, optional
        A journal on disk; not available yet.
    dashboard : bool or Dashboard
        Show a live panel in the notebook.
    background : bool
        Return at once and fit in a thread; not available yet.
    callbacks : sequence of callable
        More callbacks.
    random_seed : int, optional
        Seed of the draws.
    start : mapping of str to array, optional
        Starting means.
    every : int
        Record the steps that are a multiple of `every`.
    progressbar : bool
        Whether to show a progress bar where no dashboard is shown.
    **kwargs
        Passed on to the inference's ``fit``: ``obj_n_mc``, ``compile_kwargs``, ``backend`` ...

    Returns
    -------
    Fit

    Raises
    ------
    KeyError, TypeError, ValueError
        For a β or a learning rate that is out of bounds, of an unknown variable or of a wrong type,
        an unknown method, or an optimizer without learning rate.
    NotImplementedError
        For `record` and `background`.

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
    if record is not None:
        raise NotImplementedError(
            "record= (a journal on disk) is not available yet; fit.trace.to_netcdf(path) and its "
            "siblings write the record of a fit that has ended, also by an error or an interrupt"
        )
    if background:
        raise NotImplementedError(
            "background=True is not available yet; run the fit in the cell, where the dashboard's "
            "sliders work"
        )
    inference = _inference(method, beta, model=model, random_seed=random_seed, start=start)
    rate = _learning_rate(learning_rate)
    recorder = Recorder(rate, every=every)
    panel = _dashboard(dashboard, recorder)
    inference.fit(
        n,
        callbacks=[recorder if panel is None else panel, rate, *callbacks],
        obj_optimizer=_live_optimizer(optimizer, rate),
        progressbar=progressbar,
        **kwargs,
    )
    if panel is not None:
        recorder = panel.recorder
    return Fit(inference, recorder, (*inference.controls, rate), panel)


def _inference(method, beta, *, model, random_seed, start) -> KLqp:
    if isinstance(method, str) and method.lower() in _METHODS:
        return _METHODS[method.lower()](
            beta=beta, model=model, random_seed=random_seed, start=start
        )
    if isinstance(method, KLqp):
        if beta != 1.0 or start is not None or random_seed is not None:
            raise TypeError(
                "an inference brings its own beta, start and random_seed: give them to "
                f"{type(method).__name__}(...), not to vitoolkit.fit"
            )
        return method
    accepted = f"one of {', '.join(map(repr, _METHODS))} or a vitoolkit inference"
    if isinstance(method, Inference):
        raise TypeError(
            f"method must be {accepted}; {type(method).__name__} is PyMC's own, and trains with "
            "pm.fit(method=..., callbacks=[vitoolkit.Dashboard(...)])"
        )
    raise ValueError(f"method must be {accepted}, received {method!r}")


def _learning_rate(learning_rate) -> Control:
    if isinstance(learning_rate, Control):
        return learning_rate
    if callable(learning_rate):
        return LearningRate(schedule=learning_rate)
    return LearningRate(learning_rate)


def _live_optimizer(optimizer, rate: Control):
    try:
        return optimizer(learning_rate=rate.shared)
    except TypeError as error:
        raise TypeError(
            f"optimizer must be a PyMC optimizer that takes learning_rate=, such as pm.adam or "
            f"pm.adam(beta1=0.8); received {optimizer!r}"
        ) from error


def _dashboard(dashboard, recorder: Recorder):
    if dashboard is False or dashboard is None:
        return None
    from vitoolkit.dashboard import Dashboard

    if isinstance(dashboard, Dashboard):
        return dashboard
    return Dashboard(recorder=recorder)
