import copy
import itertools
import math
import pickle
from dataclasses import FrozenInstanceError
from decimal import Decimal

import numpy as np
import pytest

from vitoolkit import schedules
from vitoolkit.schedules import (
    Schedule,
    as_schedule,
    constant,
    cosine,
    cyclical,
    exponential,
    join,
    linear,
    one_cycle,
    piecewise_constant,
    piecewise_interpolated,
    polynomial,
    sigmoid,
    warm_restarts,
    warmup,
)

pytestmark = pytest.mark.filterwarnings("error")


def own_decay(step):
    return 1.0 / (1.0 + step)


class Saw:
    def __call__(self, step):
        return float(step % 3)


class Counter:
    def __init__(self):
        self.calls = []

    def at(self, step):
        self.calls.append(step)
        return 2.0


BUILT = [
    constant(0.25),
    linear(0.0, 1.0, steps=7),
    linear(3, -2, steps=1),
    cosine(1e-2, 1e-4, steps=9),
    sigmoid(0.0, 1.0, steps=8),
    sigmoid(2.0, 1.0, steps=8, sharpness=5),
    polynomial(1.0, 0.1, steps=6, power=3),
    exponential(1e-1, 1e-5, steps=11),
    cyclical(0.0, 1.0, steps=20),
    cyclical(0.1, 0.9, steps=23, cycles=3, proportion=0.7, ramp="sigmoid"),
    cyclical(0.0, 1.0, steps=12, cycles=2, proportion=1.0, ramp="cosine"),
    warm_restarts(1.0, 0.1, steps=21, cycles=3, growth=2),
    one_cycle(0.1, 0.001, peak=1.0, steps=10),
    one_cycle(0.95, 0.9, peak=0.85, steps=10, proportion=0.45, ramp="linear"),
    piecewise_constant([1.0, 0.5, 0.1], boundaries=[3, 8]),
    piecewise_interpolated([0.0, 1.0, 0.5], boundaries=[4, 6]),
    piecewise_interpolated(np.array([1.0, 2.0, 0.0]), boundaries=np.array([4, 9]), ramp="cosine"),
    warmup(0.0, cosine(1.0, 0.1, steps=6), steps=4),
    warmup(0.0, 0.5, steps=4),
    join(linear(0.0, 1.0, steps=3), cosine(5.0, 2.0, steps=4)),
    join(0.0, linear(0.0, 1.0, steps=3), 2.0, boundaries=[5, 20]),
]
ENDLESS = [
    as_schedule(own_decay),
    join(linear(0.0, 1.0, steps=3), own_decay),
    warmup(0.0, own_decay, steps=4),
]
NAMES = {name: getattr(schedules, name) for name in schedules.__all__} | {"own_decay": own_decay}
every = pytest.mark.parametrize("schedule", BUILT + ENDLESS, ids=repr)
every_built = pytest.mark.parametrize("schedule", BUILT, ids=repr)
RAMPED = {
    "linear": linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "exponential": exponential,
    "polynomial": lambda start, end, *, steps: polynomial(start, end, steps=steps, power=2.5),
}
ramped = pytest.mark.parametrize("make", RAMPED.values(), ids=RAMPED.keys())


# What all schedules have in common


@every
def test_values_are_the_single_calls_bit_for_bit(schedule):
    for first, n in ((0, 40), (3, 5), (19, 1), (1000, 7), (4, 0)):
        got = schedule.values(first, n)
        assert got.dtype == np.float64 and got.shape == (n,)
        assert got.tolist() == [schedule(step) for step in range(first, first + n)]


