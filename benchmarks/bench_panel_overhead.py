"""What the open panel costs the fit and the page, and how soon a key press is in force.

    python -m benchmarks.bench_panel_overhead [--kernels FOLDER] [--versions newest 6.31.0]
                                              [--fronts lab notebook voila] [--seconds 40]

The small model at full speed, one compiled call after the other, in Chromium with a real
JupyterLab, Notebook 7 or Voila (there a button starts the fit).
In one and the same fit the panel is by turns attended to and left alone, a second each; a ratio is
that of neighboring seconds, and the median and quartiles over all are printed; those of CPU time
depend less on what else runs, and leave out what the fit waits for. Neither tells two percent on
a machine whose own pace moves by ten. So the panel is attended to for ten seconds more, and the
share of its CPU time that the fit's thread spends on it is counted. Without a browser: the same fit
run by nbclient, which keeps the widgets' state and never answers. The page's main thread: what
Chromium says of it (TaskDuration by wall time) while the panel is attended to all the time. Last,
60 presses of an arrow key: time from the key press in the page to the value in force in the fit.
FOLDER holds other ipykernels, as tests/browser/make_kernels.py makes them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat

BROWSER = Path(__file__).parents[1] / "tests" / "browser"

COUNTED = 10  # seconds
MODEL = """
import json, logging, math, time
import pymc as pm, vitoolkit as vt
from vitoolkit.loop import Callback
from benchmarks.models import small
logging.getLogger("pymc").setLevel(logging.WARNING)

class Turns(Callback):
    '''Attends to the panel and leaves it alone by turns, a second each; then attends to it.'''

    def __init__(self, dashboard, seconds):
        self.dashboard, self.turns, self.rates, self.cpu = dashboard, int(seconds), [], []
        self.begin, self.share, self.attending = None, None, 0.0
        self.attend = dashboard._attend
        dashboard._attend = self.counted

    def counted(self):
        start = time.thread_time()
        self.attend()
        self.attending += time.thread_time() - start

    def __call__(self, approx, losses, i):
        pass

    def on_block(self, run, block):
        now = time.perf_counter()
        if self.begin is None:
            self.begin, self.warm = now, now + 3.0
        if now < self.warm:
            return
        if len(self.rates) == self.turns:
            if self.share is None and now > self.begin + COUNTED:
                self.share = self.attending / (time.thread_time() - self.spent)
                if not KEEP:
                    run.stop()
            return
        on = len(self.rates) % 2 == 0
        if self.begin < self.warm:
            self.begin, self.step, self.spent = now, run.step, time.thread_time()
            self.dashboard._next = 0.0 if on else math.inf
        elif now > self.begin + 1.0:
            spent = time.thread_time()
            self.rates.append((run.step - self.step) / (now - self.begin))
            self.cpu.append((run.step - self.step) / (spent - self.spent))
            self.begin, self.step, self.spent, self.attending = now, run.step, spent, 0.0
            on = not on or len(self.rates) == self.turns
            self.dashboard._next = 0.0 if on else math.inf

case = small()
beta, rate = vt.Beta(1.0), vt.LearningRate(1e-3)
dashboard = vt.Dashboard(beta, rate)
turns = Turns(dashboard, SECONDS)
with case.model:
    inference = vt.KLqp(case.approx, beta=beta)
"""
FIT = """
inference.fit(
    10**8, obj_optimizer=pm.adam(learning_rate=rate.shared), callbacks=[dashboard, turns],
    progressbar=False,
)
"""
TOLD = """
now = time.time() - time.perf_counter()
told = json.dumps({
    "rates": turns.rates,
    "cpu": turns.cpu,
    "share": turns.share,
    "way": dashboard._events.words,
    "step": repr(inference.step_function),
    "set": [(now + event.time, event.new) for event in beta.log],
})
"""
BUTTON = """
import ipywidgets
out, button = ipywidgets.Output(), ipywidgets.Button(description="Fit it")
def act(_):
    with out:
        fit()
    with open("button.json", "w") as file:
        file.write(tell())
