"""The record on disk: complete, readable at any moment, and never the end of a fit."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit import journal as journals
from vitoolkit.file_systems import network_kind
from vitoolkit.journal_file import JournalFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


def a_fit(path, n=60, **options):
    compile_kwargs = {"mode": "FAST_COMPILE"}
    return vt.fit(
        n, record=path, random_seed=1, progressbar=False, compile_kwargs=compile_kwargs, **options
    )


def until(done, child=None):
    """Wait for a state that will come, as long as the process that brings it lives."""
    end = time.monotonic() + 400  # a busy machine may need them
    while not (found := done()):
        assert child is None or child.poll() is None, "the process has ended before"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def test_the_file_has_the_whole_record(gaussians, path):
    fit = a_fit(path, beta={"z": vt.schedules.linear(0.0, 1.0, steps=20)}, gradient=True)
    assert vt.Trace.open(path).equals(fit.trace)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with JournalFile(path) as file:
        (row,) = file.runs()
        assert (row.status, row.step, row.stop, row.alive) == ("finished", 60, 60, False)
        assert file.checkpoints(1) == [0, 60]
        assert list(row.controls) == ["beta[z]", "learning_rate"]


def test_many_runs_are_in_a_file_each_with_a_number(gaussians, path):
    one, two = a_fit(path), a_fit(path, 40, beta=2.0)
    assert vt.Trace.open(path).equals(two.trace) and vt.Trace.open(path, run=1).equals(one.trace)
    with pytest.raises(KeyError, match=r"no run 3; its runs are 1, 2"):
        vt.Trace.open(path, run=3)
    with pytest.raises(ValueError, match="run=1 is for a journal"):
        vt.Trace.open(one.trace.save(path.with_suffix(".csv")), run=1)


def test_refine_goes_on_in_the_same_run(gaussians, path, fast):
    recorder = vt.Recorder(every=2, record=path)
    inference = vt.ADVI(random_seed=1)
    inference.fit(30, callbacks=[recorder], **fast)
    inference.refine(20, progressbar=False)
    assert vt.Trace.open(path).equals(recorder.trace) and len(recorder.trace) == 25
    with JournalFile(path) as file:
        assert [(row.id, row.stop) for row in file.runs()] == [(1, 50)]


def test_a_fit_of_pymcs_own_loop_has_rows_and_no_checkpoints(gaussians, path, fast):
    recorder = vt.Recorder(record=path)
    pm.fit(30, callbacks=[recorder], random_seed=1, **fast)
    assert vt.Trace.open(path).equals(recorder.trace) and len(recorder.trace) == 30
    with JournalFile(path) as file:
        assert file.checkpoints(1) == []
    with pytest.raises(ValueError, match="rows and no checkpoint"):
        vt.resume(path)


def test_it_is_read_while_it_is_written(gaussians, path):
    go, seen = threading.Event(), []

    def wait(approx, losses, i):
        if i == 30:
            assert go.wait(60)

    fit = a_fit(path, callbacks=wait, background=True)
    try:
        seen = until(lambda: path.exists() and len(_opened(path)) == 30 and _opened(path))
        with JournalFile(path) as file:
            row = file.run()
        assert row.alive and row.status == "running" and row.pid == os.getpid()
        with pytest.raises(RuntimeError, match="run 1 of .* is alive"):
            vt.resume(path)
    finally:
        go.set()
        fit.wait()
    np.testing.assert_array_equal(seen.loss, fit.trace.loss[:30])


def _opened(path):
    try:
        return vt.Trace.open(path)
    except (KeyError, ValueError):  # not yet begun
        return ()


def test_rows_of_the_same_steps_are_replaced_and_none_is_lost(path):
    def rows(first, last, value):
        found = np.full((last - first, 4), float(value))
        found[:, 0] = np.arange(first, last).view(float)
        return found

    with JournalFile(path, write=True) as file:
        file.put_rows(1, rows(0, 10, 1))
        file.put_rows(1, rows(10, 20, 1))
        file.put_rows(1, rows(4, 12, 2))
        found = file.rows(1)
        assert found[:, 0].view(np.int64).tolist() == list(range(20))
        assert found[:, 1].tolist() == [1] * 4 + [2] * 8 + [1] * 8
        file.drop_rows(1, 7)
        assert len(file.rows(1)) == 7 and file.rows(1, stop=3)[:, 1].tolist() == [1] * 3


def test_the_blocks_of_version_1_are_read_and_go_on(path):
    rows = np.random.default_rng(1).normal(size=(7, 4))
    rows[:, 0] = np.arange(7).view(float)
    data = rows[:5].T.astype("<f8").tobytes()
    with JournalFile(path, write=True):
        pass
    with sqlite3.connect(path) as old:
        old.execute("PRAGMA user_version = 1")
        old.execute("INSERT INTO block VALUES (1, 0, 0, 4, 5, ?, ?)", (data, zlib.crc32(data)))
    old.close()
    with JournalFile(path) as file:
        assert file.rows(1).tobytes() == rows[:5].tobytes()
    with JournalFile(path, write=True) as file:
        file.put_rows(1, rows[3:])
        assert file.rows(1).tobytes() == rows.tobytes()
    with sqlite3.connect(path) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (2,)
    now.close()


def test_what_a_write_reads_does_not_grow_with_the_run(path):
    rows, read = np.ones((10, 4)), []
    with JournalFile(path, write=True) as file, file.transaction():
        for first in range(0, 2_000, 10):
            rows[:, 0] = np.arange(first, first + 10).view(float)
            ticks = []
            file._sql.set_progress_handler(lambda ticks=ticks: ticks.append(1), 1)
            file.put_rows(1, rows)
            file._sql.set_progress_handler(None, 1)
            read.append(len(ticks))
        assert file.last_row(1)[0].view(np.int64) == 1_999
    assert max(read[100:]) < 2 * max(read[2:10])


def test_branches_are_kept(path):
    trace = vt.Trace(("z",), ("beta",))
    for step in range(6):
        trace.append(step, 0.1 * step, float(step), -1.0, [2.0], [1.0])
    with JournalFile(path, write=True) as file:
        number = file.add_run(trace)
        file.put_rows(number, trace.kept())
        branch = trace.cut(3)
        file.put_branch(number, 1, branch)
    trace.append(3, 0.9, 7.0, -1.0, [2.0], [1.0])
    with JournalFile(path, write=True) as file:
        file.put_rows(number, trace[3:].kept())
    assert vt.Trace.open(path).equals(trace)


# --- what can be wrong with a file ------------------------------------------------------------


def warned_once(path, match, n=60):
    with pytest.warns(RuntimeWarning, match=match) as told:
        fit = a_fit(path, n)
    ours = [w for w in told if "is not written" in str(w.message)]
    assert len(ours) == 1 and "trace.save" in str(ours[0].message)
    assert fit.status == "finished" and len(fit.trace) == n
    return fit


def test_something_else_is_left_as_it_is(gaussians, path):
    path.write_bytes(b"a,b\n1,2\n")
    warned_once(path, "not an SQLite file.*another file")
    assert path.read_bytes() == b"a,b\n1,2\n"


def test_another_sqlite_file_is_left_as_it_is(gaussians, path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    warned_once(path, "another SQLite file")
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_a_journal_of_a_newer_version_is_left_alone(gaussians, path):
    a_fit(path)
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    warned_once(path, "version 99")
    with pytest.raises(ValueError, match="version 99"):
        vt.Trace.open(path)


def test_a_corrupt_journal(gaussians, path):
    a_fit(path)
    whole = bytearray(path.read_bytes())
    whole[4096:] = bytes(len(whole) - 4096)
    path.write_bytes(bytes(whole))
    warned_once(path, "another file")
    with pytest.raises(ValueError, match="run.db"):
        vt.Trace.open(path)


def test_rows_that_were_changed_are_seen(gaussians, path):
    a_fit(path)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE block SET data = zeroblob(length(data))")
    file.close()
    with pytest.raises(ValueError, match="damaged: the rows from step 0"):
        vt.Trace.open(path)


def test_the_lock_of_another_program(gaussians, path, monkeypatch):
    a_fit(path)
    monkeypatch.setattr("vitoolkit.journal_file.PATIENCE", 0.05)
    monkeypatch.setattr(JournalFile.__init__, "__kwdefaults__", {"write": False, "patience": 0.05})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        warned_once(path, "another program holds its lock.*catches up")
    finally:
        other.close()


def test_the_lock_of_a_dead_process_is_none(gaussians, path):
    a_fit(path)
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); c.execute('UPDATE run SET step = 7'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    fit = a_fit(path)
    assert vt.Trace.open(path).equals(fit.trace)


def test_a_full_disk_and_then_room_again(gaussians, path, monkeypatch):
    full, put = threading.Event(), JournalFile.put_rows
    full.set()

    def put_rows(self, *args):
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        put(self, *args)

    monkeypatch.setattr(JournalFile, "put_rows", put_rows)
    monkeypatch.setattr(journals, "AGAIN", 0.05)
    fit = None

    ready = threading.Event()

    def wait(approx, losses, i):
        assert ready.wait(60)
        if i == 30:
            until(lambda: fit.recorder.journal.problem)
        if i == 32:
            full.clear()
            until(lambda: fit.recorder.journal.problem is None)

    with pytest.warns(RuntimeWarning, match="the disk is full. The fit goes on.*free some space"):
        fit = a_fit(path, callbacks=wait, background=True)
        ready.set()
        fit.wait()
    assert vt.Trace.open(path).equals(fit.trace)


def test_a_file_that_cannot_be_made(gaussians, path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vitoolkit.journal_file._make", refuse)
    warned_once(path, "a folder that you may write to")


def test_a_network_file_system(gaussians, path, monkeypatch):
    monkeypatch.setattr(journals, "network_kind", lambda path: "nfs4")
    warned_once(path, r"network file system \(nfs4\).*a disk of this machine")
    assert not path.exists()


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/home/me/run.db", "nfs4"), ("/run.db", None), ("/mnt/a b/run.db", "fuse.sshfs")],
)
def test_file_systems_are_told_apart(place, kind):
    mounts = "/dev/a / ext4 rw 0 0\nh:/x /home nfs4 rw 0 0\nh: /mnt/a\\040b fuse.sshfs rw 0 0\n"
    assert network_kind(place, mounts) == kind


@pytest.mark.parametrize(
    ("record", "error", "match"),
    [
        (7, TypeError, "path of a journal, received 7"),
        ("nowhere/run.db", FileNotFoundError, "there is no folder 'nowhere'"),
        (".", ValueError, "is a folder"),
    ],
)
def test_what_cannot_be_a_journal_is_said_before_anything_is_compiled(
    gaussians, record, error, match
):
    with pytest.raises(error, match=match):
        a_fit(record)


def test_a_fit_that_fails_keeps_its_last_good_checkpoint(gaussians, path):
    def fail(approx, losses, i):
        if i == 40:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        a_fit(path, callbacks=fail)
    with JournalFile(path) as file:
        assert file.run().status == "failed"
    assert vt.Trace.open(path).attrs["error"] == "OSError: gone" and len(vt.Trace.open(path)) == 40


def test_sigterm_saves_and_ends(tmp_path):
    path = tmp_path / "run.db"
    child = subprocess.Popen(
        [sys.executable, os.path.join(os.path.dirname(__file__), "runs.py"), "full-rank", path,
         "1000000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: path.exists() and len(_opened(path)) > 5, child)
        child.terminate()
        assert child.wait(400) == -signal.SIGTERM
    finally:
        child.kill()
    with JournalFile(path) as file:
        row = file.run()
        assert row.status == "stopped" and file.checkpoints(1)[-1] == row.step
    trace = vt.Trace.open(path)
    assert len(trace) == row.step and trace.events[-1].source == "SIGTERM"


def test_a_checkpoint_knows_of_what_a_rule_has_decided_at_its_step(gaussians, path, monkeypatch):
    """It is in the state, and is not decided again by the fit that goes on from there."""

    class Up(vt.rules.Rule):
        every = 20

        def begin(self, value):
            self.now = value

        def value(self, step):
            self.now *= 1.01
            return self.now

    monkeypatch.setattr(journals, "SHARE", 0)
    journal = vt.Journal(path, steps=20, keep=10)
    fit = a_fit(journal, 100, beta=vt.Beta(1.0, rule=Up()))
    decided = [event.step for event in fit.trace.events]
    with JournalFile(path) as file:
        kept = {step: file.checkpoint(1, step).events for step in file.checkpoints(1)}
    assert len(kept) > 2 and decided == [20, 40, 60, 80, 100]
    assert kept == {step: sum(at <= step for at in decided) for step in kept}
