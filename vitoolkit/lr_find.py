"""A learning rate from a sweep that leaves no trail."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.checks import real_number, shown, whole_number
from vitoolkit.controls import Control, LearningRate
from vitoolkit.inference import KLqp
from vitoolkit.run import Run
from vitoolkit.steps import counter_of
from vitoolkit.trial import without_trail

if TYPE_CHECKING:
    from bokeh.plotting import figure

__all__ = ["LRFind", "lr_find"]

#: The sweep ends where the smoothed loss has risen by so many times its fall, or is not finite.
DIVERGED = 1.0


@dataclass(frozen=True)
class LRFind:
    """What a sweep of the learning rate has seen.

    Attributes
    ----------
    learning_rate : ndarray, shape (steps,)
        Of each step.
    loss : ndarray, shape (steps,)
        Of each step, nats divided by c.
    smoothed : ndarray, shape (steps,)
        Its centered mean.
    valley, steepest, minimum_tenth : float
        Three readings: a third of the way down the longest fall; where it falls fastest; a tenth
        of where the loss is smallest.
    diverged : bool
        Whether the sweep was ended because the loss rose, or was not finite.

    Examples
    --------
    >>> import numpy as np
    >>> rate = np.geomspace(1e-3, 1.0, 4)
    >>> LRFind(rate, np.ones(4), np.ones(4), 0.02, 0.01, 0.1, False)
    <LRFind: suggestion 0.1 (minimum / 10; valley 0.02, steepest 0.01), 4 steps>
    """

    learning_rate: NDArray[np.float64]
    loss: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    valley: float
    steepest: float
    minimum_tenth: float
    diverged: bool

    @property
    def suggestion(self) -> float:
        """A tenth of where the loss is smallest: of the three, what trained best under Adam."""
        return self.minimum_tenth

    def plot(self) -> figure:
        """Draw the loss against the learning rate, with the three readings.

        Returns
        -------
        bokeh.plotting.figure
        """
        from bokeh.models import Range1d, VSpan
        from bokeh.plotting import figure

        low, high = np.quantile(self.smoothed, [0.0, 0.9])
        room = high - low
        chart = figure(
            x_axis_type="log", width=600, height=300, tools="pan,wheel_zoom,reset,save",
            x_axis_label="learning rate", y_axis_label="loss",
            y_range=Range1d(low - 0.1 * room, high + 0.3 * room),
            title=f"Suggestion: {self.suggestion:.2g}",
        )  # fmt: skip
        chart.line(self.learning_rate, self.loss, line_alpha=0.25, line_color="#0072B2")
        chart.line(self.learning_rate, self.smoothed, line_width=2, line_color="#0072B2")
        read = {"solid": self.minimum_tenth, "dashed": self.valley, "dotted": self.steepest}
        for dash, rate in read.items():
            chart.add_glyph(VSpan(x=rate, line_dash=dash))
        return chart

    def __repr__(self) -> str:
        return (
            f"<LRFind: suggestion {self.suggestion:.2g} (minimum / 10; valley {self.valley:.2g}, "
            f"steepest {self.steepest:.2g}), "
            f"{len(self.loss):,} steps{', diverged' if self.diverged else ''}>"
        )

    def _repr_html_(self) -> str:
        from bokeh.embed import file_html
        from bokeh.resources import INLINE

        page = file_html(self.plot(), INLINE, "learning rate")
        return (
            f'<iframe srcdoc="{html.escape(page)}" width="640" height="330" '
            'style="border:0" title="loss against learning rate"></iframe>'
        )


def lr_find(
    inference: KLqp,
    learning_rate: Control | None = None,
    *,
    optimizer: Any = pm.adam,
    low: float | None = None,
    high: float | None = None,
    steps: int = 400,
) -> LRFind:
    """Sweep the learning rate from low to high, and leave everything as it was.

    Parameters
    ----------
    inference : KLqp
        The inference, before or after its first fit.
    learning_rate : Control, optional
        The one of its optimizer. Default is the only :class:`~vitoolkit.LearningRate` of its last
        fit; for an inference that was not compiled yet, one is made.
    optimizer : callable, default pm.adam
        What an inference is compiled with that was not yet, as ``optimizer(learning_rate=...)``.
    low, high : float, optional
        Ends of the sweep; default are the bounds of the control, at least 1e-5 and at most 1.
    steps : int, default 400
        Steps of the sweep, exponential in the rate.

    Returns
    -------
    LRFind

    Raises
    ------
    TypeError, ValueError
        When the inference was compiled without a learning rate that is a control, or with several;
        when the ends are not an increasing pair within its bounds.
    RuntimeError
        While the inference is in a running fit.

    Notes
    -----
    Parameters, the optimizer's state, random generators, the clock, ``hist`` and the control are
    put back (see :func:`vitoolkit.trial.without_trail`), so that the next steps are the very ones
    that would have been taken. Only :attr:`LearningRate.suggestion` is new: a panel's row of the
    learning rate offers it. The loss is read where it starts from: an inference that has
    converged has nothing to fall, and suggests nothing.

    References
    ----------
    Smith (2017), "Cyclical Learning Rates for Training Neural Networks", WACV, section 3.3.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, 0.1, observed=[2.0, 2.1])
    ...     inference = vt.ADVI(random_seed=1)
    ...     found = vt.lr_find(inference)
    >>> 0.001 < found.suggestion < 1, inference.steps_taken
    (True, 0)
    """
    if not isinstance(inference, KLqp):
        raise TypeError(f"an inference of vitoolkit is swept, received {shown(inference)}")
    steps = whole_number("steps", steps, least=40)
    if inference.state is None:
        learning_rate = LearningRate(1e-2) if learning_rate is None else learning_rate
        inference.fit(
            0,
            obj_optimizer=optimizer(learning_rate=learning_rate),
            callbacks=[learning_rate],
            progressbar=False,
        )
    control = _rate_of(inference, learning_rate)
    low_, high_ = _ends(control, low, high)
    swept = _Sweep(steps)
    with without_trail(inference):
        first = counter_of(inference.approx).step + 1
        factor = (high_ / low_) ** (1 / (steps - 1))
        control.schedule = lambda step: min(low_ * factor ** (step - first), high_)
        control.release(source="lr_find")  # whoever holds it, or is about to
        try:
            inference.refine(steps, progressbar=False, callbacks=[swept])
        except FloatingPointError:
            swept.diverged = True
    rates = low_ * factor ** np.arange(len(swept.losses))
    found = _read(rates, np.array(swept.losses), swept.diverged)
    if isinstance(control, LearningRate):
        control.suggestion = min(max(found.suggestion, control.bounds[0]), control.bounds[1])
    return found


class _Sweep(Callback):
    """Keeps the losses, and ends the sweep where they rise."""

    shows_progress = True

    def __init__(self, steps: int) -> None:
        self.losses: list[float] = []
        self.diverged = False
        self.every = self._window = max(steps // 20, 10)

    def on_block(self, run: Run, block: Block) -> None:
        self.losses.extend(block.loss.tolist())
        if run.step % self._window or len(self.losses) < 3 * self._window:
            return
        losses = np.array(self.losses)
        if not np.isfinite(losses).all():
            self.diverged = True
        else:
            start, last = np.median(losses[: self._window]), np.median(losses[-self._window :])
            noise = np.median(np.abs(np.diff(losses)))
            fall = max(start - _smooth(losses).min(), 3 * noise)
            self.diverged = bool(last > start + DIVERGED * fall)
        if self.diverged:
            raise StopIteration("sweep")


def _rate_of(inference: KLqp, given: Control | None) -> Control:
    assert inference.state is not None
    there = inference.state.step.controls
    if given is not None:
        if given not in there:
            raise ValueError(
                f"{given!r} is not part of the last fit's step: name its own, and among its "
                "callbacks, as in callbacks=[learning_rate] or Recorder(learning_rate)"
            )
        return given
    found = [control for control in there if isinstance(control, LearningRate)]
    if len(found) != 1:
        names = ", ".join(repr(control.name) for control in found) or "none"
        raise ValueError(
            "the last fit must have one learning rate that is a control and named among its "
            f"callbacks, as in callbacks=[learning_rate] or Recorder(learning_rate); it has {names}"
        )
    return found[0]


def _ends(control: Control, low: float | None, high: float | None) -> tuple[float, float]:
    least, most = control.bounds
    low = max(least, 1e-5) if low is None else real_number("low", low, above=0)
    high = min(most, 1.0) if high is None else real_number("high", high, above=0)
    if not least <= low < high <= most:
        raise ValueError(
            f"low and high must be an increasing pair within the bounds of {control.name!r}, "
            f"[{least:g}, {most:g}], received {low:g} and {high:g}"
        )
    return low, high


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centered median over a tenth of the sweep, which spikes do not move, and its mean."""
    half = max(len(losses) // 20, 2)

    def over(values: NDArray[np.float64], middle: Callable, half: int) -> NDArray[np.float64]:
        windows = sliding_window_view(np.pad(values, half, mode="reflect"), 2 * half + 1)
        return middle(windows, axis=1)

    return over(over(losses, np.median, half), np.mean, max(half // 2, 1))


def _read(rates: NDArray[np.float64], losses: NDArray[np.float64], diverged: bool) -> LRFind:
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    smooth = _smooth(losses)
    start, end = _longest_fall(smooth)
    third = (end - start) / 3
    valley = rates[min(start + int(third + third / 2), len(rates) - 1)]
    slope = np.gradient(smooth, np.log(rates))
    edge = max(len(rates) // 20, 2)
    steepest = rates[edge + int(np.argmin(slope[edge:-edge]))]
    minimum = rates[int(np.argmin(smooth))]
    return LRFind(
        rates, losses, smooth, float(valley), float(steepest), float(minimum / 10), diverged
    )


def _longest_fall(values: NDArray[np.float64]) -> tuple[int, int]:
    """First and last index of the longest subsequence in which each value is below the last."""
    n = len(values)
    length, before = np.ones(n, int), np.full(n, -1)
    for i in range(1, n):
        higher = np.flatnonzero(values[:i] > values[i])
        if len(higher):
            best = higher[np.argmax(length[higher])]
            length[i], before[i] = length[best] + 1, best
    end = start = int(np.argmax(length))
    while before[start] >= 0:
        start = int(before[start])
    return start, end