def at_random(rng):
    """One schedule of each kind, with arguments drawn at random."""
    start, end, peak = (10.0 ** rng.uniform(-6, 3, size=3)).tolist()
    steps, cycles = int(rng.integers(50, 900)), int(rng.integers(1, 40))
    ramp, share = str(rng.choice(["linear", "cosine", "sigmoid"])), float(rng.uniform(0.1, 0.9))
    edges = np.unique(rng.integers(1, steps, size=6)).tolist()
    levels = rng.normal(size=len(edges) + 1)
    straight, wave = linear(start, end, steps=steps), cosine(end, start, steps=steps)
    return [
        straight,
        wave,
        sigmoid(start, end, steps=steps, sharpness=float(rng.uniform(0.01, 90.0))),
        polynomial(start, end, steps=steps, power=float(rng.uniform(0.1, 4.0))),
        exponential(start, end, steps=steps),
        cyclical(start, end, steps=steps, cycles=cycles, proportion=share, ramp=ramp),
        warm_restarts(start, end, steps=steps, cycles=4, growth=1.7),
        one_cycle(start, end, peak=peak, steps=steps, proportion=share, ramp=ramp),
        piecewise_constant(levels, boundaries=edges),
        piecewise_interpolated(levels, boundaries=edges, ramp=ramp),
        warmup(peak, wave, steps=int(rng.integers(1, 90))),
        join(straight, wave, peak, own_decay, boundaries=[steps // 2, 2 * steps, 2 * steps + 1]),
        schedules.redirected(straight, at=steps // 3, value=peak, end=start, steps=2 * steps),
    ]


@pytest.mark.parametrize("seed", range(8))
def test_values_are_the_same_bits_however_the_steps_are_cut_up(seed):
    rng = np.random.default_rng(seed)
    for schedule in at_random(rng):
        last = schedule.steps or 2_000
        single = np.array([schedule(step) for step in range(last + 40)])
        assert schedule.values(0, len(single)).tobytes() == single.tobytes(), schedule
        cuts = {0, last - 1, last, last + 1, len(single), *rng.integers(0, last, size=9).tolist()}
        chunks = [schedule.values(a, b - a) for a, b in itertools.pairwise(sorted(cuts))]
        assert np.concatenate(chunks).tobytes() == single.tobytes(), schedule


def test_values_of_steps_that_a_float_cannot_tell_apart_are_the_single_calls():
    for steps in (2**53 + 1, 2**63, 10**30):
        schedule = linear(0.0, 1.0, steps=steps)
        for first in (0, steps // 3, steps - 2):
            expected = [schedule(step) for step in range(first, first + 4)]
            assert schedule.values(first, 4).tolist() == expected


def test_values_ask_a_function_for_the_steps_before_the_end_and_with_pythons_integers():
    counter = Counter()
    rate = join(counter.at, linear(1.0, 0.0, steps=2), boundaries=[3])
    assert rate.values(1, 5).tolist() == [2.0, 2.0, 1.0, 0.5, 0.0]
    assert counter.calls == [1, 2] and {type(step) for step in counter.calls} == {int}


@every
def test_a_value_is_a_float_whatever_integer_the_step_is(schedule):
    for step in (0, 2, 50):
        values = [schedule(kind(step)) for kind in (int, np.int64, np.int32, np.uint8)]
        assert {type(value) for value in values} == {float}
        assert len(set(values)) == 1


@every
def test_the_repr_makes_the_same_schedule_again(schedule):
    again = eval(repr(schedule), NAMES)
    assert again == schedule and hash(again) == hash(schedule)
    assert again.values(0, 40).tolist() == schedule.values(0, 40).tolist()


@every
def test_a_schedule_goes_through_pickle_and_copy(schedule):
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert again == schedule and repr(again) == repr(schedule)
        assert again.values(0, 40).tolist() == schedule.values(0, 40).tolist()


@every
def test_a_schedule_cannot_be_changed(schedule):
    with pytest.raises(FrozenInstanceError):
        schedule.steps = 3


@every
@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, ValueError, "step must be an integer of 0 or more: received -1"),
        (np.int64(-3), ValueError, "received -3"),
        (1.0, TypeError, r"step must be an integer of 0 or more: received 1.0 \(float\)"),
        (math.nan, TypeError, r"received nan \(float\)"),
        (True, TypeError, r"received True \(bool\)"),
        ("1", TypeError, r"received '1' \(str\)"),
        (None, TypeError, r"received None \(NoneType\)"),
    ],
)
def test_a_step_that_is_none_is_refused(schedule, step, error, message):
    with pytest.raises(error, match=message):
        schedule(step)


@pytest.mark.parametrize(
    ("first", "n", "error", "message"),
    [
        (-1, 2, ValueError, "first must be an integer of 0 or more: received -1"),
        (0, -2, ValueError, "n must be an integer of 0 or more: received -2"),
        (0.0, 2, TypeError, "first must be an integer of 0 or more: received 0.0"),
        (0, 2.5, TypeError, "n must be an integer of 0 or more: received 2.5"),
    ],
)
def test_values_refuses_what_is_no_range_of_steps(first, n, error, message):
    with pytest.raises(error, match=message):
        linear(0.0, 1.0, steps=3).values(first, n)


@every_built
def test_the_end_is_held_from_steps_on(schedule):
    for step in (schedule.steps, schedule.steps + 1, schedule.steps + 10**9):
        assert schedule(step) == schedule.end


@pytest.mark.parametrize("schedule", ENDLESS, ids=repr)
def test_an_endless_schedule_says_so(schedule):
    assert schedule.steps is None and schedule.end is None


@ramped
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 9_973])
@pytest.mark.parametrize(("start", "end"), [(1e-2, 1e-4), (0.1, 0.7), (3.0, 1e-20), (0.3, 0.3)])
def test_a_ramp_is_exact_at_its_ends_and_never_turns_or_leaves_them(make, start, end, steps):
    schedule = make(start, end, steps=steps)
    values = schedule.values(0, steps + 2)
    assert values[0] == start
    assert values[steps] == values[steps + 1] == end
    assert schedule.steps == steps and schedule.end == end
    assert values.min() == min(start, end) and values.max() == max(start, end)
    assert np.all(np.diff(values) * np.sign(end - start) >= 0.0)


