"""Many fits of one model from one compiled step, on all cores."""

from __future__ import annotations

import inspect
import itertools
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from pymc.progress_bar import CustomProgress, default_progress_theme
from rich.console import Console
from rich.progress import Progress, TextColumn

from vitoolkit.background import Background
from vitoolkit.checks import flag, shown, unknown_option, whole_number
from vitoolkit.controls import Control
from vitoolkit.fit import Fit, Wired, fit, wire
from vitoolkit.options import model_of, step_count
from vitoolkit.recipe import Recipe
from vitoolkit.step_function import StepFunction, cores

__all__ = ["Fits", "fit_many", "fitting_bar", "grid_points"]

_LOOK_SECONDS = 0.1
#: What belongs to one fit, or is the same for all of them.
_OF_ONE = ("n", "callbacks", "dashboard", "background", "record", "model", "progressbar", "kwargs")
#: What differs in value only: the code is the same.
_VALUES = ("beta", "learning_rate", "random_seed", "start", "start_sigma")


class Fits(Mapping[tuple, Fit]):
    """Fits by the point of their grid, in its order; shown as one comparison.

    Parameters
    ----------
    names : sequence of str
        Names of the grid's axes.
    fits : mapping of tuple to Fit
        The fits.

    Attributes
    ----------
    names : tuple of str
        What a point of the grid is made of.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fits = vt.fit_many(100, grid={"random_seed": [1, 2]}, progressbar=False)
    >>> list(fits), fits.label((2,)), len(fits[2].trace)
    ([(1,), (2,)], 'random_seed=2', 100)
    """

    def __init__(self, names: Sequence[str], fits: Mapping[tuple, Fit]) -> None:
        self.names = tuple(names)
        self._fits = dict(fits)
        self._comparison: Any = None

    def __getitem__(self, point: Any) -> Fit:
        """The fit at a point; of a grid of one axis its value will do."""
        found = self._fits.get(point if isinstance(point, tuple) else (point,))
        if found is None:
            raise KeyError(
                f"no fit at {shown(point)}: a point is ({', '.join(self.names)}), such as "
                f"{next(iter(self._fits))!r}"
            )
        return found

    def __iter__(self) -> Iterator[tuple]:
        return iter(self._fits)

    def __len__(self) -> int:
        return len(self._fits)

    def label(self, point: tuple) -> str:
        """A point in words, such as ``"beta=0.5, random_seed=1"``."""
        return ", ".join(f"{name}={value}" for name, value in zip(self.names, point, strict=True))

    @property
    def done(self) -> bool:
        """Whether all have ended, however they ended."""
        return all(one.done for one in self.values())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of all; :meth:`Fit.wait` of one after the other.

        Parameters
        ----------
        timeout : float, optional
            Most seconds to wait for each.

        Returns
        -------
        bool
            Whether all have ended.

        Raises
        ------
        Exception
            What the first of them that failed has raised, in the order of the grid; after the wait
            for the others.
        """
        ended, errors = [], list[Exception]()
        for one in self.values():
            try:
                ended.append(one.wait(timeout))
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return all(ended)

    def stop(self) -> None:
        """End all at the next step boundary, and keep everything."""
        for one in self.values():
            one.stop()

    @property
    def comparison(self) -> Any:
        """All of them in one panel, a :class:`~vitoolkit.dashboard.Comparison`."""
        if self._comparison is None:
            from vitoolkit.dashboard import Comparison

            self._comparison = Comparison({self.label(p): one for p, one in self.items()})
        return self._comparison

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_comparison": None}

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for one in self.values():
            counts[one.status] = counts.get(one.status, 0) + 1
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"<Fits by ({', '.join(self.names)}): {said}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = self.comparison._repr_mimebundle_(**kwargs)
        return {**bundle, "text/plain": repr(self)}


def fit_many(
    n: int = 10_000,
    *,
    grid: Mapping[str, Any],
    model: Any = None,
    threads: int | None = None,
    background: bool = False,
    progressbar: bool = True,
    **kwargs: Any,
) -> Fits:
    """Fit one model at every point of a grid: values of β, learning rates, seeds, starts.

    The step is compiled once, and fits run side by side, one in a thread. Each is the fit that
    :func:`fit` gives for the options of its point, bit for bit.

    Parameters
    ----------
    n : int
        Number of steps of each fit.
    grid : mapping of str to sequence, or to mapping of label to value
        Options of :func:`fit` that differ, such as ``{"beta": [0.5, 1.0], "random_seed": [1, 2]}``.
        Every combination is a point. Values that cannot be a key of a dict, such as starts, are
        given with labels: ``{"start": {"low": {"z": -3.0}, "high": {"z": 3.0}}}``.
    model : pymc.Model, optional
        The model; default is the one in context.
    threads : int, optional
        Fits that run at the same time; default is one for each core.
    background : bool
        Return at once; ``fits.wait()`` waits for the end.
    progressbar : bool
        Whether to show a progress bar, over the steps of all fits.
    **kwargs
        Options of :func:`fit` that all fits share.

    Returns
    -------
    Fits
        A mapping from the grid's points, tuples in the grid's order, to their fits.

    Raises
    ------
    TypeError
        For an option that does not exist, that belongs to one fit only (``callbacks``,
        ``dashboard``, ``record``), that is given twice, or a value that cannot be a key and has no
        label.
    ValueError
        For an empty grid or a point that is there twice, and for weights in ``more_obj_params``:
        all fits would train the same ones.
    Exception
        What the fits raised, when every one failed. When only some failed, a warning names them,
        and their error is in ``trace.attrs["error"]``.

    Notes
    -----
    With Numba a compiled call does not hold the interpreter, so that fits in threads use several
    cores; with C they take turns. Points whose β weighs other variables than that of the points
    before are compiled on their own. Ctrl-C ends all at the next step boundary.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fits = vt.fit_many(
    ...         200, grid={"beta": [0.5, 1.0], "random_seed": [1, 2]}, progressbar=False
    ...     )
    >>> fits
    <Fits by (beta, random_seed): 4 finished>
    >>> len(fits[0.5, 2].trace)
    200
    """
    n, progressbar = step_count(n), flag("progressbar", progressbar)
    points = grid_points(grid, kwargs)
    threads = cores() if threads is None else whole_number("threads", threads, least=1, of="fits")
    background = flag("background", background)
    if kwargs.get("more_obj_params"):
        raise ValueError(
            "more_obj_params cannot be given to fit_many: all fits would train the same weights"
        )
    model = model_of(model)
    options = {
        name: option.default
        for name, option in inspect.signature(fit).parameters.items()
        if option.kind is option.KEYWORD_ONLY
    }
    options.update(kwargs, model=model, background=True, progressbar=False)
    patterns = _Patterns(alone=min(threads, len(points)) < cores())
    room = threading.Semaphore(threads)
    begun: dict[tuple, Wired] = {}
    try:
        for point, values in points.items():
            other = tuple(p for name, p in zip(values, point, strict=True) if name not in _VALUES)
            compile_step = partial(patterns.step, other)
            begun[point] = wire(n, compile_step, **{**options, **values})
    except BaseException:
        for wired in begun.values():  # give the controls back
            wired.run.end("stopped")
        raise
    at_work = {point: Background(w.run, _one_of(room, w)) for point, w in begun.items()}
    fits = Fits(list(grid), {p: w.fit(at_work[p]) for p, w in begun.items()})
    for thread in at_work.values():
        thread.start()
    if not background:
        _wait(fits, progressbar)
    return fits


def _one_of(room: threading.Semaphore, wired: Wired) -> Callable[[], None]:
    """Train when there is room."""

    def train() -> None:
        with room:
            wired.train()

    return train


class _Patterns:
    """Step functions by their wiring, which no fit trains: the others are their twins."""

    def __init__(self, *, alone: bool) -> None:
        self._of: dict[Hashable, StepFunction] = {}
        self._alone = alone

    def step(self, other: Hashable, recipe: Recipe) -> StepFunction:
        """A step function for a recipe; one fit compiles at a time.

        Recipes of one wiring are alike where the points are in `other`, which is what they have but
        values.
        """
        key = other, recipe.wiring
        step = None
        if key in self._of:
            step = recipe.like(self._of[key])
        if step is None:
            step = recipe.compile()
            pattern = step.twin(recipe.objective.approx.params, step.controls, 0)
            if pattern is not None:
                self._of[key] = pattern
        step.threads = step.threads and self._alone
        return step


def grid_points(
    grid: Any, shared: Mapping[str, Any], *, more: Sequence[str] = (), of: str = "fit_many"
) -> dict[tuple, dict[str, Any]]:
    """The options of every point of a grid.

    Parameters
    ----------
    grid : mapping
        Values by option.
    shared : mapping
        Options that all points share.
    more : sequence of str
        What a grid may have beside options of a fit.
    of : str
        Whose grid it is, for messages.
    """
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(
            "grid must map options of vitoolkit.fit to their values, such as {'beta': [0.5, 1.0]}, "
            f"received {shown(grid)}"
        )
    accepted = [name for name in inspect.signature(fit).parameters if name not in _OF_ONE]
    accepted += more
    for name in (*grid, *shared):
        if name in _OF_ONE and name != "n" and name not in more:
            raise TypeError(f"{name} belongs to one fit: give it to vitoolkit.fit")
    for name in grid:
        if name not in accepted:
            raise unknown_option(f"the grid of vitoolkit.{of}", name, accepted)
        if name in shared:
            raise TypeError(f"{name} is given twice, in the grid and beside it")
    axes = {name: _axis(name, values) for name, values in grid.items()}
    for name, value in [
        *shared.items(),
        *((n, v) for n, axis in axes.items() for v in axis.values()),
    ]:
        for held in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(held, Control):
                raise TypeError(
                    f"{name} is the control {held.name!r}, which belongs to one fit: give a number "
                    "or a schedule"
                )
    return {
        point: {name: axes[name][label] for name, label in zip(axes, point, strict=True)}
        for point in itertools.product(*axes.values())
    }


def _axis(name: str, values: Any) -> dict[Hashable, Any]:
    """The values of one axis by label; a value is its own."""
    if isinstance(values, Mapping):
        axis: dict[Hashable, Any] = dict(values)
    else:
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise TypeError(f"grid[{name!r}] must be a list of values, received {shown(values)}")
        axis = {}
        for value in (v.item() if isinstance(v, np.generic) else v for v in values):
            try:
                twice = value in axis
            except TypeError:
                raise TypeError(
                    f"a value of grid[{name!r}] cannot be a key: give it a label, such as "
                    f"{{{name!r}: {{'a': ...}}}}; received {shown(value)}"
                ) from None
            if twice:
                raise ValueError(f"grid[{name!r}] has {shown(value)} twice")
            axis[value] = value
    if not axis:
        raise ValueError(f"grid[{name!r}] is empty: give at least one value")
    return axis


def _wait(fits: Fits, progressbar: bool) -> None:
    """Wait for the end of all, whatever one raises; Ctrl-C ends all."""
    with fitting_bar(len(fits), sum(one.run.n for one in fits.values()), progressbar) as draw:

        def redraw() -> None:
            draw(sum(one.run.done for one in fits.values()), sum(one.done for one in fits.values()))

        errors: dict[tuple, Exception] = {}
        for point, one in fits.items():
            ended = False
            while not ended:
                pressed = False
                try:
                    ended = one.wait(_LOOK_SECONDS)
                except KeyboardInterrupt:
                    pressed = True
                except Exception as error:
                    errors[point], ended = error, True
                if pressed or one.run.interrupted is not None:
                    _interrupt(fits)
                redraw()
        redraw()
    if errors and len(errors) == len(fits):
        raise next(iter(errors.values()))
    if errors:
        names = "; ".join(f"{fits.label(point)}: {error}" for point, error in errors.items())
        warnings.warn(f"{len(errors)} of {len(fits)} fits failed. {names}", stacklevel=3)


def _interrupt(fits: Fits) -> None:
    for one in fits.values():
        if one.run.running and one.run.interrupted is None:
            one.run.interrupt()


@contextmanager
def fitting_bar(count: int, steps: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over the steps of many fits.

    Parameters
    ----------
    count, steps : int
        How many fits there are, and how many steps all of them take.
    show : bool
        Whether to show it.

    Yields
    ------
    callable
        Called with the steps that were taken and the number of fits that have ended.
    """
    if not show:
        yield lambda taken, ended: None
        return
    with CustomProgress(
        *Progress.get_default_columns(),
        TextColumn("{task.fields[ended]}"),
        console=Console(theme=default_progress_theme),
    ) as progress:
        task = progress.add_task(f"Fitting {count}:", total=steps, ended="")

        def draw(taken: int, ended: int) -> None:
            progress.update(task, completed=taken, ended=f"{ended} of {count} have ended")

        try:
            yield draw
        finally:
            progress.refresh()  # rich does not by itself, in a notebook
