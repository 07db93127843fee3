"""The button under the verdict of an ended fit; penalty and average in its charts."""

import os

from driver import REGRESSION
from test_panel import FIGURE, no_errors

FIT = """
with model:
    inference = vt.ADVI(penalty={"w": vt.penalties.free_bits(0.5)}, average=True, random_seed=1)
    approx = pm.fit(
        4_000, method=inference, callbacks=[vt.Dashboard()],
        obj_optimizer=pm.adam(learning_rate=0.02), compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
TOLD = "vt.diagnose(approx, draws=1_000, random_seed=1).to_dict()['lines']"
AFTER = ".vitoolkit-after .vitoolkit-figure[data-empty='false']"


def shot(page, name):
    if os.environ.get("SHOTS"):
        page.page.screenshot(path=f"{os.environ['SHOTS']}/diagnose_{name}.png")


def test_an_ended_fit_is_diagnosed_under_its_verdict_and_the_notebook_keeps_it(notebook):
    page = notebook(REGRESSION, FIT, TOLD, height=1800)
    page.run(0)
    page.run(1)
    page.page.wait_for_selector(AFTER)

    # The chart of the penalty, in the color of its variable, and q at the average of its iterates.
    figure = page.page.evaluate
    color = f"{FIGURE}.legend.kl.find(([name]) => name === 'w')[1]"
    page.wait(f"{FIGURE}.sources.penalty.data.color?.[0] === {color}")
    assert figure(f"() => {FIGURE}.last.measure[0].at(-1)") > 0.5
    page.wait(f"{FIGURE}.sources.posterior_averaged.data.ys?.length === 2")
    row = page.page.locator(".vitoolkit-coordinate").first
    assert "q at the average of its iterates: median" in row.get_attribute("title")
    assert row.locator("i.averaged").first.bounding_box()["width"] >= 2

    verdict = page.page.locator(".vitoolkit-verdict")
    button = verdict.get_by_role("button", name="Diagnose")
    assert button.bounding_box()["height"] >= 24
    button.focus()
    page.page.keyboard.press("Enter")
    found = verdict.locator(".vitoolkit-diagnosed")
    found.wait_for(timeout=120_000)
    words = found.inner_text()
    assert "k-hat is" in words and "has a penalty" not in words  # the verdict above says that
    assert found.locator("td", has_text="intercept").count() == 1
    assert page.page.locator(".vitoolkit-diagnosed").count() == 1
    # The charts are still there, and so is the button, with the focus.
    again = verdict.get_by_role("button", name="Diagnose again")
    again.wait_for()
    page.page.wait_for_selector(AFTER)
    assert not page.page.locator(".vitoolkit-picture").is_visible()
    assert again.evaluate("(button) => button === document.activeElement")
    shot(page, "button")

    # A diagnosis in a cell is shown there, too.
    page.run(2)
    page.wait(f"{JS_WORDS} !== {words!r}", what="the draws of the cell")
    saved = page.save().cells[1].outputs
    html = next(o["data"]["text/html"] for o in saved if "text/html" in o.get("data", {}))
    assert "vitoolkit-diagnosed" in html and "Diagnosis: " in html
    page.page.wait_for_selector(AFTER)
    shot(page, "cell")
    no_errors(page)


JS_WORDS = "document.querySelector('.vitoolkit-diagnosed').innerText"
