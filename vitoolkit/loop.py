"""The loop a vitoolkit inference runs: steps, callbacks, progress, NaN, interrupt.

It keeps PyMC's contract with a callback, ``callback(approx, losses, i)`` after every step with
``i`` from 1, and mends its faults: a callback that raises loses no loss and no state,
``StopIteration`` and Ctrl-C keep the last step, and ``refine`` goes on counting where ``fit``
ended.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor
from pymc.progress_bar import CustomProgress, default_progress_theme
from rich.console import Console
from rich.progress import Progress, TextColumn

from vitoolkit.checkpoint import Checkpoint
from vitoolkit.controls import Beta, Control, distinct_controls
from vitoolkit.schedules import Schedule
from vitoolkit.steered import Steered
from vitoolkit.step_function import StepFunction
from vitoolkit.steps import counter_of
from vitoolkit.switch_interval import short_switch_interval

if TYPE_CHECKING:
    from vitoolkit.inference import KLqp

__all__ = ["Block", "Callback", "Run", "begin", "execute"]

_REDRAW_SECONDS = 0.1
_HAND_OUT_SECONDS = 0.005
_ROWS = 128
_CHECKPOINT_SHARE = 100  # a checkpoint may take one part in this of the time
_COMPILING = threading.RLock()
# The loop stands in for PyMC's, so that it speaks where PyMC's speaks.
_logger = logging.getLogger("pymc.variational.inference")


@dataclass(slots=True)
class Block:
    """Some consecutive steps, K of them.

    Attributes
    ----------
    first : int
        Index of the first step.
    loss : numpy.ndarray
        Loss of each step, shape (K,), nats divided by c.
    terms : numpy.ndarray
        Data term, KL contribution of each variable and the parts of these contributions, in nats,
        and what was measured of the gradient, shape (K, 1 + variables + parts + measures).
    control : numpy.ndarray
        The value of each control that the step used, shape (K, controls).
    time : numpy.ndarray
        When the step was finished, shape (K,), seconds of ``time.perf_counter``.
    """

    first: int
    loss: np.ndarray
    terms: np.ndarray
    control: np.ndarray
    time: np.ndarray

    @property
    def step(self) -> np.ndarray:
        """Index of each step, shape (K,)."""
        return np.arange(self.first, self.first + len(self.loss))


class Callback:
    """Base class of vitoolkit's own callbacks: hooks a fit of a vitoolkit inference calls.

    The hooks run in the fitting thread, in the order of the callback list and before callbacks that
    are plain functions. A fit of PyMC's own inference only calls the object itself.
    """

    #: True while the callback shows progress, so that the loop draws no bar of its own.
    shows_progress = False
    #: The controls the callback holds.
    controls: tuple[Control, ...] = ()

    def on_fit_start(self, run: Run) -> None:
        """Before anything is compiled."""

    def on_compiled(self, run: Run) -> None:
        """When everything is compiled, before the first step."""

    def on_block(self, run: Run, block: Block) -> None:
        """After every few milliseconds of steps; copy what you keep of `block`."""

    def on_idle(self, run: Run) -> None:
        """Again and again while the fit is paused."""

    def on_fit_end(self, run: Run) -> None:
        """At the end of a fit, however it ended; ``run.status`` and ``run.error`` say how."""


class Run(Steered):
    """One running ``fit`` or ``refine`` of a vitoolkit inference.

    People and code steer it by the methods of :class:`~vitoolkit.steered.Steered`.

    Attributes
    ----------
    inference : KLqp
        The inference that is running.
    n : int
        Steps asked for.
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
    compile_seconds : float or None
        How long compilation took, None before it ended.
    background : bool
        Whether it runs in a thread of its own.
    log : list of Event
        What happened to the run itself: pause, step, resume, stop, note.
    """

    def __init__(
        self,
        inference: KLqp,
        n: int,
        callbacks: Sequence[Callable],
        controls: Sequence[Control] = (),
        *,
        background: bool = False,
    ) -> None:
        self.inference = inference
        self.n = n
        self.callbacks = tuple(callbacks)
        self.own = _distinct([c for c in self.callbacks if isinstance(c, Callback)])
        self.foreign = [c for c in self.callbacks if not isinstance(c, Callback | Control)]
        self.counter = counter_of(inference.approx)
        self.first = self.counter.step + 1
        held = (control for c in self.callbacks for control in getattr(c, "controls", ()))
        super().__init__(distinct_controls([*inference.controls, *controls, *held]), self.first)
        self.error: BaseException | None = None
        self.begun = time.perf_counter()
        self.compile_seconds: float | None = None
        self.scores = np.empty(n)
        self.background = background
        self.bound: list[Control] = []
        self.started: list[Callback] = []
        self.warned: list[Control] = []

    approx = property(lambda self: self.inference.approx)
    variables = property(lambda self: self.inference.variables)

    @property
    def term_count(self) -> int:
        """Columns of a block's terms: data term, KL contributions, their parts, measures."""
        parts = sum(part.size for part in self.inference.parts)
        return 1 + len(self.variables) + parts + len(self.inference.measures)

    @property
    def done(self) -> int:
        """Steps finished in this call."""
        return self.step - self.first

    @property
    def compiles(self) -> str:
        """What is compiled before the first step, in words."""
        size = sum(parameter.get_value(borrow=True).size for parameter in self.approx.params)
        variables = len(self.inference.objective.op.latents)
        return (
            f"the step of {type(self.inference).__name__}, {variables:,} "
            f"variable{'' if variables == 1 else 's'}, {size:,} parameters"
        )

    def compiled(self) -> None:
        """Note that steps can be taken now."""
        self.compile_seconds = time.perf_counter() - self.begun
        if self.status == "compiling":
            self.status = "running"
        for callback in self.own:
            callback.on_compiled(self)