@ramped
def test_a_ramp_takes_no_jump_at_its_end(make):
    values = make(1.0, 0.01, steps=1_000).values(0, 1_002)
    assert np.abs(np.diff(values)).max() < 0.01


@ramped
def test_numpy_numbers_are_as_good_as_pythons(make):
    given = make(np.float64(0.5), np.float32(0.25), steps=np.int64(4))
    assert given == make(0.5, 0.25, steps=4)
    assert "np." not in repr(given)


# The formulas


def test_constant():
    schedule = constant(0.3)
    assert (schedule.steps, schedule.end, repr(schedule)) == (0, 0.3, "constant(0.3)")
    assert schedule.values(0, 3).tolist() == [0.3, 0.3, 0.3]


def test_linear_is_a_straight_line():
    got = linear(2.0, -1.0, steps=12).values(0, 15)
    np.testing.assert_allclose(got, np.interp(np.arange(15), [0, 12], [2.0, -1.0]), rtol=1e-14)


def test_linear_from_0_to_1_is_the_fraction_itself():
    assert linear(0.0, 1.0, steps=10).values(0, 10).tolist() == [k / 10 for k in range(10)]


def test_cosine_is_equation_5_of_sgdr():
    steps, high, low = 40, 0.5, 0.02
    k = np.arange(steps + 1)
    expected = low + 0.5 * (high - low) * (1 + np.cos(k / steps * np.pi))
    np.testing.assert_allclose(cosine(high, low, steps=steps).values(0, 41), expected, rtol=1e-14)


def test_cosine_keeps_its_digits_near_zero():
    # 1 + cos(x) has lost half of its digits here; the half-angle form by its series has not.
    x = math.pi / 20_000
    expected = x**2 / 4 - x**4 / 48
    assert cosine(1.0, 0.0, steps=20_000)(19_999) == pytest.approx(expected, rel=1e-11, abs=0.0)


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 12.0, 80.0])
def test_sigmoid_is_the_logistic_function_stretched_to_its_ends(sharpness):
    def logistic(x):
        return 1 / (1 + np.exp(-x))

    x = sharpness * (np.arange(21) / 20 - 0.5)
    part = (logistic(x) - logistic(x[0])) / (logistic(x[-1]) - logistic(x[0]))
    got = sigmoid(0.5, 2.0, steps=20, sharpness=sharpness).values(0, 21)
    np.testing.assert_allclose(got, 0.5 + 1.5 * part, rtol=1e-11)


def test_sigmoid_is_bowmans_up_to_the_stretch():
    k, midpoint = 0.006, 1_000  # 1 / (1 + exp(-k (step - midpoint))), as annealing code has it
    schedule = sigmoid(0.0, 1.0, steps=2 * midpoint, sharpness=k * 2 * midpoint)
    step = np.arange(0, 2_001, 50)
    bowman = 1 / (1 + np.exp(-k * (step - midpoint)))
    np.testing.assert_allclose([schedule(int(s)) for s in step], bowman, atol=0.0025)


def test_a_sharp_sigmoid_is_a_jump_half_way():
    assert sigmoid(0.0, 1.0, steps=4, sharpness=1e300).values(0, 5).tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 7.0])
def test_polynomial_is_a_power_of_what_is_left(power):
    left = np.arange(30, -1, -1) / 30
    got = polynomial(3.0, 1.0, steps=30, power=power).values(0, 31)
    np.testing.assert_allclose(got, 1.0 + 2.0 * left**power, rtol=1e-14)


def test_polynomial_keeps_its_digits_near_zero():
    assert polynomial(1.0, 0.0, steps=1_000, power=6.0)(999) == pytest.approx(
        1e-18, rel=1e-9, abs=0.0
    )


def test_exponential_multiplies_by_the_same_factor():
    factor = (Decimal("0.0003") / Decimal("0.2")) ** (Decimal(1) / 25)
    expected, value = [], Decimal("0.2")
    for _ in range(26):
        expected.append(float(value))
        value *= factor
    got = exponential(0.2, 0.0003, steps=25).values(0, 26)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def fu(step, total, cycles, proportion, f):
    """The schedule of Fu et al. as they write it, with their t = step + 1."""
    tau = ((step + 1 - 1) % math.ceil(total / cycles)) / (total / cycles)
    return f(tau / proportion) if tau < proportion else 1.0


