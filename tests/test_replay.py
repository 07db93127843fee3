"""A recorded run is repeated bit for bit, and what cannot be is refused with its reason."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pymc as pm
import pytensor
import pytest
from models import two_gaussians

import vitoolkit as vt
from vitoolkit.requests import Inbox, Request

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "soak"))
import replay as soak  # noqa: E402

logging.getLogger("pymc.variational.inference").setLevel(logging.WARNING)
QUIET = {"progressbar": False}


def options():
    warm = vt.schedules.linear(0.0, 1.0, steps=100)
    return {
        "beta": {"z": vt.Beta(schedule=warm, rule=vt.rules.kl_target("z", 0.5, every=20))},
        "learning_rate": vt.LearningRate(0.02),
    }


def planned(events, **more):
    """A fit in which this is done: pairs of a step and a function of the fit's controls."""

    def act(approx, losses, i):
        for step, change in events:
            if step == i:
                change(run.inference.run, {c.name: c for c in run.inference.run.controls})

    given = options()
    inference = vt.ADVI(beta=given["beta"], model=two_gaussians(), random_seed=3)
    run = type("Holder", (), {"inference": inference})
    rate = given["learning_rate"]
    return vt.fit(
        300, method=inference, learning_rate=rate, callbacks=vt.every(10, act), **QUIET, **more
    )


def again(trace, **more):
    return vt.fit(model=two_gaussians(), replay=trace, **options(), **QUIET, **more)


CHANGES = [
    (50, lambda run, c: c["beta"].set(0.3, source="user")),
    (60, lambda run, c: c["beta"].set(0.4, source="user")),
    (60, lambda run, c: c["learning_rate"].reschedule(end=1e-3, steps=250)),
    (70, lambda run, c: run.note("here")),
    (90, lambda run, c: run.undo()),
    (120, lambda run, c: c["beta"].undo(source="user")),
    (150, lambda run, c: c["beta"].set(2.0)),
    (200, lambda run, c: c["beta"].release()),
]


@pytest.fixture(scope="module")
def once():
    return planned(CHANGES)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_run_steered_from_another_thread_is_repeated_bit_for_bit(seed):
    fit = soak.steered(2_000, seed, "auto", changes=20)
    assert len(fit.trace.events) > 15
    assert soak.same(fit, soak.again(fit.trace, 2_000, seed, "auto")) == []


def test_every_change_is_repeated_at_its_step(once):
    kinds = [(e.step, e.kind, e.text) for e in once.trace.events if e.kind != "rule"]
    # The two values of the slider came within a moment: one undo takes both.
    assert [k for _, k, _ in kinds] == [
        "set", "set", "reschedule", "note", "undo", "undo", "set", "release",
    ]  # fmt: skip
    assert soak.same(once, again(once.trace)) == []


@pytest.mark.parametrize("end", [".nc", ".json", ".csv", ".zarr"])
def test_a_trace_from_a_file_is_repeated(once, tmp_path, end):
    path = once.trace.save(tmp_path / f"fit{end}")
    assert soak.same(once, again(path)) == []


def test_what_the_record_says_is_not_asked_again(once):
    repeated = again(once.trace)
    assert repeated.run.n == 300 and repeated.inference.seed == 3


def test_a_pause_a_single_step_and_a_stop_are_repeated_without_waiting():
    pauses = [
        (50, lambda run, c: run.pause(source="user")),
        (50, lambda run, c: c["beta"].set(0.3)),
        (50, lambda run, c: run.single_step(source="user")),
        (50, lambda run, c: run.resume(source="user")),
        (200, lambda run, c: run.stop(source="user")),
    ]
    once = planned(pauses)
    repeated = again(once.trace)
    assert soak.same(once, repeated) == []
    assert repeated.status == "stopped" and len(repeated.trace) == 200


def test_what_was_set_between_two_fits_is_in_force_from_the_first_step():
    def given():
        return {"beta": vt.Beta(1.0), "learning_rate": 0.02, "model": two_gaussians(), **QUIET}

    first = given()
    first["beta"].set(3.0, source="user")
    once = vt.fit(50, random_seed=1, **first)
    assert once.trace.control["beta"][0] == 3.0
    assert soak.same(once, vt.fit(replay=once.trace, **given())) == []


