"""What was written as JSON is read back bit for bit, and nothing is unpickled."""

import json
import struct
from collections import deque

import numpy as np
import pytest

from vitoolkit.plain import from_plain, to_plain

ODD_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF800000000BEEF))[0]
NANS = np.array([0x7FF8000000000001, 0xFFF80000DEADBEEF, 0x7FF0000000000000], np.uint64)


def there_and_back(value, **others):
    return from_plain(json.loads(json.dumps(to_plain(value))), **others)


@pytest.mark.parametrize(
    "array",
    [
        NANS.view(float),
        np.array([0.1, -0.0, np.inf, 5e-324]),
        np.array([0x7FC00001, 0x3DCCCCCD], np.uint32).view(np.float32),
        np.arange(6, dtype="float16").reshape(2, 3),
        np.array([2**64 - 1], np.uint64),
        np.array([[True], [False]]),
        np.array([1 + 2j, complex("nan")]),
        np.array(3.5),
        np.empty((0, 4), np.int8),
        np.arange(12.0).reshape(3, 4).T[::2],
        np.arange(3, dtype=">i4"),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_an_array_comes_back_with_its_bits_its_type_and_its_shape(array):
    back = there_and_back(array)
    assert back.dtype == array.dtype.newbyteorder("=") and back.shape == array.shape
    assert back.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()
    assert back.flags.writeable and back.flags.owndata | back.base.flags.writeable


@pytest.mark.parametrize("value", [np.float32(0.1), np.float64(0.1), np.int16(-3), np.bool_(True)])
def test_a_scalar_keeps_its_type(value):
    back = there_and_back(value)
    assert type(back) is type(value) and back == value


def test_a_number_keeps_the_bits_of_a_nan():
    assert struct.pack("<d", there_and_back(ODD_NAN)) == struct.pack("<d", ODD_NAN)
    values = [0.1 + 0.2, float("inf"), -0.0, 2**70, True, None, "word"]
    back = there_and_back(values)
    assert back == values and [type(one) for one in back] == [type(one) for one in values]
    assert np.signbit(back[2]) and there_and_back(float("nan")) != back[0]


def test_containers_keep_their_kinds():
    value = {"a": (1, [2.0, deque([3, (4,)], 5)]), "b": {"c": deque()}}
    back = there_and_back(value)
    assert back == value
    assert type(back["a"]) is tuple and back["a"][1][1].maxlen == 5
    assert back["b"]["c"].maxlen is None


@pytest.mark.parametrize("value", [object(), np.array(["a"]), np.array([object()]), {1: 2}, {3}])
def test_what_json_cannot_hold_is_refused_or_told_by_another(value):
    with pytest.raises(TypeError, match=f"received {type(value).__name__}"):
        to_plain([value])
    assert to_plain([value], lambda thing: type(thing).__name__) == [type(value).__name__]


def test_an_array_of_objects_in_a_file_is_not_made():
    with pytest.raises(ValueError, match="not one of numbers"):
        from_plain({"__array__": "AAAAAAAAAAA=", "dtype": "|O", "shape": [1]})


def test_another_reads_what_another_told():
    told = to_plain({"x": 1 + 0j}, lambda value: {"re": value.real})
    assert from_plain(told, lambda item: item.get("re", item)) == {"x": 1.0}
