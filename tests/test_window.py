"""A trace larger than what may stay in memory: older rows are in the journal alone, unseen."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import weakref
from functools import partial

import numpy as np
import pytest
from runs import model_of, options_of, resumed
from test_dashboard import notebook  # noqa: F401  # a fixture
from test_journal import a_fit, until

import vitoolkit as vt
from vitoolkit import journal as journals
from vitoolkit.away import Away, RowsGone
from vitoolkit.dashboard.far import FarPanel, FarRun
from vitoolkit.events import Event
from vitoolkit.journal_file import JournalFile, Shelf
from vitoolkit.memory import warn_of_a_large_trace
from vitoolkit.parts import Part
from vitoolkit.verdict import verdict_of
from vitoolkit.views.picture import summary_html
from vitoolkit.views.tables import scales_of

N = 2_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of some hundred rows, written without a wait."""
    monkeypatch.setattr("vitoolkit.table.LARGE", 8_000)
    monkeypatch.setattr("vitoolkit.journal_file.CHUNK", 8_000)
    monkeypatch.setattr("vitoolkit.journal_file.BLOCK", 4_000)
    monkeypatch.setattr(journals, "WRITE", 0.02)
    monkeypatch.setattr(journals, "LOOK", 0.01)


def grow(trace, first, n, every, seed=0):
    """More rows, now and then one that is not finite."""
    rng = np.random.default_rng(seed)
    step = np.arange(first, first + n * every, every)
    loss = rng.normal(size=n)
    loss[::90] = np.nan
    terms = rng.normal(size=(n, 7))
    terms[5::40] = np.inf
    control = np.linspace(1.0, 2.0, n)[:, None]
    for start in range(0, n, 30):
        part = slice(start, start + 30)
        trace.extend(step[part], 0.1 * step[part], loss[part], terms[part], control[part])


def a_trace(every=1, n=N):
    trace = vt.Trace(("z", "w"), ("beta",), parts=[Part("z", ("k",), (3,))], measures=("norm",))
    grow(trace, 0, n, every)
    trace.add_event(Event(3, 1.5, "set", "beta", 0.2, 0.3, "user"))
    return trace


def filed(path, trace, *, memory=0):
    """A twin of a trace, most of whose rows are in a file alone."""
    with JournalFile(path, write=True) as file, file.transaction():
        number = file.add_run(trace, first=0, step=0, stop=1)
        file.put_table(number, trace)
        file.put_events(number, 0, trace.events)
    twin = pickle.loads(pickle.dumps(trace))
    twin = twin.of_pieces(
        np.array(twin[start : start + 100].kept()) for start in range(0, len(twin), 100)
    )
    twin.attrs = dict(trace.attrs)
    for event in trace.events:
        twin.add_event(event)
    twin.let_go(twin[:], memory, partial(Shelf, path, number))
    return twin


def far(trace):
    """How many of the rows are in a file."""
    return sum(len(piece) for piece in trace._read().pieces if isinstance(piece, Away))


def same_columns(one, other, *, but=()):
    assert one.columns == other.columns
    for name in ("step", "time"):
        if name not in but:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in one.columns:
        np.testing.assert_array_equal(one.column(name), other.column(name))


