#!/usr/bin/env python3
"""Run PyMC's own tests of variational inference with vitoolkit's inferences in place of its own.

Usage: scripts/pymc_tests.py [--stock] PATH [PYTEST ARGUMENT ...]

PATH is a source tree of PyMC, best of the version that is installed; nothing of it but ``tests`` is
used. ADVI, FullRankADVI and KLqp are replaced wherever PyMC names them, ``pm.fit`` included; with
--stock they are not, which tells what fails for other reasons. The last line says how many passed
and failed; the status is that of pytest.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pymc
import pymc.variational.inference
import pytest

import vitoolkit

REPLACED = ("ADVI", "FullRankADVI", "KLqp")


class Outcomes:
    """Counts how the tests ended."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report) -> None:
        """Count a test once, and what fails around it."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1


def main(path: str, *arguments: str, stock: bool = False) -> int:
    """Run the tests of the tree at `path`."""
    tree = Path(path).resolve()
    tests = tree / "tests" / "variational"
    if not tests.is_dir():
        print(f"{path} must be a source tree of PyMC: it has no tests/variational", file=sys.stderr)
        return 2
    for module in (pymc, pymc.variational, pymc.variational.inference):
        for name in REPLACED:
            if not stock:
                setattr(module, name, getattr(vitoolkit, name))
    os.chdir(tree)
    outcomes = Outcomes()
    ours = ["-q", "-p", "no:cacheprovider", f"--rootdir={tree}", str(tests), *arguments]
    status = pytest.main(ours, plugins=[outcomes])
    passed, failed = outcomes.counts["passed"], outcomes.counts["failed"]
    whose = "its own" if stock else "vitoolkit's"
    print(
        f"PyMC {pymc.__version__} with {whose} inferences: {passed} passed, {failed} failed, "
        f"{outcomes.counts['skipped']} skipped"
    )
    return int(status)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--stock"]
    if not given:
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(main(*given, stock="--stock" in sys.argv))
