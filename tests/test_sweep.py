"""A sweep in processes of Dask: who dies is replaced, and the result is as if nobody had."""

import os
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest
from distributed import Client
from sweeps import Slowly
from sweeps import build as minibatch

import vitoolkit as vt
from vitoolkit.sweep_point import last_run

FAST = {"compile_kwargs": {"mode": "FAST_COMPILE"}, "progressbar": False}


def build(sd=1.0, size=1):
    """A model that cannot be built where sd is negative."""
    if sd < 0:
        raise ValueError("sd is negative")
    with pm.Model() as model:
        z = pm.Normal("z", sigma=sd, shape=size)
        pm.Normal("y", z.sum(), observed=[0.2, 1.1])
    return model


@pytest.fixture(scope="module")
def client():
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as one:
        yield one


def when(condition, act):
    """Do something in a thread, once a condition holds; returns what says that it was done."""
    done, over = threading.Event(), threading.Event()

    def look():
        while not over.wait(0.02):
            if condition():
                act()
                done.set()
                return

    threading.Thread(target=look, daemon=True).start()
    return SimpleNamespace(done=done, over=over)


def test_a_process_that_is_killed_is_replaced_and_the_result_is_the_same(tmp_path, client):
    options = {"n": 400, "learning_rate": 0.05, "checkpoint_seconds": 0.05, **FAST}
    grid = {"beta": [2.0], "random_seed": [1, 2]}
    whole = vt.sweep(minibatch, grid, client, record=tmp_path / "whole", **options)
    first = tmp_path / "killed" / "beta=2.0_random_seed=1.db"
    pids = []

    def at_work():
        row = last_run(first)
        return row is not None and row.alive and row.step > 100

    def kill():
        pids.append(last_run(first).pid)
        os.kill(pids[0], signal.SIGKILL)

    killer = when(at_work, kill)
    found = vt.sweep(minibatch, grid, record=tmp_path / "killed", **options)
    killer.over.set()
    assert killer.done.is_set() and pids[0] != os.getpid() and last_run(first).pid != pids[0]
    assert found.drop_vars("record").identical(whole.drop_vars("record"))
    for name in (first.name, first.name.replace("=1", "=2")):
        one, other = (vt.Trace.open(tmp_path / where / name) for where in ("killed", "whole"))
        assert len(one) == 400 and np.array_equal(one.values(), other.values())


@pytest.fixture(scope="module")
def found(client, tmp_path_factory):
    grid = {"beta": {"low": 0.5, "all": 1.0}, "size": [1, 2], "sd": [1.0, -1.0]}
    folder = tmp_path_factory.mktemp("sweep") / "new"
    with pytest.warns(UserWarning, match="4 of 8 fits failed. beta=low, size=1, sd=-1.0: ValueErr"):
        return vt.sweep(build, grid, client, n=150, record=folder, random_seed=1, **FAST)


def test_each_number_is_that_of_the_fit_alone(found):
    alone = vt.fit(150, model=build(1.0, 2), beta=0.5, random_seed=1, **FAST)
    one = found.sel(beta="low", size=2, sd=1.0)
    trace = vt.Trace.open(one.record.item())
    assert np.array_equal(trace.values(), alone.trace.values())
    assert one.elbo == alone.trace.final("elbo")
    assert one.kl.sel(variable="z") == one.rate == alone.trace.final("kl[z]")
    assert float(one.elbo) == pytest.approx(-float(one.rate + one.distortion))
    mean = alone.approx.groups[0].params_dict["mu"].get_value()
    assert one.q.sel(end="median").values.tolist()[-2:] == mean.tolist()
    low, high = (one.q.sel(end=end).values[-2:] for end in ("low", "high"))
    assert (high - low) / 2 == pytest.approx(alone.approx.std.eval())
    assert (one.status, one.steps, one.error) == ("finished", 150, "")
    assert one.verdict == alone.trace.attrs["verdict"]


def test_a_point_that_failed_is_named_and_costs_the_others_nothing(found):
    assert dict(found.sizes) == dict(beta=2, size=2, sd=2, variable=1, coordinate=2, end=3)
    failed = found.sel(sd=-1.0)
    assert (failed.error == "ValueError: sd is negative").all()
    assert (failed.status == "failed").all() and not failed.steps.any()
    assert np.isnan(failed.elbo).all() and np.isnan(failed.q).all()
    assert (found.sel(sd=1.0).status == "finished").all()


