"""The first minute at a panel: in sight, in hand, without a jump; and a kernel that dies."""

import json
import os
import signal

import pytest
from driver import REGRESSION
from test_panel import FIGURE, REPORT, no_errors

MODEL = f"{REGRESSION}import json, os, time\norder = []\nopen('pid', 'w').write(str(os.getpid()))\n"
FIT = """
beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=5_000))
rate = vt.LearningRate(1e-2)
dashboard = vt.Dashboard(beta, rate, {how})
with model:
    approx = pm.fit(
        20_000, method=vt.ADVI(beta=beta, random_seed=1),
        obj_optimizer=pm.adam(learning_rate=rate.shared), callbacks=[{before}dashboard],
        compile_kwargs={{"mode": "FAST_COMPILE"}},
    )
"""
#: Compiles until it is told that this is over, deaf to the page as a kernel is that compiles.
SLOW = """
class Slow(vt.Callback):
    def on_compiled(self, run):
        while not os.path.exists("compiled"):
            time.sleep(0.05)
"""
MANY_WORDS = "\n".join(f"# {i}" for i in range(30))
SLIDER = ".vitoolkit-controls input[type=range]"
PANEL = "document.querySelector('.vitoolkit-panel')"
#: Where things are below the top of the panel.
PLACES = f"""() => [".vitoolkit-buttons", "{SLIDER}", ".vitoolkit-chart"]
    .map((what) => {PANEL}.querySelector(what).getBoundingClientRect().top)
    .map((top) => top - {PANEL}.getBoundingClientRect().top)"""
#: Broken links that ipywidgets draws for a kernel that is gone.
ICONS = f"""[...document.querySelectorAll('.vitoolkit-panel *'), {PANEL}]
    .filter((e) => e.matches('.jupyter-widgets-disconnected'))
    .filter((e) => getComputedStyle(e, '::before').display !== 'none').length"""
#: Whether something is within what the notebook shows.
IN_SIGHT = """(what) => {
    const view = document.querySelector('.jp-WindowedPanel-outer').getBoundingClientRect();
    const { top, bottom } = document.querySelector(what).getBoundingClientRect();
    return view.top <= top && bottom <= view.bottom;
}"""
#: Stands in for the browser's own, on a page that nobody has in front of them.
NOTIFICATIONS = """() => {
    document.hasFocus = () => false;
    window.Notification = class {
      static permission = "default"; static asked = 0; static told = [];
      static requestPermission() { this.asked += 1; this.permission = "granted"; }
      constructor(title, { body }) { Notification.told.push(body); }
    };
}"""
HANDLES = (".vitoolkit-pause", ".vitoolkit-controls", ".vitoolkit-chart")


@pytest.mark.parametrize("size", [(1440, 900), (1280, 720)], ids=["1440x900", "1280x720"])
def test_by_shift_enter_the_panel_is_in_sight_and_in_hand(notebook, size):
    fit = FIT.format(how="paused=True, steps_per_second=1_000, notify=True", before="")
    page = notebook(MANY_WORDS, MODEL, fit, MANY_WORDS, REPORT, width=size[0], height=size[1])
    keyboard, name = page.page.keyboard, page.page.title()
    page.page.evaluate(NOTIFICATIONS)
    page.page.locator(".jp-InputArea-editor").first.click()
    keyboard.press("Escape")
    for _ in range(3):
        keyboard.press("Shift+Enter")
    page.wait_for_panel("paused")
    for what in HANDLES:
        page.wait(f"({IN_SIGHT})({what!r})", what=f"{what} in sight")
    assert page.page.locator(".vitoolkit-pause").inner_text().strip() == "Start"
    assert page.page.title() == f"⏸ 0 % · {name}"
    places = page.page.evaluate(PLACES)
    handle = page.page.locator(SLIDER).first.bounding_box()
    assert page.page.evaluate("Notification.asked") == 0
    page.press("Start")
    page.wait_for_panel()
    assert page.page.evaluate("Notification.asked") == 1  # upon a click, and once
    page.wait("document.title.startsWith('▶ ')")
    again = page.page.locator(SLIDER).first.bounding_box()
    assert again["y"] == handle["y"]  # under the mouse, where it was
    page.drag_slider("beta", 60)
    assert page.page.evaluate(PLACES) == places
    assert page.page.evaluate(IN_SIGHT, ".vitoolkit-controls")
    page.page.mouse.move(size[0] / 2, size[1] * 0.7)
    page.page.mouse.wheel(0, 250)  # to the charts below
    page.wait(f"!({IN_SIGHT})('.vitoolkit-chart')")
    for what in HANDLES[:2]:
        assert page.page.evaluate(IN_SIGHT, what), what
    page.page.locator(".vitoolkit-pace select").select_option("full speed")
    page.wait(f"document.title === {name!r}", what="the title as it was")
    page.wait("!document.querySelector('.vitoolkit-status')")
    assert page.page.evaluate("Notification.told.at(-1)") == "finished: 20,000 steps"
    page.start(4)
    page.done(4)
    told = json.loads(page.text(4))
    assert told["status"] == "finished" and told["steps"] == 20_000
    kinds = [(e["step"], e["kind"], e["source"]) for e in told["events"]]
    assert kinds[:2] == [(0, "pause", "code"), (0, "resume", "user")]
    moved = [e for e in told["events"] if e["control"] == "beta"]
    assert moved and {e["kind"] for e in moved} == {"set"} and moved[-1]["new"] > 0.3
    no_errors(page)


