"""Fits that a test kills: ``python runs.py KIND JOURNAL N [resume]``, and the same in a process."""

import sys

import numpy as np
import pymc as pm
from models import regression, two_gaussians

import vitoolkit as vt

N = 400
KINDS = ("minibatch", "full-rank", "single", "fused")


def model_of(kind):
    if kind == "full-rank":
        return two_gaussians()
    return regression(minibatch=kind in ("minibatch", "fused"))


def steps_of(kind):
    """Steps of a whole fit."""
    return 50_000 if kind == "fused" else N


def options_of(kind):
    """Options of a fit of each kind; those that no file can hold are a dict of their own."""
    mode = {} if kind == "fused" else {"compile_kwargs": {"mode": "FAST_COMPILE"}}
    plain = {"random_seed": 3, "progressbar": False, **mode}
    if kind in ("minibatch", "fused"):
        linear = vt.schedules.linear(0.0, 1.0, steps=100)
        rules = {"beta": vt.Beta(schedule=linear, rule=vt.rules.kl_target("w", 9.0, every=20))}
        plateau = vt.rules.reduce_on_plateau(patience=160, every=20)
        rules["learning_rate"] = vt.LearningRate(0.05, rule=plateau)
        steps = "auto" if kind == "fused" else 7
        return plain | {"optimizer": pm.adam(beta1=0.8), "steps_per_execution": steps}, rules
    if kind == "full-rank":
        return plain | {"method": "fullrank_advi", "beta": {"z": 2.0}, "optimizer": pm.adamax}, {}
    rate = vt.schedules.cosine(0.05, 0.001, steps=N)
    return plain | {"learning_rate": rate, "steps_per_execution": 1, "every": 3}, {}


def parameters(fit):
    return [np.array(p.get_value()) for p in fit.approx.params]


def begun(kind, journal, n=None, **more):
    plain, others = options_of(kind)
    return vt.fit(
        n or steps_of(kind), model=model_of(kind), record=journal, **plain, **others, **more
    )


def resumed(kind, journal, **more):
    _, others = options_of(kind)
    return vt.resume(journal, model=model_of(kind), progressbar=False, **others, **more)


class Slowly(vt.Callback):
    """Takes seconds, so that there is time to be killed."""

    def on_compiled(self, run):
        run.limit(60.0)


if __name__ == "__main__":
    kind, path, n, *how = sys.argv[1:]
    journal = vt.Journal(path, seconds=0.05)
    if how == ["slowly"]:
        fit = begun(kind, journal, int(n), callbacks=Slowly())
    else:
        fit = resumed(kind, journal) if how else begun(kind, journal, int(n))
    print(fit.status, len(fit.trace))
