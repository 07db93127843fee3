"""Traces made of numbers and a fit that takes no steps, shared by the tests of what is drawn."""

import numpy as np

import vitoolkit as vt
from vitoolkit.run import Run


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


class Trained:
    """What a run needs to know of an inference."""

    variables = parts = measures = ()

    def __init__(self):
        self.approx = type("Approx", (), {})  # something that can be weakly held


def a_fit(beta, step=7):
    """A running fit that holds a control, and whose ``boundary()`` is that between two steps."""

    class Fit(Run):
        def boundary(self):
            if self.asked and self.status != "paused":
                self._take()
            beta.advance(self.step)

    fit = Fit(Trained(), 100, [], [beta])
    fit.step, fit.status = step, "running"
    fit.bind()
    return fit
