"""What a person does at the panel who never read the docs; and a fit in the background."""

import json

from test_panel import MODEL, no_errors

BACKGROUND = """
with model:
    fit = vt.fit(
        5_000_000, beta={"w": 1.0, "intercept": vt.schedules.linear(0.0, 1.0, steps=100_000)},
        dashboard=True, background=True, random_seed=1, compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
FAILING = """
def fail(approx, losses, i):
    raise ZeroDivisionError("in the callback")
with model:
    failing = vt.fit(9, background=True, callbacks=[fail], compile_kwargs={"mode": "FAST_COMPILE"})
"""
REPORT = """
from pathlib import Path
print(json.dumps({
    "status": fit.status, "events": [e._asdict() for e in fit.trace.events],
    "files": [p.name for p in Path().glob("vitoolkit-*")],
}))
"""


def test_pause_change_resume_undo_note_export_beside_free_cells(notebook):
    page = notebook(MODEL, BACKGROUND, "print('free')", "fit.wait()", REPORT, FAILING, "print(2)")
    for earlier in page.server.folder.glob("vitoolkit-*"):  # of other tests
        earlier.unlink()
    panel = page.page.locator(".vitoolkit-panel")
    page.run(0)
    page.run(1)
    page.wait_for_panel()
    page.run(2)
    assert page.text(2) == "free\n"
    page.press("Pause")
    page.wait_for_panel("paused")
    before = page.step()
    page.press("Step")
    page.wait(
        f"document.querySelector('.vitoolkit-status').innerText.includes('{before + 1:,} of')"
    )
    page.type_number("beta[w]", 2.0)
    page.press("Note")
    page.wait("document.activeElement.matches('.vitoolkit-drawer .widget-text input')")
    words = panel.locator(".widget-text input")
    words.fill("w looks odd")
    words.press("Enter")
    page.row("beta[intercept]").locator("button.vitoolkit-schedule").click()
    editor = page.row("beta[intercept]").locator(".vitoolkit-editor")
    editor.locator("input").nth(0).fill("2")
    editor.locator("input").nth(1).fill("90,000")
    editor.locator("button:has-text('Apply')").click()
    editor.wait_for(state="hidden")
    page.press("Resume")
    page.wait_for_panel()
    page.start(3)  # fit.wait(): the cell is busy, the panel is not
    for _ in range(2):
        page.page.wait_for_timeout(400)
        page.press("Undo")
    for key in ("End", "ArrowLeft", "Home", "ArrowRight"):
        page.press_key("beta[w]", key, times=1, seconds=0.4)
    page.press("Export")
    page.wait("document.activeElement.matches('.vitoolkit-drawer button')")
    page.press("CSV")
    page.wait("document.querySelector('.vitoolkit-panel').innerText.includes('steps are in')")
    assert page.running(3)
    page.interrupt()
    page.done(3)
    page.run(4)
    told = json.loads(page.text(4))
    assert told["status"] == "interrupted"
    assert [name[-4:] for name in told["files"]] == [".csv"]
    events = [(e["kind"], e["control"], e["new"]) for e in told["events"] if e["kind"] != "resume"]
    assert events[:5] == [
        ("pause", None, None), ("step", None, None), ("set", "beta[w]", 2.0),
        ("note", None, None), ("reschedule", "beta[intercept]", 2.0),
    ]  # fmt: skip
    assert [event[:2] for event in events[5:7]] == [
        ("undo", "beta[intercept]"),
        ("undo", "beta[w]"),
    ]
    assert events[6][2] == 1.0
    moved = [new for kind, control, new in events[7:] if kind == "set"]
    assert moved[0] == 10.0 and 9.9 < moved[1] < 10 and moved[2] == 0.0 and 0 < moved[3] < 0.1
    assert events[-1][0] == "interrupt"
    page.run(5)
    page.run(6)
    page.wait(
        "JSON.stringify(window.jupyterapp.shell.currentWidget.content.widgets[5].model.outputs"
        ".toJSON()).includes('ZeroDivisionError: in the callback')",
        what="the traceback in the output of the cell that started the fit",
    )
    assert page.text(6) == "2\n"
    no_errors(page)
