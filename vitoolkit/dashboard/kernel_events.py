"""Widget messages while a cell runs: the one place that knows how a Jupyter kernel queues them.

A kernel handles one request after the other, so what a slider sends waits until the running cell
ends. Which way out works depends on the kernel, and is chosen by looking at it:

``"pump"``
    The fitting thread reads the kernel's queue itself, every 10 ms: ipykernel 6, and
    ipykernel >= 7.4, which routes a widget's messages to the shell that showed it (the very cell
    that is running). On ipykernel 7 a fit that a button started in a front end with subshells runs
    in one, and reads that one's queue.
``"subshell"``
    ipykernel 7.0 to 7.3 hands widget messages to a thread of its own. The queue is still read: a
    page that reloads asks there, and so do front ends without subshells.
``"thread"``
    The fit runs beside the cell. Nothing waits, nothing is read.
``"none"``
    No Jupyter kernel, or one whose queue cannot be read; the second is said in a warning, once.

Only widget messages and the two questions of a page that loads are answered early. All else,
above all queued cells, goes back to the kernel in the order it came.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeAlias

from vitoolkit.interrupt import short_switch_interval

__all__ = ["KernelEvents", "after_the_cell", "awaiting_cell", "current_kernel"]

#: Messages answered while the cell runs; everything else waits for the end of the cell.
LIVE = frozenset(
    {"comm_open", "comm_msg", "comm_close", "comm_info_request", "kernel_info_request"}
)
#: Most messages answered in one go, so that a flood of them does not stop the fit.
MOST = 50
#: Seconds that a message in hand is given to finish after an interrupt.
PATIENCE = 0.5
#: Seconds between two looks at the queue; one takes a few microseconds.
EVERY = 0.01

#: Of ipykernel and jupyter_client, which have no types; a kernel is None where there is none.
Kernel: TypeAlias = Any
Session: TypeAlias = Any
#: A message as the parts that ZMQ makes of it, each with its bytes.
Frames: TypeAlias = list[Any]
#: Makes a context in which an interrupt gets through.
Lifted: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]
Caught: TypeAlias = list[tuple[int, FrameType | None]]

_warned: set[str] = set()


class _Missing(Exception):
    """The kernel lacks something that reading its queue needs."""


class KernelEvents:
    """Answers widget messages from the fitting thread while a cell runs.

    Parameters
    ----------
    kernel : ipykernel.kernelbase.Kernel, optional
        The kernel; by default the one this process runs in, if any.
    beside : bool
        True for a fit in a thread of its own: nothing waits for it, so nothing is read.

    Attributes
    ----------
    way : str
        "pump", "subshell", "thread" or "none"; see the module's text.
    words : str
        The same for people to read; for "none" what is missing, and the remedy.
    due : float
        When to look next, seconds of ``time.perf_counter``; infinite with nothing to read.

    Examples
    --------
    Outside a notebook there is nothing to answer:

    >>> events = KernelEvents()
    >>> events.way, events.poll()
    ('none', 0)
    """

    def __init__(self, kernel: Kernel = None, *, beside: bool = False) -> None:
        self.kernel = current_kernel() if kernel is None else kernel
        self.way, self.words = "none", ""
        self._queue: _SocketQueue | _StreamQueue | None = None
        self._thread = threading.get_ident()
        self._main = threading.current_thread() is threading.main_thread()
        self.due = math.inf
        self._stop = contextlib.ExitStack()
        if self.kernel is None:
            return
        try:
            self._queue = None if beside else _queue_of(self.kernel)
        except _Missing as missing:
            self.words = (
                f"the sliders of this dashboard act only after the cell: {missing}. "
                f"Run the fit in the background (vitoolkit.fit(..., background=True)) to steer it."
            )
            _warn_once(self.words)
            return
        if self._queue is None:
            self.way = "thread"
        else:
            self.way = "subshell" if self._queue.native else "pump"
            self.due = 0.0
        self.words = f"steering by {self.way}, {' '.join(_package(self.kernel))}"

    def __enter__(self) -> KernelEvents:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Let the kernel's own threads have the interpreter more often, until :meth:`stop`."""
        self.stop()
        if self.way != "none":
            self._stop.enter_context(short_switch_interval())

    def stop(self) -> None:
        """Undo :meth:`start`. What was set aside is already back with the kernel."""
        self._stop.close()

    def poll(self, *, now: bool = False) -> int:
        """Answer what has arrived, unless the last time is less than 10 ms ago.

        Parameters
        ----------
        now : bool
            True to look whatever the time.

        Returns
        -------
        int
            Number of messages answered.

        Raises
        ------
        KeyboardInterrupt
            When the kernel is interrupted meanwhile; the message in hand is finished first.
        """
        queue, clock = self._queue, time.perf_counter()
        if queue is None or (clock < self.due and not now):
            return 0
        if threading.get_ident() != self._thread:
            return 0
        self.due = clock + EVERY
        if not queue.waiting():
            return 0
        answered = 0
        with _interrupts_held() if self._main else _no_interrupts() as release:
            while answered < MOST:
                frames = queue.take()
                if frames is None:
                    break
                self._answer(queue, frames, release)
                answered += 1
        return answered

    def _answer(
        self, queue: _SocketQueue | _StreamQueue, frames: Frames, interruptible: Lifted
    ) -> None:
        """Do what the kernel does with a request, and leave the running cell as it was."""
        kernel, session = self.kernel, self.kernel.session
        idents, rest = session.feed_identities(frames, copy=False)
        try:
            message = session.deserialize(rest, content=True, copy=False)
        except Exception:
            kernel.log.error("Invalid message", exc_info=True)
            return
        # What comes next on a comm goes where it was last published from: here, whoever asked.
        message["header"].pop("subshell_id", None)
        if queue.subshell is not None:
            message["header"]["subshell_id"] = queue.subshell
        cell_ident, cell = kernel._parent_ident["shell"], kernel.get_parent("shell")
        kernel.set_parent(idents, message, channel="shell")
        kernel._publish_status("busy", "shell")
        try:
            kind = message["header"]["msg_type"]
            if kind == "comm_msg" and _awaited:
                handler = _awaited[0]  # the status is told here
            else:
                handler = kernel.shell_handlers[kind]
            with interruptible():
                _finish(handler(queue.reply, idents, message))
        except Exception:
            kernel.log.error("Exception in message handler:", exc_info=True)
        finally:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            kernel._publish_status("idle", "shell")
            queue.sent()
            kernel.set_parent(cell_ident, cell, channel="shell")


