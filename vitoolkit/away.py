"""Rows of a table that are in a file: read when they are asked for, and not kept.

A table takes such rows among its chunks in the place of an array.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Away", "Filed", "Load", "RowsGone", "Told"]

HEAD = 2  # rows of a file that stay in memory, of those that are filed together
#: Reads the rows from a step to another one, both among them, as ``Table.kept`` gives them.
Load = Callable[[int, int], NDArray[np.float64] | None]


class RowsGone(OSError):
    """Rows of a trace are not where they were put. The message names the file and says what to do.

    Raised by whoever asks for these rows; the others can be read all the same.
    """


class Told(NamedTuple):
    """What is known of many rows without reading them.

    Attributes
    ----------
    odd, nan : int
        How many have a loss that is not finite, and how many one that is NaN.
    first : int or None
        Step of the first one whose loss is not finite.
    low, high : ndarray, shape (controls,)
        Smallest and largest value of each control; NaN where one is NaN.
    """

    odd: int
    nan: int
    first: int | None
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Filed:
    """Neighboring rows that a file has.

    Parameters
    ----------
    first, last : int
        Step of the first and of the last row.
    rows : int
        How many there are.
    width : int
        Numbers of a row.
    load : callable
        Reads them, from step `first` to step `last`.
    told : Told, optional
        What is known of them.
    """

    def __init__(
        self, first: int, last: int, rows: int, width: int, load: Load, told: Told | None = None
    ) -> None:
        self.first, self.last, self.rows, self.width = first, last, rows, width
        self.load, self.told = load, told
        #: The first rows, which are asked for more often than others.
        self.head: NDArray[np.float64] | None = None

    def keep_head(self, rows: NDArray[np.float64]) -> None:
        """Keep the first ones of these rows in memory."""
        self.head = np.array(rows[:HEAD])
        self.head.flags.writeable = False

    @property
    def every_step(self) -> bool:
        """Whether there is a row of each step, so that its place tells the step."""
        return self.last - self.first == self.rows - 1

    def array(self) -> NDArray[np.float64]:
        """The rows, not to be written to.

        Raises
        ------
        RowsGone
            When the file has them no more.
        """
        rows = _last_read.get(self)
        if rows is not None:
            return rows
        rows = self.load(self.first, self.last)
        found = 0 if rows is None else len(rows)
        if rows is None or rows.shape != (self.rows, self.width):
            raise RowsGone(
                f"{self.load} has {found:,} of the {self.rows:,} rows of steps {self.first:,} to "
                f"{self.last:,}: they were taken out by somebody else. Later rows are in memory: "
                "trace[-100:]"
            )
        rows.flags.writeable = False
        _last_read.clear()
        _last_read[self] = rows
        if self.head is None:
            self.keep_head(rows)
        return rows


#: What was read last: neighbors are often read one after another.
_last_read: weakref.WeakKeyDictionary[Filed, NDArray[np.float64]] = weakref.WeakKeyDictionary()


class Away:
    """Some of the rows that are filed together, with the length and the slices of an array of them.

    Parameters
    ----------
    filed : Filed
        All of them.
    where : range, optional
        Which; by default all.

    Examples
    --------
    >>> import numpy as np
    >>> steps = np.arange(10.0)[:, None].astype(int).view(float)
    >>> away = Away(Filed(0, 9, 10, 1, lambda first, last: steps[first : last + 1]))
    >>> len(away[2::3]), away[2::3].array().view(int).ravel().tolist(), away[2:].before(5)
    (3, [2, 5, 8], 3)
    """

    __slots__ = ("filed", "where")

    def __init__(self, filed: Filed, where: range | None = None) -> None:
        self.filed = filed
        self.where = range(filed.rows) if where is None else where

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, rows: slice) -> Away:
        return Away(self.filed, self.where[rows])

    def array(self) -> NDArray[np.float64]:
        """Read them; the array is not to be written to."""
        where, head = self.where, self.filed.head
        rows = head if head is not None and where.stop <= len(head) else self.filed.array()
        return rows[where.start : where.stop : where.step]

    @property
    def told(self) -> Told | None:
        """What is known of them; None where they have to be read for it."""
        return self.filed.told if self.where == range(self.filed.rows) else None

    @property
    def last_step(self) -> int | None:
        """Step of the last one; None where they have to be read for it."""
        filed, at = self.filed, self.where[-1]
        if at == filed.rows - 1:
            return filed.last
        return filed.first + at if filed.every_step else None

    def before(self, step: int) -> int:
        """How many of them are of an earlier step; most often nothing is read for it."""
        filed, where = self.filed, self.where
        if filed.last < step:
            return len(where)
        if filed.first >= step:
            return 0
        if filed.every_step:
            return len(range(where.start, min(where.stop, step - filed.first), where.step))
        return int(np.searchsorted(self.array().view(np.int64)[:, 0], step))
