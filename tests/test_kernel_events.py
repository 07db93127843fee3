"""Widget messages while a cell runs, on real kernels driven by jupyter_client; no browser."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ipykernel")
from jupyter_client.kernelspec import KernelSpec  # noqa: E402
from jupyter_client.manager import KernelManager  # noqa: E402

from vitoolkit.dashboard import kernel_events  # noqa: E402
from vitoolkit.dashboard.kernel_events import KernelEvents  # noqa: E402

ROOT = Path(__file__).parents[1]
FOLDER = os.environ.get("VITOOLKIT_IPYKERNELS")
#: The installed ipykernel, and folders of others; see tests/browser/make_kernels.py.
KERNELS = {"newest": None} | {
    path.name: path for path in sorted(Path(FOLDER).glob("*") if FOLDER else ())
}

SETUP = """
import asyncio, time
from comm import create_comm
from vitoolkit.dashboard.kernel_events import KernelEvents, awaiting_cell
seen, order = [], []
def heard(message):
    data = message["content"]["data"]
    seen.append(data)
    if data == "raise":
        raise ValueError("an observer that raises")
    if data == "sleep":
        time.sleep(30)
def opened(comm, message):
    comm.on_msg(heard)
get_ipython().kernel.comm_manager.register_target("probe", opened)
def work(seconds, upto=10**9):
    with KernelEvents() as events:
        print("working", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(seen) < upto:
            events.poll()
            sum(range(2000))
    return events
async def wait(seconds, upto, nap=0.0):
    events = KernelEvents()
    with awaiting_cell(), awaiting_cell():
        print("working", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(seen) < upto:
            time.sleep(nap)  # the kernel's loop sleeps, too: the message is left to poll
            events.poll()
            await asyncio.sleep(0.005)
"""


class Kernel:
    """A kernel, its channels, and the replies by request."""

    def __init__(self, packages):
        self.manager = KernelManager()
        self.manager._kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            language="python",
        )
        path = [str(packages)] * bool(packages) + [str(ROOT)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        self.manager.start_kernel(env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)
        assert self.run(SETUP)["status"] == "ok"
        self.comm, self.subshell = "c0ffee", None
        self.send("comm_open", comm_id=self.comm, target_name="probe", data={})
        self.run("pass")

    def send(self, kind, **content):
        message = self.client.session.msg(kind, content)
        if self.subshell is not None:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def say(self, data):
        return self.send("comm_msg", comm_id=self.comm, data=data)

    def reply(self, request, timeout=60):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            message = self.client.get_shell_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") == request:
                return message["content"]
        raise TimeoutError(request)

    def replies(self, *requests):
        """Replies to all of these, in the order in which the kernel gave them."""
        found = {}
        while len(found) < len(requests):
            message = self.client.get_shell_msg(timeout=60)
            if message["parent_header"].get("msg_id") in requests:
                found[message["parent_header"]["msg_id"]] = message["content"]
        return found

    def run(self, code):
        return self.reply(self.client.execute(code))

    def value(self, expression):
        content = self.reply(self.client.execute("", user_expressions={"v": expression}))
        return eval(content["user_expressions"]["v"]["data"]["text/plain"])

    def busy(self, request):
        """Wait until a cell's code runs; the kernel loses an interrupt that comes before that."""
        printed = ""
        while "working" not in printed:
            message = self.client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "stream" and self.parent(message) == request:
                printed += message["content"]["text"]
        return printed

    def iopub(self):
        """Everything published so far."""
        found = []
        while self.client.iopub_channel.msg_ready() or not found:
            found.append(self.client.get_iopub_msg(timeout=10))
        return found

    @staticmethod
    def parent(message):
        return message["parent_header"].get("msg_id")

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module", params=KERNELS)
def shared_kernel(request):
    kernel = Kernel(KERNELS[request.param])
    yield kernel
    kernel.close()


@pytest.fixture
def kernel(shared_kernel):
    shared_kernel.run("seen.clear(); order.clear()")
    return shared_kernel


def test_messages_arrive_while_the_cell_runs_and_in_order(kernel):
    cell = kernel.client.execute("events = work(20, upto=50); during = list(seen)")
    kernel.busy(cell)
    for number in range(50):
        kernel.say(number)
    assert kernel.reply(cell)["status"] == "ok"
    assert kernel.value("during") == list(range(50))
    assert kernel.value("events.way") in ("pump", "subshell")
    version = kernel.value("__import__('ipykernel').__version__")
    assert (
        kernel.value("events.words")
        == f"steering by {kernel.value('events.way')}, ipykernel {version}"
    )


@pytest.mark.parametrize(
    "cell", ["work(20, upto=3)", "await wait(20, upto=3)", "await wait(20, upto=3, nap=0.3)"]
)
def test_every_message_gets_busy_and_idle(kernel, cell):
    cell = kernel.client.execute(cell)
    kernel.busy(cell)
    said = [kernel.say(number) for number in range(3)]
    kernel.reply(cell)
    kernel.run("pass")
    published = kernel.iopub()
    for request in said:
        states = [
            message["content"]["execution_state"]
            for message in published
            if message["msg_type"] == "status" and kernel.parent(message) == request
        ]
        assert states == ["busy", "idle"]


def test_queued_cells_run_afterwards_in_order(kernel):
    cell = kernel.client.execute("work(20, upto=8); order.append('fit')")
    kernel.busy(cell)
    queued = []
    for number in range(4):
        queued.append(kernel.client.execute(f"order.append({number})"))
        kernel.say(number)
        time.sleep(0.05)
        kernel.say(number)
    replies = kernel.replies(cell, *queued)
    assert list(replies) == [cell, *queued]
    assert all(content["status"] == "ok" for content in replies.values())
    assert kernel.value("order") == ["fit", 0, 1, 2, 3]
    assert kernel.value("seen") == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_failing_cell_still_aborts_the_queue(kernel):
    cell = kernel.client.execute("work(20, upto=1); 1 / 0")
    kernel.busy(cell)
    queued = [kernel.client.execute(f"order.append({number})") for number in range(3)]
    time.sleep(0.1)
    kernel.say("go")
    replies = kernel.replies(cell, *queued)
    assert [replies[request]["status"] for request in (cell, *queued)] == ["error"] + [
        "aborted"
    ] * 3
    assert kernel.value("order") == []


def test_output_stays_with_its_cell(kernel):
    cell = kernel.client.execute("print('before'); work(20, upto=2); print('after')")
    printed = kernel.busy(cell)
    kernel.say(1), kernel.say(2)
    kernel.reply(cell)
    printed += "".join(
        message["content"]["text"]
        for message in kernel.iopub()
        if message["msg_type"] == "stream" and kernel.parent(message) == cell
    )
    assert printed.split() == ["before", "working", "after"]


def test_a_raising_observer_does_not_end_the_cell(kernel):
    cell = kernel.client.execute("work(20, upto=2)")
    kernel.busy(cell)
    kernel.say("raise"), kernel.say("next")
    assert kernel.reply(cell)["status"] == "ok"
    assert kernel.value("seen") == ["raise", "next"]


def test_a_page_that_loads_is_answered(kernel):
    cell = kernel.client.execute("work(20, upto=1)")
    kernel.busy(cell)
    begun = time.monotonic()
    info, comms = kernel.send("kernel_info_request"), kernel.send("comm_info_request")
    replies = kernel.replies(info, comms)
    assert time.monotonic() - begun < 10  # the cell goes on for 20
    assert replies[info]["status"] == "ok"
    assert kernel.comm in replies[comms]["comms"]
    kernel.say("enough")
    kernel.reply(cell)


def test_interrupt_ends_the_cell_and_nothing_is_lost(kernel):
    cell = kernel.client.execute("work(60)")
    kernel.busy(cell)
    for number in range(20):
        kernel.say(number)
    kernel.manager.interrupt_kernel()
    assert kernel.reply(cell)["ename"] == "KeyboardInterrupt"
    kernel.run("pass")
    assert kernel.value("seen") == list(range(20))


def test_interrupt_reaches_an_observer_that_hangs(kernel):
    cell = kernel.client.execute("work(60)")
    kernel.busy(cell)
    said = kernel.say("sleep")
    time.sleep(0.5)
    start = time.monotonic()
    kernel.manager.interrupt_kernel()
    assert kernel.reply(cell)["ename"] == "KeyboardInterrupt"
    assert time.monotonic() - start < 10
    states = [
        m["content"].get("execution_state") for m in kernel.iopub() if kernel.parent(m) == said
    ]
    assert states[-1] == "idle"


def test_an_interrupt_between_cells_does_no_harm(kernel):
    cell = kernel.client.execute("work(20, upto=1)")
    kernel.busy(cell)
    kernel.say(1)
    kernel.reply(cell)
    kernel.manager.interrupt_kernel()
    time.sleep(0.2)
    assert kernel.run("1 + 1")["status"] == "ok"


def test_the_event_loop_hears_what_comes_after_the_cell(kernel):
    cell = kernel.client.execute("work(0.3)")
    kernel.reply(cell)
    kernel.say("later")
    kernel.run("pass")
    assert kernel.value("seen") == ["later"]


WITH_SUBSHELLS = [name for name in KERNELS if not name.startswith("6.")]


@pytest.mark.parametrize("shared_kernel", WITH_SUBSHELLS, indirect=True)
def test_a_fit_in_a_subshell_reads_that_queue(kernel):
    ask = kernel.client.session.msg("create_subshell_request", {})
    kernel.client.control_channel.send(ask)
    kernel.subshell = kernel.client.get_control_msg(timeout=10)["content"]["subshell_id"]
    try:
        code = "events = work(20, upto=20); during = list(seen)"
        cell = kernel.send("execute_request", code=code)
        kernel.busy(cell)
        for number in range(20):
            kernel.say(number)
        assert kernel.reply(cell)["status"] == "ok"
        kernel.subshell = None
        assert kernel.value("during") == list(range(20))
        assert kernel.value("events.way") == "pump"
    finally:
        kernel.subshell = None


# --- without a kernel ---------------------------------------------------------------------------


class FakeKernel:
    """A kernel of another make: it has a session and nothing to read."""

    session = SimpleNamespace(unpack=None)


def test_an_unknown_kernel_is_told_once(monkeypatch):
    monkeypatch.setattr(kernel_events, "_warned", set())
    with pytest.warns(
        RuntimeWarning, match=r"act only after the cell: .*FakeKernel .* 'session.unpack'"
    ):
        events = KernelEvents(FakeKernel())
    assert (events.way, events.poll()) == ("none", 0)
    assert "act only after the cell" in events.words and "background=True" in events.words
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KernelEvents(FakeKernel())


def test_a_fit_in_a_thread_reads_nothing():
    ways = []
    thread = threading.Thread(target=lambda: ways.append(KernelEvents(FakeKernel()).way))
    thread.start()
    thread.join()
    assert ways == ["thread"]


def test_outside_jupyter_nothing_happens():
    before = sys.getswitchinterval()
    with KernelEvents() as events:
        assert (events.way, events.poll(now=True)) == ("none", 0)
        assert sys.getswitchinterval() == before


def test_switch_interval_is_restored(monkeypatch):
    before = sys.getswitchinterval()
    events = KernelEvents()
    monkeypatch.setattr(events, "way", "thread")
    with events:
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


def test_an_interrupt_in_hand_is_delivered_afterwards():
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with kernel_events._interrupts_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("finished")
    assert reached == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fits_that_overlap_share_the_switch_interval(monkeypatch):
    before = sys.getswitchinterval()
    first, second = KernelEvents(), KernelEvents()
    for events in (first, second):
        monkeypatch.setattr(events, "way", "thread")
        events.start()
    first.stop()
    assert sys.getswitchinterval() < before  # the other one still runs
    second.stop()
    second.stop()
    assert sys.getswitchinterval() == before
