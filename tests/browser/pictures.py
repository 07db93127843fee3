"""Take the pictures of the panel: ``python tests/browser/pictures.py FOLDER [name ...]``.

A fit in a real JupyterLab: light, dark, narrow, three and five hundred variables, a finished run
reopened without a kernel, a comparison. ``drag`` is the moving one of the README: ``python
tests/browser/pictures.py docs drag`` writes docs/drag.webp.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

from driver import Notebook, chromium, lab
from PIL import Image

CLINICS = """
import numpy as np, pymc as pm
import vitoolkit as vt
rng = np.random.default_rng(1)
groups, rows = 12, 4000
group, x = rng.integers(groups, size=rows), rng.normal(size=(rows, 4))
truth = 1 + x @ [0.4, -0.3, 0.0, 0.2] + rng.normal(0, 0.5, groups)[group]
y = rng.normal(truth, 0.7)
with pm.Model(coords={"term": ["age", "income", "health", "plan"]}) as model:
    intercept = pm.Normal("intercept", 0, 5)
    slope = pm.Normal("slope", 0, 1, dims="term")
    group_sd = pm.HalfNormal("group_sd", 1)
    group_effect = pm.Normal("group_effect", 0, group_sd, shape=groups)
    noise = pm.HalfNormal("noise", 1)
    batch = pm.Minibatch(x, group, y, batch_size=128)
    mu = intercept + batch[0] @ slope + group_effect[batch[1].astype(int)]
    pm.Normal("visits", mu, noise, observed=batch[2], total_size=rows)
"""
THREE = """
import numpy as np, pymc as pm
import vitoolkit as vt
x = np.linspace(-1, 1, 50)
with pm.Model() as model:
    intercept = pm.Normal("intercept", 0, 5)
    slope = pm.Normal("slope", 0, 1)
    noise = pm.HalfNormal("noise", 1)
    pm.Normal("y", intercept + slope * x, noise, observed=1 + 2 * x)
"""
MANY = """
import time
from types import SimpleNamespace
import numpy as np
import vitoolkit as vt
from vitoolkit.dashboard.kernel_events import KernelEvents
from vitoolkit.dashboard.panel import Panel
names = [f"effect_of_site[{i:03d}]" for i in range(500)]
rng = np.random.default_rng(1)
size, speed = rng.gamma(0.7, 3.0, size=500), rng.uniform(500, 8000, size=500)
"""
SYNTHETIC = """
fit = SimpleNamespace(
    first=0, n=50_000, step=0, status="running", error=None, running=True, can_undo=False,
    unused=(), steps_per_second=None, prepared="", compiles="", holding="", took_before=None,
)
fit.stop = lambda source: setattr(fit, "status", "stopped")
beta = vt.Beta(schedule=vt.schedules.cyclical(0.1, 1.0, steps=50_000, cycles=3))
trace = vt.Trace(names, ["beta"])
panel, events = Panel(fit, [beta], names, {}, {}), KernelEvents()
events.start()
panel.display()
panel.watch(trace, {})
while fit.step < fit.n and fit.status == "running":  # as a fit would
    steps = np.arange(fit.step, fit.step + 20)
    kl = size * (1 - np.exp(-steps[:, None] / speed)) + rng.normal(0, 0.2, (20, 500))
    data = -3000 - 40_000 / (1 + steps / 300) + rng.normal(0, 40, 20)
    value = np.array([beta.advance(step) for step in steps])
    loss = kl.sum(axis=1) * value - data
    trace.extend(steps, steps * 1e-3, loss, np.column_stack([data, kl]), value[:, None])
    for event in beta.log[len(trace.events):]:
        trace.add_event(event)
    fit.step += 20
    time.sleep(0.02)
    events.poll()
    panel.refresh()
print(panel.cost, panel.figure.drawing_ms)
panel.finish()
events.stop()
"""
FIT = """
beta = vt.Beta(schedule=vt.schedules.cyclical(0.1, 1.0, steps={n}, cycles=3))
rate = vt.LearningRate(schedule=vt.schedules.exponential(3e-2, 1e-3, steps={n}))
dashboard = vt.Dashboard(beta, rate)
with model:
    approx = pm.fit(
        {n}, method=vt.ADVI(beta=beta, random_seed=1), callbacks=[dashboard],
        obj_optimizer=pm.adam(learning_rate=rate.shared){mode},
    )
