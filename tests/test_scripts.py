"""The gate's counting: a test that fails once and then passes is named; nothing else runs again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
TESTS = """
from pathlib import Path
import pytest

def once(name):
    with open("ran.txt", "a") as file:
        file.write(name + " ")
    return Path("ran.txt").read_text().split().count(name)

@pytest.fixture
def closing():
    yield
    if once("end") == 1:
        raise OSError("page is gone")

@pytest.fixture
def opening():
    if once("opening") == 1:
        raise TimeoutError("waited 90 s\\n for the kernel")

def test_good():
    once("good")

@pytest.mark.parametrize("kernel", ["newest", "6.31.0"])
def test_shaky(kernel):
    assert once(kernel) > 1 or kernel == "newest", "the page\\nwas slow"

def test_not_opened(opening):
    once("opened")

def test_fails_and_its_end_too(closing):
    assert once("twice") > 1, "slow"

def test_bad():
    assert once("bad") < 0, "wrong"

def test_skipped():
    pytest.skip("no browser")
"""


@pytest.fixture
def run(tmp_path):
    """Run tests as scripts/test does the browser tests; exit status, printed words, what ran."""
    environment = os.environ | {"VITOOLKIT_REQUIRE_BROWSER": "0"}

    def python(*command):
        command = [sys.executable, *map(str, command)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    def run(tests, *select, required="0"):
        environment["VITOOLKIT_REQUIRE_BROWSER"] = required
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        (tmp_path / "test_it.py").write_text(tests)
        for name in ("doctests", "tests"):
            case = "<testsuite><testcase classname='a' name='b'/></testsuite>"
            (tmp_path / f"junit-{name}.xml").write_text(case)
        report = ("-o", "junit_family=xunit1", "--junitxml=junit-browser.xml")
        first = python("-m", "pytest", "-p", "no:cacheprovider", *report, *select, "test_it.py")
        again = python(SCRIPTS / "again.py", "junit-browser.xml")
        assert not again.stderr, again.stderr
        outcome = "failed" if first.returncode != 1 or again.returncode else "passed"
        told = python(SCRIPTS / "outcome.py", ".", "passed", "passed", "passed", outcome)
        ran = (tmp_path / "ran.txt").read_text().split()
        return told.returncode, again.stdout, told.stdout.strip().splitlines()[-1], ran

    return run


def test_what_failed_is_run_once_more_and_named_if_it_passes(run):
    status, words, last, ran = run(TESTS)
    assert status == 1
    # One check, two other runs and five of these; the skipped one is neither.
    assert last == "8 passed, 1 failed"
    flaky = re.findall("^FLAKY test_it.py::(.*)", words, flags=re.MULTILINE)
    told = [
        "test_shaky[6.31.0]: AssertionError: the page was slow assert",
        'test_not_opened: failed on setup with "TimeoutError: waited 90 s for the kernel"',
        "test_fails_and_its_end_too: AssertionError: slow assert 1 > 1",
    ]
    assert len(flaky) == len(told)
    assert [line.startswith(start) for line, start in zip(flaky, told, strict=True)] == [True] * 3
    twice = {"6.31.0", "opening", "twice", "end", "bad"}
    assert {name: ran.count(name) for name in ran} == {
        name: 2 if name in twice else 1 for name in ran
    }


def test_flaky_tests_alone_fail_nothing(run):
    shaky = ("-k", "good or shaky or opened")
    status, _, last, _ = run(TESTS, *shaky)
    assert (status, last) == (0, "7 passed, 0 failed")


def test_a_skip_where_none_may_be_fails_and_is_not_run_again(run):
    status, words, last, _ = run(TESTS, "-k", "good or skipped", required="1")
    assert (status, words, last) == (1, "", "4 passed, 1 failed")


def test_many_failures_are_no_accident(run):
    tests = TESTS + "".join(
        f"\ndef test_many_{i}():\n    assert once('{i}') > 1\n" for i in range(9)
    )
    status, words, last, ran = run(tests, "-k", "many")
    assert "9 tests failed" in words and "FLAKY" not in words
    assert (status, ran) == (1, [str(i) for i in range(9)])
    assert last == "3 passed, 9 failed"