def begin(run: Run, *, score: bool) -> None:
    """Claim the controls and tell the callbacks, in the thread that asks for the fit.

    Parameters
    ----------
    run : Run
        The fit.
    score : bool
        As for :func:`execute`.

    Raises
    ------
    RuntimeError
        When a control is in another running fit.
    Exception
        Whatever a callback raises.
    """
    try:
        for control in run.controls:
            control.bind(run)
            run.bound.append(control)
        run.warned = _warn_of_long_schedules(run)
        for callback in run.own:
            run.started.append(callback)
            callback.on_fit_start(run)
    except BaseException as error:
        run.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        run.error = error
        _end(run, score)
        raise


def execute(
    run: Run,
    compile_step: Callable[[], StepFunction],
    *,
    score: bool,
    progressbar: bool,
    progressbar_theme: Any,
) -> None:
    """Compile and train what has begun; whatever happens, losses, state and traces are kept.

    Parameters
    ----------
    run : Run
        The fit.
    compile_step : callable
        Compiles and returns the step function.
    score : bool
        Whether the losses are kept in ``hist`` and handed to callbacks, as in PyMC.
    progressbar : bool
        Whether to show a progress bar, unless a callback shows the progress.
    progressbar_theme : rich.theme.Theme or None
        Theme of the bar.

    Raises
    ------
    FloatingPointError
        When a loss is NaN.
    Exception
        Whatever a callback, a control or the compilation raises.
    """
    try:
        run.begun = time.perf_counter()
        with _one_compiles(run):
            step = compile_step()
        run.compiled()
        bar = progressbar and not any(c.shows_progress for c in run.own)
        with (
            short_switch_interval(),
            _progress(run, bar, progressbar_theme) as redraw,
            _Interrupt(run) as interrupt,
        ):
            _train(run, step, interrupt, redraw, score)
        run.status = "finished"
    except StopIteration as stop:
        run.status = "stopped"
        run.add_event("stop", str(stop) or "callback")
    except KeyboardInterrupt as error:
        run.status, run.error = "interrupted", error
        run.add_event("interrupt", run._interrupt or "user")
        if run.compile_seconds is None:
            raise
    except BaseException as error:
        run.status, run.error = "failed", error
        raise
    finally:
        _end(run, score)
    _say_how_it_ended(run)
    _warn_at_the_end(run, run.warned)


