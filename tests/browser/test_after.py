"""What is there when a fit has ended: charts that live on, and a picture that needs no kernel."""

import os
from pathlib import Path

from test_panel import FIGURE, MODEL, fit, no_errors

PICTURE = ".jp-OutputArea img[src^='data:image/svg']"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
LEFT = "import ipywidgets; print(len(ipywidgets.widgets.widget._instances))"


def shot(page, name):
    if os.environ.get("SHOTS"):
        page.page.screenshot(path=f"{os.environ['SHOTS']}/after_{name}.png")


def shown(page):
    """What the output of the fit is in the notebook on disk."""
    found = [o["data"] for o in page.save().cells[1].outputs if o.output_type == "display_data"]
    assert len(found) == 1
    return found[0]


def reopened(page):
    """Open the saved notebook anew, without its kernel; the picture is all there is."""
    page.server.stop_kernels()
    page.load()
    page.page.wait_for_selector(PICTURE)
    assert "model not found" not in page.page.locator("body").inner_text()
    assert not page.page.locator(".vitoolkit-figure").count()
    assert page.page.locator(PICTURE).bounding_box()["width"] > 500


def test_charts_live_on_after_the_end_and_the_notebook_keeps_the_picture(notebook):
    page = notebook(MODEL, fit(3000), LEFT, "dashboard")
    page.run(0)
    page.run(1)
    page.page.wait_for_selector(".vitoolkit-after .vitoolkit-figure[data-empty='false']")
    page.wait(f"{FIGURE}.sources.loss.data.x.at(-1) === 2999")
    assert not page.page.locator(PICTURE).is_visible()
    assert not page.page.locator(".vitoolkit-after .vitoolkit-mean").count()  # none would answer
    chart = page.page.locator(".vitoolkit-after .vitoolkit-chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    x, y = box["x"] + 150, box["y"] + 60
    for _ in range(5):  # a slow page takes a drag for a long press, as Bokeh does after 0.25 s
        page.page.mouse.move(x, y)
        page.page.mouse.down()
        page.page.mouse.move(x + 60, y + 25)
        page.page.mouse.move(x + 120, y + 50)
        page.page.mouse.up()
        page.page.wait_for_timeout(500)
        if page.page.locator(".vitoolkit-zoomed").count():
            break
    page.wait(f"{FIGURE}.held && {FIGURE}.ranges.steps.end < 2900", what="a zoom")
    page.page.locator(".vitoolkit-follow").first.click()
    page.wait(f"{FIGURE}.ranges.steps.end > 2900", what="the whole again")
    shot(page, "live")
    page.theme(dark=True)
    shot(page, "live_dark")
    page.run(2)
    assert int(page.text(2)) < 10, "the kernel keeps no widget of it"
    data = shown(page)
    assert WIDGET_VIEW not in data and "<img src=" in data["text/html"]
    assert not any("already destroyed" in text for _, text in page.console)
    no_errors(page)
    page.page.get_by_role("button", name="keep as picture").click()
    page.page.locator(PICTURE).wait_for()
    shot(page, "picture_dark")
    page.theme(dark=False)
    shot(page, "picture")
    reopened(page)


def test_a_reload_in_mid_fit_leaves_the_picture_too(notebook):
    page = notebook(MODEL, fit(), LEFT)
    page.run(0)
    page.start(1)
    page.wait_for_panel()
    page.wait(f"{FIGURE}.sources.loss.data.x.length > 20")
    page.save()
    page.load()
    page.wait_for_panel()
    page.press("Export")
    page.press("CSV")
    link = page.page.locator(".vitoolkit-download", has_text="download vitoolkit-")
    link.wait_for()
    assert str(page.server.folder) in page.page.locator(".vitoolkit-panel").inner_text()
    with page.page.expect_download() as came:
        link.click()
    text = Path(came.value.path()).read_text()
    assert came.value.suggested_filename.endswith(".csv") and text.count("\n") > 20
    page.press("Stop")
    page.page.wait_for_selector(".vitoolkit-after .vitoolkit-figure[data-empty='false']")
    data = shown(page)
    assert WIDGET_VIEW not in data and "<img src=" in data["text/html"]
    page.run(2)
    assert int(page.text(2)) < 10
    reopened(page)
