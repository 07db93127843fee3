"""One fit as everybody sees it: clock, inbox of requests, log, controls, and hooks that say when.

A run is the same for the loop of a vitoolkit inference (:mod:`vitoolkit.loop`) and for PyMC's own
(:mod:`vitoolkit.stock`). People and code steer it from any thread; the fitting thread heeds them
between two steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vitoolkit.block import Block
from vitoolkit.checks import whole_number
from vitoolkit.controls import Control, distinct_controls
from vitoolkit.events import Event
from vitoolkit.needs import Hooks
from vitoolkit.pace import Pace, checked_pace
from vitoolkit.points import Points
from vitoolkit.requests import CHANGES, KINDS, POINTS, Inbox, Request, checked_note
from vitoolkit.steps import counter_of

__all__ = ["Run"]

_MANY = 1 << 62
_PAUSE_SECONDS = 0.02
_PAUSES = ("pause", "step", "resume")
#: Seconds that the next fit of a control waits for one that ends.
_WAY_SECONDS = 60.0
#: Seconds that a compilation took the last time in this process, by what was compiled.
_took: dict[str, float] = {}


def _no_guard(gate: Any) -> None:
    """Ctrl-C is somebody else's."""


class Run:
    """One running ``fit`` or ``refine``.

    Every method but :meth:`heed`, :meth:`hand_out`, :meth:`end` and :meth:`join` may be called from
    any thread. What is done is an :class:`~vitoolkit.events.Event` in :attr:`log`, with the first
    step that ran with it.

    Parameters
    ----------
    inference : Trained
        What is trained.
    n : int
        Steps asked for.
    callbacks : sequence of callable
        All callbacks of the fit.
    controls : sequence of Control
        The controls of the inference; those of the callbacks are added.
    background : bool
        Whether it runs in a thread of its own.

    Attributes
    ----------
    inference : Trained
    n : int
    first : int
        Index of the first step of this call, over the life of the inference.
    step : int
        Index of the next step.
    status : {"compiling", "running", "paused", "finished", "stopped", "interrupted", "failed"}
        Where the fit stands.
    error : BaseException or None
        What ended a failed fit.
    controls : tuple of Control
        The controls of the inference and of its callbacks.
    unused : tuple of str
        Names of those that no step of this fit uses; their values are NaN in the record.
    log : list of Event
        What happened: to the run itself and to its controls, in order.
    inbox : Inbox
        What was asked for and is not yet in force.
    asked : bool
        Whether the next step boundary has something to heed.
    compile_seconds : float or None
        How long compilation took, None before it ended.
    choice : str or None
        How many steps a compiled call takes, and why.
    reused : bool
        Whether the step had been compiled before, in this process.
    """

    #: What is compiled before the first step, in words.
    compiles = "the step"
    #: What it can go back to; None where it cannot.
    points: Points | None = None
    #: How often it had gone back before the point that it went back to last.
    line = 0

    def __init__(
        self,
        inference: Any,
        n: int,
        callbacks: Iterable[Callable],
        controls: Sequence[Control] = (),
        *,
        background: bool = False,
    ) -> None:
        self.inference, self.n, self.background = inference, n, background
        self.callbacks = tuple(callbacks)
        #: The callbacks that have hooks.
        self.own: list[Hooks] = list(
            dict.fromkeys(c for c in self.callbacks if hasattr(c, "on_block"))  # type: ignore[misc]
        )
        held = (control for c in self.callbacks for control in getattr(c, "controls", ()))
        self.controls = distinct_controls([*controls, *held])
        self.counter = counter_of(inference.approx)
        self.first = self.step = self.counter.step + 1
        self.status = "compiling"
        self.error: BaseException | None = None
        self.log: list[Event] = []
        self.inbox = Inbox()
        self.asked = False
        #: Where its steps are taken.
        self.thread = threading.current_thread()
        #: Who wants the fit to end as by Ctrl-C.
        self.interrupted: str | None = None
        self.unused: tuple[str, ...] = ()
        self.last_block: Block | None = None
        #: What recorders keep of this run, by what they keep.
        self.records: dict[Any, Any] = {}
        #: Called with the run when all of a block is done, rules included: at a step boundary.
        self.on_boundary: list[Callable[[Run], None]] = []
        self.begun = time.perf_counter()
        self.compile_seconds: float | None = None
        self.choice: str | None = None
        self.reused = False
        self._pace = Pace()
        self._paused = self._to_start = False
        self._single: deque[str] = deque()
        self._started: list[Hooks] = []
        self._rules = [control for control in self.controls if control.rule is not None]
        self._periods = self._all_periods()

    approx = property(lambda self: self.inference.approx)
    variables = property(lambda self: self.inference.variables)

    @property
    def term_count(self) -> int:
        """Columns of a block's terms: data term, KL contributions, their parts, measures."""
        parts = sum(part.size for part in self.inference.parts)
        return 1 + len(self.variables) + parts + len(self.inference.measures)

    @property
    def took_before(self) -> float | None:
        """Seconds that compiling the like took the last time, None without one."""
        return _took.get(self.compiles)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a step records, beside the controls."""
        terms = ("data", "elbo", *(f"kl[{name}]" for name in self.variables))
        return ("loss", *(terms if self.variables else ()), *self.inference.measures)

    def parameters(self) -> list[np.ndarray]:
        """The parameters of q as the last step left them; copy what you keep."""
        return [parameter.get_value(borrow=True) for parameter in self.approx.params]

    def trained(self) -> list[np.ndarray]:
        """All that is trained, for rules: the parameters of q and, where known, of its networks."""
        return self.parameters()

    def averages(self) -> list[np.ndarray]:
        """The averages of the iterates of q's parameters, in their order.

        Empty where they are not averaged, and before the first step.
        """
        inference = self.inference
        there = getattr(inference, "average", False) and inference.steps_taken
        compiled = there and (inference.step_function or inference.state)
        return inference.averages[: len(self.approx.params)] if compiled else []

    @property
    def prepared(self) -> str:
        """Whether the step was compiled or reused, and how long that took, in words."""
        if self.compile_seconds is None:
            return ""
        how = "reused a compiled step, ready" if self.reused else "compiled"
        return f"{how} in {self.compile_seconds:.1f} s"

    @property
    def done(self) -> int:
        """Steps finished in this call."""
        return self.step - self.first

    @property
    def running(self) -> bool:
        """False when the fit has ended, however it ended."""
        return self.status in ("compiling", "running", "paused")

    @property
    def shows_progress(self) -> bool:
        """Whether a callback shows how far the fit has come."""
        return any(callback.shows_progress for callback in self.own)

    # --- what people and code ask ---------------------------------------------------------------

    def ask(self, request: Request, *, at: int | None = None) -> None:
        """Ask for something, in force from the next step boundary on.

        Parameters
        ----------
        request : Request
            Of the run, or of one of its controls.
        at : int, optional
            The first step that shall run with it: a compiled call ends before it. One that is over
            is the next step.

        Raises
        ------
        TypeError, ValueError
            When the request is of a kind or a control that the run does not have, or has a value
            that its control does not take. Nothing has changed then.
        """
        request = self._checked(request, at)
        self.inbox.ask(request, at)
        if at is None or at <= self.step:
            self.asked = True

    def _checked(self, request: Request, at: int | None) -> Request:
        kind, name = request.kind, request.control
        if kind not in (*KINDS, "keep"):
            raise ValueError(f"a request is one of {', '.join(KINDS)}; received {kind!r}")
        if kind in CHANGES or (kind == "undo" and name is not None):
            control = self._by_name().get(name)  # type: ignore[arg-type]
            if control is None:
                names = ", ".join(map(repr, self._by_name())) or "none"
                raise ValueError(f"this fit has no control {name!r}; it has {names}")
            control.check(request, self.step if at is None else max(at, self.step))
        elif name is not None:
            raise ValueError(f"{kind!r} is of a fit, not of a control; received control={name!r}")
        elif kind == "note":
            return request._replace(text=checked_note(request.text))  # type: ignore[arg-type]
        elif kind in POINTS:
            if self.points is None:
                raise ValueError(
                    "PyMC's own loop keeps its state to itself, and cannot go back: take an "
                    "inference of vitoolkit, such as method=vitoolkit.ADVI()"
                )
            if at is None and not self._is_to_come(request):  # else it is found out then
                return self.points.checked(request, self.inference.step_function)
        return request

    def _is_to_come(self, request: Request) -> bool:
        """Whether it goes to a bookmark that waits to be made."""
        waiting = {one.text for one in self.inbox.waiting() if one.kind == "bookmark"}
        return request.kind == "rewind" and request.text is not None and request.text in waiting

    def stop(self, *, source: str = "code", why: str | None = None) -> None:
        """End the fit at the next step boundary and keep everything; `why` goes into the event."""
        self._ask("stop", source, why)

    def give_way(self) -> None:
        """End if the thread was told to exit, as marimo tells that of a cell which is run anew."""
        if getattr(self.thread, "should_exit", False):
            self.stop(source="marimo")
            until = time.monotonic() + _WAY_SECONDS
            elsewhere = threading.current_thread() is not self.thread
            while elsewhere and self.running and time.monotonic() < until:
                time.sleep(0.005)

    def interrupt(self, *, source: str = "user") -> None:
        """End the fit at the next step boundary as Ctrl-C does."""
        self.interrupted = source
        self._ask("interrupt", source)

    def pause(self, *, source: str = "code") -> None:
        """Wait at the next step boundary until :meth:`resume` or :meth:`stop`."""
        self._ask("pause", source)

    def resume(self, *, source: str = "code") -> None:
        """Go on after :meth:`pause`."""
        self._ask("resume", source)

    def hold(self, *, source: str = "code") -> None:
        """Wait before the first step until :meth:`resume` or :meth:`single_step`."""
        self._to_start = True
        self.pause(source=source)

    @property
    def holding(self) -> str:
        """What a person does to let it go on: "start" or "resume"; "" while nothing holds it.

        A pause that was asked for and is not yet in force, as while it compiles, counts.
        """
        paused = self._paused
        for request in self.inbox.waiting():
            if request.kind in ("pause", "step", "resume"):
                paused = request.kind != "resume"
        if not (paused and self.running):
            return ""
        return "start" if self._to_start else "resume"

    @property
    def steps_per_second(self) -> float | None:
        """The limit in force, None without one."""
        return self._pace.steps_per_second

    def limit(self, steps_per_second: float | None) -> None:
        """Take no more steps a second than so many, for looking; None lifts the limit.

        No number of the fit depends on it.

        Raises
        ------
        TypeError, ValueError
            When it is no finite number above 0.
        """
        self._pace.steps_per_second = checked_pace(steps_per_second)

    def single_step(self, *, source: str = "code") -> None:
        """Take exactly one more step and pause again; a running fit pauses first."""
        self._ask("step", source)

    def note(self, text: str, *, source: str = "code") -> None:
        """Write a note at the present step.

        Parameters
        ----------
        text : str
            The words.
        source : str
            Who writes them.

        Raises
        ------
        TypeError, ValueError
            When `text` is not a string, or empty.
        RuntimeError
            When the fit has ended.
        """
        words = checked_note(text)
        if not self.running:
            raise RuntimeError(
                f"the fit has ended ({self.status}): a note belongs to a step of a running fit. "
                "trace.add_event(vitoolkit.Event(...)) adds to the record afterwards"
            )
        self._ask("note", source, words)

    def rewind(self, to: int | str, *, source: str = "code") -> None:
        """Go back to a bookmark, or to the last checkpoint up to a step, and on from there.

        Everything is as it was then: parameters, the optimizer's state, random generators, controls
        and their rules. Ask for what shall be otherwise after it. The rows that are left behind
        stay in the trace, as a branch.

        Raises
        ------
        TypeError, ValueError
            When there is no such point; the message lists those that there are.
        """
        self.ask(self.point_request(to, source))

    @staticmethod
    def point_request(to: int | str, source: str = "code") -> Request:
        """What asks for :meth:`rewind`."""
        now = time.perf_counter()
        if isinstance(to, str):
            return Request("rewind", source=source, text=to, time=now)
        step = whole_number("step", to, least=0)
        return Request("rewind", value=step, source=source, time=now)

    def bookmark(self, name: str | None = None, *, source: str = "code") -> None:
        """Keep this point, so that :meth:`rewind` can go back to it by name, whatever comes.

        Parameters
        ----------
        name : str, optional
            Default is one of its step, such as ``"step 1200"``.
        source : str
            Who asks.

        Raises
        ------
        TypeError, ValueError
            When it is no name, or another bookmark has it.
        """
        self._ask("bookmark", source, name)

    @property
    def can_undo(self) -> bool:
        """Whether a change of a control is there to be taken back."""
        return self.running and self.inbox.can_undo()

    def undo(self, *, source: str = "code") -> bool:
        """Take back the last change of a control: its value, who has the wheel, its schedule.

        Once more takes back the change before that. A slider that is dragged is one change.

        Returns
        -------
        bool
            False when there was nothing to take back.
        """
        if not self.can_undo:
            return False
        self._ask("undo", source)
        return True

    def _ask(self, kind: str, source: str, text: str | None = None) -> None:
        self.ask(Request(kind, source=source, text=text, time=time.perf_counter()))

    def _by_name(self) -> dict[str, Control]:
        return {control.name: control for control in self.controls}

    # --- what the fitting thread does, between two steps ------------------------------------------

    def add_event(self, kind: str, source: str, text: str | None = None) -> None:
        """Log something that happened to the fit, in force from the next step on."""
        self.log.append(Event(self.step, time.perf_counter(), kind, source=source, text=text))

    def add_stop(self, stop: StopIteration) -> None:
        """Log that the fit was stopped: by whom, and why if that was said."""
        source, why = (*stop.args, None, None)[:2]
        self.add_event("stop", str(source or "callback"), why)

    def heed(self, idle: Callable[[], None]) -> None:
        """Do what was asked for, in the order it was asked.

        Parameters
        ----------
        idle : callable
            Called again and again while the fit is paused; one that compiles does not wait here.

        Raises
        ------
        StopIteration
            When the fit shall end; its arguments say who wants it, and why or None.
        KeyboardInterrupt
            Likewise, as by Ctrl-C.
        """
        while True:
            self.asked = False
            self._take()
            ahead = self.inbox.next_step
            if ahead is not None and ahead <= self.step:  # it went back, to where more is to do
                continue
            if not self._paused or self.status == "compiling":
                return
            if self._single:
                self.add_event("step", self._single.popleft())
                self._to_start = False
                self.asked = True  # so that only one step is taken, and we are here again
                return
            for control in self.controls:
                control.advance(self.step)
            idle()
            time.sleep(_PAUSE_SECONDS)

    def _take(self) -> None:
        requests = self.inbox.take(self.step)
        while requests:
            request = requests.pop(0)
            if request.kind in POINTS and self.status == "compiling":  # there is no state yet
                for later in (request, *requests):
                    self.inbox.ask(later)
                return
            try:
                self._do(request)
            except BaseException:  # the end: what comes after it is for the next fit
                for later in requests:
                    self.inbox.ask(later)
                raise

    def _do(self, request: Request) -> None:
        kind, source = request.kind, request.source
        if kind in CHANGES:
            control = self._by_name()[str(request.control)]
            if not request.in_force:  # what the step would use else is what it was before
                control.advance(self.step)
            change = control.apply(request, self.step)
            if change is not None:
                self.inbox.remember(change)
        elif kind == "undo":
            change = self.inbox.forget(request.control)
            if change is not None:
                control = self._by_name()[change.control]
                control.advance(self.step)
                control.take_back(change, request, self.step)
        elif kind == "note" or (kind in _PAUSES and request.in_force):
            self.add_event(kind, source, request.text)
        elif kind == "pause":
            self._pause(source)
        elif kind == "step":
            self._pause(source)
            self._single.append(source)
        elif kind == "resume" and self._paused:
            self._paused = self._to_start = False
            if self.status == "paused":
                self.status = "running"
            self._single.clear()
            self.add_event("resume", source)
        elif kind in ("bookmark", "keep"):
            self.keep_point(request)
        elif kind == "rewind":
            self.go_to_point(request)
        elif kind == "interrupt":
            self.interrupted = self.interrupted or source
            raise KeyboardInterrupt
        elif kind == "stop":
            raise StopIteration(source, request.text)

    def keep_point(self, request: Request) -> None:
        """Make a bookmark."""
        raise NotImplementedError

    def go_to_point(self, request: Request) -> None:
        """Go back to a point."""
        raise NotImplementedError

    def _pause(self, source: str) -> None:
        if not self._paused:
            self._paused = True
            if self.status != "compiling":
                self.status = "paused"
            self.add_event("pause", source)

    def keep_pace(self) -> int:
        """Wait until steps may be taken, and say how many: none when something was asked for."""
        while not self.asked:
            allowed = self._pace.allowed(time.perf_counter())
            if allowed:
                return allowed
            self.idle()
            time.sleep(self._pace.wait)
        return 0

    def to_rule(self, step: int) -> int:
        """Steps from `step` to the next one at which a rule is due, or begins; many without."""
        left = _MANY
        for control in self._rules:
            every = control.rule.every  # type: ignore[union-attr]
            left = min(left, every - step % every, control.law.to_end(step) or left)
        return left

    def to_due(self) -> int:
        """Steps to the next one at which a callback is due, or a request; many without."""
        left = _MANY
        for period in self._periods:
            left = min(left, period - self.step % period)
        ahead = self.inbox.next_step
        return left if ahead is None else min(left, max(ahead - self.step, 1))

    def add(self, callback: Hooks) -> None:
        """Take in a callback of a callback, from its `on_fit_start`."""
        self.own.append(callback)
        self._started.append(callback)
        callback.on_fit_start(self)

    def renew_due(self) -> None:
        """Ask the callbacks again when they are due; one of them has changed its mind."""
        self._periods = self._all_periods()

    def _all_periods(self) -> set[int]:
        periods = [callback.due for callback in self.own]
        periods += [getattr(c, "every", None) for c in self.callbacks if c not in self.own]
        return {period for period in periods if period is not None}

    # --- hooks ------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Claim the controls; what was asked of them since their last fit is asked here.

        Raises
        ------
        RuntimeError
            When a control is in another running fit.
        """
        for control in self.controls:
            for request in control.bind(self):
                self.ask(request)

    def start(self, callbacks: Sequence[Hooks] | None = None) -> None:
        """Tell the callbacks that the fit starts, before anything is compiled."""
        for callback in tuple(self.own if callbacks is None else callbacks):
            self._started.append(callback)
            callback.on_fit_start(self)
        self.renew_due()

    def compiled(self) -> None:
        """Note that steps can be taken now, and tell the callbacks."""
        self.compile_seconds = _took[self.compiles] = time.perf_counter() - self.begun
        if self.status == "compiling":
            self.status = "paused" if self._paused else "running"
            self.asked |= self._paused
        for control in self._rules:
            control.begin(self.step)
        for callback in self.own:
            callback.on_compiled(self)

    def idle(self) -> None:
        """Let the callbacks do something while the fit is paused, or waits for its pace."""
        for callback in self.own:
            callback.on_idle(self)

    def hand_out(self, block: Block, guard: Callable[[Any], None] = _no_guard) -> None:
        """Count the steps of a block and give it to everybody, whatever one of them raises.

        Parameters
        ----------
        block : Block
            Steps that were taken.
        guard : callable
            Called with "second" before a hook, in which Ctrl-C may be raised when another one has
            waited for long, and with False after it.
        """
        self.step = block.first + len(block.loss)
        self.counter.step = self.step - 1
        self.last_block = block
        self._pace.taken(len(block.loss))
        errors: list[BaseException] = []
        for callback in self.own:
            try:
                guard("second")
                callback.on_block(self, block)
                guard(False)
            except BaseException as error:
                guard(False)
                errors.append(error)
        _raise_first(errors)

    def rule(self, block: Block) -> None:
        """Show a block to the rules, and let those choose that are due after it.

        Several may come before :meth:`hand_out` gives all of their steps to everybody.
        """
        step = block.first + len(block.loss)
        for control in self._rules:
            control.law.observe(block)
            control.decide(step, self.trained)

    def at_boundary(self) -> None:
        """Tell those who asked that all of a block is done, rules included."""
        for look in tuple(self.on_boundary):
            look(self)
        ahead = self.inbox.next_step
        self.asked |= ahead is not None and ahead <= self.step

    def join(self, callback: Hooks) -> None:
        """Take in a callback that was wrapped in a plain function, at the step just taken."""
        if callback in self._started:
            return
        self.own.append(callback)
        self._periods = self._all_periods()
        self.start([callback])
        if self.compile_seconds is not None:
            callback.on_compiled(self)
        if self.last_block is not None:
            callback.on_block(self, self.last_block)
        if not self.running:
            callback.on_fit_end(self)

    def end(self, status: str, error: BaseException | None = None) -> None:
        """Note how the fit ended, free the controls and tell everybody, whatever one raises."""
        self.status, self.error = status, error
        for control in self.controls:
            control.unbind(self)
        for request in self.inbox.take():
            if request.kind in CHANGES:
                self._by_name()[str(request.control)].keep(request)
            elif request.kind == "note":
                self.add_event("note", request.source, request.text)
        errors: list[BaseException] = []
        for callback in self._started:
            try:
                callback.on_fit_end(self)
            except BaseException as raised:
                errors.append(raised)
        _raise_first(errors)

    def __repr__(self) -> str:
        return f"<Run of {self.inference!r}: {self.status}, step {self.done:,} of {self.n:,}>"


def _raise_first(errors: Sequence[BaseException]) -> None:
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"then another callback raised {type(other).__name__}: {other}")
        raise errors[0]
