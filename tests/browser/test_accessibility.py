"""The panel for those who hear it, or have no mouse: axe-core, names, sizes, and every key."""

import json
import re
from pathlib import Path

import pytest
from driver import REGRESSION

FIT = """
import json
beta = vt.Beta(schedule=vt.schedules.cosine(0.0, 1.0, steps=3_000_000))
rate = vt.LearningRate(1e-2)
dashboard = vt.Dashboard(beta, rate, predictive=True)
with pm.Model():
    z = [pm.Normal(f"z{i}", 0, 1) for i in range(12)]
    batch = pm.Minibatch(x, batch_size=20)
    pm.Normal("x", sum(z), 1, observed=batch, total_size=200)
    pm.fit(
        10_000_000, method=vt.ADVI(beta=beta, random_seed=1), callbacks=[dashboard],
        obj_optimizer=pm.adam(learning_rate=rate.shared), compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
REPORT = "print(json.dumps([(e.kind, e.control, e.new) for e in dashboard.trace.events]))"
PANEL, OUTPUTS = ".vitoolkit-panel", ".jp-OutputArea-output"
#: Rules that axe-core has switched off by default, among them the size of targets (WCAG 2.2).
MORE = ("target-size", "label-content-name-mismatch", "td-has-header")
WRONG = """async ([where, more]) => {
  const rules = Object.fromEntries(more.map((rule) => [rule, { enabled: true }]));
  const { violations, passes } = await axe.run({ include: [[where]] }, { rules });
  if (!passes.length) return ["axe found nothing to look at"];
  return violations.map(({ id, impact, nodes }) => [id, impact, nodes.map((node) => node.html)]);
}"""
#: What one can press or move, by what axe and WCAG would call it.
HANDLES = f"""[...document.querySelectorAll(
  "{PANEL} :is(button, input, select, a, [tabindex='0'])")]
  .filter((element) => element.checkVisibility({{ visibilityProperty: true }}))"""
NAME = "(e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || e.title)"


@pytest.fixture
def page(notebook):
    page = notebook(REGRESSION, FIT, "dashboard", REPORT)
    page.run(0)
    page.start(1)
    page.wait_for_panel()
    axe = pytest.importorskip("axe_playwright_python")
    page.page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text("utf-8"))
    return page


def well(page, *where):
    """Let axe look."""
    for selector in where:
        wrong = page.page.evaluate(WRONG, [selector, MORE])
        assert wrong == [], (selector, wrong)


def active(page, what=NAME):
    return page.page.evaluate(f"() => {{ const e = document.activeElement; return {what}; }}")


def without_numbers(name):
    return re.sub(r"[−-]?\d[\d.,]*", "#", name.strip())


def tab_through(page):
    """Accessible names of all that Tab reaches in the panel, in their order."""
    page.page.evaluate(f"() => {HANDLES}.find((element) => !element.disabled).focus()")
    names = []
    while active(page, f"Boolean(e.closest('{PANEL}'))"):
        names.append(active(page, f"{NAME}.trim()"))
        page.page.keyboard.press("Tab")
        assert len(names) < 100
    return names


def unfold(page, button, key, unfolds):
    """Press a button by key; what it unfolds closes with Escape, and the focus comes back."""
    button.focus()
    page.page.keyboard.press(key)
    page.page.locator(f"{PANEL} {unfolds}").wait_for()
    yield
    page.page.keyboard.press("Escape")
    page.page.locator(f"{PANEL} {unfolds}").wait_for(state="hidden")
    assert button.evaluate("(button) => button === document.activeElement")


def test_axe_finds_nothing_and_a_key_reaches_everything(page):
    keys, panel = page.page.keyboard, page.page.locator(PANEL)
    note, export = (panel.locator(f"button:text-is('{name}')") for name in ("Note", "Export"))
    schedule = page.row("beta").locator(".vitoolkit-schedule")
    for dark in (True, False):
        page.theme(dark)
        for _ in unfold(page, note, "Enter", ".widget-text input"):
            well(page, PANEL)
        for _ in unfold(page, export, "Space", "button:text-is('CSV')"):
            for _ in unfold(page, schedule, "Enter", ".vitoolkit-editor input >> nth=0"):
                assert active(page, "e.className") == "vitoolkit-end"
                assert page.row("beta").locator(".vitoolkit-steps").input_value() == "3,000,000"
                page.row("beta").locator(".vitoolkit-preview path").wait_for()
                well(page, PANEL)
            export.focus()

    small = page.page.evaluate(
        f"""() => {HANDLES}.map((e) => [{NAME}, e.getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)"""
    )
    assert small == []
    charts = page.page.locator(".vitoolkit-chart:visible")
    assert charts.evaluate_all("(all) => all.length && all.every((e) => e.ariaLabel)")

    # Arrows move a slider, by numbers that are spoken; Enter and Space press.
    page.press_key("learning_rate", "ArrowRight", times=1, seconds=0.1)
    assert active(page, "e.getAttribute('aria-valuetext')") == "0.0105"
    page.press_key("learning_rate", "Home", times=1, seconds=0.1)
    page.row("beta").locator(".vitoolkit-wheel").focus()
    keys.press("Space")
    page.held("beta", "manual")
    keys.press("Enter")
    page.held("beta", "auto")
    panel.locator("button:has-text('Pause')").focus()
    keys.press("Space")
    page.wait_for_panel("paused")
    names = tab_through(page)
    every = page.page.evaluate(f"() => {HANDLES}.filter((e) => !e.disabled).map((e) => {NAME})")
    assert all(name.strip() for name in every)
    # The last values may come after the pause: what is told apart is not its number.
    assert {without_numbers(name) for name in every} <= {without_numbers(name) for name in names}
    order = ["Resume", "Stop", "Note", "Export", "beta", "beta, number", "learning_rate", "linear"]
    places = [names.index(name) for name in order]
    assert places == sorted(places)

    for dark in (True, False):
        page.theme(dark)
        well(page, PANEL)
    page.press("Stop")
    page.done(1)
    page.run(2)
    page.wait_for_panel("stopped")
    for dark in (True, False):
        page.theme(dark)
        well(page, PANEL, OUTPUTS)
    page.run(3)
    events = json.loads(page.text(3))
    assert [event[0] for event in events] == ["set", "set", "set", "release", "pause", "stop"]
    assert [event[2] for event in events[:2]] == [0.0105, 1e-6]
