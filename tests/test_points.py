"""Back to a point and on from there, while a fit runs: every line of steps is kept."""

import copy
import sqlite3

import numpy as np
import pytest
from models import two_gaussians

import vitoolkit as vt
from vitoolkit.points import Points
from vitoolkit.requests import Request
from vitoolkit.table import Table

N = 300
FAST = {"random_seed": 1, "progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}}
NOBODY = 2**22 + 1  # more than a process's number can be


class Script(vt.Callback):
    """Does one thing after the other, each once, when its step comes."""

    def __init__(self, *acts):
        self.acts = list(acts)

    every = 5

    def on_block(self, run, block):
        while self.acts and run.step == self.acts[0][0]:
            self.acts.pop(0)[1](run)


def rewind(to):
    return lambda run: run.rewind(to)


def keep(name):
    return lambda run: run.bookmark(name)


def set_beta(value):
    return lambda run: run.ask(Request("set", "beta", value))


def a_fit(*acts, n=N, **options):
    return vt.fit(n, model=two_gaussians(), callbacks=Script(*acts), **FAST, **options)


@pytest.fixture(scope="module")
def whole():
    return a_fit(average=True, gradient=True)


def kinds(fit, *wanted):
    found = [(e.step, e.kind, e.old, e.new, e.text) for e in fit.trace.events]
    return [event for event in found if event[1] in (wanted or ("bookmark", "rewind"))]


def same(fit, whole, path=None):
    np.testing.assert_array_equal(fit.trace.values(), whole.trace.values())
    np.testing.assert_array_equal(fit.trace.step, whole.trace.step)
    np.testing.assert_array_equal(fit.inference.hist, whole.inference.hist)
    for here, there in zip(fit.approx.params, whole.approx.params, strict=True):
        np.testing.assert_array_equal(here.get_value(), there.get_value())
    for here, there in zip(fit.inference.averages, whole.inference.averages, strict=True):
        np.testing.assert_array_equal(here, there)
    assert path is None or vt.Trace.open(path).equals(fit.trace)


@pytest.mark.parametrize("steps", [1, 7])
def test_a_running_fit_goes_back_and_on_as_if_it_had_not_been_there(whole, steps, tmp_path):
    path = tmp_path / "run.db"
    fit = a_fit(
        (100, keep("a")), (130, set_beta(4.0)), (200, rewind("a")), (250, set_beta(0.5)),
        (260, rewind("a")), average=True, gradient=True, record=path, steps_per_execution=steps,
    )  # fmt: skip
    same(fit, whole, path)
    assert [(b.step, len(b.rows)) for b in fit.trace.branches] == [(100, 100), (100, 160)]
    assert set(fit.trace.branches[0].rows.control["beta"][40:]) == {4.0}
    assert kinds(fit) == [
        (100, "bookmark", None, None, "a"), (100, "rewind", 200, 100, "a"),
        (100, "rewind", 260, 100, "a"),
    ]  # fmt: skip
    assert fit.points["a"] == 100


def test_the_line_of_a_bookmark_is_there_again(whole, tmp_path):
    path = tmp_path / "run.db"
    fit = a_fit(
        (200, keep("late")), (205, rewind(0)), (50, set_beta(4.0)), (60, keep("other")),
        (90, rewind("late")), average=True, gradient=True, record=path,
    )  # fmt: skip
    same(fit, whole, path)
    assert [(b.step, len(b.rows)) for b in fit.trace.branches] == [(0, 205), (0, 90)]
    fit.rewind("other")
    assert len(fit.trace) == 60 and fit.controls["beta"].value == 4.0
    branch = fit.trace.branches[1].rows
    np.testing.assert_array_equal(fit.trace.values(), branch.values()[:60])
    np.testing.assert_array_equal(fit.inference.hist, branch.loss[:60])
    fit.rewind("late").refine(N - 200, progressbar=False)
    same(fit, whole, path)


def test_paused_it_goes_back_and_what_is_asked_for_after_it_is_in_force(whole):
    def back(run):
        run.pause()
        run.ask(Request("set", "beta", 3.0))
        run.rewind(0)
        run.ask(Request("set", "beta", 2.0))
        run.resume()

    fit = a_fit((100, back))
    assert len(fit.trace) == N and set(fit.trace.control["beta"]) == {2.0}
    assert [event[1] for event in kinds(fit, "pause", "set", "rewind", "resume")] == [
        "pause", "set", "rewind", "set", "resume",
    ]  # fmt: skip
    assert not fit.run.can_undo


def test_what_is_asked_for_while_it_compiles_is_done_in_its_order():
    fit = vt.fit(40, model=two_gaussians(), background=True, **FAST)
    fit.bookmark("start")
    fit.controls["beta"].set(4.0)
    fit.rewind("start")
    fit.controls["learning_rate"].set(0.02)
    assert fit.wait() and kinds(fit, "bookmark", "rewind", "set")[0][1] == "bookmark"
    assert [event.kind for event in fit.trace.events] == ["bookmark", "set", "rewind", "set"]
    assert set(fit.trace.control["beta"][fit.points["start"] :]) == {1.0}


def test_an_undo_takes_back_no_change_of_another_line():
    undone = []
    fit = a_fit((50, set_beta(3.0)), (60, rewind(0)), (20, lambda run: undone.append(run.undo())))
    assert undone == [False] and set(fit.trace.control["beta"]) == {1.0}


def test_refined_it_goes_back_to_before_that(whole):
    fit = vt.fit(100, model=two_gaussians(), average=True, gradient=True, **FAST)
    fit.inference.refine(50, progressbar=False, callbacks=[Script((120, rewind(0)))])
    assert fit.inference.run.first == 0 and fit.inference.steps_taken == 150
    np.testing.assert_array_equal(fit.inference.hist, whole.inference.hist[:150])


@pytest.mark.parametrize("ended", [False, True])
def test_what_cannot_be_done_is_refused_and_nothing_has_changed(whole, ended):
    refused = []

    def wrong(run):
        for to, error, words in (
            ("b", ValueError, "no bookmark 'b'; there are 'a'"),
            (0.5, TypeError, "step"), (-1, ValueError, "step"), ("", ValueError, "no bookmark"),
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                run.rewind(to)
        for name, error, words in (
            ("a", ValueError, "another name"), (" ", ValueError, "empty"), (3, TypeError, "string")
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                run.bookmark(name)
        with pytest.raises(ValueError, match="a step, or to the name"):
            run.ask(Request("rewind"))
        refused.append(True)

    fit = a_fit((50, keep("a")), (60, wrong), average=True, gradient=True)
    same(fit, whole)
    assert refused and not fit.trace.branches
    if ended:
        with pytest.raises(ValueError, match="no bookmark 'b'"):
            fit.rewind("b")
        with pytest.raises(RuntimeError, match="has ended"):
            fit.bookmark("c")
        with pytest.raises(ValueError, match="has taken no step yet"):
            two_gaussians_inference().points.checked(Request("rewind", value=0), None)
        same(fit, whole)


def two_gaussians_inference():
    return vt.ADVI(model=two_gaussians(), random_seed=1)


def as_killed(path, to):
    """What a kill at this moment leaves on disk."""
    with sqlite3.connect(path) as here, sqlite3.connect(to) as there:
        here.backup(there)
        there.execute("UPDATE run SET pid = ?", (NOBODY,))
    here.close(), there.close()


@pytest.mark.parametrize("wait", [False, True])
def test_killed_right_after_a_rewind_it_is_resumed_from_there(whole, wait, tmp_path):
    path, left = tmp_path / "run.db", tmp_path / "left.db"

    def kill(run):
        journal, trace = fit_journal, run.records[1][0]
        while wait and journal._branches < len(trace.branches):
            run.idle()
        as_killed(path, left)
        run.stop()

    fit_journal = vt.Journal(path, seconds=1e-9)
    first = a_fit(
        (100, keep("a")), (150, set_beta(4.0)), (200, rewind("a")), (105, kill),
        average=True, gradient=True, record=fit_journal,
    )  # fmt: skip
    fit = vt.resume(left, model=two_gaussians(), callbacks=[], progressbar=False)
    if wait:
        assert [(b.step, len(b.rows)) for b in fit.trace.branches] == [(100, 100)]
        same(fit, whole, left)
    assert fit.points.get("a", 100) == 100 and first.points["a"] == 100
    if "a" in fit.points:
        fit.rewind("a").refine(N - 100, progressbar=False)
        same(fit, whole, left)


def test_bookmarks_are_in_the_journal_whatever_is_dropped(whole, tmp_path):
    path = tmp_path / "run.db"
    a_fit(
        (50, keep(None)), (120, keep("b")), (200, lambda run: run.stop()),
        average=True, gradient=True, record=vt.Journal(path, seconds=1e-9, keep=1),
    )  # fmt: skip
    fit = vt.resume(path, model=two_gaussians(), callbacks=[], progressbar=False)
    assert fit.points["step 50"] == 50 and fit.points["b"] == 120
    with pytest.raises(ValueError, match="another name"):
        fit.run.ask(Request("bookmark", text="b"))
    fit.rewind("step 50").refine(N - 50, progressbar=False)
    same(fit, whole, path)


def test_points_are_few_and_evenly_spread(monkeypatch):
    monkeypatch.setattr("vitoolkit.points.SHARE", 0)
    fit = a_fit(steps_per_execution=1)
    steps = fit.inference.points.steps()
    assert steps[0] == 0 and 8 <= len(steps) <= 33
    assert max(np.diff(steps)) <= 4 * N / 16
    monkeypatch.setattr("vitoolkit.points.BYTES", 1)
    large = a_fit((50, keep("a")), steps_per_execution=1)
    assert large.points == {50: 50, "a": 50}
    assert len(large.rewind("a").trace) == 50


def test_a_pickled_fit_has_its_bookmarks(whole):
    fit = a_fit((100, keep("a")), average=True, gradient=True)
    again = copy.deepcopy(fit)
    with pytest.raises(RuntimeError, match="nothing is compiled"):
        again.rewind("a")
    again.refine(5, progressbar=False)
    again.rewind("a").refine(N - 100, progressbar=False)
    same(again, whole)


def test_the_rows_of_any_line_can_be_put_together_again():
    """Against a list for each line, at random."""
    rng = np.random.default_rng(3)
    table, points, known, line = Table(), Points(), [], []
    for _ in range(300):
        for _ in range(rng.integers(0, 4)):
            table.append(len(line), 0.0, loss := rng.normal(), np.nan)
            line.append(loss)
        known.append((list(line), len(points.turns)))
        if rng.random() < 0.3:
            line, turns = known[rng.integers(len(known))]
            line = line[: rng.integers(len(line) + 1)]
            points.turned(len(line), turns)
            table.go_back(len(line), turns)
            np.testing.assert_array_equal(table.loss, line)
            assert [branch.step for branch in table.branches] == points.turns


def played(fit, **options):
    return vt.fit(
        model=two_gaussians(), replay=fit.trace, progressbar=False,
        compile_kwargs=FAST["compile_kwargs"], **options,
    )  # fmt: skip


def branches(trace):
    return [(b.step, b.rows.values().tobytes(), b.rows.step.tobytes()) for b in trace.branches]


def told(trace):
    return [event._replace(time=0.0, asked=None) for event in trace.events]


@pytest.mark.parametrize("steps", [1, 7])
def test_a_replay_goes_back_as_the_run_did(steps):
    def back_twice(run):
        run.ask(Request("set", "beta", 0.7))
        run.rewind(110)
        run.ask(Request("set", "beta", 0.4))
        run.rewind(20)
        run.note("from here")

    fit = a_fit(
        (50, set_beta(2.0)), (100, keep("a")), (150, set_beta(3.0)), (200, rewind(160)),
        (190, back_twice), (40, set_beta(4.0)), (60, keep("b")), (80, rewind("a")),
        (130, lambda run: run.undo()), (140, rewind("b")), (250, rewind(0)),
        (10, set_beta(0.5)), steps_per_execution=steps,
    )  # fmt: skip
    assert len(fit.trace.branches) == 6
    again = played(fit, steps_per_execution=steps)
    np.testing.assert_array_equal(again.trace.values(), fit.trace.values())
    assert branches(again.trace) == branches(fit.trace) and told(again.trace) == told(fit.trace)
    np.testing.assert_array_equal(again.inference.hist, fit.inference.hist)


def test_a_replay_recovers_as_the_run_did():
    class Spoil(vt.Callback):
        every, done = 5, False

        def on_block(self, run, block):
            if run.step == 130 and not self.done:
                self.done = True
                mu = run.approx.params[0]
                mu.set_value(mu.get_value() * np.nan)

    acts = (20, set_beta(2.0)), (110, set_beta(3.0)), (105, rewind(0)), (200, set_beta(4.0))
    options = {"recover": vt.Recover(every=50), "learning_rate": 0.02}
    fit = vt.fit(N, model=two_gaussians(), callbacks=[Script(*acts), Spoil()], **options, **FAST)
    assert [event[1] for event in kinds(fit, "rollback", "rewind")] == ["rollback", "rewind"]
    again = played(fit, callbacks=Spoil(), **options)
    np.testing.assert_array_equal(again.trace.values(), fit.trace.values())
    assert branches(again.trace) == branches(fit.trace) and told(again.trace) == told(fit.trace)


def test_what_was_left_behind_as_another_fit_is_not_replayed():
    fit = a_fit(n=20)
    fit.trace.go_back(10, 0)
    with pytest.raises(ValueError, match="as another fit, which cannot be replayed"):
        vt.Replay(fit.trace)
    event = vt.Event(0, 0.1, "rewind", text="back from step 60 to 0")  # of an older record
    with pytest.raises(ValueError, match="does not say where"):
        vt.Replay([event])
