"""The quickstart, executed from first cell to last, and what its prose says about the result."""

import json
import math
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import vitoolkit as vt

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# Appended as a last cell, so that a test sees the variables of the notebook.
PROBE = """
import json
columns = [mean_terms(step).to_dict() for step in (DRAG, RELEASE, END)]
print(json.dumps({
    "terms": dict(zip(["before", "held", "end"], columns)),
    "numbers": {name: int(count) for name, count in numbers.items()},
    "beta": beta.value,
    "manual": beta.manual,
    "distance": distance.tolist(),
    "slope_sd": steered_table.loc["slope", "sd"].tolist(),
    "sd_ratio": (steered_table["sd"] / plain_table["sd"]).tolist(),
    "group_effect": steered_table.loc["group_effect", "mean"].to_dict(),
    "people": groups["people"].to_dict(),
    "visits": [float(visits.mean()), float(visits.var())],
}))
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(NOTEBOOKS / "quickstart.ipynb", folder)
    notebook = nbformat.read(folder / "quickstart.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return folder, notebook


@pytest.fixture(scope="module")
def numbers(executed):
    (output,) = executed[1].cells[-1].outputs
    return json.loads(output.text)


@pytest.fixture(scope="module")
def trace(executed):
    return vt.Trace.open(executed[0] / "runs" / "quickstart.nc")


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_committed_without_outputs(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.compiled
def test_every_code_cell_ran_in_order_and_complained_of_nothing(executed):
    code = [c for c in executed[1].cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    said = [o.text for cell in code for o in cell.outputs if o.get("name") == "stderr"]
    # Without a BLAS library PyTensor 2 says so once; that is the machine's, not the notebook's.
    assert not [text for text in said if "Warning" in text and "BLAS" not in text]


@pytest.mark.compiled
def test_pictures_are_left_that_need_no_kernel(executed):
    code = [c for c in executed[1].cells if c.cell_type == "code"]
    fits = [c for c in code if "dashboard]" in c.source or "dashboard, hand]" in c.source]
    assert len(fits) == 2
    for cell in fits:
        assert any("<img src=" in o.get("data", {}).get("text/html", "") for o in cell.outputs)
    assert sum("image/png" in o.get("data", {}) for c in code for o in c.outputs) == 1


@pytest.mark.compiled
def test_data_are_as_described(numbers):
    people = list(numbers["people"].values())
    assert (len(people), people[0], people[-1], sum(people)) == (24, 3_782, 6, 20_190)
    mean, variance = numbers["visits"]
    assert 6.5 < variance / mean < 7.5


@pytest.mark.compiled
def test_beta_warms_up_is_dragged_and_ends_at_1(numbers, trace):
    assert (numbers["beta"], numbers["manual"]) == (1.0, False)
    beta = trace.control["beta"]
    assert len(beta) == 40_000
    assert beta[[0, 2_500, 5_000, 20_999]].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert beta[[21_000, 24_999, 25_000, -1]].tolist() == [8.0, 8.0, 1.0, 1.0]
    rate = trace.control["learning_rate"]
    assert rate[0] == pytest.approx(2e-2)
    assert (np.diff(rate[:20_000]) <= 0).all()
    assert rate[[31_999, 32_000]] == pytest.approx([2e-3, 2e-4])


@pytest.mark.compiled
def test_events_say_what_was_done_when_and_by_whom(trace):
    events = [(e.step, e.kind, e.control, e.source) for e in trace.events]
    assert events == [
        (21_000, "set", "beta", "code"),
        (25_000, "release", "beta", "code"),
        (32_000, "set", "learning_rate", "code"),
    ]
    assert trace.attrs["status"] == "finished"


@pytest.mark.compiled
def test_a_slope_costs_what_its_precision_costs(numbers):
    assert numbers["slope_sd"] == pytest.approx([0.01] * 4, rel=0.25)
    kl = numbers["terms"]["before"]["slope"] / numbers["numbers"]["slope"]
    assert kl == pytest.approx(math.log(100) - 0.5, abs=0.3)


@pytest.mark.compiled
def test_beta_8_takes_a_nat_a_number_where_data_are_strong_and_most_where_weak(
    numbers,
):
    before, held, end = (numbers["terms"][key] for key in ("before", "held", "end"))
    for name in ("intercept", "slope", "dispersion"):
        given_up = (before[name] - held[name]) / numbers["numbers"][name]
        assert given_up == pytest.approx(math.log(math.sqrt(8)), abs=0.25), name
    assert held["group_effect"] < 0.4 * before["group_effect"]
    assert before["group_sd"] < held["group_sd"] < before["group_sd"] + 1
    assert held["elbo"] < min(before["elbo"], end["elbo"])
    for name, count in numbers["numbers"].items():
        assert end[name] == pytest.approx(before[name], abs=0.1 * count + 0.2), name


@pytest.mark.compiled
def test_noise_of_the_data_term_is_as_stated(trace):
    noise = trace.data[-8_000:].std()
    assert noise > 1_000
    assert noise / math.sqrt(1_000) == pytest.approx(40, rel=0.25)
    kl = sum(trace.kl[name][-8_000:] for name in trace.variables)
    assert kl.std() < 10


@pytest.mark.compiled
def test_steered_and_plain_fit_agree(numbers):
    distance = np.array(numbers["distance"])
    assert len(distance) == sum(numbers["numbers"].values()) == 31
    assert distance.mean() < 0.5
    assert distance.max() < 2
    assert numbers["sd_ratio"] == pytest.approx([1.0] * 31, rel=0.25)


@pytest.mark.compiled
@pytest.mark.parametrize("health", ["excellent", "good", "fair"])
def test_who_pays_more_goes_less_often(numbers, health):
    effect = numbers["group_effect"]
    assert effect[f"pays 95%, {health}"] < effect[f"pays 0%, {health}"]


@pytest.mark.compiled
def test_exports_are_left_and_agree(executed, trace):
    runs = executed[0] / "runs"
    assert sorted(path.name for path in runs.iterdir()) == [
        "quickstart.csv",
        "quickstart.html",
        "quickstart.nc",
    ]
    assert vt.Trace.open(runs / "quickstart.csv").equals(trace)
    report = (runs / "quickstart.html").read_text(encoding="utf-8")
    assert "Doctor visits: steered ADVI" in report


@pytest.mark.compiled
def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(names["trace"]) == 20_000
    assert names["beta"].value == 1.0
    assert names["same"].equals(names["trace"])
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert [link for link in links if not (NOTEBOOKS.parent / link).exists()] == []
