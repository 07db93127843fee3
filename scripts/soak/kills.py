"""Fits that are killed at random moments: what their journals hold, and whether they go on.

    python -m scripts.soak.kills [--runs 20] [--seed 1] [--kinds minibatch full-rank single fused]

A process fits with a journal and a checkpoint every 50 ms. It gets SIGKILL at a random moment,
while it compiles, steps or writes; another process resumes, and is killed as well in half of the
runs, until the fit is finished; where the first was killed before it wrote anything, the fit begins
anew. After each kill the journal has to open, its rows have to be those of the fit that nobody
killed, none lost, none doubled, and at most those of the last second may be missing. At the end
trace and parameters have to be those of that fit, bit for bit. A line a run, and the totals; the
exit code is 1 where anything was otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import runs  # noqa: E402

import vitoolkit as vt  # noqa: E402
from vitoolkit.journal_file import JournalFile  # noqa: E402

ALLOWED = 1.0  # seconds of rows that may be missing


def result_of(fit) -> dict:
    """Digests of what a fit has come to."""
    numbers = hashlib.sha256(fit.trace.values().tobytes())
    q = hashlib.sha256(b"".join(p.tobytes() for p in runs.parameters(fit)))
    return {"rows": len(fit.trace), "trace": numbers.hexdigest(), "q": q.hexdigest()}


def in_a_process(work, out: Path) -> int:
    """Fork, and write down what `work` returns; returns the child's number."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        out.write_text(json.dumps(work()))
        os._exit(0)
    except BaseException as error:
        out.write_text(json.dumps({"error": repr(error)}))
        os._exit(1)


def finished(child: int) -> bool:
    """Whether a process has ended."""
    return os.waitpid(child, os.WNOHANG)[0] != 0


