"""The posterior as it moves, in a real JupyterLab: paths, the prior beside it, a search."""

import json
import re

import pytest

MODEL = """
import json
import numpy as np, pymc as pm
import vitoolkit as vt
with pm.Model(coords={"arm": ["control", "treatment"]}) as model:
    beta = pm.Normal("beta", 0, 5, dims="arm")
    noise = pm.HalfNormal("noise", 2)
    others = [pm.Normal(f"site_{i}", 0, 1) for i in range(8)]
    mean = beta[np.repeat([0, 1], 20)] + sum(others)
    pm.Normal("y", mean, noise, observed=np.repeat([1.0, 3.0], 20))
"""
FIT = """
dashboard = vt.Dashboard(predictive=True)
with model:
    pm.fit(
        10_000_000, method=vt.ADVI(random_seed=1), callbacks=[dashboard],
        obj_optimizer=pm.adam(learning_rate=0.02), compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
REPORT = """
q = dashboard.snapshots
step, ends = q.path(range(len(q.coordinates)))
share = q.seconds / float(dashboard.trace[-1:].time[0])
sketch = dashboard.predictive.seconds / float(dashboard.trace[-1:].time[0])
told = {"step": step.tolist(), "median": ends[1, 1].tolist(), "share": share, "sketch": sketch}
print(json.dumps(told))
"""
CHARTS = "document.querySelector('.vitoolkit-figure').__vitoolkit"
KEPT = f"{CHARTS}.last?.posterior"


def test_the_posterior_moves_beside_its_prior_and_can_be_searched(notebook):
    page = notebook(MODEL, FIT, REPORT, height=1500)
    page.run(0)
    page.start(1)
    page.wait_for_panel()
    page.wait(f"{KEPT}?.step.length > 10 && {CHARTS}.sources.posterior.data.name.length === 3")
    names = page.page.evaluate(f"() => Array.from({CHARTS}.sources.posterior.data.name)")
    assert names == ["beta[control]", "noise", "site_0"]
    section = page.page.locator("section[data-chart=coordinates]")
    assert "gray: the prior, 128 draws" in section.inner_text()

    search = section.locator("input[type=search]")
    assert search.get_attribute("placeholder") == "search 11 coordinates"
    search.fill("treat")
    row = section.locator(".vitoolkit-row")
    row.and_(page.page.locator("[title^='beta[treatment]']")).wait_for()
    assert row.count() == 1 and "prior: median" in row.get_attribute("title")
    prior, now = row.locator("i.prior:not(.median)"), row.locator("i.now:not(.median)")
    assert prior.bounding_box()["width"] > now.bounding_box()["width"] >= 2
    row.click()
    page.wait(f"{CHARTS}.sources.posterior.data.name.at(-1) === 'beta[treatment]'")
    assert row.get_attribute("aria-pressed") == "true"
    assert page.page.evaluate(f"() => {CHARTS}.sources.posterior_band.data.xs.length") == 4

    for chart, words in (("coordinates", "no coordinate"), ("list", "no variable")):
        box = page.page.locator(f"section[data-chart={chart}]")
        box.locator("input[type=search]").fill("zzz")
        assert box.locator(".vitoolkit-none").inner_text() == f"{words} matches"
        box.locator("input[type=search]").fill("")
        assert not box.locator(".vitoolkit-none").is_visible()

    # What q implies for the data beside them, drawn anew as the fit goes on.
    sketch = page.page.locator("section[data-chart=predictive]")
    page.wait(f"{CHARTS}.last?.predictive?.step > 0")
    page.wait(f"{CHARTS}.sources.predictive.data.median?.length === 12")
    assert "y; bars: the data, dots: median and 90 % of 48 data sets" in sketch.inner_text()
    first = page.page.evaluate(f"() => {CHARTS}.last.predictive.step")
    page.wait(f"{CHARTS}.last.predictive.step > {first}")
    name = sketch.locator(".vitoolkit-chart").get_attribute("aria-label")
    assert re.search(r"of 12 bins, the data are outside of the middle 90 % in \d+$", name), name

    seen = page.page.evaluate(
        f"() => {{ const q = {KEPT}, k = q.picked.indexOf(1);"
        " return [Array.from(q.step), Array.from(q.ends[q.picked.length + k])]; }"
    )
    page.press("Stop")
    page.done(1)
    page.run(2)
    told = json.loads(page.text(2))
    kernel = dict(zip(told["step"], told["median"], strict=True))
    both = [(median, kernel[step]) for step, median in zip(*seen, strict=True) if step in kernel]
    assert both and all(one == pytest.approx(other, rel=1e-5) for one, other in both)
    assert told["share"] <= 0.01
    assert told["sketch"] <= 0.02  # one percent, and that of the end
    wrong = [text for kind, text in page.console if kind in ("error", "pageerror")]
    assert not wrong, wrong


def test_a_single_variable_has_the_width_for_its_line(notebook):
    page = notebook(
        "import pymc as pm\nimport vitoolkit as vt",
        "with pm.Model():\n"
        "    pm.Normal('y', pm.Normal('z'), 1, observed=[1.0, 2.0])\n"
        "    pm.fit(10_000_000, method=vt.ADVI(random_seed=1), callbacks=[vt.Dashboard()],\n"
        "           compile_kwargs={'mode': 'FAST_COMPILE'})",
    )
    page.run(0)
    page.start(1)
    page.wait_for_panel()
    kl = page.page.locator("section[data-chart=kl]")
    page.wait(
        "/nats$/.test(document.querySelector('[data-chart=kl] .vitoolkit-total')?.textContent)"
    )
    assert "vitoolkit-alone" in kl.get_attribute("class")
    assert not page.page.locator("section[data-chart=list]").is_visible()
    row = page.page.locator("section[data-chart=coordinates] .vitoolkit-row")
    row.wait_for()
    assert row.bounding_box()["height"] == pytest.approx(62, abs=1)
    page.press("Stop")
    page.done(1)
