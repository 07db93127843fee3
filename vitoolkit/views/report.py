"""A run as a web page of its own: the panel's charts to zoom and to read, offline."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from vitoolkit.export import replacing, target
from vitoolkit.trace import Trace
from vitoolkit.views.assets import CSS, bokehjs, document_of, figure_legend, page_code
from vitoolkit.views.frame import LARGEST, MOST_LINES, frame_of
from vitoolkit.views.picture import event_table, run_table
from vitoolkit.views.styles import control_styles, variable_styles

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
"""
#: Points a line, and numbers of the KL lines at most: 4 MB.
POINTS, MOST_NUMBERS = 1000, 1_000_000

SCRIPT = """
const gunzip = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
};
const read = (id) => document.getElementById(id).textContent;
const { header, legend, model, largest, most } = JSON.parse(read("run"));
const all = decode(header, Uint8Array.from(atob(read("numbers")), (c) => c.charCodeAt(0)));
let picked = [];
const frame = () => { // of many variables only the largest have a line, and those that were clicked
  if (legend.kl.length <= most) return all;
  const order = [...all.now.keys()].sort((a, b) => all.now[b] - all.now[a]).slice(0, largest);
  const lines = [...new Set([...order, ...picked])].sort((a, b) => a - b);
  return { ...all, lines, kl: lines.map((i) => all.kl[i]) };
};
const charts = new Charts({ legend }, document.getElementById("figure"), ({ kind, names }) => {
  if (kind !== "lines") return;
  picked = names.map((name) => legend.kl.findIndex((line) => line[0] === name));
  setTimeout(() => charts.draw(frame()));
});
const root = {};
gunzip(read("bokeh")).then((source) => {
  new Function(source).call(root);
  return charts.attach(root.Bokeh, model);
}).then(() => charts.draw(frame()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.theme());
"""


def report_html(
    trace: Trace, scales: Mapping[str, str] | None = None, *, title: str = "Variational fit"
) -> str:
    """Make a page of the panel's charts and of tables of the run.

    Parameters
    ----------
    trace : Trace
        The record.
    scales : mapping of str to str, optional
        "log" for the controls on a logarithmic axis, "switch" for those that are not drawn.
    title : str
        Heading of the page.

    Returns
    -------
    str
        HTML of one file, some 700 kB and the numbers of the charts.
    """
    scales = scales or {}
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(trace):
        events = event_table(trace, scales, most=500) or "<p>None.</p>"
        parts += [
            '<div id="figure"></div><div class="tables">',
            f"<div><h2>Run</h2>{run_table(trace, scales, '')}</div>",
            f"<div><h2>Events</h2>{events}</div></div>",
            *_figure(trace, scales),
        ]
    else:
        parts.append("<p>The fit took no steps.</p>")
    css = CSS.read_text("utf-8") + STYLE
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{css}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def write_report(
    trace: Trace,
    path: str | Path,
    scales: Mapping[str, str] | None = None,
    *,
    title: str = "Variational fit",
) -> Path:
    """Write the page of :func:`report_html` to a file whose name ends in ``.html``."""
    path = target(path, ".html")
    page = report_html(trace, scales, title=title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return path


def _figure(trace: Trace, scales: Mapping[str, str]) -> list[str]:
    variables = trace.variables
    controls = [name for name in trace.controls if scales.get(name) != "switch"]
    points = min(POINTS, max(50, MOST_NUMBERS // max(len(variables), 1)))
    frame = frame_of(trace.view(points), variables, controls, end=float(trace.step[-1]))
    header, arrays = frame.packed()
    styles = variable_styles(variables)
    lines = control_styles(controls, {}, styles)
    legend = figure_legend(styles, lines, scales, {}, gradient=bool(frame.measured))
    run = {
        "header": header,
        "legend": legend,
        "model": document_of(legend),
        "largest": LARGEST,
        "most": MOST_LINES,
    }
    code = page_code("text", "scales", "legends", "sheet", "charts") + SCRIPT
    return [
        f'<script type="text/plain" id="bokeh">{base64.b64encode(bokehjs()).decode()}</script>',
        f'<script type="text/plain" id="numbers">{base64.b64encode(arrays).decode()}</script>',
        f'<script type="application/json" id="run">{_safe(json.dumps(run))}</script>',
        f'<script type="module">{code}</script>',
    ]


def _safe(text: str) -> str:
    """Keep names that look like tags from ending a script."""
    return text.replace("<", "\\u003c")
