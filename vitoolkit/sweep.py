"""Fits over a grid in many processes, on one machine or on many, through Dask."""

from __future__ import annotations

import inspect
import logging
import math
import re
import socket
import sqlite3
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitoolkit.advise import warn_user
from vitoolkit.background import answering
from vitoolkit.checks import flag, real_number, shown
from vitoolkit.file_systems import network_kind
from vitoolkit.files import require
from vitoolkit.fit import check_option_names, fit
from vitoolkit.journal_rows import RunRow
from vitoolkit.many import fitting_bar, grid_points
from vitoolkit.options import step_count
from vitoolkit.step_function import cores
from vitoolkit.sweep_point import Outcome, Point, Task, end_sweep, last_run
from vitoolkit.sweep_result import RESERVED, dataset_of
from vitoolkit.trace import Trace

if TYPE_CHECKING:
    import xarray
    from distributed import Client, Future

__all__ = ["sweep"]

_logger = logging.getLogger("pymc.variational.inference")
_LOOK_SECONDS = 0.05
#: Seconds between two looks at the journals, and the share of the time that they may take.
_NEWS_SECONDS, _SHARE = 1.0, 0.1
#: Seconds that a process may take to start again. Dask's own 15 are too few to import PyMC on a
#: machine that is busy: it would be given up, and nobody be left to fit.
_LOST_SECONDS = 600
_LONGEST = 100  # characters of a file's name


