"""What rules, stopping and averaging cost a fused fit of the small model, at their default cadence.

    python benchmarks/bench_rules.py [steps] [rounds]

Each is fitted in turn with the plain one, round after round; the ratio is that of the processor's
time, its median and the middle half of the rounds.
"""

from __future__ import annotations

import sys
import time

import models
import numpy as np
import pymc as pm

import vitoolkit as vt


def fitted(*callbacks, rate=None, **options) -> vt.KLqp:
    """The small model after its first 2,000 steps."""
    case = models.small()
    rate = vt.LearningRate(1e-2) if rate is None else rate
    with case.model:
        inference = vt.KLqp(case.approx, **options)
    inference.fit(
        2_000,
        obj_optimizer=pm.adam(learning_rate=rate),
        callbacks=[vt.Recorder(rate), *callbacks],
        progressbar=False,
    )
    return inference


def plateau() -> vt.LearningRate:
    """A rule that is asked and decides, and never has anything to lower."""
    return vt.LearningRate(1e-2, rule=vt.rules.reduce_on_plateau(least=1e-2))


def seconds(inference: vt.KLqp, steps: int) -> float:
    """Processor time of some more steps."""
    start = time.process_time()
    inference.refine(steps, progressbar=False)
    return time.process_time() - start


def main(steps: int = 40_000, rounds: int = 15) -> None:
    """Print a line for each."""
    plain = fitted()
    cases = {
        "nothing, for the noise of this": fitted(),
        "StopWhenConverged()": fitted(vt.StopWhenConverged(mcse=1e-9)),  # which never stops
        "average=True": fitted(average=True),
        "reduce_on_plateau()": fitted(rate=plateau()),
    }
    for name, inference in cases.items():
        pairs = [(seconds(plain, steps), seconds(inference, steps)) for _ in range(rounds)]
        ratios = [other / one - 1 for one, other in pairs]
        low, middle, high = 100 * np.quantile(ratios, [0.25, 0.5, 0.75])
        each = 1e6 * min(one for one, _ in pairs) / steps
        print(
            f"{name:32} {middle:+5.1f} % ({low:+.1f} to {high:+.1f}) of {each:.1f} µs a step",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
