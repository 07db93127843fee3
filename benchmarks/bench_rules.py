"""What rules, watches, stopping and averaging cost a recorded fit, at their default cadence.

    python benchmarks/bench_rules.py [model] [steps] [rounds]

`model` is one of ``models.MODELS``, "small" unless told. In every round each is fitted anew, and
beside it the same with the same controls and no rule; the ratio is that of the processor's time,
its median and the middle half of the rounds, and then the difference in 1,000 steps. A rule of β
holds what the plain fit has, so that it moves β a little whenever it is asked.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import models
import numpy as np
import pymc as pm

import vitoolkit as vt

#: Steps before anything is measured.
FIRST = 2_000
#: The variable whose KL is held, and another one.
HELD = {"small": ("w", "a"), "vae": ("z", "z"), "large": ("th", "th")}


def fitted(model: str, *callbacks: Any, rate=None, beta=None, **options: Any) -> vt.KLqp:
    """The model after its first steps."""
    case = models.MODELS[model]()
    rate = vt.LearningRate(1e-2, rule=rate)
    held = HELD[model][0]
    with case.model:
        inference = vt.KLqp(case.approx, beta={held: vt.Beta(1.0, rule=beta)}, **options)
    inference.fit(
        FIRST,
        obj_optimizer=pm.adam(learning_rate=rate),
        more_obj_params=case.weights,
        callbacks=[vt.Recorder(rate), *callbacks],
        progressbar=False,
    )
    return inference


def cases(model: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """What makes that which :func:`fitted` is given, by what the line says."""
    held, other = HELD[model]
    plain = fitted(model)
    kl, data = plain.terms["kl"][held], plain.terms["data"]
    rules = vt.rules
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "nothing, for the noise of this": dict,
        "reduce_on_plateau": lambda: {"rate": rules.reduce_on_plateau(least=1e-2)},
        "dlrd": lambda: {"rate": rules.dlrd(least=1e-2)},
        "kl_target": lambda: {"beta": rules.kl_target(held, kl)},
        "geco": lambda: {"beta": rules.geco(-data)},
        "soft_free_bits": lambda: {"beta": rules.soft_free_bits(held, kl, factor=1.01)},
        "cyclic_restart_on_collapse": lambda: {
            "beta": rules.cyclic_restart_on_collapse(held, 1e-9)
        },
    }
    if held != other:
        found["balance"] = lambda: {"beta": rules.balance(held, [held, other])}
    return {
        **found,
        "watch": lambda: {"callbacks": [vt.watch(f"kl[{held}] < -1e9")]},
        # One that never stops.
        "StopWhenConverged": lambda: {"callbacks": [vt.StopWhenConverged(mcse=1e-9)]},
        "average=True": lambda: {"average": True},
    }


def seconds(inference: vt.KLqp, steps: int) -> float:
    """Processor time of some more steps."""
    start = time.process_time()
    inference.refine(steps, progressbar=False)
    return time.process_time() - start


def measured(model: str, given: dict[str, Any], steps: int) -> tuple[float, float]:
    """Seconds of the plain fit, and of the one that was given something, an equal way on."""
    callbacks = given.pop("callbacks", ())
    plain, other = fitted(model), fitted(model, *callbacks, **given)
    return seconds(plain, steps), seconds(other, steps)


def main(model: str = "small", steps: int = 40_000, rounds: int = 15) -> None:
    """Print a line for each."""
    logging.disable(logging.INFO)
    for name, make in cases(model).items():
        pairs = np.array([measured(model, make(), steps) for _ in range(rounds)])
        low, middle, high = 100 * (np.quantile(pairs[:, 1] / pairs[:, 0], [0.25, 0.5, 0.75]) - 1)
        extra = 1e9 * np.median(pairs[:, 1] - pairs[:, 0]) / steps
        print(
            f"{model}: {name:32} {middle:+5.1f} % ({low:+.1f} to {high:+.1f}) of "
            f"{1e6 * pairs[:, 0].min() / steps:.1f} µs, {extra:+.0f} µs in 1,000 steps",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
