"""Watchpoints: something is done when what is recorded meets a condition."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vitoolkit.block import Block
from vitoolkit.callback import Callback
from vitoolkit.checks import shown, whole_number
from vitoolkit.rules.rule import Mean
from vitoolkit.run import Run

__all__ = ["watch"]

_COMPARED = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_CLAUSE = re.compile(r"^(?P<name>[^<>=]+?)\s*(?P<how><=|>=|<|>)\s*(?P<bound>[^<>=\s]+)$")
ACTIONS = ("pause", "stop", "note")


class _Clause(NamedTuple):
    name: str
    how: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.how} {self.bound:g}"


class watch(Callback):  # noqa: N801  # reads as a word: callbacks=[vt.watch("kl[z] < 0.1")]
    """Pause, stop, write a note or call a function when a condition comes true.

    Parameters
    ----------
    condition : str
        A column, ``<``, ``<=``, ``>`` or ``>=``, and a number: ``"kl[z] < 0.1"``,
        ``"learning_rate <= 1e-4"``; several are joined by ``and``. Columns are those of the trace
        (nats): loss, data, elbo, ``kl[z]``, the measures, the controls by name; and ``step``. It is
        parsed, never run as code.
    then : {"pause", "stop", "note"} or callable, default "pause"
        What is done, in force from the step on at which it is asked. A function is called in the
        fitting thread as ``then(run)``.
    every : int, default 100
        It is asked at the steps that are a multiple of `every`, about the means since then: a
        single noisy step does nothing, and the same seed does the same on any machine.

    Raises
    ------
    TypeError, ValueError
        When the condition cannot be parsed, or `then` is something else; when a fit starts that
        does not record a column of it.

    Notes
    -----
    It acts when the condition comes true, and again only after it was false. Each time is an event
    of the trace, with source "watch". A mean of nothing finite meets no condition.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> recorder = vt.Recorder()
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     approx = vt.ADVI(random_seed=1).fit(
    ...         500, callbacks=[recorder, vt.watch("step >= 300", then="stop")], progressbar=False
    ...     )
    >>> len(recorder.trace), recorder.trace.events[0].text
    (300, 'step >= 300: step is 300')
    """

    every: int

    def __init__(
        self,
        condition: str,
        then: str | Callable[[Run], Any] = "pause",
        *,
        every: int = 100,
    ) -> None:
        self.clauses = _parsed(condition)
        if not callable(then) and then not in ACTIONS:
            raise ValueError(
                f'then must be "pause", "stop", "note" or a function of the run, '
                f"received {shown(then)}"
            )
        self.then = then
        self.every = whole_number("every", every, least=1, of="steps")
        self._forget()

    def _forget(self) -> None:
        self._met = False
        self._means = [Mean() for _ in self.clauses]

    def on_fit_start(self, run: Run) -> None:
        """Refuse a condition on what is not recorded."""
        self._forget()
        names = [*run.columns, *(control.name for control in run.controls), "step"]
        for clause in self.clauses:
            if clause.name not in names:
                raise ValueError(
                    f"watch({str(self)!r}): this fit records no {clause.name!r}, but "
                    f"{', '.join(names)}"
                )

    def standing(self) -> dict[str, Any]:
        """Whether the condition is true, and the means since it was last asked."""
        means = [vars(mean).copy() for mean in self._means]
        return {"asked": [str(self), self.every], "met": self._met, "means": means}

    def stand(self, run: Run, found: dict[str, Any]) -> None:
        """Go on there, if it was this condition."""
        self._forget()
        if found.get("asked") == [str(self), self.every]:
            self._met = found["met"]
            for mean, told in zip(self._means, found["means"], strict=True):
                vars(mean).update(told)

    def on_block(self, run: Run, block: Block) -> None:
        """Take the means, and act where the condition comes true."""
        for clause, mean in zip(self.clauses, self._means, strict=True):
            if clause.name != "step":
                mean.add(_column(run, block, clause.name))
        if run.step % self.every:
            return
        means = [
            run.step if clause.name == "step" else mean.take()
            for clause, mean in zip(self.clauses, self._means, strict=True)
        ]
        met = all(
            _COMPARED[clause.how](mean, clause.bound)  # False of NaN
            for clause, mean in zip(self.clauses, means, strict=True)
        )
        if met and not self._met:
            self._act(run, means)
        self._met = met

    def _act(self, run: Run, means: list[float]) -> None:
        values = ", ".join(
            f"{clause.name} is {mean:.4g}" for clause, mean in zip(self.clauses, means, strict=True)
        )
        run.add_event("note", "watch", f"{self}: {values}")
        if callable(self.then):
            self.then(run)
        elif self.then == "pause":
            run.pause(source="watch")
        elif self.then == "stop":
            run.stop(source="watch")

    def __str__(self) -> str:
        return " and ".join(map(str, self.clauses))

    def __repr__(self) -> str:
        return f"watch({str(self)!r}, then={self.then!r})"


def _parsed(condition: Any) -> tuple[_Clause, ...]:
    if not isinstance(condition, str):
        raise TypeError(f"a condition is text such as 'kl[z] < 0.1', received {shown(condition)}")
    clauses = []
    for part in re.split(r"\s+and\s+", condition.strip()):
        found = _CLAUSE.match(part.strip())
        try:
            bound = float(found["bound"]) if found else float("nan")
        except ValueError:
            bound = float("nan")
        if found is None or np.isnan(bound):
            raise ValueError(
                "a condition is a column, <, <=, > or >=, and a number, such as 'kl[z] < 0.1' "
                f"(several joined by 'and'), received {shown(condition)}"
            )
        clauses.append(_Clause(found["name"].strip(), found["how"], bound))
    return tuple(clauses)


def _column(run: Run, block: Block, name: str) -> np.ndarray:
    for i, control in enumerate(run.controls):
        if control.name == name and i < block.control.shape[1]:
            return block.control[:, i]
    return block.column(name)
