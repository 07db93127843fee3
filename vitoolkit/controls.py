"""Controls: named, bounded scalars that a person, a schedule or code can change while a fit runs.

A control lives in a PyTensor shared variable, so that changing it needs no new compilation. Only
the fitting thread writes that variable, and only between two steps: :meth:`Control.set` puts a
request on the control, and the fit applies it before its next step and logs an
:class:`~vitoolkit.events.Event`.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytensor

from vitoolkit.events import Event
from vitoolkit.schedules import Schedule, as_schedule, redirected
from vitoolkit.steps import counter_of, pymc_loop

__all__ = ["Beta", "Control", "LearningRate", "Switch", "distinct_controls", "future_of"]


#: Requests of which only the last before a step is ever in force.
_REPLACED = ("set", "release")
#: A person's values that follow each other faster than this are one move, and one undo.
_ONE_MOVE_SECONDS = 1.5
_MOST_CHANGES = 1_000


class _Request(NamedTuple):
    """A change that was asked for and is not yet in force."""

    kind: str
    value: float | None
    source: str
    old: float
    written: bool
    asked: float
    schedule: Schedule | _Redirection | None = None


class _Redirection(NamedTuple):
    """Another end or length of a schedule; None for the one it has."""

    end: float | None
    steps: int | None


class _Change(NamedTuple):
    """A change that is in force, and the state before it."""

    kind: str
    source: str
    asked: float
    value: float
    manual: bool
    schedule: Schedule | None


class Control:
    """A named, bounded scalar in a PyTensor shared variable, also a callback for ``pm.fit``.

    Use ``control.shared`` wherever PyMC takes a number that should stay live (an optimizer's
    learning rate, a tempering weight in the model) and list the control, or a Recorder or Dashboard
    that holds it, among the callbacks of ``pm.fit``. Which of them comes first does not matter;
    listing it twice is harmless.

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
        When a value is NaN or out of bounds, or the bounds are not an increasing pair.

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
        self._schedule: Schedule | None = None if schedule is None else as_schedule(schedule)
        if self._schedule is not None:
            start = self._scheduled(0)
        elif value is not None:
            start = self._checked(value)
        elif shared is not None:
            start = self._checked(float(shared.get_value()))
        else:
            raise TypeError(f"control {name!r} needs a value, a schedule or a shared variable")
        if shared is None:
            shared = pytensor.shared(np.asarray(start, dtype=pytensor.config.floatX), name=name)
        elif shared.ndim != 0 or np.dtype(shared.dtype).kind not in self._dtype_kinds:
            raise TypeError(
                f"control {name!r} needs a scalar shared variable of {self._dtype_names}, "
                f"received {shared!r} with {shared.ndim} dimensions and dtype {shared.dtype}"
            )
        self.shared = shared
        self.log: list[Event] = []
        self._lock = threading.Lock()
        self._dtype = np.dtype(shared.dtype)
        self._storage = shared.container.storage  # set_value does the same, five times slower
        self._requests: tuple[_Request, ...] = ()
        self._changes: deque[_Change] = deque(maxlen=_MOST_CHANGES)
        self._manual = False
        self._run: Any = None  # the vitoolkit fit that holds this control
        self._thread: int | None = None  # the thread of PyMC's own loop that last called it
        self._last: tuple[Any, int] | None = (
            None  # (counter, step) of the last call by PyMC's own loop
        )
        self._write(start)
        self.used = self._value

    # --- what a person and a view see ---------------------------------------------------------

    @property
    def value(self) -> float:
        """Value in force: what the next step will use, unless something changes it before."""
        return self._value

    @property
    def pending(self) -> float | None:
        """A value that was asked for and waits for the next step boundary, or None."""
        request = self._last_request
        return None if request is None or request.written else request.value

    @property
    def requested(self) -> float:
        """The value asked for last, in force or not."""
        pending = self.pending
        return self._value if pending is None else pending

    @property
    def manual(self) -> bool:
        """True while a value that was :meth:`set` holds, False while the schedule has the wheel."""
        request = self._last_request
        if request is None or request.kind == "undo":
            return self._manual
        return request.kind == "set"

    @property
    def schedule(self) -> Schedule | None:
        """The schedule, or None. Assigned during a fit, it has the wheel from the next step on."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Callable[[int], float] | float | None) -> None:
        found = None if schedule is None else as_schedule(schedule)
        if not self._running():
            self._schedule = found
            return
        if found is not None:
            self._checked(found(self._run.step if self._run is not None else 0))
        self._ask("reschedule", None, "code", found)

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
        old = self._schedule
        if end is None and steps is None:
            raise ValueError(f"reschedule {self.name!r}: give end=, steps= or both")
        if (end is None or steps is None) and (old is None or not old.steps):
            raise ValueError(
                f"reschedule {self.name!r}: its schedule is {old!r}, without a length to keep: "
                "give both end= and steps="
            )
        end = None if end is None else self._checked(end)
        if steps is not None:
            if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
                raise TypeError(f"steps must be a whole number of steps, received {steps!r}")
            now = self._run.step if self._run is not None else 0
            if steps <= now:
                raise ValueError(
                    f"steps of {self.name!r} must be more than {now}, the step that comes next, "
                    f"received {steps}"
                )
            steps = int(steps)
        self._ask("reschedule", None, source, _Redirection(end, steps))

    @property
    def last_change(self) -> float | None:
        """When the change that :meth:`undo` takes back was asked for, or None without one.

        Seconds of ``time.perf_counter``.
        """
        with self._lock:
            if not self._requests:
                return self._changes[-1].asked if self._changes else None
            times = [change.asked for change in self._changes]
            for request in self._requests:
                if request.kind == "undo":
                    del times[-1:]
                elif not request.written:
                    times.append(request.asked)
            return times[-1] if times else None

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
        if self.last_change is None or not self._running():
            return False
        self._ask("undo", None, source)
        return True

    def forget_changes(self) -> None:
        """Begin a fit with nothing to undo."""
        self._changes.clear()

    @property
    def _last_request(self) -> _Request | None:
        requests = self._requests
        return requests[-1] if requests else None

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
        """Give the wheel back to the schedule; without a schedule the value in force stays."""
        self._ask("release", None, source)

    def __call__(self, approx, losses, i) -> None:
        """PyMC's callback: apply what was asked for, or the schedule, for the coming step.

        In a fit of a vitoolkit inference the loop has done so already, and this does nothing.
        """
        if self._run is not None:
            return
        counter = counter_of(approx)
        step = counter.tick(losses, i)
        if self._last == (counter, step):
            return
        self._thread = threading.get_ident()
        if step == 0 and self.schedule is not None and not self.manual:
            start = self._rounded(self._scheduled(0))
            if self._value != start:
                warnings.warn(
                    f"step 0 of this fit used {self.name} = {self._value:g}, left over from an "
                    f"earlier fit; its schedule says {start:g}. PyMC's own inferences do not tell "
                    f"a callback that a fit starts: call {self.name}.reset() before pm.fit, or "
                    "use an inference of vitoolkit.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if self._requests and self._requests[0].written:
            self._take_requests(step)
        self.used = self._value
        self._last = (counter, step)
        self.advance(step + 1)

    def reset(self) -> None:
        """Back to the start between two fits: ``schedule(0)``, not manual, nothing asked for."""
        if self._running():
            raise RuntimeError(
                f"control {self.name!r} is in a running fit: reset it when the fit has ended"
            )
        with self._lock:
            self._requests, self._manual, self._last = (), False, None
            self._changes.clear()
            if self.schedule is not None:
                self._write(self._scheduled(0))

    def __repr__(self) -> str:
        lo, hi = self.bounds
        who = "manual" if self.manual else "" if self.schedule is None else f"on {self.schedule!r}"
        waits = "" if self.pending is None else f", {self.pending:g} from the next step"
        return (
            f"<{type(self).__name__} {self.name!r} = {self.value:g}{waits}"
            f"{', ' if who else ''}{who}, bounds [{lo:g}, {hi:g}]>"
        )

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
            self._check_foreign_write()
        if self._requests:
            self._take_requests(step)
        if self._schedule is not None and not self._manual:
            value = self._scheduled(step)
            if value != self._asked:
                self._write(value)
        return self._value

    def plan(self, first: int, out: np.ndarray) -> None:
        """Write the values of the steps from `first` on into `out`, shape (steps,)."""
        out[:] = self.advance(first)
        if self._schedule is not None and not self._manual:
            values = self._schedule.values(first, len(out))
            lo, hi = self.bounds
            if not (values.min() >= lo and values.max() <= hi):
                for step in range(first, first + len(out)):
                    self._scheduled(step)
            out[:] = values.astype(self._dtype)
            self._write(float(values[-1]))

    def bind(self, run) -> None:
        """Claim the control for a running fit of a vitoolkit inference."""
        with self._lock:
            if self._run is not None and self._run is not run:
                raise RuntimeError(
                    f"control {self.name!r} is steered by a running fit of {self._run.inference!r} "
                    f"and cannot be steered by {run.inference!r} as well: give each fit a control "
                    "of its own"
                )
            if self._run is None:
                self._changes.clear()
            self._run = run

    def unbind(self) -> None:
        """Free the control at the end of a fit; what was asked for last is applied."""
        with self._lock:
            self._run = None
            kept = []
            for request in self._requests:
                if request.kind == "undo":
                    continue
                if request.value is not None and not request.written:
                    self._write(request.value)
                    request = request._replace(written=True)
                kept.append(request)
            self._requests = tuple(kept)

    # --- internals -----------------------------------------------------------------------------

    def _ask(
        self,
        kind: str,
        value: float | None,
        source: str,
        schedule: Schedule | _Redirection | None = None,
    ) -> None:
        with self._lock:
            before, old = self._requests, self._value
            if kind in _REPLACED and before and before[-1].kind in _REPLACED:
                before, old = before[:-1], before[-1].old  # only the last of them will be in force
            # A new schedule waits for a step even when no fit runs: it begins there.
            at_once = not self._running() and kind in _REPLACED
            if at_once and value is not None:
                self._write(value)
            request = _Request(kind, value, source, old, at_once, time.perf_counter(), schedule)
            self._requests = (*before, request)
            if self._run is not None:
                self._run.asked = True

    def _running(self) -> bool:
        if self._run is not None:
            return True
        return self._thread is not None and pymc_loop(self._thread) is not None

    def _take_requests(self, step: int) -> None:
        with self._lock:
            requests, self._requests = self._requests, ()
            for request in requests:
                if request.kind == "undo":
                    self._take_back(request, step)
                else:
                    self._take(request, step)

    def _take(self, request: _Request, step: int) -> None:
        kind, source = request.kind, request.source
        old: float | None = request.old
        before = _Change(kind, source, request.asked, self._value, self._manual, self._schedule)
        new: float | None = None
        text = None
        if kind == "reschedule":
            self._schedule, old, new = self._rescheduled(request.schedule, step)
            text = repr(self._schedule)
        self._manual = kind == "set"
        if request.value is not None:
            self._write(request.value)
        elif self._schedule is not None:
            self._write(self._scheduled(step))
        if not request.written:
            self._remember(before)
        new = self._value if kind != "reschedule" else new
        now = time.perf_counter()
        self.log.append(Event(step, now, kind, self.name, old, new, source, text))

    def _take_back(self, request: _Request, step: int) -> None:
        if not self._changes:
            return
        change, old = self._changes.pop(), self._value
        self._manual, self._schedule = change.manual, change.schedule
        follows = self._schedule is not None and not self._manual
        self._write(self._scheduled(step) if follows else change.value)
        now = time.perf_counter()
        self.log.append(
            Event(step, now, "undo", self.name, old, self._value, request.source, change.kind)
        )

    def _remember(self, change: _Change) -> None:
        last = self._changes[-1] if self._changes else None
        if (
            last is not None
            and (change.kind, change.source) == (last.kind, last.source) == ("set", "user")
            and change.asked - last.asked < _ONE_MOVE_SECONDS
        ):
            self._changes[-1] = last._replace(asked=change.asked)
        else:
            self._changes.append(change)

    def _rescheduled(
        self, wanted: Schedule | _Redirection | None, step: int
    ) -> tuple[Schedule | None, float | None, float | None]:
        """Return the new schedule, the end of the old one and its own."""
        schedule = self._schedule
        old = None if schedule is None else schedule.end
        if isinstance(wanted, _Redirection):
            follows = schedule is not None and not self._manual
            value = self._scheduled(step) if follows else self._value
            before = as_schedule(self._value if schedule is None else schedule)
            end = before.end if wanted.end is None else wanted.end
            steps = before.steps if wanted.steps is None else wanted.steps
            assert end is not None and steps is not None
            wanted = redirected(before, at=step, value=value, end=end, steps=steps)
        return wanted, old, None if wanted is None else wanted.end

    def _write(self, value: float) -> None:
        self._asked = value
        self._written = self._storage[0] = np.asarray(value, dtype=self._dtype)
        self._value = float(self._written)

    def _check_foreign_write(self) -> None:
        found = float(self._storage[0])
        if found != self._value and not (math.isnan(found) and math.isnan(self._value)):
            raise RuntimeError(
                f"two writers on one shared variable: control {self.name!r} wrote {self._value:g}, "
                f"something else wrote {found:g} into {self.name}.shared since. "
                f"Change it through {self.name}.set(...) only."
            )
        self._written = self._storage[0]

    def _rounded(self, value: float) -> float:
        return float(self._dtype.type(value))

    def _checked(self, value: float) -> float:
        lo, hi = self.bounds
        number = _real(f"{self.name}", value)
        if not lo <= number <= hi:
            raise ValueError(f"{self.name} must be in [{lo:g}, {hi:g}], received {value!r}")
        return number

    def _scheduled(self, step: int) -> float:
        assert self._schedule is not None
        try:
            return self._checked(self._schedule(step))
        except Exception as error:
            error.add_note(
                f"raised by the schedule {self._schedule!r} of control {self.name!r} at step {step}"
            )
            raise


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
        name: str | None = None,
        shared: Any = None,
    ) -> None:
        #: True when the name was given, so that an inference does not choose a better one.
        self.named = name is not None
        name = "beta" if name is None else name
        lo, _ = _checked_bounds(name, bounds, "linear")
        if lo < 0:
            raise ValueError(f"bounds of {name!r}: β cannot be negative, received {bounds!r}")
        super().__init__(value, bounds=bounds, schedule=schedule, name=name, shared=shared)


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
    name : str
        Name of the control.
    shared : TensorSharedVariable, optional
        An existing scalar float shared variable to control.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Control`; also when a bound is not positive.

    Examples
    --------
    Hand the shared variable, not the value, to the optimizer; PyMC would bake a number in:

    >>> import pymc as pm
    >>> from vitoolkit import LearningRate, schedules
    >>> rate = LearningRate(schedule=schedules.cosine(1e-2, 1e-4, steps=20_000))
    >>> optimizer = pm.adam(learning_rate=rate.shared)
    >>> rate
    <LearningRate 'learning_rate' = 0.01, on cosine(0.01, 0.0001, steps=20000), bounds [1e-06, 1]>
    """

    def __init__(
        self,
        value: float = 1e-3,
        *,
        bounds: tuple[float, float] = (1e-6, 1.0),
        schedule: Callable[[int], float] | float | None = None,
        name: str = "learning_rate",
        shared: Any = None,
    ) -> None:
        super().__init__(
            value, bounds=bounds, schedule=schedule, name=name, scale="log", shared=shared
        )


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

    def __init__(self, shared: Any, *, name: str, words: str = "") -> None:
        super().__init__(bounds=(0.0, 1.0), name=name, shared=shared)
        self.words = words

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

    def _check_foreign_write(self) -> None:
        found = float(self._storage[0])
        self._written = self._storage[0]
        if found != self._value and not self._requests:
            now = time.perf_counter()
            self._requests = (_Request("set", found, "code", self._value, False, now),)


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


def _real(what: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes | complex) or value is None:
        raise TypeError(f"{what} must be a real number, received {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a real number, received {value!r}") from None
    if math.isnan(number):
        raise ValueError(f"{what} must not be NaN, received {value!r}")
    return number


def _checked_bounds(name: str, bounds: Any, scale: str) -> tuple[float, float]:
    try:
        lo, hi = bounds
    except (TypeError, ValueError):
        raise TypeError(
            f"bounds of {name!r} must be a pair (low, high), received {bounds!r}"
        ) from None
    lo, hi = _real(f"low bound of {name!r}", lo), _real(f"high bound of {name!r}", hi)
    if not lo < hi:
        raise ValueError(f"bounds of {name!r} must increase, received {bounds!r}")
    if scale == "log" and lo <= 0:
        raise ValueError(f"bounds of {name!r} must be positive on a log scale, received {bounds!r}")
    return lo, hi
