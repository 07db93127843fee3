"""What a hand does at the panel arrives, in every front end and on every kernel, at full speed.

``pytest tests/browser/test_steering.py -s -k delivered`` prints how long it took.
"""

import json
import statistics

import pytest
from conftest import KERNELS, TWO
from driver import REGRESSION

MODEL = f"""{REGRESSION}
import json, time
beta = vt.Beta(1.0)
dashboard = vt.Dashboard(beta)

def fit(n=10_000_000, dashboard=dashboard, beta=beta):
    with model:
        return pm.fit(
            n, method=vt.ADVI(beta=beta, random_seed=1), callbacks=[dashboard],
            compile_kwargs={{"mode": "FAST_COMPILE"}},
        )

order = []
"""
FIT = "fit(); order.append('fit')"
RAISING = """
import ipywidgets
raising = ipywidgets.IntSlider()
raising.add_class("raising")
raising.observe(lambda change: order.append(change["new"]) or 1 / 0, "value")
raising
"""
OTHER = """
other = vt.Beta(1.0, name="other")
second = vt.Dashboard(other)
fit(dashboard=second, beta=other)
"""
IN_THE_BACKGROUND = """
with model:
    one, two = (
        vt.fit(
            10_000_000, beta=control, dashboard=True, background=True, random_seed=1,
            compile_kwargs={"mode": "FAST_COMPILE"},
        )
        for control in (beta, vt.Beta(1.0, name="other"))
    )
"""
AWAITED = """
with model:
    fit = await vt.fit_async(
        10_000_000, beta=beta, dashboard=True, random_seed=1,
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
order.append("fit")
"""
ENDED = """
print(json.dumps({
    "set": [e.new for e in fit.trace.events if e.kind == "set"], "status": fit.status,
    "way": fit.dashboard._events.way, "order": order,
}))
"""
BOTH = """
one.wait(), two.wait()
print(json.dumps([
    {
        "set": [(e.control, e.new, e.source) for e in fit.trace.events if e.kind == "set"],
        "status": fit.trace.attrs["status"],
        "way": fit.dashboard._events.way,
        "last": float(fit.trace.control[name][-1]),
        "contiguous": bool((np.diff(fit.trace.step) == 1).all()),
    }
    for fit, name in ((one, "beta"), (two, "other"))
]))
"""
BUTTON = """
import ipywidgets
out, button = ipywidgets.Output(), ipywidgets.Button(description="Fit it")
def act(_):
    with out:
        fit()
    now = time.time() - time.perf_counter()
    with open("button.json", "w") as file:
        json.dump(REPORT, file)
button.on_click(act)
display(button, out)
"""
TOLD = """{
    "set": [(now + e.time, e.new, e.source) for e in beta.log],
    "status": dashboard.trace.attrs["status"],
    "way": dashboard._events.way,
    "rows": len(dashboard.trace),
    "last": float(dashboard.trace.control["beta"][-1]),
    "seconds": float(np.ptp(dashboard.trace.time)),
    "gap": float(np.diff(dashboard.trace.time).max()),
    "order": order,
}"""
REPORT = f"now = time.time() - time.perf_counter()\nprint(json.dumps({TOLD}))"
#: Kernels and front ends know nothing of PyMC's version: one stack of the gate has all of them.
ALL = len(KERNELS) > len(TWO)
MATRIX = [("lab", kernel) for kernel in KERNELS]
MATRIX += [("notebook", kernel) for kernel in TWO if ALL]
BUTTONS = [("lab", "newest"), ("lab", "7.3.0"), ("voila", "newest"), ("voila", "6.31.0")]


def report(page, cell):
    page.run(cell)
    return json.loads(page.text(cell))


def latencies(moves, sets):
    """Seconds from each move at the page to the first value in force that has come as far."""
    found = []
    for time, value in moves:
        arrived = [at for at, new, _ in sets if new >= value - 1e-9 and at >= time]
        assert arrived, f"the move to {value} never arrived: {sets[-3:]}"
        found.append(arrived[0] - time)
    return found


def steer(page):
    """Press a key 60 times, then drag in 40 moves; what the page saw of both."""
    page.watch_hand("beta")
    page.page.wait_for_timeout(1000)  # the page has just drawn its charts for the first time
    page.press_key("beta", "ArrowRight", times=60, seconds=3.6)
    pressed = page.moves()
    page.drag_slider("beta", 100, moves=40, seconds=1.2)
    return pressed, page.moves()


def assert_delivered(name, pressed, dragged, told):
    assert len(pressed) == len({value for _, value in pressed}) == 60
    assert {source for *_, source in told["set"]} == {"user"}
    by_key = latencies(pressed, told["set"])
    by_mouse = latencies(dragged, told["set"])
    assert told["last"] == pytest.approx(dragged[-1][1]) and dragged[-1][1] > pressed[-1][1]
    rate = f"{told['rows'] / told['seconds']:6.0f} steps/s, longest gap {1e3 * told['gap']:4.0f} ms"
    for what, seconds in ("keys", by_key), ("drag", by_mouse):
        median, worst = 1e3 * statistics.median(seconds), 1e3 * max(seconds)
        took = f"median {median:4.0f} ms, worst {worst:4.0f} ms"
        print(f"{name:18} {told['way']:9} {what}: all of {len(seconds)}, {took}; {rate}")
    # As it should be on a machine that has nothing else to do: 0.06 and 0.25.
    assert statistics.median(by_key) < 0.3 and max(by_key) < 3