# --- a trace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_all_reads_are_those_of_a_trace_in_memory(path, every):
    whole = a_trace(every)
    trace = filed(path, whole)
    assert far(trace) > 0.9 * N and trace.held < 0.1 * whole.held
    same_columns(whole, trace)
    assert trace.equals(whole) and whole.equals(trace)
    for rows in (slice(3, 700, 7), slice(-100, None), slice(150, 151), slice(None, None, 250)):
        assert trace[rows].equals(whole[rows])
    np.testing.assert_array_equal(trace.values(), whole.values())
    np.testing.assert_array_equal(trace.kl.array, whole.kl.array)
    np.testing.assert_array_equal(trace.kl_by["z"], whole.kl_by["z"])
    np.testing.assert_array_equal(trace[-3:].measure["norm"], whole[-3:].measure["norm"])
    assert trace.summary() == whole.summary() and repr(trace) == repr(whole)
    assert trace.to_xarray().identical(whole.to_xarray())
    assert trace.to_dataframe().equals(whole.to_dataframe())
    assert repr(verdict_of(trace)) == repr(verdict_of(whole))
    assert scales_of(trace, None) == scales_of(whole, None)
    assert trace.not_finite() == whole.not_finite() and trace.has_loss
    assert summary_html(trace) == summary_html(whole)
    for step in (0, 1, 299, 300, every * N, every * N + 1):
        assert trace.rows_before(step) == whole.rows_before(step) == int((whole.step < step).sum())


@pytest.mark.parametrize("suffix", [".nc", ".csv", ".json"])
def test_it_is_saved_whole(path, suffix):
    whole = a_trace(n=600)
    trace = filed(path, whole)
    saved = trace.save(path.with_suffix(suffix))
    assert vt.Trace.open(saved).equals(whole)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copy_needs_no_file(path, clone):
    whole = a_trace(n=600)
    other = clone(filed(path, whole))
    path.unlink()
    assert other.equals(whole) and far(other) == 0


def test_one_column_needs_no_more_memory_than_itself_and_a_chunk(path, monkeypatch):
    trace = filed(path, a_trace())
    alive, most = [], []
    load = Shelf.__call__

    def counted(self, first, last):
        rows = load(self, first, last)
        alive.append(weakref.ref(rows))
        most.append(sum(ref() is not None for ref in alive))
        return rows

    monkeypatch.setattr(Shelf, "__call__", counted)
    _ = trace.loss
    assert len(alive) > 10 and max(most) <= 2


def test_what_was_read_last_is_not_read_again(path, monkeypatch):
    trace = filed(path, a_trace())
    read = []
    load = Shelf.__call__
    monkeypatch.setattr(Shelf, "__call__", lambda self, *a: read.append(a) or load(self, *a))
    view = trace.view(50)
    assert len(read) == len(set(read)) == far(trace) // 100 and view.rows == N


def test_a_view_goes_back_without_reading_all_again(path, monkeypatch):
    trace = filed(path, a_trace())
    whole = a_trace()
    view, twin = trace.view(64), whole.view(64)
    read = []
    load = Shelf.__call__
    monkeypatch.setattr(Shelf, "__call__", lambda self, *a: read.append(a) or load(self, *a))
    for one in (trace, whole):
        one.go_back(1_700, 0)
        grow(one, 1_700, 200, 1, seed=5)
    for what in ("low", "high", "last", "nonfinite"):
        np.testing.assert_array_equal(
            getattr(view.update(), what).array, getattr(twin.update(), what).array
        )
    fresh = whole.view(64)
    np.testing.assert_array_equal(view.step, fresh.step)
    np.testing.assert_array_equal(view.low.array, fresh.low.array)
    np.testing.assert_allclose(view.mean.array, fresh.mean.array, rtol=1e-12)
    assert len(read) <= 1


def test_rows_are_appended_after_those_of_a_file(path):
    whole = a_trace(every=3)
    trace = filed(path, whole)
    for one in (trace, whole):
        one.go_back(1_000, 0)  # in the middle of a chunk whose steps have gaps
        with pytest.raises(ValueError, match="1000 or later is accepted, received 999"):
            one.append(999, 0.0, 0.0, 0.0, [1.0] * 2, [1.0], [1.0] * 3, [1.0])
        grow(one, 1_001, 400, 1, seed=3)
    same_columns(whole, trace)
    for mine, theirs in zip(trace.branches, whole.branches, strict=True):
        assert mine.step == theirs.step and mine.rows.equals(theirs.rows)


