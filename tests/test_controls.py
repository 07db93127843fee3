import math
import threading

import numpy as np
import pymc as pm
import pytensor
import pytest
from pymc.variational.inference import KLqp as PyMCKLqp

from vitoolkit import ADVI, Beta, Control, LearningRate, Recorder, schedules
from vitoolkit.controls import distinct_controls, future_of


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-0.1, ValueError, r"beta must be in \[0, 10\], received -0.1"),
        (10.5, ValueError, r"received 10.5"),
        (math.nan, ValueError, "NaN"),
        (math.inf, ValueError, r"\[0, 10\], received inf"),
        ("1", TypeError, "real number, received '1'"),
        (None, TypeError, "received None"),
        (True, TypeError, "received True"),
        (1j, TypeError, "real number"),
        ([1.0, 2.0], TypeError, "real number"),
    ],
)
def test_bad_values_are_refused_and_change_nothing(value, error, message):
    beta = Beta(2.0)
    with pytest.raises(error, match=message):
        beta.set(value)
    assert (beta.value, beta.manual, beta.pending) == (2.0, False, None)


@pytest.mark.parametrize("value", [0, 10, np.float32(0.5), np.int64(3), np.array(0.25)])
def test_bounds_belong_to_the_range_and_numpy_numbers_are_numbers(value):
    beta = Beta()
    beta.set(value)
    assert beta.value == float(value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bounds": (1.0, 0.0)}, ValueError, "must increase"),
        ({"bounds": (0.0,)}, TypeError, "pair"),
        ({"bounds": (math.nan, 1.0)}, ValueError, "NaN"),
        ({"bounds": (-1.0, 1.0)}, ValueError, "cannot be negative"),
        ({"schedule": "linear"}, TypeError, "schedule|callable"),
        ({"schedule": schedules.constant(11.0)}, ValueError, r"\[0, 10\]"),
        ({"name": ""}, TypeError, "non-empty string"),
        ({"shared": pytensor.shared(1)}, TypeError, "float"),
        ({"shared": pytensor.shared(np.ones(2))}, TypeError, "1 dimensions"),
    ],
)
def test_bad_arguments_are_refused_when_the_control_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        Beta(**{"value": 0.5, **arguments})


def test_a_learning_rate_needs_positive_bounds():
    with pytest.raises(ValueError, match="positive on a log scale"):
        LearningRate(bounds=(0.0, 1.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shared_variable_is_floatx_even_from_an_integer(dtype):
    with pytensor.config.change_flags(floatX=dtype):
        beta = Beta(1)
    assert beta.shared.dtype == dtype
    beta.set(0.1)
    assert beta.value == float(np.dtype(dtype).type(0.1)) == float(beta.shared.get_value())


def test_outside_a_fit_a_value_is_in_force_at_once_and_manual_until_released():
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=10))
    assert (beta.value, beta.manual) == (0.0, False)
    beta.set(4.0)
    assert (beta.value, beta.manual, float(beta.shared.get_value())) == (4.0, True, 4.0)
    beta.release()
    assert not beta.manual
    assert beta.advance(5) == 0.5


def test_an_existing_shared_variable_can_be_controlled():
    shared = pytensor.shared(np.asarray(0.3), name="mine")
    control = Control(shared=shared)
    control.set(0.7)
    assert float(shared.get_value()) == 0.7


def test_repr_says_value_schedule_and_who_steers():
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=10))
    assert repr(beta) == "<Beta 'beta' = 0, on linear(0.0, 1.0, steps=10), bounds [0, 10]>"
    beta.set(2.5)
    assert "= 2.5, manual" in repr(beta)


def test_two_controls_of_one_variable_are_named_in_the_error():
    shared = pytensor.shared(np.asarray(1.0))
    with pytest.raises(ValueError, match="two writers.*'first' and 'second'"):
        distinct_controls(
            [Control(shared=shared, name="first"), Control(shared=shared, name="second")]
        )


def test_two_controls_of_one_name_are_refused_and_one_control_twice_is_not():
    beta = Beta()
    assert distinct_controls([beta, beta]) == (beta,)
    with pytest.raises(ValueError, match="two controls are named 'beta'"):
        distinct_controls([beta, Beta()])


def test_a_write_past_the_control_is_an_error_that_says_so():
    beta = Beta(1.0)
    beta.shared.set_value(np.asarray(3.0))
    with pytest.raises(RuntimeError, match="two writers.*'beta' wrote 1.*wrote 3"):
        beta.advance(1)


