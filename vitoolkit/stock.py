"""PyMC's own loop as a run: the same clock, requests, log and hooks as in a loop of vitoolkit.

PyMC tells a callback neither how many steps were asked for, nor which other callbacks there are,
nor that the fit has ended. All of that can be seen in the frame of its loop: its locals, and the
moment when it is gone.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import warnings
import weakref
from types import FrameType
from typing import Any

import numpy as np
from pymc.variational.inference import Inference

from vitoolkit.advise import warn_user
from vitoolkit.block import Block
from vitoolkit.controls import Beta, Control
from vitoolkit.fingerprint import fingerprint_of
from vitoolkit.interrupt import Interrupt
from vitoolkit.monitor import KLMonitor
from vitoolkit.parts import Part
from vitoolkit.run import Run
from vitoolkit.steps import StepCounter, pymc_loop

__all__ = ["StockRun"]

_ENTRIES = (Inference.fit.__code__, Inference.refine.__code__)
#: Name of what stands in the loop's frame and goes with it.
_MARK = "vitoolkit run"


class _Stock:
    """An inference of PyMC's own, as far as a run needs to know it.

    Parameters
    ----------
    approx : Approximation
    monitor : KLMonitor or None
        Evaluates the terms.
    trainer : pymc.variational.inference.Inference or None
        The inference itself, as far as its loop shows it.
    """

    parts: tuple[Part, ...] = ()
    measures: tuple[str, ...] = ()

    def __init__(self, approx: Any, monitor: KLMonitor | None, trainer: Any = None) -> None:
        self.approx, self.monitor, self._trainer = approx, monitor, trainer
        self.variables = () if monitor is None else monitor.variables(approx)
        self.beta: dict[str, Control] = {}
        self.local_rows: dict[str, int] = {}

    def described(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"inference": f"PyMC, {self.approx}"}

    def fingerprint(self) -> dict[str, Any]:
        """What its numbers depend on, one step into the fit: it does not tell its options."""
        trainer = self if self._trainer is None else self._trainer
        unseen = ("parameters", "generator", "optimizer", "obj_n_mc", "backend", "seed")
        return {key: value for key, value in fingerprint_of(trainer).items() if key not in unseen}

    def __repr__(self) -> str:
        return f"PyMC's own inference, {self.approx}"


class _Mark:
    """Stands in the frame of PyMC's loop, keeps the run alive, and tells it when that is over."""

    def __init__(self, run: StockRun) -> None:
        self.run = run

    def __del__(self) -> None:
        self.run.left()


