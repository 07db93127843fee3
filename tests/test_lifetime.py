"""What a dashboard leaves behind: a picture in the notebook, and nothing in the kernel."""

import gc
import json
import os
import sys
import weakref
from pathlib import Path

import pytest

pytest.importorskip("ipykernel")
from jupyter_client.kernelspec import KernelSpec  # noqa: E402
from jupyter_client.manager import KernelManager  # noqa: E402

from vitoolkit.dashboard.lifetime import weakly, when_gone  # noqa: E402

ROOT = Path(__file__).parents[1]
SETUP = """
import gc, json, logging
import comm, ipywidgets, pymc as pm, vitoolkit as vt
from pymc.variational import Approximation
from vitoolkit.dashboard.panel import Panel
from vitoolkit.loop import Run
logging.getLogger("pymc").setLevel(logging.ERROR)

def fit(seed, own=True, n=20):
    with pm.Model():
        z = pm.Normal("z")
        pm.Normal("y", z, observed=[0.2, 1.1])
        dashboard = vt.Dashboard()
        pm.fit(
            n, method=(vt.ADVI if own else pm.ADVI)(random_seed=seed), callbacks=[dashboard],
            progressbar=False, compile_kwargs={"mode": "FAST_COMPILE"},
        )
    return dashboard

def left():
    gc.collect()
    gc.collect()  # what the first one has found gone lets go of its charts, and they of the fit
    kinds = [type(thing) for thing in gc.get_objects()]  # a proxy's own type
    found = {
        kind.__name__: sum(issubclass(other, kind) for other in kinds)
        for kind in (pm.Model, Approximation, vt.Trace, vt.Control, vt.Dashboard, Run, Panel)
    }
    found["comms"] = len(comm.get_comm_manager().comms)
    found["widgets"] = len(ipywidgets.widgets.widget._instances)
    print(json.dumps(found))
"""


class Kernel:
    def __init__(self):
        self.manager = KernelManager(kernel_name="python3")
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.manager._kernel_spec = KernelSpec(argv=argv, env={"PYTHONPATH": path})
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)

    def run(self, code, timeout=1_500):
        """Run a cell; its printed text and what it displays at the end, in their order."""
        printed, shown, errors = [], {}, []

        def hook(message):
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed.append(content["text"])
            elif kind in ("display_data", "update_display_data"):
                shown[content.get("transient", {}).get("display_id", len(shown))] = content["data"]
            elif kind == "error":
                errors.append("\n".join(content["traceback"]))

        self.client.execute_interactive(code, output_hook=hook, timeout=timeout)
        assert not errors, errors
        return "".join(printed), list(shown.values())

    def left(self):
        return json.loads(self.run("left()")[0])


@pytest.fixture(scope="module")
def kernel():
    kernel = Kernel()
    kernel.run(SETUP)
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_fifty_fits_leave_pictures_and_nothing_else(kernel):
    kernel.run("for own in (True, False): fit(0, own)")
    once = kernel.left()
    shown = []  # in runs of two: a client that reads slowly loses messages beyond a thousand
    for seed in range(25):
        shown += kernel.run(f"for own in (True, False): fit({seed}, own)")[1]
    assert ["finished after 20 steps" in data["text/html"] for data in shown] == [True] * 50
    after = kernel.left()
    assert after == once
    assert {after[name] for name in ("Model", "Approximation", "Trace", "Run", "Panel")} == {0}
    assert after["comms"] < 5  # BokehJS, which all figures share


def test_a_dashboard_that_is_held_shows_its_charts_again_and_ends_with_its_holder(kernel):
    before = kernel.left()
    kernel.run("held = [fit(seed, own) for seed in range(2) for own in (True, False)]")
    during = kernel.left()
    assert (during["Dashboard"], during["Trace"]) == (4, 4)
    assert during["comms"] == before["comms"]  # the widgets went with the fit
    _, shown = kernel.run("for dashboard in held[:2]: display(dashboard)")
    assert all("application/vnd.jupyter.widget-view+json" in data for data in shown)
    told, _ = kernel.run(
        "for dashboard in held[:2]:\n"
        "    status = dashboard._panel.status.status\n"
        "    print(status['phase'], status['done'], dashboard._panel.figure.sent)"
    )
    assert told.splitlines() == ["finished 20 1"] * 2
    kernel.run("del held, dashboard")
    after = kernel.left()
    charts = after.pop("comms") - before.pop("comms")
    assert after.pop("widgets") - before.pop("widgets") == charts <= 2 * 10
    assert after == before  # the charts stay on the page, and hold nothing


def test_a_comparison_keeps_its_traces_as_long_as_one_grows(kernel):
    before = kernel.left()
    kernel.run(
        "trace = vt.Trace(('z',))\n"
        "trace.append(0, 0.1, 1.0, -1.0, [2.0])\n"
        "display(vt.Comparison({'one': trace, 'two': vt.Trace(('z',))}))\n"
    )
    assert kernel.left()["Trace"] - before["Trace"] == 2
    kernel.run(
        "comparison = next(thing for thing in gc.get_objects() if type(thing) is vt.Comparison)\n"
        "for one in comparison.runs.values(): one.attrs['status'] = 'finished'\n"
        "comparison.refresh()\n"
        "del comparison, one, trace"
    )
    assert kernel.left()["Trace"] == before["Trace"]


def test_a_weak_callback_does_not_keep_its_owner():
    class Owner:
        def double(self, x):
            return 2 * x

    owner, told = Owner(), []
    callback, gone = weakly(owner.double), weakref.ref(owner)
    when_gone(owner, told.append, "gone")
    assert callback(3) == 6 and told == []
    del owner
    gc.collect()
    assert gone() is None and callback(3) is None and told == ["gone"]
