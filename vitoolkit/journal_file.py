"""The file of a journal: what is in it, and how it is written and read.

It is an SQLite database in WAL mode, so that any number of processes read it while one writes.
Numbers are kept as bytes and words as JSON: nothing in it is executed or unpickled.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitoolkit import export
from vitoolkit.away import Away, Filed, RowsGone
from vitoolkit.events import Event
from vitoolkit.journal_block import packed, unpacked
from vitoolkit.journal_rows import RunRow, Saved
from vitoolkit.table import Branch, Part, Table

__all__ = ["JournalFile", "Shelf", "empty_fields", "is_journal"]

MAGIC = b"SQLite format 3\0"
APPLICATION, VERSION = 0x76746A6C, 2  # "vtjl"; a file of version 1 is read, too
#: Bytes of a page of a new file. An empty journal has 15; those of 4096 take twice the time.
PAGE = 2**14
#: Seconds that one who writes waits for another to be done.
PATIENCE = 5.0
ROWS = 2**15  # of a block at most
BLOCK = 2**22  # bytes of a block at most, if it has more than one row
CHUNK = 2**24  # bytes of rows that are read, or left in the file, together
#: Bytes of a trace that are in memory, where nobody says otherwise.
MEMORY = 2**30
LONGEST = 2**16  # bytes of a request

_SCHEMA = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, created TEXT NOT NULL, description TEXT NOT NULL,
    status TEXT NOT NULL, first INTEGER NOT NULL, step INTEGER NOT NULL, stop INTEGER NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, beat REAL NOT NULL,
    controls TEXT NOT NULL, options TEXT
);
CREATE TABLE block (
    run INTEGER NOT NULL, branch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    rows INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE UNIQUE INDEX block_first ON block (run, branch, first);
CREATE TABLE branch (
    run INTEGER NOT NULL, id INTEGER NOT NULL, step INTEGER NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE TABLE event (
    run INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, seq)
);
CREATE TABLE checkpoint (
    run INTEGER NOT NULL, step INTEGER NOT NULL, events INTEGER NOT NULL, saved REAL NOT NULL,
    controls TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, step)
);
CREATE TABLE bookmark (
    run INTEGER NOT NULL, name TEXT NOT NULL, turns INTEGER NOT NULL, step INTEGER NOT NULL,
    events INTEGER NOT NULL, controls TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, name)
);
CREATE TABLE request (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, asked REAL NOT NULL, body TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'asked', answer TEXT, step INTEGER
);
CREATE INDEX request_state ON request (run, state);
"""


