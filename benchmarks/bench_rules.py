"""What rules, watches, stopping and averaging cost a recorded fit, at their default cadence.

    python benchmarks/bench_rules.py [model] [steps] [rounds]

`model` is one of ``models.MODELS``, "small" unless told. Each is fitted in turn with the plain one,
round after round; the ratio is that of the processor's time, its median and the middle half of the
rounds. A rule of β holds what the plain fit has, so that it moves β a little whenever it is asked.
"""

from __future__ import annotations

import sys
import time
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
    rate = vt.LearningRate(1e-2) if rate is None else rate
    with case.model:
        inference = vt.KLqp(case.approx, beta={} if beta is None else beta, **options)
    inference.fit(
        FIRST,
        obj_optimizer=pm.adam(learning_rate=rate),
        more_obj_params=case.weights,
        callbacks=[vt.Recorder(rate), *callbacks],
        progressbar=False,
    )
    return inference


def rate_of(rule: vt.rules.Rule) -> vt.LearningRate:
    """A learning rate that its rule has nothing to lower of."""
    return vt.LearningRate(1e-2, rule=rule)


def cases(model: str, plain: vt.KLqp) -> dict[str, dict[str, Any]]:
    """What :func:`fitted` is given, by what the line says."""
    held, other = HELD[model]
    kl, data = plain.terms["kl"][held], plain.terms["data"]
    rules = vt.rules
    of_beta = {
        "kl_target": rules.kl_target(held, kl),
        "geco": rules.geco(-data),
        "soft_free_bits": rules.soft_free_bits(held, kl, factor=1.01),
        "cyclic_restart_on_collapse": rules.cyclic_restart_on_collapse(held, 1e-9),
    }
    if held != other:
        of_beta["balance"] = rules.balance(held, [held, other])
    return {
        "nothing, for the noise of this": {},
        "reduce_on_plateau": {"rate": rate_of(rules.reduce_on_plateau(least=1e-2))},
        "dlrd": {"rate": rate_of(rules.dlrd(least=1e-2))},
        **{name: {"beta": {held: vt.Beta(1.0, rule=rule)}} for name, rule in of_beta.items()},
        "watch": {"callbacks": [vt.watch(f"kl[{held}] < -1e9")]},
        "StopWhenConverged": {"callbacks": [vt.StopWhenConverged(mcse=1e-9)]},  # never stops
        "average=True": {"average": True},
    }


def seconds(inference: vt.KLqp, steps: int) -> float:
    """Processor time of some more steps."""
    start = time.process_time()
    inference.refine(steps, progressbar=False)
    return time.process_time() - start


def main(model: str = "small", steps: int = 40_000, rounds: int = 15) -> None:
    """Print a line for each."""
    plain = fitted(model)
    for name, given in cases(model, plain).items():
        callbacks = given.pop("callbacks", ())
        inference = fitted(model, *callbacks, **given)
        pairs = [(seconds(plain, steps), seconds(inference, steps)) for _ in range(rounds)]
        ratios = [other / one - 1 for one, other in pairs]
        low, middle, high = 100 * np.quantile(ratios, [0.25, 0.5, 0.75])
        each = 1e6 * min(one for one, _ in pairs) / steps
        print(
            f"{model}: {name:32} {middle:+5.1f} % ({low:+.1f} to {high:+.1f}) of {each:.1f} µs",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
