"""Decimated views of a trace: small, and cheap to bring up to date, however long it is."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit.table import Columns, Table

__all__ = ["View"]

#: Rows taken in at a time, so that catching up with a long trace needs little memory.
CHUNK = 1 << 14
WHAT = ("low", "high", "mean", "last", "nonfinite")


class View:
    """A trace in at most so many points a column, with nothing that stood out left out.

    The rows are put into buckets of `width` rows, one point each. When there would be more buckets
    than `points`, each two neighbors become one and the width doubles. A view is therefore brought
    up to date at the cost of the new rows and of its points, and not of the rows that it has seen.

    Parameters
    ----------
    trace : Table
        What to look at, a `Trace` as a rule. It may grow; after a `cut` the view begins anew.
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
    >>> from vitoolkit.trace import Trace
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

    def __init__(self, trace: Table, *, points: int = 500, parts: bool = False):
        if not isinstance(points, (int, np.integer)):
            raise TypeError(f"points is an integer; received {points!r}")
        if points < 2:
            raise ValueError(f"points is at least 2; received {points}")
        self.trace = trace
        self.points = int(points) - int(points) % 2
        self.parts = bool(parts)
        columns = trace.columns
        if not parts:
            left_out = {name for part in trace.parts.values() for name in part.columns}
            columns = tuple(name for name in columns if name not in left_out)
        self._index = {name: i for i, name in enumerate(columns)}
        self._begin(trace)
        self.update()

    def _begin(self, trace: Table) -> None:
        self.rows = 0
        self.width = 1
        self._branches = trace.branches
        shape = (self.points, len(self._index))
        # A bucket starts as the identity of what is done to it, so every merge is the same.
        self._low = np.full(shape, np.inf)
        self._high = np.full(shape, -np.inf)
        self._sum = np.zeros(shape)
        self._finite = np.zeros(shape, dtype=np.int64)
        self._last = np.full(shape, np.nan)
        self._step = np.zeros(self.points, dtype=np.int64)
        self._time = np.zeros(self.points)

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
        if new.branches is not self._branches:  # rows that were seen have been taken out
            whole = self.trace[:]
            self._go_back(whole)
            new = whole[self.rows :]
        while self.rows + len(new) > self.points * self.width:
            self._halve()
        for rows in new.blocks(CHUNK):
            self._take(rows.loaded())
        used = len(self)
        self.step, self.time = self._step[:used].copy(), self._time[:used].copy()
        for name in WHAT:
            self.__dict__.pop(name, None)
        return self

    def columns(self, what: str, names: Sequence[str]) -> NDArray[Any]:
        """Copy some columns only, at their cost and not at that of all.

        Parameters
        ----------
        what : {"low", "high", "mean", "last", "nonfinite"}
            Which attribute.
        names : sequence of str
            Of the columns, as in ``trace.columns``.

        Returns
        -------
        ndarray, shape (names, buckets)
            The same numbers as in the attribute.

        Raises
        ------
        KeyError, ValueError
            If there is no such column, or no such attribute.

        Examples
        --------
        >>> from vitoolkit.trace import Trace
        >>> trace = Trace(controls=("beta",))
        >>> trace.append(0, 0.1, 7.0, 0.0, (), [0.5])
        >>> trace.view().columns("last", ["beta", "loss"]).tolist()
        [[0.5], [7.0]]
        """
        if what not in WHAT:
            raise ValueError(f"what is one of {', '.join(map(repr, WHAT))}; received {what!r}")
        return self._columns(what, [self._index[name] for name in names])

    @functools.cached_property
    def low(self) -> Columns:
        """Smallest finite value in each bucket."""
        return Columns(self._index, self._columns("low", slice(None)))

    @functools.cached_property
    def high(self) -> Columns:
        """Largest finite value in each bucket."""
        return Columns(self._index, self._columns("high", slice(None)))

    @functools.cached_property
    def mean(self) -> Columns:
        """Mean of the finite values in each bucket."""
        return Columns(self._index, self._columns("mean", slice(None)))

    @functools.cached_property
    def last(self) -> Columns:
        """Value in the last row of each bucket."""
        return Columns(self._index, self._columns("last", slice(None)))

    @functools.cached_property
    def nonfinite(self) -> Columns:
        """Number of values in each bucket that are not finite."""
        return Columns(self._index, self._columns("nonfinite", slice(None)))

    def _columns(self, what: str, which: Any) -> NDArray[Any]:
        used = len(self)
        if what == "last":
            return self._last[:used, which].T.copy()
        finite = self._finite[:used, which]
        if what == "nonfinite":
            rows = np.diff(np.minimum(np.arange(used + 1) * self.width, self.rows))
            return (rows[:, None] - finite).T
        low, high = (
            np.where(finite > 0, ends[:used, which], np.nan) for ends in (self._low, self._high)
        )
        if what in ("low", "high"):
            return (low if what == "low" else high).T
        # Rounding, or a sum too large for a float, must not put the mean outside of its band.
        return np.clip(self._sum[:used, which] / np.maximum(finite, 1), low, high).T

    def _halve(self) -> None:
        half = self.points // 2
        joins = (np.minimum, np.maximum, np.add, np.add)
        for (store, empty), join in zip(self._stores(), joins, strict=True):
            store[:half] = join(store[0::2], store[1::2])
            store[half:] = empty
        for lasts in (self._last, self._step, self._time):
            lasts[:half] = lasts[1::2]  # of half a pair too: the next row goes there
        self.width *= 2

    def _go_back(self, trace: Table) -> None:
        """Forget the rows that were taken out, and as few others as can be: they may be far."""
        seen, told = len(self._branches), trace.branches
        step = min((branch.step for branch in told[seen:]), default=0)
        kept = min(trace.rows_before(step), self.rows)
        goes_on = all(a is b for a, b in zip(self._branches, told, strict=False))
        if not goes_on or len(told) <= seen or 2 * kept <= self.points * self.width:
            self._begin(trace)  # fewer rows make smaller buckets
            return
        whole = kept // self.width
        self.rows, self._branches = whole * self.width, told
        for store, empty in self._stores():
            store[whole:] = empty

    def _stores(self) -> list[tuple[NDArray[Any], float]]:
        """What is kept of the buckets, and what stands in an empty one."""
        return [
            (self._low, np.inf),
            (self._high, -np.inf),
            (self._sum, 0.0),
            (self._finite, 0),
        ]

    def _take(self, rows: Table) -> None:
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
        if not (all_finite := bool(finite.all())):
            low = np.where(finite, values, np.inf)
            high = np.where(finite, values, -np.inf)
            values = np.where(finite, values, 0.0)
        self._low[buckets] = np.minimum(self._low[buckets], np.minimum.reduceat(low, begins))
        self._high[buckets] = np.maximum(self._high[buckets], np.maximum.reduceat(high, begins))
        with np.errstate(over="ignore"):
            self._sum[buckets] += np.add.reduceat(values, begins)
        if all_finite:
            self._finite[buckets] += (ends - begins + 1)[:, None]
        else:
            self._finite[buckets] += np.add.reduceat(finite, begins, dtype=np.int64)
        self.rows = stop

    def around(self, what: str, rows: float, names: Sequence[str]) -> NDArray[np.float64]:
        """Join the rows around each point, as many before as after it.

        At the beginning there are fewer before a point, so that fewer after it count; at the end
        there are none after it, and only those before count.

        Parameters
        ----------
        what : {"low", "high", "mean"}
            Smallest, largest or mean finite value.
        rows : float
            The number of rows, rounded to an odd number of buckets; see :meth:`window`.
        names : sequence of str
            The columns.

        Returns
        -------
        ndarray, shape (names, buckets)
            NaN where no row has a finite value. The mean lies between the smallest and the largest
            value up to rounding.

        Raises
        ------
        ValueError
            If `rows` is less than 1, or `what` is something else.

        Examples
        --------
        >>> from vitoolkit.trace import Trace
        >>> trace = Trace()
        >>> for step, loss in enumerate([9.0, 4.0, 2.0, 0.0, 4.0]):
        ...     trace.append(step, 0.1 * step, loss, float("nan"))
        >>> trace.view().around("mean", 3, ["loss"]).tolist()
        [[9.0, 5.0, 2.0, 2.0, 2.0]]
        """
        half, used = self._half(rows), len(self)
        which = [self._index[name] for name in names]
        if what != "mean":
            if what not in ("low", "high"):
                raise ValueError(f"what is 'low', 'high' or 'mean'; received {what!r}")
            store, join = (self._low, np.minimum) if what == "low" else (self._high, np.maximum)
            ends = _around(store[:used, which], half, join, np.inf if what == "low" else -np.inf)
            return np.where(np.isfinite(ends), ends, np.nan).T
        finite = self._finite[:used, which]
        if (finite == finite[:, :1]).all():  # the rule: one count serves all columns
            finite = finite[:, :1]
        total = _around(self._sum[:used, which], half, np.add, 0.0)
        with np.errstate(invalid="ignore"):
            return (total / _around(finite, half, np.add, 0)).T

    def window(self, rows: float) -> int:
        """Tell how many rows :meth:`around` joins where there are as many on both sides.

        Parameters
        ----------
        rows : float
            As for :meth:`around`.

        Returns
        -------
        int
            An odd number of buckets, in rows.
        """
        return (2 * self._half(rows) + 1) * self.width

    def _half(self, rows: float) -> int:
        """Count the buckets on either side of a point."""
        if rows < 1:
            raise ValueError(f"rows is at least 1; received {rows}")
        return max(0, round((rows / self.width - 1) / 2))

    def now(self, rows: float, names: Sequence[str]) -> NDArray[np.float64]:
        """Compute the mean around the last point, of the rows before it.

        Parameters
        ----------
        rows : float
            As for :meth:`around`.
        names : sequence of str
            The columns.

        Returns
        -------
        ndarray, shape (names,)
            ``around("mean", rows, names)[:, -1]`` up to rounding; NaN without any row.

        Examples
        --------
        >>> from vitoolkit.trace import Trace
        >>> trace = Trace()
        >>> for step, loss in enumerate([4.0, 2.0, 0.0, 4.0]):
        ...     trace.append(step, 0.1 * step, loss, float("nan"))
        >>> trace.view().now(3, ["loss"]).tolist()
        [2.0]
        """
        used = len(self)
        window = slice(max(used - 1 - self._half(rows), 0), used)
        which = [self._index[name] for name in names]
        with np.errstate(invalid="ignore", over="ignore"):
            return self._sum[window, which].sum(axis=0) / self._finite[window, which].sum(axis=0)


def _around(values: NDArray[Any], half: int, join: np.ufunc, empty: float) -> NDArray[Any]:
    """Join the values within `half` of each place, along the first axis.

    Windows of 1, 2, 4, ... values are put together to one of ``2 * half + 1`` that ends at each
    place. Differences of a running sum would be shorter, but one huge value spoils all that come
    after it.
    """
    n = len(values)
    half = min(half, max(n - 1, 0))
    size = 2 * half + 1
    window = np.concatenate([values, np.full((half, *values.shape[1:]), empty, values.dtype)])
    begin = join.accumulate(window[:size])[::2]  # as many before as after, from the first on
    total = np.full_like(window, empty)
    reached, power = 0, 1
    while True:
        if size & power:
            total[reached:] = join(total[reached:], window[: len(window) - reached])
            reached += power
        if reached >= size:
            break
        if power < len(window):
            window[power:] = join(window[power:], window[:-power])
        power *= 2
    total = total[half:]
    total[: half + 1] = begin[:n]
    return total
