"""What moves a control when nobody holds it: a schedule, a rule, or a schedule and then a rule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np

from vitoolkit.block import Block
from vitoolkit.requests import Request
from vitoolkit.rules import Rule
from vitoolkit.schedules import Schedule, as_schedule, redirected

__all__ = ["Law", "Parameters"]

#: Returns the parameters of q.
Parameters: TypeAlias = Callable[[], list[np.ndarray]]


class Law:
    """The law of one control.

    Parameters
    ----------
    name : str
        Name of the control, for errors.
    schedule : callable, float or None
        ``step -> value``.
    rule : Rule or None
        With a schedule as well, it has the wheel from the schedule's end on.
    checked : callable
        Returns a value that the control accepts, or raises.

    Raises
    ------
    TypeError, ValueError
        When `schedule` is not one, `rule` is no Rule, or a rule would wait for the end of a
        schedule that has none.
    """

    def __init__(
        self,
        name: str,
        schedule: Callable[[int], float] | float | None,
        rule: Any,
        checked: Callable[[float], float],
    ) -> None:
        self.name, self._checked = name, checked
        self.schedule: Schedule | None = None if schedule is None else as_schedule(schedule)
        if rule is not None and not isinstance(rule, Rule):
            raise TypeError(f"rule of {name!r} must be a vitoolkit Rule, received {rule!r}")
        if rule is not None and self.schedule is not None and self.schedule.steps is None:
            raise ValueError(
                f"the rule of {name!r} would wait for the end of {self.schedule!r}, which has "
                "none: give a schedule with steps=, or only the rule"
            )
        self.rule: Rule | None = rule
        self.start()

    def start(self) -> None:
        """Begin with the schedule again, and with a rule that has not begun."""
        self._begun = False
        self._left = False  # whether the end of the schedule was left, by the rule or a person

    def __repr__(self) -> str:
        return ", then ".join(repr(law) for law in (self.schedule, self.rule) if law is not None)

    def scheduled(self, step: int) -> bool:
        """Whether the schedule says what comes at a step; its end holds until the rule is due."""
        return self.schedule is not None and not (self._left and self._over(step))

    def moves(self, step: int) -> bool:
        """Whether the schedule may say after a step what it does not say at that step."""
        schedule = self.schedule
        return schedule is not None and (schedule.steps is None or step < schedule.steps)

    def _over(self, step: int) -> bool:
        schedule = self.schedule
        if self.rule is None or (schedule is not None and schedule.steps is None):
            return False
        return schedule is None or step >= schedule.steps  # type: ignore[operator]

    def value(self, step: int) -> float:
        """What the schedule says; an error names control and step."""
        assert self.schedule is not None
        try:
            return self._checked(self.schedule(step))
        except Exception as error:
            error.add_note(
                f"raised by the schedule {self.schedule!r} of control {self.name!r} at step {step}"
            )
            raise

    def values(self, first: int, steps: int, bounds: tuple[float, float]) -> np.ndarray:
        """What the schedule says from a step on, as far as all is well.

        Returns
        -------
        numpy.ndarray, shape (up to `steps`,)
        """
        assert self.schedule is not None
        try:
            values = self.schedule.values(first, steps)
        except Exception:
            values = np.full(steps, np.nan)
        if len(values) and values.min() >= bounds[0] and values.max() <= bounds[1]:  # and not NaN
            return values
        good = []
        for step in range(first, first + steps):
            try:
                good.append(self.value(step))
            except Exception:  # raised again, and said, when that step is the next
                break
        return np.array(good)

    def rescheduled(self, request: Request, step: int, value: float) -> Schedule | None:
        """The schedule that a request asks for, which goes on from `value` at `step`."""
        if request.end is None and request.steps is None:
            return request.schedule
        before = as_schedule(value if self.schedule is None else self.schedule)
        end = before.end if request.end is None else request.end
        steps = before.steps if request.steps is None else request.steps
        assert end is not None and steps is not None
        return redirected(before, at=step, value=value, end=end, steps=steps)

    def standing(self) -> dict[str, Any]:
        """Where it stands: its schedule, and what its rule has learned."""
        rule = self.rule
        return {
            "schedule": self.schedule,
            "begun": self._begun,
            "left": self._left,
            "rule": None if rule is None else type(rule).__name__,
            "learned": None if rule is None else copy.deepcopy(vars(rule)),
        }

    def stand(self, found: dict[str, Any]) -> None:
        """Stand there again; `found` is what :meth:`standing` told."""
        self.schedule = found["schedule"]
        self._begun, self._left = found["begun"], found["left"]
        if self.rule is not None:
            vars(self.rule).clear()
            vars(self.rule).update(found["learned"])

    # --- the rule ---------------------------------------------------------------------------------

    def give_back(self, step: int) -> None:
        """Let the rule begin anew, at the value that a person leaves."""
        self._begun, self._left = False, self._over(step)

    def to_end(self, step: int) -> int | None:
        """Steps to the end of the schedule, where the rule begins; None where none waits for it."""
        if self.rule is None or self.schedule is None or self._over(step):
            return None
        return None if self.schedule.steps is None else self.schedule.steps - step

    def check(self, columns: Collection[str]) -> None:
        """Raise where the rule reads what a fit does not record."""
        missing = [] if self.rule is None else [c for c in self.rule.needs if c not in columns]
        if missing:
            hint = "; gradient=True of the inference records it" * missing[0].startswith("gradient")
            raise ValueError(
                f"the rule {self.rule!r} of {self.name!r} reads {missing[0]}, and this fit records "
                f"{', '.join(columns)}{hint}"
            )

    def begin(self, step: int, value: float, bounds: tuple[float, float]) -> None:
        """Let a rule that has the wheel begin at `value`, unless it has."""
        rule, schedule = self.rule, self.schedule
        if rule is None or self._begun or not self._over(step):
            return
        at_end = schedule is not None and not self._left
        rule.bounds = bounds
        rule.begin(schedule.end if at_end else value)  # type: ignore[union-attr, arg-type]
        self._begun = True

    def observe(self, block: Block) -> None:
        """Show a rule that has begun what was recorded."""
        if self.rule is not None and self._begun:
            self.rule.observe(block)

    def decision(
        self, step: int, value: float, bounds: tuple[float, float], parameters: Parameters
    ) -> float | None:
        """What the rule wants from `step` on; None when it is not due, or the schedule is."""
        rule = self.rule
        if rule is None or not self._over(step):
            return None
        if not self._begun:  # and asked when it has seen something
            self.begin(step, value, bounds)
            return None
        if step % rule.every:
            return None
        self._left = True
        if type(rule).look is not Rule.look:
            rule.look(parameters())
        return rule.value(step)
