"""What a journal costs: processor time of all threads, with and without, by turns.

    python -m scripts.soak.journal_cost [--pairs 7] [--steps 200000] [--model small]

The model is the tests' hierarchical regression (nine coordinates, 1,000 rows), or one of
``benchmarks/models.py``; fused, on the default backend, with a checkpoint every 10 s. A line a
pair, then medians: of the ratio of the two fits, and of the processor time a step of the thread
that writes, which is far less noisy.
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


def seconds_of(model: str, steps: int, journal: Journal | None) -> float:
    """Processor time of the steps of a fit."""
    fit = vt.fit(0, model=model_of(model), record=journal, progressbar=False)
    processor = time.process_time()
    fit.refine(steps, progressbar=False)
    return time.process_time() - processor


def main() -> int:
    """Take the pairs, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--model", default="regression", help="or one of benchmarks/models.py")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    ratios, each, bares = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        seconds_of(asked.model, 1_000, None)
        for i in range(asked.pairs):
            journal = TimedJournal(Path(folder) / f"{i}.db")
            kinds = [None, journal][:: 1 if i % 2 else -1]
            seen = {kind: 1e6 * seconds_of(asked.model, asked.steps, kind) / asked.steps
                    for kind in kinds}  # fmt: skip
            bare, whole, writing = seen[None], seen[journal], 1e6 * journal.writing / asked.steps
            ratios.append(whole / bare)
            each.append(writing)
            bares.append(bare)
            print(
                f"{i}: {bare:.2f} µs a step without, {whole:.2f} with a journal: "
                f"{whole / bare:.3f}; {writing:.3f} in the thread that writes",
                flush=True,
            )
    least, most = min(ratios), max(ratios)
    print(f"median {statistics.median(ratios):.3f}, from {least:.3f} to {most:.3f}")
    bare, writing = statistics.median(bares), statistics.median(each)
    print(f"writing: {writing:.3f} µs a step of {bare:.2f}, {100 * writing / bare:.1f} %")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
