"""The script of a run gives its numbers, or says in words what it cannot tell."""

import numpy as np
import pymc as pm
import pytensor
import pytest
from models import two_gaussians

import vitoolkit as vt
from vitoolkit.script import _identifiers


@pytest.fixture(autouse=True, scope="module")
def quick():
    """A script has the mode that everybody's has: here it compiles in a moment."""
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        yield


def scripted(trace):
    names = {"model": two_gaussians()}
    exec(trace.to_script(), names)
    return names["fit"]


def act(fit_of, *changes):
    """A callback that does this at these steps."""

    def at(approx, losses, i):
        for step, change in changes:
            if step == i:
                change(fit_of())

    return vt.every(10, at)


def plain():
    return {}, ()


def started():
    start = {"z": np.array(0.1 + 0.2), "w": -1.0}
    return {"start": start, "start_sigma": {"z": 0.3}}, ()


def started_full_rank():
    return {"method": "fullrank_advi", "start": {"w": np.float32(1.1)}}, ()


def frozen():
    freeze = 20, lambda inference: inference.freeze("z")
    thaw = 40, lambda inference: inference.thaw("z", source="user")
    return {"freezable": ["z"]}, (freeze, thaw)


def frozen_from_the_start():
    return {"freezable": True}, ((0, lambda inference: inference.freeze("w")),)


def rates_by_variable():
    rates = {"z": vt.schedules.cosine(0.1, 0.01, steps=50), "w": vt.LearningRate(0.2, name="fast")}
    slower = 30, lambda inference: inference.run.controls[-1].set(0.05)
    return {"learning_rate": rates, "optimizer": pm.adam(beta1=0.8)}, (slower,)


def rate_of_one_variable():
    rest = vt.LearningRate(0.03, name="lambda")
    return {"learning_rate": {"z": 0.1}, "optimizer": pm.sgd(learning_rate=rest)}, ()


def capacity():
    ramp = vt.schedules.linear(0.0, 1.0, steps=40)
    return {"penalty": {"z": vt.penalties.capacity(ramp, gamma=5.0)}, "beta": {"z": 2.0}}, ()


def one_level_for_all():
    level = vt.Control(0.5, bounds=(0.0, 3.0), name="level")
    raised = 30, lambda inference: inference.penalty["w"].level.set(1.5)
    return {"penalty": vt.penalties.free_bits(level)}, (raised,)


def sticking():
    return {"gradient_estimator": "stl", "average": True, "gradient": True}, ()


def draws():
    more = 30, lambda inference: inference.run.controls[1].set(3)
    return {"obj_n_mc": vt.Draws(1, bounds=(1, 4), name="model")}, (more,)


RUNS = (
    plain, started, started_full_rank, frozen, frozen_from_the_start, rates_by_variable,
    rate_of_one_variable, capacity, one_level_for_all, sticking, draws,
)  # fmt: skip


@pytest.mark.parametrize("run", RUNS, ids=[run.__name__ for run in RUNS])
def test_a_script_gives_the_numbers_of_the_run(run):
    options, changes = run()
    whose = {}
    watch = act(lambda: whose["inference"], *changes)

    class Seen(vt.Callback):
        def on_fit_start(self, started):
            whose["inference"] = started.inference
            for step, change in changes:
                if step == 0:
                    change(started.inference)

    once = vt.fit(
        60, model=two_gaussians(), random_seed=7, callbacks=[Seen(), watch], progressbar=False,
        steps_per_execution=10, **options,
    )  # fmt: skip
    repeated = scripted(once.trace)
    np.testing.assert_array_equal(repeated.trace.values(), once.trace.values())
    for here, there in zip(repeated.approx.params, once.approx.params, strict=True):
        np.testing.assert_array_equal(here.get_value(), there.get_value())
    told = [
        [(e.step, e.kind, e.control, e.old, e.new) for e in fit.trace.events]
        for fit in (repeated, once)
    ]
    assert told[0] == told[1] and len(told[0]) == len(changes)
    assert repeated.trace.attrs["fingerprint"] == once.trace.attrs["fingerprint"]


def test_what_a_script_cannot_tell_is_said():
    with pm.Model() as model:
        pm.Normal("z", shape=2_000)
    start = {"z": np.linspace(0, 1, 2_000)}
    fit = vt.fit(2, model=model, start=start, random_seed=1, progressbar=False)
    with pytest.raises(ValueError, match="start of 'z' was an array of 2,000 numbers"):
        fit.trace.to_script()


def test_parameters_that_were_set_by_hand_are_missed():
    with two_gaussians():
        inference = vt.ADVI(random_seed=1)
    inference.approx.params[0].set_value(np.ones(2))
    fit = vt.fit(5, method=inference, progressbar=False)
    with pytest.raises(ValueError, match="parameters: .* was recorded"):
        scripted(fit.trace)


def test_names_of_python():
    found = _identifiers(["beta[z]", "beta_z", "lambda", "1st", "pm", "fit", "β"])
    assert list(found.values()) == [
        "beta_z", "beta_z_", "control_lambda", "control_1st", "control_pm", "control_fit", "β",
    ]  # fmt: skip
