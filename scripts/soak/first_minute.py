"""Drive the quickstart as it tells its reader to, with real key presses, again and again.

    python scripts/soak/first_minute.py [times]

For each run at each size of window: whether the panel's buttons, sliders and first chart are in
sight before the first step, the steps taken when β was dragged, and the first step it was in force.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from driver import Notebook, chromium, lab  # noqa: E402
from test_first_minute import HANDLES, IN_SIGHT  # noqa: E402
from test_quickstart import quickstart  # noqa: E402

SIZES = ((1440, 900), (1280, 720))


def drive(server, browser, size):
    """Run the cells by Shift+Enter, press Start, drag β, stop; tell what was seen."""
    source, before, fit, after = quickstart()
    server.write("run.ipynb", source)
    page = Notebook.open(browser, server, "run.ipynb", width=size[0], height=size[1])
    page.page.locator(".jp-Cell").first.click()
    page.page.keyboard.press("Escape")
    for _ in range(fit + 1):
        page.page.keyboard.press("Shift+Enter")
        page.page.wait_for_timeout(200)  # as fast as a reader who skips
    page.wait_for_panel("paused", timeout=300)
    page.page.wait_for_timeout(3000)  # for as long as the notebook may still move
    seen = [page.page.evaluate(IN_SIGHT, what) for what in HANDLES]
    page.press("Start")
    page.wait_for_panel()
    at = page.step()
    page.drag_slider("beta", 60)
    page.press("Stop")
    page.wait("!document.querySelector('.vitoolkit-status')")
    for cell in (after, after + 1):
        page.run(cell)
    moved = [e for e in json.loads(page.text(after + 1))["events"] if e["control"] == "beta"]
    page.page.close()
    server.stop_kernels()
    return seen, at, moved[0]["step"] if moved else None


def main():
    """Drive it so many times at each size, and print the table."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print("| window | run | buttons, sliders, chart in sight | step at the drag | in force at |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with lab(folder, {"newest": None}) as server:
            for size in SIZES:
                good = 0
                for i in range(times):
                    seen, at, step = drive(server, browser, size)
                    good += all(seen) and step is not None
                    words = ", ".join("yes" if one else "NO" for one in seen)
                    size_words = f"{size[0]}x{size[1]}"
                    print(f"| {size_words} | {i + 1} | {words} | {at} | {step} |", flush=True)
                print(f"| {size_words} | all | {good} of {times} | | |", flush=True)


if __name__ == "__main__":
    main()