@pytest.mark.parametrize("proportion", [0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize(
    ("ramp", "f", "atol"),
    [
        ("linear", lambda v: v, 1e-14),
        ("cosine", lambda v: 0.5 - 0.5 * math.cos(v * math.pi), 1e-14),
        # The authors' logistic is not stretched: it begins at 0.0025.
        ("sigmoid", lambda v: 1.0 / (1.0 + np.exp(-(v * 12.0 - 6.0))), 0.0025),
    ],
)
def test_cyclical_is_that_of_fu(ramp, f, atol, proportion):
    schedule = cyclical(0.0, 1.0, steps=120, cycles=3, proportion=proportion, ramp=ramp)
    expected = [fu(step, 120, 3, proportion, f) for step in range(120)]
    np.testing.assert_allclose(schedule.values(0, 120), expected, atol=atol)


@pytest.mark.parametrize(("steps", "cycles"), [(20, 4), (23, 3), (10, 7), (5, 5), (1, 1), (9, 1)])
def test_every_cycle_begins_at_start_and_lengths_differ_by_a_step_at_most(steps, cycles):
    values = cyclical(0.5, 1.0, steps=steps, cycles=cycles).values(0, steps + 2)
    begins = np.flatnonzero(values == 0.5)
    assert len(begins) == cycles and begins[0] == 0
    lengths = np.diff([*begins, steps])
    assert lengths.max() - lengths.min() <= 1
    assert values[steps] == values[steps + 1] == 1.0


@pytest.mark.parametrize("proportion", [0.1, 0.3, 0.6, 0.7, 0.9])
def test_a_cycle_holds_from_its_proportion_on(proportion):
    values = cyclical(0.0, 1.0, steps=20, cycles=2, proportion=proportion).values(0, 20)
    edge = int(Decimal(str(proportion)) * 10)
    for cycle in (values[:10], values[10:]):
        assert np.all(cycle[:edge] < 1.0) and np.all(cycle[edge:] == 1.0)


def test_cyclical_defaults_are_those_of_the_paper():
    assert cyclical(0.0, 1.0, steps=100) == cyclical(
        0.0, 1.0, steps=100, cycles=4, proportion=0.5, ramp="linear"
    )


def sgdr(total, high, low, first, growth):
    """Equation 5 of Loshchilov and Hutter, run as their pseudo-code counts: T_cur and T_i."""
    values, current, length = [], 0, first
    for _ in range(total):
        values.append(low + 0.5 * (high - low) * (1 + math.cos(current / length * math.pi)))
        current += 1
        if current == length:
            current, length = 0, length * growth
    return values


@pytest.mark.parametrize(
    ("first", "growth", "cycles", "steps"),
    [(10, 1, 4, 40), (10, 2, 3, 70), (1, 2, 6, 63), (5, 3, 4, 200), (8, 1, 1, 8)],
)
def test_warm_restarts_is_sgdr(first, growth, cycles, steps):
    schedule = warm_restarts(0.05, 0.001, steps=steps, cycles=cycles, growth=growth)
    expected = sgdr(steps, 0.05, 0.001, first, growth)
    np.testing.assert_allclose(schedule.values(0, steps), expected, rtol=1e-13)
    assert schedule(steps) == schedule(steps + 1) == 0.001
    assert np.count_nonzero(schedule.values(0, steps + 5) == 0.05) == cycles


def test_warm_restarts_rounds_the_bounds_between_cycles():
    values = warm_restarts(1.0, 0.0, steps=100, cycles=3, growth=1.5).values(0, 100)
    ideal = np.cumsum([0, 1.5**0, 1.5**1]) / (1 + 1.5 + 1.5**2) * 100
    assert np.flatnonzero(values == 1.0).tolist() == np.rint(ideal).tolist()


def test_one_cycle_goes_up_and_down_by_half_waves():
    k = np.arange(101)
    up = 0.1 + 0.9 * (1 - np.cos(np.pi * k / 30)) / 2
    down = 0.001 + 0.999 * (1 + np.cos(np.pi * (k - 30) / 70)) / 2
    got = one_cycle(0.1, 0.001, peak=1.0, steps=100).values(0, 101)
    np.testing.assert_allclose(got, np.where(k < 30, up, down), rtol=1e-13)
    assert (got[0], got[30], got[100]) == (0.1, 1.0, 0.001)
    assert got.argmax() == 30


def test_one_cycle_can_be_the_papers_straight_lines_and_a_dip():
    got = one_cycle(0.95, 0.9, peak=0.85, steps=20, proportion=0.45, ramp="linear").values(0, 22)
    expected = np.interp(np.arange(22), [0, 9, 20], [0.95, 0.85, 0.9])
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize(("proportion", "top"), [(0.01, 1), (0.29, 29), (0.99, 99)])
def test_the_peak_of_one_cycle_is_on_its_step(proportion, top):
    got = one_cycle(0.0, 0.0, peak=1.0, steps=100, proportion=proportion).values(0, 101)
    assert np.flatnonzero(got == 1.0).tolist() == [top]


def test_piecewise_constant_jumps_on_its_boundaries():
    schedule = piecewise_constant([1e-2, 1e-3, 1e-4], boundaries=[5, 8])
    assert schedule.values(0, 11).tolist() == [1e-2] * 5 + [1e-3] * 3 + [1e-4] * 3
    assert (schedule.steps, schedule.end) == (8, 1e-4)


def test_piecewise_interpolated_goes_through_its_values():
    knots, values = [0, 5, 8, 20], [0.0, 1.0, 0.2, 0.7]
    schedule = piecewise_interpolated(values, boundaries=knots[1:])
    expected = np.interp(np.arange(23), knots, values)
    np.testing.assert_allclose(schedule.values(0, 23), expected, rtol=1e-13, atol=1e-16)
    assert [schedule(knot) for knot in knots] == values


@pytest.mark.parametrize("ramp", ["linear", "cosine", "sigmoid"])
def test_a_ramp_by_name_is_the_schedule_of_that_name(ramp):
    alone = RAMPED[ramp](0.2, 0.9, steps=10).values(0, 10).tolist()
    path = piecewise_interpolated([0.2, 0.9, 0.2], boundaries=[10, 20], ramp=ramp)
    assert path.values(0, 10).tolist() == alone
    assert cyclical(0.2, 0.9, steps=40, cycles=2, ramp=ramp).values(20, 10) == pytest.approx(alone)
    peaked = one_cycle(0.2, 0.0, peak=0.9, steps=20, proportion=0.5, ramp=ramp)
    assert peaked.values(0, 10).tolist() == alone


def test_one_value_is_a_constant():
    for make in (piecewise_constant, piecewise_interpolated):
        schedule = make([0.5], boundaries=[])
        assert (schedule.steps, schedule.end, schedule(0)) == (0, 0.5, 0.5)


# One schedule and another


def test_warmup_leads_up_to_the_start_of_what_follows():
    then = cosine(1.0, 0.1, steps=6)
    schedule = warmup(0.2, then, steps=4)
    ramp = [0.2, 0.4, 0.6, 0.8]
    assert schedule.values(0, 4) == pytest.approx(ramp, rel=1e-14)
    assert [schedule(4 + k) for k in range(8)] == [then(k) for k in range(8)]
    assert (schedule.steps, schedule.end) == (10, 0.1)


def test_warmup_to_a_number_is_linear():
    schedule = warmup(0.0, 0.5, steps=4)
    assert schedule.values(0, 7).tolist() == linear(0.0, 0.5, steps=4).values(0, 7).tolist()
    assert (schedule.steps, schedule.end) == (4, 0.5)


def test_join_counts_each_schedule_from_its_own_start():
    first, second = linear(0.0, 1.0, steps=3), cosine(5.0, 2.0, steps=4)
    schedule = join(first, second, 7.0)
    expected = [first(0), first(1), first(2), *(second(k) for k in range(4)), 7.0, 7.0]
    assert schedule.values(0, 9).tolist() == expected
    assert (schedule.steps, schedule.end) == (7, 7.0)


def test_boundaries_of_join_cut_off_and_hold():
    ramp = linear(0.0, 1.0, steps=4)
    schedule = join(ramp, ramp, ramp, boundaries=[2, 9])
    assert schedule.values(0, 15).tolist() == [
        *(0.0, 0.25),
        *(0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0),
        *(0.0, 0.25, 0.5, 0.75, 1.0, 1.0),
    ]
    assert schedule.steps == 13


def test_join_asks_a_function_for_its_own_steps_only():
    counter = Counter()
    schedule = join(0.0, counter.at, 1.0, boundaries=[3, 5])
    assert schedule.values(0, 8).tolist() == [0, 0, 0, 2, 2, 1, 1, 1]
    assert counter.calls == [0, 1]
    assert (schedule.steps, schedule.end) == (5, 1.0)


def test_joined_schedules_can_be_joined():
    inner = join(0.0, linear(0.0, 1.0, steps=2), boundaries=[1])
    assert join(inner, inner).values(0, 7).tolist() == [0, 0, 0.5, 0, 0, 0.5, 1]


# as_schedule


def test_as_schedule_gives_a_schedule_back():
    schedule = linear(0.0, 1.0, steps=3)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2.0), np.float32(2.0), np.int64(2)])
