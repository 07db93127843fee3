"""A run in words and numbers: the tables of the panel's end, of a report, of a saved notebook."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from vitoolkit.controls import Control, Switch
from vitoolkit.means import TAIL, active_units, final
from vitoolkit.snapshots import Row, rows_of
from vitoolkit.table import Table
from vitoolkit.views.marks import Act, acts_of
from vitoolkit.views.names import plain

__all__ = [
    "active_text",
    "attribute_table",
    "diagnosis_section",
    "event_table",
    "in_words",
    "minus",
    "no_steps",
    "number",
    "percent",
    "posterior_table",
    "run_table",
    "scales_of",
    "shown_as",
    "verdict_line",
]

#: The sign of a number in a sentence, and no hyphen.
_SIGN = re.compile(r"(?<!\w)-(?=\d)")
#: Attributes that have a table of their own.
_SHOWN = ("q", "predictive", "diagnosis")
#: The columns of a diagnosis, to be read.
_TITLES = {
    "mean": "mean of q",
    "sd": "sd of q",
    "lr_sd": "sd by linear response",
    "ratio": "sd of q / that",
    "r_hat": "R-hat of restarts",
    "moved": "moved in the last tenth, sd",
}
#: A positive control whose largest value is so many times its smallest has a logarithmic axis.
WIDE = 30.0


def shown_as(controls: Iterable[Control]) -> dict[str, str]:
    """Tell how each control is shown: "linear", "log" or "switch"."""
    return {
        control.name: "switch" if isinstance(control, Switch) else control.scale
        for control in controls
    }


def scales_of(trace: Table, scales: Mapping[str, str] | None) -> dict[str, str]:
    """Tell how each control of a trace is shown, also of one whose controls are not at hand.

    Parameters
    ----------
    trace : Table
        The record.
    scales : mapping of str to str, optional
        What is known: "linear", "log" or "switch" by name of the control.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> trace = Table(controls=("rate", "beta"))
    >>> for step in range(5):
    ...     trace.append(step, 0.1 * step, 1.0, -1.0, (), [10.0**-step, 1.0])
    >>> scales_of(trace, None)
    {'rate': 'log', 'beta': 'linear'}
    """
    found = {}
    for name, (low, high) in trace.control_ends().items():
        found[name] = "log" if low > 0 and high > WIDE * low else "linear"  # so with a NaN
    return {**found, **(scales or {})}


def active_text(trace: Table, rows: Mapping[str, int] | None = None) -> str:
    """Say in words how many coordinates are active, of each variable recorded in parts.

    Parameters
    ----------
    trace : Table
        The record.
    rows : mapping of str to int, optional
        Rows of the data set of each local latent, whose threshold is one for a row.

    Returns
    -------
    str
        Such as ``"z 5 of 8"``, or "" without parts.
    """
    found = []
    for name, part in trace.parts.items():
        per = (rows or {}).get(name, 1)
        found.append(f"{plain(name)} {active_units(trace, per=per)[name]} of {part.size}")
    return ", ".join(found)


def run_table(trace: Table, scales: Mapping[str, str], active: str) -> str:
    """Tell the run in numbers as an HTML table.

    Parameters
    ----------
    trace : Table
        The record, with at least one row.
    scales : mapping of str to str
        How each control is shown; a "switch" is on or off.
    active : str
        Words on active units, "" for none.

    Returns
    -------
    str
    """
    trace = trace[:]
    rows: list[tuple[str, str]] = []
    status = trace.attrs.get("status", "running")
    rows.append(
        ("fit", f"{status} after {trace[-1:].step[0] + 1:,} steps, {trace[-1:].time[0]:,.1f} s")
    )
    if "error" in trace.attrs:
        rows.append(("error", str(trace.attrs["error"]).rstrip(": ")))
    if trace.has_terms or trace.has_loss:
        rows.append(("loss", _words(final(trace, "loss"))))
        rows += [("not finite", words) for words in [_not_finite(trace)] if words]
    if trace.has_terms:
        kl = {name: final(trace, f"kl[{name}]") for name in trace.variables}
        elbo, data = final(trace, "elbo"), final(trace, "data")
        rows.append(("ELBO, nats", _words(elbo)))
        rows.append(("data term, nats", _words(data)))
        rows.append(("sum of KL, nats", _words(data - elbo)))
        order = sorted(kl, key=lambda name: -np.nan_to_num(kl[name]))
        rows += [(f"KL of {plain(name)}, nats", _words(kl[name])) for name in order[:10]]
        if len(order) > 10:
            rest = sum(kl[name] for name in order[10:])
            rows.append((f"KL of {len(order) - 10} more, nats", _words(rest)))
    if active:
        rows.append(("active units", active))
    unused = trace.attrs.get("unused", ())
    for name in trace.controls:
        value = _value(trace[-1:].control[name][0], scales.get(name))
        rows.append((plain(name), "not used by this fit" if name in unused else value))
    which = f"the last {TAIL} rows" if len(trace) > TAIL else "all rows"
    return _html_table(("of the run", f"means of {which}; controls at the end"), rows)


def _not_finite(trace: Table) -> str:
    (count, first), rows = trace.not_finite(), len(trace)
    if first is None:
        return ""
    have = "row has" if count == 1 else "rows have"
    return (
        f"{count:,} of {rows:,} {have} a loss that is NaN or infinite and in no mean, "
        f"the first at step {first:,}"
    )


def event_table(trace: Table, scales: Mapping[str, str], *, most: int = 30) -> str:
    """List what was done to the run as an HTML table, a drag in one line; "" if nothing was.

    Parameters
    ----------
    trace : Table
        The record.
    scales : mapping of str to str
        How each control is shown; a "switch" is on or off.
    most : int
        Most lines.

    Returns
    -------
    str
    """
    acts = _stepwise(acts_of(trace.events))
    if not acts:
        return ""
    rows = []
    for act, steps in acts[:most]:
        event = act.event
        scale = scales.get(event.control or "")
        change = [_value(end, scale, 4) for end in (act.old, event.new) if end is not None]
        words = " → ".join(change) + (f" in {act.moves} moves" if act.moves > 1 else "")
        kind, note = event.kind, event.text or ""
        if kind == "reschedule":
            kind, words, note = "schedule", in_words(note), ""
        elif kind == "undo" and note:
            kind, note = f"undo of {note}", ""
        elif steps:
            single = "1 single step" if steps == 1 else f"{steps:,} single steps"
            words = single if kind == "step" else f"then {single}"
        step, time = f"{act.step:,}", f"{event.time:,.2f}"
        rows.append((step, time, kind, plain(event.control or ""), words, event.source, note))
    more = len(acts) - most
    head = ("step", "time, s", "event", "control", "change", "by", "note")
    notes = any(row[-1] for row in rows)
    table = _html_table(head if notes else head[:-1], rows if notes else [r[:-1] for r in rows])
    return table + (f"<p>and {more:,} more events in the trace</p>" if more > 0 else "")


def posterior_table(trace: Table, *, most: int = 12) -> str:
    """Tell prior and posterior as an HTML table, what moved furthest first; "" if none is there.

    Parameters
    ----------
    trace : Table
        The record.
    most : int
        Most coordinates.

    Returns
    -------
    str
    """
    q = trace.attrs.get("q")
    if q is None:
        return ""
    rows = rows_of(q)
    head = ["coordinate", "q: median (68 %)", "prior", "moved in the last tenth"]
    told = [_row_words(row) for row in rows[:most]]
    if "averaged" in q:
        head.insert(2, "at the average of its iterates")
        for words, row in zip(told, rows, strict=False):
            words.insert(2, _interval(row.averaged))
    more = f"<p>and {len(rows) - most:,} more that moved less</p>" if len(rows) > most else ""
    return _html_table(head, told) + more


def _row_words(row: Row) -> list[str]:
    moved = "" if math.isnan(row.moved) else f"{row.moved:.2g} sd"
    return [plain(row.name), _interval(row.posterior), _interval(row.prior), moved]


def _interval(ends: Sequence[float]) -> str:
    low, median, high = (minus(f"{end:,.4g}") for end in ends)
    return "" if math.isnan(ends[1]) else f"{median} ({low}, {high})"


def verdict_line(trace: Table) -> str:
    """Say as HTML how the fit ended; "" as long as it runs."""
    said = trace.attrs.get("verdict", "")
    return f"<p><strong>{escape(said)}</strong></p>" if said else ""


def diagnosis_section(trace: Table, *, most: int = 12) -> str:
    """Tell as HTML what :func:`vitoolkit.diagnose` found; "" if it was not asked.

    Parameters
    ----------
    trace : Table
        The record.
    most : int
        Most coordinates.

    Returns
    -------
    str
    """
    told = trace.attrs.get("diagnosis")
    if told is None:
        return ""
    first, *lines = told["lines"]
    # The verdict stands above already.
    lines.insert(0, first.removeprefix(trace.attrs.get("verdict", "")).strip())
    ok = "OK" if told["ok"] else "Not OK"
    lines = [escape(_SIGN.sub("\N{MINUS SIGN}", line)) for line in lines]
    head = f"<p><strong>Diagnosis: {ok}.</strong> {lines[0]}</p>"
    said = "".join(f"<p>{line}</p>" for line in lines[1:])
    columns = {
        name: values for name, values in told["table"].items() if any(v is not None for v in values)
    }
    names = [plain(name) for name in told["coordinate"]]
    cells = [[_figure(value) for value in values] for values in columns.values()]
    rows = list(zip(names, *cells, strict=True))
    table = _html_table(("coordinate", *(_TITLES[name] for name in columns)), rows[:most])
    more = f"<p>and {len(rows) - most:,} more</p>" if len(rows) > most else ""
    inner = head + said + (table if columns else "") + more
    return f'<div class="vitoolkit-diagnosed" role="region" aria-label="diagnosis">{inner}</div>'


def _figure(value: float | None) -> str:
    return "" if value is None else minus(f"{value:.3g}")


def _stepwise(acts: Sequence[Act]) -> list[tuple[Act, int]]:
    """Put single steps with the pause before them, and count them."""
    found: list[tuple[Act, int]] = []
    for act in acts:
        if act.event.kind == "step" and found and found[-1][0].event.kind in ("pause", "step"):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((act, int(act.event.kind == "step")))
    return found


def in_words(schedule: str) -> str:
    """Say a schedule's repr as a sentence; what is not one stays as it is.

    Parameters
    ----------
    schedule : str
        Such as ``repr(vitoolkit.schedules.linear(0.0, 1.0, steps=100))``.

    Returns
    -------
    str

    Examples
    --------
    >>> in_words("linear(0.0, 1.0, steps=30000)")
    'linear from 0 to 1 in 30,000 steps'
    >>> in_words("join(constant(0.5), linear(0.5, 1.0, steps=200), boundaries=[90])")
    'constant at 0.5, from step 90 linear from 0.5 to 1 in 200 steps'
    """
    try:
        return _said(ast.parse(schedule, mode="eval").body)
    except (SyntaxError, ValueError):
        return schedule


def _said(node: ast.expr) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return _amount(ast.literal_eval(node))
    options = {str(keyword.arg): keyword.value for keyword in node.keywords}
    parts = [_said(part) for part in node.args]
    if node.func.id == "join":
        starts = ast.literal_eval(options["boundaries"]) if "boundaries" in options else ()
        edges = [f"from step {start:,} " for start in starts] or ["then "] * (len(parts) - 1)
        return ", ".join(parts[:1] + [e + p for e, p in zip(edges, parts[1:], strict=True)])
    words = [node.func.id.replace("_", " ")]
    words += [f"at {parts[0]}"] if len(parts) == 1 else []
    words += [f"from {parts[0]} to {', '.join(parts[1:])}"] if len(parts) > 1 else []
    for name, value in options.items():
        amount = _said(value)
        words.append(f"in {amount} steps" if name == "steps" else f"{name} {amount}")
    return " ".join(words)


def _amount(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else minus(f"{value:,.6g}")


def no_steps(trace: Table) -> str:
    """Say why a trace has no rows."""
    error = str(trace.attrs.get("error", ""))
    if error.startswith("KeyboardInterrupt") or trace.attrs.get("status") == "interrupted":
        return "The fit was interrupted before its first step."
    return f"The fit took no steps{'.' if not error else ': ' + error.rstrip(': ')}"


def attribute_table(trace: Table) -> str:
    """List the attributes of the run as an HTML table: status, versions, scaling and the like.

    Parameters
    ----------
    trace : Table
        The record.

    Returns
    -------
    str
    """
    rows = [(key, _text(value)) for key, value in trace.attrs.items() if key not in _SHOWN]
    return _html_table(("attribute", "value"), rows)


def _text(value: object) -> str:
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _value(value: float | None, scale: str | None, digits: int = 5) -> str:
    if value is None:
        return ""
    return ("on" if value else "off") if scale == "switch" else minus(f"{value:.{digits}g}")


def _html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _words(value: float) -> str:
    return minus(f"{value:,.6g}") if math.isfinite(value) else "not finite"


def number(value: float) -> str:
    """Write a number short, for a picture."""
    return minus(f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.4g}")


def percent(share: float) -> str:
    """Write a share, as ``percent`` of ``page/text.js`` does."""
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def minus(text: str) -> str:
    """Write a number with the minus that is as wide as a digit."""
    return text.replace("-", "\N{MINUS SIGN}")
