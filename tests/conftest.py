"""Fixtures that the tests share. ``fast`` compiles their models in about a second."""

from __future__ import annotations

import logging
import signal

import pytest
from models import regression, two_gaussians

logging.getLogger("pymc").setLevel(logging.WARNING)

# A shell that starts a job in the background has it ignore Ctrl-C, which tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Keep together, in one process of several, what shares a browser or the fixtures of a file."""
    for item in items:
        name = "browser" if item.path.parent.name == "browser" else item.path.stem
        item.add_marker(pytest.mark.xdist_group(name))


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