def test_rows_are_found_wherever_the_run_has_left_them(path):
    """Slices of any moment, and branches of branches, after the file was rewritten."""
    trace, whole = a_trace(), a_trace()
    moments = []
    with JournalFile(path, write=True) as file:
        with file.transaction():
            number = file.add_run(trace)
            file.put_table(number, trace)
        seen = 0
        for turn, (back, line) in enumerate([(1_500, 0), (700, 1), (1_200, 0), (900, 3)]):
            trace.let_go(trace[:], 0, partial(Shelf, path, number))
            moments.append((trace[:], whole[:]))
            for one in (trace, whole):
                one.go_back(back, line)
                grow(one, back, 300, 1, seed=turn)
            with file.transaction():
                new = trace.branches[seen:]
                for i, branch in enumerate(new, seen + 1):
                    file.put_branch(number, i, branch)
                seen = len(trace.branches)
                file.put_table(number, trace[trace.rows_before(new[0].step) :])
        trace.let_go(trace[:], 0, partial(Shelf, path, number))
        moments.append((trace[:], whole[:]))
    assert far(trace) and all(far(branch.rows) for branch in trace.branches if len(branch.rows))
    for mine, theirs in moments:
        same_columns(theirs, mine)
        for branch, other in zip(mine.branches, theirs.branches, strict=True):
            same_columns(other.rows, branch.rows)
    with JournalFile(path) as file:
        for memory in (None, 0):
            found = file.fill(trace.of_pieces([]), number, memory=memory)
            same_columns(whole, found)
            for branch, other in zip(found.branches, whole.branches, strict=True):
                same_columns(other.rows, branch.rows)
        assert far(found) and not far(file.fill(trace.of_pieces([]), number, memory=None))


def test_a_run_that_is_opened_leaves_rows_in_the_file(path, monkeypatch):
    whole = a_trace()
    filed(path, whole)
    monkeypatch.setattr(JournalFile.fill, "__defaults__", (None, None, 0))
    trace = vt.Trace.open(path)
    assert far(trace) > 0.9 * N and trace.equals(whole)


# --- the file is gone ---------------------------------------------------------------------------


def test_a_file_that_is_gone_is_named_with_what_to_do(path):
    trace = filed(path, a_trace())
    path.rename(path.with_name("elsewhere.db"))
    with pytest.raises(RowsGone, match=r"run 1 of the journal .*run.db.*Put the file back"):
        _ = trace.loss
    assert len(trace) == N and len(trace[-50:].loss) == 50 and "rows" in trace.summary()
    path.with_name("elsewhere.db").rename(path)
    assert len(trace.loss) == N


def test_rows_that_are_damaged_or_taken_out_are_said(path):
    trace = filed(path, a_trace())
    with JournalFile(path, write=True) as file:
        file._sql.execute("UPDATE block SET data = zeroblob(length(data)) WHERE first = 0")
        file._sql.execute("DELETE FROM block WHERE first > 500 AND first < 700")
    with pytest.raises(RowsGone, match="is damaged: the rows from step 0"):
        _ = trace[:10].loss
    with pytest.raises(RowsGone, match="were taken out by somebody else"):
        _ = trace[600:610].loss
    assert len(trace[300:400].loss) == 100


# --- a fit --------------------------------------------------------------------------------------


class Bounded:
    """Waits now and then until all but the last rows have left the memory."""

    def __init__(self, most):
        self.most, self.fit, self.seen = most, None, 0
        self.ready = threading.Event()

    def __call__(self, approx, losses, i):
        assert self.ready.wait(60)
        if i % 400 == 399:
            trace = self.fit.trace
            until(lambda: trace.held <= self.most)
            self.seen += 1


def windowed(path, n=N, *, memory=0, **options):
    """A fit most of whose rows are in the file before it ends."""
    bounded = Bounded(memory + 2 * 256 * 64)
    journal = vt.Journal(path, memory=memory)
    fit = a_fit(journal, n, callbacks=[bounded], background=True, **options)
    bounded.fit = fit
    bounded.ready.set()
    return fit, bounded


