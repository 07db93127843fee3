"""A sketch of the posterior predictive beside the data: does what q implies look like them.

Nothing is compiled: the model's own graph is evaluated in NumPy (:mod:`vitoolkit.prior`), in a
thread of its own, from a copy of the parameters that is taken between two steps.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymc.data import MinibatchOp
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.type import RandomType

from vitoolkit.callback import Callback
from vitoolkit.prior import Forward, Many
from vitoolkit.run import Run

__all__ = ["Bins", "Predictive", "PredictiveGraph"]

#: Data sets a sketch; fewer where they take long, but not fewer than so many.
DRAWS, FEWEST = 48, 12
#: Numbers of data that are drawn at once: it bounds the memory.
AT_ONCE = 500_000
#: Seconds between two sketches at least, those of the processor that one may take, and its share of
#: the time.
EVERY, SECONDS, SHARE = 3.0, 5.0, 1 / 100
#: Bins of the histogram at most.
MOST_BINS = 40
#: Of the data, what the histogram shows at least; and how much further it goes, of that width.
_MIDDLE, _ROOM = (0.005, 0.995), 0.25
_BAND = (0.05, 0.5, 0.95)

Array = NDArray[np.float64]


class PredictiveGraph:
    """Draws data sets of one observed variable from q.

    Parameters
    ----------
    approx : Approximation
        Any: mean-field, full-rank, with an encoder, particles.
    name : str, optional
        The observed variable; default is the first.

    Raises
    ------
    LookupError
        When the model has no observed variable, or none of that name.
    """

    def __init__(self, approx: Any, name: str | None = None) -> None:
        self.model, self.groups = approx.model, tuple(approx.groups)
        self.observed = observed_of(self.model, name)
        self.data: Variable = self.model.rvs_to_values[self.observed]
        self._initial = [group._new_initial(1, False) for group in self.groups]
        self._latents = []
        for group in self.groups:
            for variable in group.group:
                value = self.model.rvs_to_values[variable]
                _, where, shape, dtype = group.ordering[value.name]
                transform = self.model.rvs_to_transforms[variable]
                constrained = value
                if transform is not None:
                    constrained = transform.backward(value, *variable.owner.inputs)
                self._latents.append((variable, value, where, tuple(shape), dtype, constrained))
        order = {variable: i for i, variable in enumerate(self.model.basic_RVs)}
        self._latents.sort(key=lambda latent: order[latent[0]])  # parents first
        nodes = [
            self.observed,
            self.data,
            *self._initial,
            *(latent[-1] for latent in self._latents),
        ]
        nodes += [group.symbolic_random for group in self.groups]
        data = set(self.model.named_vars.values())
        #: What a step may change.
        self.trained = [
            node
            for node in ancestors(nodes)
            if isinstance(node, SharedVariable)
            and not isinstance(node.type, RandomType)
            and node not in data
        ]

    @property
    def discrete(self) -> bool:
        """Whether the data are whole numbers."""
        return np.dtype(self.observed.dtype).kind in "iub"

    @property
    def minibatch(self) -> bool:
        """Whether each draw is of other rows of the data."""
        return any(
            node.owner is not None and isinstance(node.owner.op, MinibatchOp)
            for node in ancestors([self.data])
        )

    def parameters(self) -> dict[Variable, Any]:
        """Copy what a step may change; in the thread that trains."""
        return {shared: shared.get_value(borrow=False) for shared in self.trained}

    def draw(
        self,
        parameters: dict[Variable, Any],
        draws: int,
        rng: np.random.Generator,
        *,
        seconds: float = SECONDS,
    ) -> tuple[Array, Array]:
        """Draw data sets from q.

        Parameters
        ----------
        parameters : dict
            Of :meth:`parameters`.
        draws : int
        rng : Generator
            Of its own: no generator of the fit is touched.
        seconds : float
            Of the processor; then it is given up.

        Returns
        -------
        replicated, observed : ndarray, shape (draws, size)
            One data set a row, drawn and as it is; of a minibatch the same rows of the data.

        Raises
        ------
        TimeoutError
            When it takes too long.
        Exception
            Whatever an operation raises that cannot be done in Python.
        """
        forward = Forward(draws, seconds, rng, beside=True)
        values: dict[Variable, Any] = dict(parameters)
        flat = {}
        for group, initial in zip(self.groups, self._initial, strict=True):
            (values[group.symbolic_initial],) = forward.draw([initial], values)
            (drawn,) = forward.draw([group.symbolic_random], values)
            flat[group] = _rows(drawn, draws)
        for group in self.groups:
            for variable in group.group:
                value = self.model.rvs_to_values[variable]
                _, where, shape, dtype = group.ordering[value.name]
                values[value] = Many(flat[group][:, where].reshape(draws, *shape).astype(dtype))
        for variable, *_, constrained in self._latents:
            (values[variable],) = forward.draw([constrained], values)
        replicated, observed = forward.draw([self.observed, self.data], values)
        return _rows(replicated, draws), _rows(observed, draws)


def observed_of(model: Any, name: str | None = None) -> Any:
    """Find the observed variable of that name, or the first one.

    Raises
    ------
    LookupError
        When there is none: a KeyError when none is of that name, and it lists what there is.
    """
    names = [variable.name for variable in model.observed_RVs]
    if name is None and not names:
        raise LookupError("the model has no observed variable")
    if name is not None and name not in names:
        there = ", ".join(map(repr, names)) or "none"
        raise KeyError(
            f"predictive must name an observed variable of the model, received {name!r}; "
            f"there is {there}"
        )
    return model.observed_RVs[names.index(name or names[0])]


class Bins:
    """Histograms of data sets on one axis, which the data give.

    Parameters
    ----------
    data : ndarray
        Of any shape.
    discrete : bool
        Whole numbers have bins of whole numbers.
    size : int, optional
        Entries of one data set, if `data` are several.

    Attributes
    ----------
    edges : ndarray, shape (bins + 1,)

    Examples
    --------
    >>> bins = Bins(np.array([0, 1, 1, 2, 4]), discrete=True)
    >>> bins.edges.tolist()
    [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    >>> bins.shares(np.array([[0, 1, 1, 9]])).tolist()
    [[0.25, 0.5, 0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, data: Array, *, discrete: bool, size: int | None = None) -> None:
        data = np.asarray(data, float)
        data = data[np.isfinite(data)]
        if not data.size:
            raise ValueError("the data are not finite numbers")
        low, high = np.quantile(data, _MIDDLE)
        if discrete:
            low, high = np.floor(low), np.ceil(high)
            room = np.floor(_ROOM * (high - low))
            low, high = max(low - room, min(0.0, data.min())), high + room
            width = np.ceil((high - low + 1) / MOST_BINS)
            count = int(np.ceil((high - low + 1) / width))
            low, high = low - 0.5, low - 0.5 + count * width
        else:
            room = _ROOM * (high - low) or max(abs(high), 1.0) / 2
            low, high = low - room, high + room
            count = int(np.clip(np.ceil(3 * np.cbrt(size or data.size)), 12, MOST_BINS))
        self.edges = np.linspace(low, high, count + 1)

    def shares(self, sets: Array) -> Array:
        """Share of the entries of each data set that is in each bin.

        Parameters
        ----------
        sets : ndarray, shape (draws, size)

        Returns
        -------
        ndarray, shape (draws, bins)
            What is beyond the axis, or not finite, is in none.
        """
        bins, ends = len(self.edges) - 1, (self.edges[0], self.edges[-1])
        counts = [np.histogram(row, bins, ends)[0] for row in np.asarray(sets, float)]
        return np.array(counts) / np.shape(sets)[1]


class Predictive(Callback):
    """Sketch the posterior predictive of one observed variable every few seconds.

    Parameters
    ----------
    name : str, optional
        The observed variable; default is the first.

    Attributes
    ----------
    sketch : dict or None
        The last one, of lists and numbers: ``name`` of the variable, ``step``, how many data sets
        were drawn (``draws``) and of how many entries each (``size``); ``edges`` of the bins, and
        by bin the share of the data (``observed``) and the 5 %, 50 % and 95 % quantiles of that of
        the drawn ones (``low``, ``median``, ``high``); the share beyond the axis, of the data and
        of the drawn ones (``beyond``); and what it is of, in ``words``.
    words : str
        Why there is none, or "".
    seconds : float
        Of the processor that the sketches have cost.

    Notes
    -----
    The fitting thread copies the parameters; another thread draws, at no more than one percent of
    the time. A failure warns once, and the fit goes on without.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._approx: Any = None
        self._begin()

    def _begin(self) -> None:
        self.sketch: dict[str, Any] | None = None
        self.words = ""
        self.seconds = 0.0
        self._graph: PredictiveGraph | None = None
        self._bins: Bins | None = None
        self._rng = np.random.default_rng(0)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._due = 0.0
        self._off = False

    def on_fit_start(self, run: Run) -> None:
        """Begin, or go on with the same approximation.

        Raises
        ------
        KeyError
            When the model has no observed variable of that name.
        """
        if self.name is not None:
            observed_of(run.approx.model, self.name)
        if run.approx is not self._approx:
            self._begin()
        self._approx, self._off, self._due = run.approx, False, 0.0
        self._error, self.words = None, ""
        if self._graph is None:
            try:
                self._graph = PredictiveGraph(run.approx, self.name)
            except LookupError as error:
                self._off, self.words = True, f"no predictive sketch: {error}"
            except Exception as error:
                self._give_up(error)

    def look(self, step: int) -> None:
        """Begin the next sketch if it is due; in the fitting thread, after so many steps."""
        if self._off or (self._thread is not None and self._thread.is_alive()):
            return
        if self._error is not None:
            return self._give_up(self._error)
        now = time.perf_counter()
        if now < self._due or self._graph is None:
            return
        self._due = now + EVERY
        try:
            asked = (self._graph, self._graph.parameters(), step)
        except Exception as error:
            return self._give_up(error)
        self._thread = threading.Thread(
            target=self._draw, args=asked, name="vitoolkit predictive", daemon=True
        )
        self._thread.start()

    def on_fit_end(self, run: Run) -> None:
        """Draw the last one: of a fit that failed, whose parameters went back, there is none.

        Where that takes longer than a few seconds, the one before stays.
        """
        if self._thread is not None:
            self._thread.join(SECONDS)
        if run.error is None or isinstance(run.error, KeyboardInterrupt):
            self._due = 0.0
            self.look(run.step)
            if self._thread is not None:
                self._thread.join(SECONDS)
        if self._error is not None and not self._off:
            self._give_up(self._error)
        self._thread = self._graph = None

    @property
    def told(self) -> dict[str, Any] | None:
        """The last sketch; where there is none, why, in ``words``."""
        return {"words": self.words} if self.words else self.sketch

    def write(self, attrs: dict[str, Any]) -> None:
        """Write the sketch into the attributes of a record, as "predictive"."""
        if self.sketch is not None:
            attrs["predictive"] = self.sketch

    def _draw(self, graph: PredictiveGraph, parameters: dict[Variable, Any], step: int) -> None:
        begun, sketch, failed = time.thread_time(), self.sketch, self._error
        try:
            sketch = self._sketched(graph, parameters, step)
        except Exception as error:
            failed = error
        if self._graph is not graph:  # too late: the fit has ended
            return
        self.sketch, self._error = sketch, failed
        took = time.thread_time() - begun
        self.seconds += took
        self._due = max(self._due, time.perf_counter() + took / SHARE)

    def _sketched(
        self, graph: PredictiveGraph, parameters: dict[Variable, Any], step: int
    ) -> dict[str, Any]:
        until = time.thread_time() + SECONDS
        drawn, real = [], []
        count, at_once = 0, 1  # a first one by itself tells how large they are
        while count < DRAWS:
            left = until - time.thread_time()
            try:
                replicated, observed = graph.draw(parameters, at_once, self._rng, seconds=left)
            except TimeoutError:
                if count >= FEWEST:
                    break
                raise TimeoutError(f"{FEWEST} data sets take longer than {SECONDS:g} s") from None
            size = replicated.shape[1]
            if self._bins is None:
                self._bins = self._axis(graph, observed, parameters)
            drawn.append(self._bins.shares(replicated))
            real.append(self._bins.shares(observed))
            count += at_once
            at_once = max(1, min(DRAWS - count, AT_ONCE // max(size, 1)))
        return self._told(graph, step, size, np.concatenate(drawn), np.concatenate(real))

    def _told(
        self, graph: PredictiveGraph, step: int, size: int, drawn: Array, real: Array
    ) -> dict[str, Any]:
        assert self._bins is not None
        low, median, high = np.quantile(drawn, _BAND, axis=0)
        beyond = [max(0.0, 1 - shares.sum(axis=1).mean()) for shares in (real, drawn)]
        return {
            "name": graph.observed.name,
            "step": step,
            "draws": len(drawn),
            "size": size,
            "edges": self._bins.edges.tolist(),
            "observed": _four(real.mean(axis=0)),
            "low": _four(low),
            "median": _four(median),
            "high": _four(high),
            "beyond": _four(beyond),
            "words": _words(graph, len(drawn), size, *beyond),
        }

    def _axis(self, graph: PredictiveGraph, data: Array, parameters: dict[Variable, Any]) -> Bins:
        size = data.shape[1]
        if graph.minibatch:  # one says little of where the data lie
            values = dict(parameters)
            forward = Forward(DRAWS, SECONDS, self._rng, beside=True)
            data = _rows(forward.draw([graph.data], values)[0], DRAWS)
        return Bins(data, discrete=graph.discrete, size=size)

    def _give_up(self, error: Exception) -> None:
        self._off, self._error = True, None
        told = f"{error or type(error).__name__}".partition("\n")[0]
        self.words = f"no predictive sketch: {told}"
        warnings.warn(
            f"the posterior predictive is not sketched, the fit goes on: "
            f"{type(error).__name__}: {told}",
            RuntimeWarning,
            stacklevel=4,
        )


def _words(graph: PredictiveGraph, draws: int, size: int, *beyond: float) -> str:
    of = f"a minibatch of {size:,}" if graph.minibatch else f"{size:,}"
    words = (
        f"{graph.observed.name}; bars: the data, dots: median and 90 % of {draws} data sets drawn "
        f"from q, of {of} values each"
    )
    if graph.model.potentials:
        words += ", without the potentials"
    for share, whose in zip(beyond, ("the data", "what is drawn"), strict=True):
        if share >= 0.005:
            words += f"; {100 * share:.0f} % of {whose} beyond the axis"
    return words


def _rows(drawn: Any, draws: int) -> Array:
    if isinstance(drawn, Many):
        return drawn.values.reshape(draws, -1)
    return np.broadcast_to(np.ravel(drawn), (draws, np.size(drawn)))


def _four(values: Sequence[float] | Array) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
