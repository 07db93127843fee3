"""A fit goes back to a good state where something was not finite, and on with a smaller rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitoolkit.by_variable import variables_of
from vitoolkit.checkpoint import all_finite
from vitoolkit.checks import real_number, shown, whole_number
from vitoolkit.controls import LearningRate
from vitoolkit.coordinates import labels_of
from vitoolkit.latents import latents_of
from vitoolkit.requests import CHANGES
from vitoolkit.rewind import Culprit
from vitoolkit.state import State

__all__ = ["Recover", "Recovery", "recover_of"]

NAMED = 6  # coordinates that an event names


class Recover:
    """How a fit goes on after NaN or ±inf.

    It goes back to its last good state, with a smaller learning rate and other draws, and data that
    is not finite any more is what it was; what was left behind is a branch of the trace, and a
    "rollback" among the events names what went first.

    Parameters
    ----------
    factor : float, default 0.5
        The learning rate, or its schedule, is multiplied by it.
    tries : int, default 5
        So often; then the fit ends with PyMC's error and everything saved.
    every : int, default 1000
        States are kept at the steps that are a multiple of it, the last two. It decides where a fit
        goes back to, so that the same seed does the same on any machine.

    Raises
    ------
    TypeError, ValueError
        When a number is not one or out of its range.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(200, recover=vt.Recover(factor=0.1, tries=3), progressbar=False)
    >>> fit.status, len(fit.trace.branches)
    ('finished', 0)
    """

    def __init__(self, factor: float = 0.5, tries: int = 5, every: int = 1_000) -> None:
        self.factor = real_number("factor", factor, above=0, below=1)
        self.tries = whole_number("tries", tries, least=1)
        self.every = whole_number("every", every, least=1, of="steps")

    def __repr__(self) -> str:
        return f"Recover({self.factor!r}, {self.tries!r}, {self.every!r})"


def recover_of(recover: Any) -> Recover | None:
    """What ``recover=`` asks for.

    Raises
    ------
    TypeError
        When it is neither True, False, None nor a Recover.
    """
    if recover is None or recover is False:
        return None
    if recover is True:
        return Recover()
    if not isinstance(recover, Recover):
        raise TypeError(
            f"recover must be True, False or a vitoolkit.Recover, received {shown(recover)}"
        )
    return recover


class Recovery:
    """The good states of a run, and the way back to them.

    Parameters
    ----------
    run : LoopRun
        The run, before its first step.
    recover : Recover
        How.
    """

    def __init__(self, run: Any, recover: Recover) -> None:
        self.recover, self.done = recover, 0
        self._run = run
        self._reads = run.inference.step_function.reads
        self._states: list[_Good] = []
        self._keep()
        run.on_boundary.append(self.look)
        run.on_back.append(self.went_back)

    def look(self, run: Any) -> None:
        """Keep the state of this step, if it is one of those that are kept."""
        if run.step % self.recover.every == 0:
            self._keep()

    def went_back(self, run: Any) -> None:
        """Forget the states that were left behind."""
        kept = [entry for entry in self._states if entry.state.step <= run.common]
        self._states = kept
        if not kept:
            self._keep()

    def _keep(self) -> None:
        state = State.of(self._run)
        if state.checkpoint.finite():
            entry = _Good(state, len(self._run.log), [v.container.storage[0] for v in self._reads])
            self._states = [*self._states[-1:], entry]

    def roll_back(self, culprit: Culprit, terms: Iterable[str]) -> bool:
        """Go back, and on with a smaller learning rate; False when all tries are used up.

        Parameters
        ----------
        culprit : Culprit
            The step that spoiled something.
        terms : iterable of str
            The terms that were not finite, in words.
        """
        run = self._run
        if self.done >= self.recover.tries or not self._states:
            return False
        if self._states[-1].times >= 2 and len(self._states) > 1:  # it is spoiled already, it seems
            spoiled = self._states.pop()
            self._states[-1].times += spoiled.times
        self.done += 1
        entry = self._states[-1]
        entry.times += 1
        state, logged, times = entry.state, entry.logged, entry.times
        by_hand = {e.control for e in run.log[logged:] if e.kind in (*CHANGES, "undo")}
        by_hand -= {e.control for e in run.log[logged:] if e.source == "recover"}
        run.go_back(state, keep=by_hand, generators=culprit.generators)
        rates = [
            c for c in run.controls if isinstance(c, LearningRate) and c.name not in run.unused
        ]
        cuts = []
        for rate in rates:
            before = rate.value
            rate.cut(self.recover.factor ** (1 if rate.name in by_hand else times), run.step)
            cuts.append(f"{rate.name} {before:g} → {rate.value:g}")
        data, step = self._put_data_back(entry), run.inference.step_function
        first = ", ".join([*data, *terms, *_spoiled(run.approx, step.state, culprit)]) or "the loss"
        run.add_event(
            "rollback",
            "recover",
            f"not finite at step {culprit.step:,}: {first}. Back to step {state.step:,}, "
            f"{'; '.join(cuts) or 'no learning rate to cut'} "
            f"({self.done} of {self.recover.tries})",
        )
        run.tell_back()
        return True

    def _put_data_back(self, good: _Good) -> list[str]:
        """Put data that is not finite back to what it was, and tell of which that was done.

        A callback that hands it in is not asked before the first step.
        """
        names = []
        for variable, then in zip(self._reads, good.read, strict=True):
            storage = variable.container.storage
            if storage[0] is not then and not all_finite(storage) and all_finite([then]):
                storage[0] = then
                names.append(f"the data {variable.name!r}")
        return names


@dataclass
class _Good:
    """A state to go back to, what was logged and read by then, and how often it was needed."""

    state: State
    logged: int
    read: list[Any]
    times: int = 0


def _spoiled(approx: Any, state: Mapping[str, Any], culprit: Culprit) -> list[str]:
    """The coordinates whose parameters went first, by name, and the weights."""
    where = {state[f"parameter[{i}]"]: np.array(flat) for i, flat in culprit.spoiled.items()}
    names = [_of_weights(approx, weights) for weights in where if weights not in approx.params]
    try:
        latents = latents_of(approx)
    except TypeError:  # particles: no parameter belongs to a coordinate
        return names
    for latent in latents:
        flat = [
            where[parameter]
            for name, parameter in latent.group.params_dict.items()
            if name in ("mu", "rho") and parameter in where
        ]
        if not flat:
            continue
        here = np.unique(np.concatenate(flat))
        here = here[(here >= latent.where.start) & (here < latent.where.stop)]
        names += labels_of(latent, here - latent.where.start)
    more = len(names) - NAMED
    return [*names[:NAMED], f"{more:,} more"] if more > 0 else names


def _of_weights(approx: Any, weights: Any) -> str:
    """What is trained beside q, and of which variables it makes the q."""
    of = ", ".join(variables_of(approx, weights))
    name = f"the weights {weights.name!r}" if weights.name else "weights without a name"
    return f"{name} of {of}" if of else name
