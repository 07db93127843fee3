"""One picture of a fit, small enough to be sent several times a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitoolkit.decimation import View
from vitoolkit.views import charts
from vitoolkit.views.ahead import Ahead, edge_of
from vitoolkit.views.charts import bands_of, measures_of
from vitoolkit.views.clock import Clock
from vitoolkit.views.marks import Mark, Marks

__all__ = ["Frame", "Header", "Lines", "frame_of", "mean_now", "points_for"]

#: Most bytes of arrays in a frame; the words of its marks come on top.
BUDGET = 48_000
#: With more variables than this, only the largest have a line, and those that a person picks.
MOST_LINES, LARGEST = 24, 12
#: What a mean is of unless a person says: a share of the rows, and so many with a value at least.
SMOOTH, LEAST = 0.02, 40

Array: TypeAlias = NDArray[Any]
#: What goes to a page beside the numbers, as JSON.
Header: TypeAlias = dict[str, Any]


class Frame(NamedTuple):
    """What the figure draws.

    Attributes
    ----------
    step : ndarray, shape (points,)
    seconds : ndarray, shape (points,)
        Seconds since the first step, without those in which the fit was paused.
    low, high, mean : ndarray, shape (bands, points)
        Smallest, largest and mean value of the rows around each point, of the columns that are
        drawn as a band: the mean is of the very rows whose ends it stands between.
    rate, distortion : ndarray, shape (points,)
        Such means of the sum of the KL contributions and of the negative data term, nats.
    kl : ndarray, shape (lines, points)
        Such means of the KL contributions that have a line.
    now : ndarray, shape (variables,)
        The last mean of each KL contribution.
    control : ndarray, shape (controls, points)
    measure : ndarray, shape (measures, points)
        Such means of the measures that are drawn as lines.
    ahead : ndarray, shape (points of the future,)
        Steps to come.
    future : ndarray, shape (schedules, points of the future)
    lines, planned : tuple of int
        Index of the variable of each line, and of the control of each future.
    bands, measures : tuple of str
        Names of the columns in a band, and of the measures.
    windows : tuple of int
        Steps that a mean of each band is of.
    marks : list of Mark
    end, edge : float
        Last step that is planned, right end of the step axis.
    """

    step: Array
    seconds: Array
    low: Array
    high: Array
    mean: Array
    rate: Array
    distortion: Array
    kl: Array
    now: Array
    control: Array
    measure: Array
    ahead: Array
    future: Array
    lines: tuple[int, ...] = ()
    planned: tuple[int, ...] = ()
    bands: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()
    marks: Sequence[Mark] = ()
    end: float = 1.0
    edge: float = 1.0

    def band(self, column: str) -> tuple[Array, Array, Array]:
        """Return low, high and mean of a column that is drawn as a band."""
        i = self.bands.index(column)
        return self.low[i], self.high[i], self.mean[i]

    @property
    def elbo(self) -> Array:
        """Mean of the ELBO at β = 1, nats; without terms there is none."""
        return self.band("elbo")[2] if "elbo" in self.bands else np.empty(0)

    def packed(self) -> tuple[Header, bytes]:
        """Return a header with names and shapes, and all arrays as float32 in one piece."""
        fields = self._asdict()
        arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
        header = {name: value for name, value in fields.items() if name not in arrays}
        header["arrays"] = [[name, list(value.shape)] for name, value in arrays.items()]
        with np.errstate(over="ignore"):
            flat = [np.asarray(value, np.float32).ravel() for value in arrays.values()]
        return header, np.concatenate(flat).tobytes()


def points_for(variables: int, others: int = 0) -> int:
    """Points a line, of so many variables and other lines, for a frame within the budget.

    The other lines are those of controls and penalties.
    """
    everything = [column for chart in charts.CHARTS for column in chart.columns]
    bands, measures = bands_of(("z",), everything), measures_of(everything)
    own = 4 + 3 * len(bands) + len(measures)  # step, seconds, rate and distortion are the four
    lines = own + others + min(variables, MOST_LINES)
    return int(min(500, max(20, (BUDGET // 4 - variables - 900) // lines))) // 2 * 2


class Lines:
    """Which variables have a line: all, or of many the largest and those that a person picked.

    Parameters
    ----------
    variables : sequence of str
    """

    def __init__(self, variables: Sequence[str]) -> None:
        self._index = {name: i for i, name in enumerate(variables)}
        self._largest: list[int] = []
        self.picked: tuple[str, ...] = ()

    def choose(self, now: Array) -> tuple[int, ...]:
        """Choose by the KL contributions of now, without going back and forth.

        Parameters
        ----------
        now : ndarray, shape (variables,)

        Returns
        -------
        tuple of int
            Indices of variables, in their order.
        """
        count = len(self._index)
        if count <= MOST_LINES:
            return tuple(range(count))
        order = np.argsort(-np.nan_to_num(now), kind="stable")
        near = set(order[: LARGEST * 3 // 2].tolist())
        kept = [i for i in self._largest if i in near]
        fresh = [i for i in order.tolist() if i not in kept]
        self._largest = (kept + fresh)[:LARGEST]
        picked = [self._index[name] for name in self.picked if name in self._index]
        more = [i for i in picked if i not in self._largest][-(MOST_LINES - LARGEST) :]
        return tuple(sorted([*self._largest, *more]))


def frame_of(
    view: View,
    variables: Sequence[str],
    controls: Sequence[str] | None = None,
    *,
    end: float,
    smooth: float = SMOOTH,
    lines: Lines | None = None,
    ahead: Ahead | None = None,
    marks: Marks | None = None,
    clock: Clock | None = None,
) -> Frame:
    """Draw a frame from a trace's decimated view.

    Parameters
    ----------
    view : vitoolkit.decimation.View
        The view; it is brought up to date here.
    variables : sequence of str
        The variables to show.
    controls : sequence of str, optional
        The controls to show; default is all of the trace.
    end : float
        Last step that is planned.
    smooth : float
        What a mean is of: a share of the rows below 1, a number of rows from 1 on.
    lines : Lines, optional
        Chooses the variables that have a line; default is all.
    ahead : Ahead, optional
        The future of the controls.
    marks : Marks, optional
        Those of the frame before, so that only new events are read.
    clock : Clock, optional
        That of the frame before, likewise.

    Returns
    -------
    Frame
    """
    view.update()
    trace, n = view.trace, len(view.step)
    controls = trace.controls if controls is None else controls
    last = float(view.step[-1]) if n else 0.0
    edge = edge_of(last, end)
    nothing = np.empty(0)
    bands = bands_of(variables, trace.measures)
    means: dict[str, Array] = {}
    rate = distortion = now = nothing
    kl = np.empty((0, n))
    chosen: tuple[int, ...] = ()
    if variables:
        names = [f"kl[{name}]" for name in variables]
        rows = _rows(view, "elbo", smooth)
        now = view.now(rows, names)
        chosen = tuple(range(len(names))) if lines is None else lines.choose(now)
        terms = view.around("mean", rows, ["elbo", "data", *(names[i] for i in chosen)])
        bridged = _bridged(view.step, terms, _few(view, "elbo", rows))
        means["elbo"], distortion, kl = bridged[0], -bridged[1], bridged[2:]
        with np.errstate(invalid="ignore"):
            rate = -distortion - means["elbo"]
        now = np.where(np.isfinite(now), now, _last_of(kl, chosen, len(names)))
    low, high, mean = (np.empty((len(bands), n)) for _ in range(3))
    windows = []
    for i, name in enumerate(bands):
        rows = _rows(view, name, smooth)
        (low[i],), (high[i],) = (view.around(what, rows, [name]) for what in ("low", "high"))
        # Rounding, or a sum too large for a float, must not put the mean outside of its band.
        middle = means[name] if name in means else _mean_of(view, name, smooth)
        mean[i] = np.clip(middle, low[i], high[i])
        windows.append(_steps(view, rows))
    measures = measures_of(trace.measures)
    measure = np.array([_mean_of(view, name, smooth) for name in measures])
    measure = measure.reshape(len(measures), n)
    step, future = nothing, np.empty((0, 0))
    planned: tuple[int, ...] = ()
    if ahead is not None and n:
        ahead.look(last, edge, end)
        step, future, planned = ahead.step, ahead.values, tuple(ahead.which)
    return Frame(
        view.step, (clock or Clock()).seconds(view), low, high, mean, rate, distortion, kl, now,
        view.columns("last", controls), measure, step, future,
        lines=chosen, planned=planned, bands=bands, measures=measures, windows=tuple(windows),
        marks=(marks or Marks()).of(trace.events), end=float(end), edge=edge,
    )  # fmt: skip


def _mean_of(view: View, name: str, smooth: float) -> Array:
    """Mean of a column; through gaps, but for the loss, which every step has."""
    rows = _rows(view, name, smooth)
    mean = view.around("mean", rows, [name])
    return (mean if name == "loss" else _bridged(view.step, mean, _few(view, name, rows)))[0]


def mean_now(view: View, name: str) -> float:
    """Last value of a column's mean; of when it last had values, if none is late."""
    if not len(view):
        return math.nan
    rows = _rows(view, name, SMOOTH)
    mean = view.now(rows, [name])[0]
    if math.isnan(mean):
        means = _bridged(view.step, view.around("mean", rows, [name]), _few(view, name, rows))
        mean = means[0, -1]
    return float(mean)


