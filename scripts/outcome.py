"""Add up the tests in a JUnit file of pytest and the outcomes of other checks."""

import os
import sys
from pathlib import Path
from xml.etree import ElementTree


def main(report: str, *outcomes: str) -> int:
    """Print "N passed, N failed" and return the exit status.

    Parameters
    ----------
    report : str
        JUnit file of pytest. One that is not there counts as a failure.
    *outcomes : str
        "passed" or "failed" of every check, the last of which is pytest as a whole.
    """
    *checks, pytest = outcomes
    passed, failed = checks.count("passed"), checks.count("failed")
    cases = ElementTree.parse(report).findall(".//testcase") if Path(report).exists() else []
    skips_fail = os.environ.get("VITOOLKIT_REQUIRE_BROWSER") == "1"
    tests_failed = 0
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            tests_failed += 1
        elif case.find("skipped") is None:
            passed += 1
        elif skips_fail:
            print(f"skipped, which is a failure here: {case.get('classname')}.{case.get('name')}")
            tests_failed += 1
    if not tests_failed and (pytest == "failed" or not cases):
        tests_failed = 1  # it broke before or beside its tests
    failed += tests_failed
    print(f"\n{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
