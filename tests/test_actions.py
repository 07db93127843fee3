"""Buttons, the schedule's editor and words of advice, without a browser."""

import time

import numpy as np
import pytest

import vitoolkit as vt
from vitoolkit.dashboard.actions import Actions
from vitoolkit.dashboard.control_row import ControlRow
from vitoolkit.run import Run
from vitoolkit.views.advice import advice


@pytest.fixture
def beta():
    return vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100))


@pytest.fixture
def fit(beta):
    class Fit(Run):
        def boundary(self):
            """What the loop does between two steps."""
            if self.asked and self.status != "paused":
                self._take()
            beta.advance(self.step)

    fit = Fit(Trained(), 100, [], [beta])
    fit.step, fit.status = 7, "running"
    fit.bind()
    return fit


class Trained:
    """What a run needs to know of an inference."""

    variables = parts = measures = ()

    def __init__(self):
        self.approx = type(self)  # something that can be weakly held


@pytest.fixture
def actions(fit):
    trace = vt.Trace(("z",), ("beta",))
    trace.append(0, 0.1, 3.0, -2.0, [1.0], [0.5])
    actions = Actions(fit, lambda: trace, {})
    yield actions
    actions.close()


def test_buttons_are_what_a_fit_can_do(actions, fit, beta):
    def able():
        names = ("pause", "step", "stop", "undo", "note", "export")
        return [name for name in names if not getattr(actions, name).disabled]

    assert able() == ["pause", "stop", "note", "export"]
    beta.set(2.0, source="user")
    actions.show()
    assert able() == ["pause", "stop", "undo", "note", "export"]
    fit.status = "paused"
    actions.show()
    assert "step" in able() and actions.pause.description == "Resume"
    fit.status = "finished"
    actions.show()
    assert able() == ["export"]


def test_buttons_ask_as_a_person(actions, fit, beta):
    beta.set(2.0)
    fit.boundary()
    actions.show()
    actions.undo.click()
    fit.boundary()
    assert [(e.kind, e.source) for e in beta.log] == [("set", "code"), ("undo", "user")]
    assert beta.value == pytest.approx(0.07)
    actions.pause.click()
    actions.step.click()
    fit.boundary()
    assert fit.status == "paused" and list(fit._single) == ["user"]
    actions.show()
    actions.pause.click()
    fit._take()
    assert [(e.kind, e.source) for e in fit.log[2:]] == [("pause", "user"), ("resume", "user")]
    actions.stop.click()
    with pytest.raises(StopIteration, match="user"):
        fit.heed(lambda: None)


def test_a_note_is_written_by_the_button_or_enter_and_only_with_words(actions, fit):
    assert actions.drawer.children == ()
    actions.note.value = True
    assert actions.words in actions.drawer.children[0].children
    actions.add.click()
    actions.words.value = " z collapses "
    actions.add.click()
    assert actions.words.value == ""
    actions.words.value = "again"
    actions._on_enter(actions.words, {"event": "submit"}, [])
    fit.boundary()
    assert [(e.kind, e.text, e.source, e.step) for e in fit.log] == [
        ("note", "z collapses", "user", 7),
        ("note", "again", "user", 7),
    ]
    actions.export.value = True
    assert not actions.note.value and actions.said in actions.drawer.children[0].children
    actions.export.value = False
    assert actions.drawer.children == ()


@pytest.mark.parametrize("suffix", [".csv", ".html"])
def test_export_writes_into_the_folder_and_says_where(actions, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    actions.formats[suffix].click()
    limit = time.monotonic() + 60
    while "are in" not in actions.said.value:
        assert time.monotonic() < limit, actions.said.value
        time.sleep(0.01)
    (written,) = tmp_path.glob(f"vitoolkit-20*{suffix}")
    assert actions.said.value == f"1 steps are in {written.name}"
    if suffix == ".csv":
        assert vt.Trace.open(written).loss.tolist() == [3.0]


def test_an_export_that_fails_says_why(actions, tmp_path, monkeypatch):
    def missing(self, path):
        raise ImportError('Install it with: pip install "vitoolkit[export]"')

    monkeypatch.setattr(vt.Trace, "to_netcdf", missing)
    actions._write(actions._trace(), tmp_path / "x.nc", ".nc")
    assert actions.said.value == 'not written: Install it with: pip install "vitoolkit[export]"'


# --- the schedule's editor ------------------------------------------------------------------------


def test_a_schedule_is_given_another_end_and_length(fit, beta):
    said = []
    row = ControlRow(beta, said.append)
    (line,) = row.widget.children
    row.edit.value = True
    assert row.widget.children[0] is line and len(row.widget.children) == 2
    assert (row.end.value, row.steps.value) == (1.0, 100)
    row.steps.value = 3
    row.apply.click()
    assert "must be more than 7" in said[-1] and row.edit.value
    row.end.value, row.steps.value = 2.0, 27
    row.apply.click()
    assert not row.edit.value and row.widget.children == (line,) and said[-1] == ""
    fit.boundary()
    (event,) = beta.log
    assert (event.kind, event.old, event.new, event.source) == ("reschedule", 1.0, 2.0, "user")
    assert beta.schedule(27) == 2.0 and beta.schedule(7) == pytest.approx(0.07)
    row.close()


def test_without_a_schedule_there_is_nothing_to_edit():
    row = ControlRow(vt.Beta(1.0), print)
    assert row.edit.layout.visibility == "hidden"
    row.close()


# --- advice ---------------------------------------------------------------------------------------


def record(loss, beta=1.0, rate=1e-2):
    n = len(loss)
    trace = vt.Trace(("z",), ("beta", "rate"))
    control = np.stack([np.broadcast_to(beta, n), np.broadcast_to(rate, n)], axis=1)
    trace.extend(np.arange(n), np.arange(n) * 1e-3, loss, np.ones((n, 2)), control)
    return advice(trace.view(points=500), {"beta": "linear", "rate": "log"})


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def test_a_standstill_and_a_rise_are_said_in_words():
    assert record(noise(20_000)).startswith("the ELBO has not risen for ")
    assert record(noise(20_000), beta=4.0).startswith("the loss has not fallen for ")
    assert record(noise(20_000) + 1e-4 * np.arange(20_000)).startswith("the ELBO has fallen for ")


@pytest.mark.parametrize(
    ("loss", "beta", "rate"),
    [
        (noise(20_000) - 1e-4 * np.arange(20_000), 1.0, 1e-2),  # still falls, within the noise
        (noise(1_000), 1.0, 1e-2),  # too short to tell
        (noise(20_000), np.linspace(0.0, 1.0, 20_000), 1e-2),  # β moves, and the loss with it
        (noise(20_000), 1.0, np.geomspace(1e-1, 1e-6, 20_000)),  # the rate has been sent to sleep
        (np.full(20_000, np.nan), 1.0, 1e-2),
        (noise(0), 1.0, 1e-2),
    ],
)
def test_nothing_is_said_without_a_reason(loss, beta, rate):
    assert record(loss, beta, rate) == ""


def test_noise_alone_seldom_makes_a_rise():
    wrong = [s for s in range(40) if "fallen for" in record(noise(20_000, s))]
    assert len(wrong) <= 1