class StockRun(Run):
    """A run whose steps PyMC's own loop takes.

    Attributes
    ----------
    scored : bool
        Whether the loop computes losses.
    i : int
        Number of the last step, as PyMC counts.
    """

    compiles = "what evaluates the KL of each variable"
    prepared, took_before = "", None  # PyMC says nothing of its own compilation
    inference: _Stock

    def __init__(self, counter: StepCounter, callback: Any, approx: Any, losses: Any) -> None:
        self._thread = threading.get_ident()
        self._frame: int | None = None
        self._gone = False
        self._used: list[float] = []
        frame = pymc_loop(self._thread)
        found = {} if frame is None else frame.f_locals
        callbacks = [c for c in found.get("callbacks") or () if callable(c)] or [callback]
        monitors = (getattr(listed, "monitor", None) for listed in callbacks)
        monitor = next((m for m in monitors if m is not None), None)
        held = [c for listed in callbacks for c in getattr(listed, "controls", ())]
        rules = [control.rule for control in held if control.rule is not None]
        if rules and monitor is None:
            monitor = KLMonitor()
        stock = _Stock(approx, monitor, found.get("self"))
        super().__init__(stock, int(found.get("n", 0)), callbacks)
        self.first = self.step = counter.step
        self.i, self.scored = 0, losses is not None
        #: With a rule, terms are evaluated at steps that the seed alone decides.
        self._evaluate_at = None if monitor is None else monitor.every
        if rules and self._evaluate_at is None:
            self._evaluate_at = max(1, min(rule.every for rule in rules) // 10)
        self.unused = _unused(self.controls, found.get("step_func"))
        self._interrupt = Interrupt(self, open=True)
        counter.run = weakref.ref(self)
        if frame is not None:
            self._frame = id(frame)
            found[_MARK] = _Mark(self)
        self._begin()

    @property
    def running(self) -> bool:
        """False when the fit has ended; that PyMC tells nobody of is seen when somebody asks."""
        if super().running and self._frame is not None and not self._in_loop():
            self.left()
        return super().running

    def is_of(self, frame: FrameType | None, i: int) -> bool:
        """Whether this is the run of a loop, given the number of the step it tells of."""
        if frame is None or self._frame is None:
            return frame is None and self._frame is None and i >= self.i
        return id(frame) == self._frame and not self._gone

    # --- what PyMC's loop tells -------------------------------------------------------------------

    def told(self, callback: Any, losses: Any, i: int, step: int) -> None:
        """Take note that the loop has called a callback after a step."""
        if hasattr(callback, "on_block") and callback not in self._started:
            self._bind_more(callback)
            self.join(callback)
        if i == self.i or not super().running:
            return
        self.i = i
        terms = self._terms(step)
        if self.status == "compiling":
            self.compiled()
        loss = np.nan if losses is None else losses[-1]
        block = Block(
            step, np.array([loss]), terms[None], np.array([self._used]),
            np.array([time.perf_counter()]), self.variables,
        )  # fmt: skip
        self.hand_out(block)
        self.rule(block)
        self.at_boundary()
        last = self.n and self.done >= self.n
        while self.asked or not (last or self.keep_pace()):
            self._heed()
            if self.asked:  # again at once: a single step
                break
        self._used = [self._shown(c, c.advance(self.step)) for c in self.controls]
        if self.n and self.done >= self.n:
            self.end("finished")

    def left(self) -> None:
        """The loop is over; PyMC has swallowed what ended it, or somebody else handles it."""
        if self._gone:
            return
        self._gone = True
        if not super().running:
            return
        running = {frame.f_code for frame in _frames(self._thread)}
        error = sys.exception()
        if any(entry in running for entry in _ENTRIES):  # it returned
            status = "interrupted" if self.interrupted is not None else "stopped"
            error = None
        else:
            status, error = "failed", error if _passed(error, self._frame) else None
        self._say_end(status, error)

    def cell_ended(self, result: Any) -> None:
        """Take note that the notebook's cell has ended, with IPython's result of it."""
        if not super().running:
            return
        error = result.error_in_exec
        self._gone = True
        self._say_end("failed" if isinstance(error, Exception) else "interrupted", error)

    def end(self, status: str, error: BaseException | None = None) -> None:
        """Note how the fit ended, free the controls and tell everybody."""
        self._interrupt.__exit__()
        super().end(status, error)

    # --- internals --------------------------------------------------------------------------------

    def _begin(self) -> None:
        for control in self.controls:
            _warn_of_an_old_value(control, self.first)
        self._used = [self._shown(control, control.value) for control in self.controls]
        try:
            for control in self.controls:
                for request in control.bind(self):
                    # What was in force before the first step is logged there.
                    self._do(request) if request.in_force else self.ask(request)
            _warn_of_unused(self)
            self._interrupt.__enter__()
            self.start()
        except BaseException as error:
            self.end("failed", error)
            raise

    def _shown(self, control: Control, value: float) -> float:
        return math.nan if control.name in self.unused else value

    def _bind_more(self, callback: Any) -> None:
        """Take in the controls of a callback that was wrapped in a plain function."""
        for control in callback.controls:
            if control not in self.controls:
                self._used.append(control.value)
                self.controls = (*self.controls, control)
                for request in control.bind(self):
                    self.ask(request)

    def _terms(self, step: int) -> np.ndarray:
        monitor, row = self.inference.monitor, None
        if monitor is not None and self.variables:
            if self._evaluate_at is None:
                row = monitor.evaluate(self.approx)
            elif (step + 1) % self._evaluate_at == 0 or self.status == "compiling":
                row = monitor.evaluate(self.approx, always=True)
        return np.full(self.term_count, np.nan) if row is None else row

    def _heed(self) -> None:
        try:
            self.heed(self.idle)
        except StopIteration as stop:
            if 0 < self.n < 10:  # PyMC would raise an IndexError; it ends soon by itself
                return
            self.add_stop(stop)
            self._gone = True
            self.end("stopped")
            raise StopIteration(f"stopped by {stop.args[0]}") from None
        except KeyboardInterrupt:
            self.add_event("interrupt", self.interrupted or "user")
            self._gone = True
            self.end("interrupted")
            raise

    def _say_end(self, status: str, error: BaseException | None) -> None:
        if status in ("stopped", "interrupted"):
            kind = "stop" if status == "stopped" else "interrupt"
            self.add_event(kind, self.interrupted or "callback")
        try:
            self.end(status, error)
        except Exception as raised:  # nobody is there to raise it to
            warnings.warn(
                f"a callback failed at the end of the fit: {type(raised).__name__}: {raised}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _in_loop(self) -> bool:
        return any(id(frame) == self._frame for frame in _frames(self._thread))


def _tell(counter: StepCounter, callback: Any, approx: Any, losses: Any, i: int) -> None:
    step = counter.tick(losses, i)
    run = None if counter.run is None else counter.run()
    if run is None or not run.is_of(pymc_loop(threading.get_ident()), i):
        run = StockRun(counter, callback, approx, losses)
    run.told(callback, losses, i, step)


StepCounter.stock = staticmethod(_tell)


def _frames(thread: int) -> list[FrameType]:
    frames, frame = [], sys._current_frames().get(thread)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _passed(error: BaseException | None, frame: int | None) -> bool:
    """Whether an exception came through a frame."""
    trace = None if error is None else error.__traceback__
    while trace is not None:
        if id(trace.tb_frame) == frame:
            return True
        trace = trace.tb_next
    return False


def _unused(controls: tuple[Control, ...], step_function: Any) -> tuple[str, ...]:
    get_shared = getattr(step_function, "get_shared", None)
    if get_shared is None:
        return ()
    used = get_shared()
    return tuple(c.name for c in controls if not any(c.shared is other for other in used))


def _warn_of_unused(run: StockRun) -> None:
    for control in run.controls:
        if control.name in run.unused:
            remedy = (
                "method='advi' and its kin have no β; take method=vitoolkit.ADVI(beta=...)"
                if isinstance(control, Beta)
                else "give the control itself to what shall use it, such as "
                "obj_optimizer=pm.adam(learning_rate=...)"
            )
            warn_user(
                f"{control.name} is not used by this fit, so that moving it does nothing, and is "
                f"recorded as NaN: {remedy}",
            )


def _warn_of_an_old_value(control: Control, step: int) -> None:
    if step != 0 or control.schedule is None or control.manual:
        return
    used, start = control.value, float(np.asarray(control.schedule(0), control.shared.dtype))
    if used != start:
        warn_user(
            f"step 0 of this fit used {control.name} = {used:g}, left over from an earlier fit; "
            f"its schedule says {start:g}. PyMC's own inferences do not tell a callback that a fit "
            f"starts: call {control.name}.reset() before pm.fit, or use an inference of vitoolkit.",
            RuntimeWarning,
        )
