"""Models that tests sweep over: in a module, so that a process of Dask can import them."""

import numpy as np
import pymc as pm

import vitoolkit as vt

N = 1_000


class Slowly(vt.Callback):
    """Takes seconds, so that there is time to be killed."""

    def on_compiled(self, run):
        run.limit(200.0)


def build():
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    y = 2.0 * x + rng.normal(size=500)
    with pm.Model() as model:
        rows = pm.Minibatch(x, y, batch_size=50)
        w = pm.Normal("w", shape=1)
        sd = pm.HalfNormal("sd")
        pm.Normal("y", w * rows[0], sd, observed=rows[1], total_size=500)
    return model, {"callbacks": [Slowly()]}
