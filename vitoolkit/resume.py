"""A fit goes on in another process, from the last checkpoint of its journal."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitoolkit.advise import warn_user
from vitoolkit.checks import shown
from vitoolkit.controls import Beta, Draws, LearningRate
from vitoolkit.export import BLOCK
from vitoolkit.fingerprint import differences
from vitoolkit.fit import Fit, start_fit
from vitoolkit.given import AGAIN, again, told
from vitoolkit.inference import KLqp
from vitoolkit.journal import Journal, journal_of
from vitoolkit.journal_file import JournalFile, empty_fields
from vitoolkit.journal_rows import RunRow
from vitoolkit.options import step_count
from vitoolkit.recipe import Recipe
from vitoolkit.recorder import Recorder
from vitoolkit.run import Run
from vitoolkit.state import State
from vitoolkit.step_function import StepFunction
from vitoolkit.steps import counter_of
from vitoolkit.trace import Trace

__all__ = ["resume"]


def resume(
    path: str | Path | Journal,
    *,
    run: int | None = None,
    model: Any = None,
    n: int | None = None,
    strict: bool = True,
    dashboard: Any = False,
    background: bool = False,
    progressbar: bool = True,
    **options: Any,
) -> Fit:
    """Go on with a fit whose process is gone, from the last checkpoint of its journal.

    The steps that were left are taken, with the bits they would have had: parameters, the
    optimizer's state, random generators, minibatches, controls, schedules and rules are as they
    were. Rows after the checkpoint are taken once more, equal.

    Parameters
    ----------
    path : str, Path or Journal
        The journal; a :class:`~vitoolkit.journal.Journal` says how often the state is saved now.
    run : int, optional
        Which run of the file; the last by default.
    model : pymc.Model, optional
        The model, built as it was; default is the one in context.
    n : int, optional
        Steps of the whole fit; by default as many as it was asked for.
    strict : bool, default True
        Refuse a model, data, options or versions that are not what they were. With False the fit
        goes on with what is given, a warning names the differences, and the rows that were recorded
        after the checkpoint are a branch of the trace.
    dashboard, background, progressbar
        As for :func:`vitoolkit.fit`; nothing is remembered of these.
    **options
        As for :func:`vitoolkit.fit`: what no file can hold has to be given again, such as an
        inference as `method`, a control with a rule, a function as a schedule, callbacks, an
        optimizer that is not PyMC's. Everything else is known.

    Returns
    -------
    Fit
        Its trace is that of the whole run.

    Raises
    ------
    FileNotFoundError
        When there is no such journal.
    KeyError
        When there is no such run.
    TypeError
        When something has to be given again; the message names it.
    ValueError
        When the file is damaged or no journal, nothing is left to do, or something is not as it
        was; the message names the differences.
    RuntimeError
        When the run is alive in its process.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with tempfile.TemporaryDirectory() as folder, pm.Model() as model:
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     whole = vt.fit(200, random_seed=1, progressbar=False)
    ...     watch = vt.watch("step >= 100", then="stop")
    ...     cut = vt.fit(
    ...         200, record=f"{folder}/run.db", callbacks=watch, random_seed=1, progressbar=False
    ...     )
    ...     fit = vt.resume(f"{folder}/run.db", model=model, callbacks=[], progressbar=False)
    >>> len(cut.trace), len(fit.trace), bool((fit.trace.loss == whole.trace.loss).all())
    (100, 200, True)
    """
    journal = journal_of(path)
    assert journal is not None
    found = _read(journal, run)
    total = found.row.stop if n is None else step_count(n)
    if total < found.step:
        raise ValueError(
            f"run {found.row.id} of {journal.path} has taken {found.step:,} steps: n={total:,} "
            "leaves nothing to do"
        )
    recorded = found.row.options or {}
    changed = [name for name, value in options.items() if _differs(recorded, name, value)]
    differ = [
        f"{name}: {_short(recorded[name])} was recorded, here it is {shown(options[name])}"
        for name in changed
    ]
    given = {name: again(value, name) for name, value in recorded.items() if name not in options}

    def before(inference: KLqp, recorder: Recorder) -> None:
        counter_of(inference.approx).step = found.step - 1
        inference.goes_on_from = found.state
        recorder.goes_on(read)

    def read(run: Run, empty: Trace) -> tuple[Trace, float]:
        if not empty.same_layout(found.empty()):
            differ.append(
                f"the columns {', '.join(found.empty().columns)} were recorded, here they are "
                f"{', '.join(empty.columns)}"
            )
        differ.extend(_differences(found, run))
        if differ and (strict or not empty.same_layout(found.empty())):
            raise ValueError(
                f"run {found.row.id} of {journal.path} was another: {'; '.join(differ)}"
                + "; strict=False goes on all the same" * empty.same_layout(found.empty())
            )
        trace = found.trace(journal, whole=bool(differ))
        journal.goes_on(trace, found.row.id)
        if differ:
            warn_user(f"the fit goes on, and is another than it was: {'; '.join(differ)}")
            trace.go_back(found.step, len(trace.branches))
        points = run.inference.points
        points.turns = [branch.step for branch in trace.branches]
        points.bookmarks = journal.bookmarks()
        hist = run.inference.hist = np.full(found.step, np.nan)
        for rows in map(Trace.loaded, trace.blocks(BLOCK)):
            hist[rows.step] = rows.loss
        return trace, found.seconds

    def compiled(recipe: Recipe) -> StepFunction:
        step = recipe.compile()
        if found.state is not None:
            moved = tuple(_MOVED[name] for name in changed if name in _MOVED)
            found.state.put_back(step, [c for c in recipe.controls if not isinstance(c, moved)])
        return step

    return start_fit(
        total - found.step,
        compiled,
        before=before,
        model=model,
        record=journal,
        dashboard=dashboard,
        background=background,
        progressbar=progressbar,
        **{**given, **options},
    )


#: Kinds of control that an option makes, and that stand as it says if it is given anew.
_MOVED = {"beta": Beta, "learning_rate": LearningRate, "obj_n_mc": Draws}
#: What a fingerprint says of the start, which a checkpoint has left behind.
_PAST = ("generator", "parameters", "seed", "steps_per_execution", "first", "n")


class _Found(NamedTuple):
    """What a journal has of a run."""

    row: RunRow
    state: State | None
    events: int
    seconds: float
    description: dict[str, Any]

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of its trace."""
        return self.description["attrs"]

    @property
    def step(self) -> int:
        """The step to go on from."""
        return 0 if self.state is None else self.state.step

    def empty(self) -> Trace:
        """A trace of its columns and attributes."""
        return Trace(*empty_fields(self.description))

    def trace(self, journal: Journal, *, whole: bool) -> Trace:
        """What was recorded up to the checkpoint, or the whole of it."""
        with JournalFile(journal.path) as file, file.transaction("DEFERRED"):
            trace = file.fill(
                self.empty(),
                self.row.id,
                stop=None if whole else self.step,
                events=None if whole else self.events,
                memory=journal.memory,
            )
        assert isinstance(trace, Trace)
        return trace


