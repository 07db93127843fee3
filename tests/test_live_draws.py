"""The number of draws a step as a control: the draws are PyMC's, and nothing is compiled anew."""

import numpy as np
import pymc as pm
import pytest
from models import regression, two_gaussians

import vitoolkit as vt


def fitted(model, n, draws, fast, **options):
    return vt.fit(n, model=model, obj_n_mc=draws, random_seed=1, **fast, **options)


def lone(fast, n, draws, **options):
    """A fit whose q stays N(0, 1) while log p is that of N(0, 2²): its loss is of the noise."""
    with pm.Model() as model:
        pm.Normal("z", 0.0, 2.0, shape=2)
    start = {"optimizer": pm.sgd, "learning_rate": vt.LearningRate(1e-300, bounds=(1e-300, 1))}
    return fitted(model, n, draws, fast, **start, start_sigma={"z": 1.0}, **options)


def losses(noise, sd):
    """Mean over the draws of log q - log p, for noise of shape (draws, 2)."""
    return np.mean(np.sum(-0.5 * noise**2 + 0.5 * (sd * noise / 2) ** 2 + np.log(2 / sd), axis=1))


@pytest.mark.parametrize(
    ("build", "draws"), [(two_gaussians, 3), (lambda: regression(minibatch=True), 1)]
)
def test_it_is_the_fit_of_so_many_draws_and_of_pymc(fast, build, draws):
    """Noise and the rows of a minibatch have the streams that they have in PyMC."""
    fixed = fitted(build(), 60, draws, fast)
    live = fitted(build(), 60, vt.Draws(draws, bounds=(1, 16)), fast)
    np.testing.assert_allclose(live.trace.loss, fixed.trace.loss, rtol=1e-13)
    generators = [fit.inference.step_function.state for fit in (live, fixed)]
    states = [
        [v.get_value().bit_generator.state for name, v in found.items() if "generator" in name]
        for found in generators
    ]
    assert sorted(map(str, states[0])) == sorted(map(str, states[1]))
    with build():
        stock = pm.ADVI(random_seed=1)
        stock.fit(60, obj_n_mc=draws, obj_optimizer=pm.adam, **fast)
    np.testing.assert_allclose(live.trace.loss, stock.hist, rtol=1e-9)


@pytest.mark.parametrize("steps_per_execution", [1, 7])
def test_each_step_has_the_draws_that_are_asked_of_it(fast, steps_per_execution):
    schedule = vt.schedules.piecewise_constant([1, 5, 2, 1], boundaries=[20, 30, 40])
    draws = vt.Draws(schedule=schedule, bounds=(1, 5))
    fit = lone(fast, 0, draws, steps_per_execution=steps_per_execution)
    (generator,) = (
        v for name, v in fit.inference.step_function.state.items() if name.startswith("generator")
    )
    stream = generator.get_value(borrow=False)
    fit.refine(50, progressbar=False)
    counts = fit.trace.control["draws"].astype(int)
    assert counts.tolist() == [1] * 20 + [5] * 10 + [2] * 10 + [1] * 10
    sd = fit.approx.std.eval()
    expected = [losses(stream.normal(size=(count, 2)), sd) for count in counts]
    np.testing.assert_allclose(fit.trace.loss, expected, atol=1e-8)
    compiled = fit.inference.step_function.function
    draws.set(4)
    fit.refine(5, progressbar=False)
    expected = [losses(stream.normal(size=(4, 2)), sd) for _ in range(5)]
    np.testing.assert_allclose(fit.trace.loss[50:], expected, atol=1e-8)
    assert fit.inference.step_function.function is compiled
    assert [(e.kind, e.old, e.new) for e in fit.trace.events] == [("set", 1.0, 4.0)]


def test_on_the_backend_of_this_pymc_with_steps_in_one_call(gaussians):
    """In its own mode, not the quick one: what people run."""
    draws = vt.Draws(
        schedule=vt.schedules.piecewise_constant([3, 1, 16, 2], boundaries=[100, 200, 230])
    )
    quiet = {"progressbar": False}
    traces = []
    for steps in (1, 50):
        traces.append(fitted(gaussians, 300, draws, quiet, steps_per_execution=steps).trace)
        draws.reset()
    np.testing.assert_array_equal(traces[0].values(), traces[1].values())


def test_a_run_with_moves_is_repeated(fast):
    model = regression(minibatch=True)

    def moves(approx, losses, i):
        if i in (40, 80):
            fit_draws.set({40: 6, 80: 2}[i])

    fit_draws = vt.Draws(1)
    options = {"steps_per_execution": 5}
    once = fitted(model, 120, fit_draws, fast, callbacks=vt.every(20, moves), **options)
    again = fitted(model, 120, vt.Draws(1), fast, replay=once.trace, **options)
    np.testing.assert_array_equal(again.trace.values(), once.trace.values())


def test_a_fit_goes_on_in_another_process(fast, gaussians, tmp_path):
    """Draws of the next call that were taken ahead are taken again."""
    schedule = vt.schedules.piecewise_constant([1, 6, 2], boundaries=[40, 80])
    options = {"steps_per_execution": 7}
    whole = fitted(gaussians, 120, vt.Draws(schedule=schedule), fast, **options)
    path = tmp_path / "run.db"
    stop = vt.watch("step >= 90", then="stop")
    more = {"callbacks": stop, "record": vt.Journal(path, seconds=0.001), **options}
    fitted(gaussians, 120, vt.Draws(schedule=schedule), fast, **more)
    resumed = vt.resume(path, model=gaussians, callbacks=[], progressbar=False)
    np.testing.assert_array_equal(resumed.trace.values(), whole.trace.values())


def test_another_bound_takes_the_same_code(fast, gaussians):
    fitted(gaussians, 5, vt.Draws(1, bounds=(1, 4)), fast)
    second = fitted(gaussians, 5, vt.Draws(2, bounds=(1, 32), name="n"), fast)
    # With PyMC 5 no scan over draws is reused, be their number fixed or not.
    assert second.inference.run.reused == (pm.__version__ >= "6")
    assert second.controls["n"].value == 2.0


def test_it_is_a_whole_number():
    draws = vt.Draws(3.0)
    draws.set(4.4)
    assert draws.value == 4.0 and draws.shared.get_value() == 4
    assert vt.Draws(schedule=vt.schedules.linear(1, 9, steps=8)).advance(3) == 4.0
    assert repr(vt.Draws(2, bounds=(1, 8))) == "<Draws 'draws' = 2, bounds [1, 8]>"
    with pytest.raises(ValueError, match=r"draws must be in \[1, 16\], received 17"):
        draws.set(17)
    with pytest.raises(ValueError, match="low bound of 'draws' must be a whole number of draws"):
        vt.Draws(1, bounds=(0, 4))
    with pytest.raises(TypeError, match="high bound of 'draws' must be a whole number of draws"):
        vt.Draws(1, bounds=(1, 4.5))


def test_what_is_refused(gaussians):
    with pytest.raises(ValueError, match="JAX compiles for one number of draws"):
        fitted(gaussians, 5, vt.Draws(), {"compile_kwargs": {"mode": "JAX"}})
    with pytest.raises(TypeError, match="obj_n_mc must be a whole number of draws"):
        fitted(gaussians, 5, vt.Control(2.0), {})
