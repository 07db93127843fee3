"""Back to the last finite step, whatever a step reads."""

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt


class Snapshots:
    """A callback that keeps the parameters after every step."""

    def __init__(self, inference):
        self.taken = {0: [p.get_value() for p in inference.approx.params]}

    def __call__(self, approx, losses, i):
        self.taken[i] = [p.get_value() for p in approx.params]

    def steps_of(self, approx):
        """After which numbers of steps the parameters were as they are now."""
        now = [p.get_value() for p in approx.params]
        return [
            i
            for i, then in self.taken.items()
            if all(np.array_equal(a, b) for a, b in zip(now, then, strict=True))
        ]


@pytest.fixture
def data():
    with pm.Model() as model:
        d = pm.Data("d", np.array([0.2, 1.1, -0.4]))
        z = pm.Normal("z", shape=3)
        pm.Normal("y", z, 0.5, observed=d)
        yield model


def failing(inference, callbacks, fast, n=400, match="NaN occurred", **kwargs):
    with pytest.raises(FloatingPointError, match=match) as caught:
        inference.fit(n, callbacks=callbacks, **kwargs, **fast)
    return str(caught.value)


@pytest.mark.parametrize("at", [5, 61, 210, 333])
def test_data_that_a_callback_spoils(data, fast, at):
    inference = vt.ADVI(random_seed=1)
    snapshots = Snapshots(inference)

    def spoil(approx, losses, i):
        if i == at:
            data["d"].set_value(np.full(3, np.nan))

    message = failing(inference, [snapshots, spoil], fast)
    assert snapshots.steps_of(inference.approx) == [at]
    assert f"the loss of step {at} is NaN" in message
    assert f"back where they were before step {at}," in message


@pytest.mark.parametrize("at", [40, 200])
def test_data_that_a_callback_feeds_at_every_step(data, fast, at):
    inference = vt.ADVI(random_seed=1)
    snapshots, rng = Snapshots(inference), np.random.default_rng(0)

    def feed(approx, losses, i):
        data["d"].set_value(rng.normal(size=3) if i != at else np.full(3, np.nan))

    failing(inference, [snapshots, feed], fast)
    assert snapshots.steps_of(inference.approx) == [at]


def test_the_data_is_left_as_it_is(data, fast):
    def spoil(approx, losses, i):
        if i == 30:
            data["d"].set_value(np.full(3, np.nan))

    failing(vt.ADVI(random_seed=1), [spoil], fast)
    assert np.isnan(data["d"].get_value()).all()


def test_parameters_that_a_callback_writes(data, fast):
    inference = vt.ADVI(random_seed=1)

    def write(approx, losses, i):
        if i == 50:
            mu = approx.params[0]
            mu.set_value(mu.get_value() + 1.0)
        if i == 60:
            data["d"].set_value(np.full(3, np.nan))

    snapshots = Snapshots(inference)
    failing(inference, [snapshots, write], fast)
    assert snapshots.steps_of(inference.approx) == [60]


def test_data_that_is_changed_in_place_leaves_no_trail_and_that_is_said(data, fast, monkeypatch):
    monkeypatch.setattr("vitoolkit.rewind._LEAST_SECONDS", 1000.0)  # one checkpoint, at the start
    inference = vt.ADVI(random_seed=1)
    snapshots = Snapshots(inference)

    def spoil(approx, losses, i):
        values = data["d"].get_value(borrow=True)
        values += 0.1 if i < 120 else np.nan

    message = failing(inference, [snapshots, spoil], fast)
    assert "changed in place" in message
    (step,) = snapshots.steps_of(inference.approx)
    assert step == 0 and f"back where they were before step {step}," in message


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_parameters_that_are_infinite_are_not_finite(data, fast, value):
    inference = vt.ADVI(random_seed=1)
    snapshots = Snapshots(inference)

    def spoil(approx, losses, i):
        if i == 50:
            data["d"].set_value(np.full(3, value))

    failing(inference, [snapshots, spoil], fast)
    assert snapshots.steps_of(inference.approx) == [50]
    assert all(np.isfinite(p.get_value()).all() for p in inference.approx.params)


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("steps", [1, 10])
def test_a_fit_that_ends_on_a_gradient_that_is_not_finite_is_not_finished(fast, n, steps):
    with pm.Model():
        z = pm.Normal("z")
        d = pm.Data("d", 0.0)
        # The value is 0, and the slope 0 times infinity.
        pm.Potential("trap", d * pm.math.sqrt(pm.math.maximum(z - 1e6, 0.0)))
        inference, recorder = vt.ADVI(random_seed=1, steps_per_execution=steps), vt.Recorder()
        failing(inference, [recorder], fast, n=n, match="not finite")
    assert recorder.trace.attrs["status"] == "failed"
    assert all(np.isfinite(p.get_value()).all() for p in inference.approx.params)


def test_a_stop_on_a_gradient_that_is_not_finite_is_no_stop(fast):
    with pm.Model():
        z = pm.Normal("z")
        d = pm.Data("d", 0.0)
        pm.Potential("trap", d * pm.math.sqrt(pm.math.maximum(z - 1e6, 0.0)))

        def stop(approx, losses, i):
            raise StopIteration

        failing(vt.ADVI(random_seed=1), [stop], fast, match="parameters after step 0 are not")
