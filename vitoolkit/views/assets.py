"""What a page needs to draw the charts: code, styles, BokehJS, legends and the Bokeh document."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Collection, Mapping
from pathlib import Path

import bokeh

from vitoolkit.views import charts
from vitoolkit.views.charts import COMPARED, FIT, Chart, shown
from vitoolkit.views.document import document
from vitoolkit.views.frame import LARGEST, MOST_LINES, Header
from vitoolkit.views.names import plain
from vitoolkit.views.styles import Style

__all__ = [
    "CONTROL_CSS",
    "CSS",
    "TREE_CSS",
    "bokehjs",
    "comparison_legend",
    "document_of",
    "figure_legend",
    "page_code",
]

_HERE = Path(__file__).parent / "page"
CSS = (_HERE / "page.css").read_text("utf-8")
CONTROL_CSS = (_HERE / "control.css").read_text("utf-8")
TREE_CSS = (_HERE / "tree.css").read_text("utf-8")
#: The files of each page: later ones use what earlier ones define.
PAGES = {
    "download": ("text", "download"),
    "status": ("text", "keys", "tab", "place", "kernel", "status"),
    "tree": ("text", "tree"),
    "check": ("text", "check"),
    "diagnosis": ("text", "kernel", "kept", "diagnosis"),
    "control": ("text", "schedule", "control"),
    "switch": ("text", "switch"),
    "figure": (
        "text",
        "bokeh",
        "scales",
        "legends",
        "sheet",
        "reading",
        "posterior",
        "charts",
        "kept",
        "figure",
    ),
    "comparison": ("text", "bokeh", "scales", "legends", "sheet", "comparison"),
    "report": ("text", "scales", "legends", "sheet", "reading", "posterior", "charts", "report"),
}


def page_code(page: str) -> str:
    """Join the files of a page to one module."""
    return "\n".join(_HERE.joinpath(f"{name}.js").read_text("utf-8") for name in PAGES[page])


@functools.cache
def bokehjs() -> bytes:
    """BokehJS of the installed bokeh package, gzipped."""
    file = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return gzip.compress(file.read_bytes(), 6)


def figure_legend(
    variables: Mapping[str, Style],
    controls: Mapping[str, Style],
    scales: Mapping[str, str],
    notes: Mapping[str, str],
    measures: Collection[str],
    q: Header | None = None,
) -> Header:
    """Tell the page which charts there are, and what their lines are called and look like.

    What it is told of `q` is for the charts of snapshots, which "q" among the `measures` asks for.
    A line's first entry is what a person reads; its last one, of a variable, is the name proper.
    """
    there = {chart.name: chart for chart in shown(variables, controls, measures, notes)}
    return {
        "kl": [[plain(name), *style, name] for name, style in variables.items()],
        "control": [
            [plain(name), *style, scales.get(name, "linear")] for name, style in controls.items()
        ],
        "notes": dict(notes),
        "charts": [_told(there.get(chart.name, chart)) for chart in charts.CHARTS],
        "shown": list(there),
        "q": q,
        "fit": FIT._asdict(),
        "most": MOST_LINES,
        "largest": LARGEST,
    }


def comparison_legend() -> Header:
    """Tell the page which charts a comparison has."""
    return {"charts": [_told(chart) for chart in COMPARED], "fit": FIT._asdict()}


def _told(chart: Chart) -> Header:
    right = " (right axis)"
    lines = [
        {
            "column": line.column,
            "right": line.right,
            "look": [line.label + right * line.right, line.color, line.dash],
        }
        for line in chart.lines
    ]
    return {**chart._asdict(), "lines": lines}


def document_of(legend: Header) -> str:
    """Build the Bokeh document, as JSON, of the charts in a legend."""
    drawn = tuple(chart for chart in charts.CHARTS if chart.name in legend["shown"])
    return document(drawn, tuple((name, scale) for name, *_, scale in legend["control"]))
