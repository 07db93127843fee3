import asyncio
import copy
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pymc as pm
import pytest
from pymc.variational.opvi import ParametrizationError

import vitoolkit as vt


def test_one_call_gives_approximation_trace_controls_and_goes_on(gaussians, fast):
    fit = vt.fit(
        30,
        beta={"z": vt.schedules.linear(0.0, 1.0, steps=20)},
        learning_rate=vt.schedules.cosine(1e-2, 1e-3, steps=30),
        random_seed=1,
        **fast,
    )
    assert fit.approx is fit.inference.approx
    assert sorted(fit.controls) == ["beta[z]", "learning_rate"]
    assert len(fit.trace) == 30
    assert fit.trace.control["learning_rate"][0] == 1e-2
    fit.refine(5, progressbar=False)
    assert len(fit.trace) == 35
    posterior = fit.sample(20, random_seed=1)
    assert posterior.posterior["z"].shape == (1, 20)
    record = posterior["variational_trace"]
    np.testing.assert_array_equal(record["loss"], fit.trace.loss)


def test_groups_of_the_draws(gaussians, fast):
    fit = vt.fit(30, random_seed=1, **fast)
    draws = fit.sample(20, random_seed=1)
    elbo, stats = draws["fit"], draws["fit_stats"]
    assert list(elbo.data_vars) == ["elbo"] and elbo["elbo"].dims == ("step",)
    np.testing.assert_array_equal(elbo["elbo"], fit.trace.elbo)
    assert elbo["elbo"].attrs["units"] == "nats"
    np.testing.assert_array_equal(stats["kl"].sel(variable="z"), fit.trace.kl["z"])
    assert stats.attrs["verdict"] == fit.trace.attrs["verdict"] == elbo.attrs["verdict"]


