"""The row of a control in a page: names in LaTeX, the slider's scale, its schedule, its width."""

import json

from driver import REGRESSION

FIT = r"""
import json
beta = vt.Beta(name=r"$\beta_{1}$")
ramp = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=3_000_000), name="ramp")
rate = vt.LearningRate(1e-2)
rate.suggestion = 0.03  # as vt.lr_find(inference, rate) does
dashboard = vt.Dashboard(rate)
with pm.Model():
    z = pm.Normal(r"$\alpha_{0}$", 0, 1, shape=3)
    other = pm.Normal("other", 0, 1)
    pm.Normal("x", z + other, 1, observed=x)
    pm.fit(
        10_000_000, method=vt.ADVI(beta={r"$\alpha_{0}$": beta, "other": ramp}, random_seed=1),
        obj_optimizer=pm.adam(learning_rate=rate), callbacks=[dashboard],
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
REPORT = "print(json.dumps([e._asdict() for e in dashboard.trace.events]))"
FIGURE = "document.querySelector('.vitoolkit-figure').__vitoolkit"
#: Left and right end of what there is one of in each column.
ENDS = """(all) => all.map((e) => e.getBoundingClientRect())
  .map(({ left, right }) => [Math.round(left), Math.round(right)])"""


def ends(page, selector):
    return page.page.locator(selector).evaluate_all(ENDS)


def value(page, control):
    return page.row(control).evaluate("(row) => row.__vitoolkit.value")


def to(page, control, place):
    """Drag a slider's handle to a place between 0 and 1; what value that makes."""
    slider = page.handle(control)
    (x, _), box = page.thumb(slider), slider.bounding_box()
    page.drag_slider(control, box["x"] + 12 + place * (box["width"] - 24) - x, moves=8, seconds=0.3)
    return value(page, control)


def test_a_control_is_named_moved_and_given_another_schedule(notebook):
    page = notebook(REGRESSION, FIT, REPORT)
    page.run(0)
    page.start(1)
    page.wait_for_panel()

    # Named in LaTeX: dragged, typed into, and the same words everywhere.
    page.drag_slider("β₁", 30)
    box = page.row("β₁").locator("input[type=number]")
    box.click()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("2.5", delay=100)
    page.later()
    assert box.input_value() == "2.5"
    page.page.keyboard.press("Enter")
    page.held("β₁", "manual")
    page.wait(f"{FIGURE}.last.marks.length === 1")
    assert page.row("β₁").locator("input[type=range]").get_attribute("aria-label") == "β₁"
    chips = page.page.locator(".vitoolkit-chip .name").all_inner_texts()
    assert {"β₁", "ramp", "learning_rate"} <= set(chips)
    kl_now = page.page.locator("section[data-chart=list]")
    rows = kl_now.locator(".vitoolkit-row .name").all_inner_texts()
    assert sorted(rows) == ["other", "α₀"]
    page.wait(f"[...{FIGURE}.sources.kl.data.name].includes('α₀')")  # what the hover reads
    page.wait(f"/^β₁ 1 → .*, by user/.test({FIGURE}.last.marks[0][1])")
    kl_now.locator(".vitoolkit-row", has_text="α₀").click()
    page.wait(f"{FIGURE}.sources.kl.data.alpha.filter((a) => a === 0).length === 1")

    # What lr_find suggests is used by a press, and no line of the row goes away with it.
    hints = page.page.locator(".vitoolkit-hint:visible")
    assert hints.all_inner_texts()[0].startswith("lr_find suggests 0.03")
    hints.get_by_role("button", name="set learning_rate to 0.03, as lr_find suggests").click()
    page.held("learning_rate", "manual")
    assert value(page, "learning_rate") == 0.03 and hints.count() == 1
    assert hints.get_by_role("button").is_disabled()

    # Half of its length is 0 to 1, and it comes to rest at 1.
    page.page.set_viewport_size({"width": 1900, "height": 1250})
    assert 0.49 <= to(page, "β₁", 0.25) <= 0.51
    assert 5.4 <= to(page, "β₁", 0.75) <= 5.6
    assert to(page, "β₁", 0.503) == 1.0
    assert to(page, "β₁", 0.0) == 0.0 and to(page, "β₁", 1.0) == 10.0
    page.type_number("β₁", 0.97)
    page.press_key("β₁", "ArrowUp", times=4, seconds=0.2)
    assert value(page, "β₁") == 1.05  # 0.98, 0.99, 1, 1.05
    page.press_key("β₁", "PageDown", times=1, seconds=0.1)
    assert value(page, "β₁") == 1.0  # never past the mark
    assert page.handle("β₁").get_attribute("aria-valuetext") == "1"
    page.type_number("β₁", 11)
    page.page.wait_for_selector("text=β₁ must be in [0, 10], received 11")
    assert box.input_value() == "1"
    mark, track = ends(page, ".vitoolkit-one")[0], ends(page, ".vitoolkit-track")[0]
    assert abs(mark[0] - sum(track) / 2) <= 1

    # As wide as the charts below, at any width; one line where there is room.
    def columns(width):
        page.page.set_viewport_size({"width": width, "height": 1250})
        page.wait(f"Math.abs({FIGURE}.root.clientWidth - {width}) < 220")
        return ends(page, ".vitoolkit-control"), ends(page, ".vitoolkit-section:not([hidden])")

    rows, charts = columns(1900)
    assert rows[:2] == charts[:2] and track[1] - track[0] > 350
    for width, height in ((700, 40), (460, 76)):
        rows, charts = columns(width)
        assert rows[0] == charts[0] and len({tuple(row) for row in rows}) == 1
        heights = page.page.locator(".vitoolkit-line").evaluate_all(
            "(all) => all.map((e) => e.offsetHeight)"
        )
        assert max(heights) < height
    page.page.set_viewport_size({"width": 1300, "height": 1250})

    # Another end for a schedule: seen before it is asked for.
    button, row = page.row("ramp").locator(".vitoolkit-schedule"), page.row("ramp")
    button.click()
    page.page.keyboard.type("4")
    row.locator(".vitoolkit-preview[aria-label$='to 4, at step 3,000,000']").wait_for()
    row.locator(".vitoolkit-steps").fill("1")
    row.locator(".vitoolkit-refused", has_text="must be more than").wait_for()
    row.locator(".vitoolkit-steps").fill("2000000")
    page.page.keyboard.press("Tab")
    assert row.locator(".vitoolkit-steps").input_value() == "2,000,000"
    page.page.keyboard.press("Enter")
    row.locator(".vitoolkit-editor").wait_for(state="hidden")
    assert button.evaluate("(button) => button === document.activeElement")
    page.later()
    page.press("Stop")
    page.done(1)
    (left,) = [output for output in page.outputs(1) if output["output_type"] == "display_data"]
    tables = "".join(left["data"]["text/html"])
    assert "<td>β₁</td>" in tables and "KL of α₀, nats" in tables and "$" not in tables
    page.run(2)
    events = json.loads(page.text(2))
    names = {r"$\beta_{1}$", "ramp", "learning_rate", None}
    assert {event["control"] for event in events} == names
    assert [e["new"] for e in events if e["control"] == "learning_rate"] == [0.03]
    assert 2.5 in [event["new"] for event in events if event["kind"] == "set"]
    (again,) = [event for event in events if event["kind"] == "reschedule"]
    assert (again["control"], again["new"], again["source"]) == ("ramp", 4.0, "user")
    wrong = [text for kind, text in page.console if kind in ("error", "pageerror")]
    assert not wrong, wrong
