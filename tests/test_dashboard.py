"""The callback that shows a fit, without a browser: its hooks; the display is stood in for."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.dashboard import dashboard as dashboard_module
from vitoolkit.dashboard import panel as panel_module
from vitoolkit.means import final
from vitoolkit.views.tables import active_text

FAST = {"mode": "FAST_COMPILE"}


@pytest.fixture
def model():
    rng = np.random.default_rng(1)
    with pm.Model() as model:
        z = pm.Normal("z", 0, 1, shape=2)
        pm.Normal("y", z.sum(), 1, observed=rng.normal(size=20))
    return model


@pytest.fixture
def notebook(monkeypatch):
    """Pretend to be in a notebook; what arrives at the kernel is a list of callables."""
    arriving = []

    class Events:
        way, words, kernel = "pump", "steering by pump, fake 1", SimpleNamespace(shell=None)
        due = 0.0
        started = stopped = 0

        def __init__(self, beside=False):
            if beside:
                self.way = "thread"

        def start(self):
            Events.started += 1

        def stop(self):
            Events.stopped += 1

        def poll(self):
            while arriving:
                arriving.pop(0)()

    monkeypatch.setattr(dashboard_module, "KernelEvents", Events)
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda widget, display_id: shown.append(widget) or Handle(shown)
    )
    return SimpleNamespace(arriving=arriving, shown=shown, events=Events)


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, content):
        self.shown.append(content)


def train(model, dashboard, n=60, callbacks=(), optimizer=pm.adagrad_window, **kwargs):
    with model:
        inference = vt.ADVI(random_seed=1, **kwargs)
        return pm.fit(
            n,
            method=inference,
            callbacks=[dashboard, *callbacks],
            obj_optimizer=optimizer,
            progressbar=False,
            compile_kwargs=FAST,
        )


def at(step, act):
    """A callback that does something once, after the given number of steps."""
    return lambda approx, losses, i: act() if i == step else None


def test_outside_a_notebook_it_records_and_shows_nothing(model, capsys):
    dashboard = vt.Dashboard()
    train(model, dashboard)
    assert len(dashboard.trace) == 60
    assert [control.name for control in dashboard.controls] == ["beta"]
    assert not dashboard.shows_progress
    assert capsys.readouterr().out == ""
    html = dashboard._repr_mimebundle_()["text/html"]
    assert "<img" in html and "<td>z[0]</td>" in html and dashboard.trace.attrs["verdict"] in html
    told = dashboard.trace.to_xarray()
    assert told.q.sizes == {"coordinate": 2, "end": 3}
    np.testing.assert_allclose(told.q.T, dashboard.snapshots.now(), rtol=1e-5)
    assert dashboard.trace.summary()["verdict"] == dashboard.trace.attrs["verdict"]


def test_it_shows_itself_before_compiling_and_leaves_a_picture(model, notebook):
    dashboard = vt.Dashboard()
    seen = []

    class Watch(vt.recorder.Callback):
        def on_compiled(self, run):
            seen.append((len(notebook.shown), dashboard._panel.status.status["phase"]))
            assert dashboard._panel.status.status["compiles"] == (
                "the step of ADVI, 1 variable, 4 parameters"
            )

        def __call__(self, approx, losses, i):
            """Nothing a step."""

    train(model, dashboard, callbacks=[Watch()])
    assert seen == [(1, "compiling")]
    assert dashboard.shows_progress
    widget, left = notebook.shown
    assert "finished after 60 steps" in left.data
    status = dashboard._panel.status.status
    assert (status["phase"], status["done"], status["n"]) == ("finished", 60, 60)
    trace = dashboard.trace
    assert (status["loss"], status["elbo"]) == (final(trace, "loss"), final(trace, "elbo"))
    assert (notebook.events.started, notebook.events.stopped) == (1, 1)


def by_hand(row, value):
    """What the page sends when a hand moves a slider."""
    row.widget._handle_custom_msg({"kind": "set", "value": value, "number": "a 1"}, [])


def test_a_moved_slider_is_in_force_and_in_the_trace(model, notebook):
    dashboard = vt.Dashboard()

    def move():
        notebook.arriving.append(lambda: by_hand(dashboard._panel.rows[0], 4.0))
        dashboard._next = 0.0

    train(model, dashboard, callbacks=[at(20, move)])
    (event,) = dashboard.trace.events
    assert (event.kind, event.new, event.source) == ("set", 4.0, "user")
    assert dashboard.trace.control["beta"][event.step] == 4.0
    assert dashboard.trace.control["beta"][event.step - 1] == 1.0


def test_stop_ends_a_fit_and_keeps_it(model, notebook):
    dashboard = vt.Dashboard()

    def stop():
        notebook.arriving.append(dashboard._panel.stop.click)
        dashboard._next = 0.0

    train(model, dashboard, n=10_000, callbacks=[at(20, stop)])
    assert len(dashboard.trace) < 100
    assert dashboard.trace.attrs["status"] == "stopped"
    assert dashboard.trace.events[-1].source == "user"


def test_redraws_keep_to_their_pace(model, notebook, monkeypatch):
    monkeypatch.setattr(panel_module, "FASTEST", 3600.0)
    monkeypatch.setattr(panel_module, "SLOWEST", 3600.0)
    dashboard = vt.Dashboard()
    train(model, dashboard, n=300)
    assert dashboard._panel.figure.sent == 2  # the first and the last


@pytest.mark.parametrize("way", ["pump", "none"])
def test_the_panel_says_how_it_is_steered(model, notebook, monkeypatch, way):
    monkeypatch.setattr(dashboard_module.KernelEvents, "way", way)
    monkeypatch.setattr(dashboard_module.KernelEvents, "words", "no <queue>: fit elsewhere")
    dashboard = vt.Dashboard()
    train(model, dashboard)
    children = dashboard._panel.widget.children
    line = children[0 if way == "none" else -1]  # aloud on top
    assert line.value == "no &lt;queue&gt;: fit elsewhere"
    assert ("vitoolkit-loud" in line._dom_classes) == (way == "none")


@pytest.mark.parametrize("method", ["refresh", "finish", "display"])
def test_a_display_that_fails_warns_once_and_the_fit_goes_on(model, notebook, monkeypatch, method):
    def fail(self):
        raise OSError("no such comm")

    monkeypatch.setattr(panel_module.Panel, method, fail)
    monkeypatch.setattr(panel_module, "FASTEST", 0.0)
    dashboard = vt.Dashboard()
    with pytest.warns(RuntimeWarning, match="the fit goes on: OSError: no such comm") as caught:
        train(model, dashboard)
    assert len([w for w in caught if issubclass(w.category, RuntimeWarning)]) == 1
    assert len(dashboard.trace) == 60
    assert notebook.events.stopped == 1


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (StopIteration, "stopped")]
)
def test_interrupt_and_stop_pass_through_the_display(model, notebook, error, status):
    dashboard = vt.Dashboard()

    def raising():
        raise error

    train(model, dashboard, n=10_000, callbacks=[at(20, lambda: notebook.arriving.append(raising))])
    assert dashboard.trace.attrs["status"] == status
    assert 20 <= len(dashboard.trace) < 10_000


def test_a_fit_that_fails_says_why(model, notebook):
    dashboard = vt.Dashboard()

    def fail(approx, losses, i):
        if i == 30:
            raise ZeroDivisionError("a callback of the user's")

    with pytest.raises(ZeroDivisionError):
        train(model, dashboard, callbacks=[fail])
    assert dashboard._panel.status.status["phase"] == "failed"
    assert "ZeroDivisionError: a callback" in dashboard._panel.status.status["message"]
    assert "failed after 30 steps" in notebook.shown[-1].data


def test_a_fit_of_pymcs_own_is_steered_too(model, notebook):
    rate = vt.LearningRate(1e-2)
    dashboard = vt.Dashboard(rate)

    def act():
        notebook.arriving.append(lambda: by_hand(dashboard._panel.rows[0], 0.5))
        notebook.arriving.append(dashboard._panel.pause.click)
        notebook.arriving.append(dashboard._panel.pause.click)
        notebook.arriving.append(dashboard._panel.stop.click)
        dashboard._next = 0.0

    with model:
        pm.fit(
            5000, method="advi", random_seed=1, progressbar=False, compile_kwargs=FAST,
            obj_optimizer=pm.adam(learning_rate=rate.shared), callbacks=[at(20, act), dashboard],
        )  # fmt: skip
    trace = dashboard.trace
    assert trace.attrs["status"] == "stopped" and len(trace) < 200
    assert trace.control["learning_rate"][-1] in (0.01, 0.5)
    assert trace.events[-1].kind == "stop"
    assert dashboard._panel.status.status["n"] == 5000
    assert notebook.events.stopped == notebook.events.started == 1


def test_a_control_that_the_step_does_not_contain_is_no_live_slider(model, notebook):
    beta, rate = vt.Beta(1.0), vt.LearningRate(1e-2)
    dashboard = vt.Dashboard(beta, rate)
    with model, pytest.warns(UserWarning, match="beta is not used by this fit"):
        pm.fit(
            30, method="advi", random_seed=1, progressbar=False, compile_kwargs=FAST,
            obj_optimizer=pm.adam(learning_rate=rate), callbacks=[dashboard],
        )  # fmt: skip
    unused, used = dashboard._panel.rows
    assert [row.widget.state["who"] for row in (unused, used)] == ["not used", "constant"]
    assert "<td>beta</td><td>not used by this fit</td>" in notebook.shown[-1].data


def test_a_fit_of_pymcs_own_is_paused_stepped_undone_and_noted(model, notebook):
    rate = vt.LearningRate(1e-2)
    dashboard = vt.Dashboard(rate)

    def press(approx, losses, i):
        if i == 20:
            dashboard.note("before the pause")
            notebook.arriving.append(lambda: dashboard._fit.pause(source="user"))
            dashboard._next = 0.0
        if i in (21, 22):
            assert dashboard._fit.status == "paused"
            notebook.arriving.extend(paused[i])
        if i == 30:
            notebook.arriving.append(actions["stop"])
            dashboard._next = 0.0

    actions = {name: lambda name=name: getattr(dashboard._fit, name)(source="user") for name in
               ("single_step", "undo", "resume", "stop")}  # fmt: skip
    paused = {
        21: [lambda: rate.set(0.5, source="user"), actions["single_step"]],
        22: [actions["undo"], actions["resume"]],
    }

    def first(approx, losses, i):
        if i == 20:
            notebook.arriving.append(actions["single_step"])

    with model:
        pm.fit(
            5000, method="advi", random_seed=1, progressbar=False, compile_kwargs=FAST,
            obj_optimizer=pm.adam(learning_rate=rate.shared), callbacks=[press, first, dashboard],
        )  # fmt: skip
    trace = dashboard.trace
    kinds = [(event.kind, event.source) for event in trace.events]
    assert ("note", "code") in kinds and kinds[-1] == ("stop", "user")
    assert [k for k, _ in kinds].count("step") == 2 and ("pause", "user") in kinds
    assert {"set", "undo"} <= {k for k, _ in kinds}
    rates = trace.control["learning_rate"]
    assert rates.max() == 0.5 and rates[-1] == pytest.approx(0.01)
    assert trace.attrs["status"] == "stopped" and len(trace) < 5000
    dashboard.note("after it")
    assert trace.events[-1]._replace(time=0.0) == vt.Event(len(trace), 0.0, "note", text="after it")


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_the_kl_of_each_variable_under_an_inference_of_pymcs_own(
    model, notebook, monkeypatch, method
):
    dashboard = vt.Dashboard()
    phases = []
    compiles = vt.KLMonitor._compile

    def compile_(self, approx, op):
        phases.append(dashboard._panel.status.status["phase"])
        return compiles(self, approx, op)

    monkeypatch.setattr(vt.KLMonitor, "_compile", compile_)
    with model:
        pm.fit(
            3000, method=method, random_seed=1, progressbar=False, compile_kwargs=FAST,
            callbacks=[dashboard],
        )  # fmt: skip
    assert phases == ["compiling"]
    trace = dashboard.trace
    assert trace.variables == dashboard._panel.variables == ("z",)
    assert 1 <= np.isfinite(trace.kl["z"]).sum() < 3000
    assert np.isfinite(dashboard._panel.status.status["elbo"])
    assert "KL of z, nats" in notebook.shown[-1].data
    assert dashboard._panel.figure._legend["notes"] == {}


def test_a_slow_first_call_of_the_monitor_does_not_use_up_its_budget(model, notebook, monkeypatch):
    compiles = vt.KLMonitor._compile

    def compile_(self, approx, op):
        function, calls = compiles(self, approx, op), []

        def compiles_in_the_first_call(*parameters):
            if not calls:
                time.sleep(1.0)
            calls.append(parameters)
            return function(*parameters)

        return compiles_in_the_first_call

    monkeypatch.setattr(vt.KLMonitor, "_compile", compile_)
    dashboard = vt.Dashboard()
    with model:
        pm.fit(2000, random_seed=1, progressbar=False, compile_kwargs=FAST, callbacks=[dashboard])
    assert np.isfinite(dashboard.trace.kl["z"]).sum() > 10


def test_a_fit_of_particles_says_in_words_that_it_has_no_kl(model, notebook):
    dashboard = vt.Dashboard()
    with model:
        pm.fit(
            30, method="svgd", random_seed=1, progressbar=False, compile_kwargs=FAST,
            inf_kwargs={"n_particles": 5}, callbacks=[dashboard],
        )  # fmt: skip
    notes = dashboard._panel.figure._legend["notes"]
    assert "set of particles" in notes["kl"] and notes["loss"] == "this fit computes none"
    assert "finished after 30 steps" in notebook.shown[-1].data
    assert "not finite" not in notebook.shown[-1].data


def test_a_monitor_that_fails_warns_once_and_the_fit_goes_on(model, notebook, monkeypatch):
    def fail(self, approx, op):
        raise NotImplementedError("no such Op")

    monkeypatch.setattr(vt.KLMonitor, "_compile", fail)
    dashboard = vt.Dashboard()
    with model, pytest.warns(RuntimeWarning, match="NotImplementedError: no such Op") as caught:
        pm.fit(40, random_seed=1, progressbar=False, compile_kwargs=FAST, callbacks=[dashboard])
    assert len([w for w in caught if "no such Op" in str(w.message)]) == 1
    assert dashboard.trace.step.tolist() == list(range(40))
    assert np.isnan(dashboard.trace.kl["z"]).all()
    assert "no such Op" in dashboard._panel.status.status["message"]


def test_a_recorder_without_a_monitor_says_what_is_missing(model, notebook):
    dashboard = vt.Dashboard(recorder=vt.Recorder())
    with model:
        pm.fit(30, random_seed=1, progressbar=False, compile_kwargs=FAST, callbacks=[dashboard])
    assert "monitor=vitoolkit.KLMonitor()" in dashboard._panel.figure._legend["notes"]["kl"]


def test_the_switch_of_the_scaling_comes_last_and_is_flipped(notebook):
    data = np.random.default_rng(1).normal(size=100)
    with pm.Model() as model:
        z = pm.Normal("z")
        pm.Normal("y", z, observed=pm.Minibatch(data, batch_size=10), total_size=100)
    dashboard = vt.Dashboard(vt.LearningRate())

    def flip():
        row, message = dashboard._panel.rows[-1], {"kind": "set", "on": False, "number": "1"}
        notebook.arriving.append(lambda: row._on_page(row.widget, message, []))
        dashboard._next = 0.0

    adam = pm.adam(learning_rate=dashboard.controls[0])
    train(model, dashboard, callbacks=[at(20, flip)], optimizer=adam)
    panel = dashboard._panel
    names = [row.control.name for row in panel.rows]
    assert names == ["beta", "learning_rate", "scale_cost_to_minibatch"]
    assert [line[0] for line in panel.figure._legend["control"]] == names[:2]
    (event,) = dashboard.trace.events
    assert (event.control, event.new, event.source) == (names[2], 0.0, "user")
    shapes = dict(panel.figure._last[0]["arrays"])
    assert shapes["control"][0] == 2 and len(panel.figure._last[0]["marks"]) == 1


def test_active_units_while_the_fit_runs(model, notebook):
    dashboard = vt.Dashboard()
    train(model, dashboard, kl_by="coordinate")
    words = active_text(dashboard.trace)
    assert words.endswith(" of 2")
    assert dashboard._panel.figure._last[0]["active"] == words
    assert f"<td>active units</td><td>{words}</td>" in notebook.shown[-1].data


def test_refine_of_pymcs_own_shows_a_new_panel(model, notebook):
    dashboard = vt.Dashboard()
    with model:
        inference = pm.ADVI(random_seed=1)
        for n in (30, 20):
            inference.fit(n, callbacks=[dashboard], progressbar=False, compile_kwargs=FAST)
            assert dashboard.trace.attrs["status"] == "finished"
    assert len(notebook.shown) == 4
    assert notebook.events.stopped == notebook.events.started == 2


def test_a_finished_dashboard_shows_its_charts_again(model, notebook):
    dashboard = vt.Dashboard()
    train(model, dashboard)
    first = dashboard._panel
    assert not first.open
    for _ in range(2):
        bundle = dashboard._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        assert "application/vnd.jupyter.widget-view+json" in data
    panel = dashboard._panel
    assert panel.open and panel is not first
    assert panel.status.status["phase"] == "finished"
    assert panel.status.status["took"] == first.status.status["took"]
    assert panel.figure._last[0]["end"] == 59 and panel.trace is dashboard.trace
    assert [row.control for row in panel.rows] == [row.control for row in first.rows]
    panel.close()


@pytest.mark.parametrize("where", ["another cell", "a page that loads", "an Output"])
def test_a_panel_that_is_shown_in_two_places_keeps_the_second(model, notebook, where):
    dashboard = vt.Dashboard()

    def show():
        if where == "an Output":
            return
        if where == "another cell":
            dashboard._repr_mimebundle_()
        else:  # it asks for all state there is
            dashboard._panel.figure.get_state()

    output = ipywidgets.Output(msg_id="a cell" if where == "an Output" else "")
    train(model, dashboard, callbacks=[at(20, show)])
    output.close()
    assert dashboard._panel.open
    assert "finished after 60 steps" in notebook.shown[-1].data
    dashboard._panel.close()


def test_a_diagnosis_is_shown_in_the_panel_until_the_fit_goes_on(model, notebook):
    pytest.importorskip("arviz")
    dashboard = vt.Dashboard()
    looked_at = at(20, lambda: setattr(dashboard._panel.status, "seen", True))
    approx = train(model, dashboard, callbacks=[looked_at])
    panel = dashboard._panel
    panel.figure.on_kept()  # the page has the charts now
    button = panel._diagnosis
    assert not panel.open and button.place and button.state["phase"] == "ready"
    found = vt.diagnose(approx, draws=200, linear_response=False)
    assert dashboard.trace.attrs["diagnosis"] == found.to_dict()
    assert button.state["phase"] == "done" and "k-hat is" in button.state["found"]
    assert button.state["found"] in notebook.shown[-1].data
    dashboard._repr_mimebundle_()
    again = dashboard._panel
    assert again._diagnosis in again.widget.children and again._diagnosis is not button
    assert again._diagnosis.state == button.state
    again._diagnosis._work()
    assert "sd by linear response" in again._diagnosis.state["found"] != button.state["found"]
    panel_of_before = again._diagnosis
    with model:
        dashboard._fit.inference.refine(10, progressbar=False)
    assert "diagnosis" not in dashboard.trace.attrs and panel_of_before.comm is None


def test_refine_goes_on_with_the_same_trace(model, notebook):
    dashboard = vt.Dashboard()
    with model:
        inference = vt.ADVI(random_seed=1)
        inference.fit(40, callbacks=[dashboard], progressbar=False, compile_kwargs=FAST)
        first = dashboard._panel
        inference.refine(30, progressbar=False)
    assert len(dashboard.trace) == 70
    assert not first.open and dashboard._panel is not first
    assert dashboard._panel.status.status["n"] == 30
    assert dashboard._panel.status.status["done"] == 30


@pytest.mark.parametrize("shown", [True, False])
def test_wrapped_in_a_function_it_works_as_well(model, request, shown):
    if shown:
        request.getfixturevalue("notebook")
    dashboard = vt.Dashboard()
    with model:
        pm.fit(
            40, method=vt.ADVI(random_seed=1), progressbar=False, compile_kwargs=FAST,
            callbacks=[lambda approx, losses, i: dashboard(approx, losses, i)],
        )  # fmt: skip
    assert len(dashboard.trace) == 40


def test_a_recorder_that_is_given_is_used():
    rate, beta = vt.LearningRate(), vt.Beta()
    recorder = vt.Recorder(rate)
    dashboard = vt.Dashboard(beta, recorder=recorder)
    assert dashboard.recorder is recorder and dashboard.trace is recorder.trace
    assert dashboard.controls == (rate, beta)
    with pytest.raises(ValueError, match=r"every belongs to the recorder"):
        vt.Dashboard(recorder=recorder, every=5)
    with pytest.raises(TypeError, match="recorder must be a vitoolkit Recorder, received 3"):
        vt.Dashboard(recorder=3)
    with pytest.raises(TypeError, match="expected a vitoolkit Control"):
        vt.Dashboard("beta")


def test_every_thins_the_record(model):
    dashboard = vt.Dashboard(every=10)
    train(model, dashboard)
    assert dashboard.trace.step.tolist() == [0, 10, 20, 30, 40, 50]


def test_the_dashboard_changes_no_number(model, notebook):
    with_panel, without = vt.Dashboard(), vt.Recorder()
    train(model, with_panel)
    train(model, without)
    np.testing.assert_array_equal(with_panel.trace.loss, without.trace.loss)


def test_a_notebook_that_is_executed_without_a_page_ends_with_a_picture(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook()
    source = (
        f"import sys; sys.path.insert(0, {str(Path(vt.__file__).parents[1])!r})\n"
        "import pymc as pm, vitoolkit as vt\n"
        "with pm.Model():\n"
        "    z = pm.Normal('z')\n"
        "    pm.Normal('y', z, observed=[0.2, 1.1])\n"
        "    pm.fit(400, method=vt.ADVI(random_seed=1), callbacks=[vt.Dashboard()],\n"
        "           compile_kwargs={'mode': 'FAST_COMPILE'})\n"
    )
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = [o["data"] for o in notebook.cells[0].outputs if o.output_type == "display_data"]
    assert ["finished after 400 steps" in data["text/html"] for data in shown] == [True]
    assert not [o for o in notebook.cells[0].outputs if "Warning" in o.get("text", "")]


def test_reading_messages_that_fails_warns_and_the_fit_goes_on(model, notebook):
    def fail():
        raise OSError("no such socket")

    dashboard = vt.Dashboard()
    callback = at(20, lambda: notebook.arriving.append(fail))
    with pytest.warns(RuntimeWarning, match="the fit goes on: OSError: no such socket"):
        train(model, dashboard, n=3000, callbacks=[callback])
    assert len(dashboard.trace) == 3000


def test_the_package_does_not_import_the_display():
    # ArviZ 0.23 imports bokeh and IPython by itself.
    code = (
        "import sys, pymc; before = set(sys.modules); import vitoolkit; "
        "display = {'bokeh', 'ipywidgets', 'anywidget', 'IPython'}; "
        "print(sorted(display & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def steps_of(trace):
    return [(e.step, e.kind, e.source) for e in trace.events]


class Looks(vt.Callback):
    """Somebody at the panel: does something once the fit waits for its first step."""

    def __init__(self, dashboard, act):
        self.dashboard, self.act = dashboard, act

    def on_idle(self, run):
        act, self.act = self.act, lambda run: None
        act(run)


@pytest.mark.parametrize("stock", [False, True])
def test_a_paused_fit_waits_for_start_with_its_sliders_in_force(model, notebook, stock):
    rate = vt.LearningRate(1e-2)
    dashboard = vt.Dashboard(rate, paused=True)

    def start(run):
        panel = dashboard._panel
        panel.status._on_page(panel.status, {"kind": "here"}, [])
        assert (panel.pause.description, run.holding, run.done) == ("Start", "start", int(stock))
        assert panel.status.status["holding"] == "start"
        moved = {"kind": "set", "value": 0.5, "number": "a 1"}
        rate_row = panel.rows[-1].widget
        notebook.arriving.append(lambda: rate_row._handle_custom_msg(moved, []))
        notebook.arriving.append(panel.pause.click)

    with model:
        pm.fit(
            60, method=pm.ADVI(random_seed=1) if stock else vt.ADVI(random_seed=1),
            callbacks=[Looks(dashboard, start), dashboard], progressbar=False,
            obj_optimizer=pm.adam(learning_rate=rate.shared), compile_kwargs=FAST,
        )  # fmt: skip
    first = int(stock)  # PyMC's own tells of itself after a step
    assert steps_of(dashboard.trace) == [
        (first, "pause", "code"), (first, "set", "user"), (first, "resume", "user"),
    ]  # fmt: skip
    used = dashboard.trace.control["learning_rate"]
    assert used[first] == used[-1] == 0.5 and len(used) == 60


def test_start_pressed_while_compiling_takes_the_pause_back(model, notebook):
    dashboard = vt.Dashboard(paused=True)
    notebook.arriving.append(lambda: dashboard._panel.pause.click())
    train(model, dashboard)
    assert steps_of(dashboard.trace) == [(0, "pause", "code"), (0, "resume", "user")]


def test_pause_pressed_while_compiling_is_heard_before_the_first_step(model, notebook):
    dashboard = vt.Dashboard()
    notebook.arriving.append(lambda: dashboard._panel.pause.click())

    def resume(run):
        assert (run.done, run.status, dashboard._panel.pause.description) == (0, "paused", "Resume")
        notebook.arriving.append(dashboard._panel.pause.click)

    train(model, dashboard, callbacks=[Looks(dashboard, resume)])
    assert steps_of(dashboard.trace) == [(0, "pause", "user"), (0, "resume", "user")]


def test_what_nobody_looks_at_starts_by_itself_at_full_speed(model, notebook, monkeypatch):
    said = []
    monkeypatch.setattr(dashboard_module, "NOBODY", 0.1)
    monkeypatch.setattr(dashboard_module._logger, "info", said.append)
    dashboard = vt.Dashboard(paused=True, steps_per_second=1)
    train(model, dashboard)  # a minute at this pace
    assert "The fit starts by itself: no page shows its panel." in said
    assert steps_of(dashboard.trace) == [(0, "pause", "code"), (0, "resume", "code")]
    assert dashboard._panel.actions.pace.value == 0.0


def test_a_refine_goes_on_at_once(model, notebook, monkeypatch):
    monkeypatch.setattr(dashboard_module, "NOBODY", 0.1)
    dashboard = vt.Dashboard(paused=True)
    with model:
        inference = vt.ADVI(random_seed=1)
        inference.fit(20, callbacks=[dashboard], progressbar=False, compile_kwargs=FAST)
    dashboard._alone = False
    inference.refine(20, callbacks=[dashboard], progressbar=False)
    assert steps_of(dashboard.trace) == [(0, "pause", "code"), (0, "resume", "code")]


def test_outside_a_notebook_nothing_waits(model):
    dashboard = vt.Dashboard(paused=True, steps_per_second=1)
    train(model, dashboard)
    assert len(dashboard.trace) == 60


def test_a_display_that_fails_does_not_leave_the_fit_waiting(model, notebook, monkeypatch):
    monkeypatch.setattr(panel_module.Panel, "refresh", lambda panel: 1 / 0)
    dashboard = vt.Dashboard(paused=True)
    with pytest.warns(RuntimeWarning, match="switched off"):
        train(model, dashboard)
    assert len(dashboard.trace) == 60


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (dict(steps_per_second=0), ValueError, "above 0, or None for no limit, received 0"),
        (dict(steps_per_second=float("inf")), ValueError, "finite number, received inf"),
        (dict(steps_per_second="fast"), TypeError, "a real number, received 'fast'"),
        (dict(paused="yes"), TypeError, "paused must be True or False, received 'yes'"),
        (dict(notify=1), TypeError, "notify must be True or False, received 1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_shown(wrong, error, words):
    with pytest.raises(error, match=words):
        vt.Dashboard(**wrong)
