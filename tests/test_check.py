"""What the self-check says, without a browser: messages of a page are made up."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import vitoolkit as vt
from vitoolkit.dashboard import check as _check  # noqa: F401  # the module is behind its function

module = sys.modules["vitoolkit.dashboard.check"]


class Hand:
    """A page that moves the slider when the kernel's queue is read."""

    way, words = "pump", "steering by pump, ipykernel 7.4.0"
    moves = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def poll(self):
        if Hand.moves:
            Hand.moves -= 1
            move(Hand.probe)


class Deaf(Hand):
    """A kernel that hears nothing while it is busy."""

    way, words = "none", "the sliders act only after the cell"

    def poll(self):
        pass


def move(probe, ms=23.0):
    number = probe.sent + 1
    answers = []
    probe.send = lambda content: answers.append(content)
    probe._on_page(probe, {"kind": "moved", "number": number}, [])
    (answer,) = answers
    assert answer["number"] == number
    probe._on_page(probe, {"kind": "measured", "when": answer["when"], "ms": ms}, [])


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(module, "current_kernel", lambda: SimpleNamespace())
    monkeypatch.setattr(module, "QUIET", 0.01)
    monkeypatch.setattr(module, "KernelEvents", Hand)
    shown = []

    def display(probe):
        shown.append(probe)
        Hand.probe = probe

    monkeypatch.setattr("IPython.display.display", display)
    return shown


def test_without_a_front_end_it_says_so(capsys):
    vt.dashboard.check()
    assert "no notebook here" in capsys.readouterr().out


def test_importing_vitoolkit_and_naming_the_check_are_two_things():
    code = (
        "import sys, vitoolkit as vt; print('ipywidgets' in sys.modules); "
        "vt.dashboard.check; print('ipywidgets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_move_that_arrives_while_the_cell_runs_ends_it_and_says_that_steering_works(
    notebook, capsys
):
    Hand.moves = 3
    vt.dashboard.check(60)
    (probe,) = notebook
    assert probe.words == (
        "3 of 3 moves arrived, answered in 23 ms, while the cell was running: "
        "steering works here (pump, ipykernel 7.4.0)."
    )
    move(probe, 12.0)
    assert "4 of 4 moves" in probe.words and "and in 12 ms after it" in probe.words
    assert capsys.readouterr().out == ""


def test_moves_that_were_lost_are_counted(notebook):
    Hand.moves = 1
    vt.dashboard.check(60)
    (probe,) = notebook
    probe._on_page(probe, {"kind": "moved", "number": 5}, [])
    assert probe.verdict().startswith("2 of 5 moves arrived")


def test_where_moves_arrive_only_after_the_cell_it_tells_what_to_do(notebook, monkeypatch, capsys):
    monkeypatch.setattr(module, "KernelEvents", Deaf)
    vt.dashboard.check(0.05)
    (probe,) = notebook
    assert probe.words == module.MOVE_NOW
    assert "draws no widgets" in capsys.readouterr().out
    move(probe)
    assert "background=True" in probe.words and "marimo" not in probe.words


def test_a_page_that_shows_no_slider_is_not_waited_for_to_the_end(notebook, monkeypatch, capsys):
    monkeypatch.setattr(module, "SHOWN", 0.05)
    Hand.moves = 0
    vt.dashboard.check(3600)
    assert "draws no widgets" in capsys.readouterr().out


def test_in_voila_the_first_move_is_what_starts_the_busy_time(notebook, monkeypatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    Hand.moves = 1
    vt.dashboard.check(60)
    (probe,) = notebook
    assert probe.words == module.MOVE_ONCE and Hand.moves == 1
    move(probe)
    assert "while the callback of a button was running" in probe.words


@pytest.mark.parametrize("seconds", [-1, float("inf"), "long"])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises((TypeError, ValueError), match="seconds"):
        vt.dashboard.check(seconds)
