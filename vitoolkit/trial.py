"""Steps on trial: they are taken, looked at, and undone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from vitoolkit.checkpoint import Checkpoint
from vitoolkit.inference import KLqp
from vitoolkit.points import Points
from vitoolkit.steps import counter_of

__all__ = ["without_trail"]


@contextlib.contextmanager
def without_trail(inference: KLqp) -> Iterator[None]:
    """Steps taken inside leave no trail: all is as it was before, bit for bit.

    Parameters, the optimizer's state, random generators, the clock, ``hist`` and the values of
    the controls are put back at the end. A callback that records does so still; list none.

    Parameters
    ----------
    inference : KLqp
        An inference whose step is compiled.

    Raises
    ------
    TypeError
        When nothing was compiled: call ``fit(0)`` first.
    RuntimeError
        While the inference is in a running fit.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> from vitoolkit.trial import without_trail
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     inference = vt.ADVI(random_seed=1)
    >>> approx = inference.fit(10, progressbar=False)
    >>> with without_trail(inference):
    ...     approx = inference.refine(50, progressbar=False, callbacks=[])
    >>> inference.steps_taken, len(inference.hist)
    (10, 10)
    """
    if inference.state is None:
        raise TypeError("only what was compiled can be tried: call fit(0) first")
    if inference.run is not None and inference.run.running:
        raise RuntimeError("the inference is in a running fit: wait for its end")
    counter, step = counter_of(inference.approx), inference.state.step
    saved = Checkpoint.of(step.state)
    before = (counter.step, inference.hist, inference.approx.hist, inference.state, inference.run)
    controls = {control: control.__getstate__() for control in step.controls}
    rules = [c.rule for c in step.controls if c.rule is not None]
    learned = [copy.deepcopy(vars(rule)) for rule in rules]
    points, there = inference.points, inference.goes_on_from
    inference.points, inference.goes_on_from = Points(), None
    try:
        yield
    finally:
        inference.points, inference.goes_on_from = points, there
        saved.restore(step.state)
        counter.step, inference.hist, inference.approx.hist, inference.state, inference.run = before
        for control, state in controls.items():
            control.put_back(state)
        for rule, state in zip(rules, learned, strict=True):
            vars(rule).clear()
            vars(rule).update(state)
