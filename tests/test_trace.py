import copy
import math
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest

from vitoolkit.decimation import View
from vitoolkit.events import Event
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


@pytest.mark.parametrize("refused", [math.inf, 20_000, 2_000])
def test_a_large_trace_grows_as_far_as_the_system_lets_it(monkeypatch, refused):
    empty = np.empty
    made = []

    def refusing(shape, *args, **kwargs):
        if isinstance(shape, tuple) and shape[0] > refused:
            raise MemoryError
        made.append(shape)
        return empty(shape, *args, **kwargs)

    monkeypatch.setattr("vitoolkit.trace.LARGE", 8_000)
    monkeypatch.setattr(np, "empty", refusing)
    trace = Trace(("z",), ("beta",))
    for step in range(1_000):
        trace.append(step, step, 2.0 * step, 3.0 * step, (4.0 * step,), (5.0 * step,))
    np.testing.assert_array_equal(trace.elbo, -1.0 * np.arange(1_000))
    rows = [shape[0] for shape in made if isinstance(shape, tuple)]
    assert (
        rows == [0, 256] + ({math.inf: [64 * 256], 20_000: [64 * 256], 2_000: [512, 1024]})[refused]
    )


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
        assert np.shares_memory(column, trace._buffer)


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
    step = 0
    while step < 40_000:
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
        same = view.changed
        assert 0 <= same <= len(view)
        for old, copied, new in zip(before, kept, (view.mean, view.low, view.last), strict=True):
            np.testing.assert_array_equal(old.array, copied)
            np.testing.assert_array_equal(copied[:, :same], new.array[:, :same])
        if not len(more):
            assert same == len(view)


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
        block = trace._buffer[: len(trace)].copy()
        block[at, 2] = 1e9
        spiked = trace[:]
        spiked._adopt(block)
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
def test_running_mean(rows, window):
    trace = filled(rows, odd=0.2)
    view = trace.view(64)
    got = view.running(window)
    assert set(got) == set(trace.columns)
    span = -(-window // view.width) * view.width
    for name, column in zip(trace.columns, trace.values().T, strict=True):
        for bucket in range(len(view)):
            end = min((bucket + 1) * view.width, rows)
            values = column[max((bucket + 1) * view.width - span, 0) : end]
            finite = values[np.isfinite(values)]
            mean = finite.mean() if len(finite) else np.nan
            np.testing.assert_allclose(got[name][bucket], mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [5, 100])
def test_some_columns_are_as_they_are_among_all(rows):
    view = filled(rows, odd=0.2).view(64)
    names = view.trace.columns[::-2]
    for what in ("low", "high", "mean", "last", "nonfinite"):
        of_all = getattr(view, what)
        np.testing.assert_array_equal(view.columns(what, names), [of_all[n] for n in names])
    running = view.running(7)
    few = view.running(7, names)
    assert tuple(few) == names
    np.testing.assert_array_equal(few.array, [running[n] for n in names])
    np.testing.assert_allclose(view.now(7, names), few.array[:, -1], rtol=1e-12)
    with pytest.raises(ValueError, match="'low', 'high', 'mean', 'last', 'nonfinite'; received 'x"):
        view.columns("x", names)
    with pytest.raises(KeyError):
        view.columns("low", ["no such"])


def test_running_mean_forgets_a_huge_value():
    trace = Trace()
    for step in range(100):
        trace.append(step, 0.0, 1e300 if step == 0 else 1.0, np.nan)
    assert trace.view().running(10)["loss"][10:].tolist() == [1.0] * 90


def test_running_mean_of_nothing():
    assert Trace().view().running(5)["loss"].shape == (0,)
    with pytest.raises(ValueError, match="received 0"):
        Trace().view().running(0)


def test_view_arguments():
    trace = Trace()
    assert trace.view(7).points == 6
    with pytest.raises(ValueError, match="at least 2; received 1"):
        trace.view(1)
    with pytest.raises(TypeError, match="integer"):
        View(trace, points=10.0)
    with pytest.raises(KeyError, match="'loss', 'data', 'elbo'"):
        trace.view().mean["step"]
