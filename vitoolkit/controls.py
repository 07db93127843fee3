"""Controls: named, bounded scalars that a person, a schedule or code can change while a fit runs.

A control lives in a PyTensor shared variable, so that changing it needs no new compilation. Only
the fitting thread writes that variable, and only between two steps: :meth:`Control.set` puts a
request into the inbox of the run, which applies it before its next step and logs an
:class:`~vitoolkit.events.Event`. With nobody at the wheel a control follows its law: a schedule, a
rule, or a schedule to its end and then a rule.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import pytensor
from pytensor.tensor import _as_tensor_variable

from vitoolkit.checks import real_number, whole_number
from vitoolkit.events import Event
from vitoolkit.laws import Law, Parameters
from vitoolkit.requests import HOLDS, REPLACED, Change, Request
from vitoolkit.rules import Rule
from vitoolkit.schedules import Schedule, as_schedule, scaled
from vitoolkit.steps import counter_of

__all__ = ["Beta", "Control", "Draws", "LearningRate", "Switch", "distinct_controls", "future_of"]


class Asked(Protocol):
    """What a run was asked for, as far as a control needs to know it."""

    def waiting(self, control: str | None = None) -> list[Request]:
        """Requests that are not in force."""

    def can_undo(self, control: str | None = None) -> bool:
        """Whether a change is there to be taken back."""

    def remember(self, change: Change) -> None:
        """Note a change that is in force."""


class Holder(Protocol):
    """The run that holds a control, as far as the control needs to know it."""

    inference: Any
    log: list[Event]
    step: int

    @property
    def inbox(self) -> Asked:
        """What it was asked for."""

    @property
    def running(self) -> bool:
        """False when the fit has ended."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What a step records, beside the controls."""

    def ask(self, request: Request) -> None:
        """Put a request into the inbox."""

    def give_way(self) -> None:
        """End if nobody wants it any more."""


