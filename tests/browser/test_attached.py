"""A fit of a script, seen and steered from a notebook through its journal."""

import json
import subprocess
import sys

from test_panel import no_errors

from vitoolkit.journal_file import JournalFile

FIT = """
import sys, pymc as pm, vitoolkit as vt
with pm.Model():
    z = pm.Normal("z", shape=3)
    pm.Normal("y", z, 0.5, observed=[0.2, 1.1, -0.4])
    vt.fit(
        10_000_000, beta=vt.schedules.linear(0.0, 1.0, steps=10_000_000), record=sys.argv[1],
        random_seed=1, progressbar=False, every=10, compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
ATTACH = """
import json, vitoolkit as vt
fit = vt.attach("far.db")
fit
"""
EVENTS = "print(json.dumps([[e.kind, e.control, e.new, e.source] for e in fit.last(1).events]))"


def begun(path):
    """Whether the journal has a run with rows."""
    if not path.exists():
        return False
    with JournalFile(path) as file:
        return bool(file.runs()) and file.last_row(1) is not None


def test_a_slider_of_a_notebook_moves_a_fit_of_a_script(notebook, tmp_path):
    page = notebook(ATTACH, EVENTS, "fit.status", width=1440, height=900)
    path = page.server.folder / "far.db"
    child = subprocess.Popen([sys.executable, "-c", FIT, str(path)], stderr=subprocess.DEVNULL)
    try:
        while child.poll() is None and not begun(path):
            page.page.wait_for_timeout(100)
        page.run(0)
        page.wait_for_panel()
        page.drag_slider("beta", 60)
        page.held("beta", "manual")
        page.later()
        page.page.screenshot(path=tmp_path / "attached.png")
        page.run(1)
        *_, (kind, control, value, source) = json.loads(page.text(1))
        assert (kind, control, source) == ("set", "beta", "user") and value > 0.1
        page.press("Stop")
        page.wait_for_panel("stopped")
        assert child.wait(120) == 0
        no_errors(page)
    finally:
        child.kill()
        child.wait()
