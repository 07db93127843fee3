"""One plain sentence at the end of a fit: done, or what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitoolkit.table import Table
from vitoolkit.trend import ERRORS, Trend, steps_to_go, trend_of

__all__ = ["Verdict", "at_rest_since", "verdict_of"]

#: Steps without which nothing is said of the trend.
LEAST_STEPS = 1_000
#: Rows at the end that are looked at, at most: a panel looks every two seconds.
MOST_ROWS = 200_000
#: A level that wanders so many times more than independent steps is the learning rate's doing.
WANDER = 3.0
_STILL = {
    "finished": "Finished and still",
    "stopped": "Stopped, and still",
    "interrupted": "Interrupted, and still",
}


@dataclass(frozen=True)
class Verdict:
    """What a record says of its fit.

    Attributes
    ----------
    text : str
        The sentence.
    kind : {"still", "moving", "rising", "falling", "noisy", "unsure", "short", "failed", "empty"}
        What the objective does at the end; "moving" where it stands still and q does not.
    ok : bool
        Whether nothing is missing: it stands still, at β = 1, and every row was finite.
    rise : float
        Of the objective, nats per 1,000 steps; NaN where there are too few.
    error : float
        Its standard error.
    more : int or None
        A guess of the steps that are missing; None without one.
    """

    text: str
    kind: str
    ok: bool
    rise: float = float("nan")
    error: float = float("nan")
    more: int | None = None

    def __str__(self) -> str:
        return self.text


def verdict_of(
    table: Table, attrs: Mapping[str, Any] | None = None, *, near: bool = False
) -> Verdict:
    """Say whether a fit is done, from its record alone.

    Parameters
    ----------
    table : Table
        The record, such as a :class:`~vitoolkit.Trace`.
    attrs : mapping, optional
        Attributes of the run; default is those of the record.
    near : bool
        Judge by the rows that are in memory, where others are in a file: for one who asks often.

    Returns
    -------
    Verdict

    Notes
    -----
    It speaks of the ELBO at β = 1, or where no terms are recorded of minus the loss, in the last
    half of the steps or since a β moved last, whichever is shorter. By the slope and its standard
    error, see :func:`vitoolkit.trend.trend_of`, it rises, falls, stands still, or the noise leaves
    it open. To stand still means that a rise of a quarter of a single step's noise over these steps
    is ruled out, or one of 0.03 nats, if that is more, and that no coordinate of q moves beyond
    doubt by more than a quarter of its sd: the attribute "moves" of a record names the one that
    does. With minibatches a single step's noise can be hundreds of nats, under which a mean may
    walk. To stand still does not mean that q is near the posterior.

    Examples
    --------
    >>> import numpy as np
    >>> from vitoolkit.trace import Trace
    >>> trace = Trace()
    >>> for step, noise in enumerate(np.random.default_rng(1).normal(size=4_000)):
    ...     trace.append(step, 0.1 * step, 200.0 - 0.01 * step + noise, np.nan, ())
    >>> print(verdict_of(trace))
    Not finished: the loss still falls by 10 nats per 1,000 steps.
    """
    attrs = getattr(table, "attrs", {}) if attrs is None else attrs
    rows = len(table)
    if not rows:
        return Verdict("No step was recorded.", "empty", False)
    status = attrs.get("status")
    if status == "failed":
        why = str(attrs.get("error", "an error")).partition("\n")[0]
        at = int(table[-1:].step[0])
        return Verdict(f"Failed after step {at:,}: {why}", "failed", False)
    what = _Objective(table, table.near if near else 0)
    head = _STILL.get(str(status), "Still")
    remarks = [*_weights(table, attrs), *_held(table, attrs), *_not_finite(table)]
    said, kind, trend, more = what.said()
    moves = attrs.get("moves")
    if kind == "still" and moves:
        kind = "moving"
        said = (
            f"Not finished: {said}, but {moves['name']} still moves, by {abs(moves['rise']):.2g} ± "
            f"{moves['error']:.1g} sd of q in {moves['steps']:,} steps"
        )
    said = f"{head}: {said}" if kind == "still" else said
    per = 1_000 / what.steps if trend is not None else float("nan")
    return Verdict(
        " ".join([f"{said}.", *(f"{remark}." for remark in remarks)]),
        kind,
        kind == "still" and not remarks,
        trend.rise * per if trend is not None else float("nan"),
        trend.error * per if trend is not None else float("nan"),
        more,
    )


class _Objective:
    """What is judged: a column, its sign, and the steps since anything but it moved."""

    def __init__(self, table: Table, near: int = 0) -> None:
        rows = len(table)
        self._near = near
        self.elbo = table.has_terms and bool(np.isfinite(table[-1000:].column("elbo")).any())
        self._table, self._column = table, "elbo" if self.elbo else "loss"
        self._sign = 1.0 if self.elbo else -1.0
        self._still_since = near + at_rest_since(table[near:] if near else table)
        self.first = max(rows // 2, self._still_since, rows - MOST_ROWS)
        step = table[self.first :].step
        self.steps = int(step[-1] - step[0] + 1)

    def _trend(self, start: int, stop: int) -> Trend | None:
        return trend_of(self._sign * self._table[start:stop].column(self._column))

    def said(self) -> tuple[str, str, Trend | None, int | None]:
        """The sentence, what kind it is, the trend, and a guess of the steps to go."""
        rows, name = len(self._table), "ELBO" if self.elbo else "loss"
        trend = self._trend(self.first, rows)
        if trend is None or self.steps < LEAST_STEPS:
            count, since = self.steps, " since β moved last"
            if self._still_since <= rows // 2:
                count = int(self._table[-1:].step[0] - self._table[:1].step[0]) + 1
                since = ""
            steps = "1 step" if count == 1 else f"{count:,} steps"
            return f"Too short to tell: {steps}{since}", "short", None, None
        rises, falls = ("rises", "falls") if self.elbo else ("falls", "rises")
        pace = f"{abs(trend.rise) * 1_000 / self.steps:.3g} nats per 1,000 steps"
        if trend.still:
            bound = max(trend.rise + ERRORS * trend.error, 0.0)
            said = f"the {name} {rises} by less than {bound:.2g} nats in {self.steps:,} steps"
            return said, "still", trend, None
        if trend.falls:
            said = f"Getting worse: the {name} {falls} by {pace}; a smaller learning rate may help"
            return said, "falling", trend, None
        if trend.rises:
            middle = max((self._still_since + rows) // 2, rows - MOST_ROWS)
            quarter = max((self._still_since + middle) // 2, middle - MOST_ROWS, self._near)
            before, after = self._trend(quarter, middle), self._trend(middle, rows)
            more = steps_to_go(before, after, self.steps) if before and after else None
            about = "" if more is None else f", for about {_rounded(more):,} more steps"
            return f"Not finished: the {name} still {rises} by {pace}{about}", "rising", trend, more
        if trend.wander > WANDER:
            said = (
                f"The learning rate is the noise: the {name} neither {rises} nor stands still, its "
                f"level wanders by ±{ERRORS * trend.error:.2g} nats; a smaller learning rate would "
                "settle it"
            )
            return said, "noisy", trend, None
        more = int(self.steps * (((ERRORS * trend.error) / trend.tolerance) ** 2 - 1))
        more = max(more, self.steps // 2) if trend.tolerance else self.steps
        said = (
            f"Cannot be told yet: over {self.steps:,} steps the {name} {rises} by "
            f"{trend.rise:.2g} ± {trend.error:.2g} nats, which may be noise; about "
            f"{_rounded(2 * more):,} more steps would tell"
        )
        return said, "unsure", trend, 2 * more


def at_rest_since(table: Table) -> int:
    """The first row since which all controls that move the optimum have held their values.

    A learning rate and the number of draws a step do not move it.

    Parameters
    ----------
    table : Table
        The record; of a long one, its last 400,000 rows are looked at.
    """
    kinds = getattr(table, "attrs", {}).get("controls", {})
    names = [n for n in table.controls if kinds.get(n) not in ("LearningRate", "Draws")]
    first = max(len(table) - 2 * MOST_ROWS, 0)
    late, start = table[first:], first
    ends = late.control_ends()  # of rows in a file they are known
    for name in (name for name in names if ends[name][0] != ends[name][1]):
        values = late.column(name)
        moved = np.flatnonzero((values[1:] != values[:-1]) & ~np.isnan(values[1:]))
        if len(moved):
            start = max(start, first + int(moved[-1]) + 1)
    return start


def _weights(table: Table, attrs: Mapping[str, Any]) -> list[str]:
    """Say which β is not 1 at the end."""
    kinds = attrs.get("controls", {})
    last = {name: float(table[-1:].column(name)[0]) for name in table.controls}
    ended = {n: v for n, v in last.items() if kinds.get(n) == "Beta" and v != 1.0 and v == v}
    verb = "ended" if "status" in attrs else "is"
    return [
        f"{name} {verb} at {value:.4g}, so this is the optimum of a weighted loss and not the "
        "posterior's approximation"
        for name, value in ended.items()
    ]


def _held(table: Table, attrs: Mapping[str, Any]) -> list[str]:
    """Say what had a penalty, and what was frozen at the end."""
    verb = "ended" if "status" in attrs else "is"
    penalized = [name[8:-1] for name in table.measures if name.startswith("penalty[")]
    frozen = [
        name[7:-1]
        for name in table.controls
        if name.startswith("frozen[") and float(table[-1:].column(name)[0]) == 1
    ]
    return [
        *(
            f"{name} has a penalty in the place of its KL, so this is the optimum of another loss "
            "and not the posterior's approximation"
            for name in penalized
        ),
        *(f"{name} {verb} frozen, and all else is given where it was held" for name in frozen),
    ]


def _not_finite(table: Table) -> list[str]:
    rows, (bad, _) = len(table), table.not_finite()
    if bad == rows:  # of particles there is none
        return ["No finite loss was recorded"]
    return [f"The loss of {bad:,} of {rows:,} rows was not finite"] if bad else []


def _rounded(steps: int) -> int:
    """Two digits: it is a guess."""
    scale = 10 ** max(len(str(steps)) - 2, 0)
    return max(round(steps / scale) * scale, 1)
