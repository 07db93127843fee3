"""What a page needs to draw the charts: code, styles, BokehJS, legends and the Bokeh document."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bokeh

from vitoolkit.views.document import document
from vitoolkit.views.styles import Style

__all__ = ["CSS", "bokehjs", "document_of", "figure_legend", "page_code"]

_HERE = Path(__file__).parent / "page"
CSS = _HERE / "page.css"


def page_code(*names: str) -> str:
    """Join files of the page to one module: later ones use what earlier ones define."""
    return "\n".join(_HERE.joinpath(f"{name}.js").read_text("utf-8") for name in names)


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
    gradient: bool,
) -> dict[str, Any]:
    """Tell the page which charts there are, and what their lines are called and look like."""
    filled = {"loss": True, "kl": bool(variables), "control": bool(controls)}
    shown = [chart for chart, full in filled.items() if full and chart not in notes]
    if "kl" in shown:
        shown += ["elbo", "plane"]
    shown += ["gradient"] * gradient
    return {
        "kl": [[name, *style] for name, style in variables.items()],
        "control": [[name, *style, scales.get(name, "linear")] for name, style in controls.items()],
        "notes": dict(notes),
        "shown": shown,
    }


def document_of(legend: Mapping[str, Any]) -> str:
    """Build the Bokeh document, as JSON, of the charts in a legend."""
    return document(tuple(legend["shown"]), tuple(scale for *_, scale in legend["control"]))
