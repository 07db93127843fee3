"""Many fits from one compiled step: each is the fit that it would be alone."""

import contextlib
import pickle
import signal

import cloudpickle
import numpy as np
import pymc as pm
import pytest
from models import regression

import vitoolkit as vt
from vitoolkit import background, many

N = 60


@pytest.fixture
def model():
    with regression(minibatch=True) as built:
        yield built


@pytest.fixture
def options(fast):
    return {"learning_rate": 0.01, **fast}


def same(one, other):
    frames = [fit.trace.to_dataframe().drop(columns="time") for fit in (one, other)]
    return frames[0].equals(frames[1]) and all(
        np.array_equal(a.get_value(), b.get_value())
        for a, b in zip(one.approx.params, other.approx.params, strict=True)
    )


@pytest.mark.parametrize(
    "grid",
    [
        {"beta": [0.5, 4.0], "random_seed": [1, 2]},
        {"learning_rate": [0.01, vt.schedules.cosine(0.1, 0.01, steps=40)], "beta": [1.0]},
        {"beta": {"by name": {"w": 0.1}, "all": vt.schedules.linear(0.0, 1.0, steps=30)}},
        {"start": {"low": {"w": -1.0 * np.ones(3)}, "high": {"w": np.ones(3)}}},
        {"method": ["advi", "fullrank_advi"], "random_seed": [3]},
        {"optimizer": [pm.adam, pm.adamax], "every": [1, 7]},
    ],
    ids=["beta and seed", "rates", "wiring", "start", "method", "optimizer"],
)
def test_each_fit_is_the_one_it_would_be_alone_bit_for_bit(model, options, grid):
    options = {"random_seed": 1, **options}
    options = {name: value for name, value in options.items() if name not in grid}
    fits = vt.fit_many(N, grid=grid, **options)
    axes = [dict(v) if isinstance(v, dict) else dict(zip(v, v)) for v in grid.values()]
    assert list(fits) == [
        (a, *rest) for a in axes[0] for rest in ([(b,) for b in axes[1]] if axes[1:] else [()])
    ]
    for point, fit in fits.items():
        values = {name: axis[label] for name, axis, label in zip(grid, axes, point, strict=True)}
        assert same(fit, vt.fit(N, **{**options, **values})), point


@pytest.mark.compiled
def test_with_the_default_mode_as_well(model):
    fits = vt.fit_many(
        N, grid={"beta": [0.5, 2.0], "random_seed": [1, 2]}, learning_rate=0.01, progressbar=False
    )
    for (beta, seed), fit in fits.items():
        alone = vt.fit(N, beta=beta, random_seed=seed, learning_rate=0.01, progressbar=False)
        assert same(fit, alone)


def test_one_is_compiled_and_the_others_take_its_code(model, options, monkeypatch):
    compiled = []
    compile = many.Recipe.compile
    monkeypatch.setattr(many.Recipe, "compile", lambda self: compiled.append(1) or compile(self))
    fits = vt.fit_many(N, grid={"beta": [0.5, 1.0, 2.0], "random_seed": [1, 2]}, **options)
    assert len(compiled) == 1
    assert sum("reused" in fit.trace.attrs["compilation"] for fit in fits.values()) >= 5


def test_fits_go_on_are_steered_sampled_and_pickled_on_their_own(model, options):
    fits = vt.fit_many(N, grid={"random_seed": [1, 2]}, **options)
    alone = vt.fit(N, random_seed=1, **options).refine(N, progressbar=False)
    went_on = fits[1].refine(N, progressbar=False)
    assert same(went_on, alone)
    assert len(fits[2].trace) == N
    assert fits[2].sample(10, random_seed=1).posterior.sizes["draw"] == 10
    copied = pickle.loads(cloudpickle.dumps(fits))
    assert same(copied[1].refine(N, progressbar=False), alone.refine(N, progressbar=False))


def test_they_are_a_mapping_and_one_comparison(model, options):
    fits = vt.fit_many(N, grid={"beta": [0.5, 2.0]}, **options)
    assert isinstance(fits, vt.Fits) and len(fits) == 2 and fits.done
    assert fits[0.5] is fits[(0.5,)]
    assert repr(fits) == "<Fits by (beta): 2 finished>"
    assert list(fits.comparison.runs) == ["beta=0.5", "beta=2.0"]
    bundle = fits._repr_mimebundle_()
    assert "beta=2.0" in bundle["text/html"] and bundle["text/plain"] == repr(fits)
    with pytest.raises(KeyError, match=r"no fit at 3: a point is \(beta\), such as \(0.5,\)"):
        fits[3]


def test_in_the_background_they_are_waited_for_and_stopped(model, options):
    fits = vt.fit_many(
        10**7, grid={"random_seed": [1, 2, 3]}, threads=2, background=True, **options
    )
    assert not fits.done
    while not any(fit.run.done for fit in fits.values()):
        fits.wait(0.01)
    fits.stop()
    assert fits.wait()
    assert {fit.status for fit in fits.values()} == {"stopped"}


