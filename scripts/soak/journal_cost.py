"""What a journal costs: processor time of all threads, with and without, by turns.

    python -m scripts.soak.journal_cost [--pairs 7] [--steps 200000]

The small model is the tests' hierarchical regression (nine coordinates, 1,000 rows), fused, on the
default backend, with a checkpoint every 10 s. A line a pair, then the median of the ratios.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from models import regression  # noqa: E402

import vitoolkit as vt  # noqa: E402


def seconds_of(steps: int, record: Path | None) -> tuple[float, float]:
    """Processor and wall time of the steps of a fit."""
    fit = vt.fit(0, model=regression(minibatch=False), record=record, progressbar=False)
    processor, wall = time.process_time(), time.perf_counter()
    fit.refine(steps, progressbar=False)
    return time.process_time() - processor, time.perf_counter() - wall


def main() -> int:
    """Take the pairs, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200_000)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        seconds_of(1_000, None)
        for i in range(asked.pairs):
            kinds = [None, Path(folder) / f"{i}.db"]
            seen = {kind: seconds_of(asked.steps, kind) for kind in kinds[:: 1 if i % 2 else -1]}
            (bare, bare_wall), (whole, whole_wall) = seen[kinds[0]], seen[kinds[1]]
            ratios.append(whole / bare)
            print(
                f"{i}: {bare:.2f} s without, {whole:.2f} s with a journal: {whole / bare:.3f} "
                f"(wall {bare_wall:.2f} and {whole_wall:.2f} s)",
                flush=True,
            )
    least, most = min(ratios), max(ratios)
    print(f"median {statistics.median(ratios):.3f}, from {least:.3f} to {most:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