def test_a_schedule_that_fails_in_mid_fit_names_the_control_and_the_step(gaussians, fast):
    beta = Beta(schedule=lambda step: 0.5 if step < 3 else -1.0)
    recorder = Recorder()
    with pytest.raises(ValueError, match=r"beta must be in \[0, 10\], received -1") as caught:
        ADVI(beta=beta).fit(10, callbacks=[recorder], **fast)
    assert "control 'beta' at step 3" in caught.value.__notes__[0]
    assert len(recorder.trace) == 3


# --- in a fit of PyMC's own inference ---------------------------------------------------------


def test_a_schedule_under_pymc_is_exact_over_fit_and_refine(gaussians, fast):
    ramp = schedules.linear(0.0, 1.0, steps=8)
    beta = Beta(schedule=ramp)
    recorder = Recorder(beta)
    inference = PyMCKLqp(pm.MeanField(), beta=beta.shared)
    inference.fit(5, callbacks=[beta, recorder, beta], **fast)  # twice is harmless
    inference.refine(4, progressbar=False)
    np.testing.assert_array_equal(recorder.trace.step, np.arange(9))
    np.testing.assert_array_equal(recorder.trace.control["beta"], [k / 8 for k in range(9)])


@pytest.mark.parametrize("first", ["user", "recorder"])
def test_a_value_set_in_a_callback_under_pymc_leaves_the_row_true(gaussians, fast, first):
    beta = Beta(1.0)
    recorder = Recorder(beta)
    truth = []  # what the shared variable held while the step ran
    inference = PyMCKLqp(pm.MeanField(), beta=beta.shared)

    def user(approx, losses, i):
        if i == 3:
            beta.set(4.0)

    callbacks = [user, recorder] if first == "user" else [recorder, user]
    held = [float(beta.shared.get_value())]

    def last(approx, losses, i):
        truth.append(held[0])
        held[0] = float(beta.shared.get_value())

    inference.fit(6, callbacks=[*callbacks, last], **fast)
    np.testing.assert_array_equal(recorder.trace.control["beta"], truth)
    assert truth[2] == 1.0
    assert truth[-1] == 4.0
    assert [event.new for event in recorder.trace.events] == [4.0]


def test_set_after_a_pymc_fit_is_in_force_at_once(gaussians, fast):
    beta = Beta(1.0)
    PyMCKLqp(pm.MeanField(), beta=beta.shared).fit(3, callbacks=[beta], **fast)
    beta.set(0.5)
    assert beta.value == 0.5
    recorder = Recorder(beta)
    PyMCKLqp(pm.MeanField(), beta=beta.shared).fit(2, callbacks=[recorder], **fast)
    np.testing.assert_array_equal(recorder.trace.control["beta"], [0.5, 0.5])


def test_a_second_pymc_fit_that_starts_off_schedule_warns_and_reset_cures_it(gaussians, fast):
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=4))
    PyMCKLqp(pm.MeanField(), beta=beta.shared).fit(5, callbacks=[beta], **fast)
    with pytest.warns(RuntimeWarning, match=r"step 0 of this fit used beta = 1.*call beta.reset"):
        PyMCKLqp(pm.MeanField(), beta=beta.shared).fit(2, callbacks=[beta], **fast)
    beta.reset()
    recorder = Recorder(beta)
    PyMCKLqp(pm.MeanField(), beta=beta.shared).fit(3, callbacks=[recorder], **fast)
    np.testing.assert_array_equal(recorder.trace.control["beta"], [0.0, 0.25, 0.5])


# --- in a fit of ours -------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["user", "recorder"])
def test_set_in_the_callback_of_step_k_is_in_force_from_k_plus_1(gaussians, fast, first):
    beta = Beta(1.0)
    recorder = Recorder()
    inference = ADVI(beta=beta, random_seed=1)
    functions = []

    def user(approx, losses, i):
        functions.append(inference.step_function)
        if i - 1 == 4:
            beta.set(4.0)
            assert (beta.value, beta.pending) == (1.0, 4.0)

    callbacks = [user, recorder] if first == "user" else [recorder, user]
    inference.fit(8, callbacks=callbacks, **fast)
    np.testing.assert_array_equal(recorder.trace.control["beta"], [1, 1, 1, 1, 1, 4, 4, 4])
    assert all(function is functions[0] for function in functions)
    assert functions[0] is inference.state.step
    (event,) = recorder.trace.events
    assert (event.step, event.kind, event.control, event.old) == (5, "set", "beta", 1.0)


