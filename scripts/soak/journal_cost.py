"""What a journal costs: time, and processor time of all threads, with and without, by turns.

    python -m scripts.soak.journal_cost [--pairs 7] [--steps 2000000] [--model small]

The model is the tests' hierarchical regression (nine coordinates, 1,000 rows), or one of
``benchmarks/models.py``; fused, on the default backend, with a checkpoint every 10 s. A line a
pair, then medians: of the ratios of the two fits, and of the processor time a step of the thread
that writes, which is far less noisy. A file that is made and closed costs some 20 ms a fit.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pymc as pm

import vitoolkit as vt
from vitoolkit.journal import Journal


class TimedJournal(Journal):
    """A journal that notes the processor time of the thread that writes, in seconds."""

    writing = 0.0

    def _work(self) -> None:
        begun = time.thread_time()
        super()._work()
        self.writing = time.thread_time() - begun


def model_of(name: str) -> pm.Model:
    """The model of this name."""
    of_tests = name == "regression"
    folder = Path(__file__).parents[2] / ("tests" if of_tests else "benchmarks")
    sys.path.insert(0, str(folder))
    models = importlib.import_module("models")
    return models.regression(minibatch=False) if of_tests else models.MODELS[name]().model


def seconds_of(model: str, steps: int, journal: Journal | None) -> tuple[float, float]:
    """Time and processor time of the steps of a fit."""
    fit = vt.fit(0, model=model_of(model), record=journal, progressbar=False)
    clock, processor = time.perf_counter(), time.process_time()
    fit.refine(steps, progressbar=False)
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> int:
    """Take the pairs, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--model", default="regression", help="or one of benchmarks/models.py")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    ratios, writing = [], []
    with tempfile.TemporaryDirectory() as folder:
        seconds_of(asked.model, 1_000, None)
        for i in range(asked.pairs):
            journal = TimedJournal(Path(folder) / f"{i}.db")
            kinds = [None, journal][:: 1 if i % 2 else -1]
            seen = {kind: seconds_of(asked.model, asked.steps, kind) for kind in kinds}
            ratios.append([a / b for a, b in zip(seen[journal], seen[None], strict=True)])
            writing.append(1e6 * journal.writing / asked.steps)
            print(
                f"{i}: {1e6 * seen[None][0] / asked.steps:.2f} µs a step without a journal; with "
                f"one {ratios[-1][0]:.3f} of the time and {ratios[-1][1]:.3f} of the processor's, "
                f"{writing[-1]:.3f} µs a step in the thread that writes",
                flush=True,
            )
    for what, found in zip(("time", "processor time"), zip(*ratios, strict=True), strict=True):
        middle, least, most = statistics.median(found), min(found), max(found)
        print(f"{what}: median {middle:.3f}, from {least:.3f} to {most:.3f}")
    print(f"writing: {statistics.median(writing):.3f} µs a step")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
