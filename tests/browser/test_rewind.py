"""A point is kept in the panel, and the fit goes back to it, by mouse and by keys."""

import json

from driver import REGRESSION
from test_panel import no_errors

BACKGROUND = """
import json
with model:
    fit = vt.fit(
        50_000_000, dashboard=True, background=True, random_seed=1, learning_rate=0.01,
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
REPORT = """
print(json.dumps({
    "events": [(e.kind, e.source, e.old, e.step, e.text) for e in fit.trace.events],
    "branches": [(b.step, len(b.rows)) for b in fit.trace.branches],
    "step": fit.run.step,
}))
"""
FIGURE = "document.querySelector('.vitoolkit-figure').__vitoolkit"


def test_a_point_is_kept_and_gone_back_to_by_mouse_and_by_keys(notebook, tmp_path):
    page = notebook(REGRESSION, BACKGROUND, REPORT)
    page.run(0)
    page.run(1)
    page.wait_for_panel()
    page.wait(f"{FIGURE}.sources.loss.data.x.length > 20")
    page.press("Keep")
    page.press("Pause")
    page.wait_for_panel("paused")
    page.press("Rewind")
    page.wait("document.activeElement.matches('.vitoolkit-drawer select')")
    drawer = page.page.locator(".vitoolkit-drawer")
    words = drawer.locator("option").first.inner_text().replace("\xa0", " ")
    assert words.startswith("step ") and words.endswith(", kept")  # the bookmark comes first
    page.screenshot(tmp_path / "drawer.png")
    page.press("Go back")
    kept = int(words.split()[1].strip(",").replace(",", ""))
    page.wait(f"document.querySelector('.vitoolkit-status').innerText.includes('{kept:,} of')")
    page.wait(
        "[...document.querySelectorAll('.vitoolkit-panel .vitoolkit-chip')]"
        ".some((chip) => chip.innerText.includes('left behind at step'))"
    )
    page.wait(f"{FIGURE}.sources.loss_ghost.data.x.length > 1")
    assert drawer.locator("select").count() == 0
    page.press("Resume")
    page.wait_for_panel()
    page.screenshot(tmp_path / "behind.png")
    page.press("Rewind")
    page.wait("document.activeElement.matches('.vitoolkit-drawer select')")
    page.page.keyboard.press("End")  # the first step
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    page.wait("!document.querySelector('.vitoolkit-drawer select')")
    page.press("Pause")
    page.wait_for_panel("paused")
    page.run(2)
    told = json.loads(page.text(2))
    bookmark, back = told["events"][0], [e for e in told["events"] if e[0] == "rewind"]
    assert bookmark[:2] == ["bookmark", "user"] and bookmark[3] == kept
    assert [event[1] for event in back] == ["user", "user"]
    assert back[0][3] == kept and back[0][4] == bookmark[4] and back[1][3] == 0
    assert [branch[0] for branch in told["branches"]] == [kept, 0]
    page.press("Stop")
    no_errors(page)
