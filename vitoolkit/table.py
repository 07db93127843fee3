"""Rows and columns: what a trace keeps, readable while it grows."""

import functools
import operator
import platform
import struct
import types
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple, Self, SupportsFloat, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitoolkit.away import Away, Filed, Load, Told
from vitoolkit.events import Event
from vitoolkit.parts import Part, PartArrays

__all__ = ["Branch", "Columns", "Part", "Table"]

RESERVED = ("step", "time", "loss", "data", "elbo")
#: Other names in a data set.
GROUPS = ("kl", "variable", "controls", "control", "q", "prior", "moved", "coordinate", "end")
HEAD = struct.Struct("=qddd")  # step, time, loss, data: the columns every row begins with
DATA, KL = 3, 4  # where the data term and the first KL contribution stand in a row
SMALLEST = 256  # rows in the first chunk
LARGE = 2**24  # bytes from which on a chunk is not copied to a larger one: some 5 ms
UNREAD = 2**63 - 1  # stands for the last step where a file has to be read to know it

Array: TypeAlias = NDArray[np.float64]
Piece: TypeAlias = Array | Away


class Columns(Mapping[str, NDArray[Any]]):
    """Read-only mapping from a name to one column of numbers.

    All columns are of one moment and one length: a row that arrives later does not show.

    Parameters
    ----------
    index : mapping of str to int
        Position of each name in `array`.
    array : ndarray, shape (names, rows)
        The columns, one a row of this array.

    Raises
    ------
    KeyError
        If a name is asked for that is not there. The message lists the names that are.
    """

    def __init__(self, index: Mapping[str, int], array: NDArray[Any]):
        self._index = index
        self._array = array

    @property
    def array(self) -> NDArray[Any]:
        """All columns at once, in the order of the names, shape (names, rows)."""
        return self._array

    def _column(self, i: int) -> NDArray[Any]:
        return self._array[i]

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._index:
            accepted = ", ".join(map(repr, self._index)) or "none, there are no columns here"
            raise KeyError(f"no column named {name!r}; the names are: {accepted}")
        return self._column(self._index[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Columns({list(self._index)}, {self._rows()} rows)"

    def _rows(self) -> int:
        return self._array.shape[1]


class _Rows:
    """Rows of one moment, in one piece or in several, that are joined as far as they are read."""

    def __init__(self, pieces: list[Piece], width: int):
        self.pieces = pieces or [np.empty((0, width))]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def joined(self, read: Callable[[Array], NDArray[Any]]) -> NDArray[Any]:
        """Read something of each piece, and put it together along the rows.

        Of those in a file there is one in memory at a time.
        """
        first, *others = self.pieces
        found = read(_there(first))
        if not others and not isinstance(first, Away):
            return found
        joined = np.empty((len(self), *found.shape[1:]), found.dtype)
        joined[: len(found)] = found
        start = len(found)
        for piece in others:
            found = read(_there(piece))
            joined[start : start + len(found)] = found
            start += len(found)
        return joined

    def between(self, start: int, stop: int) -> Array:
        """Read neighboring columns, shape (rows, columns), not to be written to."""
        array = self.joined(lambda piece: piece[:, start:stop])
        array.flags.writeable = False
        return array

    def one(self, column: int, dtype: Any = np.float64) -> NDArray[Any]:
        """Read one column, not to be written to."""
        array = self.joined(lambda piece: piece.view(dtype)[:, column])
        array.flags.writeable = False
        return array


def _there(piece: Piece) -> Array:
    """The rows of a piece, read if they are in a file."""
    return piece.array() if isinstance(piece, Away) else piece


class _ColumnsOfRows(Columns):
    """Some columns of rows. Each is joined only if it is asked for."""

    def __init__(self, index: Mapping[str, int], rows: _Rows, first: int):
        self._index, self._of, self._first = index, rows, first

    @property
    def array(self) -> NDArray[Any]:
        return self._of.between(self._first, self._first + len(self)).T

    def _column(self, i: int) -> NDArray[Any]:
        return self._of.one(self._first + i)

    def _rows(self) -> int:
        return len(self._of)


class _PartsOfRows(PartArrays):
    """The parts of rows. Each is joined only if it is asked for."""

    def __init__(self, parts: Mapping[str, Part], rows: _Rows, first: int):
        self._parts, self._of, self._first = parts, rows, first

    @property
    def array(self) -> Array:
        stop = sum(part.size for part in self._parts.values())
        return self._of.between(self._first, self._first + stop)

    def _between(self, start: int, stop: int) -> Array:
        return self._of.between(self._first + start, self._first + stop)


class Branch(NamedTuple):
    """Rows that a run has left behind: it went back, and took their steps once more.

    Attributes
    ----------
    step : int
        The first step that was taken out, from which on the run went another way.
    when : str
        When it was left, UTC, ISO 8601.
    rows : Table
        The rows, with the columns of the table that they come from. The events of their time
        are among those of the table.
    """

    step: int
    when: str
    rows: "Table"


class _Layout:
    """What the columns of a table are called, and where they stand in a row. Slices share it."""

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
        kept = [name for name in self.all_columns if name != "elbo"]  # which is computed
        self.place = {name: place for place, name in enumerate(kept, 2)}

    def same(self, other: "_Layout") -> bool:
        mine = self.variables, self.controls, self.measures, [*self.parts.values()]
        return mine == (other.variables, other.controls, other.measures, [*other.parts.values()])


class _Store:
    """Chunks of rows, each with the number of rows before it, and the branches.

    The list of chunks only grows, and a chunk may be replaced by another that holds the same rows:
    the last one by the thread that writes, the others by one that has them in a file. To take rows
    out, a table gets another store.
    """

    def __init__(self, pieces: Iterable[Piece], branches: tuple[Branch, ...]):
        self.chunks: list[tuple[int, Piece]] = []
        self.branches = branches
        self.length = 0
        for piece in pieces:
            self.chunks.append((self.length, piece))
            self.length += len(piece)

    def pieces(self, rows: range) -> list[Piece]:
        """Views of some of the rows."""
        found: list[Piece] = []
        first = bisect_right(self.chunks, rows.start, key=operator.itemgetter(0)) - 1
        for start, chunk in self.chunks[max(first, 0) :]:
            if start >= rows.stop:
                break
            skipped = max(0, -((rows.start - start) // rows.step))
            begin = rows.start + skipped * rows.step - start
            piece = chunk[begin : rows.stop - start : rows.step]
            if not isinstance(piece, Away):
                piece.flags.writeable = False
            if len(piece):
                found.append(piece)
        return found

    def last_step(self) -> int:
        """Step of the last row, -1 without any."""
        last = self.pieces(range(self.length)[-1:])
        if not last:
            return -1
        if isinstance(last[0], Away):
            known = last[0].last_step
            return UNREAD if known is None else known
        return int(last[0].view(np.int64)[0, 0])

    def held(self) -> int:
        """Bytes of its rows that are in memory."""
        return sum(chunk.nbytes for _, chunk in self.chunks if not isinstance(chunk, Away))

    def let_go(
        self, chunks: int, rows: int, most: int, load: Load, tell: Callable[[Array], Told]
    ) -> int:
        """Replace some of the first `chunks`, all of whose rows are among the first `rows`.

        Ends when `most` bytes are free.

        Returns
        -------
        int
            Bytes that are free now.
        """
        free = 0
        for i in range(chunks):
            start, chunk = self.chunks[i]
            if free >= most or start + len(chunk) > rows:
                break
            if not isinstance(chunk, Away) and len(chunk):
                first, last = chunk[[0, -1], 0].view(np.int64).tolist()
                filed = Filed(first, last, len(chunk), chunk.shape[1], load, tell(chunk))
                filed.keep_head(chunk)
                self.chunks[i] = start, Away(filed)
                free += chunk.nbytes
        return free


class Table:
    """Columnar record, one row a step: the writing and reading of a `Trace`.

    One thread writes; any number of threads may read meanwhile, and each read sees whole rows
    only. The parameters, attributes and errors are those of `Trace`.

    Notes
    -----
    Rows are kept in chunks. A small one is copied to one of twice its size when it is full; beside
    a large one another is put, so that no row, however late, has to wait for hundreds of megabytes
    to be copied. A column of a table of one chunk is a view of it. Of several it is a copy, which
    costs all of its rows: read a slice, ``table[-100:].loss``, if the last ones are wanted.

    Examples
    --------
    >>> from vitoolkit.table import Table
    >>> table = Table(variables=("z",))
    >>> for step in range(3):
    ...     table.append(step, 0.1 * step, 9.0 - step, -6.0, [1.0 + step])
    >>> table.cut(1).rows.kl["z"].tolist()
    [2.0, 3.0]
    >>> table.append(1, 0.4, 8.5, -6.0, [1.5])
    >>> table.kl["z"].tolist()
    [1.0, 1.5]
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
        self._adopt(_Store([], ()))

    def _lay_out(self, layout: _Layout) -> None:
        self._layout = layout
        self.variables, self.controls = layout.variables, layout.controls
        self.measures = layout.measures

    # --- writing -----------------------------------------------------------------------

    def _adopt(self, store: _Store) -> None:
        """Begin with the rows of a store, all full: the first row written makes a new chunk."""
        self._length = store.length  # before the store: see `_moment`
        self._store = store
        self._row = self._capacity = len(store.chunks[-1][1]) if store.chunks else 0
        self._last_step = store.last_step()

    def _grow(self, rows: int) -> None:
        """Make room for so many rows more."""
        chunks, used, width = self._store.chunks, self._row, self._layout.width
        start, last = chunks[-1] if chunks else (0, np.empty((0, width)))
        if not isinstance(last, Away) and last.nbytes < LARGE:
            buffer = np.empty((max(2 * len(last), used + rows, SMALLEST), width))
            buffer[:used] = last[:used]
            chunks[-1:] = [(start, buffer)]  # a reader gets the old rows or the copied ones
        else:
            buffer = np.empty((max(-(-LARGE // (8 * width)), rows), width))
            chunks[-1] = start, last[:used]
            chunks.append((start + used, buffer))
            self._row = 0
        self._capacity = len(buffer)
        self._last = buffer
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
        if step <= self._last_step and step <= self._read_last_step():
            raise ValueError(self._not_later(step))
        if self._row == self._capacity:
            self._grow(1)
        row = self._row
        HEAD.pack_into(self._bytes, row * self._row_bytes, step, time, loss, data)
        self._kl_rows[row] = kl
        self._control_rows[row] = control
        if part_count:
            self._part_rows[row] = parts
        if self.measures:
            self._measure_rows[row] = measures
        self._last_step = step
        self._row = row + 1
        self._length += 1  # publishes the row: readers look at the length first

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
        >>> table = Table(variables=("z",))
        >>> terms = [[-3.0, 2.0], [-3.0, 1.0]]
        >>> table.extend([0, 1], [0.1, 0.2], [5.0, 4.0], terms, np.empty((2, 0)))
        >>> table.elbo.tolist()
        [-5.0, -4.0]
        """
        layout = self._layout
        steps, *arrays = _block(layout, step, time, loss, terms, control)
        rows = steps.size
        if not rows:
            return
        if steps[0] <= self._last_step and steps[0] <= self._read_last_step():
            raise ValueError(self._not_later(int(steps[0])))
        if (steps[1:] <= steps[:-1]).any():
            raise ValueError(f"steps must strictly increase; received {steps}")
        if self._row + rows > self._capacity:
            self._grow(rows)
        block = self._last[self._row : self._row + rows]
        block.view(np.int64)[:, 0] = steps
        block[:, 1], block[:, 2], block[:, DATA : layout.measure.stop] = arrays[:3]
        block[:, layout.control] = arrays[3]
        self._last_step = int(steps[-1])
        self._row += rows
        self._length += rows

    def _read_last_step(self) -> int:
        if self._last_step == UNREAD:
            self._last_step = int(self[-1:].step[0])
        return self._last_step

    def _not_later(self, step: int) -> str:
        earliest = max(self._last_step + 1, 0)
        return f"steps must strictly increase: {earliest} or later is accepted, received {step}"

    def cut(self, step: SupportsIndex) -> Branch | None:
        """Take out the rows from a step on, and keep them as a branch.

        The next row may be of `step` again. Events stay, and so do the branches of before.

        Parameters
        ----------
        step : int
            The first step to take out. Only the thread that writes may cut.

        Returns
        -------
        Branch or None
            What is now the last of `branches`; None if there is no row of `step` or later.

        Raises
        ------
        TypeError
            If `step` is not an integer.
        """
        step = operator.index(step)
        kept = self.rows_before(step)
        if kept == len(self):
            return None
        store, when = self._store, datetime.now(UTC).isoformat(timespec="seconds")
        rows = self._of(store.pieces(range(kept, self._length)))
        branch = Branch(step, when, rows)
        self._adopt(_Store(store.pieces(range(kept)), (*store.branches, branch)))
        return branch

    def go_back(self, step: SupportsIndex, branches: int) -> Branch:
        """Have the rows that there were at a step, when there were so many branches.

        What is there now, from the first step on that is another one, is a branch, be it without
        rows: there is one for each time that a run went back.

        Parameters
        ----------
        step : int
            The next row may be of `step`. Only the thread that writes may go back.
        branches : int
            How many there were then; as many as now of a step on the present line.

        Returns
        -------
        Branch
            What is now the last of `branches`.

        Examples
        --------
        >>> table = Table()
        >>> for step in (0, 1, 2):
        ...     table.append(step, 0.1, 9.0 - step, float("nan"))
        >>> first = table.go_back(1, 0)
        >>> table.append(1, 0.1, 5.0, float("nan"))
        >>> second = table.go_back(2, 0)  # where it was before the first branch
        >>> table.loss.tolist(), second.rows.loss.tolist()
        ([9.0, 8.0], [5.0])
        """
        step = operator.index(step)
        store, length = self._moment()
        left = store.branches[branches:]
        common = min([step, *(branch.step for branch in left)])
        kept = self.rows_before(common)
        past: Table = self
        for branch in reversed(left):
            before = past._of(past._store.pieces(range(past.rows_before(branch.step))))
            past = past._of([*before._read().pieces, *branch.rows._read().pieces])
        again = range(past.rows_before(common), past.rows_before(step))
        rejoined = [
            piece if isinstance(piece, Away) else np.array(piece)
            for piece in past._store.pieces(again)
        ]
        when = datetime.now(UTC).isoformat(timespec="seconds")
        branch = Branch(common, when, self._of(store.pieces(range(kept, length))))
        pieces = [*store.pieces(range(kept)), *rejoined]
        self._adopt(_Store(pieces, (*store.branches, branch)))
        return branch

    def let_go(self, seen: "Table", room: int, load: Callable[[int], Load]) -> None:
        """Leave rows to a file, the oldest first, until those in memory have room.

        Any thread may, while another one writes. The chunk that is written to stays.

        Parameters
        ----------
        seen : Table
            ``table[:]`` of an earlier moment, all rows and branches of which the file has.
        room : int
            Bytes of rows that may stay in memory.
        load : callable
            ``load(turns)(first, last)`` reads the rows from one step to another, as they were when
            so many branches had been left behind.
        """
        store = self._store
        if store.branches is not seen.branches:  # it has gone back since
            return
        left = [branch.rows._store for branch in store.branches]
        most = store.held() + sum(one.held() for one in left) - room
        for turns, one in enumerate(left):
            if most > 0:
                most -= one.let_go(len(one.chunks), one.length, most, load(turns), self._told)
        if most > 0:
            store.let_go(len(store.chunks) - 1, len(seen), most, load(len(left)), self._told)

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

    def _moment(self) -> tuple[_Store, int]:
        """What is there now: a store, and how many rows of it."""
        while True:
            store, length = self._store, self._length
            if store is self._store:  # else rows were taken out, and it is the other's length
                return store, length

    def _read(self) -> _Rows:
        store, length = self._moment()
        return _Rows(store.pieces(range(length)), self._layout.width)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> Self:
        if not isinstance(rows, slice):
            raise TypeError(
                f"a trace is indexed by a slice of rows, such as trace[-100:]; received {rows!r}"
            )
        if rows.step is not None and rows.step < 1:
            raise ValueError(f"a slice of a trace steps forward; received {rows.step}")
        store, length = self._moment()
        part = self._of(store.pieces(range(length)[rows]), store.branches)
        part.attrs = dict(self.attrs)
        part._events = list(self._events)
        return part

    def _of(self, pieces: Iterable[Piece], branches: tuple[Branch, ...] = ()) -> Self:
        """Make another one of the same columns, without attributes and events."""
        other = object.__new__(type(self))
        other._lay_out(self._layout)
        other.attrs, other._events = {}, []
        other._adopt(_Store(pieces, branches))
        return other

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Rows that were taken out by `cut`, in the order in which that was done."""
        return self._store.branches

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
        return self._read().one(0, np.int64)

    @property
    def time(self) -> Array:
        """Seconds since the trace began, shape (rows,)."""
        return self._read().one(1)

    @property
    def loss(self) -> Array:
        """What was minimized, in nats of the minibatch or of the full data set, shape (rows,)."""
        return self._read().one(2)

    @property
    def data(self) -> Array:
        """Data term, nats of the full data set, shape (rows,). NaN if `has_terms` is False."""
        rows = self._read()
        return rows.one(DATA) if self.has_terms else np.full(len(rows), np.nan)

    @property
    def elbo(self) -> Array:
        """Data term minus the KL contributions (β = 1), nats, shape (rows,). A new array."""
        return self._read().joined(self._elbo)

    @property
    def kl(self) -> Columns:
        """KL contribution of each variable, nats, not multiplied by β."""
        return _ColumnsOfRows(self._layout.kl_index, self._read(), self._layout.kl.start)

    @property
    def measure(self) -> Columns:
        """What else was measured in each step, such as ``measure["gradient_norm"]``."""
        return _ColumnsOfRows(self._layout.measure_index, self._read(), self._layout.measure.start)

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
        >>> table = Table(variables=("z",), parts=[part])
        >>> table.append(0, 0.5, 9.0, -6.0, [1.25], parts=[1.0, 0.25])
        >>> table.kl_by["z"].tolist()
        [[1.0, 0.25]]
        >>> table.parts["z"].coords["latent"]
        ['a', 'b']
        """
        return _PartsOfRows(self._layout.parts, self._read(), self._layout.part.start)

    @property
    def control(self) -> Columns:
        """Value of each control that each recorded step used."""
        return _ColumnsOfRows(self._layout.control_index, self._read(), self._layout.control.start)

    def _data(self, rows: Array) -> Array:
        return rows[:, DATA] if self.has_terms else np.full(len(rows), np.nan)

    def _elbo(self, rows: Array) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, and that is right
            return self._data(rows) - np.einsum("ij->i", rows[:, self._layout.kl])

    def column(self, name: str) -> Array:
        """Read one of the `columns`.

        Parameters
        ----------
        name : str
            Such as ``loss``, ``elbo``, ``kl[z]``, ``kl[z, latent=3]``, or that of a control.

        Returns
        -------
        ndarray, shape (rows,)
            Its numbers.

        Raises
        ------
        KeyError
            If there is no such column. The message lists those that there are.
        """
        if name in ("loss", "data", "elbo"):
            return getattr(self, name)
        return Columns.__getitem__(_ColumnsOfRows(self._layout.place, self._read(), 0), name)

    def values(self, *, parts: bool = True) -> Array:
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
        start = 0
        for piece in map(_there, rows.pieces):
            block = values[start : start + len(piece)]
            block[:, 0] = piece[:, 2]
            block[:, 1] = self._data(piece)
            block[:, 2] = self._elbo(piece)
            block[:, 3 : 3 + parts_end - KL] = piece[:, KL:parts_end]
            block[:, 3 + parts_end - KL :] = piece[:, rest:]
            start += len(piece)
        return values

    # --- what is known of rows that are in a file, without reading them ---------------------

    def rows_before(self, step: int) -> int:
        """Count the rows of earlier steps.

        Examples
        --------
        >>> table = Table()
        >>> for step in (0, 10, 20):
        ...     table.append(step, 0.1, 9.0, float("nan"))
        >>> table.rows_before(10), table.rows_before(11)
        (1, 2)
        """
        found = 0
        for piece in self._read().pieces:
            if isinstance(piece, Away):
                before = piece.before(step)
            else:
                before = int(np.searchsorted(piece.view(np.int64)[:, 0], step))
            found += before
            if before < len(piece):
                break
        return found

    @property
    def near(self) -> int:
        """The first row since which all are in memory."""
        end = 0
        first = 0
        for piece in self._read().pieces:
            end += len(piece)
            first = end if isinstance(piece, Away) else first
        return first

    @property
    def held(self) -> int:
        """Bytes of its rows that are in memory, those of its branches among them."""
        store = self._store
        return store.held() + sum(branch.rows._store.held() for branch in store.branches)

    @property
    def has_loss(self) -> bool:
        """Whether a row has a loss that is not NaN."""
        pieces = self._read().pieces  # the last is in memory
        return any(self._told_of(piece).nan < len(piece) for piece in reversed(pieces))

    def not_finite(self) -> tuple[int, int | None]:
        """Count the rows whose loss is not finite.

        Returns
        -------
        tuple of int and int or None
            How many, and the step of the first one.
        """
        count = 0
        step: int | None = None
        for piece in self._read().pieces:
            told = self._told_of(piece)
            step = told.first if step is None else step
            count += told.odd
        return count, step

    def control_ends(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of each control; NaN with a NaN, or without rows."""
        told = [self._told_of(piece) for piece in self._read().pieces if len(piece)]
        if not told:
            return dict.fromkeys(self.controls, (np.nan, np.nan))
        low = np.min([one.low for one in told], axis=0)
        high = np.max([one.high for one in told], axis=0)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(self.controls)}

    def _told_of(self, piece: Piece) -> Told:
        if not isinstance(piece, Away):
            return self._told(piece)
        told = piece.told
        if told is None:
            told = self._told(piece.array())
            if len(piece) == piece.filed.rows:
                piece.filed.told = told
        return told

    def _told(self, rows: Array) -> Told:
        if not len(rows):
            return Told(0, 0, None, np.empty(0), np.empty(0))
        loss, control = rows[:, 2], rows[:, self._layout.control]
        odd = np.flatnonzero(~np.isfinite(loss))
        first = int(rows.view(np.int64)[odd[0], 0]) if len(odd) else None
        nan = int(np.isnan(loss[odd]).sum())
        return Told(len(odd), nan, first, control.min(axis=0), control.max(axis=0))

    @property
    def width(self) -> int:
        """How many numbers a row has: those of `kept`."""
        return self._layout.width

    def blocks(self, most: int) -> Iterator[Self]:
        """All rows, so many at a time, or fewer where these would take more than 16 MB."""
        most = max(min(most, LARGE // (8 * self.width)), 1)
        for start in range(0, len(self), most):
            yield self[start : start + most]

    def kept(self) -> Array:
        """Copy the rows as they are kept, so that equal rows have equal bytes.

        Returns
        -------
        ndarray, shape (rows, numbers of a row)
            Step (the bits of an integer), time, loss, data term, KL contributions, their parts,
            measures, controls. There is one NaN.
        """
        rows = np.array(self._read().joined(lambda piece: piece))
        if np.isnan(rows.min(initial=0.0)):  # no step is one, read as a number
            numbers = rows[:, 1:]
            numbers[np.isnan(numbers)] = np.nan
        if not self.has_terms:
            rows[:, DATA] = np.nan  # it reads as NaN, whatever was handed in
        return rows

    def of_kept(self, rows: Array) -> Self:
        """Make a table of the same columns from what `kept` returned, without events."""
        return self._of([rows] if len(rows) else [])

    def of_pieces(self, pieces: Iterable[Piece]) -> Self:
        """Make a table of the same columns from such rows, in memory or in a file."""
        return self._of(pieces)

    def loaded(self) -> Self:
        """The same rows, all in memory: read once for one who reads several columns."""
        pieces = self._read().pieces
        if not any(isinstance(piece, Away) for piece in pieces):
            return self
        return self._of([self._read().joined(lambda piece: piece)], self.branches)

    def put_branches(self, branches: Iterable[Branch]) -> None:
        """Say which rows were left behind before; for one who reads a file."""
        self._store.branches = tuple(branches)

    def __getstate__(self) -> dict[str, Any]:
        now = self[:]
        names = (self.variables, self.controls, tuple(self.parts.values()), self.measures)
        rows = np.array(now._read().joined(lambda piece: piece))
        return {
            "names": names,
            "attrs": now.attrs,
            "events": now.events,
            "rows": rows,
            "branches": now.branches,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lay_out(_Layout(*state["names"]))
        self.attrs = state["attrs"]
        self._events = list(state["events"])
        rows = state["rows"]
        self._adopt(_Store([rows] if len(rows) else [], state.get("branches", ())))


def _block(layout: _Layout, *columns: ArrayLike) -> list[NDArray[Any]]:
    """Check step, time, loss, terms and control of many rows."""
    arrays = [np.asarray(values) for values in columns]
    steps = arrays[0]
    if steps.size and steps.dtype.kind not in "iu":
        raise TypeError(f"steps are integers; received an array of {steps.dtype}")
    rows = (steps.size,)
    terms, controls = layout.measure.stop - DATA, len(layout.controls)
    fitting = [rows, rows, rows, (*rows, terms), (*rows, controls)]
    shapes = [array.shape for array in arrays]
    if shapes != fitting:
        raise ValueError(
            "step, time, loss, terms and control of this trace have the shapes "
            f"{', '.join(map(str, fitting))}; received {', '.join(map(str, shapes))}"
        )
    return arrays


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


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    versions = [("python", platform.python_version())]
    for package in ("vitoolkit", "pymc", "pytensor", "numpy"):
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            versions.append((package, "not installed"))
    return tuple(versions)