class _SocketQueue:
    """A shell's queue in ipykernel 7: a socket that the shell channel's thread fills."""

    def __init__(self, kernel: Kernel, subshell: str | None) -> None:
        manager = _need(kernel, "shell_channel_thread.manager")
        pair = _need(manager, "get_shell_channel_to_subshell_pair")(subshell)
        self.reply = _need(manager, "get_subshell_to_shell_channel_socket")(subshell)
        self.socket, self.stream = _need(pair, "to_socket"), _need(pair, "to_stream")
        self.loop = _need(self.stream, "io_loop")
        self.receive = _need(self.stream, "_recv_callback")
        self.session, self.subshell = kernel.session, subshell
        self.native = subshell is None and not _routes_to_the_cell()
        self._rearmed = False

    def waiting(self) -> bool:
        """Whether there is a message."""
        import zmq

        return bool(self.socket.getsockopt(zmq.EVENTS) & int(zmq.POLLIN))

    def sent(self) -> None:
        """Leave the replies to the shell channel's thread, which has them by now."""

    def take(self) -> Frames | None:
        """Take the next message to answer; hand all before it back to the kernel's loop, in order.

        The loop is busy with the running cell, so what it is handed runs right after it, before
        anything that is still in the socket, without any work of ours at the end.
        """
        import zmq

        if not self._rearmed:
            # A ZMQ socket signals a message once. The stream must look again, as we may have eaten
            # the signal, but only after all that is handed back meanwhile: hence a second turn of
            # the loop.
            self._rearmed = True
            self.loop.add_callback(self.loop.add_callback, self._rearm)
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            if _kind(self.session, frames) in LIVE:
                return frames
            self.loop.add_callback(self.receive, frames)

    def _rearm(self) -> None:
        self._rearmed = False
        if not self.stream.closed():
            self.stream.flush()