def test_methods(gaussians, fast):
    assert isinstance(vt.fit(2, method="FullRank_ADVI", **fast).inference, vt.FullRankADVI)
    mine = vt.ADVI()
    assert vt.fit(2, method=mine, **fast).inference is mine


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "nuts"}, ValueError, "'advi', 'fullrank_advi'"),
        ({"optimizer": "adam"}, TypeError, "such as pm.adam.*received 'adam'"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate must be in \[1e-06, 1\]"),
        ({"beta": {"x": 1.0}}, KeyError, "'z', 'w'"),
        ({"record": "nowhere/run.db"}, FileNotFoundError, "no folder"),
        ({"callbacks": [1]}, TypeError, "each of callbacks must be callable"),
        (
            {"callbacks": 5},
            TypeError,
            r"callbacks must be a list .*\(approx, losses, i\), received 5",
        ),
        ({"dashboard": "yes"}, TypeError, "dashboard must be True or False, received 'yes'"),
        ({"dashboard": 5}, TypeError, "dashboard must be True or False, received 5"),
        ({"background": "no"}, TypeError, "background must be True or False, received 'no'"),
        ({"progressbar": 3}, TypeError, "progressbar must be True or False"),
        ({"gradient": "a"}, TypeError, "gradient must be True or False, received 'a'"),
        ({"every": 1.5}, TypeError, "every must be a whole number"),
        ({"n": 10**13}, ValueError, "losses alone take 80,000 GB.*every="),
        ({"n": 1.5}, TypeError, "n must be a whole number of steps from 0 up, received 1.5"),
        ({"obj_n_mc": 0}, ValueError, "obj_n_mc must be a whole number of draws from 1 up"),
        ({"obj_n_mc": "a"}, TypeError, "obj_n_mc must be a whole number of draws"),
        (
            {"lerning_rate": 0.1},
            TypeError,
            "no option 'lerning_rate'. Did you mean 'learning_rate'",
        ),
        ({"kl_bi": {}}, TypeError, "Did you mean 'kl_by'"),
        ({"obj_nmc": 2}, TypeError, "Did you mean 'obj_n_mc'"),
        ({"obj_optimizer": pm.adam}, TypeError, "takes optimizer= in place of obj_optimizer="),
        ({"compile_kwargs": 3}, TypeError, "compile_kwargs must be a mapping"),
        ({"total_grad_norm_constraint": -1}, ValueError, "from 0.0 up, received -1"),
        ({"closed_form": "z"}, TypeError, r"a list of names, such as \['z'\], received 'z'"),
        ({"kl_by": 3}, TypeError, "kl_by must be 'coordinate', a dim, or a mapping"),
        ({"total_size": 3}, TypeError, "total_size must be a mapping"),
        ({"steps_per_execution": 0}, ValueError, "whole number from 1 up"),
        ({"random_seed": "a"}, TypeError, "random_seed must be None or a whole number from 0"),
        ({"random_seed": -1}, ValueError, "random_seed must be None or a whole number from 0"),
        ({"model": 5}, TypeError, "model must be a pymc.Model, received 5"),
        ({"beta": None}, TypeError, "beta must be a number"),
        (
            {"beta": lambda step: -float(step)},
            ValueError,
            "received -1.0 from the schedule.*step 1",
        ),
        ({"start": 3}, TypeError, "start must be a mapping"),
        ({"start": {"q": 1.0}}, KeyError, "start was given for 'q': the model has no such"),
        ({"start": {"y_z": 1.0}}, KeyError, "it is observed"),
        ({"start": {"z": np.zeros(7)}}, ValueError, r"must have the shape \(\), received \(7,\)"),
        ({"start": {"z": np.nan}}, ValueError, "start of 'z' must be finite"),
        ({"start": {"z": "a"}}, TypeError, "start of 'z' must be a number or an array"),
        ({"start_sigma": {"q": 1.0}}, KeyError, "start_sigma was given for 'q'"),
        ({"start_sigma": {"z": 0.0}}, ValueError, "start_sigma of 'z' must be positive"),
        (
            {"method": "fullrank_advi", "start_sigma": {"z": 1.0}},
            TypeError,
            "belongs to method='advi', not to 'fullrank_advi'",
        ),
        ({"optimizer": dict}, TypeError, "such as pm.adam.*received <class 'dict'>"),
        (
            {"optimizer": pm.adam(learning_rate=0.1), "learning_rate": 0.2},
            TypeError,
            "given twice, as learning_rate=0.2 and as 0.1 in the optimizer",
        ),
    ],
)
@pytest.mark.parametrize("dashboard", [False, True])
def test_bad_arguments_are_refused_before_anything_is_shown_or_compiled(
    gaussians, monkeypatch, dashboard, arguments, error, message
):
    def never(*args, **kwargs):
        raise AssertionError("too late")

    monkeypatch.setattr("vitoolkit.inference.begin", never)
    with pytest.raises(error, match=message):
        vt.fit(**{"n": 10, "dashboard": dashboard, **arguments})


def nothing_to_fit():
    with pm.Model() as model:
        pm.Normal("y", observed=1.0)
    return model


def discrete():
    with pm.Model() as model:
        pm.Poisson("k", 3.0)
        pm.Normal("z")
    return model


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (pm.Model, TypeError, "nothing to fit: it needs a free variable.*variables are none"),
        (nothing_to_fit, TypeError, "nothing to fit: it needs a free variable.*variables are 'y'"),
        (discrete, ParametrizationError, "Discrete variables are not supported.*'k'. Marginalize"),
    ],
)
@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_a_model_without_anything_to_fit_is_refused_with_words(build, error, message, method):
    with pytest.raises(error, match=message):
        vt.fit(5, model=build(), method=method)


def test_a_model_is_needed():
    with pytest.raises(TypeError, match="no model: call this inside `with model:`, or give model="):
        vt.fit(5)


