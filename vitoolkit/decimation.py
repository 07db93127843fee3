"""Decimated views of a trace: small, and cheap to bring up to date, however long it is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit.trace import Columns, Trace

__all__ = ["View"]

CHUNK = (
    1 << 14
)  # rows taken in at a time, so that catching up with a long trace needs little memory


class View:
    """A trace in at most so many points a column, with nothing that stood out left out.

    The rows are put into buckets of `width` rows, one point each. When there would be more buckets
    than `points`, each two neighbors become one and the width doubles. A view is therefore brought
    up to date at the cost of the new rows and of its points, and not of the rows that it has seen.

    Parameters
    ----------
    trace : Trace
        What to look at. It may grow.
    points : int, default 500
        Upper bound of the number of buckets, at least 2. An odd number is taken as one less.
    parts : bool, default False
        Whether to look at the parts of the KL contributions as well, of which there may be many.

    Attributes
    ----------
    step : ndarray of int64, shape (buckets,)
        Step of the last row of each bucket.
    time : ndarray of float64, shape (buckets,)
        Time of the last row of each bucket, seconds since the trace began.
    low, high : Columns
        Smallest and largest finite value in each bucket, by the names in ``trace.columns``: loss,
        data, elbo, ``kl[variable]`` of each variable, ``kl[variable, dim=label]`` of each part if
        they were asked for, each control. NaN where none was finite, which a plot shows as a gap.
    mean : Columns
        Mean of the finite values in each bucket, NaN where there were none.
    last : Columns
        The value in the last row of each bucket, finite or not.
    nonfinite : Columns
        How many values of each bucket were NaN or infinite.
    rows : int
        Rows of the trace taken in so far.
    width : int
        Rows a bucket; the last bucket may hold fewer.
    changed : int
        The first bucket that the last `update` changed or added: those before it are as they
        were, so a plot that has them needs the others only. 0 after the width doubled, and
        the number of buckets if nothing was new.

    Raises
    ------
    TypeError
        If `points` is not an integer.
    ValueError
        If `points` is less than 2.

    Notes
    -----
    The arrays are new at every `update`: those handed out before stay as they were. One thread
    at a time may use a view, while another one writes the trace.

    Examples
    --------
    >>> trace = Trace(controls=("beta",))
    >>> view = trace.view(points=4)
    >>> for step in range(8):
    ...     trace.append(step, 0.1 * step, (-2.0) ** step, 0.0, (), [1.0])
    >>> view.update().width
    2
    >>> view.step.tolist()
    [1, 3, 5, 7]
    >>> view.low["loss"].tolist(), view.high["loss"].tolist()
    ([-2.0, -8.0, -32.0, -128.0], [1.0, 4.0, 16.0, 64.0])
    >>> view.mean["loss"].tolist()
    [-0.5, -2.0, -8.0, -32.0]
    """

    step: NDArray[np.int64]
    time: NDArray[np.float64]
    low: Columns
    high: Columns
    mean: Columns
    last: Columns
    nonfinite: Columns

    def __init__(self, trace: Trace, *, points: int = 500, parts: bool = False):
        if not isinstance(points, (int, np.integer)):
            raise TypeError(f"points is an integer; received {points!r}")
        if points < 2:
            raise ValueError(f"points is at least 2; received {points}")
        self.trace = trace
        self.points = int(points) - int(points) % 2
        self.rows = 0
        self.width = 1
        self.parts = bool(parts)
        columns = trace.columns if parts else trace._layout.columns
        self._index = {name: i for i, name in enumerate(columns)}
        shape = (self.points, len(columns))
        # A bucket starts as the identity of what is done to it, so every merge is the same.
        self._low = np.full(shape, np.inf)
        self._high = np.full(shape, -np.inf)
        self._sum = np.zeros(shape)
        self._finite = np.zeros(shape, dtype=np.int64)
        self._last = np.full(shape, np.nan)
        self._step = np.zeros(self.points, dtype=np.int64)
        self._time = np.zeros(self.points)
        self.update()

    def __len__(self) -> int:
        """Return the number of buckets in use."""
        return -(-self.rows // self.width)

    def __repr__(self) -> str:
        return f"View({len(self)} points of {self.rows:,} rows, {self.width:,} rows a point)"

    def update(self) -> "View":
        """Take in the rows that came since the last update.

        Returns
        -------
        View
            This view.
        """
        new = self.trace[self.rows :]
        self.changed = self.rows // self.width if len(new) else len(self)
        while self.rows + len(new) > self.points * self.width:
            self._halve()
            self.changed = 0
        for start in range(0, len(new), CHUNK):
            self._take(new[start : start + CHUNK])
        self._publish()
        return self

    def _halve(self) -> None:
        half = self.points // 2
        for store, join, empty in (
            (self._low, np.minimum, np.inf),
            (self._high, np.maximum, -np.inf),
            (self._sum, np.add, 0.0),
            (self._finite, np.add, 0),
        ):
            store[:half] = join(store[0::2], store[1::2])
            store[half:] = empty
        for lasts in (self._last, self._step, self._time):
            lasts[:half] = lasts[1::2]  # of half a pair too: the next row goes there
        self.width *= 2

    def _take(self, rows: Trace) -> None:
        start, stop = self.rows, self.rows + len(rows)
        first, end = start // self.width, -(-stop // self.width)
        edges = np.arange(first, end) * self.width - start
        begins = np.maximum(edges, 0)
        ends = np.minimum(edges + self.width, len(rows)) - 1
        buckets = slice(first, end)
        values = rows.values(parts=self.parts)
        self._last[buckets] = values[ends]
        self._step[buckets] = rows.step[ends]
        self._time[buckets] = rows.time[ends]
        finite = np.isfinite(values)
        low = high = values
        if not finite.all():
            low = np.where(finite, values, np.inf)
            high = np.where(finite, values, -np.inf)
            values = np.where(finite, values, 0.0)
        self._low[buckets] = np.minimum(self._low[buckets], np.minimum.reduceat(low, begins))
        self._high[buckets] = np.maximum(self._high[buckets], np.maximum.reduceat(high, begins))
        with np.errstate(over="ignore"):
            self._sum[buckets] += np.add.reduceat(values, begins)
        self._finite[buckets] += np.add.reduceat(finite, begins, dtype=np.int64)
        self.rows = stop

    def _publish(self) -> None:
        used = len(self)
        finite = self._finite[:used]
        some = finite > 0
        low = np.where(some, self._low[:used], np.nan)
        high = np.where(some, self._high[:used], np.nan)
        # Rounding, or a sum too large for a float, must not put the mean outside of its band.
        mean = np.clip(self._sum[:used] / np.maximum(finite, 1), low, high)
        rows = np.diff(np.minimum(np.arange(used + 1) * self.width, self.rows))
        self.step = self._step[:used].copy()
        self.time = self._time[:used].copy()
        self.low = Columns(self._index, low.T)
        self.high = Columns(self._index, high.T)
        self.mean = Columns(self._index, mean.T)
        self.last = Columns(self._index, self._last[:used].T.copy())
        self.nonfinite = Columns(self._index, (rows[:, None] - finite).T)

    def running(self, rows: int = 100) -> Columns:
        """Compute the running mean: at each point, of the rows up to it.

        Parameters
        ----------
        rows : int, default 100
            The number of rows that a mean spans, rounded up to whole buckets; fewer at the
            beginning of the trace.

        Returns
        -------
        Columns
            Mean of the finite values among these rows, by the names in ``trace.columns``, NaN
            where there were none.

        Raises
        ------
        ValueError
            If `rows` is less than 1.

        Examples
        --------
        >>> trace = Trace()
        >>> for step, loss in enumerate([4.0, 2.0, 0.0, 4.0]):
        ...     trace.append(step, 0.1 * step, loss, float("nan"))
        >>> trace.view().running(2)["loss"].tolist()
        [4.0, 3.0, 1.0, 2.0]
        """
        if rows < 1:
            raise ValueError(f"rows is at least 1; received {rows}")
        buckets = -(-rows // self.width)
        used = slice(len(self))
        total = _window_sum(self._sum[used], buckets)
        count = _window_sum(self._finite[used], buckets)
        with np.errstate(invalid="ignore"):
            return Columns(self._index, (total / count).T)


def _window_sum(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Sum the last `size` values at each place, along the first axis.

    Windows of 1, 2, 4, ... values are put together to one of `size`. Differences of a running sum
    would be shorter, but one huge value spoils all that come after it.
    """
    total = np.zeros_like(values)
    reached, power = 0, 1
    window = values.copy()
    while reached < min(size, len(values)):
        if size & power:
            total[reached:] += window[: len(values) - reached]
            reached += power
        if power < len(values):
            window[power:] = window[power:] + window[:-power]
        power *= 2
    return total