def test_as_schedule_takes_numbers(number):
    assert as_schedule(number) == constant(2.0)


@pytest.mark.parametrize(
    ("function", "name", "expected"),
    [
        (own_decay, "own_decay", [1.0, 1 / 2, 1 / 3]),
        (lambda step: step, "<lambda>", [0.0, 1.0, 2.0]),
        (lambda step: np.float32(step), "<lambda>", [0.0, 1.0, 2.0]),
        (lambda step: np.where(step < 2, 0.5, 3.0), "<lambda>", [0.5, 0.5, 3.0]),
        (Counter().at, "at", [2.0, 2.0, 2.0]),
        (math.sqrt, "sqrt", [0.0, 1.0, 2.0**0.5]),
        (np.sqrt, "sqrt", [0.0, 1.0, 2.0**0.5]),
    ],
)
def test_as_schedule_wraps_a_function(function, name, expected):
    schedule = as_schedule(function)
    assert isinstance(schedule, Schedule)
    assert repr(schedule) == f"as_schedule({name})"
    assert (schedule.steps, schedule.end) == (None, None)
    assert schedule.values(0, 3).tolist() == expected
    assert type(schedule(1)) is float


def test_as_schedule_wraps_an_object_that_can_be_called():
    saw = Saw()
    assert as_schedule(saw).values(0, 4).tolist() == [0, 1, 2, 0]
    assert repr(as_schedule(saw)) == f"as_schedule({saw!r})"


