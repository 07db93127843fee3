"""A column of a block is that of the same name in a trace."""

import numpy as np
import pytest

from vitoolkit.block import Block

TERMS = np.arange(12.0).reshape(2, 6)
BLOCK = Block(3, np.ones(2), TERMS, np.ones((2, 1)), np.zeros(2), ("a", "b"), ("norm", "dot"))


def test_a_column_is_found_by_its_name():
    for name in ("a", "b"):
        np.testing.assert_array_equal(BLOCK.column(f"kl[{name}]"), BLOCK.kl[name])
    for name in ("norm", "dot"):
        np.testing.assert_array_equal(BLOCK.column(name), BLOCK.measure[name])
    np.testing.assert_array_equal(BLOCK.column("data"), TERMS[:, 0])
    np.testing.assert_array_equal(BLOCK.column("elbo"), TERMS[:, 0] - TERMS[:, 1] - TERMS[:, 2])


def test_one_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="kl.c."):
        BLOCK.column("kl[c]")
