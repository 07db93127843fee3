"""A sweep whose workers are killed, beside the one that nobody disturbed.

    python -m scripts.soak.sweep [--points 8] [--workers 8] [--seed 1]

A minibatch regression is fitted at every point of a grid of β and seeds, each in a process of Dask
of its own where there are as many, with a checkpoint every 50 ms. Every process that fits gets
SIGKILL once, after a random share of its steps. The same sweep is taken undisturbed. A line a
point, and the totals; the exit code is 1 where a number differs or a process was not killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from sweeps import N, build  # noqa: E402

import vitoolkit as vt  # noqa: E402
from vitoolkit.sweep_point import last_run  # noqa: E402


class Killer(threading.Thread):
    """Kills the process of each fit once, after a random share of its steps.

    Parameters
    ----------
    folder : Path
        Where the journals are.
    chance : random.Random
        Says after which step.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.folder, self.chance = folder, chance
        self.after: dict[Path, int] = {}
        self.killed: dict[Path, tuple[int, int]] = {}  # process and step
        self.over = threading.Event()

    def run(self) -> None:
        """Look until the sweep is over."""
        while not self.over.wait(0.02):
            for path in sorted(self.folder.glob("*.db")):
                after = self.after.setdefault(path, self.chance.randrange(1, N * 9 // 10))
                gone = {pid for pid, _ in self.killed.values()}
                row = last_run(path)
                if path in self.killed or row is None or not row.alive or row.step < after:
                    continue
                if row.pid not in gone:
                    os.kill(row.pid, signal.SIGKILL)
                    self.killed[path] = row.pid, row.step


def main() -> int:
    """Take both sweeps, and print what was seen."""
    import dask.config
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    half = max(1, asked.points // 2)
    grid = {"beta": [0.5, 2.0][: asked.points // half], "random_seed": list(range(half))}
    options = dict(n=N, checkpoint_seconds=0.05, progressbar=False, learning_rate=0.05)
    options["compile_kwargs"] = {"mode": "FAST_COMPILE"}
    with (
        tempfile.TemporaryDirectory() as place,
        dask.config.set({"distributed.deploy.lost-worker-timeout": 600}),
        LocalCluster(
            n_workers=asked.workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        found, seconds = {}, {}
        for how in ("undisturbed", "killed"):
            folder, begun = Path(place, how), time.monotonic()
            folder.mkdir()
            killer = Killer(folder, random.Random(asked.seed))
            if how == "killed":
                killer.start()
            found[how] = vt.sweep(build, grid, client, record=folder, **options)
            killer.over.set()
            seconds[how] = time.monotonic() - begun
        bad = 0
        for path, (pid, step) in killer.killed.items():
            whole = vt.Trace.open(Path(place, "undisturbed", path.name))
            trace = vt.Trace.open(path)
            equal = np.array_equal(trace.values(), whole.values())
            bad += not equal
            words = "every row equal" if equal else "ANOTHER RESULT"
            print(f"{path.stem:28} process {pid} killed at step {step:5,} of {N:,}: {words}")
        same = found["killed"].drop_vars("record").equals(found["undisturbed"].drop_vars("record"))
    killed = len(killer.killed)
    print(f"{found['killed'].status.size} results, {killed} processes killed, {bad} differ")
    print(f"the data sets are {'equal' if same else 'NOT EQUAL'}")
    print(f"{seconds['undisturbed']:.0f} s undisturbed, {seconds['killed']:.0f} s with the kills")
    return int(bad > 0 or not same or killed < min(asked.points, asked.workers))


if __name__ == "__main__":
    raise SystemExit(main())
