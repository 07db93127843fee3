import math

import numpy as np
import pytest

from vitoolkit.checks import (
    callables,
    flag,
    real_number,
    seed,
    shown,
    unknown_option,
    whole_number,
)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.True_, np.float64(2)])
def test_what_is_no_whole_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="n must be a whole number of steps from 0 up, received"):
        whole_number("n", value, least=0, of="steps")


@pytest.mark.parametrize(
    ("value", "limits", "accepted"),
    [
        (-1, {"least": 0}, "a whole number from 0 up"),
        (2_000, {"most": 1_000}, "a whole number up to 1,000"),
        (np.int64(0), {"least": 1, "most": 9}, "a whole number from 1 to 9"),
    ],
)
def test_a_whole_number_out_of_its_range_is_a_value_error(value, limits, accepted):
    with pytest.raises(ValueError, match=f"k must be {accepted}, received"):
        whole_number("k", value, **limits)


def test_a_whole_number_becomes_an_int():
    assert type(whole_number("k", np.int8(3), least=3, most=3)) is int


@pytest.mark.parametrize("value", [True, np.False_, "1", b"1", None, 1j, [1.0, 2.0], object()])
def test_what_is_no_real_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="beta must be a real number, received"):
        real_number("beta", value)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (math.nan, {}, "must not be NaN"),
        (10**400, {}, "that a float can hold, received a whole number of 401 digits"),
        (-(10**5_000), {}, "a whole number of 5,001 digits"),
        (math.inf, {"finite": True}, "a finite number, received inf"),
        (-1, {"least": 0.0}, "a number from 0.0 up, received -1"),
        (2, {"least": 0, "most": 1, "finite": True}, "a finite number from 0 to 1, received 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_real_number_that_is_not_accepted_is_a_value_error(value, limits, message):
    with pytest.raises(ValueError, match=message):
        real_number("beta", value, **limits)


@pytest.mark.parametrize("value", [1, np.float32(1), np.array(1.0), math.inf])
def test_a_real_number_becomes_a_float(value):
    assert type(real_number("beta", value)) is float


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_a_flag_is_true_or_false(value):
    with pytest.raises(TypeError, match="background must be True or False, received"):
        flag("background", value)
    assert flag("background", np.True_) is True


@pytest.mark.parametrize("value", ["a", -1, 1.5, True, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="random_seed must be None or a whole number"):
        seed("random_seed", value)
    assert seed("random_seed", 7) == 7 and seed("random_seed", None) is None


@pytest.mark.parametrize("values", [5, "ab", [print, 1], 1.5])
def test_what_cannot_be_called_is_refused(values):
    with pytest.raises(TypeError, match=r"callbacks must be .*\(approx, losses, i\), received"):
        callables("callbacks", values, "(approx, losses, i)")


def test_one_callable_is_a_list_of_one():
    assert callables("callbacks", print, "()") == callables("callbacks", (print,), "()") == [print]
    assert callables("callbacks", None, "()") == []


def test_an_unknown_option_is_told_with_the_nearest_name_or_with_all():
    near = unknown_option("fit", "obj_nmc", ["obj_n_mc", "beta"])
    assert str(near) == "fit has no option 'obj_nmc'. Did you mean 'obj_n_mc'?"
    assert str(unknown_option("fit", "xyz", ["a", "b"])).endswith("It takes a, b.")


def test_what_is_long_is_cut():
    assert len(shown("a" * 10_000)) < 300