class _StreamQueue:
    """The shell's queue in ipykernel 6: a ZMQ stream in front of ``kernel.msg_queue``."""

    def __init__(self, kernel: Kernel) -> None:
        self.reply = _need(kernel, "shell_stream")
        _need(self.reply, "socket")
        self.queue = _need(kernel, "msg_queue")
        _need(self.queue, "get_nowait")
        self.session, self.subshell = kernel.session, None
        self.native = False

    def waiting(self) -> bool:
        """Whether there is a message, in the socket or before in the queue."""
        import zmq

        return bool(
            self.queue.qsize() or self.reply.socket.getsockopt(zmq.EVENTS) & int(zmq.POLLIN)
        )

    def sent(self) -> None:
        """Send the replies, for which the kernel's loop has no time."""
        import zmq

        self.reply.flush(zmq.POLLOUT)

    def take(self) -> Frames | None:
        """Take the next message to answer out of the queue; the rest stays there in its order."""
        import zmq

        self.reply.flush(zmq.POLLIN)
        waiting = [self.queue.get_nowait() for _ in range(self.queue.qsize())]
        found = None
        for item in waiting:
            frames = self._frames(item)
            if found is None and frames is not None and _kind(self.session, frames) in LIVE:
                found = frames
            else:
                self.queue.put_nowait(item)
        return found

    @staticmethod
    def _frames(item: tuple[object, object, tuple[object, ...]]) -> Frames | None:
        _, _, args = item
        return args[0] if len(args) == 1 and isinstance(args[0], list) else None


def current_kernel() -> Kernel:
    """Return the Jupyter kernel of this process, None in plain Python or a terminal's IPython."""
    if "IPython" not in sys.modules:
        return None
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None)


#: One entry for each wait, the first is the kernel's own handler.
_awaited: list[Callable[..., object]] = []


@contextlib.contextmanager
def awaiting_cell() -> Iterator[None]:
    """Say of each widget message that it is done, while a cell awaits; several may overlap.

    From ipykernel 7.4 on the kernel answers widgets beside a cell that awaits, without a word on
    its status; a page holds a slider's next value back until it hears that.
    """
    kernel = current_kernel()
    dispatch = getattr(kernel, "dispatch_shell", None)  # a kernel may be another's than ipykernel's
    if dispatch is None or "concurrent" not in inspect.signature(dispatch).parameters:
        yield
        return
    own = kernel.shell_handlers["comm_msg"]

    def told(stream: object, ident: object, message: dict[str, object]) -> None:
        kernel._publish_status("busy", "shell", parent=message)
        try:
            own(stream, ident, message)
        finally:
            kernel._publish_status("idle", "shell", parent=message)

    if not _awaited:
        kernel.shell_handlers["comm_msg"] = told
    _awaited.append(own)
    try:
        yield
    finally:
        first = _awaited[0]
        _awaited.pop()
        if not _awaited:
            kernel.shell_handlers["comm_msg"] = first


def after_the_cell(act: Callable[[Any], None]) -> None:
    """Call `act` once with the result of the running cell when it has ended."""
    kernel = current_kernel()
    if kernel is None:
        return
    events = kernel.shell.events

    def ended(result: Any) -> None:
        events.unregister("post_run_cell", ended)
        act(result)

    events.register("post_run_cell", ended)


