"""Fits that a test kills: ``python runs.py KIND JOURNAL N [resume]``, and the same in a process."""

import sys

import numpy as np
import pymc as pm
from models import regression, two_gaussians

import vitoolkit as vt

N = 400
KINDS = ("minibatch", "full-rank", "single")


def model_of(kind):
    return two_gaussians() if kind == "full-rank" else regression(minibatch=kind == "minibatch")


def options_of(kind, fast=True):
    """Options of a fit of each kind; those that no file can hold are a dict of their own."""
    mode = {"compile_kwargs": {"mode": "FAST_COMPILE"}} if fast else {}
    plain = {"random_seed": 3, "progressbar": False, **mode}
    if kind == "minibatch":
        linear = vt.schedules.linear(0.0, 1.0, steps=100)
        rules = {"beta": vt.Beta(schedule=linear, rule=vt.rules.kl_target("w", 9.0, every=20))}
        plateau = vt.rules.reduce_on_plateau(patience=160, every=20)
        rules["learning_rate"] = vt.LearningRate(0.05, rule=plateau)
        return plain | {"optimizer": pm.adam(beta1=0.8), "steps_per_execution": 7}, rules
    if kind == "full-rank":
        return plain | {"method": "fullrank_advi", "beta": {"z": 2.0}, "optimizer": pm.adamax}, {}
    rate = vt.schedules.cosine(0.05, 0.001, steps=N)
    return plain | {"learning_rate": rate, "steps_per_execution": 1, "every": 3}, {}


def parameters(fit):
    return [np.array(p.get_value()) for p in fit.approx.params]


def begun(kind, journal, n=N, **more):
    plain, others = options_of(kind)
    return vt.fit(n, model=model_of(kind), record=journal, **plain, **others, **more)


def resumed(kind, journal, **more):
    _, others = options_of(kind)
    return vt.resume(journal, model=model_of(kind), progressbar=False, **others, **more)


if __name__ == "__main__":
    kind, path, n, *how = sys.argv[1:]
    journal = vt.Journal(path, seconds=0.05)
    fit = resumed(kind, journal) if how else begun(kind, journal, int(n))
    print(fit.status, len(fit.trace))
