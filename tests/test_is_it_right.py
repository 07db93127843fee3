"""The notebook "Is it right?", executed from first cell to last, and what its prose says."""

import numpy as np
import pytest
from test_notebooks import assert_ran_in_silence, execute

PROBE = """
import json
named = {"unfinished": unfinished, "done": done, "funnel": funnel, "straight": straight,
         "centered": centered, "not centered": not_centered, "counts": counts}
print(json.dumps({
    "verdict": {name: d.verdict for name, d in named.items()},
    "khat": {name: d.khat for name, d in named.items()},
    "threshold": done.threshold,
    "mean": [float(stock.mean.eval()[0]), float(ruled.approx.mean.eval()[0])],
    "sd of v": [float(d.table["sd"]["v"]) for d in (funnel, straight)],
    "rhat": [funnel.rhat, centered.rhat],
    "bounds": {name: [d.elbo, d.iw_bound] for name, d in named.items()},
    "widths": widths.to_dict("list"),
    "calibration": [len(calibration.p), list(calibration.uncalibrated)],
}))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return execute("is_it_right.ipynb", PROBE, tmp_path_factory.mktemp("right"))


@pytest.mark.compiled
def test_it_ran_in_silence(ran):
    assert_ran_in_silence(ran[0], pictures=1)


@pytest.mark.compiled
def test_6271_is_not_finished_by_default_and_is_by_rule(ran):
    _, told = ran
    assert told["verdict"]["unfinished"].startswith("Not finished: the loss still falls by 8.")
    assert told["mean"] == pytest.approx([3.15, 8.0], abs=0.05)
    assert told["khat"]["unfinished"] > told["threshold"] > told["khat"]["done"]
    assert told["verdict"]["done"].startswith("Finished and still")


@pytest.mark.compiled
def test_the_funnel_is_over_the_threshold_until_it_is_straight(ran):
    _, told = ran
    assert told["khat"]["funnel"] > told["threshold"] > told["khat"]["straight"]
    narrow, exact = told["sd of v"]
    assert narrow < 2.0 and exact == pytest.approx(3.0, rel=0.1)
    assert max(told["rhat"]) < 1.1


@pytest.mark.compiled
def test_schools_that_are_not_centered_are_nearer(ran):
    _, told = ran
    assert told["khat"]["not centered"] < told["khat"]["centered"]
    centered, other = (told["bounds"][name] for name in ("centered", "not centered"))
    assert centered[0] < other[0] and centered[1] < other[1] + 0.2


@pytest.mark.compiled
def test_linear_response_has_the_widths_that_mean_field_lacks(ran):
    _, told = ran
    widths = {name: np.array(column) for name, column in told["widths"].items()}
    np.testing.assert_allclose(widths["lr_sd"], widths["laplace"], rtol=0.05)
    assert (widths["sd"] / widths["lr_sd"]).min() < 0.8
    assert told["khat"]["counts"] > told["threshold"]
    assert told["calibration"] == [30, []]
