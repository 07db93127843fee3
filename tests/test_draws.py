import threading

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from vitoolkit.draws import DrawsAhead, draws_ahead, inlined


def generator(seed=1):
    return pytensor.shared(np.random.default_rng(seed))


def drawn(draws, *calls):
    """The draws of so many steps in each call."""
    rows = []
    for steps in calls:
        draws.advance(steps)
        rows.append(draws.stand_in.get_value())
    return np.concatenate(rows)


def normal(source, size):
    return pt.random.normal(0.5, 2.0, size=size, rng=source)


def integers(source, size):
    return pt.random.integers(0, 5_000, size=size, rng=source)


@pytest.mark.parametrize("of", [normal, integers])
@pytest.mark.parametrize("size", [(), (3,), (2, 5), (9_000,)])
@pytest.mark.parametrize(
    "calls",
    [[1], [1] * 31, [1] * 32, [1] * 33, [1] * 70, [50], [1, 40, 1, 7], [3, 1, 1, 64]],
    ids=lambda calls: f"{len(calls)} calls, {sum(calls)} steps",
)
def test_the_numbers_and_the_generator_are_those_of_single_steps(of, size, calls):
    source, reference = generator(), np.random.default_rng(1)
    (draws,) = draws_ahead([source], [of(source, size)])
    one = {
        normal: lambda: reference.normal(0.5, 2.0, size=size),
        integers: lambda: reference.integers(0, 5_000, size=size),
    }[of]
    np.testing.assert_array_equal(drawn(draws, *calls), [one() for _ in range(sum(calls))])
    draws.settle()
    state = source.get_value(borrow=True).bit_generator.state
    assert state == reference.bit_generator.state
    np.testing.assert_array_equal(drawn(draws, 2), [one(), one()])


@pytest.mark.parametrize("of", [normal, integers])
def test_steps_that_are_coming_are_drawn_for_at_once(of):
    source, reference = generator(), np.random.default_rng(1)
    (draws,) = draws_ahead([source], [of(source, (3,))])
    asked, fill = [], draws._fill
    draws._fill = lambda stream, steps: asked.append(steps) or fill(stream, steps)
    for steps, coming in (4, 6), (4, 2), (2, 0), (1, 9), (5, 0):
        draws.advance(steps, coming=coming)
        one = {
            normal: lambda n: reference.normal(0.5, 2.0, size=(n, 3)),
            integers: lambda n: reference.integers(0, 5_000, size=(n, 3)),
        }[of](steps)
        np.testing.assert_array_equal(draws.stand_in.get_value(), one)
    assert asked == [10, 32]
    draws.settle()
    assert source.get_value(borrow=True).bit_generator.state == reference.bit_generator.state


@pytest.mark.parametrize("of", [normal, integers])
@pytest.mark.parametrize("settled", [False, True])
def test_what_another_thread_draws_for_the_next_call_are_the_same_numbers(of, settled):
    source, reference = generator(), np.random.default_rng(1)
    (draws,) = draws_ahead([source], [of(source, (3,))])
    other, other_reference = generator(2), np.random.default_rng(2)
    twin = draws.twin(other)
    calls, asked = [5, 8, 1, 40, 3, 3, 64, 1, 1], [8, 2, 64, 1, 3, 100, 64, 1, 7]
    for steps, coming in zip(calls, asked, strict=True):
        for one, stream, its in (draws, reference, source), (twin, other_reference, other):
            one.advance(steps)
            one.begin(coming)
            expected = {
                normal: lambda n, rng=stream: rng.normal(0.5, 2.0, size=(n, 3)),
                integers: lambda n, rng=stream: rng.integers(0, 5_000, size=(n, 3)),
            }[of](steps)
            np.testing.assert_array_equal(one.stand_in.get_value(), expected)
            if settled:
                one.settle()
                state = its.get_value(borrow=True).bit_generator.state
                assert state == stream.bit_generator.state
    draws.settle()
    assert source.get_value(borrow=True).bit_generator.state == reference.bit_generator.state


