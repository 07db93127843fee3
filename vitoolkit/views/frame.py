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
from vitoolkit.views.marks import Mark, Marks

__all__ = ["Frame", "Header", "Lines", "frame_of", "mean_now", "points_for"]

#: Most bytes of arrays in a frame; the words of its marks come on top.
BUDGET = 48_000
#: With more variables than this, only the largest have a line, and those that a person picks.
MOST_LINES, LARGEST = 24, 12

Array: TypeAlias = NDArray[Any]
#: What goes to a page beside the numbers, as JSON.
Header: TypeAlias = dict[str, Any]


class Frame(NamedTuple):
    """What the figure draws.

    Attributes
    ----------
    step : ndarray, shape (points,)
    low, high, mean : ndarray, shape (bands, points)
        Smallest and largest value of each point, and the running mean, of the columns that are
        drawn as a band.
    rate, distortion : ndarray, shape (points,)
        Running means of the sum of the KL contributions and of the negative data term, nats.
    kl : ndarray, shape (lines, points)
        Running means of the KL contributions that have a line.
    now : ndarray, shape (variables,)
        The last running mean of each KL contribution.
    control : ndarray, shape (controls, points)
    measure : ndarray, shape (measures, points)
        Running means of the measures that are drawn as lines.
    ahead : ndarray, shape (points of the future,)
        Steps to come.
    future : ndarray, shape (schedules, points of the future)
    lines, planned : tuple of int
        Index of the variable of each line, and of the control of each future.
    bands, measures : tuple of str
        Names of the columns in a band, and of the measures.
    marks : list of Mark
    end, edge : float
        Last step that is planned, right end of the step axis.
    """

    step: Array
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
    marks: Sequence[Mark] = ()
    end: float = 1.0
    edge: float = 1.0

    def band(self, column: str) -> tuple[Array, Array, Array]:
        """Return low, high and mean of a column that is drawn as a band."""
        i = self.bands.index(column)
        return self.low[i], self.high[i], self.mean[i]

    @property
    def elbo(self) -> Array:
        """Running mean of the ELBO at β = 1, nats; without terms there is none."""
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


def points_for(variables: int, controls: int = 0) -> int:
    """Points a line so that a frame of so many variables and controls stays within the budget."""
    everything = [column for chart in charts.CHARTS for column in chart.columns]
    bands, measures = bands_of(("z",), everything), measures_of(everything)
    own = 3 + 3 * len(bands) + len(measures)  # step, rate and distortion are the other three
    lines = own + controls + min(variables, MOST_LINES)
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
    lines: Lines | None = None,
    ahead: Ahead | None = None,
    marks: Marks | None = None,
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
    lines : Lines, optional
        Chooses the variables that have a line; default is all.
    ahead : Ahead, optional
        The future of the controls.
    marks : Marks, optional
        Those of the frame before, so that only new events are read.

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
    low, high = view.columns("low", bands), view.columns("high", bands)
    means: dict[str, Array] = {}
    rate = distortion = now = nothing
    kl = np.empty((0, n))
    chosen: tuple[int, ...] = ()
    if variables:
        names = [f"kl[{name}]" for name in variables]
        span = _span(view, "elbo")
        now = view.now(span, names)
        chosen = tuple(range(len(names))) if lines is None else lines.choose(now)
        terms = view.running(span, ["elbo", "data", *(names[i] for i in chosen)]).array
        bridged = _bridged(view.step, terms, _few(view, "elbo", span))
        means["elbo"], distortion, kl = bridged[0], -bridged[1], bridged[2:]
        with np.errstate(invalid="ignore"):
            rate = -distortion - means["elbo"]
        now = np.where(np.isfinite(now), now, _last_of(kl, chosen, len(names)))
    mean = np.array([means[name] if name in means else _mean_of(view, name) for name in bands])
    measures = measures_of(trace.measures)
    measure = np.array([_mean_of(view, name) for name in measures]).reshape(len(measures), n)
    step, future = nothing, np.empty((0, 0))
    planned: tuple[int, ...] = ()
    if ahead is not None and n:
        ahead.look(last, edge, end)
        step, future, planned = ahead.step, ahead.values, tuple(ahead.which)
    return Frame(
        view.step, low, high, mean, rate, distortion, kl, now,
        view.columns("last", controls), measure, step, future,
        lines=chosen, planned=planned, bands=bands, measures=measures,
        marks=(marks or Marks()).of(trace.events, reach=max(edge, 1.0)), end=float(end), edge=edge,
    )  # fmt: skip


def _mean_of(view: View, name: str) -> Array:
    """Running mean of a column; through gaps, but for the loss, which every step has."""
    span = _span(view, name)
    mean = view.running(span, [name]).array
    return (mean if name == "loss" else _bridged(view.step, mean, _few(view, name, span)))[0]


def mean_now(view: View, name: str) -> float:
    """Last value of a column's running mean; of when it last had values, if none is late."""
    if not len(view):
        return math.nan
    span = _span(view, name)
    mean = view.now(span, [name])[0]
    if math.isnan(mean):
        means = _bridged(view.step, view.running(span, [name]).array, _few(view, name, span))
        mean = means[0, -1]
    return float(mean)


def _last_of(kl: Array, chosen: Sequence[int], count: int) -> Array:
    """Last values of the lines: where nothing was evaluated of late, the last that was."""
    last = np.full(count, np.nan)
    if kl.shape[1]:
        last[list(chosen)] = kl[:, -1]
    return last


def _span(view: View, name: str) -> int:
    """Rows of a running mean: 8 points of the view, and 20 rows that have a value, at least."""
    without = int(view.columns("nonfinite", [name]).sum())
    share = max(1 - without / max(view.rows, 1), 1e-3)
    return math.ceil(max(20 / share, 8 * view.width))


def _few(view: View, name: str, span: int) -> NDArray[np.bool_]:
    """Tell where a running mean is of less than half the rows that it should have."""
    n, width = len(view.step), view.width
    rows = np.diff(np.minimum(np.arange(n + 1) * width, view.rows))
    total = np.concatenate([[0], np.cumsum(rows - view.columns("nonfinite", [name])[0])])
    window = min(-(-span // width), n)
    count = total[1:] - total[np.maximum(np.arange(1, n + 1) - window, 0)]
    return (count < 10) & (total[1:] >= 10)


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