def test_a_fit_is_the_same_and_its_memory_bounded(gaussians, path):
    fit, bounded = windowed(path, memory=20_000)
    fit.wait()
    whole = a_fit(None, N)
    assert bounded.seen == N // 400 and far(fit.trace) > N // 2
    same_columns(whole.trace, fit.trace, but=["time"])
    assert fit.trace.attrs["verdict"] == whole.trace.attrs["verdict"]
    assert vt.Trace.open(path).equals(fit.trace)
    np.testing.assert_array_equal(fit.inference.hist, fit.trace.loss)


def test_rewinds_with_rows_in_the_file(gaussians, path):
    def run(record):
        ready, kept = threading.Event(), []

        def keep(approx, losses, i):
            assert ready.wait(60)
            if i == 400 and not kept:
                kept.append(fit.bookmark("early"))

        fit = a_fit(record, 600, callbacks=keep, background=True)
        ready.set()
        fit.wait()
        for n in (900, 500):
            fit.refine(n)
            fit.rewind("early")
            fit.refine(300)
        return fit

    fit, whole = run(vt.Journal(path, memory=0)), run(None)
    until(lambda: far(fit.trace) > 400)
    assert [b.step for b in fit.trace.branches] == [b.step for b in whole.trace.branches]
    same_columns(whole.trace, fit.trace, but=["time"])
    for mine, theirs in zip(fit.trace.branches, whole.trace.branches, strict=True):
        same_columns(theirs.rows, mine.rows, but=["time"])
    assert far(fit.trace.branches[0].rows)
    assert vt.Trace.open(path).equals(fit.trace)


def test_a_rollback_with_rows_in_the_file(gaussians, path):
    spoiled = []

    def spoil(approx, losses, i):
        if i == 1_500 and not spoiled:
            spoiled.append(i)
            (p, *_) = approx.params
            p.set_value(np.full_like(p.get_value(), np.nan))

    fit = a_fit(vt.Journal(path, memory=0), N, callbacks=[spoil])
    assert fit.status == "finished"
    assert "rollback" in {event.kind for event in fit.trace.events}
    assert far(fit.trace) > 500 and vt.Trace.open(path).equals(fit.trace)


def test_a_journal_that_fails_keeps_the_rows_in_memory(gaussians, path, monkeypatch):
    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalFile, "put_rows", full)
    with pytest.warns(RuntimeWarning, match="the disk is full"):
        fit = a_fit(vt.Journal(path, memory=0), N)
    assert far(fit.trace) == 0 and len(fit.trace.loss) == N


def test_a_file_that_is_taken_away_is_written_anew(gaussians, path, monkeypatch):
    monkeypatch.setattr(journals, "AGAIN", 0.05)

    def take(approx, losses, i):
        if i == 10:
            until(lambda: path.exists() and len(_rows_of(path)))
            for end in ("", "-wal", "-shm"):
                path.with_name(f"{path.name}{end}").unlink(missing_ok=True)

    fit = a_fit(vt.Journal(path, memory=0), N, callbacks=take)
    assert len(fit.trace.loss) == N
    if path.exists():  # else SQLite has not seen that it writes to what is no more
        assert vt.Trace.open(path).equals(fit.trace)
    else:
        assert far(fit.trace) == 0


def _rows_of(path):
    with JournalFile(path) as file:
        return file.runs()


