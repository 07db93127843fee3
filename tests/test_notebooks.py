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
        (0, "pause", None, "code"),  # nobody is there to press Start: it goes on by itself
        (0, "resume", None, "code"),
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
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(names["trace"]) == 20_000
    assert names["beta"].value == 1.0
    assert names["same"].equals(names["trace"])
    # A package index shows the README alone: every link is absolute, and what it names is here.
    assert re.findall(r"\]\(([^)#:]+)\)", readme) == []
    links = re.findall(r"\(https://[\w.]+/vitoolkit/vitoolkit/(?:blob/)?main/([^)#]+)\)", readme)
    assert len(links) > 8
    assert [link for link in links if not (NOTEBOOKS.parent / link).exists()] == []


# --- the other notebooks --------------------------------------------------------------------------


def execute(name, probe, folder):
    """Run a notebook from first cell to last, and a probe behind it: cells, what the probe says."""
    shutil.copy(NOTEBOOKS / name, folder)
    notebook = nbformat.read(folder / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(probe))
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    (output,) = notebook.cells[-1].outputs
    return [c for c in notebook.cells[:-1] if c.cell_type == "code"], json.loads(output.text)


def assert_ran_in_silence(code, pictures):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    said = [o.text for cell in code for o in cell.outputs if o.get("name") == "stderr"]
    assert not [text for text in said if "Warning" in text and "BLAS" not in text]
    assert sum("image/png" in o.get("data", {}) for c in code for o in c.outputs) == pictures


SCALING_PROBE = """
import json
print(json.dumps({
    "c": [c, N / BATCH],
    "errors": [z_on.ravel().tolist(), z_off.ravel().tolist()],
    "sd_ratio": (sd_off / sd_on).ravel().tolist(),
    "by_size": {f"{switch} {column}": by_size.loc[switch, column].tolist()
                for switch in ("on", "off") for column in ("mean", "sd")},
    "sizes": sizes,
    "loss": trace.loss.tolist(),
    "elbo": trace.elbo.tolist(),
    "rate": trace.control["learning_rate"].tolist(),
    "adam_difference": float(adam_difference),
    "sgd_difference": float(np.abs(runs["sgd, off, rate / c"] / sgd_on - 1).max()),
    "exploded": [len(exploded), float(exploded[0]), float(exploded[3])],
    "ends": ends.tolist(),
    "constants": constants.to_dict(orient="list"),
}))
"""