def test_what_fails_in_the_other_thread_is_raised_by_the_call_that_needs_it():
    (draws,) = draws_ahead([source := generator()], [normal(source, (3,))])
    draws.advance(2)

    def fails(rng, *args):
        rng.normal()
        raise MemoryError("no room")

    rng_fn, draws._rng_fn = draws._rng_fn, fails
    draws.begin(4)
    with pytest.raises(MemoryError, match="no room"):
        draws.advance(4)
    draws._rng_fn = rng_fn
    reference = np.random.default_rng(1)
    reference.normal(size=(2, 3))  # nothing is left out, should the fit go on
    np.testing.assert_array_equal(drawn(draws, 4), reference.normal(0.5, 2.0, size=(4, 3)))


def test_what_fails_in_the_other_thread_is_dropped_with_the_generator_it_drew_from():
    (draws,) = draws_ahead([source := generator()], [normal(source, (3,))])
    draws.advance(2)
    begun, failed = threading.Event(), threading.Event()

    def fails(*args):
        begun.set()
        failed.wait()
        raise MemoryError("no room")

    rng_fn, draws._rng_fn = draws._rng_fn, fails
    draws.begin(4)
    begun.wait()
    source.set_value(np.random.default_rng(7))
    draws._rng_fn = rng_fn
    failed.set()
    expected = np.random.default_rng(7).normal(0.5, 2.0, size=(4, 3))
    np.testing.assert_array_equal(drawn(draws, 4), expected)


def test_when_the_program_ends_the_draws_are_made_in_the_thread_that_needs_them(monkeypatch):
    class Ended:
        def submit(self, *args):
            raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr("vitoolkit.draws._threads", Ended())
    (draws,) = draws_ahead([source := generator()], [normal(source, (3,))])
    draws.advance(2)
    draws.begin(4)
    reference = np.random.default_rng(1)
    reference.normal(size=(2, 3))
    draws.advance(4)
    expected = reference.normal(0.5, 2.0, size=(4, 3))
    np.testing.assert_array_equal(draws.stand_in.get_value(), expected)


def test_a_generator_that_is_put_in_place_is_drawn_from_at_once():
    source = generator()
    (draws,) = draws_ahead([source], [normal(source, (3,))])
    drawn(draws, 5)
    source.set_value(np.random.default_rng(7))
    reference = np.random.default_rng(7)
    np.testing.assert_array_equal(drawn(draws, 2), reference.normal(0.5, 2.0, size=(2, 3)))
    draws.settle()
    assert source.get_value().bit_generator.state == reference.bit_generator.state


def test_settling_before_any_step_leaves_the_generator():
    source = generator()
    (draws,) = draws_ahead([source], [normal(source, (3,))])
    draws.settle()
    assert source.get_value().bit_generator.state == np.random.default_rng(1).bit_generator.state


def test_a_minibatch_is_one_draw_however_often_it_was_cloned():
    x, y = pm.Minibatch(np.arange(20.0), np.arange(20.0), batch_size=4)
    clones = [inlined([node])[0] for node in (x, y)]
    source = next(iter(pm.pytensorf.collect_default_updates([x])))
    (draws,) = draws_ahead([source], clones)
    assert len(draws.variables) == 2
    assert draws.shape == (4,)
    assert isinstance(draws, DrawsAhead)


def test_what_cannot_be_drawn_ahead_stays_in_the_graph():
    source, scale = generator(), pytensor.shared(1.0)
    assert draws_ahead([source], [pt.random.normal(0, scale, size=3, rng=source)]) == []
    assert draws_ahead([source], [pt.random.normal([0.0, 1.0], 1.0, rng=source)]) == []
    assert draws_ahead([source], [pt.random.beta(1.0, 1.0, size=3, rng=source)]) == []
    first = normal(source, (3,))
    second = normal(first.owner.outputs[0], (3,))
    assert draws_ahead([source], [first + second]) == []
    assert draws_ahead([source], [first, integers(source, (3,))]) == []
    data = pytensor.shared(np.zeros(20))
    batch = pm.Minibatch(data, batch_size=4)
    rows = next(iter(pm.pytensorf.collect_default_updates([batch])))
    assert draws_ahead([rows], inlined([batch])) == []
