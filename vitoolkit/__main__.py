"""Look at a fit and steer it from a terminal: ``python -m vitoolkit watch run.db``."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import Any

from vitoolkit.attach import Attached, attach
from vitoolkit.journal_file import JournalFile
from vitoolkit.journal_rows import ENDED, RunRow
from vitoolkit.trace import Trace

_REDRAW_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns 0, or 1 with the reason on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        return asked.act(asked)
    except (KeyError, OSError, RuntimeError, ValueError, sqlite3.Error) as error:
        words = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        if asked.json:
            print(json.dumps({"error": words}))
        else:
            print(words, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vitoolkit", description="Look at a fit with a journal, and steer it."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, act: Any, words: str, *more: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.add_argument("journal", help="the file, record=... of the fit")
        for argument in more:
            made.add_argument(argument)
        made.add_argument("--run", type=int, help="which run of the file; the last by default")
        made.add_argument("--json", action="store_true", help="print JSON, for a program")
        made.set_defaults(act=act)
        return made

    command("list", _list, "the runs of a journal")
    watch = command("watch", _watch, "the fit as it goes on, until it ends")
    watch.add_argument("--once", action="store_true", help="look once")
    command("export", _export, "write the record; the name tells the format: .csv, .nc ...", "to")
    for name, words in (
        ("pause", "wait before the next step"),
        ("resume", "go on after a pause"),
        ("stop", "end the fit with everything kept"),
    ):
        _steers(command(name, _ask, words), name)
    _steers(command("release", _ask, "give a control back to its schedule", "control"), "release")
    _steers(command("note", _ask, "write a note at the present step", "text"), "note")
    made = command("bookmark", _ask, "keep this point of the fit, to go back to it by name")
    made.add_argument("text", nargs="?", metavar="name", help="by default that of its step")
    _steers(made, "bookmark")
    made = command("rewind", _ask, "go back to a checkpoint or bookmark, and on from there")
    made.add_argument(
        "to", type=_point, help="a step: the last checkpoint up to it; or the name of a bookmark"
    )
    _steers(made, "rewind")
    made = command("set", _ask, "set a control", "control")
    made.add_argument("value", type=float)
    _steers(made, "set")
    return parser


def _steers(made: argparse.ArgumentParser, kind: str) -> None:
    made.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the answer")
    made.set_defaults(kind=kind)


def _point(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _ask(asked: argparse.Namespace) -> int:
    names = ("control", "value", "text", "to")
    given = [getattr(asked, name) for name in names if hasattr(asked, name)]
    fit = attach(asked.journal, run=asked.run, source="command line")
    answer = getattr(fit, asked.kind)(*given, timeout=asked.timeout)
    print(json.dumps({"step": answer.step, "answer": answer.words}) if asked.json else answer.words)
    return 0


def _list(asked: argparse.Namespace) -> int:
    with JournalFile(asked.journal) as file:
        rows = [row for row in file.runs() if asked.run in (None, row.id)]
    if asked.json:
        print(json.dumps([_told(row) for row in rows]))
        return 0
    for row in rows:
        print(f"{row.id:4d}  {row.created}  {row.state:11} step {row.step:,} of {row.stop:,}")
    return 0


def _told(row: RunRow) -> dict[str, Any]:
    fields = ("id", "created", "step", "stop", "host", "pid", "controls")
    return {"status": row.state, **{name: getattr(row, name) for name in fields}}


def _export(asked: argparse.Namespace) -> int:
    path = Trace.open(asked.journal, run=asked.run).save(asked.to)
    print(json.dumps({"path": str(path)}) if asked.json else path)
    return 0


def _watch(asked: argparse.Namespace) -> int:
    fit = attach(asked.journal, run=asked.run)
    if asked.json:
        while True:
            row = fit.row
            print(json.dumps({**_told(row), **_last(fit.last(1))}), flush=True)
            if asked.once or row.state in (*ENDED, "lost"):
                return 0
            time.sleep(_REDRAW_SECONDS)
    from rich.console import Console
    from rich.live import Live

    if asked.once:
        Console().print(_table(fit))
        return 0
    with Live(_table(fit), refresh_per_second=4) as live:
        while fit.status not in (*ENDED, "lost"):
            time.sleep(_REDRAW_SECONDS)
            live.update(_table(fit))
        live.update(_table(fit))
    return 0


def _last(trace: Trace) -> dict[str, Any]:
    if not len(trace):
        return {}
    row = trace.values()[-1]
    finite = [float(value) if abs(value) < float("inf") else None for value in row]
    return {"last": dict(zip(trace.columns, finite, strict=True))}


def _table(fit: Attached) -> Any:
    from rich.table import Table

    row, trace = fit.row, fit.last(100)
    title = f"run {row.id}: {row.state}, step {row.step:,} of {row.stop:,}"
    table = Table("", "last 100 rows", title=title, title_justify="left")
    others = {name for part in trace.parts.values() for name in part.columns}
    for name in trace.columns:
        if name not in others and len(trace):
            control = name in trace.controls
            value = trace.control[name][-1] if control else trace.final(name)
            table.add_row(name, f"{value:,.6g}")
    for event in trace.events[-5:]:
        words = event.text or (f"→ {event.new:g}" if event.new is not None else "")
        table.add_row(f"step {event.step:,}", f"{event.kind} {event.control or ''} {words}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
