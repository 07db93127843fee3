"""The fingerprint of a run: equal where the numbers are, and what differs is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.fingerprint import differences, fingerprint_of

X = np.random.default_rng(0).normal(size=(40, 2))


def build(sd=1.0, y=X[:, 0], x=X, name="z", batch=None, extra=False):
    with pm.Model() as model:
        data = pm.Data("x", x)
        weights = pm.Normal(name, 0.0, sd, shape=2)
        scale = pm.HalfNormal("scale")
        if extra:
            pm.Potential("ridge", -(weights**2).sum())
        if batch is None:
            pm.Normal("y", data @ weights, scale, observed=y)
        else:
            x_batch, y_batch = pm.Minibatch(x, y, batch_size=batch)
            pm.Normal("y", x_batch @ weights, scale, observed=y_batch, total_size=len(y))
    return model


def of(model, **options):
    return fingerprint_of(vt.ADVI(model=model, random_seed=3, **options))


def named(one, two):
    return {words.split(": ")[0] for words in differences(one, two)}


@pytest.fixture(scope="module")
def first():
    return of(build())


def test_the_same_model_built_again_has_the_same_fingerprint(first):
    assert of(build()) == first
    assert first["seed"] == 3 and first["method"] == "ADVI"


def test_an_observed_number_is_data_and_not_the_model():
    def one(observed):
        with pm.Model() as model:
            pm.Normal("y", pm.Normal("x"), 0.5, observed=observed)
        return of(model)

    assert named(one(10.0), one(11.0)) == {"data[y]"}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"sd": 2.0}, {"model"}),
        ({"name": "w"}, {"model", "approximation", "beta[w]", "beta[z]"}),
        ({"extra": True}, {"model"}),
        ({"y": X[:, 1]}, {"data[y]"}),
        ({"x": X + 1.0}, {"data[x]"}),
    ],
)
def test_what_differs_is_named(first, other, expected):
    assert named(first, of(build(**other))) == expected


def test_the_whole_data_set_of_a_minibatch_counts():
    changed = X[:, 0].copy()
    changed[-1] += 1e-12
    one, two = of(build(batch=5)), of(build(batch=5, y=changed))
    assert named(one, two) == {"data[y]"}


def test_options_count():
    one = of(build())
    assert named(one, of(build(), gradient=True)) == {"gradient"}
    assert named(one, of(build(), steps_per_execution=7)) == {"steps_per_execution"}
    assert named(one, of(build(), start={"z": [1.0, 2.0]})) == {"parameters", "start[z]"}
    two = fingerprint_of(vt.FullRankADVI(model=build(), random_seed=3))
    assert {"method", "approximation", "parameters"} <= named(one, two)
    rate = vt.LearningRate(0.1)
    inference = vt.ADVI(model=build(), random_seed=3)
    adam = fingerprint_of(inference, {"obj_optimizer": pm.adam(learning_rate=rate.shared)})
    assert (
        adam["optimizer"].startswith("adam(") and "learning_rate=learning_rate" in adam["optimizer"]
    )
    sgd = fingerprint_of(inference, {"obj_optimizer": pm.sgd(learning_rate=0.1), "obj_n_mc": 3})
    assert named(adam, sgd) == {"optimizer", "obj_n_mc"}


def test_differences_name_both_sides():
    assert differences({"seed": 1}, {"seed": 2, "kl_by": "z"}) == [
        "kl_by: nothing was recorded, here it is z",
        "seed: 1 was recorded, here it is 2",
    ]


def test_a_fit_without_a_seed_draws_one_and_says_which():
    one, two = (vt.ADVI(model=build()) for _ in range(2))
    assert isinstance(one.seed, int) and one.seed != two.seed
    again = vt.ADVI(model=build(), random_seed=one.seed)
    assert fingerprint_of(again) == fingerprint_of(one)


def test_it_is_the_same_in_another_process(first):
    here = Path(__file__).parent
    code = (
        f"import sys, json; sys.path.insert(0, {str(here)!r})\n"
        "from test_fingerprint import build, of\n"
        "print(json.dumps(of(build())))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(here.parent)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout.splitlines()[-1]) == first


@pytest.fixture(scope="module")
def recorded():
    with build():
        return vt.fit(5, random_seed=3, progressbar=False)


@pytest.mark.parametrize("end", [".csv", ".parquet", ".nc", ".zarr", ".json"])
def test_a_trace_has_it_in_every_format(recorded, tmp_path, end):
    kept = recorded.trace.attrs["fingerprint"]
    assert (kept["n"], kept["first"], kept["seed"]) == (5, 0, 3)
    path = recorded.trace.save(tmp_path / f"fit{end}")
    assert vt.Trace.open(path).attrs["fingerprint"] == kept


def test_it_is_that_of_the_beginning_after_refine(recorded):
    kept = dict(recorded.trace.attrs["fingerprint"])
    recorded.refine(3, progressbar=False)
    assert recorded.trace.attrs["fingerprint"] == kept


def test_a_fit_of_pymcs_own_has_what_can_be_seen(recorded):
    recorder = vt.Recorder()
    with build():
        pm.fit(5, callbacks=[recorder], progressbar=False)
    kept, own = recorder.trace.attrs["fingerprint"], recorded.trace.attrs["fingerprint"]
    assert kept["model"] == own["model"] and kept["data[y]"] == own["data[y]"]
    assert kept["n"] == 5 and "seed" not in kept
