import copy
import pickle
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

from vitoolkit.decimation import View
from vitoolkit.events import Event
from vitoolkit.parts import Part
from vitoolkit.table import Branch
from vitoolkit.trace import Trace


@pytest.fixture
def trace():
    trace = Trace(variables=("z", "w"), controls=("beta",))
    for step in range(5):
        trace.append(step, 0.5 * step, 10.0 - step, -6.0, [1.0 + step, 0.25], [0.1 * step])
    return trace


def filled(rows, variables=3, seed=0, odd=0.0):
    """A trace of random numbers, a part of them NaN or infinite, and its columns in a dict."""
    rng = np.random.default_rng(seed)
    names = [f"v{i}" for i in range(variables)]
    trace = Trace(names, ["beta", "rate"])
    numbers = rng.normal(size=(rows, 4 + variables)) * 100
    for value in (np.nan, np.inf, -np.inf):
        numbers[rng.random(numbers.shape) < odd / 3] = value
    steps = np.cumsum(rng.integers(1, 4, rows))
    terms, control = numbers[:, 1 : 2 + variables], numbers[:, 2 + variables :]
    trace.extend(steps, np.linspace(0, 1, rows), numbers[:, 0], terms, control)
    return trace


# --- writing ------------------------------------------------------------------------------


def test_columns_are_what_was_appended(trace):
    assert len(trace) == 5
    assert trace.step.dtype == np.int64
    assert trace.step.tolist() == [0, 1, 2, 3, 4]
    assert trace.time.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert trace.loss.tolist() == [10.0, 9.0, 8.0, 7.0, 6.0]
    assert trace.data.tolist() == [-6.0] * 5
    assert trace.kl["z"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert trace.kl["w"].tolist() == [0.25] * 5
    assert trace.elbo.tolist() == [-7.25, -8.25, -9.25, -10.25, -11.25]
    assert trace.control["beta"].tolist() == [0.1 * step for step in range(5)]


def test_extend_equals_append(trace):
    other = Trace(("z", "w"), ("beta",), attrs=trace.attrs)
    terms = np.column_stack([trace.data, trace.kl["z"], trace.kl["w"]])
    for rows in (slice(0, 3), slice(3, 3), slice(3, 5)):
        other.extend(
            trace.step[rows],
            trace.time[rows],
            trace.loss[rows],
            terms[rows],
            trace.control.array.T[rows],
        )
    assert other.equals(trace)


def test_rows_survive_growth():
    trace = Trace(("z",), ("beta",))
    rows = 3_000
    for step in range(rows):
        trace.append(step, step, 2.0 * step, 3.0 * step, (4.0 * step,), (5.0 * step,))
    steps = np.arange(rows)
    np.testing.assert_array_equal(trace.step, steps)
    np.testing.assert_array_equal(trace.loss, 2.0 * steps)
    np.testing.assert_array_equal(trace.elbo, -1.0 * steps)
    np.testing.assert_array_equal(trace.control["beta"], 5.0 * steps)


@pytest.fixture
def small_chunks(monkeypatch):
    """A chunk is large from 8,000 bytes on, and one beside it is as large."""
    monkeypatch.setattr("vitoolkit.table.LARGE", 8_000)


def pieces(trace):
    return trace._read().pieces


def test_a_large_trace_is_not_copied_to_grow(small_chunks, monkeypatch):
    made = []
    empty = np.empty

    def counting(shape, *args, **kwargs):
        made.append(shape)
        return empty(shape, *args, **kwargs)

    trace = Trace(("z",), ("beta",))
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", counting)
        for step in range(1_000):
            trace.append(step, step, 2.0 * step, 3.0 * step, (4.0 * step,), (5.0 * step,))
            if step == 255:
                first = pieces(trace)[0]
    rows = [shape[0] for shape in made if shape[0]]
    assert rows[0] == 256 and set(rows[1:]) == {8_000 // 48 + 1}
    assert sum(rows) < 1_000 + 8_000 // 48 + 1  # room for no more than a chunk
    assert np.shares_memory(pieces(trace)[0], first)
    np.testing.assert_array_equal(trace.elbo, -1.0 * np.arange(1_000))


def test_a_small_trace_is_in_one_piece():
    trace = filled(5_000)
    for step in range(int(trace.step[-1]) + 1, int(trace.step[-1]) + 5_001):
        trace.append(step, 1.0, 1.0, 1.0, [1.0] * 3, [1.0] * 2)
    assert len(pieces(trace)) == 1
    assert np.shares_memory(trace.loss, trace.kl["v0"].base)


def test_all_reads_of_many_chunks_are_those_of_one(monkeypatch):
    whole = Trace(("z", "w"), ("beta",), parts=[Part("z", ("k",), (3,))], measures=("norm",))
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(2_000, 11))
    numbers[:, 1:][rng.random((2_000, 10)) < 0.1] = np.nan
    steps = np.arange(2_000) * 3
    terms, control = numbers[:, 2:9], numbers[:, 10:]
    whole.extend(steps, numbers[:, 0], numbers[:, 1], terms, control)
    monkeypatch.setattr("vitoolkit.table.LARGE", 4_000)
    trace = whole[:0]
    while (start := len(trace)) < len(whole):
        rows = slice(start, start + int(rng.choice([1, 7, 60, 130])))
        if rows.stop - start == 1:
            (line,) = numbers[rows]
            one = steps[start], *line[:3], line[3:5], line[10:], line[5:8], line[8:9]
            trace.append(*one)
        else:
            columns = steps, numbers[:, 0], numbers[:, 1], terms, control
            trace.extend(*(column[rows] for column in columns))
    assert len(pieces(trace)) > 10 and len(pieces(whole)) == 1
    for rows in (
        slice(None),
        slice(-100, None),
        slice(3, 1_500, 7),
        slice(100, 120),
        slice(0, 0),
        slice(1_990, 5_000),
        slice(5, None, 401),
    ):
        part, wanted = trace[rows], whole[rows]
        assert len(part) == len(wanted) and part.equals(wanted)
        for name in ("step", "time", "loss", "data", "elbo"):
            got = getattr(part, name)
            np.testing.assert_array_equal(got, getattr(wanted, name), strict=True)
        for name in ("kl", "control", "measure"):
            got, same = getattr(part, name), getattr(wanted, name)
            assert repr(got) == repr(same)
            np.testing.assert_array_equal(got.array, same.array, strict=True)
            for key in same:
                np.testing.assert_array_equal(got[key], same[key], strict=True)
        np.testing.assert_array_equal(part.kl_by["z"], wanted.kl_by["z"], strict=True)
        np.testing.assert_array_equal(part.kl_by.array, wanted.kl_by.array, strict=True)
        for parts in (True, False):
            np.testing.assert_array_equal(part.values(parts=parts), wanted.values(parts=parts))
        for name in trace.columns:
            np.testing.assert_array_equal(part.column(name), wanted.column(name), strict=True)
        for name in ("loss", "step"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(part, name)[:] = 0
        assert pickle.loads(pickle.dumps(part)).equals(wanted)
    assert sum(len(piece) for piece in pieces(trace[-100:])) == 100
    check(trace.view(16, parts=True), whole)


def test_columns_by_name(trace):
    assert trace.column("elbo").tolist() == trace.elbo.tolist()
    assert trace.column("kl[w]").tolist() == [0.25] * 5
    assert trace.column("beta").tolist() == trace.control["beta"].tolist()
    with pytest.raises(KeyError, match=r"no column named 'z'; .*'loss'.*kl\[z\]"):
        trace.column("z")


def test_steps_beyond_the_floats_stay_exact():
    trace = Trace()
    for step in (2**53 + 1, 2**53 + 3, 2**62 + 1):
        trace.append(step, 0.0, 0.0, 0.0)
    assert trace.step.tolist() == [2**53 + 1, 2**53 + 3, 2**62 + 1]


def test_without_variables_data_and_elbo_are_nan():
    trace = Trace(controls=("beta",))
    trace.append(0, 0.0, 5.0, -4.0, (), [1.0])
    assert not trace.has_terms
    assert np.isnan(trace.data).all() and np.isnan(trace.elbo).all()
    assert np.isnan(trace.view().mean["elbo"]).all()
    assert len(trace.kl) == 0


@pytest.mark.parametrize("step", [4, 3, 0, -1])
def test_steps_must_increase(trace, step):
    with pytest.raises(ValueError, match=f"5 or later is accepted, received {step}"):
        trace.append(step, 0.0, 0.0, 0.0, [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=f"5 or later is accepted, received {step}"):
        trace.extend([step], [0.0], [0.0], np.zeros((1, 3)), np.zeros((1, 1)))
    assert len(trace) == 5


def test_the_first_step_is_not_negative():
    with pytest.raises(ValueError, match="0 or later"):
        Trace().append(-1, 0.0, 0.0, 0.0)


def test_steps_within_a_block_must_increase(trace):
    with pytest.raises(ValueError, match="strictly increase"):
        trace.extend([5, 7, 7], np.zeros(3), np.zeros(3), np.zeros((3, 3)), np.zeros((3, 1)))
    assert len(trace) == 5


def test_steps_are_integers(trace):
    with pytest.raises(TypeError):
        trace.append(5.5, 0.0, 0.0, 0.0, [1.0, 2.0], [1.0])
    with pytest.raises(TypeError, match="float64"):
        trace.extend([5.5], [0.0], [0.0], np.zeros((1, 3)), np.zeros((1, 1)))


@pytest.mark.parametrize(("kl", "control"), [([1.0], [1.0]), ([1.0] * 3, [1.0]), ([1.0, 2.0], [])])
def test_append_checks_lengths(trace, kl, control):
    with pytest.raises(ValueError, match=f"received {len(kl)}, {len(control)}, 0 and 0"):
        trace.append(5, 0.0, 0.0, 0.0, kl, control)
    assert len(trace) == 5


@pytest.mark.parametrize("place", range(5))
def test_extend_checks_shapes(trace, place):
    arguments = [[5, 6], np.zeros(2), np.zeros(2), np.zeros((2, 3)), np.zeros((2, 1))]
    arguments[place] = np.zeros((2, 2), dtype=int)
    with pytest.raises(ValueError, match="have the shapes"):
        trace.extend(*arguments)
    assert len(trace) == 5


@pytest.mark.parametrize(
    ("variables", "controls", "message"),
    [
        (("z", "z"), (), "once"),
        ((), ("beta", "beta"), "once"),
        ((), ("elbo",), "cannot be named 'elbo'"),
        (("z",), ("kl[z]",), r"cannot be named 'kl\[z\]'"),
        (("",), (), "not empty"),
    ],
)
def test_clashing_names_are_refused(variables, controls, message):
    with pytest.raises(ValueError, match=message):
        Trace(variables, controls)


@pytest.mark.parametrize("names", ["beta", [1], [None]])
def test_names_are_a_sequence_of_strings(names):
    with pytest.raises(TypeError, match="names"):
        Trace(names)


def test_variable_and_control_may_share_a_name():
    trace = Trace(("beta", "time"), ("beta",))
    trace.append(0, 0.0, 0.0, 0.0, [1.0, 2.0], [3.0])
    assert trace.columns == ("loss", "data", "elbo", "kl[beta]", "kl[time]", "beta")
    assert trace.kl["beta"][0] == 1.0 and trace.control["beta"][0] == 3.0


def test_events_keep_their_order(trace):
    events = (Event(3, 1.5, "set", "beta", 1.0, 4.0, "user"), Event(1, 2.0, "stop"))
    for event in events:
        trace.add_event(event)
    assert trace.events == events
    with pytest.raises(TypeError, match="tuple"):
        trace.add_event((1, 2.0, "stop"))


# --- reading ------------------------------------------------------------------------------


def test_columns_are_read_only_and_share_memory(trace):
    for column in (trace.step, trace.time, trace.loss, trace.data, trace.kl["z"]):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
        assert np.shares_memory(column, pieces(trace)[0])


def test_columns_are_of_their_moment(trace):
    loss, kl = trace.loss, trace.kl
    trace.append(5, 0.0, 0.0, 0.0, [1.0, 2.0], [1.0])
    assert len(loss) == len(kl["z"]) == 5
    assert len(trace.loss) == 6


def test_unknown_names_are_answered_with_the_known(trace):
    with pytest.raises(KeyError, match="'z', 'w'"):
        trace.kl["beta"]
    with pytest.raises(KeyError, match="'beta'"):
        trace.control["z"]
    with pytest.raises(KeyError, match="none"):
        Trace().kl["z"]


def test_slices_are_traces(trace):
    trace.add_event(Event(1, 0.5, "pause"))
    last = trace[-2:]
    assert last.step.tolist() == [3, 4]
    assert last.elbo.tolist() == trace.elbo[-2:].tolist()
    assert last.events == trace.events and last.attrs == trace.attrs
    assert np.shares_memory(last.loss, trace.loss)
    assert trace[::2].step.tolist() == [0, 2, 4]
    assert trace[1:4][1:].kl["z"].tolist() == [3.0, 4.0]


def test_writing_to_a_slice_leaves_the_trace_alone(trace):
    part = trace[:2]
    part.append(9, 0.0, -1.0, 0.0, [1.0, 2.0], [1.0])
    part.attrs["note"] = "mine"
    part.add_event(Event(9, 0.0, "stop"))
    assert part.step.tolist() == [0, 1, 9]
    assert trace.step.tolist() == [0, 1, 2, 3, 4]
    assert "note" not in trace.attrs and trace.events == ()


def test_a_trace_is_indexed_by_forward_slices_only(trace):
    with pytest.raises(TypeError, match="slice"):
        trace[0]
    with pytest.raises(ValueError, match="forward"):
        trace[::-1]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_are_equal_and_go_on(trace, clone):
    trace.add_event(Event(1, 0.5, "pause"))
    other = clone(trace)
    assert other.equals(trace)
    other.append(5, 0.0, 0.0, 0.0, [1.0, 2.0], [1.0])
    assert len(other) == 6 and len(trace) == 5


def test_equals_sees_every_difference(trace):
    def changed(**changes):
        numbers = {"loss": 9.0, "data": -6.0, "kl": [np.nan, 0.0], "control": [1.0], **changes}
        other = Trace(("z", "w"), ("beta",), {"created": "now"})
        other.append(0, 0.0, **numbers)
        return other

    base = changed()
    assert base.equals(changed())
    assert base.equals(changed(kl=[-np.nan, 0.0]))
    for change in (
        {"loss": 9.000000000000002},
        {"kl": [np.nan, -0.0]},
        {"kl": [np.inf, 0.0]},
        {"control": [np.nan]},
    ):
        assert not base.equals(changed(**change))
    other = changed()
    other.attrs["note"] = 1
    assert not base.equals(other)
    other = changed()
    other.add_event(Event(0, 0.0, "stop"))
    assert not base.equals(other)
    assert not base.equals(Trace(("w", "z"), ("beta",)))
    with pytest.raises(TypeError, match="Trace"):
        base.equals(5)


def test_readers_in_other_threads_see_whole_rows():
    trace = Trace(("z",), ("beta",))
    stop = threading.Event()
    failures = []
    reads = []

    def read():
        while not stop.is_set():
            part = trace[:]
            steps = part.step
            wanted = np.arange(len(steps))
            columns = (part.time, part.loss / 2, part.kl["z"] / 3, part.control["beta"] / 4)
            if not all(np.array_equal(column, wanted) for column in (steps, *columns)):
                failures.append(len(steps))
            reads.append(len(steps))

    readers = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for reader in readers:
        reader.start()
    step, limit = 0, time.monotonic() + 60
    while step < 40_000:
        # On a loaded machine the readers may sleep through all of it: now and then one is awaited.
        seen = len(reads)
        while step % 5000 == 0 and len(reads) <= seen + 3 and time.monotonic() < limit:
            time.sleep(0.001)
        if step % 1000 < 500:
            trace.append(step, step, 2 * step, 0.0, [3 * step], [4 * step])
            step += 1
        else:
            k = np.arange(step, step + 500)
            trace.extend(k, k, 2 * k, np.column_stack([0 * k, 3 * k]), 4 * k[:, None])
            step += 500
    stop.set()
    for reader in readers:
        reader.join()
    sys.setswitchinterval(interval)
    assert not failures
    assert len(set(reads)) > 3  # they did read while it grew


def test_readers_see_whole_rows_while_rows_are_taken_out(small_chunks):
    """A row of attempt k says so in every column; no read mixes rows, or counts one that is not."""
    trace = Trace(("z",), ("beta",))
    stop = threading.Event()
    failures = []

    def read():
        while not stop.is_set():
            part = trace[:]
            steps, columns = part.step, (part.time, part.loss / 2, part.kl["z"] / 3)
            good = (np.diff(steps) == 1).all() and all(len(c) == len(steps) for c in columns)
            good = good and all(np.array_equal(columns[0], c) for c in columns)
            good = good and (np.diff(columns[0]) >= 0).all()  # later rows are of later attempts
            if not good:
                failures.append((len(part), steps))

    readers = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(0)
    step = 0
    for attempt in range(200):
        for _ in range(rng.integers(1, 400)):
            trace.append(step, attempt, 2 * attempt, 0.0, [3 * attempt], [1.0])
            step += 1
        if attempt % 2:
            step = int(rng.integers(0, step))
            trace.cut(step)
    stop.set()
    for reader in readers:
        reader.join()
    sys.setswitchinterval(interval)
    assert not failures
    assert len(trace.branches) == 100


def test_memory_is_that_of_the_rows():
    rows, variables = 20_000, 50
    block = 500
    row_bytes = 8 * (4 + variables + 2)
    names = [f"v{i}" for i in range(variables)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    trace = Trace(names, ["beta", "rate"])
    view = trace.view(200)
    for start in range(0, rows, block):
        steps = np.arange(start, start + block)
        zeros = np.zeros(block)
        trace.extend(steps, zeros, zeros, np.zeros((block, 1 + variables)), np.zeros((block, 2)))
        view.update()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    of_the_view = 9 * 8 * view.points * len(trace.columns)
    assert used < 2 * rows * row_bytes + of_the_view


# --- branches -----------------------------------------------------------------------------


def test_a_cut_keeps_the_rows_as_a_branch(trace):
    trace.add_event(Event(3, 1.5, "set", "beta", 0.2, 0.3, "user"))
    before, loss = trace[:], trace.loss
    branch = trace.cut(2)
    assert trace.branches == (branch,)
    assert branch.step == 2 and branch.when.endswith("+00:00")
    assert branch.rows.step.tolist() == [2, 3, 4]
    assert branch.rows.elbo.tolist() == before.elbo[2:].tolist()
    assert trace.step.tolist() == [0, 1]
    assert trace.events == before.events
    trace.append(2, 1.1, -1.0, -6.0, [1.0, 2.0], [1.0])
    trace.append(3, 1.2, -2.0, -6.0, [1.0, 2.0], [1.0])
    assert trace.loss.tolist() == [10.0, 9.0, -1.0, -2.0]
    assert branch.rows.loss.tolist() == [8.0, 7.0, 6.0]
    assert loss.tolist() == before.loss.tolist() == [10.0, 9.0, 8.0, 7.0, 6.0]
    assert before.branches == () and before.step.tolist() == [0, 1, 2, 3, 4]
    assert trace.summary()["branches"] == "1, with 3 rows that were left behind"


def test_cut_again_and_nothing_to_cut(trace):
    assert trace.cut(5) is None and trace.branches == ()
    first = trace.cut(4)
    trace.append(7, 1.0, 1.0, -6.0, [1.0, 2.0], [1.0])
    second = trace.cut(5)  # 7 is the first that is recorded
    third = trace.cut(0)
    assert trace.branches == (first, second, third)
    assert [branch.step for branch in trace.branches] == [4, 5, 0]
    assert [len(branch.rows) for branch in trace.branches] == [1, 1, 4]
    assert len(trace) == 0
    trace.append(0, 1.0, 1.0, -6.0, [1.0, 2.0], [1.0])
    assert trace.step.tolist() == [0]
    with pytest.raises(TypeError):
        trace.cut(1.5)


def test_steps_after_a_cut_still_increase(trace):
    trace.cut(3)
    with pytest.raises(ValueError, match="3 or later is accepted, received 2"):
        trace.append(2, 0.0, 0.0, 0.0, [1.0, 2.0], [1.0])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_have_the_branches(trace, clone):
    trace.cut(3)
    other = clone(trace)
    assert other.equals(trace) and trace[:].equals(trace)
    assert isinstance(other.branches[0], Branch)
    assert other.branches[0].rows.step.tolist() == [3, 4]
    other.cut(1)
    assert not other[:1].equals(trace[:1])  # another branch
    assert len(trace.branches) == 1


def test_equals_sees_every_difference_of_a_branch():
    def branched(loss=1.0, step=1):
        trace = Trace(attrs={"created": "now"})
        trace.append(0, 0.0, 0.0, 0.0)
        trace.append(1, 0.0, loss, 0.0)
        branch = trace.cut(step)
        trace._store.branches = (branch._replace(when="then"),)
        return trace

    assert branched().equals(branched())
    assert branched(np.nan).equals(branched(-np.nan))
    assert not branched(-0.0).equals(branched(0.0))
    assert not branched(step=1)[:0].equals(branched(step=0)[:0])


@pytest.mark.parametrize("kept", [0, 10, 399, 400])
def test_a_view_follows_a_cut(kept):
    source = filled(400, variables=2, odd=0.1)
    trace = source[:]
    view = trace.view(8)
    old = view.mean.array.copy(), view.mean
    trace.cut(source.step[kept] if kept < 400 else source.step[-1] + 1)
    check(view.update(), trace)
    np.testing.assert_array_equal(old[0], old[1].array)
    terms = np.column_stack([source.data, source.kl.array.T])
    columns = source.step, -source.time, source.loss, terms, source.control.array.T
    trace.extend(*(column[kept:] for column in columns))
    check(view.update(), trace)


# --- showing ------------------------------------------------------------------------------


def test_repr(trace):
    assert repr(trace) == (
        "Trace(5 rows, steps 0..4, variables=('z', 'w'), controls=('beta',), ELBO -9.25 nats)"
    )
    assert repr(Trace()) == "Trace(0 rows, variables=(), controls=())"


def test_summary_takes_the_mean_of_the_last_rows():
    trace = Trace(("z",))
    for step in range(150):
        trace.append(step, 0.0, 1.0, 0.0, [1000.0 if step < 50 else 2.0])
    summary = trace.summary()
    assert summary["ELBO"] == "-2 nats" and summary["KL of z"] == "2 nats"
    assert summary["ELBO and KL"] == "means of the last 100 rows"


def test_summary_says_which_losses_are_not_finite():
    trace = Trace(("z", "w"))
    for step in range(400):
        odd = {5: np.nan, 300: np.inf, 350: -np.inf}.get(step, 1.0)
        trace.append(step, 0.0, odd, 2.0 if step < 399 else np.nan, [1.0, odd])
    summary = trace.summary()
    assert list(summary)[:4] == ["rows", "steps", "duration", "not finite"]
    assert summary["not finite"] == "the loss of 3 of 400 rows"
    assert summary["ELBO and KL"] == "means of the finite ones of the last 100 rows"
    assert summary["ELBO"] == "0 nats" and summary["KL of w"] == "1 nats"
    assert "ELBO 0 nats" in repr(trace)
    assert "not finite" not in trace[10:200].summary()
    assert trace[10:60].summary()["ELBO and KL"] == "means of all rows"


def test_final_is_the_mean_of_the_last_finite_values():
    trace = Trace(("z",), ("beta",), parts=[Part("z", ("k",), (2,))])
    assert np.isnan(trace.final("loss"))
    for step in range(150):
        loss = 1e6 if step < 50 else np.nan if step < 100 else step
        trace.append(step, 0.0, loss, -1.0, [step], [np.inf], [step, 1e308 * 1.5])
    assert trace.final("loss") == np.arange(100, 150).mean()
    assert trace.final("kl[z]") == trace.final("kl[z, k=0]") == np.arange(50, 150).mean()
    assert trace.final("elbo") == -1 - np.arange(50, 150).mean()
    assert np.isnan(trace.final("beta"))
    assert trace.final("kl[z, k=1]") == np.inf  # the sum of finite ones
    with pytest.raises(KeyError, match="no column named 'step'"):
        trace.final("step")


def test_summary_of_many_variables_is_short():
    trace = Trace([f"v{i}" for i in range(50)])
    trace.append(0, 0.0, 0.0, 0.0, np.arange(50.0))
    summary = trace.summary()
    assert len(summary) < 20
    assert summary["KL of v49"] == "49 nats"
    assert summary["KL of 40 more"] == f"{sum(range(40))} nats"


def test_html_is_escaped():
    trace = Trace(("<script>",), ("a&b",))
    trace.append(0, 0.0, np.inf, -np.inf, [-np.inf], [np.nan])
    text = trace._repr_html_()
    assert "<script>" not in text and "KL of &lt;script&gt;" in text and "a&amp;b" in text
    assert Trace()._repr_html_().count("<tr>") == 2


# --- views --------------------------------------------------------------------------------


def check(view, trace):
    """Compare a view with its definition, computed anew from all rows."""
    rows, width = len(trace), view.width
    assert view.rows == rows
    assert len(view) == len(view.step) == -(-rows // width) <= view.points
    assert width == 1 or rows > view.points * width // 2
    columns = dict(zip(trace.columns, trace.values().T, strict=True))
    for bucket in range(len(view)):
        part = slice(bucket * width, (bucket + 1) * width)
        assert view.step[bucket] == trace.step[part][-1]
        assert view.time[bucket] == trace.time[part][-1]
        for name, column in columns.items():
            values = column[part]
            finite = values[np.isfinite(values)]
            low, high, mean = np.nan, np.nan, np.nan
            if len(finite):
                low, high, mean = finite.min(), finite.max(), finite.mean()
            np.testing.assert_equal(view.low[name][bucket], low)
            np.testing.assert_equal(view.high[name][bucket], high)
            np.testing.assert_allclose(view.mean[name][bucket], mean, rtol=1e-12, atol=1e-12)
            np.testing.assert_equal(view.last[name][bucket], values[-1])
            assert view.nonfinite[name][bucket] == len(values) - len(finite)


@pytest.mark.parametrize("odd", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 16, 17, 100, 129])
def test_view_of_a_whole_trace(rows, odd):
    trace = filled(rows, odd=odd)
    check(trace.view(8), trace)


@pytest.mark.parametrize("seed", range(5))
def test_view_kept_up_to_date(seed):
    rng = np.random.default_rng(seed)
    source = filled(400, variables=2, seed=seed, odd=0.1)
    trace = source[:0]
    view = trace.view(8)
    while len(trace) < len(source):
        more = source[len(trace) : len(trace) + rng.choice([0, 1, 2, 5, 30, 90])]
        terms = np.column_stack([more.data, more.kl.array.T])
        trace.extend(more.step, more.time, more.loss, terms, more.control.array.T)
        before = view.mean, view.low, view.last
        kept = [columns.array.copy() for columns in before]
        assert view.update() is view
        check(view, trace)
        for old, copied in zip(before, kept, strict=True):
            np.testing.assert_array_equal(old.array, copied)


def test_view_catches_up_in_chunks(monkeypatch):
    monkeypatch.setattr("vitoolkit.decimation.CHUNK", 37)
    trace = filled(1000, odd=0.1)
    check(trace.view(16), trace)


def test_views_do_not_share_state():
    trace = filled(100)
    small, large = trace.view(4), trace.view(64)
    assert (len(small), len(large)) == (4, 50)
    check(small, trace)
    check(large, trace)


def test_an_update_reads_the_new_rows_only(monkeypatch):
    trace = Trace()
    steps = np.arange(100_000)
    trace.extend(steps, steps, steps, np.zeros((len(steps), 1)), np.zeros((len(steps), 0)))
    view = trace.view(100)
    read = []
    values = Trace.values

    def counting(part, **kwargs):
        read.append(len(part))
        return values(part, **kwargs)

    monkeypatch.setattr(Trace, "values", counting)
    for step in range(100_000, 100_300):
        trace.append(step, 0.0, 0.0, 0.0)
        if step % 100 == 99:
            view.update()
    assert read == [100, 100, 100]


def test_spikes_are_never_lost():
    trace = filled(10_000)
    rng = np.random.default_rng(1)
    for _ in range(20):
        at = int(rng.integers(10_000))
        block = trace.kept()
        block[at, 2] = 1e9
        spiked = trace.of_kept(block)
        assert np.nanmax(spiked.view(50).high["loss"]) == 1e9


def test_mean_stays_within_its_band():
    trace = Trace(controls=("beta",))
    for step in range(3):
        trace.append(step, 0.0, 1.7e308, np.nan, (), [0.1])
    trace.append(3, 0.0, 1.7e308, np.nan, (), [0.1])
    view = trace.view(2)
    for name in ("loss", "beta"):
        assert (view.low[name] <= view.mean[name]).all()
        assert (view.mean[name] <= view.high[name]).all()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 13, 64, 100, 1000])
@pytest.mark.parametrize("rows", [1, 5, 64, 100])
def test_what_is_around_a_point(rows, window):
    trace = filled(rows, odd=0.2)
    view = trace.view(64)
    got = {what: view.around(what, window, trace.columns) for what in ("low", "mean", "high")}
    half = max(0, round((window / view.width - 1) / 2))
    assert view.window(window) == (2 * half + 1) * view.width
    for i, column in enumerate(trace.values().T):
        for bucket in range(len(view)):
            before = min(half, bucket)
            start, end = bucket - before, bucket + before + 1  # the end of the trace cuts it off
            values = column[start * view.width : end * view.width]
            finite = values[np.isfinite(values)]
            want = (finite.min(), finite.mean(), finite.max()) if len(finite) else (np.nan,) * 3
            found = [got[what][i, bucket] for what in ("low", "mean", "high")]
            np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [5, 100])
def test_some_columns_are_as_they_are_among_all(rows):
    view = filled(rows, odd=0.2).view(64)
    names = view.trace.columns[::-2]
    for what in ("low", "high", "mean", "last", "nonfinite"):
        of_all = getattr(view, what)
        np.testing.assert_array_equal(view.columns(what, names), [of_all[n] for n in names])
    mean = view.around("mean", 7, names)
    np.testing.assert_allclose(view.now(7, names), mean[:, -1], rtol=1e-12)
    with pytest.raises(ValueError, match="'low', 'high', 'mean', 'last', 'nonfinite'; received 'x"):
        view.columns("x", names)
    with pytest.raises(KeyError):
        view.columns("low", ["no such"])


def test_a_mean_forgets_a_huge_value():
    trace = Trace()
    for step in range(100):
        trace.append(step, 0.0, 1e300 if step == 0 else 1.0, np.nan)
    assert trace.view().around("mean", 9, ["loss"])[0, 5:].tolist() == [1.0] * 95


def test_the_mean_around_nothing():
    assert Trace().view().around("mean", 5, ["loss"]).shape == (1, 0)
    with pytest.raises(ValueError, match="received 0"):
        Trace().view().around("mean", 0, ["loss"])
    with pytest.raises(ValueError, match="received 'last'"):
        Trace().view().around("last", 5, ["loss"])


def test_view_arguments():
    trace = Trace()
    assert trace.view(7).points == 6
    with pytest.raises(ValueError, match="at least 2; received 1"):
        trace.view(1)
    with pytest.raises(TypeError, match="integer"):
        View(trace, points=10.0)
    with pytest.raises(KeyError, match="'loss', 'data', 'elbo'"):
        trace.view().mean["step"]