def sweep(
    build: Callable[..., Any],
    grid: Mapping[str, Any],
    client: Client | None = None,
    *,
    n: int = 10_000,
    record: str | Path | None = None,
    checkpoint_seconds: float = 10.0,
    dashboard: bool = True,
    progressbar: bool = True,
    **kwargs: Any,
) -> xarray.Dataset:
    """Fit at every point of a grid, in as many processes as there are, whatever becomes of them.

    Each fit has a journal. When a process dies, another one goes on with its fits from their last
    checkpoints, with the bits they would have had. Needs the extra ``sweep``, which is
    ``dask.distributed``.

    Parameters
    ----------
    build : callable
        Returns the model, or the model and a dict of options of :func:`fit` that belong to it, such
        as ``method``, ``more_obj_params``, a control with a rule, or ``callbacks``. It is called
        for every point, in the process that fits it.
    grid : mapping of str to sequence, or to mapping of label to value
        As for :func:`fit_many`: every combination is a point. A name is an option of :func:`fit` or
        an argument of `build`, such as ``{"beta": [0.5, 1.0, 4.0], "latent": [2, 5]}``.
    client : distributed.Client, optional
        Who has the processes, which may be on other machines; it is not closed. Default is a
        cluster on this machine, one process for each core, that is closed at the end.
    n : int
        Number of steps of each fit.
    record : path, optional
        Folder of the journals; made if it is not there. Points that a sweep before has recorded
        there are not fitted again, and those that it has begun go on. Default is a new temporary
        folder, which the log names.
    checkpoint_seconds : float
        Seconds between two checkpoints of a fit: at most so much is done again.
    dashboard : bool
        Whether to show all fits in one panel, live, where there is a notebook.
    progressbar : bool
        Whether to show a progress bar, over the steps of all fits, where there is no panel.
    **kwargs
        Options of :func:`fit` that all points share.

    Returns
    -------
    xarray.Dataset
        With the grid's names as dims. At the end of each fit, in nats, means of its last 100 rows:
        ``elbo`` (at β = 1), ``rate`` (the sum of the KL contributions), ``distortion`` (minus the
        data term), and ``kl`` by ``variable``. ``q`` by ``coordinate`` has the median and the ends
        of the middle 68 % (``end``) of what is known in closed form. ``steps``, ``status``,
        ``verdict``, ``error``, and in ``record`` the file that ``vitoolkit.Trace.open`` reads. All
        numbers of a fit that failed, or has taken no step, are NaN.

    Raises
    ------
    ImportError
        Without ``distributed``; the message names the extra.
    KeyError, TypeError, ValueError
        For an empty grid, an option that does not exist, is given twice or belongs to one fit
        (``callbacks``, ``record``; `build` may return them), an argument of `build` that is not
        given. All of it is said before a process is started.
    RuntimeError
        When every fit failed: what the first one raised, with its traceback. When only some did, a
        warning names them.

    Notes
    -----
    Points of one model are a few tasks, and a process compiles for the first of its points only.
    Ctrl-C ends all fits at the next step boundary; what they have is in the result, and the same
    call with the same `record` goes on. A script has to be importable, as for any program that
    starts processes: call `sweep` under ``if __name__ == "__main__":``. Dask sends `build` to the
    processes as a pickle, on ports of its own; in a journal nothing is pickled. Fits of this
    machine can be steered by :func:`attach`. What another machine has recorded is sent at the end.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> from distributed import Client
    >>> def build(sd):
    ...     with pm.Model() as model:
    ...         z = pm.Normal("z", sigma=sd)
    ...         y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     return model
    >>> grid = {"beta": [0.5, 1.0], "sd": [1.0, 10.0]}
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     found = vt.sweep(build, grid, client, n=200, random_seed=1, progressbar=False)
    >>> dict(found.sizes)
    {'beta': 2, 'sd': 2, 'variable': 1, 'coordinate': 1, 'end': 3}
    >>> len(vt.Trace.open(found.record.sel(beta=0.5, sd=10.0).item()))
    200

    The curve of rate and distortion (Alemi et al. 2018) is one line:

    >>> curve = found.sel(sd=1.0).plot.scatter(x="rate", y="distortion")  # doctest: +SKIP
    """
    require("distributed", extra="sweep")
    n, dashboard = step_count(n), flag("dashboard", dashboard)
    progressbar = flag("progressbar", progressbar)
    seconds = real_number("checkpoint_seconds", checkpoint_seconds, above=0)
    points = _points(build, grid, kwargs)
    _check_client(client)
    folder = _folder(record)
    names, labels = tuple(grid), _labels(tuple(grid), points)
    begun = [
        Point(key, of_build, options, folder / _file_name(labels[key]))
        for key, (of_build, options) in points.items()
    ]
    _tell(folder, len(begun))
    outcomes: dict[tuple, Outcome] = {}
    with ExitStack() as stack:
        if client is None:
            client = stack.enter_context(_local(len(begun)))
        slots = sum(client.nthreads().values()) or len(begun)
        host, name = socket.gethostname(), str(uuid.uuid4())
        tasks = [Task(build, some, n, seconds, host, name) for some in _split(begun, slots)]
        seen = {labels[point.key]: _Seen(point.path) for point in begun}
        show = stack.enter_context(_shown(seen, n, dashboard, progressbar))
        outcomes = _gather(client, tasks, lambda: show(outcomes), outcomes)
        traces = {}
        for point in begun:
            trace, path = outcomes[point.key].trace, point.path
            if trace is not None:  # of another machine, or one that could not be written here
                path = trace.save(point.path.with_suffix(".csv"))
            seen[labels[point.key]].close(trace)
            traces[point.key] = (seen[labels[point.key]].trace, path)
    failed = {key: found for key, found in outcomes.items() if found.status == "failed"}
    if len(failed) == len(outcomes):
        key, first = next(iter(failed.items()))
        error = RuntimeError(f"all {len(failed)} fits failed. {labels[key]}: {first.error}")
        error.add_note(first.told)
        raise error
    if failed:
        said = "; ".join(f"{labels[key]}: {found.error}" for key, found in failed.items())
        warn_user(f"{len(failed)} of {len(outcomes)} fits failed. {said}")
    return dataset_of(names, outcomes, traces)


# --- what is asked for ------------------------------------------------------------------------


