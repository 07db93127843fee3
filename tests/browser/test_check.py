"""The self-check in real front ends: a slider is moved, and the words tell what that means."""

import time

import pytest
from conftest import TWO

CHECK = "import vitoolkit as vt\nvt.dashboard.check(120)"
#: A kernel whose queue cannot be read, so that moves wait for the end of the cell.
DEAF = """
import vitoolkit.dashboard.kernel_events as events
def unreadable(kernel):
    raise events._Missing("this kernel has no queue")
events._queue_of = unreadable
vt.dashboard.check(4)
"""
WORDS = ".vitoolkit-check p[role=status]"


def move(page, times, check=0):
    slider = page.page.locator(".vitoolkit-check input").nth(check)
    slider.wait_for(timeout=120_000)
    slider.focus()
    for _ in range(times):
        page.page.keyboard.press("ArrowRight")
        page.page.wait_for_timeout(30)


def said(page, words, check=0):
    line = page.page.locator(WORDS).nth(check)
    until = time.monotonic() + 30
    while words not in line.inner_text():
        assert time.monotonic() < until, line.inner_text()
        page.page.wait_for_timeout(50)
    return line.inner_text()


@pytest.mark.parametrize("kernel", TWO, indirect=True)
def test_it_says_whether_moves_arrive_while_a_cell_runs_or_only_after_it(notebook, kernel):
    page = notebook(CHECK, DEAF)
    page.start(0)
    move(page, 10)
    text = said(page, "10 of 10 moves arrived")  # after some of them it speaks already
    assert "while the cell was running" in text and "steering works here" in text
    page.done(0)
    page.start(1)
    move(page, 3, check=1)
    page.done(1)
    text = said(page, "3 of 3 moves arrived", check=1)
    assert "with no cell running" in text and "background=True" in text


@pytest.mark.parametrize("front", ["voila"], indirect=True)
def test_in_voila_it_asks_twice_and_means_the_fit_of_a_button(notebook, front):
    page = notebook(CHECK)
    move(page, 1)
    said(page, "The cell is running")
    move(page, 5)
    assert "callback of a button was running" in said(page, "steering works here")
