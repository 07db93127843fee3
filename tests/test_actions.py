"""The buttons of a fit as a whole, without a browser."""

import time
from types import SimpleNamespace

import pytest
from records import a_fit

import vitoolkit as vt
from vitoolkit.checkpoint import Checkpoint
from vitoolkit.dashboard.actions import FORMATS, Actions
from vitoolkit.points import Point, Points
from vitoolkit.state import State


@pytest.fixture
def beta():
    return vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100))


@pytest.fixture
def fit(beta):
    return a_fit(beta)


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
    fit.pause()
    fit._take()
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
    (*formats, told) = actions.drawer.children[0].children
    assert not actions.note.value and actions.said in told.children
    actions.export.value = False
    assert actions.drawer.children == ()


def test_keep_and_rewind_ask_as_a_person(fit):
    fit.points, asked = Points(), []
    fit.inference.step_function = SimpleNamespace(state={})
    fit.keep_point = fit.go_to_point = asked.append
    for step, name in ((3, "a"), (5, None), (6, None)):
        point = Point(State(step, Checkpoint({}), {}), 0, name)
        (fit.points._recent if name is None else fit.points.bookmarks).append(point)
    actions = Actions(fit, lambda: None, {})
    assert actions.keep in actions.buttons.children and actions.rewind in actions.buttons.children
    actions.keep.click()
    fit.boundary()
    actions.rewind.value = True
    assert actions.to in actions.drawer.children[0].children
    assert actions.to.options == (
        ("a (step 3)", "a"), ("step 6", 6), ("step 5", 5), ("step 3", 3),
    )  # fmt: skip
    actions.to.value = 5
    del fit.points._recent[0]
    actions.go.click()
    fit.boundary()
    assert actions.drawer.children == () and not actions.rewind.value
    actions.rewind.value = True
    fit.points.bookmarks.clear()
    actions.go.click()
    assert "no bookmark 'a'" in actions.told.value and actions.to.options == (("step 6", 6),)
    actions.note.value = True
    assert not actions.rewind.value and actions.words in actions.drawer.children[0].children
    assert [(r.kind, r.source, r.point and r.point.step) for r in asked] == [
        ("bookmark", "user", None), ("rewind", "user", 3),
    ]  # fmt: skip
    fit.status = "finished"
    actions.show()
    assert actions.keep.disabled and actions.rewind.disabled
    actions.close()


def test_a_fit_that_cannot_go_back_has_no_button_for_it(actions):
    assert not {actions.keep, actions.rewind} & {*actions.buttons.children}


@pytest.mark.parametrize("suffix", [".csv", ".html"])
def test_export_writes_into_the_folder_and_says_where(actions, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    actions.formats[suffix].click()
    limit = time.monotonic() + 60
    while "are in" not in actions.said.value:
        assert time.monotonic() < limit, actions.said.value
        time.sleep(0.01)
    (written,) = tmp_path.glob(f"vitoolkit-20*{suffix}")
    assert actions.said.value == f"1 steps are in {written.resolve()}"
    if suffix == ".csv":
        assert vt.Trace.open(written).loss.tolist() == [3.0]


def test_an_export_that_fails_says_why(actions, tmp_path, monkeypatch):
    def missing(trace, path):
        raise ImportError('Install it with: pip install "vitoolkit[export]"')

    monkeypatch.setitem(FORMATS, ".nc", FORMATS[".nc"]._replace(write=missing))
    actions._write(actions._trace(), tmp_path / "x.nc", ".nc")
    assert actions.said.value == 'not written: Install it with: pip install "vitoolkit[export]"'


def test_every_format_has_a_button(actions):
    assert [button.description for button in actions.formats.values()] == [
        made.label for made in FORMATS.values()
    ]
    assert all(button.tooltip for button in actions.formats.values())