"""
FAST = ', compile_kwargs={"mode": "FAST_COMPILE"}'


class Studio:
    """A JupyterLab, a browser and a folder for pictures."""

    def __init__(self, server, browser, folder, mode):
        self.server, self.browser, self.folder, self.mode = server, browser, folder, mode

    def fit(self, n):
        return FIT.format(n=n, mode=self.mode)

    def open(self, name, *cells, **kwargs):
        self.server.write(f"{name}.ipynb", cells)
        return Notebook.open(self.browser, self.server, f"{name}.ipynb", **kwargs)

    def keep(self, page, name, what=".vitoolkit-panel"):
        panel = page.page.locator(what).first
        panel.scroll_into_view_if_needed()
        page.page.mouse.move(5, 5)
        page.page.wait_for_timeout(1200)
        panel.screenshot(path=self.folder / f"{name}.png")
        wrong = [text for kind, text in page.console if kind in ("error", "pageerror")]
        print(name, *wrong[:3])


def busy(page, seconds=10):
    """Share of the time in which the page's main thread had something to do."""
    client = page.page.context.new_cdp_session(page.page)
    client.send("Performance.enable")

    def read():
        metrics = client.send("Performance.getMetrics")["metrics"]
        return {m["name"]: m["value"] for m in metrics}

    before = read()
    page.page.wait_for_timeout(1000 * seconds)
    after = read()
    spent, took = (after[name] - before[name] for name in ("TaskDuration", "Timestamp"))
    return spent / took


def running(studio, name, model, *, n=200_000, seconds=12, act=True, **kwargs):
    """Run a fit for a while, and move β as a person would."""
    page = studio.open(name, model, studio.fit(n), **kwargs)
    page.run(0, timeout=300)
    page.start(1)
    page.wait_for_panel(timeout=600)
    page.page.wait_for_timeout(1000 * seconds / 2)
    if act:
        page.drag_slider("beta", 30)
    page.page.wait_for_timeout(1000 * seconds / 2)
    return page


def end(page):
    page.press("Stop")
    page.done(1)
    page.page.close()
    page.server.stop_kernels()


def light(studio):
    page = running(studio, "light", CLINICS, n=50_000)
    studio.keep(page, "light")
    print(f"main thread busy {busy(page):.0%} of the time")
    page.theme(dark=True)
    studio.keep(page, "dark")
    page.theme(dark=False)
    page.page.locator(".vitoolkit-choices button:has-text('symlog')").click()
    studio.keep(page, "symlog")
    end(page)


def narrow(studio):
    page = running(studio, "narrow", CLINICS, n=50_000, width=640, height=1500)
    studio.keep(page, "narrow")
    end(page)


def three(studio):
    page = running(studio, "three", THREE, n=50_000)
    studio.keep(page, "three")
    print(f"main thread busy {busy(page):.0%} of the time")
    end(page)


def many(studio):
    """Five hundred variables, from numbers made up: PyMC needs minutes to compile such a model."""
    page = studio.open("many", MANY, SYNTHETIC)
    page.run(0)
    page.start(1)
    page.wait_for_panel()
    page.page.wait_for_timeout(8000)
    page.drag_slider("beta", 30)
    page.page.wait_for_timeout(3000)
    studio.keep(page, "many")
    print(f"main thread busy {busy(page):.0%} of the time")
    page.page.locator(".vitoolkit-search").fill("[12")
    page.page.locator(".vitoolkit-row >> nth=2").click()
    page.page.wait_for_timeout(1500)
    studio.keep(page, "many_searched")
    page.press("Stop")
    page.done(1)
    print(page.text(1))
    page.page.wait_for_timeout(1000)
    left = page.page.locator(".jp-Cell-outputArea").last
    left.screenshot(path=studio.folder / "many_finished.png")
    page.page.close()
    studio.server.stop_kernels()


def finished(studio):
    """Run to the end, save, and open the notebook again with no kernel and no widget state."""
    page = studio.open("finished", CLINICS, studio.fit(5000))
    page.run(0, timeout=300)
    page.start(1)
    page.wait_for_panel(timeout=600)
    page.drag_slider("beta", 30)
    page.done(1, timeout=600)
    page.save()
    page.page.close()
    studio.server.stop_kernels()
    page = Notebook.open(studio.browser, studio.server, "finished.ipynb", height=1600)
    image = page.page.locator("img[src^='data:image/svg']")
    image.wait_for()
    page.page.locator(".jp-Cell-outputArea").last.screenshot(path=studio.folder / "finished.png")
    page.page.close()


COMPARISON = """
traces = {}
for beta in (0.25, 1.0, 4.0):
    with model:
        recorder = vt.Recorder()
        pm.fit(
            1500, method=vt.ADVI(beta=beta, random_seed=1), callbacks=[recorder],
            obj_optimizer=pm.adam(learning_rate=0.02), progressbar=False,
            compile_kwargs={"mode": "FAST_COMPILE"},
        )
    traces[f"β = {beta}"] = recorder.trace
vt.Comparison(traces)
"""


