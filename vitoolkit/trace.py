"""The record of a fit: one row a recorded step, readable while it grows."""

import functools
import html
import operator
import platform
import struct
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitoolkit.events import Event
from vitoolkit.parts import Part, PartArrays

if TYPE_CHECKING:
    import pandas
    import xarray

    from vitoolkit.decimation import View

__all__ = ["Columns", "Part", "Trace"]

RESERVED = ("step", "time", "loss", "data", "elbo")
GROUPS = ("kl", "variable", "controls", "control")  # other names in a data set
HEAD = struct.Struct("=qddd")  # step, time, loss, data: the columns every row begins with
DATA, KL = 3, 4  # where the data term and the first KL contribution stand in a row
SMALLEST = 256  # rows in the first buffer
LARGE = 2**24  # bytes from which on a buffer leaves room for much more than is in it
NAMED = 10  # variables that a summary names
TAIL = 100  # rows that a final mean is taken over
ACTIVE = 0.01  # nats from which on a coordinate counts as active


class Columns(Mapping[str, NDArray[Any]]):
    """Read-only mapping from a name to one column of numbers.

    All columns are of one moment and one length: a row that arrives later does not show.

    Parameters
    ----------
    index : mapping of str to int
        Position of each name in `array`.
    array : ndarray, shape (names, rows)
        The columns, one a row of this array.

    Attributes
    ----------
    array : ndarray, shape (names, rows)
        All columns at once, in the order of the names.

    Raises
    ------
    KeyError
        If a name is asked for that is not there. The message lists the names that are.
    """

    def __init__(self, index: Mapping[str, int], array: NDArray[Any]):
        self._index = index
        self.array = array

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._index:
            accepted = ", ".join(map(repr, self._index)) or "none, there are no columns here"
            raise KeyError(f"no column named {name!r}; the names are: {accepted}")
        return self.array[self._index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Columns({list(self._index)}, {self.array.shape[1]} rows)"


class _Layout:
    """What the columns of a trace are called, and where they stand in a row. Slices share it."""

    def __init__(
        self,
        variables: tuple[str, ...],
        controls: tuple[str, ...],
        parts: tuple[Part, ...] = (),
        measures: tuple[str, ...] = (),
    ):
        self.variables, self.controls, self.measures = variables, controls, measures
        self.parts = types.MappingProxyType({part.variable: part for part in parts})
        kl_columns = tuple(f"kl[{name}]" for name in variables)
        for name in controls:
            if name in RESERVED or name in kl_columns:
                raise ValueError(
                    f"a control cannot be named {name!r}: that is a column of every trace. "
                    f"Taken are {', '.join((*RESERVED, *kl_columns))}"
                )
        for name in measures:
            if name in (*RESERVED, *GROUPS):
                taken = ", ".join((*RESERVED, *GROUPS))
                raise ValueError(f"a measure cannot be named {name!r}; taken are {taken}")
        self.columns = (*RESERVED[2:], *kl_columns, *measures, *controls)
        part_columns = tuple(name for part in parts for name in part.columns)
        self.all_columns = (*RESERVED[2:], *kl_columns, *part_columns, *measures, *controls)
        if len(set(self.all_columns)) < len(self.all_columns):
            (name, _), *_ = Counter(self.all_columns).most_common(1)
            raise ValueError(
                f"two columns would be named {name!r}, among them the parts of a KL contribution: "
                "another name for the variable or control is needed"
            )
        self.kl_index = {name: i for i, name in enumerate(variables)}
        self.control_index = {name: i for i, name in enumerate(controls)}
        self.part_count = len(part_columns)
        kl_end = KL + len(variables)
        self.kl = slice(KL, kl_end)
        self.part = slice(kl_end, kl_end + self.part_count)
        self.measure_index = {name: i for i, name in enumerate(measures)}
        self.measure = slice(self.part.stop, self.part.stop + len(measures))
        self.control = slice(self.measure.stop, None)
        self.width = self.measure.stop + len(controls)


class Trace:
    """Columnar record of a fit, one row a recorded step.

    One thread writes; any number of threads may read meanwhile, and each read sees whole rows
    only. Columns are read-only views of the trace's own memory wherever that is possible.

    Parameters
    ----------
    variables : sequence of str, optional
        Names of the variables whose KL contribution is recorded. Fixed for life. Without any,
        the trace has no terms: its data term and its ELBO are NaN.
    controls : sequence of str, optional
        Names of the controls whose value is recorded. Fixed for life. A control may have the
        name of a variable.
    attrs : mapping, optional
        Attributes of the run, JSON-able. They are added to the ones that every trace has,
        ``created`` (UTC, ISO 8601) and ``versions``, and replace those of the same name.
    parts : sequence of Part, optional
        The KL contributions that are recorded in parts as well, by coordinate or by a dim. Fixed
        for life. Each coordinate is one more number a row.
    measures : sequence of str, optional
        Names of what else is measured in every step, such as ``gradient_norm``. Fixed for life.

    Attributes
    ----------
    variables, controls, measures : tuple of str
        The names.
    attrs : dict
        Attributes of the run. Add to it freely; keep to strings as keys and JSON-able values.

    Raises
    ------
    TypeError
        If a name is not a string, or a part not a `Part`.
    ValueError
        If a name is empty, given twice, or would share a column's name with another one:
        a control cannot be called ``step``, ``time``, ``loss``, ``data``, ``elbo``, or
        ``kl[z]`` where ``z`` is a variable. If a part is of a variable that is not recorded, or
        two are of the same one.

    Notes
    -----
    ``elbo`` is computed when asked for, from the data term and the KL contributions, whatever
    β was in force. In a long trace read it from a slice, ``trace[-100:].elbo``, which costs
    the rows of the slice only. A slice shares the memory of its trace.

    Examples
    --------
    >>> from vitoolkit.trace import Trace
    >>> trace = Trace(variables=("z", "w"), controls=("beta",))
    >>> for step in range(3):
    ...     trace.append(step, 0.1 * step, 9.0 - step, -6.0, [1.0, 2.0 - step], [0.5])
    >>> trace
    Trace(3 rows, steps 0..2, variables=('z', 'w'), controls=('beta',), ELBO -8 nats)
    >>> trace.elbo.tolist()
    [-9.0, -8.0, -7.0]
    >>> trace.kl["w"].tolist()
    [2.0, 1.0, 0.0]
    >>> trace[-2:].control["beta"].tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        variables: Sequence[str] = (),
        controls: Sequence[str] = (),
        attrs: Mapping[str, Any] | None = None,
        parts: Sequence[Part] = (),
        measures: Sequence[str] = (),
    ):
        names = _names("variables", variables)
        self._lay_out(
            _Layout(
                names,
                _names("controls", controls),
                _parts(parts, names),
                _names("measures", measures),
            )
        )
        created = datetime.now(UTC).isoformat(timespec="seconds")
        self.attrs: dict[str, Any] = {
            "created": created,
            "versions": dict(_installed()),
            **(attrs or {}),
        }
        self._events: list[Event] = []
        self._adopt(np.empty((0, self._layout.width)))

    def _lay_out(self, layout: _Layout) -> None:
        self._layout = layout
        self.variables, self.controls = layout.variables, layout.controls
        self.measures = layout.measures

    # --- writing -----------------------------------------------------------------------

    def _adopt(self, buffer: NDArray[np.float64]) -> None:
        """Begin with the rows of a buffer, full: the first row written makes a new one."""
        self._buffer = buffer
        self._length = self._capacity = len(buffer)
        self._last_step = int(buffer[-1:].view(np.int64)[0, 0]) if len(buffer) else -1

    def _grow(self, rows: int) -> None:
        """Make room for so many rows and more.

        To copy a few hundred megabytes holds a fit up for a second, and memory that nobody has
        written to is not taken: a large buffer grows 64-fold, or as far as the system lets it.
        """
        for factor in (64, 8, 2) if self._buffer.nbytes >= LARGE else (2,):
            capacity = max(factor * self._capacity, rows, SMALLEST)
            try:
                buffer = np.empty((capacity, self._buffer.shape[1]))
                break
            except MemoryError:
                if factor == 2:
                    raise
        buffer[: self._length] = self._buffer[: self._length]
        self._buffer = buffer  # only now: a reader gets the old rows or the copied ones
        self._capacity = capacity
        self._bytes = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # Buffer is of Python 3.12
        self._row_bytes = buffer.strides[0]
        self._kl_rows = buffer[:, self._layout.kl]
        self._part_rows = buffer[:, self._layout.part]
        self._measure_rows = buffer[:, self._layout.measure]
        self._control_rows = buffer[:, self._layout.control]

    def append(
        self,
        step: SupportsIndex,
        time: SupportsFloat,
        loss: SupportsFloat,
        data: SupportsFloat,
        kl: Sequence[float] | NDArray[Any] = (),
        control: Sequence[float] | NDArray[Any] = (),
        parts: Sequence[float] | NDArray[Any] = (),
        measures: Sequence[float] | NDArray[Any] = (),
    ) -> None:
        """Add one row.

        Parameters
        ----------
        step : int
            The step, counted over the whole life of the inference. Later than the last row's.
        time : float
            Seconds since the trace began.
        loss : float
            What was minimized in this step.
        data : float
            Data term, nats.
        kl : sequence of float, shape (variables,)
            KL contribution of each variable, nats.
        control : sequence of float, shape (controls,)
            Value of each control that this step used.
        parts : sequence of float, shape (coordinates of all parts,)
            The parts of the KL contributions, nats: part after part, each flattened in C order.
        measures : sequence of float, shape (measures,)
            What else was measured.

        Raises
        ------
        TypeError
            If `step` is not an integer.
        ValueError
            If `kl`, `control`, `parts` or `measures` has another length, or `step` is not later
            than the last one.
        """
        part_count = self._layout.part_count
        if (
            len(kl) != len(self.variables)
            or len(control) != len(self.controls)
            or len(parts) != part_count
            or len(measures) != len(self.measures)
        ):
            raise ValueError(
                f"a row of this trace has {len(self.variables)} KL contributions, "
                f"{len(self.controls)} control values, {part_count} parts and "
                f"{len(self.measures)} measures; "
                f"received {len(kl)}, {len(control)}, {len(parts)} and {len(measures)}"
            )
        step = operator.index(step)
        if step <= self._last_step:
            raise ValueError(self._not_later(step))
        row = self._length
        if row == self._capacity:
            self._grow(row + 1)
        HEAD.pack_into(self._bytes, row * self._row_bytes, step, time, loss, data)
        self._kl_rows[row] = kl
        self._control_rows[row] = control
        if part_count:
            self._part_rows[row] = parts
        if self.measures:
            self._measure_rows[row] = measures
        self._last_step = step
        self._length = row + 1  # publishes the row: readers look at the length first

    def extend(
        self,
        step: ArrayLike,
        time: ArrayLike,
        loss: ArrayLike,
        terms: ArrayLike,
        control: ArrayLike,
    ) -> None:
        """Add many rows at once, all or none.

        Parameters
        ----------
        step : array of int, shape (rows,)
            The steps, strictly increasing, later than the last row's.
        time : array of float, shape (rows,)
            Seconds since the trace began.
        loss : array of float, shape (rows,)
            What was minimized.
        terms : array of float, shape (rows, 1 + variables + coordinates of all parts + measures)
            Data term, then the KL contribution of each variable, then the parts of these
            contributions, part after part, each flattened in C order; nats. Then the measures.
        control : array of float, shape (rows, controls)
            Value of each control that each step used.

        Raises
        ------
        TypeError
            If the steps are not integers.
        ValueError
            If a shape does not fit or the steps do not increase.

        Examples
        --------
        >>> import numpy as np
        >>> trace = Trace(variables=("z",))
        >>> terms = [[-3.0, 2.0], [-3.0, 1.0]]
        >>> trace.extend([0, 1], [0.1, 0.2], [5.0, 4.0], terms, np.empty((2, 0)))
        >>> trace.elbo.tolist()
        [-5.0, -4.0]
        """
        steps = np.asarray(step)
        if steps.size and steps.dtype.kind not in "iu":
            raise TypeError(f"steps are integers; received an array of {steps.dtype}")
        arrays = [np.asarray(values) for values in (time, loss, terms, control)]
        shapes = [array.shape for array in (steps, *arrays)]
        rows, layout = steps.size, self._layout
        widths = layout.measure.stop - DATA, len(self.controls)
        fitting = [(rows,), (rows,), (rows,), (rows, widths[0]), (rows, widths[1])]
        if shapes != fitting:
            raise ValueError(
                "step, time, loss, terms and control of this trace have the shapes "
                f"{', '.join(map(str, fitting))}; received {', '.join(map(str, shapes))}"
            )
        if not rows:
            return
        if steps[0] <= self._last_step:
            raise ValueError(self._not_later(int(steps[0])))
        if (steps[1:] <= steps[:-1]).any():
            raise ValueError(f"steps must strictly increase; received {steps}")
        start, stop = self._length, self._length + rows
        if stop > self._capacity:
            self._grow(stop)
        block = self._buffer[start:stop]
        block.view(np.int64)[:, 0] = steps
        block[:, 1], block[:, 2], block[:, DATA : layout.measure.stop] = arrays[:3]
        block[:, layout.control] = arrays[3]
        self._last_step = int(steps[-1])
        self._length = stop

    def _not_later(self, step: int) -> str:
        earliest = max(self._last_step + 1, 0)
        return f"steps must strictly increase: {earliest} or later is accepted, received {step}"

    def add_event(self, event: Event) -> None:
        """Add an event.

        Parameters
        ----------
        event : Event
            What was done. Any thread may add one.

        Raises
        ------
        TypeError
            If it is not an `Event`.
        """
        if not isinstance(event, Event):
            raise TypeError(f"an Event is accepted; received {type(event).__name__}: {event!r}")
        self._events.append(event)

    # --- reading -----------------------------------------------------------------------

    def _read(self) -> NDArray[np.float64]:
        length = self._length  # before the buffer: a later buffer holds these rows too
        rows = self._buffer[:length]
        rows.flags.writeable = False
        return rows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> "Trace":
        if not isinstance(rows, slice):
            raise TypeError(
                f"a trace is indexed by a slice of rows, such as trace[-100:]; received {rows!r}"
            )
        if rows.step is not None and rows.step < 1:
            raise ValueError(f"a slice of a trace steps forward; received {rows.step}")
        part = object.__new__(type(self))
        part._lay_out(self._layout)
        part.attrs = dict(self.attrs)
        part._events = list(self._events)
        part._adopt(self._read()[rows])
        return part

    @property
    def events(self) -> tuple[Event, ...]:
        """What persons, schedules and rules did, in the order it was done."""
        return tuple(self._events)

    @property
    def has_terms(self) -> bool:
        """Whether the loss was taken apart into a data term and KL contributions."""
        return bool(self.variables)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `values`.

        They are loss, data, elbo, KL contributions, their parts, measures and controls.

        A contribution's is ``kl[z]``, that of a part of it ``kl[z, latent=3]``.
        """
        return self._layout.all_columns

    @property
    def step(self) -> NDArray[np.int64]:
        """The steps, counted from 0 over the whole life of the inference, shape (rows,)."""
        # The first column holds integers in the memory of floats, so that reading needs no copy.
        return self._read().view(np.int64)[:, 0]

    @property
    def time(self) -> NDArray[np.float64]:
        """Seconds since the trace began, shape (rows,)."""
        return self._read()[:, 1]

    @property
    def loss(self) -> NDArray[np.float64]:
        """What was minimized, in nats of the minibatch or of the full data set, shape (rows,)."""
        return self._read()[:, 2]

    @property
    def data(self) -> NDArray[np.float64]:
        """Data term, nats of the full data set, shape (rows,). NaN if `has_terms` is False."""
        return self._data(self._read())

    @property
    def elbo(self) -> NDArray[np.float64]:
        """Data term minus the KL contributions (β = 1), nats, shape (rows,). A new array."""
        return self._elbo(self._read())

    @property
    def kl(self) -> Columns:
        """KL contribution of each variable, nats, not multiplied by β."""
        return Columns(self._layout.kl_index, self._read()[:, self._layout.kl].T)

    @property
    def measure(self) -> Columns:
        """What else was measured in each step, such as ``measure["gradient_norm"]``."""
        return Columns(self._layout.measure_index, self._read()[:, self._layout.measure].T)

    @property
    def parts(self) -> Mapping[str, Part]:
        """What is recorded in parts: dims, shape and coords, by the variable's name."""
        return self._layout.parts

    @property
    def kl_by(self) -> PartArrays:
        r"""Parts of the KL contribution of each variable in `parts`, nats, not multiplied by β.

        Each is an array of shape (rows, \*shape), with the shape of the part.

        Examples
        --------
        >>> part = Part("z", ("latent",), (2,), {"latent": ["a", "b"]})
        >>> trace = Trace(variables=("z",), parts=[part])
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], parts=[1.0, 0.25])
        >>> trace.kl_by["z"].tolist()
        [[1.0, 0.25]]
        >>> trace.parts["z"].coords["latent"]
        ['a', 'b']
        """
        return PartArrays(self._layout.parts, self._read()[:, self._layout.part])

    @property
    def control(self) -> Columns:
        """Value of each control that each recorded step used."""
        return Columns(self._layout.control_index, self._read()[:, self._layout.control].T)

    def _data(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows[:, DATA] if self.has_terms else np.full(len(rows), np.nan)

    def _elbo(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, and that is right
            return self._data(rows) - np.einsum("ij->i", rows[:, self._layout.kl])

    def active_units(
        self, threshold: float = ACTIVE, *, rows: int = TAIL, per: float = 1.0
    ) -> dict[str, int]:
        r"""Count the coordinates of each part that pay for being used.

        A coordinate k is active if

        .. math:: \frac{1}{\text{per}\,|R|} \sum_{t \in R} KL_{t,k} > \text{threshold}

        where R are those of the last `rows` recorded rows in which its KL is finite. One without
        any is not active.

        Parameters
        ----------
        threshold : float, default 0.01
            Nats.
        rows : int, default 100
            How many rows at the end of the trace to take the mean over; fewer if it has fewer.
        per : float, default 1.0
            Divisor of the contributions, which are in nats of the full data set: with the number
            of its rows, the threshold is one for a row's mean KL, as is usual for a local latent.

        Returns
        -------
        dict of str to int
            By the name of the variable, for each that is recorded in parts.

        Raises
        ------
        TypeError
            If `rows` is not an integer.
        ValueError
            If `threshold` is not finite, `rows` is less than 1, or `per` is not a positive number.

        Notes
        -----
        A coordinate whose posterior is the prior has a KL of 0. Burda et al. (2016) count units by
        another quantity with the same threshold, the variance over the data set of the mean of
        q(z\|x), which the trace does not hold; the two agree on units that have collapsed. Lucas
        et al. (2019) define collapse by the KL, as here, but of each row of the data.

        References
        ----------
        Burda, Grosse and Salakhutdinov (2016), "Importance Weighted Autoencoders", ICLR.
        Lucas, Tucker, Grosse and Norouzi (2019), "Don't Blame the ELBO! A Linear VAE Perspective
        on Posterior Collapse", NeurIPS.

        Examples
        --------
        >>> trace = Trace(variables=("z",), parts=[Part("z", ("latent",), (3,))])
        >>> trace.append(0, 0.5, 9.0, -6.0, [4.0], parts=[3.0, 0.99, 0.01])
        >>> trace.active_units()
        {'z': 2}
        >>> trace.active_units(per=100)
        {'z': 1}
        """
        if operator.index(rows) < 1:
            raise ValueError(f"rows is at least 1; received {rows}")
        if not np.isfinite(threshold):
            raise ValueError(f"threshold is a number of nats; received {threshold}")
        if not 0 < per < np.inf:
            raise ValueError(f"per is a positive number; received {per}")
        means = self._part_means(rows)
        return {name: int((mean / per > threshold).sum()) for name, mean in means.items()}

    def _part_means(self, rows: int = TAIL) -> dict[str, NDArray[np.float64]]:
        """Mean of the finite values in the last rows, in the shape of each part; NaN without."""
        kl_by = self[-rows:].kl_by
        finite = np.isfinite(kl_by.array)
        with np.errstate(invalid="ignore", over="ignore"):
            total = np.where(finite, kl_by.array, 0.0).sum(axis=0)
            means = PartArrays(kl_by._parts, (total / finite.sum(axis=0))[None])
        return {name: mean[0] for name, mean in means.items()}

    def values(self, *, parts: bool = True) -> NDArray[np.float64]:
        """Copy the numbers of all rows but step and time.

        Parameters
        ----------
        parts : bool, default True
            Whether to copy the parts of the KL contributions as well.

        Returns
        -------
        ndarray, shape (rows, columns)
            In the order of `columns`, without the parts' if they are left out.
        """
        rows, layout = self._read(), self._layout
        parts_end = layout.part.stop if parts else layout.kl.stop
        rest = layout.measure.start
        # Column by column, which is how they are reduced: five times as fast.
        values = np.empty((len(rows), 3 + parts_end - KL + layout.width - rest), order="F")
        values[:, 0] = rows[:, 2]
        values[:, 1] = self._data(rows)
        values[:, 2] = self._elbo(rows)
        values[:, 3 : 3 + parts_end - KL] = rows[:, KL:parts_end]
        values[:, 3 + parts_end - KL :] = rows[:, rest:]
        return values

    def view(self, points: int = 500, *, parts: bool = False) -> "View":
        """Make a decimated view for a live plot.

        Parameters
        ----------
        points : int, default 500
            Upper bound of the points a column.
        parts : bool, default False
            Whether to look at the parts of the KL contributions as well. There may be thousands.

        Returns
        -------
        View
            Of the rows so far; its ``update()`` takes in those that came since. A trace can
            have any number of views.
        """
        from vitoolkit.decimation import View

        return View(self, points=points, parts=parts)

    def same_layout(self, other: "Trace") -> bool:
        """Tell whether another trace records the same variables, controls, parts and measures.

        Parameters
        ----------
        other : Trace
            The trace to compare with.

        Returns
        -------
        bool
            True if a row of one is a row of the other.
        """
        mine, others = self._layout, other._layout
        return (
            mine.variables == others.variables
            and mine.controls == others.controls
            and mine.measures == others.measures
            and [*mine.parts.values()] == [*others.parts.values()]
        )

    def equals(self, other: "Trace") -> bool:
        """Tell whether another trace is the same in every number, name, attribute and event.

        Parameters
        ----------
        other : Trace
            The trace to compare with.

        Returns
        -------
        bool
            True if all is equal bit for bit. NaN equals NaN; 0.0 does not equal -0.0.

        Examples
        --------
        >>> trace = Trace(controls=("beta",))
        >>> trace.append(0, 0.1, 7.0, float("nan"), (), [1.0])
        >>> trace.equals(trace[:])
        True
        >>> trace.equals(trace[:0])
        False
        """
        if not isinstance(other, Trace):
            raise TypeError(f"a Trace is accepted; received {type(other).__name__}")
        if (self.variables, self.controls) != (other.variables, other.controls):
            return False  # other parts and measures show in the description
        mine, others = self._read(), other._read()
        if mine.shape != others.shape:
            return False
        same = mine.view(np.int64) == others.view(np.int64)
        same[:, 1:] |= np.isnan(mine[:, 1:]) & np.isnan(others[:, 1:])
        if not self.has_terms:
            same[:, DATA] = True  # it reads as NaN, whatever was handed in
        from vitoolkit.export import describe

        return bool(same.all()) and describe(self) == describe(other)

    def __getstate__(self) -> dict[str, Any]:
        rows = np.array(self._read())
        names = (self.variables, self.controls, tuple(self.parts.values()), self.measures)
        return {"names": names, "attrs": self.attrs, "events": self.events, "rows": rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lay_out(_Layout(*state["names"]))
        self.attrs = state["attrs"]
        self._events = list(state["events"])
        self._adopt(state["rows"])

    # --- showing -----------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """Say in words what the trace holds.

        Returns
        -------
        dict of str to str
            A label and a text for each line of a table: rows, steps, duration, last loss, ELBO,
            largest KL contributions and largest coordinates of their parts (means of the last 100
            rows), last control values, events.

        Examples
        --------
        >>> trace = Trace(variables=("z",), controls=("beta",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], [0.5])
        >>> for label, text in trace.summary().items():
        ...     print(f"{label}: {text}")
        rows: 1
        steps: 0 to 0
        duration: 0.5 s
        loss, last: 9
        ELBO and KL: means of all rows
        ELBO: -7.25 nats
        KL of z: 1.25 nats
        beta, last: 0.5
        events: 0
        """
        trace = self[:]
        lines = {"rows": f"{len(trace):,}"}
        if len(trace):
            lines["steps"] = f"{trace.step[0]:,} to {trace.step[-1]:,}"
            lines["duration"] = f"{trace.time[-1]:,.4g} s"
            lines["loss, last"] = f"{trace.loss[-1]:,.6g}"
            tail = trace[-TAIL:]
            if trace.has_terms:
                rows = f"the last {TAIL} rows" if len(trace) > TAIL else "all rows"
                lines["ELBO and KL"] = f"means of {rows}"
                lines["ELBO"] = f"{_mean(tail.elbo):,.6g} nats"
            kl = {name: _mean(column) for name, column in tail.kl.items()}
            largest = sorted(kl, key=lambda name: abs(kl[name]), reverse=True)[:NAMED]
            for name in largest:
                lines[f"KL of {name}"] = f"{kl.pop(name):,.4g} nats"
            if kl:
                lines[f"KL of {len(kl)} more"] = f"{sum(kl.values()):,.4g} nats"
            for name, mean in list(tail._part_means().items())[:NAMED]:
                lines[f"KL of {name} in parts"] = _largest(self.parts[name], mean)
            for name, column in tail.control.items():
                lines[f"{name}, last"] = f"{column[-1]:.6g}"
        lines["events"] = f"{len(trace.events):,}"
        return lines

    def __repr__(self) -> str:
        trace = self[:]
        parts = [f"{len(trace):,} row{'' if len(trace) == 1 else 's'}"]
        if len(trace):
            parts.append(f"steps {trace.step[0]}..{trace.step[-1]}")
        parts.append(f"variables={trace.variables}")
        parts.append(f"controls={trace.controls}")
        if trace.parts:
            parts.append(f"parts={ {name: part.shape for name, part in trace.parts.items()} }")
        if len(trace) and trace.has_terms:
            parts.append(f"ELBO {_mean(trace[-TAIL:].elbo):.6g} nats")
        return f"Trace({', '.join(parts)})"

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{html.escape(label)}</th><td {left}>{html.escape(text)}</td></tr>"
            for label, text in self.summary().items()
        )
        return f"<table><caption>Trace of a fit</caption><tbody>{rows}</tbody></table>"

    # --- writing and opening files -------------------------------------------------------

    def to_xarray(self) -> "xarray.Dataset":
        """Copy the trace to an xarray data set.

        Returns
        -------
        xarray.Dataset
            ``loss``, ``data`` and ``elbo`` have the dimension ``step``, ``kl`` has ``step`` and
            ``variable``, ``controls`` has ``step`` and ``control``; ``time`` is a coordinate
            along ``step``. Units are in the ``units`` attribute of each variable. The attribute
            ``vitoolkit_trace`` holds all attributes and events as JSON.

            The parts of the KL contribution of ``z`` are ``kl_by_z``, with the dimension ``step``
            and those of the model with their coordinates. A dim whose name the data set has for
            something else (``step``, ``time``, ``variable``, ``loss``, a dim of another length or
            other labels) is prefixed with the variable, ``z_step``. Characters other than letters,
            digits, ``-`` and ``_`` become ``_``, so that every file system takes the name; the
            attribute ``variable`` has the variable's own.

        Examples
        --------
        >>> trace = Trace(variables=("z",), controls=("beta",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], [0.5])
        >>> dataset = trace.to_xarray()
        >>> float(dataset.kl.sel(variable="z", step=0)), dataset.kl.attrs["units"]
        (1.25, 'nats')
        """
        from vitoolkit import export

        return export.to_xarray(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Copy the trace to a pandas data frame.

        Returns
        -------
        pandas.DataFrame
            Index ``step``; columns ``time``, ``loss``, ``data``, ``elbo``, ``kl[variable]`` for
            each variable, ``kl[variable, dim=label]`` for each coordinate of the parts, and each
            control by its name. Its ``attrs`` are those of the trace,
            with ``units`` (column to unit) and ``events`` (a list of dicts) added.

        Examples
        --------
        >>> trace = Trace(variables=("z",), controls=("beta",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], [0.5])
        >>> frame = trace.to_dataframe()
        >>> list(frame.columns)
        ['time', 'loss', 'data', 'elbo', 'kl[z]', 'beta']
        >>> frame.attrs["units"]["time"], frame.attrs["units"]["kl[z]"]
        ('s', 'nats')
        """
        from vitoolkit import export

        return export.to_dataframe(self)

    def to_csv(self, path: str | Path) -> Path:
        """Write a CSV file.

        The first line is a comment with the attributes and events as JSON, the second names the
        columns, which are those of `to_dataframe`. Numbers are written so that they read back
        exactly; ``pandas.read_csv(path, comment="#", index_col="step")`` reads the table.

        Parameters
        ----------
        path : str or Path
            Ends in ``.csv``. A file that is there is replaced, once the new one is complete.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.

        Examples
        --------
        >>> import tempfile
        >>> trace = Trace(variables=("z",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = trace.to_csv(f"{folder}/fit.csv")
        ...     Trace.open(path).equals(trace)
        True
        """
        from vitoolkit import export

        return export.to_csv(self, path)

    def to_parquet(self, path: str | Path) -> Path:
        """Write a Parquet file, with the columns of `to_dataframe`. Needs pyarrow.

        Parameters
        ----------
        path : str or Path
            Ends in ``.parquet``. A file that is there is replaced, once the new one is complete.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ImportError
            If pyarrow is not installed.
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.
        """
        from vitoolkit import export

        return export.to_parquet(self, path)

    def to_netcdf(self, path: str | Path) -> Path:
        """Write the data set of `to_xarray` to a NetCDF file. Needs h5netcdf and h5py.

        Parameters
        ----------
        path : str or Path
            Ends in ``.nc``. A file that is there is replaced, once the new one is complete.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ImportError
            If h5netcdf or h5py is not installed.
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.
        """
        from vitoolkit import export

        return export.to_netcdf(self, path)

    def to_zarr(self, path: str | Path) -> Path:
        """Write the data set of `to_xarray` to a Zarr store, a folder. Needs zarr.

        Parameters
        ----------
        path : str or Path
            Ends in ``.zarr``. A store that is there is replaced, once the new one is complete.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ImportError
            If zarr is not installed.
        ValueError
            If the name ends otherwise.
        FileExistsError
            If the path is a file, or a folder that holds something other than a Zarr store.
        FileNotFoundError
            If the folder above does not exist.
        """
        from vitoolkit import export

        return export.to_zarr(self, path)

    def to_json(self, path: str | Path) -> Path:
        """Write a JSON file.

        Its columns are arrays of numbers, in which the strings ``"NaN"``, ``"Infinity"`` and
        ``"-Infinity"`` stand for what JSON has no number for.

        Parameters
        ----------
        path : str or Path
            Ends in ``.json``. A file that is there is replaced, once the new one is complete.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.
        """
        from vitoolkit import export

        return export.to_json(self, path)

    def to_html(self, path: str | Path, *, title: str = "Variational fit") -> Path:
        """Write a report to read in a browser, with no network needed.

        It shows the loss, the ELBO and data term, the KL of each variable, the controls, and the
        events. Long traces are decimated, so that the file stays small; it cannot be opened as
        a trace again.

        Parameters
        ----------
        path : str or Path
            Ends in ``.html``. A file that is there is replaced, once the new one is complete.
        title : str, optional
            Heading of the report.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.
        """
        from vitoolkit import export

        return export.to_html(self, path, title=title)

    @staticmethod
    def open(path: str | Path) -> "Trace":
        """Read a trace back, equal to the one that was written.

        Parameters
        ----------
        path : str or Path
            A file, or a Zarr store. Its name tells the format: ``.csv``, ``.parquet``, ``.nc``,
            ``.zarr``, ``.json``.

        Returns
        -------
        Trace
            With every number, name, attribute and event of the one that was written.

        Raises
        ------
        ValueError
            If the name ends otherwise, or what is there is not a trace.
        FileNotFoundError
            If nothing is there.
        ImportError
            If the format needs a package that is not installed.
        """
        from vitoolkit import export

        return export.open_trace(path)


def _names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{what} takes a sequence of names; received the string {names!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{what} takes names, which are strings; received {name!r}")
        if not name:
            raise ValueError(f"{what} takes names that are not empty; received {names}")
    if len(set(names)) < len(names):
        raise ValueError(f"{what} takes every name once; received {names}")
    return names


def _parts(parts: Iterable[Part], variables: tuple[str, ...]) -> tuple[Part, ...]:
    parts = tuple(parts)
    for i, part in enumerate(parts):
        if not isinstance(part, Part):
            raise TypeError(f"parts takes Part objects; received {part!r}")
        if part.variable not in variables:
            raise ValueError(
                f"a part is of {part.variable!r}; the variables of this trace are {variables}"
            )
        if any(part.variable == other.variable for other in parts[:i]):
            raise ValueError(f"parts takes every variable once; received {part.variable!r} twice")
    return parts


def _largest(part: Part, mean: NDArray[np.float64]) -> str:
    means = mean.ravel()
    if not np.isfinite(means).any():
        return f"{part.size:,} coordinates"
    largest = int(np.nanargmax(means))
    where, nats = part.labels[largest], means[largest]
    return f"{part.size:,} coordinates, {where} the largest: {nats:,.4g} nats"


def _mean(column: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(column.mean())


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    versions = [("python", platform.python_version())]
    for package in ("vitoolkit", "pymc", "pytensor", "numpy"):
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            versions.append((package, "not installed"))
    return tuple(versions)
