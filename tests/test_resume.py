"""A fit goes on in another process as if nothing had happened."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pymc as pm
import pytest
from models import two_gaussians
from runs import N, begun, model_of, options_of, parameters, resumed
from test_journal import _opened, a_fit, until

import vitoolkit as vt
from vitoolkit import journal as journals
from vitoolkit.journal_file import JournalFile
from vitoolkit.state import State

HERE = os.path.join(os.path.dirname(__file__), "runs.py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


def stopping(step):
    return vt.watch(f"step >= {step}", then="stop", every=1)


def check(fit, whole, path):
    """It is the fit that was not interrupted, bit for bit."""
    for here, there in zip(parameters(fit), parameters(whole), strict=True):
        np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(fit.trace.values(), whole.trace.values())
    np.testing.assert_array_equal(fit.trace.step, whole.trace.step)
    told = [
        [(e.step, e.kind, e.new, e.text) for e in trace.events if e.source not in ("watch", "code")]
        for trace in (fit.trace, whole.trace)
    ]
    assert told[0] == told[1] and (np.diff(fit.trace.time) >= 0).all()
    assert vt.Trace.open(path).equals(fit.trace)
    assert fit.inference.steps_taken == N and not fit.trace.branches


@pytest.fixture(scope="module")
def whole():
    plain, others = options_of("minibatch")
    return vt.fit(N, model=model_of("minibatch"), **plain, **others)


def test_killed_and_resumed_in_a_new_process_is_the_fit_that_was_not(whole, path):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([sys.executable, HERE, "minibatch", path, str(N), "slowly"], **quiet)
    try:
        until(lambda: path.exists() and len(_opened(path)) > N // 3, child)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    before = vt.Trace.open(path)
    assert 0 < len(before) < N
    np.testing.assert_array_equal(before.values(), whole.trace[: len(before)].values())
    check(resumed("minibatch", path, callbacks=[]), whole, path)


@pytest.mark.parametrize("kind", ["full-rank", "single"])
def test_a_resumed_fit_is_the_one_that_was_not_stopped(kind, path):
    plain, others = options_of(kind)
    whole = vt.fit(N, model=model_of(kind), **plain, **others)
    begun(kind, path, callbacks=stopping(N // 3))
    check(resumed(kind, path, callbacks=[]), whole, path)


def test_a_person_s_change_is_not_lost(gaussians, path, monkeypatch):
    monkeypatch.setattr(journals, "SHARE", 0.0)  # a busy machine copies the state no sooner

    def change(approx, losses, i):
        if i == 20:
            fit.controls["beta"].set(3.0, source="user")

    fit = a_fit(path, 40, callbacks=change, background=True)
    fit.wait()
    with JournalFile(path) as file:
        steps = file.checkpoints(1)
        saved = file.checkpoint(1, steps[-2])
    state = State.read(saved.step, saved.data, saved.controls)
    assert 20 < saved.step < 40 and state.controls["beta"]["asked"] == 3.0
    assert state.controls["beta"]["manual"] is True


def test_a_change_that_comes_too_soon_after_a_copy_is_saved_later(gaussians, path, monkeypatch):
    journal = vt.Journal(path, seconds=1e6)

    def act(approx, losses, i):
        if i == 20:
            fit.controls["beta"].set(3.0, source="user")
        if i == 19:  # the state was just copied
            journal._free = np.inf
        if i == 30:
            journal._free = 0.0

    ready = threading.Event()

    def wait(*given):
        assert ready.wait(60)
        act(*given)

    fit = a_fit(journal, 40, callbacks=wait, background=True)
    ready.set()
    fit.wait()
    with JournalFile(path) as file:
        assert 30 <= file.checkpoints(1)[-2] <= 31


def test_a_resumed_fit_can_be_asked_for_more_and_is_refined(gaussians, path):
    whole = a_fit(None, 90)
    a_fit(path, 60)
    fit = vt.resume(path, n=75, progressbar=False)
    fit.refine(15)
    np.testing.assert_array_equal(fit.trace.loss, whole.trace.loss)
    np.testing.assert_array_equal(fit.inference.hist, whole.inference.hist)
    assert vt.Trace.open(path).equals(fit.trace)


def test_a_finished_fit_is_read_back_whole(gaussians, path):
    first = a_fit(path)
    again = vt.resume(path, progressbar=False)
    for here, there in zip(parameters(again), parameters(first), strict=True):
        np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(again.trace.loss, first.trace.loss)


def test_what_no_file_can_hold_is_asked_for(gaussians, path):
    a_fit(path, 20, beta=lambda step: 1.0, callbacks=stopping(10))
    with pytest.raises(TypeError, match=r"give (beta|callbacks)= again"):
        vt.resume(path)
    with pytest.raises(TypeError, match=r"give callbacks= again"):
        vt.resume(path, beta=lambda step: 1.0)
    fit = vt.resume(path, beta=lambda step: 1.0, callbacks=[], progressbar=False)
    assert len(fit.trace) == 20


def test_another_option_is_refused_with_the_difference_named(gaussians, path):
    a_fit(path, 20, learning_rate=0.01, callbacks=stopping(10))
    with pytest.raises(ValueError, match=r"learning_rate: 0\.01 was recorded, here it is 0\.1"):
        vt.resume(path, learning_rate=0.1, callbacks=[])
    with JournalFile(path) as file:
        assert file.run().status == "stopped" and file.run().step == 10
    with pytest.warns(UserWarning, match="learning_rate: 0.01 was recorded"):
        fit = vt.resume(path, learning_rate=0.1, callbacks=[], strict=False, progressbar=False)
    assert fit.trace.control["learning_rate"][[9, 10]].tolist() == [0.01, 0.1]


def test_a_rule_has_to_be_the_same(minibatch_regression, path):
    rate = vt.LearningRate(0.01, rule=vt.rules.dlrd())
    a_fit(path, 20, learning_rate=rate, callbacks=stopping(10))
    with pytest.raises(ValueError, match="moved by the rule dlrd, and is given None here"):
        vt.resume(path, learning_rate=0.01, callbacks=[], progressbar=False)
    with JournalFile(path) as file:
        assert file.run().status == "stopped"


def test_rows_after_the_checkpoint_are_a_branch_where_the_fit_is_another(gaussians, path):
    a_fit(path, 20, learning_rate=0.01, callbacks=stopping(10))
    with JournalFile(path, write=True) as file:
        (first, *_) = file.checkpoints(1)
        file.put_checkpoint(1, file.checkpoint(1, first), keep=3)
    with pytest.warns(UserWarning, match="is another than it was"):
        fit = vt.resume(path, learning_rate=0.1, callbacks=[], strict=False, progressbar=False)
    (branch,) = fit.trace.branches
    assert (branch.step, len(branch.rows), len(fit.trace)) == (0, 10, 20)
    assert vt.Trace.open(path).equals(fit.trace)


def test_another_model_is_refused(path):
    a_fit(path, 20, model=two_gaussians(), callbacks=stopping(10))
    with pm.Model() as other:
        x = pm.Normal("x", shape=3)
        pm.Normal("y", x.sum(), observed=1.0)
    with pytest.raises(ValueError, match=r"the columns loss, data.*model: "):
        vt.resume(path, model=other, callbacks=[], progressbar=False)
    with two_gaussians() as shifted:
        pm.Normal("more", shifted["z"], observed=0.0)
    with pytest.raises(ValueError, match=r"was another: .*model: .* strict=False goes on"):
        vt.resume(path, model=shifted, callbacks=[], progressbar=False)
    again = vt.resume(path, model=two_gaussians(), callbacks=[], progressbar=False)
    assert len(again.trace) == 20


def test_begun_takes_the_options_of_a_test(path):
    fit = begun("full-rank", path, 10)
    assert fit.trace.control["beta[z]"].tolist() == [2.0] * 10


def test_rewound_and_on_with_other_settings(gaussians, path):
    whole = a_fit(None, 90)
    fit = a_fit(vt.Journal(path, seconds=1e-9, keep=1_000), 60, callbacks=lambda *told: None)
    with pytest.raises(TypeError, match="step"):
        fit.rewind(0.5)
    fit.rewind(40)
    back = fit.inference.steps_taken
    assert 0 < back <= 40 and len(fit.trace) == back and fit.trace.events[-1].kind == "rewind"
    fit.refine(90 - back)
    np.testing.assert_array_equal(fit.trace.loss, whole.trace.loss)
    np.testing.assert_array_equal(fit.inference.hist, whole.inference.hist)
    fit.rewind(back)
    fit.controls["beta"].set(4.0)
    fit.refine(20)
    np.testing.assert_array_equal(fit.trace.loss[:back], whole.trace.loss[:back])
    assert set(fit.trace.control["beta"][back:]) == {4.0}
    assert [branch.step for branch in fit.trace.branches] == [back, back]
    assert vt.Trace.open(path).equals(fit.trace)
    with JournalFile(path) as file:
        assert max(file.checkpoints(1)) == back + 20


def test_a_trace_that_has_no_room_is_said_before_the_fit(gaussians, monkeypatch):
    monkeypatch.setattr("vitoolkit.memory.available", lambda: 1e3)
    with pytest.warns(UserWarning, match=r"100 steps will take .* 100 rows of 8 numbers.*every="):
        a_fit(None, 100)