def test_one_callback_needs_no_list(gaussians, fast):
    calls = []
    vt.fit(3, callbacks=lambda approx, losses, i: calls.append(i), **fast)
    assert calls == [1, 2, 3]


def test_a_fit_takes_what_its_inference_takes(gaussians, fast):
    fit = vt.fit(
        3,
        start={"z": 0.5},
        start_sigma={"w": 0.2},
        closed_form=["z"],
        steps_per_execution=3,
        **fast,
    )
    assert fit.inference.objective.op.closed_form == {"z"}
    assert fit.inference.steps_per_execution == 3
    with pm.Model(coords={"city": ["Oslo", "Rome"]}):
        pm.Normal("v", dims="city")
        fit = vt.fit(3, kl_by={"v": "city"}, **fast)
    assert fit.trace.kl_by["v"].shape == (3, 2)


# --- the learning rate in the optimizer --------------------------------------------------------


def test_a_learning_rate_in_the_optimizer_is_used_and_live(gaussians, fast):
    inside = vt.fit(20, optimizer=pm.adam(learning_rate=0.1), random_seed=1, **fast)
    beside = vt.fit(20, optimizer=pm.adam, learning_rate=0.1, random_seed=1, **fast)
    assert inside.controls["learning_rate"].value == 0.1
    np.testing.assert_array_equal(inside.trace.loss, beside.trace.loss)
    assert (inside.trace.control["learning_rate"] == 0.1).all()


def test_a_control_in_the_optimizer_is_the_learning_rate(gaussians, fast):
    rate = vt.LearningRate(0.05)
    fits = [
        vt.fit(5, optimizer=pm.adam(learning_rate=rate), **fast),
        vt.fit(5, optimizer=pm.adam(learning_rate=rate.shared), callbacks=[rate], **fast),
        vt.fit(5, optimizer=pm.adam(learning_rate=rate.shared), **fast),
    ]
    assert fits[0].controls["learning_rate"] is fits[1].controls["learning_rate"] is rate
    for fit in fits:
        assert (fit.trace.control["learning_rate"] == 0.05).all()


@pytest.mark.parametrize(
    "optimizer", [pm.adam(beta1=0.8), pm.adamax(), pm.adam(learning_rate=1e-3)]
)
def test_a_default_of_pymc_in_the_optimizer_is_no_learning_rate_that_was_given(
    gaussians, fast, optimizer
):
    fit = vt.fit(3, optimizer=optimizer, learning_rate=0.01, **fast)
    assert (fit.trace.control["learning_rate"] == 0.01).all()


def test_an_inference_of_pymc_is_sent_to_pm_fit(gaussians):
    with pytest.raises(TypeError, match="PyMC's own, and trains with pm.fit"):
        vt.fit(10, method=pm.ADVI())


def test_an_inference_brings_its_own_beta(gaussians):
    with pytest.raises(TypeError, match="brings its own beta"):
        vt.fit(10, method=vt.ADVI(), beta=2.0)
    for option in (
        {"random_seed": 0},
        {"start": {}},
        {"gradient": True},
        {"kl_by": "coordinate"},
        {"closed_form": ["z"]},
        {"steps_per_execution": 2},
    ):
        with pytest.raises(TypeError, match="brings its own beta, random_seed, start, start_sigma"):
            vt.fit(10, method=vt.ADVI(), **option)


# --- in the background -------------------------------------------------------------------------


