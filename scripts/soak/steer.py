"""A fit steered from a second process: how long until a change is in force, and what is refused.

    python -m scripts.soak.steer [--changes 100] [--malformed 1000]

A process fits with a journal. This one sets β again and again through the journal and takes the
time from the question to the answer that it is in force. Then it asks for things that no fit can
do (random bytes, wrong types, out of bounds, unknown controls, long, deep, SQL): all of them have
to be refused, and the fit has to be the one that nobody asked, bit for bit. Last, the permissions
of the journal and of the files beside it, while the fit runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import stat
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import vitoolkit as vt
from vitoolkit.journal_file import JournalFile

FIT = """
import logging, sys
sys.path.insert(0, sys.argv[3])
from models import two_gaussians
import vitoolkit as vt
class Slowly(vt.Callback):
    def on_compiled(self, run):
        run.limit(float(sys.argv[4]) or None)
logging.disable()
vt.fit(int(sys.argv[2]), model=two_gaussians(), record=sys.argv[1], random_seed=1,
       progressbar=False, callbacks=Slowly(), compile_kwargs={"mode": "FAST_COMPILE"})
"""
TESTS = Path(__file__).parents[2] / "tests"
STEPS, PACE = 2_000, 60.0


def fitting(path: Path, steps: int, pace: float) -> subprocess.Popen:
    """A process that fits; returns when its journal has rows."""
    command = [sys.executable, "-W", "ignore", "-c", FIT, path, steps, TESTS, pace]
    child = subprocess.Popen([*map(str, command)])
    while child.poll() is None and not begun(path):
        time.sleep(0.05)
    return child


def begun(path: Path) -> bool:
    """Whether the journal has a run with rows."""
    if not path.exists():
        return False
    with JournalFile(path) as file:
        return bool(file.runs()) and file.last_row(1) is not None


def latencies(path: Path, changes: int) -> np.ndarray:
    """Seconds until each of so many changes was in force."""
    fit, seconds, rng = vt.attach(path), [], random.Random(1)
    for _ in range(changes):
        time.sleep(rng.uniform(0.0, 0.2))
        asked = time.perf_counter()
        fit.set("beta", rng.uniform(0.1, 2.0))
        seconds.append(time.perf_counter() - asked)
    return np.array(seconds)


def malformed(count: int) -> list[str | bytes]:
    """Requests that no fit can do."""
    rng = random.Random(2)
    words = ["set", "beta", "'; DROP TABLE run; --", "é\0\n", "", "learning_rate", "eval", None]
    values = [*words, True, [], {}, 1e999, -1e300, float("nan"), 10**400, [[]] * 9]
    found: list[str | bytes] = []
    for i in range(count):
        kind = i % 8
        if kind == 0:
            found.append(rng.randbytes(rng.randrange(200)))
        elif kind == 1:
            found.append("".join(rng.choices(string.printable, k=rng.randrange(200))))
        elif kind == 2:  # out of bounds
            value = rng.choice([-1, 1e9, 10.0001, float("inf"), float("nan")])
            found.append(json.dumps({"kind": "set", "control": "beta", "value": value}))
        elif kind == 3:
            found.append(json.dumps({"kind": "set", "control": f"x{i}", "value": 1.0}))
        elif kind == 4:  # of wrong types
            fields = {"kind": "set", "control": "beta", "value": 1.0}
            wrong = rng.choice([v for v in values if not isinstance(v, float)])
            fields[rng.choice(["kind", "control", "value"])] = wrong if wrong != "beta" else "x"
            if fields in ({"kind": "set", "control": "beta", "value": 1.0},):
                fields["value"] = "1"
            if fields["control"] == "learning_rate" or fields["value"] in (True, 10**400):
                fields["value"] = None
            found.append(json.dumps(fields))
        elif kind == 5:
            found.append(rng.choice(["[", '{"a":']) * rng.randrange(1_000, 50_000))
        elif kind == 6:
            found.append(json.dumps({"kind": "note", "text": "x" * 70_000}))
        else:
            more = {f"{rng.choice(words)}{i}": rng.choice(values)}
            found.append(json.dumps({"kind": "set", "control": "beta", "value": 1.0, **more}))
    return found


def refused(path: Path, bodies: list[str | bytes]) -> dict[str, int]:
    """Put requests into the journal past everything, and count what became of them."""
    with JournalFile(path, write=True) as file:
        for i in range(0, len(bodies), 50):
            with file.transaction():
                file._sql.executemany(
                    "INSERT INTO request (run, asked, body) VALUES (1, 0, ?)",
                    [(body,) for body in bodies[i : i + 50]],
                )
        count = "SELECT state, count(*) FROM request WHERE asked = 0 GROUP BY state"
        while True:
            states = dict(file._sql.execute(count).fetchall())
            if not {"asked", "taken"} & states.keys():
                return states
            time.sleep(0.05)


def main() -> int:
    """Measure, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--malformed", type=int, default=1_000)
    asked = parser.parse_args()
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steered.db"
        child = fitting(path, 10**9, 0.0)
        vt.attach(path).set("beta", 1.0)
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in sorted(path.parent.iterdir())
        }
        seconds = 1_000 * latencies(path, asked.changes)
        vt.attach(path).stop()
        child.wait()
        load = " ".join(f"{number:.1f}" for number in os.getloadavg())
        at = ", ".join(f"{q} %: {np.percentile(seconds, q):.0f} ms" for q in (10, 50, 90, 99))
        print(f"{asked.changes} changes in force after {at} (load {load})", flush=True)
        print("permissions: " + ", ".join(f"{name} {mode:o}" for name, mode in modes.items()))
        bad |= set(modes.values()) != {0o600} or len(modes) != 3 or np.median(seconds) > 300
        path, whole = Path(folder) / "asked.db", Path(folder) / "whole.db"
        child = fitting(path, STEPS, PACE)
        states = refused(path, malformed(asked.malformed))
        status = vt.attach(path).status
        child.wait()
        fitting(whole, STEPS, 0.0).wait()
        one, two = vt.Trace.open(path), vt.Trace.open(whole)
        same = one.values().tobytes() == two.values().tobytes() and not one.events
        words = "the one that nobody asked, bit for bit" if same else "ANOTHER"
        print(f"{asked.malformed} malformed requests: {states}, the fit {status} and {words}")
        bad |= not same or states != {"refused": asked.malformed} or status != "running"
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
