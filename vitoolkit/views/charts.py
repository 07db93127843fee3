"""The charts of a fit: the one list that panel, report and picture draw from.

A chart of recorded columns over steps is one entry of :data:`CHARTS`. Of kind "lines" it draws the
running means of measures, of kind "band" the mean of one column in the band of its values; neither
needs a word anywhere else. Another kind has a function in ``document.py`` and one in
``page/charts.js``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from vitoolkit.views.names import plain
from vitoolkit.views.styles import INK, variable_styles

__all__ = [
    "CHARTS",
    "COMPARED",
    "FIT",
    "Chart",
    "Fit",
    "Line",
    "bands_of",
    "measures_of",
    "penalties_of",
    "shown",
]

#: Most penalties that are drawn.
MOST_PENALTIES = 12


class Line(NamedTuple):
    """One line of a chart of measures.

    Attributes
    ----------
    column : str
        Name of the measure in a trace.
    label : str
        What it is called at its axis.
    right : bool
        Whether its axis is the right one.
    dash : tuple of int
        Lengths of dashes and gaps, pixels.
    color : str
        That of a variable, or of text.
    """

    column: str
    label: str
    right: bool = False
    dash: tuple[int, ...] = ()
    color: str = INK


class Chart(NamedTuple):
    """What a chart is called, what it reads and how it is drawn.

    Attributes
    ----------
    name, title : str
        In the code, and on the page.
    kind : {"band", "lines", "kl", "list", "posterior", "controls", "plane", "predictive"}
        Which function draws it.
    reads : tuple of str
        The columns of a trace that it draws; ``"kl"``, ``"control"`` and ``"penalty"`` stand for
        all of these, ``"q"`` for snapshots of the approximation and ``"predictive"`` for a sketch
        of what it implies for the data, which are beside the trace. A chart is there when one of
        its columns is recorded.
    lines : tuple of Line
        Of the kind "lines"; those of the penalties, in the colors of their variables, are put in by
        :func:`shown`.
    scale : {"linear", "log"}
        Of the y axes of the kind "lines".
    beside : str
        Name of the chart whose right neighbor it is, "" for one that begins a row.
    """

    name: str
    title: str
    kind: str
    reads: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    scale: str = "linear"
    beside: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it draws."""
        return self.reads + tuple(line.column for line in self.lines)


#: In their order on the page.
CHARTS = (
    Chart("loss", "Loss", "band", ("loss",)),
    Chart("elbo", "ELBO at β = 1, nats", "band", ("elbo",), beside="loss"),
    Chart("kl", "KL by variable, nats", "kl", ("kl",)),
    Chart("list", "KL now", "list", ("kl",), beside="kl"),
    Chart("penalty", "Penalty in the loss in place of the KL, nats", "lines", ("penalty",)),
    Chart("posterior", "Posterior: median, 68 %", "posterior", ("q",)),
    Chart("coordinates", "Prior and posterior now", "list", ("q",), beside="posterior"),
    Chart("predictive", "Posterior predictive, share by bin", "predictive", ("predictive",)),
    Chart("control", "Controls", "controls", ("control",)),
    Chart("plane", "Rate and distortion, nats", "plane", ("kl",), beside="control"),
    Chart(
        "gradient",
        "Gradient",
        "lines",
        lines=(
            Line("gradient_norm", "norm"),
            Line("gradient_snr", "signal / noise", right=True, dash=(7, 3)),
        ),
        scale="log",
    ),
)
#: The charts of a comparison of runs.
COMPARED = (
    Chart("elbo", "ELBO at β = 1, nats", "runs", ("elbo",)),
    Chart("kl", "Sum of the KLs, nats", "runs", ("rate",)),
    Chart("plane", "Rate and distortion, nats", "runs_plane", ("rate", "distortion")),
)


class Fit(NamedTuple):
    """How a y axis fits its numbers; the page and the picture do the same.

    Attributes
    ----------
    late : float
        Share of the steps that it fits: the fall from the starting point would flatten the rest.
    low, high : float
        Quantiles of a band that it shows at least; the mean is shown whole.
    """

    late: float = 0.8
    low: float = 0.01
    high: float = 0.98


FIT = Fit()


def shown(
    variables: Collection[str],
    controls: Collection[str],
    measures: Iterable[str],
    notes: Mapping[str, str],
) -> tuple[Chart, ...]:
    """Choose the charts that have something to show.

    Parameters
    ----------
    variables, controls, measures : collection of str
        What is recorded.
    notes : mapping of str to str
        By name of a column, or "kl": words in place of what this fit does not have.

    Returns
    -------
    tuple of Chart

    Examples
    --------
    >>> [chart.name for chart in shown([], ["beta"], ["gradient_norm"], {})]
    ['loss', 'control', 'gradient']
    """
    recorded = {"loss", *measures}
    recorded |= {"kl", "elbo", "data"} if variables else set()
    recorded |= {"control"} if controls else set()
    penalties = _penalty_lines(tuple(variables), penalties_of(measures))
    recorded |= {"penalty"} if penalties else set()
    recorded -= set(notes)
    return tuple(
        chart._replace(lines=penalties) if "penalty" in chart.reads else chart
        for chart in CHARTS
        if recorded & set(chart.columns)
    )


def bands_of(variables: Collection[str], measures: Collection[str]) -> tuple[str, ...]:
    """Return the columns that are drawn as a mean in its band, of those that are recorded."""
    there = shown(variables, (), measures, {})
    return tuple(chart.columns[0] for chart in there if chart.kind == "band")


def measures_of(measures: Collection[str]) -> tuple[str, ...]:
    """Return the measures that are drawn as lines, of those that are recorded."""
    columns = [line.column for chart in CHARTS for line in chart.lines]
    known = tuple(name for name in dict.fromkeys(columns) if name in measures)
    return known + penalties_of(measures)


def penalties_of(measures: Iterable[str]) -> tuple[str, ...]:
    """Return the penalties that are drawn, of the measures that are recorded."""
    return tuple(name for name in measures if name.startswith("penalty["))[:MOST_PENALTIES]


def _penalty_lines(variables: tuple[str, ...], penalties: Iterable[str]) -> tuple[Line, ...]:
    styles = variable_styles(variables)
    names = [(column, column[len("penalty[") : -1]) for column in penalties]
    return tuple(
        Line(column, plain(name), dash=styles[name].dash, color=styles[name].color)
        for column, name in names
        if name in styles
    )
