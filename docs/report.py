"""A small fit, and its report as a page: what the gallery shows."""

import sys

import numpy as np
import pymc as pm

import vitoolkit as vt

rng = np.random.default_rng(3)
group = np.repeat(np.arange(8), 12)
truth = rng.normal(0.0, 1.0, 8)
y = rng.normal(truth[group], 1.5)

with pm.Model(coords={"group": [f"group {i}" for i in range(8)]}):
    center = pm.Normal("center", 0.0, 2.0)
    spread = pm.HalfNormal("spread", 1.0)
    effect = pm.Normal("effect", center, spread, dims="group")
    noise = pm.HalfNormal("noise", 2.0)
    pm.Normal("y", effect[group], noise, observed=y)
    beta = vt.Beta(schedule=vt.schedules.cyclical(0.0, 1.0, steps=4_000, cycles=2))
    lr = vt.LearningRate(schedule=vt.schedules.cosine(3e-2, 1e-3, steps=8_000))
    dashboard = vt.Dashboard(beta, lr)
    pm.fit(
        8_000,
        method=vt.ADVI(beta=beta, random_seed=1),
        obj_optimizer=pm.adam(learning_rate=lr),
        callbacks=[dashboard],
        progressbar=False,
    )
dashboard.to_html(sys.argv[1])