def comparison(studio):
    page = studio.open("comparison", THREE, COMPARISON)
    page.run(0)
    page.run(1, timeout=600)
    page.page.wait_for_selector(".vitoolkit-figure[data-empty='false']")
    page.page.wait_for_timeout(1500)
    studio.keep(page, "comparison", ".vitoolkit-figure")
    page.page.close()
    studio.server.stop_kernels()


DRAG = """
beta, rate = vt.Beta(1.0), vt.LearningRate(0.05)
with model:
    approx = pm.fit(
        200_000, method=vt.ADVI(beta=beta, random_seed=1),
        obj_optimizer=pm.adam(learning_rate=rate.shared),
        callbacks=[vt.Dashboard(beta, rate, paused=True, steps_per_second=400)],
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
"""
#: A mouse pointer, which no screenshot has: drawn where the mouse is.
POINTER = """() => {
  const shape = "M2 2v19l5-5 3 8 4-2-3-7h7z";
  const pointer = document.createElement("div");
  pointer.innerHTML = `<svg width="22" height="26" viewBox="0 0 22 26">
    <path d="${shape}" fill="#fff" stroke="#000" stroke-width="1.5"/></svg>`;
  const above = { position: "fixed", left: 0, top: 0, zIndex: 1e6, pointerEvents: "none" };
  Object.assign(pointer.style, above);
  document.body.append(pointer);
  document.addEventListener("mousemove", ({ clientX, clientY }) => {
    pointer.style.transform = `translate(${clientX - 2}px, ${clientY - 2}px)`;
  }, true);
}"""
#: Most bytes of a moving picture.
LIMIT = 1_500_000


class Film:
    """Pictures of a panel's upper part, each with the time at which it was taken."""

    def __init__(self, page, height):
        self.page = page.page
        panel = self.page.locator(".vitoolkit-panel").first
        box = panel.bounding_box()
        self.clip = {**box, "height": min(height, box["height"])}
        self.frames, self.times = [], []

    def take(self):
        """Take a picture."""
        self.times.append(time.monotonic())
        self.frames.append(Image.open(io.BytesIO(self.page.screenshot(clip=self.clip))))

    def move(self, start, end, pictures):
        """Move the mouse along a line, a picture after each bit of it."""
        for i in range(1, pictures + 1):
            share = i / pictures
            share = share * share * (3 - 2 * share)  # a hand starts and stops gently
            self.page.mouse.move(*(a + share * (b - a) for a, b in zip(start, end, strict=True)))
            self.take()

    def rest(self, seconds):
        """Take pictures for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.take()

    def save(self, path, *, last=1.5):
        """Write the film, as fast as it was; the last picture stays for some seconds."""
        took = [b - a for a, b in zip(self.times, self.times[1:], strict=False)] + [last]
        first, *others = (frame.convert("RGB") for frame in self.frames)
        first.save(
            path, save_all=True, append_images=others, duration=[round(1000 * s) for s in took],
            loop=0, quality=60, method=4,
        )  # fmt: skip
        size = path.stat().st_size
        print(f"{path.name}: {len(took)} pictures, {sum(took):.0f} s, {size:,} bytes")
        if size > LIMIT:
            raise SystemExit(f"{path} has {size:,} bytes, more than {LIMIT:,}")


def drag(studio):
    """Start, and β moved up and down by hand while the KLs follow."""
    page = studio.open("drag", THREE, DRAG, width=1250, height=1000)
    page.run(0)
    page.start(1)
    page.wait_for_panel("paused", timeout=600)
    page.page.evaluate(POINTER)
    film = Film(page, 612)
    start = page.page.locator("button:has-text('Start')").bounding_box()
    button = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
    film.move((button[0] - 150, button[1] + 160), button, 6)
    page.page.mouse.click(*button)
    film.rest(4)
    slider = page.handle("beta")
    at = page.thumb(slider)
    film.move(button, at, 8)
    page.page.mouse.down()
    half = slider.bounding_box()["width"] / 2 - 12  # 0 to 1 on the left, 1 to 10 on the right
    right, left = (at[0] + 0.9 * half, at[1]), (at[0] - 0.75 * half, at[1])
    film.move(at, right, 14)
    film.rest(4)
    film.move(right, left, 16)
    page.page.mouse.up()
    film.rest(3)
    film.save(studio.folder / "drag.webp")
    end(page)


SHOTS = {shot.__name__: shot for shot in (light, narrow, three, many, finished, comparison, drag)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=", ".join(SHOTS))
    parser.add_argument("--fast", action="store_true", help="compile in a second, run slowly")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with lab(folder, {"newest": None}) as server:
            studio = Studio(server, browser, given.folder, FAST if given.fast else "")
            for name in given.names or SHOTS:
                SHOTS[name](studio)


if __name__ == "__main__":
    main()
