"""Reading the charts of a running fit: one page, on which everything is looked at."""

from driver import REGRESSION

MODEL = (
    REGRESSION
    + """
from pathlib import Path
old = vt.Trace(["intercept", "w"], ["beta", "learning_rate"])
steps = np.arange(3000)
terms = np.column_stack([-200 - 3e4 * np.exp(-steps / 100), 4 + 0 * steps, 9 + 0 * steps])
weights = np.ones((3000, 2)) * [0.5, 0.02]
old.extend(steps, 1e-3 * steps, 13 - terms[:, 0], terms, weights)
old.to_csv("old.csv")
class Slow(vt.loop.Callback):
    def on_fit_start(self, run):
        import time
        while not Path("seen.txt").exists(): time.sleep(0.1)
    def __call__(self, approx, losses, i): pass
"""
)
FIT = """
beta = vt.Beta(schedule=vt.schedules.linear(0.5, 1.0, steps=400_000))
rate = vt.LearningRate(1e-2)
dashboard = vt.Dashboard(beta, rate, compare="old.csv")
with model:
    approx = pm.fit(
        10_000_000, method=vt.ADVI(beta=beta, random_seed=1), callbacks=[dashboard, Slow()],
        obj_optimizer=pm.adam(learning_rate=rate.shared),
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
FIGURE = "document.querySelector('.vitoolkit-figure').__vitoolkit"
STEP_CHARTS = ["loss", "elbo", "kl", "posterior", "control"]


def test_reading(notebook, server):
    seen = server.folder / "seen.txt"
    seen.unlink(missing_ok=True)
    page = notebook(MODEL, FIT, height=2300)  # all charts are in sight, and drawn
    page.run(0)
    page.start(1)
    page.wait_for_panel("compiling")

    def figure(what):
        return page.page.evaluate(f"() => {FIGURE}.{what}")

    def box(chart):
        return page.page.locator(f".vitoolkit-chart[data-chart={chart}]").bounding_box()

    def words():
        return " ".join(page.page.locator(".vitoolkit-words:visible").inner_text().split())

    # Empty charts have no numbers.
    page.wait(f"{FIGURE}.plots")
    ticks = "axes, Object.values({}.axes).flat().flatMap((axis) => axis.ticker.ticks)"
    assert page.page.evaluate(ticks.format(FIGURE).replace("axes, ", "() => ")) == []
    seen.touch()
    page.wait_for_panel()
    page.wait(f"{FIGURE}.last.step.length > 100")

    # A step is at one place in all charts, whatever stands at their axes.
    places = [figure(f"place('{name}')") for name in STEP_CHARTS]
    assert len({(place["left"], place["width"]) for place in places}) == 1
    right = figure("plots.control.model.right[0].axis_label")
    assert right == "learning_rate (log)"
    page.wait(f"{FIGURE}.axes.control_log[0].ticker.ticks.length")
    ticks = figure("axes.control_log[0].ticker.ticks")
    assert 2 <= len(ticks) <= 6

    # The earlier run, called by its file.
    chip = page.page.locator("button", has_text="old.csv, 3,000 steps")
    assert len(figure("sources.loss_ghost.data.y")) == len(figure("ghost.step"))
    assert figure("sources.kl_ghost.data.name") == ["intercept", "w"]
    assert figure("sources.control_log_ghost.data.name") == ["learning_rate"]
    chip.click()
    page.wait(f"{FIGURE}.sources.loss_ghost.data.y.length === 0")
    chip.click()

    # One step under the mouse in all of them, and what was done there.
    page.type_number("learning_rate", 0.004)
    page.press("Pause")
    page.wait_for_panel("paused")
    page.wait(f"{FIGURE}.last.marks.some(([, text]) => text.includes('pause'))")
    at = figure(f"place('loss').across({FIGURE}.along_x({FIGURE}.last.marks[0][0]))")
    loss = box("loss")
    page.page.mouse.move(loss["x"] + at, loss["y"] + 60)
    crosses = "document.querySelectorAll('.vitoolkit-cross:not([hidden])').length"
    page.wait(f"{crosses} === {len(STEP_CHARTS)}")
    lines = page.page.evaluate(
        "() => [...document.querySelectorAll('.vitoolkit-cross')].map((line) =>"
        " line.getBoundingClientRect().x - line.parentNode.getBoundingClientRect().x)"
    )
    assert max(lines) - min(lines) < 0.01 and abs(lines[0] - at) < 6
    told = words()
    assert "mean of" in told and "single steps: " in told and " nats" in told
    assert "learning_rate 0.01 → 0.004, by user" in told
    assert "old.csv, 3,000 steps: " in told
    kl = box("kl")
    page.page.mouse.move(kl["x"] + at - 40, kl["y"] + 60)
    page.wait("document.querySelector('.vitoolkit-words').textContent.includes('intercept: ')")
    page.page.mouse.move(5, 5)
    page.wait("document.querySelector('.vitoolkit-words').hidden")
    page.page.locator(".vitoolkit-chart[data-chart=control]").focus()
    page.page.keyboard.press("ArrowLeft")
    page.wait("!document.querySelector('.vitoolkit-words').hidden")
    last = page.page.locator(".vitoolkit-words b").inner_text()
    page.page.keyboard.press("ArrowLeft")
    page.wait(f"document.querySelector('.vitoolkit-words b').innerText !== {last!r}")
    assert "learning_rate: " in words()
    page.page.keyboard.press("Escape")
    page.wait("document.querySelector('.vitoolkit-words').hidden")

    # A mean as smooth as one wants it, in its band.
    before = figure("last.windows[0]")
    page.page.locator(".vitoolkit-mean select").select_option("10 % of the steps")
    page.wait(f"{FIGURE}.last.windows[0] > 1.5 * {before}")
    inside = "f.mean.every((m, k) => m.every((v, i) => f.low[k][i] <= v && v <= f.high[k][i]))"
    assert page.page.evaluate(f"() => {{ const f = {FIGURE}.last; return {inside}; }}")
    assert page.page.evaluate("() => localStorage.getItem('vitoolkit-mean')") == "0.1"

    # Seconds without the pause, in which nothing went on.
    waited = figure("last.seconds.at(-1)")
    page.page.locator(".vitoolkit-choices button:text-is('seconds')").click()
    page.wait(f"{FIGURE}.sources.loss.data.x.at(-1) === {FIGURE}.last.seconds.at(-1)")
    assert figure("plots.control.model.below[0].axis_label") == "seconds, pauses taken out"
    assert figure("ranges.steps.end") < 10 * waited
    page.press("Resume")
    page.wait_for_panel()
    page.later()

    # Rate and distortion: time is a color.
    colors = figure("sources.plane.data.color")
    assert len(set(colors)) > 20 and colors[0] != colors[-1]

    # Files of what one sees.
    for chart, kind, start in (
        ("loss", "PNG", b"\x89PNG"),
        ("plane", "SVG", b"<svg"),
        ("kl", "SVG", b"<svg"),
    ):
        section = page.page.locator(f"section[data-chart={chart}]")
        opener = section.locator(".vitoolkit-save summary")
        assert min(opener.bounding_box()[side] for side in ("width", "height")) >= 24
        assert opener.get_attribute("aria-label").startswith("Download the chart ")
        opener.click()
        with page.page.expect_download() as file:
            section.locator(f".vitoolkit-save button:text-is('{kind}')").click()
        content = file.value.path().read_bytes()
        assert file.value.suggested_filename == f"{chart}.{kind.lower()}"
        assert content.startswith(start) and len(content) > 5000
    for what in ("KL by variable, nats, over seconds", ">intercept<", "#E69F00"):
        assert what.encode() in content

    page.press("Stop")
    page.done(1)
    wrong = [text for kind, text in page.console if kind in ("error", "pageerror")]
    assert not wrong, wrong
