"""Rows as the bytes of a block: to the last bit, and what is steady only once."""

import numpy as np
import pytest

from vitoolkit.journal_block import packed, unpacked

BITS = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**62], dtype=np.int64)


def rows_of(*columns):
    rows = np.empty((len(columns[0]), len(columns)))
    for i, column in enumerate(columns):
        rows.view(np.int64)[:, i] = np.asarray(column).view(np.int64)
    return rows


def there_and_back(rows):
    data = packed(rows)
    assert unpacked(data, len(rows)).tobytes() == rows.tobytes()
    assert len(data) % 8 == 4  # by which it is known from a block of version 1
    return len(data)


def test_what_is_steady_is_kept_once():
    count = 5_000
    noise = np.random.default_rng(1).normal(size=count)
    steps = np.arange(7, 7 + 3 * count, 3)
    still, never = np.full(count, 0.3), np.full(count, np.nan)
    size = there_and_back(rows_of(steps, noise, still, never))
    assert size == 8 * count + 3 * 16 + 8 + 4


def test_one_number_that_differs_is_kept():
    still = np.ones(100)
    still[50] = np.nextafter(1.0, 2.0)
    assert there_and_back(rows_of(np.arange(100), still)) == 16 + 800 + 8 + 4
    assert there_and_back(rows_of(np.arange(100), np.where(still == 1, 0.0, -0.0))) > 800


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_any_bits(count):
    rng = np.random.default_rng(count)
    for width in (1, 7, 8, 9):
        there_and_back(rows_of(*rng.choice(BITS, size=(width, count))))
        there_and_back(rows_of(*rng.integers(-(2**63), 2**63 - 1, size=(width, count))))


def test_a_pace_that_goes_round():
    there_and_back(rows_of(np.array([2**63 - 2, -(2**63), -(2**63) + 2])))
    there_and_back(rows_of(np.array([-(2**63), 0, 2**63 - 1])))
    there_and_back(rows_of(np.array([-(2**63), -1, 2**63 - 2])))


def test_bytes_of_another_number_of_rows_are_none():
    data = packed(rows_of(np.arange(9), np.sqrt(np.arange(9.0))))
    for count in (-1, 0, 8, 10):
        assert unpacked(data, count) is None
    for end in range(len(data)):
        if end % 8:  # else it could be one of version 1; the block's checksum says that it is not
            assert unpacked(data[:end], 9) is None, end
    assert unpacked(data[:-4] + b"\xff\xff\xff\xff", 9) is None
