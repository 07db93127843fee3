"""Run each test that failed once more, by itself; one that passes then is FLAKY and has passed."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

#: More failures than these are no accident, and to repeat them all takes longer than there is.
MOST = 8


def main(report: str) -> int:
    """Put what the second run said into a JUnit file; return 0 if no test in it fails any more.

    Parameters
    ----------
    report : str
        JUnit file of a run of pytest in this folder, with ``-o junit_family=xunit1``, which names
        the files of its tests.
    """
    tree = ElementTree.parse(report)
    failed = _failed(tree)
    if len(failed) > MOST:
        print(f"{len(failed)} tests failed, more than the {MOST} that are run once more")
        return 1
    still = 0
    for test, first in failed.items():
        print(f"\n== once more: {test}", flush=True)
        second = _run(test, Path(report).with_suffix(".again.xml"))
        if second is None:
            still += 1
            continue
        print(f"FLAKY {test}: {_reason(first[0])}", flush=True)
        for suite in tree.iter("testsuite"):
            if first[0] in suite:
                for case in first:  # two where its end failed as well
                    suite.remove(case)
                suite.append(second)
    tree.write(report)
    return int(still > 0)


def _failed(tree: ElementTree.ElementTree) -> dict[str, list[ElementTree.Element]]:
    """The cases of the tests that failed, by the test's name for pytest."""
    failed: dict[str, list[ElementTree.Element]] = {}
    for case in tree.iter("testcase"):
        if _outcome(case) is not None:
            failed.setdefault(f"{case.get('file')}::{case.get('name')}", []).append(case)
    return failed


def _outcome(case: ElementTree.Element) -> ElementTree.Element | None:
    """What a case says of its failure."""
    failure = case.find("failure")
    return case.find("error") if failure is None else failure


def _run(test: str, report: Path) -> ElementTree.Element | None:
    """The case of a test that is run by itself, or None if it did not pass."""
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", test, f"--junitxml={report}"]
    done = subprocess.run([*command, "-o", "junit_family=xunit1"])
    if done.returncode != 0:
        return None
    cases = list(ElementTree.parse(report).iter("testcase"))
    return cases[0] if len(cases) == 1 and cases[0].find("skipped") is None else None


def _reason(case: ElementTree.Element) -> str:
    """Why a case failed, in one line."""
    outcome = _outcome(case)
    said = "" if outcome is None else outcome.get("message") or outcome.text or ""
    line = " ".join(said.split())
    return line if len(line) <= 300 else line[:299] + "…"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