@pytest.fixture(scope="module")
def scaling(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    return execute("scale_cost_to_minibatch.ipynb", SCALING_PROBE, folder)


@pytest.mark.compiled
def test_scaling_ran_and_said_why_adam_is_not_compensated(scaling):
    code, _ = scaling
    assert_ran_in_silence(code, pictures=3)
    said = "".join(o.text for cell in code for o in cell.outputs if o.get("name") == "stdout")
    assert "the learning rate of adam is not compensated" in said
    assert "NaN occurred in optimization" in said


@pytest.mark.compiled
def test_the_gradient_of_a_minibatch_is_that_of_the_elbo_over_c(scaling):
    _, numbers = scaling
    assert numbers["c"][0] == pytest.approx(numbers["c"][1])
    errors = np.array(numbers["errors"])
    assert errors.shape == (2, 10)
    assert (abs(errors) < 4.5).all()
    assert (abs(errors) < 2).mean() > 0.5
    assert numbers["sd_ratio"] == pytest.approx([numbers["c"][0]] * 10, rel=0.1)


@pytest.mark.compiled
def test_mean_and_noise_of_the_gradient_go_with_the_batch_as_stated(scaling):
    _, numbers = scaling
    sizes, by_size = np.array(numbers["sizes"]), numbers["by_size"]
    mean_on, sd_on = np.array(by_size["on mean"]), np.array(by_size["on sd"])
    np.testing.assert_allclose(by_size["off mean"], np.mean(by_size["off mean"]), rtol=0.05)
    np.testing.assert_allclose(mean_on / sizes, (mean_on / sizes).mean(), rtol=0.05)
    np.testing.assert_allclose(sd_on / sizes**0.5, (sd_on / sizes**0.5).mean(), rtol=0.15)
    assert by_size["off sd"][0] / by_size["off sd"][-1] == pytest.approx(10, rel=0.2)


@pytest.mark.compiled
def test_flipping_the_switch_multiplies_the_loss_and_leaves_the_elbo(scaling):
    _, numbers = scaling
    c, (loss, elbo, rate) = (
        numbers["c"][0],
        (np.array(numbers[k]) for k in ("loss", "elbo", "rate")),
    )
    for first, factor in [(0, 1), (1_000, c), (2_000, 1)]:
        part = slice(first, first + 1_000)
        np.testing.assert_allclose(loss[part], -elbo[part] * factor / c, rtol=1e-6)
        np.testing.assert_allclose(rate[part], 1e-3 / factor, rtol=1e-6)
    assert elbo[1_000:2_000].mean() == pytest.approx(elbo[2_000:].mean(), rel=0.02)


@pytest.mark.compiled
def test_what_helps_against_explosions_helps(scaling):
    _, numbers = scaling
    assert numbers["adam_difference"] < 1e-3
    assert numbers["sgd_difference"] < 1e-6
    steps, first, fourth = numbers["exploded"]
    assert steps < 100
    assert fourth < 1e6 * first
    assert numbers["ends"] == pytest.approx([numbers["ends"][0]] * 4, rel=0.03)


@pytest.mark.compiled
def test_stock_pymc_is_wrong_from_two_dimensions_on_and_we_are_not(scaling):
    constants = scaling[1]["constants"]
    assert constants["dimensions"] == [1, 2, 3]
    assert constants["N/b"] == pytest.approx([1_797 / 64] * 3)
    left = np.array(constants["vitoolkit: distance left"])
    stock = np.array(constants["PyMC: distance left"])
    assert (left < 0.1).all()
    assert stock[0] == pytest.approx(left[0])
    if constants["PyMC: c"][1] != pytest.approx(1_797 / 64):  # until PyMC mends it
        assert stock[1] > 2 * left[1]
        assert stock[2] > 0.9


VAE_PROBE = """
import json
units = trace.kl_by["z"] / N
cold_units = cold_recorder.trace.kl_by["z"] / N
conv_column = comparison.columns[1]
print(json.dumps({
    "table": table.to_dict(),
    "conv": comparison[conv_column].to_dict(),
    "dense_weights": float(comparison.iloc[-1, 0]),
    "conv_difference": float(conv_difference),
    "cold_early": int((cold_units[500:1_000].mean(axis=0) < 0.05).sum()),
    "beta": trace.control[beta.name][[0, 750, 1_500, STEPS - 1, STEPS]].tolist(),
    "parts_add_up": float(np.abs(units.sum(axis=1) * N / trace.kl["z"] - 1).max()),
    "average_error": float(((test_images - train_images.mean(axis=0)) ** 2).mean() ** 0.5),
    "moved": [float(np.ptp(at_4["walk"][unit], axis=0).max()) for unit in order],
}))
"""


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return execute("beta_vae_digits.ipynb", VAE_PROBE, tmp_path_factory.mktemp("vae"))


@pytest.mark.compiled
def test_vae_ran_and_left_its_pictures(vae):
    code, numbers = vae
    assert_ran_in_silence(code, pictures=9)
    assert numbers["beta"] == [0.0, 0.5, 1.0, 1.0, 4.0]
    assert numbers["parts_add_up"] < 1e-6


@pytest.mark.compiled
def test_beta_4_pays_less_for_worse_images_with_fewer_units(vae):
    one, four = vae[1]["table"]["β = 1"], vae[1]["table"]["β = 4"]
    assert four["KL of z, nats an image"] < 0.5 * one["KL of z, nats an image"]
    assert four["active units"] < one["active units"]
    error = "error a pixel, test images"
    assert one[error] < four[error] < vae[1]["average_error"]
    assert one["ELBO, nats an image"] > four["ELBO, nats an image"]


@pytest.mark.compiled
def test_a_unit_switched_off_hardly_changes_the_image(vae):
    four, moved = vae[1]["table"]["β = 4"], vae[1]["moved"]
    active = int(four["active units"])
    assert max(moved[active:]) < 0.3
    assert max(moved[active:]) < 0.5 * np.mean(moved[:active])


@pytest.mark.compiled
def test_collapse_is_provoked_and_cured(vae):
    cured, collapsed = (vae[1]["table"][name] for name in ("β = 1", "β = 1, no warm-up"))
    assert collapsed["active units"] <= 6 < 9 <= cured["active units"]
    assert vae[1]["cold_early"] >= 4
    assert cured["ELBO, nats an image"] > collapsed["ELBO, nats an image"] + 5
    error = "error a pixel, test images"
    assert cured[error] < 0.9 * collapsed[error]


@pytest.mark.compiled
def test_the_convolutional_encoder_convolves_and_is_as_good_with_fewer_weights(vae):
    dense, conv = vae[1]["table"]["β = 1"], vae[1]["conv"]
    assert vae[1]["conv_difference"] < 1e-12
    error = "error a pixel, test images"
    assert conv[error] == pytest.approx(dense[error], rel=0.15)
    assert conv["weights in the encoder"] < 0.5 * vae[1]["dense_weights"]


RULES_PROBE = """
import json
print(json.dumps({
    "x": [mean, sd],
    "rates": [event.new for event in plateau.trace.events],
    "last_fifth": last_fifth,
    "beta": steered.trace.control["beta"][[0, 1_000, 1_299, 1_300]].tolist(),
    "equal": equal,
    "from_script": from_script,
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    return execute("steering_by_rule.ipynb", RULES_PROBE, tmp_path_factory.mktemp("rules"))


@pytest.mark.compiled
def test_the_plateau_rule_reaches_the_exact_posterior(rules):
    code, numbers = rules
    assert_ran_in_silence(code, pictures=2)
    assert numbers["x"] == pytest.approx([8.0, 0.2**0.5], abs=0.05)
    assert len(numbers["rates"]) > 3 and numbers["rates"] == sorted(numbers["rates"], reverse=True)


@pytest.mark.compiled
def test_the_kl_of_the_digits_is_held_at_its_target(rules):
    numbers = rules[1]
    assert numbers["last_fifth"] == pytest.approx(20.0, rel=0.05)
    beta = numbers["beta"]
    assert beta[:3] == [0.2, 1.0, 1.0] and beta[3] == pytest.approx(1.0, abs=0.1)


@pytest.mark.compiled
def test_the_notebooks_replays_are_equal_and_another_fit_is_refused(rules):
    numbers = rules[1]
    assert all(numbers["equal"].values()) and len(numbers["equal"]) == 4
    assert numbers["from_script"] is True
    assert "seed: 1 was recorded, here it is 2" in numbers["refused"]


LONG_PROBE = """
import json
print(json.dumps({
    "left": len(left),
    "events": [event.kind for event in fit.trace.events],
    "equal": {name: bool(value) for name, value in equal.items()},
    "rows": len(fit.trace),
    "status": found.status.values.tolist(),
    "rate": found.rate.values.tolist(),
    "distortion": found.distortion.values.tolist(),
}))
"""


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory):
    return execute("long_runs.ipynb", LONG_PROBE, tmp_path_factory.mktemp("long"))


@pytest.mark.compiled
def test_the_killed_fit_goes_on_as_if_nothing_had_happened(long_runs):
    code, numbers = long_runs
    assert_ran_in_silence(code, pictures=1)
    assert 2_000 < numbers["left"] < numbers["rows"] == 6_000
    assert numbers["equal"] == {"losses": True, "KL": True, "q": True}
    assert "note" in numbers["events"]


@pytest.mark.compiled
def test_more_beta_is_less_rate_and_more_distortion(long_runs):
    numbers = long_runs[1]
    assert numbers["status"] == ["finished"] * 4
    assert numbers["rate"] == sorted(numbers["rate"], reverse=True)
    assert numbers["distortion"] == sorted(numbers["distortion"])


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_says_with_which_versions_it_was_run(path):
    last = nbformat.read(path, as_version=4).cells[-1]
    assert last.source == "%load_ext watermark\n%watermark -n -u -v -iv -w"