def _queue_of(kernel: Kernel) -> _SocketQueue | _StreamQueue | None:
    """Return the queue of the shell whose thread this is, None in a thread of its own."""
    main = threading.current_thread() is threading.main_thread()
    subshell = None if main else _subshell()
    if not main and subshell is None:
        return None
    for name in ("session.unpack", "shell_handlers", "set_parent", "get_parent", "_publish_status"):
        _need(kernel, name)
    if "shell" not in _need(kernel, "_parent_ident"):
        raise _Missing(f"{_named(kernel)} keeps no identity of the running cell")
    if getattr(kernel, "shell_channel_thread", None) is not None:
        return _SocketQueue(kernel, subshell)
    return _StreamQueue(kernel)


def _subshell() -> str | None:
    """Name of the subshell that this thread is."""
    thread = threading.current_thread()
    name = thread.name.removeprefix("subshell-")
    return name if name != thread.name and hasattr(thread, "shell_channel_to_subshell") else None


def _need(owner: object, path: str) -> Any:
    found = owner
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            raise _Missing(f"{_named(owner)} has no {path!r}")
    return found


def _named(owner: object) -> str:
    """Name what lacks something, with its version: the first thing to know about a report."""
    return f"{type(owner).__module__}.{type(owner).__qualname__} ({_package(owner)[1]})"


def _package(owner: object) -> tuple[str, str]:
    """Name and version of the package that something is from."""
    name = type(owner).__module__.partition(".")[0]
    return name, str(getattr(sys.modules.get(name), "__version__", "of unknown version"))


def _routes_to_the_cell() -> bool:
    """Whether a comm's messages go to the shell that last published on it (ipykernel 7.4)."""
    comm = sys.modules.get("ipykernel.comm.comm")
    return hasattr(getattr(comm, "BaseComm", None), "_reply_subshell_for")


def _kind(session: Session, frames: Frames) -> str | None:
    """Type of a message, read without checking it: a signature is good for one check only."""
    if len(frames) < 3:
        return None  # the kernel's own "stop aborting"
    try:
        _, rest = session.feed_identities(frames, copy=False)
        return session.unpack(rest[1].bytes)["msg_type"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # not a message: for the kernel to complain about


def _finish(result: object) -> None:
    """Run a handler's coroutine to its end, which none of those we call suspends before."""
    if not inspect.iscoroutine(result):
        return
    try:
        result.send(None)
    except StopIteration:
        return
    result.close()
    raise RuntimeError(f"the kernel's handler {result!r} waits for the event loop")


@contextlib.contextmanager
def _interrupts_held() -> Iterator[Lifted]:
    """Hold SIGINT back while a message is in hand, deliver it afterwards.

    Yields a context for what may hang: inside, SIGINT gets through after a moment, or the second
    time.
    """
    caught: Caught = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append((number, frame))

    @contextlib.contextmanager
    def lifted() -> Iterator[None]:
        timers: list[threading.Timer] = []

        def noted_for_now(number: int, frame: FrameType | None) -> None:
            patient = not caught
            note(number, frame)
            if not patient:
                _deliver(handler, caught)
                return
            timers.append(threading.Timer(PATIENCE, _interrupt_the_main_thread))
            timers[-1].daemon = True
            timers[-1].start()

        signal.signal(signal.SIGINT, noted_for_now)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, note)
            for timer in timers:
                timer.cancel()

    handler = signal.signal(signal.SIGINT, note)
    try:
        yield lifted
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            _deliver(handler, caught)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[Lifted]:
    """Stand in for :func:`_interrupts_held` outside the main thread, where none arrive."""
    yield contextlib.nullcontext


def _interrupt_the_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


def _deliver(handler: Callable[..., object] | int | None, caught: Caught) -> None:
    number, frame = caught[-1]
    caught.clear()
    if handler is signal.SIG_IGN:
        return
    if callable(handler):
        handler(number, frame)
    else:
        raise KeyboardInterrupt


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)
