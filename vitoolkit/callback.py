"""What a callback of a fit is, and when it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitoolkit.block import Block
from vitoolkit.checks import whole_number
from vitoolkit.controls import Control
from vitoolkit.run import Run
from vitoolkit.steps import counter_of

__all__ = ["Block", "Callback", "Run", "every"]


class Callback:
    """Base class of vitoolkit's own callbacks: hooks that a fit calls.

    The hooks run in the fitting thread, in the order of the callback list and before callbacks that
    are plain functions: under an inference of vitoolkit, and under one of PyMC's own, which tells a
    callback neither that a fit starts nor that it has ended. What one of them raises ends the fit,
    and costs no other one its steps or its end.

    Examples
    --------
    The best ELBO of every 50 steps, in nats:

    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> class Best(vt.Callback):
    ...     every = 50
    ...     def on_fit_start(self, run):
    ...         self.steps, self.best = 0, float("-inf")
    ...     def on_block(self, run, block):
    ...         self.steps += len(block.loss)
    ...         self.best = max(self.best, block.elbo.max())
    >>> best = Best()
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     approx = pm.fit(100, method=vt.ADVI(), callbacks=[best], progressbar=False)
    >>> best.steps, bool(best.best < 0)
    (100, True)
    """

    #: True while the callback shows progress, so that the loop draws no bar of its own.
    shows_progress = False
    #: The controls the callback holds.
    controls: tuple[Control, ...] = ()
    #: The callback is due when a multiple of so many steps was taken: a block ends there.
    every: int | None = None

    @property
    def due(self) -> int | None:
        """When the callback is due, for the loop: its `every`."""
        return self.every

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        """PyMC's callback; under an inference of vitoolkit the hooks have been called already."""
        counter_of(approx).tell(self, approx, losses, i)

    def on_fit_start(self, run: Run) -> None:
        """Before anything is compiled; under an inference of PyMC's own, after its first step."""

    def on_compiled(self, run: Run) -> None:
        """When everything is compiled, before the first step."""

    def on_block(self, run: Run, block: Block) -> None:
        """After every few milliseconds of steps, and where :attr:`every` says so.

        The arrays of `block` are used again: copy what you keep.
        """

    def on_idle(self, run: Run) -> None:
        """Again and again while the fit is paused, or waits for its pace."""

    def on_rewind(self, run: Run) -> None:
        """When the fit has gone back: ``run.step`` is the next step, and was taken before."""

    def standing(self) -> dict[str, Any]:
        """What its coming decisions depend on, for a checkpoint: a copy, which is kept.

        Numbers, strings, arrays, and lists, tuples and dicts of these; {} where that is nothing.
        """
        return {}

    def stand(self, run: Run, found: dict[str, Any]) -> None:
        """Be where :meth:`standing` told of: the fit is resumed there, or has gone back to there.

        With {} nothing is known of that moment: forget what came after ``run.step``.
        """

    def on_fit_end(self, run: Run) -> None:
        """At the end of a fit, however it ended; ``run.status`` and ``run.error`` say how."""

    def on_diagnosis(self, run: Run) -> None:
        """When a fit that is over was diagnosed, in the thread that asked; the record has it."""


class every:  # noqa: N801  # reads as a word at the call: callbacks=[vt.every(100, callback)]
    """A plain callback that is called every so many steps, and costs no fused steps.

    PyMC calls a callback after every step, which a compiled call of many steps cannot do. Wrapped,
    it is called at the steps that are a multiple of `steps`, and calls end there.

    Parameters
    ----------
    steps : int
        The callback is called when a multiple of this number of steps was taken.
    callback : callable
        Called as ``callback(approx, losses, i)``.

    Raises
    ------
    TypeError, ValueError
        When `steps` is not a whole number from 1 up, or `callback` cannot be called or is one of
        vitoolkit's own, which are asked at their own pace.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> seen = []
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     look = vt.every(100, lambda approx, losses, i: seen.append(i))
    ...     approx = vt.ADVI().fit(350, callbacks=[look], progressbar=False)
    >>> seen
    [100, 200, 300]
    """

    def __init__(self, steps: int, callback: Callable[[Any, Any, int], Any]) -> None:
        self.every = whole_number("every", steps, least=1, of="steps")
        if isinstance(callback, Callback | Control):
            raise TypeError(
                f"{callback!r} is called when it needs to be: list it as it is (a Recorder or a "
                "Dashboard takes every= itself)"
            )
        if not callable(callback):
            raise TypeError(
                f"a callback must be callable as (approx, losses, i), received {callback!r}"
            )
        self.callback = callback

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        """PyMC's callback."""
        if (counter_of(approx).tick(losses, i) + 1) % self.every == 0:
            self.callback(approx, losses, i)

    def __repr__(self) -> str:
        return f"every({self.every}, {self.callback!r})"