@pytest.mark.parametrize("thing", [None, "linear", [0.1, 0.2], True, 1j, np.array([0.1])])
def test_as_schedule_refuses_other_things(thing):
    with pytest.raises(TypeError, match="cannot be a schedule: received .* a callable step"):
        as_schedule(thing)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (linear, "linear cannot be called with a step .*; a Schedule, a number"),
        (lambda: 1.0, "<lambda> cannot be called with a step"),
        (Counter().__init__, "__init__ cannot be called with a step"),
    ],
)
def test_as_schedule_refuses_a_function_of_something_else(function, message):
    with pytest.raises(TypeError, match=message):
        as_schedule(function)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (np.float64("nan"), ValueError),
        (None, TypeError),
        ("1.0", TypeError),
        (np.zeros(2), TypeError),
    ],
)
def test_a_function_that_returns_no_number_is_named_with_the_step(value, error):
    schedule = as_schedule(lambda step: 0.0 if step < 4 else value)
    assert schedule(3) == 0.0
    with pytest.raises(error, match="the value of <lambda> at step 4 must be a finite number"):
        schedule(4)


def test_the_error_of_a_function_is_its_own():
    def broken(step):
        raise LookupError(f"no value for {step}")

    with pytest.raises(LookupError, match="no value for 7"):
        as_schedule(broken)(7)


# Bad arguments

STEPPED = {
    **RAMPED,
    "cyclical": lambda start, end, *, steps: cyclical(start, end, steps=steps, cycles=1),
    "warm_restarts": lambda start, end, *, steps: warm_restarts(start, end, steps=steps, cycles=1),
    "one_cycle": lambda start, end, *, steps: one_cycle(start, end, peak=1.0, steps=steps),
}
stepped = pytest.mark.parametrize("make", STEPPED.values(), ids=STEPPED.keys())


@stepped
@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (0, ValueError, r"steps must be an integer of [12] or more: received 0"),
        (-5, ValueError, r"received -5"),
        (5e3, TypeError, r"steps must be an integer of [12] or more: received 5000.0 \(float\)"),
        (True, TypeError, r"received True \(bool\)"),
        ("10", TypeError, r"received '10' \(str\)"),
        (None, TypeError, r"received None \(NoneType\)"),
    ],
)
def test_steps_that_are_none_are_refused(make, steps, error, message):
    with pytest.raises(error, match=message):
        make(0.5, 1.0, steps=steps)


@stepped
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (math.nan, ValueError, "must be a finite number.*: received nan"),
        (math.inf, ValueError, "must be a finite number.*: received inf"),
        (-math.inf, ValueError, "must be a finite number.*: received -inf"),
        (1.5e308, ValueError, "must be a finite number.*: received 1.5e"),
        (10**400, ValueError, "must be a finite number"),
        (True, TypeError, r"must be a finite number.*: received True \(bool\)"),
        ("0.1", TypeError, r"must be a finite number.*: received '0.1' \(str\)"),
        (None, TypeError, r"must be a finite number.*: received None"),
        (1j, TypeError, r"must be a finite number.*: received 1j"),
    ],
)
def test_values_that_are_none_are_refused(make, bad, error, message):
    with pytest.raises(error, match="start " + message):
        make(bad, 1.0, steps=10)
    with pytest.raises(error, match="end " + message):
        make(1.0, bad, steps=10)


