"""Which step is this? One counter for each approximation, over all its fits.

PyMC numbers the steps of every ``fit`` and ``refine`` call on its own, and ``refine`` repeats the
last number of the call before it. A :class:`StepCounter` turns what PyMC tells a callback into one
step index that counts from 0 over the whole life of an approximation, the same for every callback
that asks.
"""

from __future__ import annotations

import sys
import weakref
from types import CodeType, FrameType
from typing import Any

import numpy as np
from pymc.variational.inference import Inference

__all__ = ["PYMC_LOOPS", "StepCounter", "counter_of", "pymc_loop"]

PYMC_LOOPS: tuple[CodeType, ...] = (
    Inference._iterate_with_loss.__code__,
    Inference._iterate_without_loss.__code__,
)


class StepCounter:
    """Steps taken by one approximation.

    Attributes
    ----------
    step : int
        Index of the last finished step, -1 before the first.
    inference : object or None
        The vitoolkit inference that trains the approximation; None when PyMC's own does.
    """

    #: Takes a callback that PyMC's own loop has called; vitoolkit.stock puts it here.
    stock: Any = None

    def __init__(self) -> None:
        self.step = -1
        #: The run of PyMC's own loop that trains the approximation, weakly held.
        self.run: weakref.ref | None = None
        self._inference: weakref.ref | None = None
        self._loop: Any = None
        self._loop_start = 0
        self._last_i = 0

    @property
    def inference(self):
        """The vitoolkit inference that trains the approximation, weakly held, or None."""
        return None if self._inference is None else self._inference()

    @inference.setter
    def inference(self, inference) -> None:
        self._inference = weakref.ref(inference)

    def tick(self, losses: np.ndarray | None, i: int) -> int:
        """Index of the step a PyMC callback was just told about; asking again changes nothing.

        Parameters
        ----------
        losses : numpy.ndarray or None
            The losses PyMC hands to the callback: one array a ``fit`` or ``refine`` call, so that a
            new array means a new call. None for ``score=False`` and for SVGD; a ``refine`` is then
            recognized only by a number that does not grow.
        i : int
            The step number PyMC hands to the callback.

        Returns
        -------
        int
        """
        if self._own_run() is not None:
            return self.step
        if losses is None:
            if i < self._last_i:
                self._loop_start = self.step + 1 - (i - 1)
            self._last_i = i
            self.step = self._loop_start + i - 1
        else:
            loop = losses if losses.base is None else losses.base
            if loop is not self._loop:
                self._loop, self._loop_start = loop, self.step + 1
            self.step = self._loop_start + len(losses) - 1
        return self.step

    def tell(self, callback: Any, approx: Any, losses: np.ndarray | None, i: int) -> None:
        """Pass on that a loop has called a callback of vitoolkit after a step.

        Parameters
        ----------
        callback : Callback or Control
        approx, losses, i
            As PyMC hands them to a callback.
        """
        run = self._own_run()
        if run is None:
            self.stock(self, callback, approx, losses, i)
        elif hasattr(callback, "on_block"):  # wrapped in a plain function, if it is not known
            run.join(callback)

    def _own_run(self) -> Any:
        """The running fit of a vitoolkit inference, or None."""
        inference = self.inference
        run = None if inference is None else inference.run
        return run if run is not None and run.running else None


_COUNTERS: weakref.WeakKeyDictionary[Any, StepCounter] = weakref.WeakKeyDictionary()


def counter_of(approx) -> StepCounter:
    """The step counter of an approximation, which lives as long as the approximation."""
    counter = _COUNTERS.get(approx)
    if counter is None:
        counter = _COUNTERS[approx] = StepCounter()
    return counter


def pymc_loop(thread: int) -> FrameType | None:
    """The frame of PyMC's own training loop that a thread is running, or None.

    PyMC tells a callback neither how many steps were asked for nor that a fit has ended. Both can
    be read from the loop's frame: its local ``n``, and that there is a frame at all.

    Parameters
    ----------
    thread : int
        A thread's identifier, as from ``threading.get_ident``.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code not in PYMC_LOOPS:
        frame = frame.f_back
    return frame