def watching(fit, progress: Path) -> None:
    """Write down every 5 ms how many rows there are."""
    file = os.open(progress, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def look() -> None:
        while True:
            os.write(file, f"{time.time()} {len(fit.trace)}\n".encode())
            time.sleep(0.005)

    threading.Thread(target=look, daemon=True).start()


def has_run(path: Path) -> bool:
    """Whether a journal has anything to go on with."""
    if not path.exists():
        return False
    with JournalFile(path) as file:
        return bool(file.runs())


def training(kind: str, path: Path, progress: Path):
    """Fit or resume, and say what came of it."""

    def work() -> dict:
        journal = vt.Journal(path, seconds=0.05)
        make = runs.resumed if has_run(path) else runs.begun
        fit = make(kind, journal, background=True)
        watching(fit, progress)
        fit.wait()
        return result_of(fit)

    return work


def rows_at(progress: Path, when: float) -> int:
    """How many rows there were at a moment."""
    rows = 0
    for line in progress.read_text().splitlines() if progress.exists() else ():
        fields = line.split()
        if len(fields) == 2 and float(fields[0]) <= when:
            rows = int(fields[1])
    return rows


def faults_of(path: Path, progress: Path, killed: float, whole) -> tuple[list[str], int]:
    """What is wrong with a journal after a kill, and how many rows it has."""
    expected = rows_at(progress, killed - ALLOWED)
    if not path.exists():
        return (["no journal"] if expected else []), 0
    try:
        trace = vt.Trace.open(path)
    except KeyError:
        return (["no run in it"] if expected else []), 0
    except Exception as error:
        return [f"it does not open: {error!r}"], 0
    faults = []
    if len(trace) < expected:
        faults.append(f"{expected - len(trace)} rows older than {ALLOWED:g} s are missing")
    if not np.array_equal(trace.step, whole.step[: len(trace)]):
        faults.append("steps lost or doubled")
    elif not np.array_equal(trace.values(), whole[: len(trace)].values(), equal_nan=True):
        faults.append("numbers are others")
    return faults, len(trace)


def one(
    kind: str, folder: Path, chance: random.Random, whole, known: dict
) -> tuple[list[str], str]:
    """One run with its kills; returns what was wrong, and a line about it."""
    path, faults, kills, rows = folder / "run.db", [], 0, []
    while True:
        out, progress = folder / f"{kills}.json", folder / f"{kills}.txt"
        child = in_a_process(training(kind, path, progress), out)
        kill = kills == 0 or (kills < 4 and chance.random() < 0.5)
        early, length = chance.random() < 0.2, known["seconds"] if kills == 0 else 2.0
        after = chance.uniform(0.0, length if early else known["stepping"])
        since, done = time.time() if early else None, False
        while not done and not (kill and since is not None and time.time() > since + after):
            done = finished(child)
            if since is None and rows_at(progress, time.time()) > (rows[-1] if rows else 0):
                since = time.time()  # it takes steps
            time.sleep(0.002)
        if done:
            break
        os.kill(child, signal.SIGKILL)
        killed = time.time()
        os.waitpid(child, 0)
        kills += 1
        found, count = faults_of(path, progress, killed, whole)
        faults += found
        rows.append(count)
    result = json.loads(out.read_text())
    if "error" in result:
        faults.append(f"not resumed: {result['error']}")
    elif result != known["result"]:
        faults.append(f"the end is another: {difference(path, whole, result, known['result'])}")
    elif not np.array_equal(vt.Trace.open(path).values(), whole.values(), equal_nan=True):
        faults.append("the journal at the end is another")
    return faults, kills, rows


def difference(path: Path, whole, result: dict, expected: dict) -> str:
    """Where a fit that went on is not the one that nobody killed."""
    found = vt.Trace.open(path)
    differs = [name for name in expected if result[name] != expected[name]]
    if len(found) != len(whole):
        return f"{', '.join(differs)}; {len(found)} rows of {len(whole)}"
    here, there = found.values(), whole.values()
    bad = np.argwhere((here != there) & ~(np.isnan(here) & np.isnan(there)))
    if not len(bad):
        return f"{', '.join(differs)}; the rows of the journal are equal"
    row, column = bad[0]
    name = whole.columns[column]
    numbers = f"{here[row, column]!r} for {there[row, column]!r}"
    return f"{', '.join(differs)}; first {name} of step {whole.step[row]}: {numbers}"


def reference(kind: str, folder: Path) -> tuple[vt.Trace, dict]:
    """The fit that nobody kills, how long it takes, and what it comes to."""

    def work() -> dict:
        fit = runs.begun(kind, folder / "whole.db")
        return result_of(fit)

    begun = time.time()
    child = in_a_process(work, folder / "whole.json")
    os.waitpid(child, 0)
    result = json.loads((folder / "whole.json").read_text())
    assert "error" not in result, result
    trace = vt.Trace.open(folder / "whole.db")
    seconds = {"seconds": time.time() - begun, "stepping": float(trace.time[-1] - trace.time[0])}
    return trace, {**seconds, "result": result}


def main() -> int:
    """Take the runs, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=list(runs.KINDS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    chance, bad, kills = random.Random(asked.seed), 0, 0
    with tempfile.TemporaryDirectory() as place:
        known = {}
        for kind in asked.kinds:
            folder = Path(place) / kind
            folder.mkdir()
            known[kind] = reference(kind, folder)
            print(f"{kind}: {known[kind][1]['seconds']:.1f} s undisturbed", flush=True)
        for i in range(asked.runs):
            kind = asked.kinds[i % len(asked.kinds)]
            folder = Path(place) / f"{i}"
            folder.mkdir()
            faults, times, rows = one(kind, folder, chance, *known[kind])
            kills, bad = kills + times, bad + bool(faults)
            words = "; ".join(faults) or "as it should be"
            print(f"{i:3d} {kind:10} killed {times} times, at rows {rows}: {words}", flush=True)
    print(f"{asked.runs - bad} of {asked.runs} runs with {kills} kills as they should be")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