def _end(run: Run, score: bool) -> None:
    try:
        run.inference.keep(run, score)
        for callback in run.started:
            callback.on_fit_end(run)
    finally:
        for control in run.bound:
            control.unbind()


@contextlib.contextmanager
def _one_compiles(run: Run) -> Iterator[None]:
    """Let one fit of the process compile at a time: PyTensor's settings are the process's."""
    while not _COMPILING.acquire(timeout=0.05):
        for callback in run.started:
            callback.on_idle(run)
        if run.asked:
            run.heed(lambda: None)
    try:
        yield
    finally:
        _COMPILING.release()


def _train(
    run: Run,
    step: StepFunction,
    interrupt: _Interrupt,
    redraw: Callable[[], None],
    score: bool,
) -> None:
    rows, rewind = _Rows(run, step), _Rewind(step)
    take = rows.call if step.fused else rows.one_by_one
    alone = run.foreign and (step.auto or not step.fused)
    redrawn = 0.0
    while run.done < run.n:
        if run.asked:
            run.heed(interrupt.idle)
        # What is asked for again at once is a single step.
        most = min(1 if alone or run.asked else step.capacity, run.n - run.done)
        try:
            take(most)
        finally:
            rows.hand_out()
        rewind.taken(rows.handed_in, run.step)
        if np.isnan(rows.last.loss[-1]):
            raise FloatingPointError(_nan_message(run, rows.last, rewind.to_last_finite()))
        now = float(rows.last.time[-1])
        rewind.save_when_due(now)
        if now - redrawn > _REDRAW_SECONDS:
            redraw()
            redrawn = now
        if run.foreign:
            losses = run.scores[: run.done] if score else None
            with interrupt.at_once():
                for callback in run.foreign:
                    callback(run.approx, losses, run.step)
    if interrupt.asked:
        raise KeyboardInterrupt


class _Rows:
    """Steps that were taken, on their way to the hooks: one block every few milliseconds."""

    def __init__(self, run: Run, step: StepFunction) -> None:
        self.last: Block
        self.handed_in: np.ndarray
        self._run, self._step, self._filled = run, step, 0
        self._hooks = [callback.on_block for callback in run.own]
        self._order = [run.controls.index(control) for control in step.controls]
        self._as_recorded = self._order == list(range(len(run.controls)))
        self._dtype = np.dtype(pytensor.config.floatX)
        self._allocate(_ROWS)

    def _allocate(self, rows: int) -> None:
        self._out = np.empty((rows, 1 + self._run.term_count))
        self._used = np.empty((rows, len(self._run.controls)))
        self._time = np.empty(rows)

    def one_by_one(self, most: int) -> None:
        """Take steps until something is asked for, a few milliseconds are over, or NaN."""
        run, step, clock = self._run, self._step, time.perf_counter
        if most > 1 or not run.foreign:
            most = min(_ROWS, run.n - run.done)
        out, used, times, first = self._out, self._used, self._time, run.step
        current = np.array([control.advance(first) for control in run.controls])
        scheduled = [
            (j, control.advance)
            for j, control in enumerate(run.controls)
            if control.schedule is not None and not control.manual
        ]
        due = clock() + _HAND_OUT_SECONDS
        row = 0
        while True:
            used[row] = current
            result = step(self._values(row, row + 1))
            times[row] = now = clock()
            out[row] = result[0]
            loss = result[0, 0]
            self._filled = row = row + 1
            if row == most or now > due or run.asked or loss != loss:
                return
            for j, advance in scheduled:
                current[j] = advance(first + row)

    def call(self, count: int) -> None:
        """Take steps in one compiled call; those after a NaN do not count."""
        if count > len(self._time):
            self._allocate(count)
        for j, control in enumerate(self._run.controls):
            control.plan(self._run.step, self._used[:count, j])
        begun = time.perf_counter()
        result = self._step(self._values(0, count))
        now = time.perf_counter()
        self._step.tune(now - begun, count)
        self._out[:count] = result
        self._time[:count] = np.linspace(begun, now, count + 1)[1:]
        nan = np.flatnonzero(np.isnan(self._out[:count, 0]))
        self._filled = int(nan[0]) + 1 if len(nan) else count

    def hand_out(self) -> None:
        """Count the steps and give them to the hooks."""
        filled, self._filled = self._filled, 0
        if not filled:
            return
        run, first = self._run, self._run.step
        out, used = self._out[:filled], self._used[:filled]
        run.scores[run.done : run.done + filled] = out[:, 0]
        run.step = first + filled
        run.counter.step = run.step - 1
        self.handed_in = np.array(self._values(0, filled))
        self.last = Block(first, out[:, 0], out[:, 1:], used, self._time[:filled])
        run.inference.last_block = self.last
        for hook in self._hooks:
            hook(run, self.last)

    def _values(self, start: int, stop: int) -> np.ndarray:
        """Control values of some rows as the step function takes them."""
        values = self._used[start:stop]
        if not self._as_recorded:
            values = np.take(values, self._order, axis=1)
        return values if self._dtype == values.dtype else values.astype(self._dtype)


