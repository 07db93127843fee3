"""The loop a vitoolkit inference runs: steps, callbacks, progress, NaN, interrupt.

It keeps PyMC's contract with a callback, ``callback(approx, losses, i)`` after every step with
``i`` from 1, and mends its faults: a callback that raises loses no loss and no state,
``StopIteration`` and Ctrl-C keep the last step, and ``refine`` goes on counting where ``fit``
ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pytensor
from pymc.progress_bar import CustomProgress, default_progress_theme
from rich.console import Console
from rich.progress import Progress, TextColumn

from vitoolkit.advise import warn_user
from vitoolkit.block import Block
from vitoolkit.callback import Callback, every
from vitoolkit.checkpoint import Checkpoint
from vitoolkit.controls import Beta, Control
from vitoolkit.events import Event
from vitoolkit.interrupt import Interrupt, short_switch_interval
from vitoolkit.needs import Trained
from vitoolkit.points import Points
from vitoolkit.recover import Recover, Recovery
from vitoolkit.requests import Request
from vitoolkit.rewind import Culprit, Rewind
from vitoolkit.run import Run
from vitoolkit.schedules import Schedule
from vitoolkit.state import State
from vitoolkit.step_function import StepFunction

__all__ = ["Block", "Callback", "LoopRun", "Run", "begin", "execute"]

_REDRAW_SECONDS = 0.1
_HAND_OUT_SECONDS = 0.005
_ROWS = 128
_compiling = threading.RLock()
# The loop stands in for PyMC's, so that it speaks where PyMC's speaks.
_logger = logging.getLogger("pymc.variational.inference")


class Keeper(Trained, Protocol):
    """An inference whose steps the loop takes."""

    #: What takes them, once it is compiled.
    step_function: StepFunction | None
    #: What it can go back to.
    points: Points
    #: Where the callbacks of the next fit stand: it goes on from there.
    goes_on_from: State | None
    #: The losses of the fits before this one.
    hist: np.ndarray

    def keep(self, run: LoopRun, score: bool) -> None:
        """Take over what a run has reached so far."""


class LoopRun(Run):
    """A run whose steps are taken here.

    Attributes
    ----------
    foreign : list of callable
        Callbacks that are plain functions.
    scores : numpy.ndarray, shape (n,)
        The losses so far.
    common : int
        The first step that it left behind when it went back last.
    """

    inference: Keeper
    points: Points

    def __init__(
        self,
        inference: Keeper,
        n: int,
        callbacks: Sequence[Callable],
        controls: Sequence[Control],
        *,
        background: bool = False,
        recover: Recover | None = None,
    ) -> None:
        self.recover = recover
        super().__init__(inference, n, callbacks, controls, background=background)
        known = [*self.own, *self.controls]
        self.foreign = [c for c in self.callbacks if not any(c is other for other in known)]
        self.scores = np.empty(n)
        self.warned: list[Control] = []
        self.points = inference.points
        self.line, self.common = len(self.points.turns), self.step
        #: Called when the fit has gone back, before the callbacks are.
        self.on_back: list[Callable[[LoopRun], None]] = []

    def trained(self) -> list[np.ndarray]:
        """All that is trained, the weights of q's networks included."""
        step = self.inference.step_function
        return [] if step is None else step.parameters

    def _all_periods(self) -> set[int]:
        kept = set() if self.recover is None else {self.recover.every}
        return super()._all_periods() | kept

    def go_back(
        self,
        state: State,
        *,
        turns: int | None = None,
        keep: Collection[str | None] = (),
        generators: Mapping[str, Any] = {},
    ) -> None:
        """Go back to a state; only the fitting thread does, between two steps.

        What is to be told of it is logged then, and :meth:`tell_back` tells the callbacks.

        Parameters
        ----------
        state : State
            Where to.
        turns : int, optional
            How often the fit had gone back when it was there; default is as often as now.
        keep : collection of str
            Controls that stay as they are.
        generators : mapping
            States of random generators that take the place of those of `state`.
        """
        values = {**state.checkpoint.values, **generators}
        there = state._replace(checkpoint=Checkpoint(values))
        there.put_back(
            self.inference.step_function, [c for c in self.controls if c.name not in keep]
        )
        self.line = len(self.points.turns) if turns is None else turns
        self.common = self.points.turned(state.step, self.line)
        if self.common < self.first:  # before this call began
            self.n += self.first - self.common
            self.first, self.scores = self.common, np.full(self.n, np.nan)
            self.inference.hist = self.inference.hist[: self.common]
        self.step = state.step
        self.counter.step = state.step - 1
        there.put_back_callbacks(self)
        for look in self.on_back:
            look(self)

    def tell_back(self) -> None:
        """Tell the callbacks that the fit has gone back."""
        for callback in self.own:
            callback.on_rewind(self)
        trace = next((trace for trace, _ in self.records.values()), None)
        if self.common < self.step:  # on another line of steps, whose losses the record has
            again = self.scores[self.common - self.first : self.done]
            again[:] = np.nan
            if trace is not None:
                rows = trace[trace.rows_before(self.common) :]
                again[rows.step - self.common] = rows.loss

    def keep_point(self, request: Request) -> None:
        """Make a bookmark; for a replay, a point that needs no name."""
        if request.kind == "keep":
            self.points.keep(self)
            return
        name = f"step {self.step}" if request.text is None else request.text
        self.add_event("bookmark", request.source, self.points.keep(self, name).name)

    def go_to_point(self, request: Request) -> None:
        """Go back to a point."""
        if request.point is None:  # it was asked for ahead of its step, or of its bookmark
            request = self.points.checked(request, self.inference.step_function)
        point, was = request.point, self.step
        self.go_back(point.state, turns=point.turns)
        point.turns = len(self.points.turns)  # it is on the present line
        self.inbox.forget_changes()
        now = time.perf_counter()
        self.log.append(
            Event(self.step, now, "rewind", None, was, self.step, request.source, point.name)
        )
        self.tell_back()

    @property
    def alone(self) -> bool:
        """Whether a plain callback wants to see every step, which is PyMC's promise to it."""
        return any(not isinstance(callback, every) for callback in self.foreign)

    @property
    def compiles(self) -> str:  # type: ignore[override]
        """What is compiled before the first step, in words."""
        size = sum(parameter.get_value(borrow=True).size for parameter in self.approx.params)
        variables = len(self.approx.model.free_RVs)
        return (
            f"the step of {type(self.inference).__name__}, {variables:,} "
            f"variable{'' if variables == 1 else 's'}, {size:,} parameters"
        )