def test_release_gives_the_wheel_back_to_the_schedule(gaussians, fast):
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=10))
    recorder = Recorder()

    def user(approx, losses, i):
        if i == 3:
            beta.set(5.0, source="user")
        if i == 6:
            beta.release(source="user")

    ADVI(beta=beta).fit(10, callbacks=[recorder, user], **fast)
    expected = [0.0, 0.1, 0.2, 5, 5, 5, 0.6, 0.7, 0.8, 0.9]
    np.testing.assert_allclose(recorder.trace.control["beta"], expected, rtol=1e-15)
    kinds = [(e.step, e.kind, e.source) for e in recorder.trace.events]
    assert kinds == [(3, "set", "user"), (6, "release", "user")]


def test_a_value_from_another_thread_arrives_and_only_the_fit_writes(gaussians, fast):
    beta = Beta(1.0)
    recorder = Recorder()
    written = []

    def user(approx, losses, i):
        if i == 3:
            thread = threading.Thread(target=beta.set, args=(2.0,), kwargs={"source": "user"})
            thread.start()
            thread.join()
            written.append(float(beta.shared.get_value()))

    ADVI(beta=beta).fit(6, callbacks=[recorder, user], **fast)
    assert written == [1.0]
    np.testing.assert_array_equal(recorder.trace.control["beta"], [1, 1, 1, 2, 2, 2])


def test_one_control_in_two_running_fits_is_an_error(gaussians, fast):
    beta = Beta(1.0)

    def nested(approx, losses, i):
        ADVI(beta=beta).fit(2, **fast)

    with pytest.raises(RuntimeError, match="'beta' is steered by a running fit"):
        ADVI(beta=beta).fit(2, callbacks=[nested], **fast)
    ADVI(beta=beta).fit(2, **fast)  # free again


def test_a_control_is_used_again_by_the_next_fit_from_the_start_of_its_schedule(gaussians, fast):
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=4))
    for _ in range(2):
        recorder = Recorder()
        ADVI(beta=beta).fit(5, callbacks=[recorder], **fast)
        np.testing.assert_array_equal(recorder.trace.control["beta"], [0, 0.25, 0.5, 0.75, 1])


def test_replaying_the_events_of_a_steered_fit_gives_the_same_losses(gaussians, fast):
    def fit(steer):
        beta, recorder = Beta(1.0), Recorder()
        inference = ADVI(beta=beta, random_seed=3)
        inference.fit(12, callbacks=[recorder, lambda a, _, i: steer(beta, i)], **fast)
        return recorder.trace

    first = fit(lambda beta, i: beta.set(i / 4) if i in (3, 7) else None)
    events = {event.step: event.new for event in first.events}
    again = fit(lambda beta, i: beta.set(events[i]) if i in events else None)
    np.testing.assert_array_equal(first.loss, again.loss)


# --- what is to come --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", [0, 6, 9, 10, 30])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_plan_is_the_values_of_single_steps(steps, first, dtype):
    def late(step):
        return 0.1 if step < 12 else 1 / 0

    def outside(step):
        return step / 14

    for schedule in (None, schedules.cosine(0.1, 0.9, steps=10), late, outside):
        one, two = (
            Control(0.3, bounds=(0.0, 1.0), schedule=schedule, shared=pytensor.shared(zero))
            for zero in np.zeros((2,), dtype)
        )
        single, planned = [], np.full(steps, np.nan)
        for step in range(first, first + steps):
            try:
                single.append(one.advance(step))
            except (ValueError, ZeroDivisionError):
                break
        if not single:
            with pytest.raises((ValueError, ZeroDivisionError)):
                two.plan(first, planned)
            continue
        assert two.plan(first, planned) == len(single)
        assert planned[: len(single)].tolist() == single


def test_the_future_of_a_schedule_is_its_values_spread_over_the_coming_steps():
    ramp = schedules.cosine(0.0, 1.0, steps=1_000)
    steps, values = future_of(Beta(schedule=ramp), 300, 100_000, points=50)
    assert (steps[0], steps[-1], len(steps)) == (300, 100_000, 50)
    assert values.tolist() == [ramp(step) for step in steps.tolist()]
    steps, values = future_of(Beta(schedule=ramp), 5, 8, points=50)
    assert steps.tolist() == [5, 6, 7, 8]


def test_the_future_has_a_gap_where_a_schedule_fails_and_is_empty_without_one():
    def bad(step):
        if 10 <= step < 20:
            raise ZeroDivisionError
        return step / 2 if step < 30 else math.nan

    steps, values = future_of(Beta(schedule=bad), 0, 40, points=41)
    good = (steps < 10) | (steps == 20)  # from 20 on beyond the bounds, from 30 on not a number
    assert (np.isfinite(values) == good).all()
    for empty in (future_of(Beta(1.0), 0, 10), future_of(Beta(schedule=bad), 5, 4)):
        assert [len(part) for part in empty] == [0, 0]