def until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def test_a_fit_in_the_background_is_live_steered_and_the_same_numbers(gaussians, fast):
    fit = vt.fit(1_000_000, random_seed=1, background=True, **fast)
    assert not fit.done and "in the background: " in repr(fit)
    until(lambda: len(fit.trace) > 50)
    with pytest.raises(RuntimeError, match=r"still runs \(running, step .* of 1,000,000\).*pause"):
        fit.sample(5)
    with pytest.raises(TimeoutError, match="still runs after 0.01 s"):
        fit.result(timeout=0.01)
    fit.controls["beta"].set(2.0)
    until(lambda: fit.trace.events)
    fit.pause()
    until(lambda: fit.status == "paused")
    step = fit.run.step
    assert fit.sample(5).posterior["z"].shape == (1, 5)
    assert fit.run.step == step
    fit.resume()
    until(lambda: fit.run.step > step)
    fit.stop()
    assert fit.wait() and fit.done and fit.result() is fit
    assert fit.trace.attrs["status"] == fit.status == "stopped"
    change = fit.trace.events[0].step
    again = vt.fit(change, random_seed=1, **fast)
    np.testing.assert_allclose(again.trace.loss, fit.trace.loss[:change], rtol=1e-12)
    fit.refine(3, progressbar=False)
    assert len(fit.trace) == len(fit.inference.hist)


def test_two_fits_at_once_are_kept_apart(minibatch_regression, fast):
    alone = [vt.fit(60, beta=beta, random_seed=7, **fast).trace for beta in (1.0, 4.0)]
    both = [vt.fit(60, beta=beta, random_seed=7, background=True, **fast) for beta in (1.0, 4.0)]
    for fit, expected in zip(both, alone, strict=True):
        np.testing.assert_array_equal(fit.result().trace.loss, expected.loss)


def test_a_control_or_an_inference_in_a_running_fit_is_refused_at_once(gaussians, fast):
    rate, inference = vt.LearningRate(), vt.ADVI()
    fit = vt.fit(1_000_000, method=inference, learning_rate=rate, background=True, **fast)
    with pytest.raises(RuntimeError, match="'learning_rate' is steered by a running fit of <ADVI"):
        vt.fit(5, learning_rate=rate, background=True, **fast)
    with pytest.raises(RuntimeError, match="this inference is in a running fit already"):
        inference.refine(5)
    fit.stop()
    fit.wait()
    assert vt.fit(5, learning_rate=rate, **fast).controls["learning_rate"] is rate


@pytest.mark.parametrize("what", ["control", "inference"])
def test_a_fit_gives_way_when_its_thread_was_told_to_exit(gaussians, fast, monkeypatch, what):
    class Thread(threading.Thread):  # that of marimo, in a cell that is run anew
        should_exit = False

    marimo = SimpleNamespace(Thread=Thread, running_in_notebook=lambda: False)
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    same = {"beta": vt.Beta(1.0)} if what == "control" else {"method": vt.ADVI(random_seed=1)}
    fit = vt.fit(10**6, background=True, **same, **fast)
    with pytest.raises(RuntimeError):
        vt.fit(5, **same, **fast)
    fit._background._thread.should_exit = True
    run = fit._background.run
    vt.fit(5, **same, **fast)
    assert fit.wait(60) and run.status == "stopped"
    assert [(event.kind, event.source) for event in run.log] == [("stop", "marimo")]


def test_an_error_in_the_background_is_raised_to_who_waits(gaussians, fast, capsys):
    def fail(approx, losses, i):
        if i == 4:
            until(lambda: fit._background._waiting)
            raise ZeroDivisionError("mine")

    fit = vt.fit(50, background=True, callbacks=[fail], **fast)
    for ask in (fit.wait, fit.result, lambda: run(awaiting(fit))):
        with pytest.raises(ZeroDivisionError, match="mine") as caught:
            ask()
        assert any(entry.name == "fail" for entry in caught.traceback)
    assert fit.status == "failed" and len(fit.trace) == 4
    assert "mine" not in capsys.readouterr().err


async def awaiting(fit):
    return await fit


