"""Fixtures that the tests share. ``fast`` compiles their models in about a second."""

from __future__ import annotations

import gc
import logging
import signal

import pytest
from models import regression, two_gaussians

logging.getLogger("pymc").setLevel(logging.WARNING)

# The graphs of a compilation are many thousand objects that stay: to look through them at every few
# hundred new ones is a tenth of it.
gc.set_threshold(100_000, 50, 100)

# A shell that starts a job in the background has it ignore Ctrl-C, which tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def fast():
    """Keyword arguments of a fit for tests of logic: quick to compile, silent."""
    return {"progressbar": False, "compile_kwargs": {"mode": "FAST_COMPILE"}}


@pytest.fixture
def gaussians():
    with two_gaussians() as model:
        yield model


@pytest.fixture
def minibatch_regression():
    with regression(minibatch=True) as model:
        yield model
