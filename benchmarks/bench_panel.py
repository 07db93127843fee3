"""What a refresh of the panel costs in Python, and its message, however long the fit.

Run it as ``python -m benchmarks.bench_panel [rows ...]``; 10 million rows of 50 variables, the
longest by default, need 4.5 GB. With fewer rows ``--variables 500`` shows a model of many
variables. Each variable has ten coordinates, whose snapshots of q go along with every refresh.
"""

import argparse
import statistics
import time

import numpy as np
import pymc as pm

from benchmarks.bench_trace import NEW_ROWS, resident
from vitoolkit import Beta, Event, LearningRate, Trace, schedules
from vitoolkit.snapshots import Snapshots
from vitoolkit.views.ahead import Ahead
from vitoolkit.views.clock import Clock
from vitoolkit.views.frame import Lines, frame_of, mean_now, points_for
from vitoolkit.views.marks import Marks
from vitoolkit.views.posterior import Posterior
from vitoolkit.views.styles import variable_styles

BLOCK = 10_000


def extend(trace: Trace, count: int, rng: np.random.Generator) -> None:
    """Add rows to a trace, and an event."""
    first = len(trace)
    steps = np.arange(first, first + count)
    terms = rng.normal(size=(count, 1 + len(trace.variables)))
    controls = np.ones((count, len(trace.controls)))
    trace.extend(steps, 1e-3 * steps, -terms[:, 0], terms, controls)
    trace.add_event(Event(first, 1e-3 * first, "set", "beta", 1.0, 2.0, "user"))


class Moving:
    """A run of a q with ten coordinates a variable, as snapshots see one."""

    inference = None

    def __init__(self, names: list[str]) -> None:
        with pm.Model():
            for name in names:
                pm.HalfNormal(name, shape=10)
            self.approx = pm.MeanField()
        self.step = 0


def main() -> None:
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[10**3, 10**5, 10**7])
    parser.add_argument("--variables", type=int, default=50)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    names = [f"v{i}" for i in range(given.variables)]
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=10**7))
    controls = (beta, LearningRate(1e-2))
    before = resident()
    trace = Trace(names, [control.name for control in controls])
    view = trace.view(points_for(len(names), len(controls)))
    lines, ahead, marks, clock = Lines(names), Ahead(controls), Marks(), Clock()

    moving, snapshots = Moving(names), Snapshots()
    snapshots.on_fit_start(moving)
    posterior = Posterior(snapshots, variable_styles(names))

    def refresh() -> int:
        frame = frame_of(
            view, names, trace.controls, end=2e7,
            lines=lines, ahead=ahead, marks=marks, clock=clock,
        )  # fmt: skip
        header, arrays = frame.packed()
        mean_now(view, "loss"), mean_now(view, "elbo")  # for the status line
        return len(arrays + posterior.add_to(header)) + len(str(header))

    print(f"{len(names)} variables, {view.points} points, {NEW_ROWS} new rows a refresh")
    print("      rows   refresh, median of 40: wall, CPU   message   memory / rows' own size")
    for rows in sorted(given.rows):
        while len(trace) < rows:
            extend(trace, min(BLOCK, rows - len(trace)), rng)
            view.update()
        wall, processor, size = [], [], 0
        for _ in range(40):
            extend(trace, NEW_ROWS, rng)
            moving.step += 1
            snapshots.take(moving.step)
            start, begun = time.perf_counter(), time.thread_time()
            size = refresh()
            processor.append(1e3 * (time.thread_time() - begun))
            wall.append(1e3 * (time.perf_counter() - start))
        own = 8 * len(trace) * (4 + len(names) + len(controls))
        print(
            f"{rows:>10,}{statistics.median(wall):>17.2f} ms"
            f"{statistics.median(processor):>10.2f} ms"
            f"{size / 1000:>14.1f} kB{(resident() - before) / own:>12.2f} of {own / 1e6:,.1f} MB"
        )


if __name__ == "__main__":
    main()