def test_refine_goes_on_with_what_was_done_in_refine():
    once = vt.fit(100, model=two_gaussians(), beta=vt.Beta(1.0), random_seed=1, **QUIET)
    run = {"beta": once.controls["beta"]}
    look = vt.every(20, lambda approx, losses, i: run["beta"].set(2.0) if i == 140 else None)
    once.inference.refine(100, progressbar=False, callbacks=[once.recorder, look])
    assert [e.step for e in once.trace.events] == [140]
    repeated = vt.fit(model=two_gaussians(), beta=vt.Beta(1.0), replay=once.trace, **QUIET)
    assert len(repeated.trace) == 100
    repeated.refine(100, progressbar=False)
    assert soak.same(once, repeated) == []


def test_a_fit_without_a_seed_can_be_repeated():
    once = vt.fit(20, model=two_gaussians(), **QUIET)
    assert soak.same(once, vt.fit(model=two_gaussians(), replay=once.trace, **QUIET)) == []


class Holds(vt.Callback):
    every = 10

    def on_block(self, run, block):
        if run.step in (50, 120):
            (run.inference.freeze if run.step == 50 else run.inference.thaw)("w")


def test_a_variable_that_was_held_is_held_again():
    def given():
        return {"model": two_gaussians(), "freezable": ["w"], **QUIET}

    once = vt.fit(200, random_seed=1, callbacks=Holds(), **given())
    assert [(e.step, e.kind) for e in once.trace.events] == [(50, "freeze"), (120, "thaw")]
    assert soak.same(once, vt.fit(replay=once.trace, **given())) == []
    assert soak.same(once, run_script(once.trace, two_gaussians())) == []


def test_notes_of_a_watch_keep_their_place_before_what_a_rule_decides():
    watch = vt.watch("step >= 140", then="note", every=20)
    once = vt.fit(200, model=two_gaussians(), random_seed=1, callbacks=watch, **options(), **QUIET)
    at = [e.kind for e in once.trace.events if e.step == 140]
    assert at == ["note", "rule"]
    assert soak.same(once, again(once.trace)) == []


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"random_seed": 4}, "seed: 3 was recorded, here it is 4"),
        ({"optimizer": pm.sgd}, "optimizer: adam"),
        ({"beta": 1.0}, r"control\[beta\]: Beta\(bounds"),
        ({"learning_rate": 0.5}, r"learning_rate\]: LearningRate\(0.02"),
        ({"steps_per_execution": 7}, "steps_per_execution: auto was recorded, here it is 7"),
        ({"obj_n_mc": 2}, "obj_n_mc: 1 was recorded, here it is 2"),
        ({"start": {"z": 1.0}}, "parameters: "),
    ],
)
def test_another_fit_is_refused_before_anything_is_compiled(once, more, named):
    given = {**options(), **more}
    with pytest.raises(ValueError, match=named):
        vt.fit(model=two_gaussians(), replay=once.trace, **given, **QUIET)


def test_other_data_are_named_and_can_be_accepted(once):
    with pm.Model() as other:
        z = pm.Normal("z", 0.0, 1.0)
        w = pm.Normal("w", 0.0, 1.0)
        pm.Normal("y_z", z, 2.0, observed=np.zeros(20))
        pm.Normal("y_w", w, 1.0, observed=np.zeros(5))
    with pytest.raises(ValueError, match=r"not the fit that was recorded.*\n- data\[y_w\]: "):
        vt.fit(model=other, replay=once.trace, **options(), **QUIET)
    with pytest.warns(UserWarning, match="will not give the numbers"):
        lax = vt.Replay(once.trace, strict=False)
        fit = vt.fit(model=other, replay=lax, **options(), **QUIET)
    changed = [(e.step, e.kind) for e in once.trace.events if e.kind != "rule"]
    assert [(e.step, e.kind) for e in fit.trace.events if e.kind != "rule"] == changed


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (3, TypeError, "replay must be a Trace, the path of one"),
        ([vt.Event(1, 0.0, "melt")], ValueError, "an event of kind 'melt'"),
        (
            [vt.Event(1, 0.0, "reschedule", "beta", text="as_schedule(mine)")],
            ValueError,
            "cannot be read back",
        ),
    ],
)
def test_what_is_no_record_is_refused(record, error, message):
    with pytest.raises(error, match=message):
        vt.fit(5, model=two_gaussians(), replay=record, **QUIET)


def test_events_alone_are_a_record():
    events = [
        vt.Event(10, 0.0, "set", "beta", new=2.0),
        vt.Event(20, 5.0, "undo", "beta"),
        vt.Event(30, 9.0, "set", "beta", new=0.5),
    ]
    fit = vt.fit(40, model=two_gaussians(), replay=events, **QUIET)
    beta = fit.trace.control["beta"]
    assert [beta[9], beta[10], beta[19], beta[20], beta[29], beta[30]] == [1, 2, 2, 1, 1, 0.5]