class Control:
    """A named, bounded scalar in a PyTensor shared variable, also a callback for ``pm.fit``.

    Use the control, or ``control.shared``, wherever PyMC takes a number that should stay live (an
    optimizer's learning rate, a tempering weight in the model) and list the control, or a Recorder
    or Dashboard that holds it, among the callbacks of ``pm.fit``. Which of them comes first does
    not matter; listing it twice is harmless.

    Parameters
    ----------
    value : float, optional
        Value in force at the start. With a `schedule` the start is ``schedule(0)`` and `value` is
        not used.
    bounds : tuple of float
        Smallest and largest value accepted, both included. Infinite bounds are allowed.
    schedule : callable or float, optional
        A function ``step -> value``, such as those of :mod:`vitoolkit.schedules`; the step counts
        from 0 over the whole life of an inference.
    rule : Rule, optional
        A feedback law, see :mod:`vitoolkit.rules`. With a `schedule` that has an end, it has the
        wheel from there on.
    name : str
        Name of the control: of its column in a trace, of its slider.
    scale : {"linear", "log"}
        How a slider spaces the values. "log" needs a positive lower bound.
    shared : TensorSharedVariable, optional
        An existing scalar float shared variable to control, instead of a new one.

    Raises
    ------
    TypeError
        When a value is not a real number, or a schedule is not callable.
    ValueError
        When a value is NaN or out of bounds, the bounds are not an increasing pair, or a rule would
        wait for the end of a schedule that has none.

    Examples
    --------
    >>> from vitoolkit import Control
    >>> temperature = Control(1.0, bounds=(0.1, 10.0), name="temperature")
    >>> temperature.set(2.0)
    >>> temperature.value
    2.0
    >>> temperature
    <Control 'temperature' = 2, manual, bounds [0.1, 10]>
    """

    _dtype_kinds, _dtype_names = "f", "floats"

    def __init__(
        self,
        value: float | None = None,
        *,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        schedule: Callable[[int], float] | float | None = None,
        rule: Rule | None = None,
        name: str = "control",
        scale: str = "linear",
        shared: Any = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a non-empty string, received {name!r}")
        if scale not in ("linear", "log"):
            raise ValueError(f"scale of {name!r} must be 'linear' or 'log', received {scale!r}")
        self.name = name
        self.bounds = _checked_bounds(name, bounds, scale)
        self.scale = scale
        #: What moves the control when nobody holds it.
        self.law = Law(name, schedule, rule, self._checked)
        if self.law.schedule is not None:
            start = self.law.value(0)
        elif value is not None:
            start = self._checked(value)
        elif shared is not None:
            start = self._checked(float(shared.get_value()))
        else:
            raise TypeError(f"control {name!r} needs a value, a schedule or a shared variable")
        if shared is None:
            shared = pytensor.shared(self._as(start, self._new_dtype()), name=name)
        elif shared.ndim != 0 or np.dtype(shared.dtype).kind not in self._dtype_kinds:
            raise TypeError(
                f"control {name!r} needs a scalar shared variable of {self._dtype_names}, "
                f"received {shared!r} with {shared.ndim} dimensions and dtype {shared.dtype}"
            )
        self.log: list[Event] = []
        self._manual = False
        self._waiting: list[Request] = []  # what was asked for between two fits
        self._live(shared)
        self._write(start)

    def _live(self, shared: Any) -> None:
        """Take hold of the shared variable, and of what belongs to this process."""
        self.shared = shared
        self._dtype = np.dtype(shared.dtype)
        self._storage = shared.container.storage  # set_value does the same, five times slower
        self._lock = threading.RLock()
        self._run: Holder | None = None  # the running fit that holds this control

    # --- what a person and a view see ---------------------------------------------------------

    @property
    def value(self) -> float:
        """Value in force: what the next step will use, unless something changes it before."""
        return self._value

    @property
    def pending(self) -> float | None:
        """A value that was asked for and waits for the next step boundary, or None."""
        request = self._last_request
        return None if request is None or request.in_force else request.value

    @property
    def requested(self) -> float:
        """The value asked for last, in force or not."""
        pending = self.pending
        return self._value if pending is None else pending

    @property
    def manual(self) -> bool:
        """True while a value that was :meth:`set` holds, False while the law has the wheel."""
        request = self._last_request
        if request is None or request.kind == "undo":
            return self._manual
        return request.kind in HOLDS

    @property
    def follows(self) -> bool:
        """Whether there is a law to follow: a schedule or a rule."""
        return self.law.schedule is not None or self.law.rule is not None

    @property
    def rule(self) -> Rule | None:
        """The rule, or None; with a schedule as well, it has the wheel from its end on."""
        return self.law.rule

    @property
    def schedule(self) -> Schedule | None:
        """The schedule, or None. Assigned during a fit, it has the wheel from the next step on."""
        return self.law.schedule

    @schedule.setter
    def schedule(self, schedule: Callable[[int], float] | float | None) -> None:
        found = None if schedule is None else as_schedule(schedule)
        run = self._running()
        if run is None:
            self.law.schedule = found
            return
        if found is not None:
            self._checked(found(run.step))
        self._ask("reschedule", schedule=found)

    def reschedule(
        self, *, end: float | None = None, steps: int | None = None, source: str = "code"
    ) -> None:
        """Give the schedule another end or length, from any thread, and the wheel to the schedule.

        From the next step on a new ramp goes from the value of that step to `end` and reaches it at
        step `steps`; see :func:`vitoolkit.schedules.redirected`. It is an event of kind
        "reschedule". Between two fits it takes place at the first step of the next.

        Parameters
        ----------
        end : float, optional
            The new end; default is the present schedule's.
        steps : int, optional
            The new length, counted from step 0 as for every schedule; default is the present
            schedule's.
        source : str
            Who asks; it is written into the event.

        Raises
        ------
        TypeError, ValueError
            When `end` is out of bounds, `steps` is not a whole number or is over already, or
            neither is given. Without a schedule that has an end, both have to be given.

        Examples
        --------
        >>> from vitoolkit import Beta, schedules
        >>> beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=100))
        >>> beta.advance(50)
        0.5
        >>> beta.reschedule(end=2.0)
        >>> beta.advance(51), beta.advance(100)
        (0.51, 2.0)
        """
        end, steps, _ = self._checked_course(end, steps)
        self._ask("reschedule", source=source, end=end, steps=steps)

    def preview(
        self, *, end: float | None = None, steps: int | None = None, points: int = 48
    ) -> np.ndarray:
        """What :meth:`reschedule` would make of the coming steps, to draw; it asks for nothing.

        Parameters
        ----------
        end, steps : float, int, optional
            As for :meth:`reschedule`.
        points : int
            Most points returned.

        Returns
        -------
        numpy.ndarray
            Values at evenly spread steps, from the next step to the new end.

        Raises
        ------
        TypeError, ValueError
            As :meth:`reschedule` would.

        Examples
        --------
        >>> from vitoolkit import Beta, schedules
        >>> beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=100))
        >>> beta.preview(end=2.0, points=5)
        array([0. , 0.5, 1. , 1.5, 2. ])
        """
        end, steps, now = self._checked_course(end, steps)
        request = Request("reschedule", self.name, end=end, steps=steps)
        course = self.law.rescheduled(request, now, self.requested)
        assert course is not None and course.steps is not None
        spread = np.linspace(now, max(course.steps, now + 1), points).round().astype(int)
        return np.array([course(step) for step in np.unique(spread).tolist()])

    def _checked_course(
        self, end: float | None, steps: int | None
    ) -> tuple[float | None, int | None, int]:
        """End and length as they may be asked for, and the step that comes next."""
        old = self.law.schedule
        if end is None and steps is None:
            raise ValueError(f"reschedule {self.name!r}: give end=, steps= or both")
        if (end is None or steps is None) and (old is None or not old.steps):
            raise ValueError(
                f"reschedule {self.name!r}: its schedule is {old!r}, without a length to keep: "
                "give both end= and steps="
            )
        end = None if end is None else self._checked(end)
        run = self._running()
        now = 0 if run is None else run.step
        if steps is not None:
            steps = whole_number("steps", steps, of="steps")
            if steps <= now:
                raise ValueError(
                    f"steps of {self.name!r} must be more than {now}, the step that comes next, "
                    f"received {steps}"
                )
        return end, steps, now

    def undo(self, *, source: str = "code") -> bool:
        """Take back the last change that was made in the running fit; from any thread.

        Value, schedule and who has the wheel are as before it, from the next step on. A value that
        is set again and again within a moment, as by a slider, is one change.

        Parameters
        ----------
        source : str
            Who asks; it is written into the event.

        Returns
        -------
        bool
            False when there is nothing to take back, or no fit runs.
        """
        run = self._running()
        if run is None or not run.inbox.can_undo(self.name):
            return False
        self._ask("undo", source=source)
        return True

    @property
    def _last_request(self) -> Request | None:
        run = self._run
        waiting = self._waiting if run is None else run.inbox.waiting(self.name)
        return waiting[-1] if waiting else None

    def astype(self, dtype: Any) -> Any:
        """What PyMC asks of a β or another number that it is given: the shared variable."""
        return self.shared.astype(dtype)

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls this callback holds: itself."""
        return (self,)

    def set(self, value: float, *, source: str = "code") -> None:
        """Ask for a value, from any thread.

        It is in force from the next step on and holds until :meth:`release`.

        Parameters
        ----------
        value : float
            The value, within the bounds.
        source : str
            Who asks; it is written into the event. Widgets say "user".

        Raises
        ------
        TypeError, ValueError
            When `value` is not a real number, is NaN or is out of bounds. Nothing has changed then.
        """
        self._ask("set", self._checked(value), source)

    def release(self, *, source: str = "code") -> None:
        """Give the wheel back to the law; without one the value in force stays."""
        self._ask("release", source=source)

    def __call__(self, approx, losses, i) -> None:
        """PyMC's callback: apply what was asked for, or the law, for the coming step.

        In a fit of a vitoolkit inference the loop has done so already, and this does nothing.
        """
        counter_of(approx).tell(self, approx, losses, i)

    def reset(self) -> None:
        """Back to the start between two fits: ``schedule(0)``, not manual, nothing asked for."""
        if self._running() is not None:
            raise RuntimeError(
                f"control {self.name!r} is in a running fit: reset it when the fit has ended"
            )
        with self._lock:
            self._waiting, self._manual = [], False
            self.law.start()
            if self.law.schedule is not None:
                self._write(self.law.value(0))

    def __repr__(self) -> str:
        lo, hi = self.bounds
        who = "manual" if self.manual else f"on {self.law!r}" if self.follows else ""
        waits = "" if self.pending is None else f", {self.pending:g} from the next step"
        return (
            f"<{type(self).__name__} {self.name!r} = {self.value:g}{waits}"
            f"{', ' if who else ''}{who}, bounds [{lo:g}, {hi:g}]>"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What it is, without the fit that runs."""
        gone, own = ("_lock", "_run", "_storage", "_dtype", "_written"), ("law", "log", "_waiting")
        kept = {key: value for key, value in self.__dict__.items() if key not in gone}
        return {**kept, **{key: copy.copy(kept[key]) for key in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._live(self.shared)
        self._written = self._storage[0]

    def put_back(self, state: dict[str, Any]) -> None:
        """Be again what :meth:`__getstate__` told, value and all."""
        self.__dict__.update(state)
        self._write(state["_value"])

    def check(self, request: Request, step: int) -> None:
        """Raise what :meth:`set` or :meth:`reschedule` would raise of a request from elsewhere.

        Parameters
        ----------
        request : Request
            Of this control.
        step : int
            The first step that shall run with it.
        """
        if request.kind in HOLDS:
            if request.value is None:
                raise ValueError(f"a {request.kind} of {self.name!r} needs a value")
            self._checked(request.value)
        elif request.kind == "reschedule":
            if request.end is not None or request.steps is not None:
                self._checked_course(request.end, request.steps)
            if request.schedule is not None:
                self._checked(as_schedule(request.schedule)(step))

    def standing(self) -> dict[str, Any]:
        """Where it stands at a step boundary: its value, who has the wheel, what moves it."""
        return {"asked": self._asked, "manual": self._manual, **self.law.standing()}

    def stand(self, found: dict[str, Any]) -> None:
        """Stand there again; `found` is what :meth:`standing` told."""
        self._manual = found["manual"]
        self.law.stand(found)
        self._write(found["asked"])

    # --- what the fitting thread does ----------------------------------------------------------

    def advance(self, step: int) -> float:
        """Bring the control to `step`; only the fitting thread calls this, between two steps.

        Parameters
        ----------
        step : int
            The step that is about to run.

        Returns
        -------
        float
            The value that step will use.
        """
        if self._storage[0] is not self._written:
            self._check_foreign_write(step)
        if self._waiting and self._run is None:
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                self.apply(request, step)
        if self._on_schedule(step):
            value = self.law.value(step)
            if value != self._asked:
                self._write(value)
        return self._value

    def plan(self, first: int, out: np.ndarray) -> int:
        """Bring the control to step `first`, and write the values of that and the next into `out`.

        Parameters
        ----------
        first : int
            The step that is about to run.
        out : numpy.ndarray, shape (steps,)
            Takes the values.

        Returns
        -------
        int
            How many are good: a schedule that fails at a later step fails when that comes.
        """
        out.fill(self.advance(first))
        if len(out) == 1 or self._manual or not self.law.moves(first):
            return len(out)
        values = self.law.values(first, len(out), self.bounds)
        out[: len(values)] = self._as(values, self._dtype)
        return len(values)

    def taken(self, value: float) -> None:
        """Note the value that the last step used."""
        if value != self._value:
            self._write(value)

    def apply(self, request: Request, step: int) -> Change | None:
        """Put a request in force for `step`.

        Parameters
        ----------
        request : Request
            A "set", "release" or "reschedule" of this control.
        step : int
            The first step that runs with it.

        Returns
        -------
        Change or None
            What :meth:`take_back` needs; None of what was in force before the fit began.
        """
        kind, law = request.kind, self.law
        old = request.old if request.in_force else self._value
        change = Change(
            self.name, kind, request.source, request.time, (self._value, self._manual, law.schedule)
        )
        text = None
        if kind == "reschedule":
            old = None if law.schedule is None else law.schedule.end
            value = law.value(step) if self._on_schedule(step) else self._value
            law.schedule = law.rescheduled(request, step, value)
            text = repr(law.schedule)
        self._manual = kind in HOLDS
        law.give_back(step)
        if request.value is not None:
            self._write(request.value)
        elif self._on_schedule(step):
            self._write(law.value(step))
        self.begin(step)
        end = None if law.schedule is None else law.schedule.end
        new = end if kind == "reschedule" else self._value
        asked = None if request.in_force else request.time
        self._note(step, kind, old, new, request.source, text, asked)
        return None if request.in_force else change

    def cut(self, factor: float, step: int) -> None:
        """Multiply the value, or the schedule that has the wheel, down to the lower bound at most.

        A rule that has the wheel goes on from there.
        """
        low = self.bounds[0]
        if self._on_schedule(step):
            self.law.schedule = scaled(self.law.schedule, factor, least=max(low, 0.0))  # type: ignore
            self._write(self.law.value(step))
        else:
            self._write(max(factor * self._value, low))
            self.law.give_back(step)

    def take_back(self, change: Change, request: Request, step: int) -> None:
        """Undo a change: all is as it was before, from `step` on."""
        old = self._value
        value, self._manual, self.law.schedule = change.state
        self.law.give_back(step)
        self._write(self.law.value(step) if self._on_schedule(step) else value)
        self.begin(step)
        self._note(step, "undo", old, self._value, request.source, change.kind, request.time)

    def begin(self, step: int) -> None:
        """Let the rule begin before `step`, if it has the wheel and has not begun."""
        if not self._manual:
            self.law.begin(step, self._value, self.bounds)

    def decide(self, step: int, parameters: Parameters) -> None:
        """Let the rule choose the value from `step` on, if it has the wheel and is due."""
        if self._manual:
            return
        old = self._value
        wanted = self.law.decision(step, old, self.bounds, parameters)
        if wanted is None:
            return
        lo, hi = self.bounds
        self._write(min(max(real_number(f"the rule of {self.name}", wanted), lo), hi))
        if self._value != old:
            why = None if self.rule is None else self.rule.why
            self._note(step, "rule", old, self._value, "rule", why)

    def bind(self, run: Holder) -> list[Request]:
        """Claim the control for a running fit; returns what was asked for since the last one."""
        self.law.check(run.columns)
        held = self._running()
        if held is not None and held is not run:
            held.give_way()
        with self._lock:
            held = self._running()
            if held is not None and held is not run:
                raise RuntimeError(
                    f"control {self.name!r} is steered by a running fit of {held.inference!r} "
                    f"and cannot be steered by {run.inference!r} as well: give each fit a control "
                    "of its own"
                )
            self._run = run
            waiting, self._waiting = self._waiting, []
            return waiting

    def unbind(self, run: Holder) -> None:
        """Free the control at the end of a fit."""
        with self._lock:
            if self._run is run:
                self._run = None

    def keep(self, request: Request) -> None:
        """Apply what was asked for after the last step; the next fit logs it."""
        with self._lock:
            if request.kind in REPLACED and not request.in_force:
                request = request._replace(in_force=True, old=self._value)
                if request.value is not None:
                    self._write(request.value)
            self._waiting.append(request)

    # --- internals -----------------------------------------------------------------------------

    def _ask(
        self, kind: str, value: float | None = None, source: str = "code", **more: Any
    ) -> None:
        request = Request(kind, self.name, value, source, time=time.perf_counter(), **more)
        with self._lock:
            run = self._running()
            if run is not None:
                run.ask(request)
            else:
                self.keep(request)  # a new schedule waits for a step, where it begins

    def _running(self) -> Holder | None:
        run = self._run
        return run if run is not None and run.running else None

    def _on_schedule(self, step: int) -> bool:
        """Whether the schedule has the wheel: not a person, nor the rule that comes after it."""
        return not self._manual and self.law.scheduled(step)

    def _note(self, step, kind, old, new, source, text, asked=None) -> None:
        event = Event(step, time.perf_counter(), kind, self.name, old, new, source, text, asked)
        self.log.append(event)
        if self._run is not None:
            self._run.log.append(event)

    def _write(self, value: float) -> None:
        self._asked = value
        self._written = self._storage[0] = self._as(value, self._dtype)
        self._value = float(self._written)

    @staticmethod
    def _new_dtype() -> str:
        """The dtype of a shared variable that is made for it."""
        return pytensor.config.floatX

    @staticmethod
    def _as(value: Any, dtype: Any) -> np.ndarray:
        """A value, or several, as the shared variable takes them."""
        return np.asarray(value, dtype=dtype)

    def _check_foreign_write(self, step: int) -> None:
        found = float(self._storage[0])
        if found != self._value and not (math.isnan(found) and math.isnan(self._value)):
            raise RuntimeError(
                f"two writers on one shared variable: control {self.name!r} wrote {self._value:g}, "
                f"something else wrote {found:g} into {self.name}.shared since. "
                f"Change it through {self.name}.set(...) only."
            )
        self._written = self._storage[0]

    def _checked(self, value: float) -> float:
        number, (lo, hi) = real_number(self.name, value), self.bounds
        if not lo <= number <= hi:
            raise ValueError(f"{self.name} must be in [{lo:g}, {hi:g}], received {value!r}")
        return number


class Beta(Control):
    """β, the weight of a KL term in the loss.

    Parameters
    ----------
    value : float
        β in force at the start; 1 is the ELBO.
    bounds : tuple of float
        Smallest and largest β accepted; not negative.
    schedule : callable or float, optional
        ``step -> β``; a warm-up from 0 to 1 is ``vitoolkit.schedules.linear(0.0, 1.0,
        steps=5_000)``.
    rule : Rule, optional
        As in :class:`Control`.
    name : str
        Name of the control.
    shared : TensorSharedVariable, optional
        An existing scalar float shared variable to control.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Control`; also when a bound is negative.

    Notes
    -----
    β < 1 tempers the prior, β > 1 is the β-VAE of Higgins et al. (2017, ICLR, eq. 4). At β = 0 the
    optimum is a maximum-likelihood point and q's scale collapses: pass through 0 on the way, do not
    stay there.

    Examples
    --------
    >>> from vitoolkit import Beta, schedules
    >>> Beta(schedule=schedules.linear(0.0, 1.0, steps=5_000))
    <Beta 'beta' = 0, on linear(0.0, 1.0, steps=5000), bounds [0, 10]>
    """

    def __init__(
        self,
        value: float = 1.0,
        *,
        bounds: tuple[float, float] = (0.0, 10.0),
        schedule: Callable[[int], float] | float | None = None,
        rule: Rule | None = None,
        name: str | None = None,
        shared: Any = None,
    ) -> None:
        #: True when the name was given, so that an inference does not choose a better one.
        self.named = name is not None
        name = "beta" if name is None else name
        lo, _ = _checked_bounds(name, bounds, "linear")
        if lo < 0:
            raise ValueError(f"bounds of {name!r}: β cannot be negative, received {bounds!r}")
        super().__init__(
            value, bounds=bounds, schedule=schedule, rule=rule, name=name, shared=shared
        )


class LearningRate(Control):
    """The learning rate of an optimizer, on a logarithmic slider.

    Parameters
    ----------
    value : float
        Learning rate in force at the start.
    bounds : tuple of float
        Smallest and largest learning rate accepted; positive.
    schedule : callable or float, optional
        ``step -> learning rate``.
    rule : Rule, optional
        As in :class:`Control`.
    name : str
        Name of the control.
    shared : TensorSharedVariable, optional
        An existing scalar float shared variable to control.

    Attributes
    ----------
    suggestion : float or None
        What :func:`vitoolkit.lr_find` suggests for it; a panel shows it at the slider.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Control`; also when a bound is not positive.

    Examples
    --------
    Hand the control, not its value, to the optimizer; PyMC would bake a number in:

    >>> import pymc as pm
    >>> from vitoolkit import LearningRate, schedules
    >>> rate = LearningRate(schedule=schedules.cosine(1e-2, 1e-4, steps=20_000))
    >>> optimizer = pm.adam(learning_rate=rate)
    >>> rate
    <LearningRate 'learning_rate' = 0.01, on cosine(0.01, 0.0001, steps=20000), bounds [1e-06, 1]>
    """

    def __init__(
        self,
        value: float = 1e-3,
        *,
        bounds: tuple[float, float] = (1e-6, 1.0),
        schedule: Callable[[int], float] | float | None = None,
        rule: Rule | None = None,
        name: str = "learning_rate",
        shared: Any = None,
    ) -> None:
        super().__init__(
            value,
            bounds=bounds,
            schedule=schedule,
            rule=rule,
            name=name,
            scale="log",
            shared=shared,
        )
        self.suggestion: float | None = None


class Draws(Control):
    """How many draws of q the gradient of a step is the mean of, a whole number.

    Give it to a fit as ``obj_n_mc``, PyMC's name for it. More draws make a step less noisy and cost
    time in proportion; a fit that moves the number compiles nothing anew.

    Parameters
    ----------
    value : int
        Draws a step at the start.
    bounds : tuple of int
        Fewest and most draws accepted, both included; at least 1.
    schedule : callable or float, optional
        ``step -> draws``, rounded to whole numbers.
    rule : Rule, optional
        As in :class:`Control`; what it says is rounded as well.
    name : str
        Name of the control.
    shared : TensorSharedVariable, optional
        An existing scalar integer shared variable to control.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Control`; also when a bound is no whole number from 1 up.

    Notes
    -----
    A step of n draws takes from the random stream what a step of n draws takes in PyMC: n draws all
    along are the very draws of ``obj_n_mc=n``. JAX compiles for one number of draws: it takes an
    int.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> draws = vt.Draws(1, bounds=(1, 16))
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(100, obj_n_mc=draws, random_seed=1, progressbar=False)
    >>> draws.set(8)
    >>> fit.refine(100, progressbar=False).trace.control["draws"][[99, 100]].tolist()
    [1.0, 8.0]
    """

    _dtype_kinds, _dtype_names = "iu", "integers"

    def __init__(
        self,
        value: int = 1,
        *,
        bounds: tuple[int, int] = (1, 16),
        schedule: Callable[[int], float] | float | None = None,
        rule: Rule | None = None,
        name: str = "draws",
        shared: Any = None,
    ) -> None:
        _checked_bounds(name, bounds, "linear")
        ends = ("low", "high")
        lo, hi = (
            whole_number(f"{end} bound of {name!r}", bound, least=1, of="draws")
            for end, bound in zip(ends, bounds, strict=True)
        )
        super().__init__(
            value, bounds=(lo, hi), schedule=schedule, rule=rule, name=name, shared=shared
        )

    def _checked(self, value: float) -> float:
        return float(round(super()._checked(value)))

    @staticmethod
    def _new_dtype() -> str:
        return "int64"

    @staticmethod
    def _as(value: Any, dtype: Any) -> np.ndarray:
        return np.rint(value).astype(dtype)


class Switch(Control):
    """Something that is on or off, in a shared variable of integers.

    Parameters
    ----------
    shared : TensorSharedVariable
        A scalar integer shared variable that is 0 or 1.
    name : str
        Name of the control.
    words : str
        What it is for, to be read by a person at it.
    kinds : tuple of str
        The kinds of event that it is when it is switched on, and off.

    Raises
    ------
    TypeError, ValueError
        When the shared variable is not of integers, or a value is neither on nor off.

    Notes
    -----
    A write past the control is taken over as if it had been asked for, because the attribute of
    PyMC that a switch stands for (``approx.scale_cost_to_minibatch``) is public there.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor
    >>> from vitoolkit import Switch
    >>> switch = Switch(pytensor.shared(np.int8(1)), name="scale_cost_to_minibatch")
    >>> switch.set(False)
    >>> switch
    <Switch 'scale_cost_to_minibatch' is off>
    """

    _dtype_kinds, _dtype_names = "biu", "integers"

    def __init__(
        self, shared: Any, *, name: str, words: str = "", kinds: tuple[str, str] = ("set", "set")
    ) -> None:
        super().__init__(bounds=(0.0, 1.0), name=name, shared=shared)
        self.words, self.kinds = words, kinds

    def set(self, value: bool | float, *, source: str = "code") -> None:
        """Ask for it to be on or off, as :meth:`Control.set` does."""
        number = self._checked(value)
        self._ask(self.kinds[0] if number else self.kinds[1], number, source)

    def __repr__(self) -> str:
        waits = "" if self.pending is None else f", {_on_off(self.pending)} from the next step"
        return f"<Switch {self.name!r} is {_on_off(self.value)}{waits}>"

    def _checked(self, value: Any) -> float:
        if isinstance(value, bool | np.bool_):
            return float(value)
        number = super()._checked(value)
        if number not in (0.0, 1.0):
            raise ValueError(f"{self.name} must be True or False, received {value!r}")
        return number

    def _check_foreign_write(self, step: int) -> None:
        found = float(self._storage[0])
        self._written = self._storage[0]
        if found != self._value and self._last_request is None:
            change = self.apply(Request("set", self.name, found, time=time.perf_counter()), step)
            if self._run is not None and change is not None:
                self._run.inbox.remember(change)


def _as_tensor_control(control: Any, *args: Any, **kwargs: Any) -> Any:
    """Let a control stand wherever PyTensor takes a number: it is live there."""
    return _as_tensor_variable(control.shared, *args, **kwargs)


_as_tensor_variable.register(Control, _as_tensor_control)  # type: ignore[call-overload]


def _on_off(value: float) -> str:
    return "on" if value else "off"


def distinct_controls(controls: Iterable[Control]) -> tuple[Control, ...]:
    """The controls without repetitions, in order of first appearance.

    Raises
    ------
    TypeError
        When something else than a control is among them.
    ValueError
        When two different controls write one shared variable, or carry one name.
    """
    found: list[Control] = []
    for control in controls:
        if not isinstance(control, Control):
            raise TypeError(f"expected a vitoolkit Control, received {control!r}")
        if any(control is other for other in found):
            continue
        for other in found:
            if other.shared is control.shared:
                raise ValueError(
                    f"two writers on one shared variable: controls {other.name!r} and "
                    f"{control.name!r} both write {control.shared}. Use one control in both places."
                )
            if other.name == control.name:
                raise ValueError(
                    f"two controls are named {control.name!r}: {other!r} and {control!r}. "
                    "Give each a name of its own, or use one control in both places."
                )
        found.append(control)
    return tuple(found)


def future_of(
    control: Control, first: int, last: int, points: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """What the schedule of a control says for coming steps, to draw.

    Parameters
    ----------
    control : Control
        The control; whether it is manual at the moment makes no difference.
    first, last : int
        The first and the last step.
    points : int
        Most points returned.

    Returns
    -------
    steps : numpy.ndarray of int, shape (points,)
        Evenly spread steps. None when there is no schedule, or `last` is before `first`.
    values : numpy.ndarray, shape (points,)
        The schedule's values; NaN where it fails or leaves the control's bounds.

    Examples
    --------
    >>> from vitoolkit import Beta, schedules
    >>> beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=100))
    >>> steps, values = future_of(beta, 50, 150, points=5)
    >>> steps.tolist(), values.tolist()
    ([50, 75, 100, 125, 150], [0.5, 0.75, 1.0, 1.0, 1.0])
    """
    schedule, (lo, hi) = control.schedule, control.bounds
    if schedule is None or last < first:
        return np.empty(0, np.int64), np.empty(0)
    steps = np.unique(np.linspace(first, last, points).round().astype(np.int64))
    values = np.full(len(steps), np.nan)
    for i, step in enumerate(steps.tolist()):
        try:
            value = schedule(step)
        except Exception:  # the fit will say so when it comes to this step; a drawing has a gap
            continue
        if lo <= value <= hi:
            values[i] = value
    return steps, values


def _checked_bounds(name: str, bounds: Any, scale: str) -> tuple[float, float]:
    try:
        lo, hi = bounds
    except (TypeError, ValueError):
        raise TypeError(
            f"bounds of {name!r} must be a pair (low, high), received {bounds!r}"
        ) from None
    lo, hi = real_number(f"low bound of {name!r}", lo), real_number(f"high bound of {name!r}", hi)
    if not lo < hi:
        raise ValueError(f"bounds of {name!r} must increase, received {bounds!r}")
    if scale == "log" and lo <= 0:
        raise ValueError(f"bounds of {name!r} must be positive on a log scale, received {bounds!r}")
    return lo, hi