def begin(run: LoopRun, *, score: bool) -> None:
    """Claim the controls and tell the callbacks, in the thread that asks for the fit.

    Parameters
    ----------
    run : LoopRun
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
    with Interrupt(run, open=True):
        try:
            run.bind()
            run.warned = _warn_of_long_schedules(run)
            run.start()
            if (there := run.inference.goes_on_from) is not None:
                there.put_back_callbacks(run)
                run.inference.goes_on_from = None
        except BaseException as error:
            _end(run, score, error)
            raise


def execute(
    run: LoopRun,
    compile_step: Callable[[], StepFunction],
    *,
    score: bool,
    progressbar: bool,
    progressbar_theme: Any,
) -> None:
    """Compile and train what has begun; whatever happens, losses, state and traces are kept.

    Parameters
    ----------
    run : LoopRun
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
        When a loss is NaN, or a parameter is not finite.
    Exception
        Whatever a callback, a control or the compilation raises.
    """
    with Interrupt(run, open=True) as interrupt:
        error: BaseException | None = None
        try:
            run.begun = time.perf_counter()
            with _one_compiles(run):
                step = compile_step()
            interrupt.gate(False)
            if run.interrupted is not None:  # raised where Python could not pass it on
                raise KeyboardInterrupt
            run.choice, run.reused = step.choice, step.reused
            run.compiled()
            run.asked |= bool(run.inbox.waiting())
            run.points.take(run)
            _logger.info(f"{run.prepared[0].upper()}{run.prepared[1:]}")
            bar = progressbar and not run.shows_progress
            with short_switch_interval(), _progress(run, bar, progressbar_theme) as redraw:
                _train(run, step, interrupt, redraw, score)
        except BaseException as raised:
            error = raised
        interrupt.gate(False)
        in_steps = run.compile_seconds is not None
        try:
            _end(run, score, error)
        except BaseException as raised:
            if error is not None and _is_failure(error):
                raise error from raised
            raise
    if error is not None:
        if _is_failure(error) or (isinstance(error, KeyboardInterrupt) and not in_steps):
            raise error
    _say_how_it_ended(run)
    _warn_at_the_end(run, run.warned)


def _is_failure(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, StopIteration | KeyboardInterrupt)


def _end(run: LoopRun, score: bool, error: BaseException | None) -> None:
    """Keep what there is, and tell everybody how it ended."""
    status = "failed"
    if error is None:
        status = "finished"
    elif isinstance(error, StopIteration):
        status = "stopped"
        run.add_stop(error)
    elif isinstance(error, KeyboardInterrupt):
        status = "interrupted"
        run.add_event("interrupt", run.interrupted or "user")
    run.inference.keep(run, score)
    run.end(status, None if status in ("finished", "stopped") else error)


@contextlib.contextmanager
def _one_compiles(run: Run) -> Iterator[None]:
    """Let one fit of the process compile at a time: PyTensor's settings are the process's."""
    lock = _compiling
    while not lock.acquire(timeout=0.05):
        run.idle()
        if run.asked:
            run.heed(lambda: None)
    try:
        yield
    finally:
        lock.release()


def _in_a_forked_child() -> None:
    """A child has one thread: the one that was compiling is not there, and never lets go."""
    global _compiling
    _compiling = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)


def _train(
    run: LoopRun,
    step: StepFunction,
    interrupt: Interrupt,
    redraw: Callable[[], None],
    score: bool,
) -> None:
    rewind = Rewind(step)
    rows = _Rows(run, step, rewind, interrupt)
    recovery = None if run.recover is None else Recovery(run, run.recover)
    run.on_boundary.append(run.points.look)
    try:
        while True:
            _take_steps(run, step, rows, rewind, recovery, interrupt, redraw, score)
            if not _went_back(run, rows, rewind, recovery, at_end=True):
                return
    except (StopIteration, KeyboardInterrupt):
        _went_back(run, rows, rewind, recovery, at_end=True)
        raise
    finally:
        run.choice = step.choice  # the clock may have chosen another number by now
        run.on_boundary.remove(run.points.look)
        if recovery is not None:
            run.on_boundary.remove(recovery.look)
            run.on_back.remove(recovery.went_back)


def _take_steps(
    run: LoopRun,
    step: StepFunction,
    rows: _Rows,
    rewind: Rewind,
    recovery: Recovery | None,
    interrupt: Interrupt,
    redraw: Callable[[], None],
    score: bool,
) -> None:
    take = rows.call if step.fused else rows.one_by_one
    alone = run.alone and (step.auto or not step.fused)
    redrawn = 0.0
    while run.done < run.n:
        if run.asked:
            run.heed(run.idle)
        # What is asked for again at once is a single step, at no pace.
        single = run.asked
        allowed = 1 if single else run.keep_pace()
        if not allowed:
            continue
        most = 1 if alone or single else step.capacity if step.fused else _ROWS
        take(min(most, allowed, run.n - run.done, run.to_due()))
        if _went_back(run, rows, rewind, recovery) and not run.done:
            continue
        now = time.perf_counter()
        rewind.save_when_due(now)
        if now - redrawn > _REDRAW_SECONDS:
            redraw()
            redrawn = now
        for callback in run.foreign:
            if run.step % getattr(callback, "every", 1) == 0:
                losses = run.scores[: run.done] if score else None
                with interrupt.at_once():
                    callback(run.approx, losses, run.step)
    if run.interrupted is not None:
        raise KeyboardInterrupt


def _went_back(
    run: LoopRun, rows: _Rows, rewind: Rewind, recovery: Recovery | None, *, at_end: bool = False
) -> bool:
    """Look whether the last loss is NaN, or a parameter not finite, and go back from there.

    Without a recovery, or when that has given up, the parameters are those before that step, and it
    is raised.
    """
    if rows.last is None:
        return False
    loss = rows.last.loss[-1]
    if not (np.isnan(loss) or ((at_end or np.isinf(loss)) and not rewind.finite())):
        return False
    culprit, block = rewind.to_last_finite(), rows.last
    error = FloatingPointError(_nan_message(run, block, culprit))
    told = _not_finite(run, block) if culprit.step == run.step - 1 else []
    if recovery is None or not recovery.roll_back(culprit, told):
        raise error
    rewind.start_again()
    rows.last = None
    return True


class _Rows:
    """Steps that were taken, on their way to the hooks: one block every few milliseconds."""

    def __init__(
        self, run: LoopRun, step: StepFunction, rewind: Rewind, interrupt: Interrupt
    ) -> None:
        self.last: Block | None = None
        self._run, self._step, self._rewind = run, step, rewind
        self._interrupt, self._filled, self._seconds = interrupt, 0, 0.0
        self._order = [run.controls.index(control) for control in step.controls]
        self._as_recorded = self._order == list(range(len(run.controls)))
        self._unused = [i for i, c in enumerate(run.controls) if c.name in run.unused]
        self._names = run.variables, run.inference.measures
        self._dtype = np.dtype(pytensor.config.floatX)
        self._allocate(_ROWS)

    def _allocate(self, rows: int) -> None:
        self._out = np.empty((rows, 1 + self._run.term_count))
        self._used = np.empty((rows, len(self._run.controls)))
        self._time = np.empty(rows)
        self._share = np.arange(1.0, rows + 1)

    def one_by_one(self, most: int) -> None:
        """Take steps until something is asked for, a few milliseconds are over, or NaN."""
        run, step, clock = self._run, self._step, time.perf_counter
        out, used, times, first = self._out, self._used, self._time, run.step
        most = min(most, run.to_rule(first))
        current = np.array([control.advance(first) for control in run.controls])
        scheduled = [
            (j, control.advance)
            for j, control in enumerate(run.controls)
            if control.schedule is not None and not control.manual
        ]
        self._rewind.before()
        due = clock() + _HAND_OUT_SECONDS
        row = 0
        try:
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
        finally:
            self._note_taken(0)
            self._hand_out()

    def call(self, most: int) -> None:
        """Take steps in compiled calls, one up to each step at which a rule is due.

        A rule is asked between two calls; everybody else is handed the steps of all of them at
        once, and their numbers are drawn at once, which costs less. Steps after a NaN do not count.
        """
        run = self._run
        if most > len(self._time):
            self._allocate(most)
        ruled, self._seconds = 0, 0.0
        try:
            while self._call(ruled, most) and not run.asked:
                block, ruled = self._block(ruled), self._filled
                run.rule(block)
            self._step.tune(self._seconds, self._filled)
        finally:
            self._hand_out(ruled)

    def _call(self, start: int, most: int) -> bool:
        """Fill rows from `start` on in one compiled call; False when a block ends there."""
        run = self._run
        first = run.step + start
        stop = min(most, start + run.to_rule(first))
        for j, control in enumerate(run.controls):
            stop = start + control.plan(first, self._used[start:stop, j])
        self._rewind.before()
        begun = time.perf_counter()
        result = self._step(self._values(start, stop), coming=most - stop)
        now = time.perf_counter()
        count = stop - start
        self._seconds += now - begun
        self._out[start:stop] = result
        self._time[start:stop] = begun + (now - begun) / count * self._share[:count]
        nan = np.isnan(self._out[start:stop, 0])
        spoiled = nan.any()
        self._filled = start + int(nan.argmax()) + 1 if spoiled else stop
        for control, value in zip(run.controls, self._used[self._filled - 1], strict=True):
            control.taken(float(value))
        self._note_taken(start)
        return stop < most and not spoiled

    def _note_taken(self, start: int) -> None:
        stop = self._filled
        if start < stop:
            values, loss = np.array(self._values(start, stop)), self._out[start:stop, 0]
            self._rewind.taken(values, loss, self._run.step + stop)

    def _block(self, start: int) -> Block:
        """The rows from `start` on."""
        filled = self._filled
        out, used = self._out[start:filled], self._used[start:filled]
        if self._unused:
            used = used.copy()
            used[:, self._unused] = np.nan
        first, times = self._run.step + start, self._time[start:filled]
        return Block(first, out[:, 0], out[:, 1:], used, times, *self._names)

    def _hand_out(self, ruled: int = 0) -> None:
        """Count the steps and give them to the hooks, and those from `ruled` on to the rules."""
        filled, run = self._filled, self._run
        if not filled:
            return
        run.scores[run.done : run.done + filled] = self._out[:filled, 0]
        self.last = self._block(0)
        rest = self._block(ruled)
        self._filled = 0
        run.hand_out(self.last, self._interrupt.gate)
        if ruled < filled:  # else a rule has raised
            run.rule(rest)
            run.at_boundary()

    def _values(self, start: int, stop: int) -> np.ndarray:
        """Control values of some rows as the step function takes them."""
        values = self._used[start:stop]
        if not self._as_recorded:
            values = np.take(values, self._order, axis=1)
        return values if self._dtype == values.dtype else values.astype(self._dtype)


@contextlib.contextmanager
def _progress(run: LoopRun, show: bool, theme: Any) -> Iterator[Callable[[], None]]:
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
            progress.update(
                task, completed=run.done, total=run.n, loss=f"Average Loss = {_average(run):,.5g}"
            )

        try:
            yield redraw
        finally:
            redraw()


def _average(run: LoopRun) -> float:
    recent = run.scores[max(0, run.done - 1000) : run.done]
    recent = recent[np.isfinite(recent)]
    return float(recent.mean()) if len(recent) else np.nan


def _say_how_it_ended(run: LoopRun) -> None:
    if run.n == 0:
        _logger.info("Initialization only")
        return
    share, loss = f"{100 * run.done // run.n:.0f}%", f"Average Loss = {_average(run):,.5g}"
    infinite = int((~np.isfinite(run.scores[: run.done])).sum())
    if infinite:
        loss += f" (the loss of {infinite:,} of {run.done:,} steps was not finite)"
    if run.status == "finished":
        _logger.info(f"Finished [{share}]: {loss}")
    else:
        _logger.info(f"{run.status.capitalize()} at {run.done:,d} [{share}]: {loss}")


def _not_finite(run: LoopRun, block: Block) -> list[str]:
    """The terms of the last step that are not finite, in words."""
    names = ["the data term", *(f"the KL of {name!r}" for name in run.variables)]
    terms = zip(names, block.terms[-1, : len(names)], strict=True)
    return [name for name, term in terms if not np.isfinite(term)]


def _nan_message(run: LoopRun, block: Block, culprit: Culprit) -> str:
    not_finite = _not_finite(run, block)
    values = ", ".join(
        f"{c.name} = {value:g}" for c, value in zip(run.controls, block.control[-1], strict=True)
    )
    step, loss = run.step - 1, block.loss[-1]
    nothing = "nothing but the loss" if np.isnan(loss) else "none of the terms"
    what, why = f"the loss of step {step} is {'NaN' if np.isnan(loss) else f'{loss:g}'}.", ""
    if np.isfinite(loss):
        what = f"the parameters after step {step} are not finite."
    if culprit.exact and culprit.step != step:
        why = f" The gradient of step {culprit.step} was not finite."
    if not culprit.exact:
        why = (
            " What the steps read was changed in place meanwhile, so that the last finite step "
            "cannot be found again: this is the last that was saved (set_value(...) or pm.set_data "
            "would have left a trail)."
        )
    return (
        f"NaN occurred in optimization: {what} "
        f"Not finite: {', '.join(not_finite) or nothing}. "
        f"Controls at that step: {values or 'none'}. "
        f"The parameters are back where they were before step {culprit.step}, and the record is "
        f"kept.{why} "
        "A smaller learning rate, total_grad_norm_constraint or a warm-up of β often helps."
    )


def _ending(control: Control) -> tuple[Schedule, int, float] | None:
    """A schedule that is in force with its length and end, or None where there is no such thing."""
    schedule = control.schedule
    if schedule is None or control.manual or not schedule.steps or schedule.end is None:
        return None
    return schedule, schedule.steps, schedule.end


def _warn_of_long_schedules(run: LoopRun) -> list[Control]:
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
            warn_user(
                f"{control.name} will end at {last:g}: its schedule ends at {end:g} after "
                f"{steps:,} steps, and the fit has {total:,}.",
            )
    return warned


def _warn_at_the_end(run: LoopRun, warned: list[Control]) -> None:
    for control in run.controls:
        ending = _ending(control)
        cut_short = run.status != "finished" and not any(control is other for other in warned)
        if ending is not None and cut_short and control.value != ending[2]:
            warn_user(
                f"{control.name} ended at {control.value:g}, its schedule ends at {ending[2]:g} "
                f"after {ending[1]:,} steps.",
            )
        if isinstance(control, Beta) and control.value == 0 and run.done:
            warn_user(
                f"{control.name} ended at 0: the KL it weighs had no part in the loss, so that q "
                "is a maximum-likelihood point there and not a posterior. Raise it and refine.",
            )