# --- another schedule in mid-fit, and undo ------------------------------------------------------


def steered(n, steps, acts, fast, **kwargs):
    """A fit with one β that calls ``acts[k](beta, run)`` between the steps k - 1 and k."""
    beta, recorder = Beta(**kwargs), Recorder()
    inference = ADVI(beta=beta, random_seed=3, steps_per_execution=steps)

    class Act(Recorder):
        def on_block(self, run, block):
            super().on_block(run, block)
            for k in range(block.first + 1, run.step + 1):
                if k in acts:
                    acts[k](beta, run)

    alone = [] if steps > 1 else [lambda *_: None]  # with it, a block is one step
    inference.fit(n, callbacks=[Act(), recorder, *alone], **fast)
    return beta, recorder.trace


MANY = pytest.mark.parametrize("steps", [1, 5], ids=["one step a call", "fused"])


@MANY
def test_reschedule_goes_on_from_the_value_of_the_step(gaussians, fast, steps):
    ramp = schedules.linear(0.0, 1.0, steps=20)
    acts = {5: lambda beta, run: beta.reschedule(end=2.0, steps=30, source="user")}
    _, trace = steered(35, steps, acts, fast, schedule=ramp)
    (event,) = trace.events
    at = event.step
    expected = schedules.redirected(ramp, at=at, value=ramp(at), end=2.0, steps=30)
    assert at >= 5
    np.testing.assert_array_equal(trace.control["beta"], expected.values(0, 35))
    assert event._replace(time=0.0)[:8] == (
        at, 0.0, "reschedule", "beta", 1.0, 2.0, "user", repr(expected),
    )  # fmt: skip


@MANY
def test_a_schedule_assigned_in_mid_fit_is_an_event_and_has_the_wheel(gaussians, fast, steps):
    new = schedules.cosine(1.0, 0.5, steps=30)

    def act(beta, run):
        beta.set(4.0)
        beta.schedule = new

    beta, trace = steered(30, steps, {5: act}, fast, value=1.0)
    kinds = [event.kind for event in trace.events]
    assert kinds == ["set", "reschedule"]
    at = trace.events[1].step
    np.testing.assert_array_equal(trace.control["beta"][at:], new.values(at, 30 - at))
    assert (beta.schedule, beta.manual) == (new, False)


def test_a_manual_value_is_where_a_new_end_starts_from(gaussians, fast):
    acts = {
        5: lambda beta, run: beta.set(4.0),
        10: lambda beta, run: beta.reschedule(end=0.0, steps=20),
    }
    with pytest.warns(UserWarning, match="beta ended at 0"):
        _, trace = steered(25, 1, acts, fast, schedule=schedules.linear(0.0, 1.0, steps=20))
    at = trace.events[1].step
    values = trace.control["beta"]
    assert values[at - 1] == values[at] == 4.0
    np.testing.assert_allclose(values[at:20], np.linspace(4.0, 0.0, 21 - at)[:-1], rtol=1e-12)
    assert (values[20:] == 0.0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "give end=, steps= or both"),
        ({"end": 11.0}, ValueError, r"\[0, 10\], received 11"),
        ({"steps": 2.5}, TypeError, "whole number of steps, received 2.5"),
        ({"steps": 0}, ValueError, "must be more than 0, the step that comes next"),
    ],
)
def test_bad_reschedules_change_nothing(arguments, error, message):
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=20))
    with pytest.raises(error, match=message):
        beta.reschedule(**arguments)
    with pytest.raises(ValueError, match="give both end= and steps="):
        Beta(1.0).reschedule(end=2.0)
    assert beta.advance(10) == 0.5


def test_reschedule_before_a_fit_begins_with_its_first_step(gaussians, fast):
    beta, recorder = Beta(1.0), Recorder()
    beta.reschedule(end=2.0, steps=4)
    ADVI(beta=beta).fit(6, callbacks=[recorder], **fast)
    assert recorder.trace.control["beta"].tolist() == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]