def _points(
    build: Any, grid: Any, shared: Mapping[str, Any]
) -> dict[tuple, tuple[dict[str, Any], dict[str, Any]]]:
    """Arguments of `build`, and options of the fit, of every point."""
    if not callable(build):
        raise TypeError(f"build is a function that returns the model, received {shown(build)}")
    arguments = inspect.signature(build).parameters
    given = [name for name in grid if name in arguments] if isinstance(grid, Mapping) else []
    of_fit = inspect.signature(fit).parameters
    for name in given:
        if name in of_fit:
            raise ValueError(
                f"{name} is an argument of build and an option of vitoolkit.fit: give the "
                "argument another name"
            )
    for name in grid if isinstance(grid, Mapping) else ():
        if name in RESERVED:
            raise ValueError(f"{name} has a meaning in the result: give build another name for it")
    points = grid_points(grid, shared, more=given, of="sweep")
    check_option_names({name: value for name, value in shared.items() if name not in of_fit})
    needed = [
        name
        for name, argument in arguments.items()
        if argument.default is argument.empty
        and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
    ]
    if missing := [name for name in needed if name not in given]:
        raise TypeError(f"build needs {', '.join(missing)}: give {missing[0]} in the grid")
    return {
        key: (
            {name: value for name, value in values.items() if name in given},
            {**shared, **{name: value for name, value in values.items() if name not in given}},
        )
        for key, values in points.items()
    }


def _labels(names: tuple[str, ...], points: Mapping[tuple, Any]) -> dict[tuple, str]:
    return {key: ", ".join(f"{a}={b}" for a, b in zip(names, key, strict=True)) for key in points}


def _check_client(client: Any) -> None:
    from distributed import Client

    if client is None:
        return
    if not isinstance(client, Client):
        raise TypeError(f"client must be a distributed.Client, received {shown(client)}")
    if client.asynchronous:
        raise TypeError("client is asynchronous: give one that waits, Client(...)")


def _folder(record: Any) -> Path:
    if record is None:
        return Path(tempfile.mkdtemp(prefix="vitoolkit-sweep-"))
    folder = Path(record).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)  # FileExistsError where there is a file
    return folder


def _tell(folder: Path, count: int) -> None:
    _logger.info(f"{count} fits, recorded in {folder}")
    if (kind := network_kind(folder / "run.db")) is not None:
        warn_user(
            f"{folder} is on a network file system ({kind}), where no journal can be: a fit whose "
            "process dies begins anew. Give record= a folder on a disk of the machine"
        )


def _file_name(label: str) -> str:
    plain = re.sub(r"[^\w.=+-]+", "_", label)
    if plain != label.replace(", ", "_") or len(plain) > _LONGEST:
        plain = f"{plain[:_LONGEST]}-{zlib.crc32(label.encode()):08x}"
    return f"{plain}.db"


def _split(points: Sequence[Point], slots: int) -> list[list[Point]]:
    """Lists of points of one model each, as many as keep all busy."""
    models: list[list[Point]] = []
    for point in points:
        alike = (m for m in models if _same(m[0].of_build, point.of_build))
        model = next(alike, None)
        if model is None:
            models.append([point])
        else:
            model.append(point)
    tasks = []
    for model in models:
        many = min(len(model), math.ceil(slots * len(model) / len(points)))
        tasks += [model[i::many] for i in range(many)]
    return tasks


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] is other[name] for name in one)  # values of one axis


# --- the processes ----------------------------------------------------------------------------


@contextmanager
def _local(most: int) -> Iterator[Client]:
    """A cluster of this machine, that waits for a process that is started again."""
    import dask.config
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": _LOST_SECONDS}),
        LocalCluster(
            n_workers=min(cores(), most),
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # else it says that 8787 is taken
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_without_interrupts())
        yield client


def _without_interrupts() -> Any:
    """Let the processes be when Ctrl-C is pressed in their terminal: they are told to end."""
    import signal

    from distributed import WorkerPlugin

    class WithoutInterrupts(WorkerPlugin):
        name = "vitoolkit: Ctrl-C"

        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return WithoutInterrupts()