@stepped
def test_steps_has_to_be_named(make):
    with pytest.raises(TypeError, match="positional argument"):
        make(1.0, 0.5, 10)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constant(math.nan), ValueError, "value must be a finite number: received nan"),
        (
            lambda: exponential(0.0, 1.0, steps=5),
            ValueError,
            r"start must be a finite number, more than 0: received 0.0",
        ),
        (lambda: exponential(1.0, -1.0, steps=5), ValueError, "end must be .*received -1.0"),
        (lambda: exponential(-1.0, -0.5, steps=5), ValueError, "start must be .*received -1.0"),
        (lambda: exponential(1e-300, 1e300, steps=5), ValueError, "end / start overflows"),
        (lambda: exponential(1e300, 1e-300, steps=5), ValueError, "end / start overflows"),
        (
            lambda: polynomial(1.0, 0.0, steps=5, power=0),
            ValueError,
            "power must be a finite number, more than 0: received 0",
        ),
        (lambda: polynomial(1.0, 0.0, steps=5, power=math.inf), ValueError, "power must be"),
        (
            lambda: sigmoid(0.0, 1.0, steps=5, sharpness=-1.0),
            ValueError,
            "sharpness must be a finite number, at least 0.001: received -1.0",
        ),
        (lambda: cyclical(0, 1, steps=5, cycles=0), ValueError, "cycles must be an integer of 1"),
        (lambda: cyclical(0, 1, steps=5, cycles=2.0), TypeError, "cycles must be an integer of 1"),
        (
            lambda: cyclical(0, 1, steps=3, cycles=4),
            ValueError,
            "cycles must be at most steps: received cycles=4, steps=3",
        ),
        (
            lambda: cyclical(0, 1, steps=5, cycles=1, proportion=0.0),
            ValueError,
            "proportion must be a finite number, more than 0, at most 1: received 0.0",
        ),
        (
            lambda: cyclical(0, 1, steps=5, cycles=1, proportion=50),
            ValueError,
            "proportion must be .* received 50",
        ),
        (
            lambda: cyclical(0, 1, steps=8, ramp="cos"),
            ValueError,
            "unknown ramp: received 'cos'; 'linear', 'cosine', 'sigmoid' are accepted",
        ),
        (
            lambda: one_cycle(0, 0, peak=1, steps=8, ramp=None),
            ValueError,
            "unknown ramp: received None; 'linear', 'cosine', 'sigmoid' are accepted",
        ),
        (
            lambda: piecewise_interpolated([0, 1], boundaries=[3], ramp=["linear"]),
            ValueError,
            r"unknown ramp: received \['linear'\]",
        ),
        (lambda: one_cycle(0, 0, peak=math.nan, steps=8), ValueError, "peak must be a finite"),
        (lambda: one_cycle(0, 0, peak=1, steps=1), ValueError, "steps must be an integer of 2"),
        (
            lambda: one_cycle(0, 0, peak=1, steps=10, proportion=0.01),
            ValueError,
            r"peak on step 0 of 10: received 0.01; .*<= 9 is accepted",
        ),
        (
            lambda: one_cycle(0, 0, peak=1, steps=10, proportion=1.0),
            ValueError,
            "peak on step 10 of 10: received 1.0",
        ),
        (
            lambda: warm_restarts(1, 0, steps=10, cycles=2, growth=0.5),
            ValueError,
            "growth must be a finite number, at least 1: received 0.5",
        ),
        (
            lambda: warm_restarts(1, 0, steps=10, cycles=8, growth=2.0),
            ValueError,
            "a cycle is shorter than one step: received steps=10, cycles=8, growth=2.0",
        ),
        (
            lambda: warm_restarts(1, 0, steps=10_000, cycles=5_000, growth=2.0),
            ValueError,
            "a cycle is shorter than one step",
        ),
        (lambda: warm_restarts(1, 0, steps=10, cycles=-1), ValueError, "cycles must be"),
        (
            lambda: piecewise_constant([1.0, 2.0], boundaries=[1, 2]),
            ValueError,
            "one fewer than values: received 2 boundaries for 2 values; 1 are accepted",
        ),
        (
            lambda: piecewise_constant([1.0, 2.0, 3.0], boundaries=[5, 5]),
            ValueError,
            r"boundaries must increase from each to the next: received \[5, 5\]",
        ),
        (
            lambda: piecewise_interpolated([1.0, 2.0, 3.0], boundaries=[5, 4]),
            ValueError,
            r"boundaries must increase from each to the next: received \[5, 4\]",
        ),
        (
            lambda: piecewise_constant([1.0, 2.0], boundaries=[0]),
            ValueError,
            r"boundaries\[0\] must be an integer of 1 or more: received 0",
        ),
        (
            lambda: piecewise_constant([1.0, 2.0], boundaries=[1.5]),
            TypeError,
            r"boundaries\[0\] must be an integer of 1 or more: received 1.5 \(float\)",
        ),
        (
            lambda: piecewise_constant([1.0, math.nan], boundaries=[3]),
            ValueError,
            r"values\[1\] must be a finite number: received nan",
        ),
        (
            lambda: piecewise_constant([], boundaries=[]),
            ValueError,
            r"values must hold one number or more: received \[\]",
        ),
        (
            lambda: piecewise_constant(1.0, boundaries=[]),
            TypeError,
            r"values must be a list, a tuple or an array: received 1.0 \(float\)",
        ),
        (
            lambda: piecewise_constant([1.0, 2.0], boundaries=3),
            TypeError,
            r"boundaries must be a list, a tuple or an array: received 3 \(int\)",
        ),
        (
            lambda: piecewise_constant({1.0, 2.0}, boundaries=[3]),
            TypeError,
            "values must be a list, a tuple or an array",
        ),
        (
            lambda: piecewise_constant(np.zeros((2, 2)), boundaries=[3]),
            ValueError,
            r"values must have one dimension: received shape \(2, 2\)",
        ),
        (lambda: warmup(0.0, "cosine", steps=5), TypeError, "received 'cosine'"),
        (lambda: warmup(0.0, 1.0, steps=0), ValueError, "steps must be an integer of 1 or more"),
        (lambda: warmup(math.inf, 1.0, steps=3), ValueError, "start must be a finite number"),
        (lambda: join(), ValueError, "join received no schedule; one or more are accepted"),
        (lambda: join([constant(1.0)]), TypeError, r"received \[constant\(1.0\)\] \(list\)"),
        (
            lambda: join(constant(0.0), linear(0, 1, steps=5)),
            ValueError,
            r"how long constant\(0.0\) lasts: received a schedule of steps=0 .*give boundaries",
        ),
        (
            lambda: join(own_decay, 1.0),
            ValueError,
            r"how long as_schedule\(own_decay\) lasts: received a schedule of steps=None",
        ),
        (
            lambda: join(0.0, 1.0, boundaries=[]),
            ValueError,
            "one fewer than schedules: received 0 boundaries for 2 schedules; 1 are accepted",
        ),
        (lambda: join(0.0, 1.0, 2.0, boundaries=[4, 2]), ValueError, "boundaries must increase"),
    ],
)
def test_bad_arguments_are_refused_when_the_schedule_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- another end or length in mid-fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (schedules.linear(0.2, 1.0, steps=40), "linear"),
        (schedules.cosine(0.2, 1.0, steps=40), "cosine"),
        (schedules.exponential(0.2, 1.0, steps=40), "exponential"),
        (schedules.sigmoid(0.2, 1.0, steps=40, sharpness=5.0), "sigmoid"),
        (schedules.polynomial(0.2, 1.0, steps=40, power=2.0), "polynomial"),
        (schedules.warmup(0.0, schedules.cosine(0.2, 1.0, steps=40), steps=5), "cosine"),
        (schedules.cyclical(0.2, 1.0, steps=40), "linear"),
        (schedules.as_schedule(own_decay), "linear"),
        (schedules.constant(0.2), "linear"),
    ],
)
def test_redirected_keeps_the_past_and_reaches_the_new_end(before, kind):
    value = before(10)
    after = schedules.redirected(before, at=10, value=value, end=3.0, steps=60)
    assert (after.steps, after.end) == (60, 3.0)
    np.testing.assert_array_equal(after.values(0, 10), before.values(0, 10))
    assert after(10) == value and after(60) == 3.0
    assert (np.diff(after.values(10, 51)) > 0).all()
    options = {"sigmoid": {"sharpness": 5.0}, "polynomial": {"power": 2.0}}.get(kind, {})
    ramp = getattr(schedules, kind)(value, 3.0, steps=50, **options)
    np.testing.assert_array_equal(after.values(10, 60), ramp.values(0, 60))
    assert eval(repr(after), NAMES).values(0, 70).tolist() == after.values(0, 70).tolist()


