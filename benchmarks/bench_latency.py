"""How soon a request from another thread is in force while many steps run in one call.

    python -m benchmarks.bench_latency [--models small vae large] [--requests 100]

A thread asks at random moments; the time runs from the moment it means to ask, which includes the
wait for the interpreter's lock, until the first step with the new value has begun, or the fit has
ended. ``beta.set`` is asked for many times in one fit, Stop
and Ctrl-C once a fit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
import time

import numpy as np

import vitoolkit as vt
from benchmarks.bench_fit import quiet
from benchmarks.models import MODELS

ENDLESS = 100_000_000


class InForce(vt.Recorder):
    """Notes when the first step with a new β began, and when the fit was running."""

    def __init__(self, beta: vt.Beta) -> None:
        super().__init__()
        self.beta, self.began, self.seen = beta, {}, threading.Event()

    def on_block(self, run, block) -> None:
        """Look for values that were not there before."""
        column = run.controls.index(self.beta)
        length = np.diff(block.time, prepend=block.time[0]).max()
        for value, row in zip(*np.unique(block.control[:, column], return_index=True)):
            self.began.setdefault(float(value), block.time[row] - length)
        self.seen.set()


def awake_at(seconds: float) -> float:
    """Sleep; return when that was to end: a compiled call holds the lock a thread wakes up to."""
    due = time.perf_counter() + seconds
    time.sleep(seconds)
    return due


def delays_of_beta(inference, beta, requests: int) -> list[float]:
    recorder, asked = InForce(beta), {}

    def person() -> None:
        recorder.seen.wait()
        for i in range(requests):
            value = 1.0 + (i + 1) / 1_000
            asked[value] = awake_at(random.uniform(0.02, 0.05))
            beta.set(value)
        time.sleep(0.1)
        inference.run.stop()

    thread = threading.Thread(target=person)
    thread.start()
    inference.refine(ENDLESS, progressbar=False, callbacks=[recorder])
    thread.join()
    return [recorder.began[value] - asked[value] for value in asked]


def delays_of_the_end(inference, end, times: int) -> list[float]:
    delays = []
    for _ in range(times):
        asked = []

        def person(asked=asked) -> None:
            asked.append(awake_at(random.uniform(0.1, 0.2)))
            end()

        thread = threading.Thread(target=person)
        thread.start()
        inference.refine(ENDLESS, progressbar=False, callbacks=[])
        delays.append(time.perf_counter() - asked[0])
        thread.join()
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small", "vae", "large"])
    parser.add_argument("--requests", type=int, default=100)
    arguments = parser.parse_args()
    quiet()
    random.seed(1)
    for model in arguments.models:
        case = MODELS[model]()
        with case.model:
            beta = vt.Beta(1.0)
            inference = vt.KLqp(case.approx, beta=beta)
            inference.fit(10_000, more_obj_params=case.weights, progressbar=False)
        for name, delays in (
            ("beta.set", delays_of_beta(inference, beta, arguments.requests)),
            ("stop", delays_of_the_end(inference, lambda: inference.run.stop(), 20)),
            (
                "Ctrl-C",
                delays_of_the_end(inference, lambda: os.kill(os.getpid(), signal.SIGINT), 20),
            ),
        ):
            ms = 1e3 * np.array(delays)
            print(
                f"{model:6} {name:9} {np.median(ms):5.1f} ms at the median, "
                f"{np.quantile(ms, 0.9):5.1f} at the 90th percentile, {ms.max():5.1f} at most"
            )
        print(f"       {inference.step_function!r}")


if __name__ == "__main__":
    main()
