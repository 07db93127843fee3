"""What a trace costs: a row, a refresh of a decimated view, and memory, however long the fit.

Run it as ``python benchmarks/bench_trace.py [rows ...]``; 10 million rows of 50 variables, the
longest by default, need 4.5 GB.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from vitoolkit.decimation import View
from vitoolkit.trace import Trace

VARIABLES, CONTROLS = 50, 2
POINTS = 250  # so that all that a dashboard shows of 50 variables fits into 64 kB of float32
BLOCK = 10_000
NEW_ROWS = 1_000  # between two refreshes: 4 a second, 250 us a step


def fill(trace: Trace, view: View, rows: int, rng: np.random.Generator) -> None:
    """Extend a trace to so many rows, with its view kept up to date."""
    while len(trace) < rows:
        count = min(BLOCK, rows - len(trace))
        steps = np.arange(len(trace), len(trace) + count)
        terms = rng.normal(size=(count, 1 + VARIABLES))
        trace.extend(steps, 1e-3 * steps, -terms[:, 0], terms, np.ones((count, CONTROLS)))
        view.update()


def milliseconds(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def message(view: View) -> bytes:
    """Pack what a dashboard draws: bands and means of three columns, a line for each other."""
    bands = [columns.array[:3] for columns in (view.low, view.high, view.mean)]
    rest = [view.mean.array[3 : 3 + VARIABLES], view.last.array[3 + VARIABLES :]]
    return np.concatenate([view.step[None], *bands, *rest]).astype(np.float32).tobytes()


def resident() -> int:
    """Bytes of physical memory in use; the largest so far where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[10**3, 10**5, 10**7])
    rng = np.random.default_rng(0)
    before = resident()
    trace = Trace([f"v{i}" for i in range(VARIABLES)], [f"c{i}" for i in range(CONTROLS)])
    view = trace.view(POINTS)
    kl, control = rng.normal(size=VARIABLES), [1.0, 0.01]
    print(f"{VARIABLES} variables, {POINTS} points, {NEW_ROWS} new rows a refresh")
    print("      rows   append   refresh (median, worst)   message   memory / rows' own size")
    for rows in sorted(parser.parse_args().rows):
        fill(trace, view, rows, rng)
        refreshes, appends = [], []
        for _ in range(20):
            step = len(trace)

            def append(first: int = step) -> None:
                for k in range(first, first + NEW_ROWS):
                    trace.append(k, 1e-3 * k, 1.0, -1.0, kl, control)

            appends.append(1e3 * milliseconds(append) / NEW_ROWS)
            refreshes.append(milliseconds(lambda: message(view.update())))
        own = 8 * len(trace) * (4 + VARIABLES + CONTROLS)
        print(
            f"{rows:>10,}{statistics.median(appends):>6.2f} us"
            f"{statistics.median(refreshes):>15.2f} ms, {max(refreshes):.2f} ms"
            f"{len(message(view)) / 1000:>9.1f} kB"
            f"{(resident() - before) / own:>12.2f} of {own / 1e6:,.1f} MB"
        )


if __name__ == "__main__":
    main()
