"""Replay: runs that another thread steers at random, repeated from their traces bit for bit.

Two rules run (a KL target on one β, a plateau rule on the learning rate) while some fifty changes
come from a second thread at moments of its own: values, a dragged slider, releases, pauses, undos,
new schedules, notes. Then ``replay=`` repeats the run, from the trace in memory and from a file of
it, and every recorded number, parameter and event is compared bit for bit.

    python scripts/soak/replay.py --seeds 10 --steps 6000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm

import vitoolkit as vt

CHANGES = 50
PACE = 6_000
QUIET = {"progressbar": False}


def model() -> pm.Model:
    """Two variables, one of them a vector, with Gaussian observations."""
    rng = np.random.default_rng(5)
    with pm.Model() as built:
        z = pm.Normal("z", 0.0, 1.0, shape=3)
        w = pm.Normal("w", 0.0, 1.0)
        pm.Normal("y", z.sum() + w, 2.0, observed=rng.normal(1.5, 2.0, size=30))
        pm.Normal("x", w, 1.0, observed=rng.normal(-1.0, 1.0, size=5))
    return built


def options(steps: int, seed: int, per_call: int | str) -> dict[str, Any]:
    """Arguments of the fit, with controls and rules of its own each time."""
    warm = vt.schedules.linear(0.0, 1.0, steps=steps // 4)
    target = vt.rules.kl_target("z", 0.8, integral=0.01, every=50)
    plateau = vt.rules.reduce_on_plateau(0.7, patience=400, errors=1.0)
    return {
        "n": steps,
        "beta": {"z": vt.Beta(schedule=warm, rule=target), "w": vt.Beta(1.0)},
        "learning_rate": vt.LearningRate(0.05, rule=plateau),
        "random_seed": seed,
        "steps_per_execution": per_call,
    }


def steer(fit: vt.Fit, rng: np.random.Generator, changes: int = CHANGES) -> None:
    """Change what can be changed, at random steps, from the thread that calls this."""
    run, controls = fit.run, list(fit.controls.values())
    targets = np.sort(rng.integers(run.first, run.first + run.n, size=changes))
    sources = np.array(["user", "code"])
    for target in targets:
        while run.running and run.step < target:
            time.sleep(0.0005)
        if not run.running:
            return
        control, source = controls[rng.integers(len(controls))], str(rng.choice(sources))
        low, high = (1e-3, 0.1) if isinstance(control, vt.LearningRate) else (0.1, 3.0)
        what = rng.integers(8)
        if what < 2:
            control.set(float(rng.uniform(low, high)), source=source)
        elif what == 2:
            for value in np.linspace(low, high, 4):
                control.set(float(value), source="user")
                time.sleep(float(rng.uniform(0, 0.003)))
        elif what == 3:
            control.release(source=source)
        elif what == 4:
            run.undo(source=source) if rng.random() < 0.5 else control.undo(source=source)
        elif what == 5:
            later = int(run.step + rng.integers(200, 2_000))
            control.reschedule(end=float(rng.uniform(low, high)), steps=later, source=source)
        elif what == 6:
            run.pause(source="user")
            while run.running and run.status != "paused":
                time.sleep(0.0005)
            control.set(float(rng.uniform(low, high)), source="user")
            if rng.random() < 0.5:
                run.single_step(source="user")
            run.resume(source="user")
        else:
            run.note(f"looked at step {target}", source="user")


def same(one: vt.Fit, two: vt.Fit) -> list[str]:
    """What is not equal bit for bit, by name; times apart."""
    found = []
    a, b = one.trace, two.trace
    if len(a) != len(b):
        return [f"{len(a)} rows and {len(b)}"]
    for name in ("loss", "data", "elbo", "step"):
        if getattr(a, name).tobytes() != getattr(b, name).tobytes():
            found.append(name)
    for group in ("kl", "control"):
        for name in getattr(a, group):
            if getattr(a, group)[name].tobytes() != getattr(b, group)[name].tobytes():
                found.append(f"{group} {name}")
    for p, q in zip(one.approx.params, two.approx.params, strict=True):
        if p.get_value().tobytes() != q.get_value().tobytes():
            found.append(f"parameter {p.name}")
    if untimed(a.events) != untimed(b.events):
        found.append("events")
    if a.attrs.get("rules") != b.attrs.get("rules"):
        found.append("what the rules have learned")
    return found


def untimed(events: list[vt.Event]) -> list[vt.Event]:
    """The events without their times."""
    return [event._replace(time=0.0, asked=event.asked and 0.0) for event in events]


def steered(steps: int, seed: int, per_call: int | str, changes: int = CHANGES) -> vt.Fit:
    """A run that was steered at random; every third one was stopped."""
    rng = np.random.default_rng(seed)
    fit = vt.fit(model=model(), background=True, **options(steps, seed, per_call), **QUIET)
    fit.run.limit(PACE)
    steer(fit, rng, changes)
    if seed % 3 == 0:
        fit.stop()
    fit.wait()
    return fit


def again(record: Any, steps: int, seed: int, per_call: int | str) -> vt.Fit:
    """The run once more, as its record has it."""
    given = options(steps, seed, per_call)
    given.pop("n"), given.pop("random_seed")
    return vt.fit(model=model(), replay=record, **given, **QUIET)


def main() -> int:
    """Print a table, and return how many replays differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6_000)
    given = parser.parse_args()
    print(f"PyMC {pm.__version__}, {given.steps:,} steps, {CHANGES} changes from a second thread")
    print(
        f"{'seed':>4} {'calls':>6} {'rows':>6} {'events':>6} {'by rules':>8}  replay, from a file"
    )
    bad = 0
    for per_call in ("auto", 50, 1):
        for seed in range(given.seeds):
            fit = steered(given.steps, seed, per_call)
            found = same(fit, again(fit.trace, given.steps, seed, per_call))
            with tempfile.TemporaryDirectory() as folder:
                path = fit.trace.save(Path(folder) / "fit.json")
                found += same(fit, again(path, given.steps, seed, per_call))
            rules = sum(event.kind == "rule" for event in fit.trace.events)
            bad += bool(found)
            print(
                f"{seed:>4} {per_call!s:>6} {len(fit.trace):>6} {len(fit.trace.events):>6} "
                f"{rules:>8}  {', '.join(found) or 'equal bit for bit'}",
                flush=True,
            )
    print(f"{bad} of {3 * given.seeds} differ")
    return bad


if __name__ == "__main__":
    sys.exit(main())