# --- requests of later steps, and from elsewhere -------------------------------------------------


def test_requests_for_a_step_come_in_order_and_none_is_left_out():
    inbox = Inbox()
    for at, value in ((30, 3.0), (10, 1.0), (10, 2.0), (40, 4.0)):
        inbox.ask(Request("set", "beta", value), at)
    assert inbox.next_step == 10 and inbox.take(9) == []
    inbox.ask(Request("pause"))
    assert [(r.kind, r.value) for r in inbox.take(30)] == [
        ("set", 1.0), ("set", 2.0), ("set", 3.0), ("pause", None),
    ]  # fmt: skip
    assert [step for step, _ in inbox.ahead()] == [40]


class Asked(vt.Callback):
    def __init__(self, request, at=None):
        self.request, self.at = request, at

    def on_fit_start(self, run):
        run.ask(self.request, at=self.at)


def test_a_request_can_be_made_for_a_later_step():
    asked = Asked(Request("set", "beta", 2.0), at=17)
    fit = vt.fit(40, model=two_gaussians(), callbacks=asked, **QUIET)
    assert np.flatnonzero(np.diff(fit.trace.control["beta"])).tolist() == [16]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"kind": "set", "control": "beta", "value": 11.0}, ValueError, r"in \[0, 10\]"),
        ({"kind": "set", "control": "beta", "value": float("nan")}, ValueError, "beta"),
        ({"kind": "set", "control": "beta", "value": float("inf")}, ValueError, "beta"),
        ({"kind": "set", "control": "beta"}, ValueError, "needs a value"),
        ({"kind": "set", "control": "gamma", "value": 1.0}, ValueError, "no control 'gamma'"),
        ({"kind": "set", "value": 1.0}, ValueError, "no control None"),
        (
            {"kind": "reschedule", "control": "beta", "end": 20.0, "steps": 9},
            ValueError,
            r"in \[0, 10\]",
        ),
        ({"kind": "reschedule", "control": "beta", "end": 2.0}, ValueError, "both end= and steps="),
        (
            {"kind": "reschedule", "control": "beta", "schedule": "constant(11.0)"},
            ValueError,
            r"in \[0, 10\]",
        ),
        ({"kind": "note"}, TypeError, "a note is a string"),
        ({"kind": "pause", "control": "beta"}, ValueError, "is of a fit"),
    ],
)
def test_a_request_from_elsewhere_is_checked_before_it_is_taken(fields, error, message):
    request = Request.from_json(json.loads(json.dumps(fields)))
    with pytest.raises(error, match=message):
        vt.fit(5, model=two_gaussians(), callbacks=Asked(request), **QUIET)


# --- a script ------------------------------------------------------------------------------------


def run_script(trace, model):
    names = {"model": model}
    exec(trace.to_script(), names)
    return names["fit"]


def test_a_script_of_the_run_gives_the_same_numbers(once):
    text = once.trace.to_script()
    assert "rule=vt.rules.kl_target('z', 0.5, integral=0.004, every=20)" in text
    assert "vt.Event(50, " in text and "'set', 'beta', new=0.3, source='user'" in text
    assert soak.same(once, run_script(once.trace, two_gaussians())) == []


@pytensor.config.change_flags(mode="FAST_COMPILE")
def test_a_script_has_the_options_of_the_fit():
    once = vt.fit(
        60, model=soak.model(), method="fullrank_advi", beta={"w": 0.5}, gradient=True,
        optimizer=pm.adam(beta1=0.8), learning_rate=vt.schedules.cosine(0.1, 0.01, steps=50),
        kl_by="coordinate", every=3, random_seed=7, steps_per_execution=5, obj_n_mc=2,
        closed_form=[], total_grad_norm_constraint=100.0, **QUIET,
    )  # fmt: skip
    repeated = run_script(once.trace, soak.model())
    assert soak.same(once, repeated) == []
    assert repeated.trace.attrs["fingerprint"] == once.trace.attrs["fingerprint"]


def test_the_script_of_a_model_with_other_data_says_so(once):
    with pm.Model() as other:
        z = pm.Normal("z", 0.0, 1.0)
        w = pm.Normal("w", 0.0, 1.0)
        pm.Normal("y_z", z, 2.0, observed=np.zeros(20))
        pm.Normal("y_w", w, 1.0, observed=np.zeros(5))
    with pytest.raises(ValueError, match=r"data\[y_z\]"):
        run_script(once.trace, other)


def test_no_script_of_a_trace_that_does_not_say_what_was_fitted():
    with pytest.raises(ValueError, match="does not say what was fitted"):
        vt.Trace(controls=["beta"]).to_script()