@MANY
def test_undo_walks_back_over_values_schedules_and_who_has_the_wheel(gaussians, fast, steps):
    ramp = schedules.linear(0.0, 1.0, steps=70)
    acts = {
        10: lambda beta, run: beta.set(4.0),
        20: lambda beta, run: beta.release(),
        30: lambda beta, run: beta.reschedule(end=5.0),
        40: lambda beta, run: [run.undo(source="user"), run.undo(source="user")],
        50: lambda beta, run: run.undo(source="user"),
        60: lambda beta, run: undone.append((run.can_undo, run.undo())),
    }
    undone = []
    beta, trace = steered(70, steps, acts, fast, schedule=ramp)
    assert undone == [(False, False)]
    values = trace.control["beta"]
    kinds = [(event.kind, event.text) for event in trace.events]
    assert kinds[3:] == [("undo", "reschedule"), ("undo", "release"), ("undo", "set")]
    first, second, third = trace.events[3:]
    assert first.step == second.step and (first.source, second.new) == ("user", 4.0)
    assert (values[second.step : third.step] == 4.0).all()
    np.testing.assert_array_equal(values[third.step :], ramp.values(third.step, 70 - third.step))
    assert (beta.schedule, beta.manual) == (ramp, False)


def test_undo_takes_back_the_last_control_that_was_changed_and_a_drag_as_a_whole(gaussians, fast):
    betas = {"z": Beta(1.0, name="a"), "w": Beta(1.0, name="b")}
    recorder = Recorder()

    def user(approx, losses, i):
        if i in (3, 4, 5):
            betas["z"].set(float(i), source="user")
        if i == 6:
            betas["w"].set(7.0, source="user")
        if i in (10, 12, 14):
            undone.append(inference.run.undo())

    undone = []
    inference = ADVI(beta=betas)
    inference.fit(20, callbacks=[recorder, user], **fast)
    assert undone == [True, True, False]
    trace = recorder.trace
    assert [(e.step, e.control) for e in trace.events if e.kind == "undo"] == [(10, "b"), (12, "a")]
    assert trace.control["a"].tolist() == [1.0] * 3 + [3.0, 4.0] + [5.0] * 7 + [1.0] * 8
    assert trace.control["b"].tolist() == [1.0] * 6 + [7.0] * 4 + [1.0] * 10


def test_what_was_not_yet_in_force_is_undone_too_and_nothing_is_left_for_the_next_fit(
    gaussians, fast
):
    beta, recorder = Beta(1.0), Recorder()

    def user(approx, losses, i):
        if i == 3:
            beta.set(2.0)
            inference.run.undo()
        if i == 8:
            beta.set(3.0)

    inference = ADVI(beta=beta)
    inference.fit(8, callbacks=[recorder, user], **fast)
    assert recorder.trace.control["beta"].tolist() == [1.0] * 8
    assert not beta.undo() and not inference.run.undo()
    inference.refine(2, progressbar=False, callbacks=[recorder])
    assert [event.kind for event in recorder.trace.events] == ["set", "undo", "set"]
    assert recorder.trace.control["beta"][-1] == 3.0


def test_undo_and_reschedule_under_pymcs_own_loop(gaussians, fast):
    beta = Beta(schedule=schedules.linear(0.0, 1.0, steps=10))
    recorder = Recorder(beta)

    def user(approx, losses, i):
        if i == 2:
            beta.set(4.0)
        if i == 4:
            beta.undo()
        if i == 5:
            beta.reschedule(end=0.0, steps=8)

    inference = PyMCKLqp(pm.MeanField(), beta=beta.shared)
    inference.fit(10, callbacks=[user, recorder], **fast)
    expected = [0.0, 0.1, 4.0, 4.0, 0.4, 0.5, 0.5 * 2 / 3, 0.5 / 3, 0.0, 0.0]
    np.testing.assert_allclose(recorder.trace.control["beta"], expected, atol=1e-12)


def test_replaying_every_kind_of_event_gives_the_same_losses(gaussians, fast):
    ramp = schedules.linear(0.0, 1.0, steps=40)
    acts = {
        5: lambda beta, run: beta.set(4.0),
        10: lambda beta, run: beta.reschedule(end=3.0, steps=30),
        15: lambda beta, run: run.undo(),
        20: lambda beta, run: run.undo(),
        25: lambda beta, run: beta.reschedule(steps=28),
        27: lambda beta, run: run.note("slow"),
    }
    _, first = steered(40, 5, acts, fast, schedule=ramp)

    def again(event):
        def act(beta, run):
            if event.kind == "set":
                beta.set(event.new)
            elif event.kind == "reschedule":
                beta.schedule = eval(event.text, vars(schedules))
            elif event.kind == "undo":
                run.undo()

        return act

    replayed = {}
    for event in first.events:
        replayed[event.step] = again(event)
    _, second = steered(40, 1, replayed, fast, schedule=ramp)
    np.testing.assert_array_equal(first.control["beta"], second.control["beta"])
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-12)
