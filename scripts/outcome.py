"""Add up the outcomes of checks and the tests in the JUnit files of pytest."""

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

RUNS = ("doctests", "tests", "browser")


def main(folder: str, *outcomes: str) -> int:
    """Print "N passed, N failed" and return the exit status.

    Parameters
    ----------
    folder : str
        Where pytest left a ``junit-<name>.xml`` for each of RUNS. One that is not there, or has no
        test in it, counts as a failure.
    *outcomes : str
        "passed" or "failed" of every check; those of RUNS come last.
    """
    checks, runs = outcomes[: -len(RUNS)], outcomes[-len(RUNS) :]
    passed, failed = checks.count("passed"), checks.count("failed")
    for name, outcome in zip(RUNS, runs, strict=True):
        good, bad, skipped = _count(Path(folder, f"junit-{name}.xml"))
        if not bad and (outcome == "failed" or not good + skipped):
            bad = 1  # it broke beside its tests
        passed, failed = passed + good, failed + bad
    print(f"\n{passed} passed, {failed} failed")
    return int(failed > 0)


def _count(report: Path) -> tuple[int, int, int]:
    """Tests in a report that passed, failed, were skipped; a skip fails where none may be."""
    good = bad = skipped = 0
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        if case.find("failure") is not None or case.find("error") is not None:
            bad += 1
        elif case.find("skipped") is None:
            good += 1
        elif os.environ.get("VITOOLKIT_REQUIRE_BROWSER") == "1":
            print(f"skipped, a failure here: {case.get('classname')}.{case.get('name')}")
            bad += 1
        else:
            skipped += 1
    return good, bad, skipped


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