def test_a_model_compiles_once_in_a_process(found):
    traces = [vt.Trace.open(path) for path in found.record.sel(sd=1.0).values.ravel()]
    said = [trace.attrs["compilation"] for trace in traces]
    assert sum("reused" in words for words in said) >= 2


def test_the_same_folder_goes_on_and_refuses_another_fit(client, tmp_path):
    grid = {"random_seed": [1, 2]}
    first = vt.sweep(build, grid, client, n=60, record=tmp_path, **FAST)
    before = [vt.Trace.open(path).attrs["created"] for path in first.record.values]
    again = vt.sweep(build, {"random_seed": [1, 2, 3]}, client, n=60, record=tmp_path, **FAST)
    assert again.sel(random_seed=[1, 2]).identical(first.assign_attrs(again.attrs))
    assert [vt.Trace.open(path).attrs["created"] for path in again.record.values[:2]] == before
    longer = vt.sweep(build, grid, client, n=90, record=tmp_path, **FAST)
    whole = vt.fit(90, model=build(), random_seed=2, **FAST)
    assert longer.elbo.sel(random_seed=2) == whole.trace.final("elbo")
    with pytest.raises(RuntimeError, match="optimizer|learning_rate: None was recorded, here it"):
        vt.sweep(build, grid, client, n=60, record=tmp_path, learning_rate=0.5, **FAST)
    with pytest.raises(RuntimeError, match="another fit: data.of the graph.|another fit: model"):
        vt.sweep(lambda: build(3.0), grid, client, n=90, record=tmp_path, **FAST)


def test_what_a_worker_of_another_machine_has_recorded_is_sent(client, tmp_path, monkeypatch):
    here = sys.modules["vitoolkit.sweep"]
    monkeypatch.setattr(here, "socket", SimpleNamespace(gethostname=lambda: "another"))
    found = vt.sweep(build, {"random_seed": [5]}, client, n=30, record=tmp_path, **FAST)
    path = found.record.item()
    assert path.endswith("random_seed=5.csv") and len(vt.Trace.open(path)) == 30
    assert found.elbo.item() == vt.Trace.open(path).final("elbo")


def test_ctrl_c_ends_all_and_keeps_what_there_is(client, tmp_path):
    def slowly():
        return build(), {"callbacks": [Slowly()]}

    pressed = when(
        lambda: (row := last_run(tmp_path / "random_seed=1.db")) is not None and row.step > 20,
        lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT),
    )
    grid, options = {"random_seed": [1, 2]}, {"n": 500, "record": tmp_path, **FAST}
    found = vt.sweep(slowly, grid, client, **options)
    pressed.over.set()
    assert found.status.values.tolist() == ["interrupted"] * 2
    begun, not_begun = found.steps.values
    assert 20 < begun < 500 and not_begun == 0
    assert np.isfinite(found.elbo[0]) and np.isnan(found.elbo[1])
    assert len(vt.Trace.open(tmp_path / "random_seed=1.db")) == begun
    on = vt.sweep(build, grid, client, **options)
    assert (on.status == "finished").all()
    assert on.elbo[0] == vt.fit(500, model=build(), random_seed=1, **FAST).trace.final("elbo")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"build": build()}, TypeError, "build is a function that returns the model"),
        ({"grid": {}}, ValueError, "grid must map options"),
        ({"grid": {"bta": [1.0]}}, TypeError, "grid of vitoolkit.sweep.*'bta'"),
        ({"grid": {"beta": []}}, ValueError, "is empty"),
        ({"build": lambda beta: None}, ValueError, "beta is an argument of build and an option"),
        ({"build": lambda end: None, "grid": {"end": [1]}}, ValueError, "has a meaning"),
        ({"build": lambda units: None}, TypeError, "build needs units"),
        ({"callbacks": []}, TypeError, "callbacks belongs to one fit"),
        ({"learning_rte": 0.1}, TypeError, "learning_rate"),
        ({"beta": 1.0}, TypeError, "given twice"),
        ({"client": "127.0.0.1"}, TypeError, "client must be a distributed.Client"),
        ({"n": -1}, ValueError, "n"),
        ({"checkpoint_seconds": 0}, ValueError, "checkpoint_seconds"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_an_error_before_a_process_is_started(change, error, words, monkeypatch):
    monkeypatch.setattr("distributed.LocalCluster", None)
    with pytest.raises(error, match=words):
        vt.sweep(**{"build": build, "grid": {"beta": [1.0]}, **change})


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r'pip install "vitoolkit\[sweep\]"'):
        vt.sweep(build, {"beta": [1.0]})