def _read(journal: Journal, run: int | None) -> _Found:
    try:
        with JournalFile(journal.path) as file, file.transaction("DEFERRED"):
            row = file.run(run)
            if row.alive:
                raise RuntimeError(
                    f"run {row.id} of {journal.path} is alive: process {row.pid} on {row.host} is "
                    f"at step {row.step:,}. vitoolkit.attach steers it from here"
                )
            steps = file.checkpoints(row.id)
            last = file.last_row(row.id)
            if not steps and last is not None:
                raise ValueError(
                    f"run {row.id} of {journal.path} has rows and no checkpoint: it was a fit of "
                    "PyMC's own loop, which keeps its state to itself"
                )
            state, events = None, 0
            if steps:
                saved = file.checkpoint(row.id, steps[-1])
                state, events = State.read(saved.step, saved.data, saved.controls), saved.events
            seconds = 0.0 if last is None else float(last[1])
            return _Found(row, state, events, seconds, file.description(row.id))
    except sqlite3.Error as error:
        raise ValueError(f"{journal.path} cannot be read as a journal: {error}") from error


def _differs(recorded: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether an option that is given again is another than what the file has of it."""
    before = recorded.get(name)
    if name not in recorded or name == "callbacks" or AGAIN in json.dumps(before):
        return False
    return told(value) != before


def _differences(found: _Found, run: Run) -> list[str]:
    """What the fit was, and is not any more.

    Its start is past, how it calls has no part, and controls are among the options.
    """
    recorded = found.attrs.get("fingerprint", {})
    past = {*_PAST, *(name for name in recorded if name.startswith("control["))}
    then, now = (
        {name: value for name, value in told.items() if name not in past}
        for told in (recorded, run.inference.fingerprint())
    )
    return differences(then, now)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