def test_a_fit_ends_as_it_did_when_its_verdict_cannot_be_read(gaussians, path, monkeypatch):
    monkeypatch.setattr("vitoolkit.verdict.MOST_ROWS", 10**6)

    def take(approx, losses, i):
        if i == N - 2:
            until(lambda: far(fit.trace) > N // 2)
            path.unlink()

    ready = threading.Event()
    journal = vt.Journal(path, memory=0)
    fit = a_fit(
        journal,
        N,
        callbacks=[lambda *a: ready.wait(60) and None, take],
        background=True,
    )
    ready.set()
    fit.wait()
    assert fit.status == "finished"
    assert "No verdict: the rows of steps" in fit.trace.attrs["verdict"]


def test_readers_see_whole_rows_while_others_leave(gaussians, path):
    fit, bounded = windowed(path, 2 * N)
    wrong, stop = [], threading.Event()

    def read():
        while not stop.wait(0.002):
            trace = fit.trace[:]
            step, loss = trace.step, trace.loss
            if len(loss) != len(trace) or (step != np.arange(len(trace))).any():
                wrong.append(len(trace))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    fit.wait()
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong and far(fit.trace) > N


def test_a_killed_fit_goes_on_with_rows_in_the_file(path):
    child = subprocess.Popen(
        [sys.executable, os.path.join(os.path.dirname(__file__), "runs.py"), "full-rank", path,
         "1000000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def far_enough():
        if not path.exists():
            return False
        with JournalFile(path) as file:
            runs = file.runs()
            return bool(runs) and any(step > 1_000 for step in file.checkpoints(runs[-1].id))

    try:
        until(far_enough, child)
    finally:
        child.kill()
        child.wait()
    with JournalFile(path) as file:
        step = file.checkpoints(1)[-1]
        before = file.rows(1, stop=step)
    journal = vt.Journal(path, memory=0)
    fit = resumed("full-rank", journal, n=step + 300)
    assert far(fit.trace) > step // 2
    np.testing.assert_array_equal(fit.trace[:step].kept(), before)
    plain, others = options_of("full-rank")
    whole = vt.fit(step + 300, model=model_of("full-rank"), **plain, **others)
    same_columns(whole.trace, fit.trace, but=["time"])
    np.testing.assert_array_equal(whole.inference.hist, fit.inference.hist)
    assert vt.Trace.open(path).equals(fit.trace)


def test_a_panel_draws_rows_of_the_file(gaussians, path, notebook, monkeypatch):  # noqa: F811
    """Its own, in which rows have left before they are drawn, and that of another process."""
    dashboard, back = vt.Dashboard(), []

    def rewind(approx, losses, i):
        if i == 1_200 and not back:
            until(lambda: far(fit.trace) > 1_000)
            dashboard._panel.refresh()
            back.append(fit.rewind(1_000))

    ready = threading.Event()
    journal = vt.Journal(path, memory=0, steps=100)
    waits = [lambda *told: ready.wait(60) and None, rewind]
    fit = a_fit(journal, N, dashboard=dashboard, callbacks=waits, background=True)
    ready.set()
    fit.wait()
    panel = dashboard._panel
    panel._draw(N)
    assert far(fit.trace) > N // 2 and panel.view.rows == len(fit.trace) and back
    assert "svg+xml" in summary_html(fit.trace)
    assert fit.trace.save(path.with_suffix(".html")).stat().st_size > 10_000
    monkeypatch.setattr(JournalFile.fill, "__defaults__", (None, None, 0))
    there = FarPanel(path, 1)
    until(lambda: there.panel.view.rows == N)
    assert far(there.run.trace) > N // 2
    there.panel.close()


def test_a_run_that_is_followed_leaves_rows_in_the_file_as_it_goes_back(path, monkeypatch):
    monkeypatch.setattr("vitoolkit.dashboard.far.MEMORY", 0)
    whole = a_trace(n=300)
    with JournalFile(path, write=True) as file:
        number = file.add_run(whole, first=0, step=0, stop=1)
        file.put_table(number, whole)
        there = FarRun(path, number)
        for n, backs in ((900, [700, 400]), (600, [500]), (400, [])):
            rows = len(whole)
            grow(whole, rows, n, 1, seed=n)
            file.put_table(number, whole[rows:])
            there.look(file)
            for back in backs:  # two of them between two looks
                branch = whole.go_back(back, len(whole.branches))
                file.put_branch(number, len(whole.branches), branch)
            there.look(file)
    there.close()
    assert far(there.trace) > 300 and far(there.trace.branches[0].rows)
    same_columns(whole, there.trace)
    for mine, theirs in zip(there.trace.branches, whole.branches, strict=True):
        same_columns(theirs.rows, mine.rows)


# --- what is given, and what is said ------------------------------------------------------------


def test_the_window_is_checked_and_survives_pickling(path):
    assert vt.Journal(path).memory == 2**30
    assert pickle.loads(pickle.dumps(vt.Journal(path, memory=12))).memory == 12
    assert copy.deepcopy(vt.Journal(path, memory=None)).memory is None
    with pytest.raises(ValueError, match="memory must be a whole number of bytes from 0 up"):
        vt.Journal(path, memory=-1)
    with pytest.raises(TypeError, match="memory must be a whole number of bytes"):
        vt.Journal(path, memory=1e9)


def test_a_journal_has_room_or_says_so_before_the_fit(path, monkeypatch, caplog, recwarn):
    caplog.set_level("INFO", logger="pymc.variational.inference")
    monkeypatch.setattr("vitoolkit.memory.available", lambda: 4e9)
    monkeypatch.setattr("vitoolkit.memory.room_on_disk", lambda path: 1e11)
    journal = vt.Journal(path)
    warn_of_a_large_trace(10**8, 1, 8, journal)
    assert not recwarn and "all are in" in caplog.text
    assert "6.4 GB" in caplog.text and "the last 1.1 GB in memory" in caplog.text
    with pytest.warns(UserWarning, match=r"6.4 GB.*every=4.*record='run.db'"):
        warn_of_a_large_trace(10**8, 1, 8)
    journal.problem = "it is on a network"
    with pytest.warns(UserWarning, match=r"the trace of 100,000,000 steps will take 6.4 GB"):
        warn_of_a_large_trace(10**8, 1, 8, journal)
    journal.problem = None
    monkeypatch.setattr("vitoolkit.memory.room_on_disk", lambda path: 2e9)
    with pytest.warns(UserWarning, match=r"2.0 GB are free on the disk of .*run.db: every=7 rec"):
        warn_of_a_large_trace(10**8, 1, 8, journal)
    monkeypatch.setattr("vitoolkit.memory.room_on_disk", lambda path: 1e11)
    monkeypatch.setattr("vitoolkit.memory.available", lambda: 1e9)
    with pytest.warns(UserWarning, match=r"will stay in memory, and 1.0 GB are free.*memory=250"):
        warn_of_a_large_trace(10**8, 1, 8, journal)


def test_rows_of_five_thousand_variables(path, monkeypatch):
    """A row of 40 kB: a block is below SQLite's limit, and a chunk has some hundred rows."""
    monkeypatch.undo()
    trace = vt.Trace([f"v{i}" for i in range(5_000)])
    for start in range(0, 1_500, 50):
        step = np.arange(start, start + 50)
        terms = np.broadcast_to(step[:, None].astype(float), (50, 5_001))
        trace.extend(step, step, step, terms, np.empty((50, 0)))
    with JournalFile(path, write=True) as file, file.transaction():
        number = file.add_run(trace)
        file.put_table(number, trace)
        (largest,) = file._sql.execute("SELECT max(rows) FROM block").fetchone()
    assert largest <= 2**22 // 40_000
    trace.let_go(trace[:], 2**20, partial(Shelf, path, number))
    assert trace.held < 3 * 2**24 and far(trace) > 500
    np.testing.assert_array_equal(trace.kl["v4999"], np.arange(1_500.0))
    with JournalFile(path) as file:
        found = file.fill(trace.of_pieces([]), number, memory=2**20)
    assert found.held < 2**25
    np.testing.assert_array_equal(found.loss, np.arange(1_500.0))
