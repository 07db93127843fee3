"""Every optimizer, approximation and way of stepping: killed and resumed in a new process.

    python -m scripts.soak.resume [--n 80] [--optimizers adam sgd] [--approximations laws]
                                  [--ways fused single] [--mode FAST_COMPILE]

For each case a process fits ``2 n`` steps, another one begins the same with a journal and gets
SIGKILL when it has taken some ``n``, and a third resumes. Its trace, parameters and journal have to
be those of the first, bit for bit. A line a case, and the totals; the exit code is 1 where anything
was otherwise.

The first process takes the whole fits of all optimizers of one approximation and way, one after
the other. Each fit that is killed, and each that resumes, has a process of its own, forked from one
that has imported PyMC and vitoolkit and built nothing: they share no graph, no compiled function
and no random generator, only the folder of compiled code.

``FAST_COMPILE`` is Python on both stacks. ``--mode NUMBA`` on PyMC 6 and ``--mode FAST_RUN`` on
PyMC 5 are what a fit takes by itself, and compile for longer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.variational.opvi import Approximation, Group

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from models import regression, two_gaussians  # noqa: E402

import vitoolkit as vt  # noqa: E402
from vitoolkit.journal_file import JournalFile  # noqa: E402

#: Those of PyMC, each with a learning rate at which it moves.
OPTIMIZERS = {
    "sgd": 1e-4,
    "momentum": 1e-5,
    "nesterov_momentum": 1e-5,
    "adagrad": 0.05,
    "adagrad_window": 0.01,
    "rmsprop": 0.01,
    "adadelta": 1.0,
    "adam": 0.02,
    "adamax": 0.02,
}
APPROXIMATIONS = ("mean-field", "full-rank", "amortized", "minibatch", "laws")
WAYS = {"fused": 7, "single": 1}
ROWS, BATCH, UNITS, PIXELS = 200, 20, 2, 5


def amortized(steps: int) -> tuple[vt.KLqp, list[Any]]:
    """Probabilistic PCA on minibatches with a linear encoder, and a global variable beside it."""
    rng = np.random.default_rng(4)
    loadings = rng.normal(size=(PIXELS, UNITS))
    data = rng.normal(size=(ROWS, UNITS)) @ loadings.T + 0.5 * rng.normal(size=(ROWS, PIXELS))
    encoder = pytensor.shared(np.zeros((PIXELS, UNITS)), "encoder")
    rho = pytensor.shared(np.zeros(UNITS), "rho")
    with pm.Model():
        batch = pm.Minibatch(data, batch_size=BATCH)
        z = pm.Normal("z", shape=(BATCH, UNITS))
        shift = pm.Normal("shift", shape=PIXELS)
        pm.Normal("x", z @ loadings.T + shift, 0.5, observed=batch, total_size=ROWS)
        params = {"mu": batch @ encoder, "rho": pt.broadcast_to(rho, (BATCH, UNITS))}
        groups = [Group([z], params=params, local=True), Group([shift], vfam="mean_field")]
        approx = Approximation(groups)
        inference = vt.KLqp(
            approx,
            beta={"z": vt.schedules.linear(0.0, 1.0, steps=50)},
            total_size={"z": ROWS},
            steps_per_execution=steps,
            random_seed=3,
        )
    return inference, [encoder, rho]


def options(approximation: str, optimizer: str, way: str, mode: str) -> tuple[dict, dict]:
    """Options of a fit: those that a journal knows, and those that have to be given again."""
    rate, steps = OPTIMIZERS[optimizer], WAYS[way]
    known: dict[str, Any] = {
        "optimizer": getattr(pm, optimizer),
        "learning_rate": rate,
        "compile_kwargs": {"mode": mode},
    }
    if approximation == "amortized":
        inference, weights = amortized(steps)
        return known, {"method": inference, "more_obj_params": weights}
    known |= {"random_seed": 3, "steps_per_execution": steps}
    if approximation == "full-rank":
        return known | {"method": "fullrank_advi"}, {"model": two_gaussians()}
    given: dict[str, Any] = {"model": regression(minibatch=approximation != "mean-field")}
    if approximation == "laws":
        warm = vt.schedules.linear(0.0, 1.0, steps=40)
        target = vt.rules.kl_target("w", 9.0, every=20)
        plateau = vt.rules.reduce_on_plateau(patience=80, every=10)
        given["beta"] = vt.Beta(schedule=warm, rule=target)
        given["learning_rate"] = vt.LearningRate(known.pop("learning_rate"), rule=plateau)
    return known, given


class Case(NamedTuple):
    """One way to fit."""

    optimizer: str
    approximation: str
    way: str
    mode: str
    n: int

    def whole(self) -> dict:
        """All steps at once."""
        known, given = options(self.approximation, self.optimizer, self.way, self.mode)
        return told(vt.fit(2 * self.n, **known, **given, progressbar=False))

    def killed(self, folder: Path) -> None:
        """As many, with a kill in their middle."""
        known, given = options(self.approximation, self.optimizer, self.way, self.mode)
        journal = vt.Journal(folder / "run.db", seconds=0.05)
        fit = vt.fit(2 * self.n, record=journal, background=True, **known, **given)
        fit.run.limit(self.n)  # two seconds
        while fit.run.running:
            time.sleep(0.005)
            if fit.run.step >= self.n and saved(folder / "run.db") > 0:
                os.kill(os.getpid(), signal.SIGKILL)
        fit.wait()
        raise AssertionError("it has ended before it was killed")

    def resumed(self, folder: Path) -> dict:
        """The steps that were left."""
        _, given = options(self.approximation, self.optimizer, self.way, self.mode)
        before = len(vt.Trace.open(folder / "run.db"))
        at = saved(folder / "run.db")
        fit = vt.resume(folder / "run.db", progressbar=False, **given)
        same = vt.Trace.open(folder / "run.db").equals(fit.trace)
        return told(fit) | {"before": before, "checkpoint": at, "journal": same}


def saved(path: Path) -> int:
    """Step of the last checkpoint of a journal, 0 without one."""
    with JournalFile(path) as file:
        return max(file.checkpoints(1), default=0) if file.runs() else 0


def told(fit: vt.Fit) -> dict:
    """Digests of what a fit has come to, and what it has done."""
    q = [np.asarray(p.get_value()) for p in fit.approx.params]
    events = [(e.step, e.kind, e.control, e.old, e.new) for e in fit.trace.events]
    return {
        "trace": hashlib.sha256(fit.trace.values().tobytes()).hexdigest(),
        "q": hashlib.sha256(b"".join(p.tobytes() for p in q)).hexdigest(),
        "events": json.loads(json.dumps(events)),
        "steps": fit.trace.step.tolist() == list(range(len(fit.trace))),
        "rows": len(fit.trace),
        "moved": bool(fit.trace.loss[0] != fit.trace.loss[-1]),
    }


def in_a_process(work: Callable[[Path], Any], folder: Path) -> dict | None:
    """What it returns in a process of its own; None if that is killed."""
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            out.write_text(json.dumps(work(folder)))
            os._exit(0)
        except BaseException as error:
            out.write_text(json.dumps({"error": repr(error)}))
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    return json.loads(out.read_text())


def wholes(cases: list[Case]) -> dict[str, dict]:
    """What nobody kills, by optimizer, of one process for all of them."""
    with tempfile.TemporaryDirectory() as place:
        found = in_a_process(lambda _: {c.optimizer: c.whole() for c in cases}, Path(place))
    found = found or {"error": "killed"}
    return dict.fromkeys([c.optimizer for c in cases], found) if "error" in found else found


def faults_of(case: Case, whole: dict) -> tuple[list[str], str]:
    """What is otherwise than it should be, and a few words on where it was killed."""
    if "error" in whole:
        return [f"the whole fit: {whole['error']}"], ""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        killed = in_a_process(case.killed, folder)
        if killed is not None:
            return [f"the killed fit: {killed}"], ""
        found = in_a_process(case.resumed, folder) or {"error": "killed"}
    if "error" in found:
        return [f"not resumed: {found['error']}"], ""
    faults = [f"{name} differs" for name in whole if whole[name] != found[name]]
    faults += [] if whole["moved"] and whole["steps"] else ["it does not move"]
    faults += [] if found["journal"] else ["the journal is another"]
    return faults, f"{found['before']} rows, checkpoint {found['checkpoint']}"


def main() -> int:
    """Take the cases, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=80)
    parser.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS))
    parser.add_argument("--approximations", nargs="*", default=list(APPROXIMATIONS))
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--mode", default="FAST_COMPILE")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    print(f"PyMC {pm.__version__}, mode {asked.mode}, {2 * asked.n} steps", flush=True)
    bad = done = 0
    for way in asked.ways:
        for approximation in asked.approximations:
            cases = [Case(o, approximation, way, asked.mode, asked.n) for o in asked.optimizers]
            expected = wholes(cases)
            for case in cases:
                faults, where = faults_of(case, expected[case.optimizer])
                done, bad = done + 1, bad + bool(faults)
                words = "; ".join(faults) or "equal bit for bit"
                head = f"{way:6} {approximation:10} {case.optimizer:17}"
                print(f"{head} {where:30} {words}", flush=True)
    print(f"{done - bad} of {done} are the fit that nobody killed, bit for bit")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
