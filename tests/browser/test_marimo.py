"""The panel in a real marimo: it is drawn, every move arrives, and its buttons act."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import needs

ROOT = Path(__file__).parents[2]
NOTEBOOK = """
import marimo

app = marimo.App(width="full")


@app.cell
def _():
    import json, pathlib
    import marimo as mo, numpy as np, pymc as pm
    import vitoolkit as vt

    class Tell(vt.Callback):
        def on_fit_end(self, run):
            told = [[e.kind, e.source, e.new] for e in run.log]
            pathlib.Path("told").write_text(json.dumps([run.status, run.step, told]))
            pathlib.Path("told").replace("told.json")  # whole when it is seen

    x = np.linspace(-1, 1, 50)
    with pm.Model() as model:
        slope = pm.Normal("slope", 0, 1)
        pm.Normal("y", slope * x, 0.5, observed=2 * x)
    beta = vt.Beta(1.0, bounds=(0.0, 10.0))
    options = dict(random_seed=1, compile_kwargs={"mode": "FAST_COMPILE"})
    again = mo.ui.button(value=0, on_click=lambda value: value + 1, label="again")
    again
    return Tell, again, beta, model, options, vt


@app.cell
def _(Tell, again, beta, model, options, vt):
    again.value
    with model:
        FIT
    return


if __name__ == "__main__":
    app.run()
"""
BACKGROUND = (
    "fit = vt.fit(10**6, beta=beta, background=True, dashboard=True, callbacks=[Tell()], **options)"
)
IN_THE_CELL = """vt.fit(1500, beta=beta, dashboard=True, callbacks=[Tell()], **options)
    vt.dashboard.check()"""


@contextlib.contextmanager
def marimo(folder, fit):
    """Serve a notebook with a fit; yields its address."""
    folder.joinpath("notebook.py").write_text(NOTEBOOK.replace("FIT", fit))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    home = {name: str(folder / "home") for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")}
    command = ["run", "notebook.py", "--headless", "--no-token", "--port", str(port)]
    with open(folder / "marimo.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "marimo", "--yes", *command],
            env=os.environ | home | {"PYTHONPATH": path, "MARIMO_SKIP_UPDATE_CHECK": "1"},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(folder.joinpath("marimo.log").read_text())
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def opened(browser, tmp_path):
    """Open a notebook with a fit, ``opened(fit)``; yields the page."""
    needs("marimo")
    with contextlib.ExitStack() as stack:

        def open_page(fit):
            url = stack.enter_context(marimo(tmp_path, fit))
            page = browser.new_page(viewport={"width": 1300, "height": 1000})
            stack.callback(page.close)
            page.goto(url)
            return page

        yield open_page


def told(folder):
    """What the fit said at its end."""
    until = time.monotonic() + 60
    while not folder.joinpath("told.json").exists():
        assert time.monotonic() < until, "the fit has not ended"
        time.sleep(0.05)
    return json.loads(folder.joinpath("told.json").read_text())


def phase(page, name):
    """Wait for a phase of the fit."""
    page.locator(f".vitoolkit-status[data-phase={name}]").wait_for(timeout=120_000)


def points(page):
    """Number of points of the loss line."""
    figure = page.locator(".vitoolkit-figure")
    return figure.evaluate("(el) => el.__vitoolkit.sources?.loss.data.x.length ?? 0")


def step(page):
    """Number of steps done, as the page shows it."""
    words = page.locator(".vitoolkit-status").inner_text().replace(",", "")
    found = re.search(r"step\s+(\d+)", words)
    assert found, words
    return int(found[1])


def awaited(page, condition):
    """Wait until something that Python asks of the page is true."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "waited for a minute"
        page.wait_for_timeout(50)


def test_a_fit_ends_when_its_cell_is_run_anew(opened, tmp_path):
    page = opened(BACKGROUND)
    phase(page, "running")
    page.get_by_role("button", name="again").click()  # runs the cell anew: its first fit ends
    status, steps, events = told(tmp_path)
    assert status == "stopped" and steps < 10**6
    assert [[kind, source] for kind, source, _ in events] == [["stop", "marimo"]]
    page.locator(".vitoolkit-status[data-phase=stopped]").wait_for(state="detached")
    phase(page, "running")
    awaited(page, lambda: points(page) > 20)


def test_every_move_of_the_slider_arrives(opened, tmp_path):
    page = opened(BACKGROUND)
    phase(page, "running")
    awaited(page, lambda: points(page) > 20)
    assert "steering by thread, marimo" in page.locator(".vitoolkit-steering").inner_text()
    slider = page.locator(".vitoolkit-controls input[type=range]").first
    slider.focus()
    values = []
    for _ in range(20):
        page.keyboard.press("ArrowRight")
        values.append(float(slider.input_value()))
        page.wait_for_timeout(50)
    box = page.locator(".vitoolkit-controls input[type=number]").first
    assert len(set(values)) == 20
    before = points(page)
    awaited(page, lambda: points(page) > before)
    page.locator("button:text-is('Pause')").click()
    phase(page, "paused")
    held = step(page)
    page.locator("button:text-is('Step')").click()
    awaited(page, lambda: step(page) == held + 1)
    page.locator("button:text-is('Resume')").click()
    phase(page, "running")
    page.locator("button:text-is('Note')").click()
    page.get_by_placeholder("what do you see").fill("here")
    page.keyboard.press("Enter")
    box.fill("4")
    box.press("Enter")
    awaited(page, lambda: step(page) > held + 30)
    page.locator("button:text-is('Stop')").click()
    phase(page, "stopped")
    status, _, events = told(tmp_path)
    moves = [new for kind, source, new in events if kind == "set" and source == "user"]
    assert status == "stopped" and len(moves) == 21 and moves[-1] == 4.0
    assert moves[:20] == sorted(set(moves[:20])), moves
    assert [kind for kind, *_ in events if kind in ("pause", "note", "stop")] == [
        "pause",
        "note",
        "stop",
    ]


def test_a_fit_in_a_cell_shows_its_panel_and_says_that_nothing_arrives(opened, tmp_path):
    page = opened(IN_THE_CELL)
    line = page.locator(".vitoolkit-steering.vitoolkit-loud")
    line.wait_for(timeout=120_000)
    assert "background=True" in line.inner_text()
    phase(page, "finished")
    assert told(tmp_path)[:2] == ["finished", 1500]
    awaited(page, lambda: points(page) > 20)
    page.locator(".vitoolkit-check input").focus()
    page.keyboard.press("ArrowRight")
    words = page.locator(".vitoolkit-check p[role=status]")
    awaited(page, lambda: "1 of 1 moves arrived" in words.inner_text())
    assert "background=True" in words.inner_text()
