"""Fits of many rows with and without a window of memory: their peak of resident memory.

Each fit is a process of its own:  python scripts/soak/window.py [STEPS] [MEMORY]
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, MEMORY = 20_000_000, 2**28
MEGABYTE = 1e6


def one(kind: str, path: str, steps: int, memory: int) -> None:
    """Fit, and say what it took."""
    import numpy as np
    import pymc as pm

    import vitoolkit as vt

    with pm.Model() as model:
        z = pm.Normal("z", shape=3)
        pm.Normal("y", z, 0.5, observed=[0.2, 1.1, -0.4])
    options = {"model": model, "beta": 1.0, "random_seed": 1, "progressbar": False}
    vt.fit(2_000, **options)
    before = _peak()
    record = vt.Journal(path, memory=None if kind == "all" else memory)
    begun = time.monotonic()
    fit = vt.fit(steps, record=record, **options)
    took, after = time.monotonic() - begun, _peak()
    problem = fit.recorder.journal.problem
    assert problem is None, problem
    trace = fit.trace
    row = 8 * trace.width
    print(
        f"{kind:7} {steps:,} rows of {row} B: {steps * row / MEGABYTE:,.0f} MB of rows, file "
        f"{Path(path).stat().st_size / MEGABYTE:,.0f} MB; in memory {trace.held / MEGABYTE:,.0f} "
        f"MB; peak {after:,.0f} MB, {after - before:,.0f} more than before; {took:.0f} s, "
        f"{steps / took:,.0f} steps/s",
        flush=True,
    )
    begun = time.monotonic()
    sums = {name: float(np.nansum(trace.column(name))) for name in trace.columns}
    steps_there = bool((np.diff(trace.step) == 1).all())
    print(
        f"{kind:7} all {len(sums)} columns read in {time.monotonic() - begun:.1f} s, each step "
        f"once: {steps_there}; peak {_peak():,.0f} MB; sums {hash(tuple(sums.values())):x}",
        flush=True,
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE


def main() -> None:
    """Run each kind in a process of its own."""
    steps = int(float(sys.argv[1])) if len(sys.argv) > 1 else STEPS
    memory = int(float(sys.argv[2])) if len(sys.argv) > 2 else MEMORY
    for kind in ("window", "all"):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            path = f"{folder}/run.db"
            call = [sys.executable, __file__, kind, path, str(steps), str(memory)]
            subprocess.run(call, check=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        one(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