def test_redirected_at_the_start_too_late_and_twice_at_one_step():
    ramp = schedules.linear(0.0, 1.0, steps=4)
    again = {"value": 0.5, "end": 2.0}
    at_start = schedules.redirected(ramp, at=0, steps=6, **again)
    assert repr(at_start) == "linear(0.5, 2.0, steps=6)"
    late = schedules.redirected(ramp, at=3, steps=3, **again)
    assert late.values(0, 6).tolist() == [0.0, 0.25, 0.5, 2.0, 2.0, 2.0]
    once = schedules.redirected(ramp, at=2, steps=9, **again)
    twice = schedules.redirected(once, at=2, value=0.5, end=3.0, steps=5)
    assert repr(twice) == (
        "join(linear(0.0, 1.0, steps=4), linear(0.5, 3.0, steps=3), boundaries=[2])"
    )
    zero = schedules.redirected(
        schedules.exponential(1.0, 0.1, steps=9), at=3, value=0.5, end=0.0, steps=9
    )
    assert "linear(0.5, 0.0, steps=6)" in repr(zero)


# --- reading a text back ------------------------------------------------------------------------


@every_built
def test_the_text_of_a_schedule_is_read_back(schedule):
    if "as_schedule" in repr(schedule):
        with pytest.raises(ValueError, match="not the text of a schedule"):
            schedules.parse(repr(schedule))
        return
    again = schedules.parse(repr(schedule))
    assert again == schedule
    np.testing.assert_array_equal(again.values(0, 40), schedule.values(0, 40))


@pytest.mark.parametrize(
    "text",
    [
        "", "1.0", "linear", "linear(0.0, 1.0)", "linear(0.0, 1.0, steps=x)", "print(1)", "[",
        "__import__('os').system('true')", "linear(*[0.0, 1.0], steps=3)", "as_schedule(f)",
        "linear(0.0, 1.0, steps=(lambda: 3)())",
    ],
)  # fmt: skip
def test_nothing_else_is_read_or_evaluated(text):
    with pytest.raises(ValueError, match="not the text of a schedule"):
        schedules.parse(text)


def test_the_text_of_a_schedule_is_a_string():
    with pytest.raises(TypeError, match="is a string; received 3"):
        schedules.parse(3)
