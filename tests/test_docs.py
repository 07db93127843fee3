"""The pages of the documentation: their code runs, and every public name has its place."""

import inspect
import re
from pathlib import Path

import pytensor
import pytest

import vitoolkit as vt
from vitoolkit import rules, schedules

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NEEDS_A_NOTEBOOK = {"front_ends"}
CODE = {
    page: re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    for page in PAGES
}


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if CODE[p] and p.stem not in NEEDS_A_NOTEBOOK],
    ids=lambda page: page.stem,
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        for block in CODE[page]:
            exec(compile(block, page.name, "exec"), names)


def public_names():
    for module, prefix in ((vt, ""), (schedules, "schedules."), (rules, "rules.")):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) or inspect.isfunction(found):
                yield prefix + name, found


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^   ([\w.]+)$", (DOCS / "api.md").read_text("utf-8"), re.M)
    assert sorted(set(listed) - {"dashboard.check"}) == sorted(name for name, _ in public_names())


@pytest.mark.parametrize(("name", "found"), list(public_names()), ids=lambda value: str(value)[:40])
def test_a_public_name_has_an_example(name, found):
    assert ">>>" in inspect.getdoc(found), f"{name} has no example"