def _last_of(kl: Array, chosen: Sequence[int], count: int) -> Array:
    """Last values of the lines: where nothing was evaluated of late, the last that was."""
    last = np.full(count, np.nan)
    if kl.shape[1]:
        last[list(chosen)] = kl[:, -1]
    return last


def _share(view: View, name: str) -> float:
    """Share of the rows that have a value."""
    without = int(view.columns("nonfinite", [name]).sum())
    return max(1 - without / max(view.rows, 1), 1e-3)


def _rows(view: View, name: str, smooth: float) -> float:
    """Rows that a mean is of; three points of the view, and some that have a value, at least."""
    share = _share(view, name)
    wish = max(smooth, LEAST / 4 / share) if smooth >= 1 else max(smooth * view.rows, LEAST / share)
    return max(wish, 3.0 * view.width)


def _steps(view: View, rows: float) -> int:
    """Count the steps of so many rows: not every step need be recorded."""
    window, step = view.window(rows), view.step
    apart = (step[-1] - step[0]) / max((len(step) - 1) * view.width, 1) if len(step) > 1 else 1
    return max(1, round(min(window, view.rows) * apart))


def _few(view: View, name: str, rows: float) -> NDArray[np.bool_]:
    """Tell where a mean is of less than half the values that it should have."""
    n, width = len(view.step), view.width
    held = np.diff(np.minimum(np.arange(n + 1) * width, view.rows))
    total = np.concatenate([[0], np.cumsum(held - view.columns("nonfinite", [name])[0])])
    half, place = view.window(rows) // width // 2, np.arange(n)
    before = np.minimum(half, place)
    end = np.minimum(place + before + 1, n)
    least = min(view.window(rows) * _share(view, name), LEAST) / 4  # at the end, half a window
    return (total[end] - total[place - before] < least) & (total[end] >= least)


def _bridged(step: Array, lines: Array, few: NDArray[np.bool_]) -> Array:
    """Draw lines through their gaps: most rows of a fit of PyMC's own have no terms."""
    known = np.isfinite(lines) & ~few
    if known.all():
        return lines
    bridged = lines.copy()
    for line, good in zip(bridged, known, strict=True):
        if good.any() and not good.all():
            line[:] = np.interp(step, step[good], line[good], left=np.nan)
    return bridged
