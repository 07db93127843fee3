"""Traces made of numbers and a fit that takes no steps, shared by the tests of what is drawn."""

import numpy as np

import vitoolkit as vt
from vitoolkit.steered import Steered


def a_trace(variables=("z", "w"), controls=("beta",), rows=1000, measures=()):
    """A loss that falls and terms around 5, with a control that rises."""
    rng = np.random.default_rng(0)
    trace = vt.Trace(variables, controls, measures=measures)
    step = np.arange(rows)
    trace.extend(
        step,
        step * 1e-3,
        100 * np.exp(-step / 200) + rng.normal(size=rows),
        rng.normal(5, 1, size=(rows, 1 + len(variables) + len(measures))),
        np.linspace(0.1, 1, rows)[:, None] * np.ones(len(controls)),
    )
    return trace


def a_fit(beta, step=7):
    """A running fit that holds a control, and whose ``boundary()`` is that between two steps."""

    class Fit(Steered):
        def boundary(self):
            if self.asked and self._paused is None:
                self.heed(lambda: None)
            beta.advance(self.step)

    fit = Fit([beta], step)
    fit.inference, fit.status = "a fit", "running"
    beta.bind(fit)
    return fit
