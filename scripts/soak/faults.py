"""What a journal meets on a real system: the fit has to go on, and its trace to be whole.

    python -m scripts.soak.faults

A disk that is full (a small tmpfs) and then has room again, a read-only file system, pages that
something else overwrites, the lock of another program and of one that is dead, a writer that fails
in a way nobody thought of, an export that finds no room. Mounting needs root. After each the trace
has to be that of an undisturbed fit, the number of warnings the stated one, and ``trace.save`` has
to work. A line a fault; the exit code is 1 where anything was otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from models import two_gaussians  # noqa: E402

import vitoolkit as vt  # noqa: E402
from vitoolkit.journal_file import JournalFile  # noqa: E402

STEPS = 30_000


class Act(vt.Callback):
    """Does something once, when so many steps have been taken, and waits for what it brings."""

    def __init__(self, act: Callable[[], None], step: int = STEPS // 3) -> None:
        self._act, self._step, self.done = act, step, False

    def on_block(self, run: Any, block: Any) -> None:
        """Act."""
        if not self.done and run.step >= self._step:
            self.done = True
            self._act()


def fitted(record: Any = None, *callbacks: Any) -> vt.Fit:
    """A fit of some thousand steps."""
    return vt.fit(
        STEPS, model=two_gaussians(), record=record, callbacks=list(callbacks), random_seed=1,
        learning_rate=0.01, progressbar=False, steps_per_execution=100,
    )  # fmt: skip


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def until(done: Callable[[], Any]) -> None:
    """Wait for a state."""
    end = time.monotonic() + 60
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)


def full_disk(folder: Path) -> vt.Fit:
    """No room from the start."""
    with mounted(folder / "full", "size=256k") as small:
        return fitted(small / "run.db")


def room_again(folder: Path) -> vt.Fit:
    """No room, and then some: the journal catches up."""
    with mounted(folder / "again", "size=8m") as small:
        (small / "large").write_bytes(b"x" * ((8 << 20) - (200 << 10)))
        journal = vt.Journal(small / "run.db")

        def make_room() -> None:
            until(lambda: journal.problem)
            (small / "large").unlink()
            until(lambda: journal.problem is None)

        fit = fitted(journal, Act(make_room))
        if not vt.Trace.open(small / "run.db").equals(fit.trace):
            raise AssertionError("the journal did not catch up")
        return fit


def read_only(folder: Path) -> vt.Fit:
    """A file system that nobody may write to."""
    with mounted(folder / "ro", "size=1m") as place:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        return fitted(place / "run.db")


def overwritten(folder: Path) -> vt.Fit:
    """Something else writes into the file while it grows."""
    path = folder / "overwritten.db"

    def spoil() -> None:
        log = path.with_name(path.name + "-wal")
        until(lambda: log.exists() and log.stat().st_size > 8192)
        for written in (path, log):
            with written.open("r+b") as file:
                file.write(b"\0" * written.stat().st_size)

    fit = fitted(path, Act(spoil))
    try:
        whole = vt.Trace.open(path).equals(fit.trace)
    except ValueError as error:  # it is said when somebody reads it, and no row is invented
        print("    overwritten:", error)
    else:
        if not whole:
            raise AssertionError("a damaged journal is read as if it were whole")
    return fit


def locked(folder: Path) -> vt.Fit:
    """Another program holds the lock all the time."""
    path = folder / "locked.db"
    fitted(path)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as other:
        other.stdout.readline()
        try:
            return fitted(path)
        finally:
            other.communicate()


def dead_lock(folder: Path) -> vt.Fit:
    """A program that held the lock was killed."""
    path = folder / "dead.db"
    fitted(path)
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); c.execute('UPDATE run SET step = 7'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    return fitted(path)


def writer(folder: Path) -> vt.Fit:
    """The writer fails in a way that nobody thought of."""
    put = JournalFile.put_rows

    def fail(*args: Any) -> None:
        raise RuntimeError("a fault of the writer")

    JournalFile.put_rows = fail  # type: ignore[method-assign]
    try:
        return fitted(folder / "writer.db")
    finally:
        JournalFile.put_rows = put  # type: ignore[method-assign]


def export(folder: Path) -> vt.Fit:
    """A file of the trace finds no room: an error, no half a file, and a trace that is whole."""
    fit = fitted()
    with mounted(folder / "small", "size=256k") as small:
        for ending in ("nc", "csv", "json", "parquet", "html"):
            try:
                fit.trace.save(small / f"trace.{ending}")
            except OSError:
                pass
            else:
                raise AssertionError(f"a file {ending} of a trace that has no room there")
            if left := list(small.iterdir()):
                raise AssertionError(f"half a file is left: {left}")
    return fit


#: Each with how many warnings it may give: what is over before a step boundary needs none.
FAULTS = {
    full_disk: (1,), room_again: (0, 1), read_only: (1,), overwritten: (0, 1), locked: (1,),
    dead_lock: (0,), writer: (1,), export: (0,),
}  # fmt: skip


def main() -> int:
    """Meet them all, and print what was seen."""
    logging.disable()
    whole, bad = fitted().trace, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for fault, expected in FAULTS.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    trace = fault(folder).trace
                except Exception as error:
                    said = f"{type(error).__name__}: {error}"
                else:
                    path = trace.save(folder / f"{fault.__name__}.csv")
                    same = trace.values().tobytes() == whole.values().tobytes()
                    saved = vt.Trace.open(path).values().tobytes() == whole.values().tobytes()
                    said = "" if same and saved else "the trace is another"
            told = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
            if not said and len(told) not in expected:
                said = f"{len(told)} warnings"
            bad += bool(said)
            print(
                f"{fault.__name__:12} {said or 'as it should be'}", *told, sep="\n    ", flush=True
            )
    print(f"{len(FAULTS) - bad} of {len(FAULTS)} as they should be")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