def _gather(
    client: Client,
    tasks: Sequence[Task],
    look: Callable[[], None],
    outcomes: dict[tuple, Outcome],
) -> dict[tuple, Outcome]:
    """Have all tasks done; Ctrl-C ends them, a second one leaves them.

    Dask gives a task up whose processes die again and again. Of several points it may be one that
    does it: each goes on alone, as long as it takes steps.
    """
    from distributed import KilledWorker

    open_: dict[Future, tuple[Task, int]] = {}
    asked = -math.inf  # when all were told to end
    interrupted = False

    def begin(task: Task) -> None:
        key = f"vitoolkit-sweep-{uuid.uuid4()}"
        open_[client.submit(task.run, pure=False, key=key)] = task, _steps(task)

    def end() -> None:
        client.run(end_sweep, tasks[0].sweep, on_error="ignore")

    try:
        for task in tasks:
            begin(task)
        with answering() as answer:
            while open_:
                try:
                    for future in [f for f in open_ if f.done()]:
                        task, taken = open_[future]
                        error = None if future.status == "finished" else _error_of(future)
                        if error is None:
                            outcomes.update(future.result())
                        elif isinstance(error, KilledWorker) and (
                            len(task.points) > 1 or _steps(task) > taken
                        ):
                            for point in task.points:  # one of them kills: which one?
                                begin(task._replace(points=(point,)))
                        else:
                            words = f"{type(error).__name__}: {error}"
                            outcomes.update(
                                {p.key: Outcome("failed", words, words) for p in task.points}
                            )
                        del open_[future]
                    if interrupted and time.monotonic() > asked + _NEWS_SECONDS:
                        end()  # again and again: a process may be new
                        asked = time.monotonic()
                    look()
                    answer()
                    time.sleep(_LOOK_SECONDS)
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted = True
        look()
    except BaseException:
        end()
        client.cancel(list(open_))
        raise
    return {point.key: outcomes[point.key] for task in tasks for point in task.points}


def _steps(task: Task) -> int:
    """How many steps are in the journals."""
    rows = [_Seen(point.path).row for point in task.points]
    return sum(row.step for row in rows if row is not None)


def _error_of(future: Future) -> BaseException:
    try:
        return future.exception() or RuntimeError(f"Dask says {future.status!r}")
    except Exception as error:  # it was cancelled, or the scheduler is gone
        return error


# --- what is seen -----------------------------------------------------------------------------


class _Seen:
    """A fit of another process, by its journal; read again at its own pace.

    Parameters
    ----------
    path : Path
        The journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trace = Trace()
        self._row: RunRow | None = None
        self._due, self._closed = 0.0, False

    @property
    def row(self) -> RunRow | None:
        """Where it stands; None before it has begun."""
        try:
            return last_run(self._path)
        except (OSError, ValueError, sqlite3.Error):  # what is wrong with it, its fit says
            return None

    @property
    def trace(self) -> Trace:
        """What is recorded."""
        begun = time.monotonic()
        if not self._closed and begun >= self._due:
            self._read()
            took = time.monotonic() - begun
            self._due = begun + max(_NEWS_SECONDS, took / _SHARE)
        return self._trace

    def _read(self) -> None:
        row = self.row
        if row is not None and row != self._row:
            self._trace, self._row = Trace.open(self._path, run=row.id), row

    def close(self, trace: Trace | None) -> None:
        """Keep what there is, or a trace, and look no more."""
        if trace is not None:
            self._trace = trace
        else:
            self._read()
        self._closed = True


@contextmanager
def _shown(
    seen: Mapping[str, _Seen], n: int, dashboard: bool, progressbar: bool
) -> Iterator[Callable[[Mapping[tuple, Outcome]], None]]:
    """One panel, or a progress bar."""
    if dashboard and _in_notebook():
        from IPython.display import display

        from vitoolkit.dashboard import Comparison

        comparison = Comparison(seen)
        shown = display(comparison, display_id=True)
        due = 0.0

        def refresh(outcomes: Mapping[tuple, Outcome]) -> None:
            nonlocal due
            if time.monotonic() < due:
                return
            due = time.monotonic() + _NEWS_SECONDS
            try:
                comparison.refresh()
            except Exception as error:  # no display ends a fit
                due = math.inf
                warn_user(f"the panel of the sweep is not live any more: {error!r}")

        yield refresh
        shown.update(comparison)  # what stays in the notebook is how it ended
        return
    with fitting_bar(len(seen), n * len(seen), progressbar) as draw:
        due = 0.0

        def redraw(outcomes: Mapping[tuple, Outcome]) -> None:
            nonlocal due
            if progressbar and (time.monotonic() > due or len(outcomes) == len(seen)):
                begun = time.monotonic()
                rows = [one.row for one in seen.values()]
                draw(sum(row.step for row in rows if row is not None), len(outcomes))
                due = begun + max(0.2, (time.monotonic() - begun) / _SHARE)

        yield redraw


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from vitoolkit.dashboard.kernel_events import current_kernel

    return current_kernel() is not None
