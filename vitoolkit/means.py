"""Where a record ended, in numbers: the one mean that all that is shown of a fit tells."""

import operator

import numpy as np
from numpy.typing import NDArray

from vitoolkit.parts import PartArrays
from vitoolkit.table import Table

__all__ = ["ACTIVE", "TAIL", "active_units", "final", "final_kl", "part_means"]

ROWS = 2**14  # that are read at a time
TAIL = 100  # rows that a final mean is taken over
ACTIVE = 0.01  # nats from which on a coordinate counts as active


def final(table: Table, name: str) -> float:
    """Take the mean of a column over the last rows: see `Trace.final`."""
    last = table[-TAIL:].column(name)
    finite = last[np.isfinite(last)]
    stop = len(table)
    while not finite.size and stop:  # from the end back, some at a time
        start = max(stop - ROWS, 0)
        column, stop = table[start:stop].column(name), start
        finite = column[np.isfinite(column)][-1:]
    with np.errstate(over="ignore"):
        return float(finite.mean()) if finite.size else float("nan")


def final_kl(table: Table) -> NDArray[np.float64]:
    """Where the KL contribution of each variable ended, shape (variables,), nats."""
    return np.array([final(table, f"kl[{name}]") for name in table.variables], dtype=float)


def active_units(
    table: Table, threshold: float = ACTIVE, *, rows: int = TAIL, per: float = 1.0
) -> dict[str, int]:
    """Count the coordinates that pay for being used: see `Trace.active_units`."""
    if operator.index(rows) < 1:
        raise ValueError(f"rows is at least 1; received {rows}")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold is a number of nats; received {threshold}")
    if not 0 < per < np.inf:
        raise ValueError(f"per is a positive number; received {per}")
    means = part_means(table, rows)
    return {name: int((mean / per > threshold).sum()) for name, mean in means.items()}


def part_means(table: Table, rows: int = TAIL) -> dict[str, NDArray[np.float64]]:
    """Mean of the finite values in the last rows, in the shape of each part; NaN without."""
    kl_by = table[-rows:].kl_by
    finite = np.isfinite(kl_by.array)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.where(finite, kl_by.array, 0.0).sum(axis=0)
        means = PartArrays(kl_by._parts, (total / finite.sum(axis=0))[None])
    return {name: mean[0] for name, mean in means.items()}
