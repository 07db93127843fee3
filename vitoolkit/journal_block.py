"""Rows of a trace as the bytes of a block of a journal, and back, to the last bit.

Column after column: the 8-byte numbers of its rows, or, where one bit pattern follows another at a
constant pace (steps; a control at rest), the first one and the pace. Then a byte a column, 1 for
the second kind, with zeros up to a multiple of 8, and how many columns there are, in 4 bytes. All
is little-endian. A block of version 1 has no such end, so that its length is a multiple of 8: its
columns are all of the first kind.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed", "unpacked"]

_COUNT = struct.Struct("<I")
_PACED = struct.Struct("<qq")
_TILE = 2048  # rows that are transposed at once: they stay in the cache meanwhile


def packed(rows: NDArray[np.float64]) -> bytes:
    """Rows, at least one, as bytes."""
    count, width = rows.shape
    columns = np.empty((width, count), "<i8")
    for start in range(0, count, _TILE):
        columns[:, start : start + _TILE] = rows[start : start + _TILE].view(np.int64).T
    parts = [_paced(column) for column in columns]
    kinds = bytes(part is not None for part in parts).ljust(_whole(width), b"\0")
    numbers = [
        column.data if part is None else part for part, column in zip(parts, columns, strict=True)
    ]
    return b"".join([*numbers, kinds, _COUNT.pack(width)])


def _paced(column: NDArray[np.int64]) -> bytes | None:
    """First one and pace of a column that has one pace, else None."""
    count = len(column)
    if count < 3:
        return None
    first, second, last = (int(column[i]) for i in (0, 1, -1))
    pace = second - first
    # The ends alone tell that of numbers that are measured.
    if last - first != pace * (count - 1) or (np.diff(column) != pace).any():
        return None
    return _PACED.pack(first, pace)


def unpacked(data: bytes, count: int) -> NDArray[np.float64] | None:
    """So many rows from bytes; None when these cannot be of so many."""
    if count < 1 or len(data) < 8:
        return None
    if len(data) % 8:
        (width,) = _COUNT.unpack_from(data, len(data) - _COUNT.size)
        end = len(data) - _COUNT.size - _whole(width)
        kinds = data[max(end, 0) :][:width]
    else:
        end, kinds = len(data), bytes(len(data) // (8 * count))
    if not kinds or end != sum(_PACED.size if kind else 8 * count for kind in kinds):
        return None
    rows = np.empty((count, len(kinds)))
    at, bits = 0, rows.view(np.int64)
    for column, kind in enumerate(kinds):
        if kind:
            first, pace = _PACED.unpack_from(data, at)
            bits[:, column] = first + pace * np.arange(count)
            at += _PACED.size
        else:
            bits[:, column] = np.frombuffer(data, "<i8", count, at)
            at += 8 * count
    return rows


def _whole(width: int) -> int:
    """Bytes that the kinds of so many columns take."""
    return -(-width // 8) * 8