def test_feedback_while_compiling_and_nothing_jumps_and_a_dead_kernel(notebook, server):
    for name in ("compiled", "pid"):
        server.folder.joinpath(name).unlink(missing_ok=True)
    fit = FIT.format(how="steps_per_second=500", before="Slow(), ").replace("20_000", "2_000_000")
    page = notebook(MODEL + SLOW, fit, width=1280, height=720)
    name = page.page.title()
    page.run(0)
    page.start(1)
    page.wait_for_panel("compiling")
    page.wait("document.title.startsWith('compiling · ')")
    page.wait(f"{FIGURE}.views", what="the charts")
    places = page.page.evaluate(PLACES)
    assert not page.page.locator(".vitoolkit-none:visible").count()  # nobody has searched
    message, pause = ".vitoolkit-message", page.page.locator(".vitoolkit-pause")
    assert "the step of ADVI, 2 variables, 8 parameters" in page.page.locator(message).inner_text()
    for label, heard in (("Resume", True), ("Pause", False), ("Resume", True)):
        pause.click()
        page.page.locator(f".vitoolkit-pause:has-text('{label}')").wait_for()
        said = page.page.locator(message).inner_text()
        assert ("will pause before its first step" in said) == heard
        assert page.page.evaluate(PLACES) == places
    server.folder.joinpath("compiled").touch()
    page.wait_for_panel("paused")
    assert page.step() == 0 and pause.inner_text().strip() == "Resume"
    page.press("Resume")
    page.wait_for_panel()
    page.wait(f"{FIGURE}.sources.loss.data.x.length > 20")
    assert page.page.evaluate(PLACES) == places
    box = page.row("beta").locator("input[type=number]")
    box.fill("99")
    box.press("Enter")
    page.wait(f"document.querySelector('{message}').innerText.includes('received 99')")
    assert page.page.evaluate(PLACES) == places
    page.type_number("beta", 2.0)
    page.wait(f"!document.querySelector('{message}').innerText.includes('received 99')")
    assert page.page.evaluate(PLACES) == places
    page.press("Export")
    csv = page.page.locator(".vitoolkit-panel button:has-text('CSV')")
    csv.wait_for()
    places = page.page.evaluate(PLACES)  # below what a person has unfolded
    csv.click()
    page.wait(f"{PANEL}.innerText.includes('steps are in')")
    assert page.page.evaluate(PLACES) == places
    spoken = page.page.locator(".vitoolkit-status [role=status]")
    assert spoken.inner_text() == "the fit is running"
    assert page.page.locator("[role=status] .vitoolkit-bar").count() == 0

    page.later()  # the page knows of the file by now
    os.kill(int(server.folder.joinpath("pid").read_text()), signal.SIGKILL)
    page.page.wait_for_selector(".vitoolkit-status[data-phase='gone']")
    told = page.page.locator(message).inner_text()
    assert told.startswith("the kernel is gone after step ") and ".csv" in told
    assert not page.page.locator(".vitoolkit-buttons, .vitoolkit-controls").first.is_visible()
    assert not page.page.locator(".vitoolkit-controls").is_visible()
    assert page.page.locator(".vitoolkit-chart").first.is_visible()
    assert "left" not in page.status() and page.page.title() == name
    page.wait(f"{PANEL}.matches('.jupyter-widgets-disconnected')")
    assert page.page.evaluate(ICONS) == 0