class _Rewind:
    """The way back to the last finite step: a recent checkpoint, and the steps since."""

    def __init__(self, step: StepFunction) -> None:
        self._step = step
        self._due = 0.0
        self._save(time.perf_counter())

    def _save(self, now: float) -> None:
        self._checkpoint = Checkpoint(self._step.state)
        self._used: list[np.ndarray] = []
        cost = time.perf_counter() - now
        self._due = now + max(_HAND_OUT_SECONDS, _CHECKPOINT_SHARE * cost)

    def taken(self, used: np.ndarray, next_step: int) -> None:
        """Note steps that were taken with these control values."""
        self._used.append(used)
        self._next_step = next_step

    def save_when_due(self, now: float) -> None:
        """Start afresh from here, unless that was just done or something is NaN already."""
        if now > self._due and not self._not_finite():
            self._save(now)

    def to_last_finite(self) -> int:
        """Go back to where everything was still finite; return the step that ended it."""
        self._checkpoint.restore()
        used = np.concatenate(self._used)
        for step, values in enumerate(used, start=self._next_step - len(used)):
            before = Checkpoint(self._step.state)
            loss = self._step(values[None])[0, 0]
            if np.isnan(loss) or self._not_finite():
                before.restore()
                return step
        return self._next_step - 1

    def _not_finite(self) -> bool:
        arrays = [variable.get_value(borrow=True) for variable in self._step.state]
        return any(
            np.isnan(array).any()
            for array in arrays
            if isinstance(array, np.ndarray) and array.dtype.kind == "f"
        )


class _Interrupt:
    """Ctrl-C waits for the step boundary, so that a step that was taken is a step that is recorded.

    A second Ctrl-C before the boundary, or one inside a callback of the user's, is raised at once.
    Handlers other than Python's own, and threads other than the main one, are left alone.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._at_once = False
        self._installed = False

    def __enter__(self) -> _Interrupt:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, signum, frame) -> None:
        if self._at_once or self.asked:
            signal.default_int_handler(signum, frame)
        self._run.interrupt()

    @property
    def asked(self) -> bool:
        """Whether the fit shall end at the next step boundary."""
        return self._run._interrupt is not None

    def idle(self) -> None:
        """Let the callbacks do something while the fit is paused."""
        for callback in self._run.own:
            callback.on_idle(self._run)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, Ctrl-C is raised where it falls."""
        self._at_once = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False