class JournalFile:
    """One open journal.

    Parameters
    ----------
    path : str or Path
        The file.
    write : bool
        Whether to write to it; a file that is not there is made, for its owner only.
    patience : float
        Seconds to wait for another one who writes.

    Raises
    ------
    FileNotFoundError
        When it shall be read and is not there.
    ValueError
        When it is something else than a journal, or one of a newer vitoolkit.
    OSError, sqlite3.Error
        When it cannot be opened.
    """

    def __init__(
        self, path: str | Path, *, write: bool = False, patience: float = PATIENCE
    ) -> None:
        self.path = Path(path).expanduser()
        if write:
            _make(self.path)
        elif not self.path.exists():
            raise FileNotFoundError(f"there is no {str(self.path)!r}")
        if self.path.stat().st_size and not is_journal(self.path):
            raise ValueError(f"{self.path} is no journal: it is not an SQLite file")
        uri = f"{self.path.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
        self._sql = sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None)
        self._place = _place(self.path)
        try:
            self._check(write)
        except BaseException:
            self._sql.close()
            raise

    def _check(self, write: bool) -> None:
        run = self._sql.execute
        run("PRAGMA trusted_schema=OFF")
        if write:
            run(f"PRAGMA page_size={PAGE}")  # of a new file
            if (mode := run("PRAGMA journal_mode=WAL").fetchone()[0]) != "wal":
                raise OSError(f"SQLite writes {self.path} in mode {mode!r}, and needs WAL")
            run("PRAGMA synchronous=FULL")
            with self.transaction():
                if not run("PRAGMA user_version").fetchone()[0] and not self._tables():
                    for statement in _SCHEMA.split(";"):
                        run(statement)
                    run(f"PRAGMA application_id={APPLICATION}")
                    run(f"PRAGMA user_version={VERSION}")
        if not self._tables():  # its writer was killed before it began
            return
        if run("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise ValueError(f"{self.path} is no journal of vitoolkit, but another SQLite file")
        version = run("PRAGMA user_version").fetchone()[0]
        if not 1 <= version <= VERSION:
            raise ValueError(
                f"{self.path} is a journal of version {version}; this vitoolkit reads {VERSION}"
            )
        if write and version < VERSION:  # the blocks that it has stay as they are
            run(f"PRAGMA user_version={VERSION}")

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to the file that is open."""
        return self._place == _place(self.path)

    def _tables(self) -> int:
        return self._sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def close(self) -> None:
        """Close it."""
        self._sql.close()

    def __enter__(self) -> JournalFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, how: str = "IMMEDIATE") -> Iterator[None]:
        """All that is written inside is there, or nothing; all that is read is of one moment."""
        self._sql.execute(f"BEGIN {how}")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise

    # --- runs -------------------------------------------------------------------------------

    def add_run(self, trace: Table, **fields: Any) -> int:
        """Begin a run and return its number."""
        row = self._sql.execute(
            "INSERT INTO run (created, description, status, first, step, stop, host, pid, beat, "
            "controls) VALUES (?, ?, 'compiling', 0, 0, 0, ?, ?, ?, '{}')",
            (str(trace.attrs.get("created")), _description(trace), *_me()),
        )
        number = row.lastrowid
        assert number is not None
        self.update(number, **fields)
        return number

    def update(self, run: int, trace: Table | None = None, **fields: Any) -> None:
        """Note where a run stands, and that its process lives."""
        host, pid, beat = _me()
        fields |= {"host": host, "pid": pid, "beat": beat}
        if trace is not None:
            fields["description"] = _description(trace)
        for name in ("controls", "options"):
            if name in fields:
                fields[name] = json.dumps(fields[name])
        names = ", ".join(f"{name} = ?" for name in fields)  # of this module, never of a file
        self._sql.execute(f"UPDATE run SET {names} WHERE id = ?", (*fields.values(), run))

    def runs(self) -> list[RunRow]:
        """All runs, in the order in which they began."""
        if not self._tables():
            return []
        names = ", ".join(RunRow._fields)
        rows = self._sql.execute(f"SELECT {names} FROM run ORDER BY id").fetchall()
        plain = len(RunRow._fields) - 2
        return [
            RunRow(*row[:plain], *(None if text is None else json.loads(text) for text in row[-2:]))
            for row in rows
        ]

    def run(self, number: int | None = None) -> RunRow:
        """One run; the last by default.

        Raises
        ------
        KeyError
            When there is none of this number; the message lists those that there are.
        """
        runs = {row.id: row for row in self.runs()}
        if number is None and runs:
            return runs[max(runs)]
        if number not in runs:
            known = ", ".join(map(str, runs)) or "none yet"
            raise KeyError(f"{self.path} has no run {number}; its runs are {known}")
        return runs[number]

    def has(self, run: int, trace: Table) -> bool:
        """Whether a run of this number is that of a trace."""
        found = self._sql.execute("SELECT created FROM run WHERE id = ?", (run,)).fetchone()
        return found == (str(trace.attrs.get("created")),)

    # --- rows -------------------------------------------------------------------------------

    def put_rows(self, run: int, kept: NDArray[np.float64], branch: int = 0) -> None:
        """Write rows as :meth:`Table.kept` gives them, in the place of others of these steps."""
        most = max(min(ROWS, BLOCK // max(kept[:1].nbytes, 1)), 1)
        for start in range(0, len(kept), most):
            self._put_block(run, branch, kept[start : start + most])

    def put_table(self, run: int, table: Table, branch: int = 0) -> None:
        """Write the rows of a table, some at a time."""
        most = _together(table.width)
        for start in range(0, len(table), most):
            self.put_rows(run, table[start : start + most].kept(), branch)

    def _put_block(self, run: int, branch: int, rows: NDArray[np.float64]) -> None:
        first, last = rows[[0, -1], 0].view(np.int64).tolist()
        for block in self._blocks(run, branch, first, last):
            step = block[:, 0].view(np.int64)
            self._sql.execute(
                "DELETE FROM block WHERE run = ? AND branch = ? AND first = ?",
                (run, branch, int(step[0])),
            )
            for rest in (block[step < first], block[step > last]):
                if len(rest):
                    self._put_block(run, branch, rest)
        data = packed(rows)
        self._sql.execute(
            "INSERT INTO block (run, branch, first, last, rows, data, crc) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run, branch, first, last, len(rows), data, zlib.crc32(data)),
        )

    def _blocks(self, run: int, branch: int, first: int, last: int) -> list[NDArray[np.float64]]:
        # No two have a step in common: all before the last one that begins earlier are over.
        found = self._sql.execute(
            "SELECT first, rows, data, crc FROM block WHERE run = ?1 AND branch = ?2 AND first >= "
            "ifnull((SELECT max(first) FROM block WHERE run = ?1 AND branch = ?2 AND first <= ?3), "
            "?3) AND first <= ?4 AND last >= ?3 ORDER BY first",
            (run, branch, first, last),
        )
        blocks = []
        for begin, rows, data, crc in found:
            block = None if zlib.crc32(data) != crc else unpacked(data, rows)
            if block is None:
                raise ValueError(f"{self.path} is damaged: the rows from step {begin} on")
            blocks.append(block)
        return blocks

    def rows(
        self, run: int, branch: int = 0, *, first: int = 0, stop: int | None = None
    ) -> NDArray[np.float64] | None:
        """Rows from a step on, before another one; None without any."""
        last = 2**62 if stop is None else stop - 1
        blocks = self._blocks(run, branch, first, last)
        if not blocks:
            return None
        step = blocks[-1][:, 0].view(np.int64)
        blocks[-1] = blocks[-1][: np.searchsorted(step, last, side="right")]
        step = blocks[0][:, 0].view(np.int64)
        blocks[0] = blocks[0][np.searchsorted(step, first) :]
        return np.concatenate(blocks)

    def rows_then(self, run: int, turns: int, first: int, last: int) -> NDArray[np.float64] | None:
        """Rows from one step to another as they were when a run had gone back so often.

        Since then, some may have been left behind as the rows of a branch.
        """
        found, stop = [], last + 1
        with self.transaction("DEFERRED"):
            branches = self._sql.execute(
                "SELECT id, step FROM branch WHERE run = ? AND id > ? ORDER BY id", (run, turns)
            )
            for number, step in branches.fetchall():
                if first < stop and step < stop:
                    found.append(self.rows(run, number, first=max(step, first), stop=stop))
                    stop = step
            if first < stop:
                found.append(self.rows(run, first=first, stop=stop))
        there = [rows for rows in reversed(found) if rows is not None]
        return np.concatenate(there) if len(there) > 1 else there[0] if there else None

    def drop_rows(self, run: int, first: int) -> None:
        """Take out the rows of a step and all later ones."""
        kept = self._blocks(run, 0, first, first)
        self._sql.execute(
            "DELETE FROM block WHERE run = ? AND branch = 0 AND last >= ?", (run, first)
        )
        for block in kept:
            if len(block := block[block[:, 0].view(np.int64) < first]):
                self._put_block(run, 0, block)

    def put_branch(self, run: int, number: int, branch: Branch) -> None:
        """Write rows that a run has left behind, out of the others, with their checkpoints."""
        self.drop_rows(run, branch.step)
        self._sql.execute("DELETE FROM checkpoint WHERE run = ? AND step > ?", (run, branch.step))
        self._sql.execute(
            "INSERT OR REPLACE INTO branch (run, id, step, at) VALUES (?, ?, ?, ?)",
            (run, number, branch.step, branch.when),
        )
        self.put_table(run, branch.rows, number)

    def branch_count(self, run: int) -> int:
        """How often a run has left rows behind."""
        found = self._sql.execute("SELECT count(*) FROM branch WHERE run = ?", (run,))
        return found.fetchone()[0]

    def branch_step(self, run: int, number: int) -> int:
        """The step from which on a branch was left behind."""
        found = self._sql.execute("SELECT step FROM branch WHERE run = ? AND id = ?", (run, number))
        return found.fetchone()[0]

    # --- events, checkpoints, requests ------------------------------------------------------

    def put_events(self, run: int, first: int, events: Sequence[Event]) -> None:
        """Write events, the first of this number; those of later numbers are of another past."""
        self._sql.execute("DELETE FROM event WHERE run = ? AND seq >= ?", (run, first))
        self._sql.executemany(
            "INSERT INTO event (run, seq, body) VALUES (?, ?, ?)",
            [
                (run, seq, json.dumps(export.plain(event._asdict(), f"events[{seq}]")))
                for seq, event in enumerate(events, first)
            ],
        )

    def put_checkpoint(self, run: int, saved: Saved, keep: int) -> None:
        """Write a checkpoint, and keep only the last ones up to it."""
        self._sql.execute(
            "INSERT OR REPLACE INTO checkpoint (run, step, events, saved, controls, data) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (run, saved.step, saved.events, time.time(), saved.controls, saved.data),
        )
        self._sql.execute(
            "DELETE FROM checkpoint WHERE run = ?1 AND (step > ?2 OR step NOT IN "
            "(SELECT step FROM checkpoint WHERE run = ?1 AND step <= ?2 "
            "ORDER BY step DESC LIMIT ?3))",
            (run, saved.step, keep),
        )

    def checkpoints(self, run: int) -> list[int]:
        """Steps of the checkpoints that are kept."""
        found = self._sql.execute("SELECT step FROM checkpoint WHERE run = ? ORDER BY step", (run,))
        return [step for (step,) in found]

    def checkpoint(self, run: int, step: int) -> Saved:
        """The checkpoint of a step, which is one of :meth:`checkpoints`."""
        found = self._sql.execute(
            "SELECT step, events, controls, data FROM checkpoint WHERE run = ? AND step = ?",
            (run, step),
        )
        return Saved(*found.fetchone())

    def put_bookmark(self, run: int, name: str, turns: int, saved: Saved) -> None:
        """Write a checkpoint that stays; `turns` is how often the run had gone back before."""
        self._sql.execute(
            "INSERT OR REPLACE INTO bookmark (run, name, turns, step, events, controls, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run, name, turns, *saved),
        )

    def bookmarks(self, run: int) -> list[tuple[str, int, Saved]]:
        """Bookmarks of a run with name and turns, in the order they were made."""
        found = self._sql.execute(
            "SELECT name, turns, step, events, controls, data FROM bookmark WHERE run = ? "
            "ORDER BY rowid",
            (run,),
        )
        return [(name, turns, Saved(*saved)) for name, turns, *saved in found]

    def ask(self, run: int, body: Mapping[str, Any]) -> int:
        """Ask the process of a run for something; returns the number of the request."""
        row = self._sql.execute(
            "INSERT INTO request (run, asked, body) VALUES (?, ?, ?)",
            (run, time.time(), json.dumps(dict(body))),
        )
        assert row.lastrowid is not None
        return row.lastrowid

    def asked(self, run: int) -> list[tuple[int, str]]:
        """Requests that nobody has looked at, with their text; a few at a time."""
        found = self._sql.execute(
            "SELECT id, CASE WHEN typeof(body) = 'text' AND length(body) <= ? THEN body END "
            "FROM request WHERE run = ? AND state = 'asked' ORDER BY id LIMIT 256",
            (LONGEST, run),
        )
        return [(number, "" if body is None else body) for number, body in found]

    def answer(self, number: int, state: str, answer: str = "", step: int | None = None) -> None:
        """Note what became of a request."""
        self._sql.execute(
            "UPDATE request SET state = ?, answer = ?, step = ? WHERE id = ?",
            (state, answer, step, number),
        )

    def answered(self, number: int) -> tuple[str, str | None, int | None]:
        """What became of a request: its state, what was said, and the step it is in force from."""
        found = self._sql.execute("SELECT state, answer, step FROM request WHERE id = ?", (number,))
        return found.fetchone()

    # --- a trace ----------------------------------------------------------------------------

    def description(self, run: int) -> dict[str, Any]:
        """Names, parts and attributes of the trace of a run."""
        found = self._sql.execute("SELECT description FROM run WHERE id = ?", (run,)).fetchone()
        return export.parse(found[0])

    def events(self, run: int, first: int = 0) -> list[Event]:
        """Events of a run, from one on."""
        found = self._sql.execute(
            "SELECT body FROM event WHERE run = ? AND seq >= ? ORDER BY seq", (run, first)
        )
        return [Event(**export.parse(body)) for (body,) in found]

    def tail(self, run: int, rows: int) -> NDArray[np.float64] | None:
        """The last rows of a run; None without any."""
        firsts = self._sql.execute(
            "SELECT first, rows FROM block WHERE run = ? AND branch = 0 ORDER BY first DESC", (run,)
        )
        found, first = 0, None
        for first, count in firsts:
            found += count
            if found >= rows:
                break
        return None if first is None else self.rows(run, first=first)[-rows:]  # type: ignore

    def last_row(self, run: int) -> NDArray[np.float64] | None:
        """The last row of a run as it is kept, None without any."""
        found = self._sql.execute(
            "SELECT last FROM block WHERE run = ? AND branch = 0 ORDER BY first DESC LIMIT 1",
            (run,),
        ).fetchone()
        return None if found is None else self._blocks(run, 0, *found, *found)[-1][-1]

    def fill(
        self,
        empty: Table,
        run: int,
        stop: int | None = None,
        events: int | None = None,
        memory: int | None = MEMORY,
    ) -> Table:
        """Rows, events and branches of a run in a table of its columns.

        Some 16 MB at least are in memory.

        Parameters
        ----------
        empty : Table
            A table of these columns, whose attributes it takes over.
        run : int
            Number of the run.
        stop : int, optional
            The first step that is left out; by default none is.
        events : int, optional
            Take so many events; by default all.
        memory : int, optional
            Bytes of the rows that are read now, the last ones; others are when somebody asks for
            them. None reads all.
        """
        branches = self._sql.execute(
            "SELECT id, step, at FROM branch WHERE run = ? ORDER BY id", (run,)
        ).fetchall()
        room = float("inf") if memory is None else memory
        pieces, room = self._pieces(run, 0, len(branches), empty.width, room, stop)
        table = empty.of_pieces(pieces) if pieces else empty
        table.attrs = empty.attrs
        for event in self.events(run)[:events]:
            table.add_event(event)
        left = []
        for number, step, at in reversed(branches):
            pieces, room = self._pieces(run, number, number - 1, empty.width, room)
            left.append(Branch(step, at, empty.of_pieces(pieces)))
        table.put_branches(reversed(left))
        return table

    def _pieces(
        self, run: int, branch: int, turns: int, width: int, room: float, stop: int | None = None
    ) -> tuple[list[NDArray[np.float64] | Away], float]:
        """Rows in pieces, the last ones in memory as far as there is room, and what room is left.

        The last piece is, whatever the room.
        """
        load, last = Shelf(self.path, run, turns), 2**62 if stop is None else stop - 1
        found = self._sql.execute(
            "SELECT first, last, rows FROM block WHERE run = ? AND branch = ? AND first <= ? "
            "ORDER BY first",
            (run, branch, last),
        )
        groups: list[list[int]] = []  # first step, last step, rows
        most = _together(width)
        for begin, end, rows in found:
            if groups and groups[-1][2] + rows <= most:
                groups[-1][1:] = end, groups[-1][2] + rows
            else:
                groups.append([begin, end, rows])
        pieces: list[NDArray[np.float64] | Away] = []
        for begin, end, rows in reversed(groups):
            room -= 8 * rows * width
            if room < 0 and pieces:
                pieces.append(Away(Filed(begin, end, rows, width, load)))
                continue
            there = self.rows(run, branch, first=begin, stop=min(end, last) + 1)
            if there is not None and len(there):
                pieces.append(there)
        return pieces[::-1], max(room, 0)


class Shelf:
    """Reads rows of a run as they were when it had gone back so often.

    Parameters
    ----------
    path : str or Path
        The journal.
    run : int
        Number of the run in it.
    turns : int
        How many branches it had left behind.
    """

    def __init__(self, path: str | Path, run: int, turns: int) -> None:
        self.path, self.run, self.turns = Path(path).expanduser().absolute(), run, turns

    def __str__(self) -> str:
        return f"run {self.run} of {self.path}"

    def __call__(self, first: int, last: int) -> NDArray[np.float64] | None:
        """The rows from one step to another, both among them.

        Raises
        ------
        RowsGone
            When the file cannot be read.
        """
        try:
            with JournalFile(self.path) as file:
                return file.rows_then(self.run, self.turns, first, last)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise RowsGone(
                f"the rows of steps {first:,} to {last:,} are in run {self.run} of the journal "
                f"{self.path}, which cannot be read: {error}. Put the file back, or open it where "
                "it is now with vitoolkit.Trace.open; later rows are in memory: trace[-100:]"
            ) from error


def _together(width: int) -> int:
    """How many rows of so many numbers are read or written together."""
    return max(CHUNK // (8 * width), 1)


def _place(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one that took its path."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _description(trace: Table) -> str:
    bare = trace.of_kept(np.empty((0, trace.width)))
    bare.attrs = dict(trace.attrs)
    return json.dumps(export.describe(bare))


def empty_fields(description: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments of a trace with the columns that a description names."""
    return (
        description["variables"],
        description["controls"],
        description["attrs"],
        [Part(**part) for part in description.get("parts", ())],
        description.get("measures", ()),
    )


def is_journal(path: str | Path) -> bool:
    """Whether a file is an SQLite file, as a journal is, or one in which nothing is yet."""
    path = Path(path).expanduser()
    if not path.is_file():
        return False
    if path.stat().st_size == 0:
        return path.suffix.lower() not in export.FORMATS
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except PermissionError:
        return False  # who reads it says so


def _make(path: Path) -> None:
    """Make a file that only its owner reads, unless there is one."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass  # SQLite gives the two files beside it the same permissions


def _me() -> tuple[str, int, float]:
    return socket.gethostname(), os.getpid(), time.time()
