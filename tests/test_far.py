"""The panel of a fit in another process: what it shows and asks for goes through the journal."""

import stat

import pytest
from test_journal import _opened, a_fit, until

import vitoolkit as vt
from vitoolkit.controls import Switch
from vitoolkit.dashboard.far import FarRun
from vitoolkit.journal_file import JournalFile
from vitoolkit.requests import Request


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


@pytest.fixture
def running(gaussians, path):
    """A fit that runs until it is stopped."""
    beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=10**6))
    fit = a_fit(path, 1_000_000, beta=beta, background=True, every=10)
    until(lambda: path.exists() and len(_opened(path)))
    yield fit
    fit.stop()
    fit.wait()


class Looking:
    """A run of a journal that is looked at until something is so."""

    def __init__(self, path):
        self.path, self.run = path, FarRun(path, 1)

    def until(self, done):
        with JournalFile(self.path) as file:

            def look():
                self.run.look(file)
                return done()

            until(look)

    def answered(self):
        self.until(lambda: not self.run.outbox and not self.run.open)


@pytest.fixture
def far(running, path):
    looking = Looking(path)
    yield looking
    looking.run.close()


def test_controls_are_there_with_their_bounds_and_schedules(running, far):
    beta, rate = far.run.controls
    assert (type(beta), type(rate)) == (vt.Beta, vt.LearningRate)
    assert repr(beta.schedule) == repr(running.controls["beta"].schedule) and beta.follows
    assert beta.bounds == running.controls["beta"].bounds and rate.scale == "log"
    assert far.run.n == 1_000_000 and far.run.running and far.run.holding == ""


def test_a_hand_moves_it_there_and_what_is_in_force_comes_back(running, far):
    beta = far.run.controls[0]
    beta.set(3.0, source="user")
    assert (beta.requested, beta.manual) == (3.0, True)
    far.answered()
    assert running.controls["beta"].value == 3.0
    far.until(lambda: [e.kind for e in far.run.trace.events] == ["set"])
    far.until(lambda: beta.value == 3.0 and beta.manual and far.run.can_undo)
    assert far.run.trace.events[0].source == "user"
    far.run.undo(source="user")
    far.answered()
    far.until(lambda: beta.value < 1.0 and not beta.manual and not far.run.can_undo)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 10\]"):
        beta.set(99.0)


def test_it_is_paused_noted_stopped_and_read_to_its_end(running, far):
    far.run.pause(source="user")
    assert far.run.holding == "resume"
    far.answered()
    far.until(lambda: far.run.status == running.status == "paused")
    far.run.note("seen from afar", source="user")
    far.run.resume(source="user")
    far.run.stop(source="user")
    far.answered()
    running.wait()
    far.until(lambda: not far.run.running)
    assert far.run.status == "stopped" and far.run.error is None
    far.until(lambda: far.run.trace.equals(running.trace))


def test_a_refusal_is_told(running, far):
    far.run.ask(Request("set", "gamma", 1.0, "user"))
    far.answered()
    assert far.run.refused == (
        "refused: this fit has no control 'gamma'; it has 'beta', 'learning_rate'"
    )
    far.run.controls[1].set(0.5)
    far.answered()
    assert far.run.refused == ""


def test_rows_that_were_left_behind_go(gaussians, path):
    fit = a_fit(vt.Journal(path, seconds=1e-9, keep=1_000), 40, callbacks=lambda *told: None)
    looking = Looking(path)
    fit.rewind(20)
    fit.refine(5)
    looking.until(lambda: True)
    assert looking.run.trace.step.tolist() == fit.trace.step.tolist()
    assert looking.run.trace.loss.tolist() == fit.trace.loss.tolist()


def test_a_switch_is_one_here(minibatch_regression, path):
    fit = a_fit(path, 10)
    controls = {control.name: control for control in FarRun(path, 1).controls}
    assert controls.keys() == fit.controls.keys()
    switch = controls["scale_cost_to_minibatch"]
    assert isinstance(switch, Switch) and switch.value == 1.0


def test_attached_shows_itself(running, path):
    attached = vt.attach(path)
    bundle = attached._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    panel = attached._panel
    beta = panel.run.controls[0]
    beta.set(2.0, source="user")
    until(lambda: running.controls["beta"].value == 2.0)
    until(lambda: panel.panel.figure.sent > 0 and len(panel.run.trace))
    running.stop()
    running.wait()
    until(lambda: not panel._thread.is_alive())
    assert panel.panel.status.status["phase"] == "stopped"
    assert panel.run.trace.equals(running.trace)


def test_draws_stay_whole_numbers_and_a_point_is_kept_and_gone_back_to(gaussians, path):
    fit = a_fit(path, 1_000_000, obj_n_mc=vt.Draws(2, bounds=(1, 4)), background=True, every=10)
    until(lambda: path.exists() and len(_opened(path)))
    looking = Looking(path)
    far = looking.run
    try:
        (draws,) = [control for control in far.controls if control.name == "draws"]
        assert type(draws) is vt.Draws and draws.value == 2 and draws.bounds == (1, 4)
        far.bookmark("here")
        looking.until(lambda: far.points.bookmarks)
        draws.set(4)
        looking.until(lambda: draws.value == 4)
        far.rewind("here")
        looking.until(lambda: any(event.kind == "rewind" for event in far.trace.events))
        looking.until(lambda: draws.value == 2)
        assert fit.trace.branches and [mark.name for mark in far.points.bookmarks] == ["here"]
    finally:
        fit.stop()
        fit.wait()
        far.close()


def test_only_its_owner_reads_and_writes_a_journal(running, path):
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("run.db*")}
    assert modes == dict.fromkeys(("run.db", "run.db-wal", "run.db-shm"), 0o600)