@contextlib.contextmanager
def _progress(run: Run, show: bool, theme: Any) -> Iterator[Callable[[], None]]:
    if not show:
        yield lambda: None
        return
    with CustomProgress(
        *Progress.get_default_columns(),
        TextColumn("{task.fields[loss]}"),
        console=Console(theme=default_progress_theme if theme is None else theme),
    ) as progress:
        task = progress.add_task("Fitting:", total=run.n, loss="")

        def redraw() -> None:
            progress.update(task, completed=run.done, loss=f"Average Loss = {_average(run):,.5g}")

        try:
            yield redraw
        finally:
            redraw()


def _average(run: Run) -> float:
    recent = run.scores[max(0, run.done - 1000) : run.done]
    recent = recent[np.isfinite(recent)]
    return float(recent.mean()) if len(recent) else np.nan


def _say_how_it_ended(run: Run) -> None:
    if run.n == 0:
        _logger.info("Initialization only")
        return
    share, loss = f"{100 * run.done // run.n:.0f}%", f"Average Loss = {_average(run):,.5g}"
    if run.status == "finished":
        _logger.info(f"Finished [{share}]: {loss}")
    else:
        _logger.info(f"{run.status.capitalize()} at {run.done:,d} [{share}]: {loss}")


def _nan_message(run: Run, block: Block, culprit: int) -> str:
    names = ["the data term", *run.variables]
    terms = dict(zip(names, block.terms[-1, : len(names)], strict=True))
    not_finite = [
        name if name == "the data term" else f"the KL of {name!r}"
        for name, term in terms.items()
        if not np.isfinite(term)
    ]
    values = ", ".join(
        f"{c.name} = {value:g}" for c, value in zip(run.controls, block.control[-1], strict=True)
    )
    step = run.step - 1
    why = "" if culprit == step else f" The gradient of step {culprit} was not finite."
    return (
        f"NaN occurred in optimization: the loss of step {step} is NaN.{why} "
        f"Not finite: {', '.join(not_finite) or 'nothing but the loss'}. "
        f"Controls at that step: {values or 'none'}. "
        f"The parameters are back where they were before step {culprit}, and the record is kept. "
        "A smaller learning rate, total_grad_norm_constraint or a warm-up of β often helps."
    )


def _distinct(callbacks: list) -> list:
    return list({id(callback): callback for callback in callbacks}.values())


def _ending(control: Control) -> tuple[Schedule, int, float] | None:
    """A schedule that is in force with its length and end, or None where there is no such thing."""
    schedule = control.schedule
    if schedule is None or control.manual or not schedule.steps or schedule.end is None:
        return None
    return schedule, schedule.steps, schedule.end


def _warn_of_long_schedules(run: Run) -> list[Control]:
    warned = []
    total = run.first + run.n
    for control in run.controls:
        ending = _ending(control)
        if ending is None or run.n == 0 or ending[1] <= total:
            continue
        schedule, steps, end = ending
        last = schedule(total - 1)
        if last != end:
            warned.append(control)
            warnings.warn(
                f"{control.name} will end at {last:g}: its schedule ends at {end:g} after "
                f"{steps:,} steps, and the fit has {total:,}.",
                UserWarning,
                stacklevel=5,
            )
    return warned


def _warn_at_the_end(run: Run, warned: list[Control]) -> None:
    for control in run.controls:
        ending = _ending(control)
        cut_short = run.status != "finished" and not any(control is other for other in warned)
        if ending is not None and cut_short and control.value != ending[2]:
            warnings.warn(
                f"{control.name} ended at {control.value:g}, its schedule ends at {ending[2]:g} "
                f"after {ending[1]:,} steps.",
                UserWarning,
                stacklevel=5,
            )
        if isinstance(control, Beta) and control.value == 0 and run.done:
            warnings.warn(
                f"{control.name} ended at 0: the KL it weighs had no part in the loss, so that q "
                "is a maximum-likelihood point there and not a posterior. Raise it and refine.",
                UserWarning,
                stacklevel=5,
            )
