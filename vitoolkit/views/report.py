"""A run as a web page of its own: the panel's charts to zoom and to read, offline."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from vitoolkit.decimation import View
from vitoolkit.files import replacing, target
from vitoolkit.means import final_kl
from vitoolkit.table import Table
from vitoolkit.views.assets import CSS, bokehjs, document_of, figure_legend, page_code
from vitoolkit.views.frame import frame_of
from vitoolkit.views.part_bars import part_sections
from vitoolkit.views.styles import control_styles, variable_styles
from vitoolkit.views.tables import (
    active_text,
    attribute_table,
    diagnosis_section,
    event_table,
    no_steps,
    posterior_table,
    run_table,
    scales_of,
    verdict_line,
)

__all__ = ["report_html", "write_report"]

STYLE = """
:root { --jp-content-font-color1: #222; --jp-content-font-color2: #666; --jp-border-color1: #bbb;
        --jp-border-color2: #ddd; --jp-layout-color0: #fff; --jp-layout-color1: #fff;
        --jp-layout-color2: #eee; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --jp-content-font-color1: #eee; --jp-content-font-color2: #aaa; --jp-border-color1: #666;
          --jp-border-color2: #444; --jp-layout-color0: #111; --jp-layout-color1: #111;
          --jp-layout-color2: #222; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--jp-content-font-color1);
       background: var(--jp-layout-color0); max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin: 0 8px .4em; } h2 { font-size: 1.1em; margin: 1.6em 0 .3em; }
.tables { display: flex; flex-wrap: wrap; gap: 0 4em; margin: 0 8px; overflow-x: auto; }
.tables table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.tables th, .tables td { text-align: left; padding: .2em 1.2em .2em 0; vertical-align: top;
                         border-bottom: 1px solid var(--jp-border-color2); }
.tables p { margin: .3em 0; } .parts-of p { margin: 0; color: var(--jp-content-font-color2); }
.parts-of { margin: 0 8px; } svg.parts { width: 100%; max-width: 900px; display: block; }
svg.parts text { font-size: 12px; fill: currentColor; }
"""
#: Points a line, and numbers of the KL lines at most: 4 MB. Events and coordinates in a table.
POINTS, MOST_NUMBERS, MOST_EVENTS, MOST_COORDINATES = 1000, 1_000_000, 500, 200


def report_html(
    trace: Table, scales: Mapping[str, str] | None = None, *, title: str = "Variational fit"
) -> str:
    """Make a page of the panel's charts, of the parts of the KL, and of tables of the run.

    Parameters
    ----------
    trace : Table
        The record; it may grow meanwhile.
    scales : mapping of str to str, optional
        "log" for the controls on a logarithmic axis, "switch" for those that are not drawn. One
        that is not named, positive, and spans more than a factor of 30 is on a logarithmic axis.
    title : str
        Heading of the page.

    Returns
    -------
    str
        HTML of one file, some 700 kB and the numbers of the charts.
    """
    trace = trace[:]
    scales = scales_of(trace, scales)
    body = f"<h1>{escape(title)}</h1>"
    run = f"<p>{escape(no_steps(trace))}</p>"
    if len(trace):
        body += f'<div id="figure"></div><div class="parts-of">{part_sections(trace)}</div>'
        run = verdict_line(trace) + run_table(trace, scales, active_text(trace))
    tables = {
        "Run": run,
        "Diagnosis": diagnosis_section(trace, most=MOST_COORDINATES),
        "Prior and posterior": posterior_table(trace, most=MOST_COORDINATES),
        "Events": event_table(trace, scales, most=MOST_EVENTS) or "<p>None.</p>",
        "Attributes": attribute_table(trace),
    }
    told = (f"<div><h2>{name}</h2>{table}</div>" for name, table in tables.items() if table)
    body += f'<div class="tables">{"".join(told)}</div>'
    if len(trace):
        body += _figure(trace, scales)
    css = CSS + STYLE
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{css}</style></head><body>{body}</body></html>\n"
    )


def write_report(
    trace: Table,
    path: str | Path,
    scales: Mapping[str, str] | None = None,
    *,
    title: str = "Variational fit",
) -> Path:
    """Write the page of :func:`report_html` to a file.

    Parameters
    ----------
    trace : Table
        The record.
    path : str or Path
        Ends in ``.html``. A file that is there is replaced, once the new one is complete.
    scales, title
        As for :func:`report_html`.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    FileNotFoundError
        If the folder does not exist.
    """
    path = target(path, ".html")
    page = report_html(trace, scales, title=title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return path


def _figure(trace: Table, scales: Mapping[str, str]) -> str:
    variables = trace.variables
    controls = [name for name in trace.controls if scales.get(name) != "switch"]
    points = min(POINTS, max(50, MOST_NUMBERS // max(len(variables), 1)))
    frame = frame_of(View(trace, points=points), variables, controls, end=float(trace[-1:].step[0]))
    header, arrays = frame._replace(now=final_kl(trace)).packed()
    styles = variable_styles(variables)
    lines = control_styles(controls, {}, styles)
    notes = {"loss": "this fit computes none"} if not trace.has_loss else {}
    sketch = trace.attrs.get("predictive")
    header["predictive"] = sketch
    beside = ["predictive"] * (sketch is not None)
    legend = figure_legend(styles, lines, scales, notes, [*trace.measures, *beside])
    run = {"header": header, "legend": legend, "model": document_of(legend)}
    bokeh, numbers = (base64.b64encode(data).decode() for data in (bokehjs(), arrays))
    return (
        f'<script type="text/plain" id="bokeh">{bokeh}</script>'
        f'<script type="text/plain" id="numbers">{numbers}</script>'
        f'<script type="application/json" id="run">{_safe(json.dumps(run))}</script>'
        f'<script type="module">{page_code("report")}</script>'
    )


def _safe(text: str) -> str:
    """Keep names that look like tags from ending a script."""
    return text.replace("<", "\\u003c")