button.on_click(act)
display(button, out)
"""


def cells(seconds: int, keep: bool) -> list[str]:
    return [
        f"SECONDS, KEEP, COUNTED = {seconds}, {keep}, {COUNTED}\n" + MODEL,
        FIT,
        TOLD + "print(told)",
    ]


def function(name: str, body: str, result: str) -> str:
    return f"def {name}():" + body.replace("\n", "\n    ") + f"{result}\n"


def button(seconds: int) -> list[str]:
    return [
        cells(seconds, True)[0] + function("fit", FIT, "") + function("tell", TOLD, "return told"),
        BUTTON,
    ]


def overhead(told: dict) -> str:
    return (
        f"{slowed(told['rates'])} of wall time, {slowed(told['cpu'])} of its thread's CPU time; "
        f"{100 * told['share']:.1f} % of that are spent on the panel, at "
        f"{statistics.median(told['rates'][1::2]):,.0f} steps/s"
    )


def slowed(rates: list[float]) -> str:
    on, off = rates[::2], rates[1::2]
    ratios = [b / a - 1 for a, b in zip(on, off, strict=False)]
    ratios += [b / a - 1 for a, b in zip(on[1:], off, strict=False)]
    low, middle, high = (100 * quartile for quartile in statistics.quantiles(ratios, n=4))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def without_browser(seconds: int) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells(seconds, keep=False)]
    NotebookClient(notebook, timeout=900).execute()
    told = json.loads("".join(output.get("text", "") for output in notebook.cells[2].outputs))
    print(f"no browser, {told['step']}: the fit is slowed by {overhead(told)}", flush=True)


def busy(session) -> tuple[float, float]:
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return metrics["TaskDuration"], metrics["Timestamp"]


def in_browser(browser, server, front: str, kernel: str, seconds: int) -> None:
    from driver import Notebook, Voila

    if front == "voila":
        name = server.write(f"{kernel}.ipynb", button(seconds), kernel)
        page = Voila.open(browser, server, name)
        page.page.locator("button:has-text('Fit it')").click(timeout=300_000)
    else:
        name = server.write(f"{kernel}.ipynb", cells(seconds, True), kernel)
        page = Notebook.open(browser, server, name, front=front)
        page.run(0)
        page.start(1)
    page.wait_for_panel(timeout=300)
    page.page.wait_for_timeout(1000 * (seconds + 4))
    session = page.page.context.new_cdp_session(page.page)
    session.send("Performance.enable")
    work, clock = busy(session)
    page.page.wait_for_timeout(10_000)
    work, clock = (
        after - before for before, after in zip((work, clock), busy(session), strict=True)
    )
    page.watch_hand("beta")
    page.press_key("beta", "ArrowRight", times=60, seconds=6)
    page.page.wait_for_timeout(1000)
    moves = page.moves()
    page.press("Stop")
    if front == "voila":
        page.page.wait_for_selector(".vitoolkit-status[data-phase='stopped'], img")
        page.page.wait_for_timeout(5_000)
        told = json.loads((server.folder / "button.json").read_text())
    else:
        page.done(1)
        page.run(2)
        told = json.loads(page.text(2))
    page.page.close()
    server.stop_kernels()
    print(f"{front}, {told['way']}: the fit is slowed by {overhead(told)}")
    print(f"    the page's main thread is busy {100 * work / clock:.0f} % of the time")
    late = [
        1e3 * (min(at for at, new in told["set"] if new >= value - 1e-9 and at >= time) - time)
        for time, value in moves
    ]
    print(
        f"    {len(late)} key presses in force after {statistics.median(late):.0f} ms (median), "
        f"{max(late):.0f} ms (worst)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", type=Path, help="folder of other ipykernels")
    parser.add_argument("--versions", nargs="+", default=["newest"])
    parser.add_argument("--fronts", nargs="+", default=["lab"])
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--no-browser", action="store_true", help="only the fit without a browser")
    arguments = parser.parse_args()
    sys.path.insert(0, str(BROWSER))
    from driver import chromium, lab

    without_browser(arguments.seconds)
    if arguments.no_browser:
        return
    kernels = {
        version: None if version == "newest" else arguments.kernels / version
        for version in arguments.versions
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        lab(folder, kernels) as server,
        chromium() as browser,
    ):
        for front, version in itertools.product(arguments.fronts, kernels):
            in_browser(browser, server, front, version, arguments.seconds)


if __name__ == "__main__":
    main()
