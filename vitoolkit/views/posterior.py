"""What a page is told of q: the prior once, where each coordinate stands as it moves.

A model may have two thousand coordinates. They are sent in turn, some in each frame, and the path
over the steps is that of the few which a person picks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitoolkit.snapshots import Snapshots
from vitoolkit.views.frame import Header
from vitoolkit.views.names import plain
from vitoolkit.views.styles import DASHES, Style, variable_styles

__all__ = ["Posterior", "posterior_of"]

#: Coordinates a frame, half of them beside averages, points a path, and paths: 14 kB at most.
AT_ONCE, POINTS, PATHS = 500, 100, 4
#: Variables of which a path is shown before anybody has picked one.
FIRST = 3


class Posterior:
    """Packs snapshots of q for the page.

    Parameters
    ----------
    snapshots : Snapshots
        What is followed; it may grow.
    styles : mapping of str to Style
        By variable.

    Attributes
    ----------
    picked : tuple of int
        Indices of the coordinates whose path is sent.
    seen : bool
        Whether a page shows it.
    """

    def __init__(self, snapshots: Snapshots, styles: Mapping[str, Style]) -> None:
        self.snapshots, self._styles = snapshots, styles
        self.seen = True
        variable = snapshots.coordinates.variable
        self.picked = tuple(variable.index(name) for name in list(dict.fromkeys(variable))[:FIRST])
        self._from = 0
        self._told: dict[int, int] = {}
        self._sent: Any = None

    def pick(self, picked: Sequence[Any]) -> None:
        """Take over which coordinates a person wants a path of."""
        count = len(self.snapshots.coordinates)
        chosen = [int(i) for i in picked if 0 <= int(i) < count]
        self.picked, self._sent = tuple(chosen[-PATHS:]), None

    def legend(self) -> Header:
        """Tell the page what there is: names, colors, the prior, and in words what is not there."""
        told, prior = self.snapshots.coordinates, self.snapshots.prior()
        seen: dict[str, int] = {}
        lines = []
        for name, variable in zip(told.names, told.variable, strict=True):
            style = self._styles[variable]
            if variable in seen:  # of one variable: one color, other dashes
                style = style._replace(dash=DASHES[seen[variable] % len(DASHES)])
            seen[variable] = seen.get(variable, 0) + 1
            lines.append([plain(name), *style])
        words = f"gray: the prior, {self.snapshots.draws} draws" if prior is not None else ""
        return {
            "lines": lines,
            "variables": len(seen),
            "prior": None if prior is None else [_short(ends) for ends in prior],
            "unconstrained": np.flatnonzero(~told.constrained).tolist(),
            "averages": self.snapshots.averages,
            "words": words or self.snapshots.without_prior,
            "notes": list(told.notes),
            "most": PATHS,
        }

    def add_to(self, header: Header, *, whole: bool = False) -> bytes:
        """Add to a frame what is new; the header tells how to read it.

        Parameters
        ----------
        header : dict
            Of the frame, with its list of arrays.
        whole : bool
            Everything there is, for a page that has nothing yet.

        Returns
        -------
        bytes
            Comes after the arrays of the frame; empty when nothing is new.
        """
        snapshots, count = self.snapshots, len(self.snapshots.coordinates)
        last = snapshots.last
        if last is None or not count:
            return b""
        averages = snapshots.averages
        start = 0 if whole or self._from >= count else self._from
        stop = count if whole else min(start + AT_ONCE // (1 + averages), count)
        paths = whole or self._sent != (last, self.picked)
        if not paths and self._told.get(start) == last:
            return b""
        here = slice(start, stop)
        arrays = {"q_now": snapshots.now(here), "q_moved": snapshots.moved()[here]}
        if averages:
            arrays["q_averaged"] = snapshots.now(here, averaged=True)
        if paths:
            step, ends = snapshots.path(self.picked, points=POINTS)
            arrays |= {"q_step": step, "q_ends": ends.reshape(-1, len(step))}
            if averages:
                _, ends = snapshots.path(self.picked, points=POINTS, averaged=True)
                arrays["q_middles"] = ends[1]
        header["q"] = {"from": start, "count": count, "picked": self.picked, "paths": paths}
        header["arrays"] = header["arrays"] + [
            [name, list(values.shape)] for name, values in arrays.items()
        ]
        if not whole:
            self._from, self._told[start], self._sent = stop, last, (last, self.picked)
        with np.errstate(over="ignore"):
            flat = [np.asarray(values, np.float32).ravel() for values in arrays.values()]
        return np.concatenate(flat).tobytes()


def posterior_of(snapshots: Snapshots | None, styles: Mapping[str, Style]) -> Posterior | None:
    """Pack snapshots of something; the lines of variables are those of the other charts."""
    if snapshots is None or not len(snapshots.coordinates):
        return None
    return Posterior(snapshots, {**variable_styles(snapshots.variables), **styles})


def _short(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]
