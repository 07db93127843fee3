"""What was done to a fit, as marks on a chart."""

import re

import numpy as np

import vitoolkit as vt
from vitoolkit.views.marks import Marks, acts_of


def test_a_drag_is_one_mark():
    def event(step, time, kind="set", control="beta", source="user"):
        return vt.Event(step, time, kind, control, 1.0, 2.0, source)

    drag = [event(1000 + 40 * i, 1 + 0.1 * i) for i in range(30)]
    later = [event(5000, 9.0), event(6000, 9.2, control="rate"), event(7000, 12, "stop", None)]
    by_schedule = [event(3000, 7.0, source="schedule")]
    noted = vt.Event(8000, 20.0, "note", text="β was too large", source="user")
    marks = Marks().of([*drag, *by_schedule, *later, noted])
    assert [step for step, _ in marks] == [1000, 5000, 6000, 7000, 8000]
    assert [text for _, text in marks] == [
        "beta 1 → 2 in 30 moves, by user", "beta 1 → 2, by user", "rate 1 → 2, by user",
        "stop, by user", "note: β was too large, by user",
    ]  # fmt: skip


def an_event(step, time, source="user", kind="set", control="beta", old=1.0, new=2.0):
    return vt.Event(step, time, kind, control, old, new, source)


def test_changes_by_code_are_each_their_own():
    """Two of them 3,000 steps apart once were '0.001 → 0.001 in 2 moves'."""
    for source in ("code", "rule"):
        first = an_event(1000, 0.10, source, old=1e-3, new=1e-2)
        second = an_event(4000, 0.15, source, old=1e-2, new=1e-3)
        marks = Marks().of([first, second])
        assert marks == [
            (1000.0, f"beta 0.001 → 0.01, by {source}"),
            (4000.0, f"beta 0.01 → 0.001, by {source}"),
        ]


def test_a_drag_is_over_when_something_else_is_done_to_the_control():
    for other in (
        an_event(20, 0.2, "code"),
        an_event(20, 0.2, kind="release"),
        an_event(20, 0.2, kind="undo"),
    ):
        acts = acts_of([an_event(10, 0.1), other, an_event(30, 0.3), an_event(40, 0.4)])
        assert [(act.step, act.moves) for act in acts] == [(10, 1), (20, 1), (30, 2)]
    other = an_event(20, 0.2, control="rate")  # a hand on each of two sliders
    acts = acts_of([an_event(10, 0.1), other, an_event(30, 0.3)])
    assert [(act.event.control, act.moves) for act in acts] == [("beta", 2), ("rate", 1)]
    moves = [an_event(10, 0.0), an_event(20, 1.4), an_event(30, 2.8), an_event(40, 4.4)]
    assert [act.moves for act in acts_of(moves)] == [3, 1]  # a moment is over


def test_what_was_done_at_other_steps_is_a_mark_of_its_own_however_near():
    """Within 0.4 % of the axis they once shared one."""
    first, second = an_event(1000, 0.1, "code"), an_event(1003, 0.2, "code")
    assert Marks().of([first, second]) == [
        (1000.0, "beta 1 → 2, by code"),
        (1003.0, "beta 1 → 2, by code"),
    ]


def test_what_was_done_at_one_step_is_one_mark():
    names = ["a", "b", "c", "d", "e", "f"]
    (mark,) = Marks().of([an_event(7, 0.1, "code", control=name) for name in names])
    told = "; ".join(f"{name} 1 → 2, by code" for name in names[:4])
    assert mark == (7.0, f"{told}; and 2 more")


def test_marks_that_are_too_many_say_how_many_more_they_stand_for():
    events = [an_event(100 * i, 1.0 * i, "code") for i in range(1000)]
    marks = Marks(most=60).of(events)
    assert 15 <= len(marks) <= 60
    more = [re.fullmatch(r"beta 1 → 2, by code; and (\d+) more up to step ([\d,]+)", text)
            for _, text in marks]  # fmt: skip
    assert sum(int(match[1]) for match in more) + len(marks) == 1000
    ends = [int(match[2].replace(",", "")) for match in more]
    assert [step for step, _ in marks] == [0, *(end + 100 for end in ends[:-1])]
    assert ends[-1] == 99_900
    back = [an_event(step, 1.0 * i, "code") for i, step in enumerate(range(1000, 0, -1))]
    assert len(Marks().of(back)) <= 80  # as after many a rewind
    assert all(len(text) <= 160 for _, text in Marks(most=1).of(
        [vt.Event(i, 2.0 * i, "note", text="long words " * 30) for i in range(9)]
    ))  # fmt: skip


def test_the_marks_of_events_that_grow_are_those_of_all_events():
    kinds = ["user", "user", "code", "schedule", "user"]
    rng, events, step, time = np.random.default_rng(0), [], 0, 0.0
    for _ in range(400):
        step, time = step + int(rng.choice([0, 1, 30, 400])), time + float(rng.choice([0.1, 2.0]))
        control = str(rng.choice(["beta", "rate"]))
        events.append(an_event(step, time, str(rng.choice(kinds)), control=control))
    marks = Marks()
    for stop in (0, 7, 8, 8, 100, 399, 400, 200, 210):  # rows that were taken out take events along
        got = marks.of(tuple(events[:stop]))
        assert got == Marks().of(events[:stop])
    assert 20 < len(Marks().of(events)) <= 80
