"""An earlier run, to be drawn softly behind the one that goes on: sent to the page once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vitoolkit.trace import Trace
from vitoolkit.views.frame import Header, Lines, frame_of
from vitoolkit.views.names import plain

__all__ = ["Earlier", "earlier_run", "left_behind"]

#: Points a line.
POINTS = 300


class Earlier(NamedTuple):
    """An earlier run, and what it is called.

    Attributes
    ----------
    trace : Trace
    title : str
    """

    trace: Trace
    title: str

    def packed(self, variables: Sequence[str], controls: Sequence[str]) -> tuple[Header, bytes]:
        """Return what a page draws of it: of the variables and controls that both runs have.

        Parameters
        ----------
        variables, controls : sequence of str
            Of the live run.

        Returns
        -------
        tuple of dict and bytes
            As :meth:`Frame.packed`, with a title and with the names of variables and controls as
            people read them.
        """
        trace = self.trace
        kept = [name for name in variables if name in trace.variables]
        drawn = [name for name in controls if name in trace.controls]
        frame = frame_of(
            trace.view(POINTS), kept, drawn, end=float(trace[-1:].step[0]), lines=Lines(kept)
        )
        header, arrays = frame._replace(marks=()).packed()
        names = {"variables": [*map(plain, kept)], "controls": [*map(plain, drawn)]}
        return {**header, "title": self.title, **names}, arrays


def earlier_run(compare: Trace | str | Path | None) -> Earlier | None:
    """Take an earlier run as it is given: a trace, or a file of one.

    Parameters
    ----------
    compare : Trace, str, Path or None

    Returns
    -------
    Earlier or None

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it has no rows, or the file is not that of a trace.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> trace = Trace()
    >>> trace.append(0, 0.1, 9.0, float("nan"))
    >>> earlier_run(trace).title
    'earlier run, 1 step'
    """
    if compare is None:
        return None
    name = "earlier run"
    if isinstance(compare, (str, Path)):
        name, compare = Path(compare).name, Trace.open(compare)
    elif not isinstance(compare, Trace):
        raise TypeError(f"compare is a Trace or the path of one; received {compare!r}")
    trace = compare[:]
    if not len(trace):
        raise ValueError(f"compare is a run with rows to compare with; received {compare!r}")
    steps = int(trace[-1:].step[0]) + 1
    return Earlier(trace, f"{name}, {steps:,} step{'s' * (steps != 1)}")


def left_behind(trace: Trace) -> Earlier | None:
    """The last steps that a run has left behind when it went back, None without any.

    Examples
    --------
    >>> trace = Trace()
    >>> for step in (0, 1, 2):
    ...     trace.append(step, 0.1, 9.0, float("nan"))
    >>> branch = trace.go_back(1, 0)
    >>> left_behind(trace).title
    'left behind at step 3, back to 1'
    """
    for branch in reversed(trace.branches):
        rows = branch.rows
        if isinstance(rows, Trace) and len(rows):
            last = int(rows[-1:].step[0]) + 1
            return Earlier(rows, f"left behind at step {last:,}, back to {branch.step:,}")
    return None