@pytest.mark.parametrize(("front", "kernel"), MATRIX, indirect=True)
def test_every_key_press_and_the_end_of_a_drag_are_delivered(notebook, front, kernel):
    page = notebook(MODEL, FIT, REPORT)
    page.run(0)
    page.start(1)
    page.wait_for_panel()
    pressed, dragged = steer(page)
    assert page.running(1)
    page.press("Stop")
    page.done(1)
    told = report(page, 2)
    assert_delivered(f"{front} {kernel}", pressed, dragged, told)
    assert told["status"] == "stopped"


@pytest.mark.parametrize(("front", "kernel"), BUTTONS if ALL else BUTTONS[:1], indirect=True)
def test_a_fit_that_a_button_started(notebook, server, front, kernel):
    report = server.folder / "button.json"
    report.unlink(missing_ok=True)
    page = notebook(MODEL, BUTTON.replace("REPORT", TOLD))
    if front == "lab":
        page.run(0)
        page.run(1)
    page.page.locator("button:has-text('Fit it')").click(timeout=120_000)
    page.wait_for_panel()
    pressed, dragged = steer(page)
    page.press("Stop")
    for _ in range(1200):
        page.page.wait_for_timeout(100)
        if report.exists() and report.read_text().endswith("}"):
            break
    told = json.loads(report.read_text())
    assert_delivered(f"{front} {kernel} button", pressed, dragged, told)
    assert told["way"] == "pump" and told["status"] == "stopped"


@pytest.mark.parametrize("kernel", TWO, indirect=True)
def test_nothing_is_lost_and_nothing_out_of_order(notebook):
    later = ["order.append('later')", "order.append(input('name? '))"]
    page = notebook(MODEL, RAISING, FIT, *later, "fit(); 1 / 0", "order.append('never')", REPORT)
    page.run(0)
    page.run(1)
    for cell in (2, 3, 4):
        page.start(cell)
    page.wait_for_panel()
    page.watch_hand("beta")
    page.press_key("beta", "ArrowRight", times=10, seconds=1)
    raising = page.page.locator(".raising .noUi-handle")
    for _ in range(3):
        raising.focus()
        page.page.keyboard.press("ArrowRight")
        page.press_key("beta", "ArrowRight", times=10, seconds=1)
    assert page.running(2)
    page.press("Stop")
    page.page.locator(".jp-Stdin-input").fill("Ada")
    page.page.locator(".jp-Stdin-input").press("Enter")
    for cell in (2, 3, 4):
        page.done(cell)
    for cell in (5, 6):
        page.start(cell)
    page.wait_for_panel()
    page.press_key("beta", "ArrowRight", times=10, seconds=1)
    page.press("Stop")
    page.done(5)
    page.done(6)
    told = report(page, 7)
    assert told["order"] == [1, 2, 3, "fit", "later", "Ada"]
    latencies(page.moves(), told["set"])
    assert told["last"] == pytest.approx(3.5)
    assert "ZeroDivisionError" in json.dumps(page.outputs(5))
    page.page.evaluate("() => window.jupyterapp.commands.execute('logconsole:open')")
    page.page.wait_for_selector(".jp-LogConsole >> text=ZeroDivisionError")


@pytest.mark.parametrize("kernel", TWO, indirect=True)
def test_one_fit_after_the_other_each_with_its_own_panel(notebook):
    page = notebook(MODEL, FIT, OTHER, REPORT.replace("beta.log", "beta.log + other.log"))
    page.run(0)
    for cell in (1, 2):
        page.start(cell)
    page.wait_for_panel()
    page.press_key("beta", "ArrowRight", times=5, seconds=0.5)
    page.press("Stop")
    page.done(1)
    page.wait_for_panel()
    page.press_key("other", "ArrowLeft", times=5, seconds=0.5)
    page.press("Stop")
    page.done(2)
    told = report(page, 3)
    assert told["last"] == pytest.approx(1.25) and told["set"][-1][1] == pytest.approx(0.95)


@pytest.mark.parametrize("kernel", TWO, indirect=True)
def test_two_fits_in_the_background_each_with_its_own_panel(notebook):
    free = "order.append('free')\nprint(order)"
    page = notebook(MODEL, IN_THE_BACKGROUND, free, BOTH, height=2600)
    page.run(0)
    page.run(1)
    running = "document.querySelectorAll('.vitoolkit-status[data-phase=running]').length === 2"
    page.wait(running)
    page.run(2)
    assert "free" in page.text(2)  # the cell is free while they run
    page.press_key("beta", "ArrowRight", times=20, seconds=2)
    page.press_key("other", "ArrowLeft", times=10, seconds=1)
    assert page.page.evaluate(f"() => {running}")
    page.press("Stop", panel=1)
    page.wait("document.querySelectorAll('.vitoolkit-panel').length === 1")  # a picture is left
    page.press_key("beta", "ArrowRight", times=5, seconds=0.5)
    page.press("Stop", panel=0)
    one, two = report(page, 3)
    assert one["last"] == pytest.approx(2.25) and two["last"] == pytest.approx(0.9)
    for told, name in (one, "beta"), (two, "other"):
        assert {(control, source) for control, _, source in told["set"]} == {(name, "user")}
        assert told["status"] == "stopped" and told["way"] == "thread" and told["contiguous"]


@pytest.mark.parametrize("kernel", TWO, indirect=True)
def test_a_cell_that_awaits_its_fit(notebook):
    page = notebook(MODEL, AWAITED, "order.append('later')", ENDED)
    page.run(0)
    for cell in (1, 2):
        page.start(cell)
    page.wait_for_panel()
    page.press_key("beta", "ArrowRight", times=20, seconds=2)
    assert page.running(1) and page.running(2)
    page.press("Stop")
    page.done(1)
    page.done(2)
    told = report(page, 3)
    assert told["set"][-1] == pytest.approx(2.0) and told["order"] == ["fit", "later"]
    assert told["status"] == "stopped" and told["way"] == "thread"