def test_one_that_fails_leaves_the_others_and_is_named(model, options):
    def bad(step):
        if step == 5:
            raise ArithmeticError("no value here")
        return 1.0

    axis = {"good": 1.0, "bad": vt.schedules.as_schedule(bad)}
    with pytest.warns(UserWarning, match="1 of 2 fits failed. beta=bad: no value here"):
        fits = vt.fit_many(N, grid={"beta": axis}, **options)
    assert [fit.status for fit in fits.values()] == ["finished", "failed"]
    assert "no value here" in fits["bad"].trace.attrs["error"]
    with pytest.raises(ArithmeticError, match="no value here"):
        vt.fit_many(N, grid={"beta": {"bad": axis["bad"]}}, **options)


def test_the_wait_is_for_all_whatever_one_of_them_raises():
    ended = []

    class One:
        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def wait(self, timeout):
            ended.append(self.name)
            if self.error is not None:
                raise self.error
            return True

    first, second = ArithmeticError("no value here"), ValueError("nor here")
    ones = One("a", first), One("b"), One("c", second), One("d")
    fits = many.Fits(["name"], {(one.name,): one for one in ones})
    with pytest.raises(ArithmeticError, match="no value here"):
        fits.wait()
    assert ended == ["a", "b", "c", "d"]


def test_ctrl_c_ends_all_and_keeps_them(model, options, monkeypatch):
    answering = background.answering

    @contextlib.contextmanager
    def presses():
        with answering() as answer:

            def looks():
                answer()
                if any(fit.run.done for fit in list(background._running)):
                    signal.raise_signal(signal.SIGINT)

            yield looks

    monkeypatch.setattr(background, "answering", presses)
    fits = vt.fit_many(10**7, grid={"random_seed": [1, 2, 3]}, **options)
    assert {fit.status for fit in fits.values()} == {"interrupted"}
    assert len(fits[1].trace) > 0


def test_the_progress_counts_the_steps_of_all(model, options, capsys):
    vt.fit_many(N, grid={"random_seed": [1, 2]}, **{**options, "progressbar": True})
    assert "2 of 2 have ended" in capsys.readouterr().out


@pytest.mark.parametrize(
    "grid, options, error, words",
    [
        ({}, {}, ValueError, "grid must map options of vitoolkit.fit"),
        ([1.0], {}, ValueError, "grid must map options of vitoolkit.fit"),
        ({"beta": []}, {}, ValueError, "is empty"),
        ({"beta": [1.0, 1.0]}, {}, ValueError, "has 1.0 twice"),
        ({"beta": 1.0}, {}, TypeError, "must be a list of values"),
        ({"beta": [{"w": 1.0}]}, {}, TypeError, "give it a label"),
        ({"bta": [1.0]}, {}, TypeError, "beta"),
        ({"beta": [1.0]}, {"beta": 1.0}, TypeError, "given twice"),
        ({"beta": [1.0]}, {"callbacks": [print]}, TypeError, "callbacks belongs to one fit"),
        ({"beta": [1.0]}, {"record": "run.db"}, TypeError, "record belongs to one fit"),
        ({"dashboard": [True]}, {}, TypeError, "dashboard belongs to one fit"),
        ({"beta": [1.0]}, {"threads": 0}, ValueError, "threads"),
        ({"beta": [-1.0]}, {}, ValueError, "from 0 up"),
        ({"beta": [1.0]}, {"learning_rte": 1.0}, TypeError, "learning_rate"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_compiled(
    model, fast, grid, options, error, words
):
    with pytest.raises(error, match=words):
        vt.fit_many(N, grid=grid, **{**fast, **options})


def test_a_control_belongs_to_one_fit(model, fast):
    beta = vt.Beta(1.0)
    for given in {"beta": [beta]}, {"beta": {"a": {"w": beta}}}:
        with pytest.raises(TypeError, match="belongs to one fit: give a number or a schedule"):
            vt.fit_many(N, grid=given, **fast)
    with pytest.raises(TypeError, match="belongs to one fit"):
        vt.fit_many(N, grid={"random_seed": [1]}, beta=beta, **fast)


def test_weights_that_all_would_train_are_refused(model, fast):
    with pytest.raises(ValueError, match="the same weights"):
        vt.fit_many(N, grid={"beta": [1.0]}, more_obj_params=[object()], **fast)


def test_a_point_that_is_refused_leaves_no_control_claimed(model, options):
    with pytest.raises(ValueError, match="from 0 up"):
        vt.fit_many(N, grid={"beta": [1.0, -1.0]}, **options)
    assert vt.fit_many(N, grid={"beta": [1.0]}, **options)[1.0].status == "finished"