def run(coroutine):
    """In a thread of its own: the browser tests leave a running event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def test_an_error_that_nobody_waits_for_is_printed_once(gaussians, fast, capsys):
    def fail(approx, losses, i):
        raise ZeroDivisionError("mine")

    fit = vt.fit(50, background=True, callbacks=[fail], **fast)
    until(lambda: fit.done)
    printed = capsys.readouterr().err
    assert printed.count("ZeroDivisionError: mine") == 1
    assert printed.startswith("The fit in the background failed:")


def test_a_result_after_an_interrupt_that_a_slow_step_outlasts(gaussians, fast, monkeypatch):
    monkeypatch.setattr("vitoolkit.background._PATIENCE_SECONDS", 0.05)
    slow, go_on = threading.Event(), threading.Event()

    def callback(approx, losses, i):
        slow.set()
        go_on.wait(60)

    fit = vt.fit(10**6, background=True, callbacks=[callback], random_seed=1, **fast)
    assert slow.wait(60)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(TimeoutError, match="still runs after it was interrupted: running, step 1"):
        fit.result()
    go_on.set()
    fit.wait()
    assert fit.status == "interrupted"


def test_an_interrupt_while_waiting_ends_the_fit(gaussians, fast):
    fit = vt.fit(1_000_000, background=True, **fast)
    until(lambda: len(fit.trace))
    main = threading.get_ident()
    threading.Timer(0.2, lambda: __import__("signal").pthread_kill(main, 2)).start()
    assert fit.wait(30)
    assert fit.status == fit.trace.attrs["status"] == "interrupted"
    assert [event.kind for event in fit.trace.events] == ["interrupt"]


def test_fit_async_frees_the_loop_and_a_cancelled_task_ends_its_fit(gaussians, fast):
    async def work():
        with gaussians:
            task = asyncio.create_task(vt.fit_async(1_000_000, **fast))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await vt.fit_async(30, **fast)

    assert len(run(work()).trace) == 30


def test_a_program_that_ends_stops_its_fit():
    code = (
        "import pymc as pm, vitoolkit as vt, time\n"
        "with pm.Model():\n"
        "    z = pm.Normal('z')\n"
        "    pm.Normal('y', z, observed=[0.2, 1.1])\n"
        "    fit = vt.fit(10**9, background=True, compile_kwargs={'mode': 'FAST_COMPILE'})\n"
        "while not len(fit.trace): time.sleep(0.01)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
        cwd=Path(vt.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0
    assert "the program ended while a fit ran in the background" in done.stderr


# --- pickled and copied --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied",
    [lambda fit: cloudpickle.loads(cloudpickle.dumps(fit)), copy.deepcopy],
    ids=["cloudpickle", "deepcopy"],
)
def test_a_copy_of_a_fit_has_its_record_and_goes_on(gaussians, fast, copied):
    schedule = vt.schedules.cosine(1e-2, 1e-3, steps=20)
    fit = vt.fit(20, learning_rate=schedule, random_seed=1, dashboard=True, **fast)
    other = copied(fit)
    assert other.trace.equals(fit.trace) and other.status == "finished" and other.done
    assert other.dashboard is None
    with pytest.raises(RuntimeError, match=r"nothing runs \(finished\): fit.refine\(n\) goes on"):
        other.run  # noqa: B018
    assert other.sample(5, random_seed=1).posterior["z"].shape == (1, 5)
    other.refine(15, progressbar=False)
    assert len(fit.trace) == 20
    fit.refine(15, progressbar=False)
    np.testing.assert_array_equal(other.trace.loss, fit.trace.loss)
    np.testing.assert_array_equal(
        other.trace.control["learning_rate"], fit.trace.control["learning_rate"]
    )
    assert (np.diff(other.trace.time) > 0).all()
    assert other.controls["learning_rate"].value == fit.controls["learning_rate"].value


def test_a_fit_that_runs_is_not_copied(gaussians, fast):
    fit = vt.fit(1_000_000, background=True, **fast)
    with pytest.raises(RuntimeError, match="still runs.*cannot be pickled or copied"):
        cloudpickle.dumps(fit)
    fit.stop()
    fit.wait()
    assert len(cloudpickle.loads(cloudpickle.dumps(fit)).trace) == len(fit.trace)
