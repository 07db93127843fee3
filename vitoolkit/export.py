"""A trace as a data set, a data frame or a file, and files as a trace again.

Every format holds one JSON text beside its columns: names, attributes and events, all that is not
a column, the number of rows, and a checksum of all of it. What a format cannot say in its own way
(an absent value, a nested attribute) is there.

`FORMATS` is the one list of formats: a new one is an entry there.
"""

import base64
import csv
import functools
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitoolkit.files import found, replacing, require, target
from vitoolkit.parts import Part
from vitoolkit.table import GROUPS, RESERVED, Branch, Table

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = [
    "FORMATS",
    "Fields",
    "Format",
    "branches_of",
    "describe",
    "parse",
    "plain",
    "read",
    "replacing",
    "save",
    "target",
    "to_dataframe",
    "to_xarray",
]

FORMAT, VERSION, READABLE = "vitoolkit trace", 2, (1, 2)
KEY = "vitoolkit_trace"  # where a format keeps the description
GROUP = "variational_trace"  # of the draws that `Fit.sample` returns
FLOAT = "__float__"  # marks a number in an attribute that JSON has no number for
UNITS = {"time": "s", "loss": "nats", "data": "nats", "elbo": "nats"}
LONG_NAMES = {
    "time": "time since the trace began",
    "loss": "loss: what was minimized",
    "data": "data term",
    "elbo": "ELBO (β = 1)",
}
BLOCK = 2**14  # rows whose checksum is taken at a time
PACKED = 1_100  # bytes of steps at most that one byte of a compressed file stands for
CELL = 30_000  # characters of a CSV cell, of which spreadsheets take 32,767


T = TypeVar("T", bound=Table)


class Fields(NamedTuple):
    """What a file holds: what `Trace.open` makes a trace of.

    Attributes
    ----------
    description : dict
        What `describe` returned, and the number of rows and the checksum.
    step, time, loss : array, shape (rows,)
        As for ``Trace.extend``.
    terms, control : array, shape (rows, columns)
        As for ``Trace.extend``.
    """

    description: dict[str, Any]
    step: ArrayLike
    time: ArrayLike
    loss: ArrayLike
    terms: ArrayLike
    control: ArrayLike


class Format(NamedTuple):
    """A kind of file.

    Attributes
    ----------
    label, words : str
        What people call it, and what is in it for whom: the text and tip of a button.
    write : callable
        Takes a `Table` and a `Path`, and replaces what is there.
    read : callable or None
        Takes a `Path` and returns `Fields`; None if the format is for people only.
    packages : tuple of str
        What has to be installed.
    extra : str
        The extra of vitoolkit that brings these packages.
    """

    label: str
    words: str
    write: Callable[..., object]
    read: Callable[[Path], Fields] | None = None
    packages: tuple[str, ...] = ()
    extra: str = "export"


class _Refused(ValueError):
    """What is wrong with a file, to follow its name."""


# --- what is not a column ----------------------------------------------------------------


def describe(trace: Table) -> dict[str, Any]:
    """Return what a trace holds beside its columns, ready for JSON.

    Parameters
    ----------
    trace : Table
        The trace.

    Returns
    -------
    dict
        Format and version, names of variables and controls, parts, attributes, events, branches.

    Raises
    ------
    TypeError
        If an attribute has a value, or a key, that JSON cannot hold. The message names it.

    Examples
    --------
    >>> from vitoolkit.trace import Trace
    >>> description = describe(Trace(controls=("beta",)))
    >>> description["format"], description["controls"], description["events"]
    ('vitoolkit trace', ['beta'], [])
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "variables": list(trace.variables),
        "controls": list(trace.controls),
        "measures": list(trace.measures),
        "parts": [plain(asdict(part), f"parts[{name!r}]") for name, part in trace.parts.items()],
        "attrs": plain(trace.attrs, "attrs"),
        "events": _events(trace),
        "branches": [_packed(branch) for branch in trace.branches],
    }


def _events(trace: Table) -> list[dict[str, Any]]:
    return [plain(event._asdict(), f"events[{i}]") for i, event in enumerate(trace.events)]


def plain(value: Any, where: str) -> Any:
    """Return what JSON can hold in the place of a value, which `parse` makes of it again."""
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist(), where)
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(float(value))}
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; the keys of attributes are strings")
        found = {str(key): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        return {FLOAT: [found[FLOAT]]} if found.keys() == {FLOAT} else found
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where} cannot be written: numbers, strings, True, False, None, lists and dicts of them "
        f"are accepted; received {type(value).__name__}: {value!r}"
    )


def _packed(branch: Branch) -> dict[str, Any]:
    rows = base64.b64encode(branch.rows.kept().astype("<f8").tobytes())
    return {
        "step": branch.step,
        "when": branch.when,
        "rows": len(branch.rows),
        "data": rows.decode(),
    }


def branches_of(fields: Fields, table: T) -> tuple[Branch, ...]:
    """Unpack the branches of a file, whose columns are those of `table`."""
    found = []
    for branch in fields.description.get("branches", ()):
        numbers = np.frombuffer(base64.b64decode(branch["data"]), "<f8").astype(float)
        rows = table.of_kept(numbers.reshape(branch["rows"], table.width))
        found.append(Branch(branch["step"], branch["when"], rows))
    return tuple(found)


def _content(trace: Table) -> dict[str, Any]:
    """Describe a trace, with what tells later whether all of it is there."""
    return {**describe(trace), "rows": len(trace), "checksum": _checksum(trace)}


def _checksum(trace: Table) -> str:
    """CRC-32 of the description and of all rows, the same for every format."""
    crc = zlib.crc32(json.dumps(describe(trace), sort_keys=True).encode())
    for rows in trace.blocks(BLOCK):
        crc = zlib.crc32(rows.kept().astype("<f8").tobytes(), crc)
    return f"crc32 {crc:08x}"


def parse(text: str | bytes) -> Any:
    """Read the JSON of what `plain` returned."""

    def revive(item: dict[str, Any]) -> Any:
        if item.keys() != {FLOAT}:
            return item
        marked = item[FLOAT]  # in a list if it is an attribute that looks like a mark
        return {FLOAT: marked[0]} if isinstance(marked, list) else float(marked)

    return json.loads(text, object_hook=revive)


def _parse(text: str | bytes) -> dict[str, Any]:
    """Read a description, or a whole JSON file that has one."""
    content = parse(text)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _not_a_trace()
    if content["version"] not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise _Refused(
            f"has version {content['version']} of the format; this vitoolkit reads {readable}"
        )
    if content["version"] > 1 and not {"rows", "checksum"} <= content.keys():
        raise _Refused("is damaged: it does not say how many rows it has, or their checksum")
    return content


def _not_a_trace() -> _Refused:
    return _Refused(f"is not a trace that vitoolkit wrote: it has no {KEY!r}")


def _check_size(description: dict[str, Any], rows: int, size: int, packed: int = PACKED) -> None:
    """Look at what a file says of itself, before anything large is read."""
    written = description.get("rows", rows)
    if rows != written:
        raise _Refused(
            f"is damaged: it has {rows:,} of the {written:,} rows that were written. "
            "It was cut short or changed"
        )
    parts = sum(part.size for part in _parts_of(description))
    if 8 * max(rows, parts) > packed * size:
        raise _Refused(
            f"is damaged: it claims {rows:,} rows and {parts:,} parts a row, which its "
            f"{size:,} bytes cannot hold"
        )


def _parts_of(description: dict[str, Any]) -> list[Part]:
    return [Part(**fields) for fields in description.get("parts", ())]  # the first files have none


def _measures_of(description: dict[str, Any]) -> list[str]:
    return description.get("measures", [])


def _stack(columns: Sequence[ArrayLike], rows: int) -> NDArray[np.float64]:
    """Put columns side by side, also if there is none."""
    if not columns:
        return np.empty((rows, 0))
    return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)


# --- tables --------------------------------------------------------------------------------


def to_dataframe(trace: Table) -> "pandas.DataFrame":
    """Copy a trace to a data frame: see `Trace.to_dataframe`."""
    import pandas as pd

    trace = trace[:]
    columns = {"time": trace.time, **dict(zip(trace.columns, trace.values().T, strict=True))}
    frame = pd.DataFrame(columns, index=pd.Index(trace.step, name="step"))
    others = {*trace.controls, *(name for name in trace.measures if not _measure_attrs(name))}
    terms = [name for name in trace.columns if name not in others]
    units = {**UNITS, **dict.fromkeys(terms, "nats")}
    frame.attrs = {**trace.attrs, "units": units, "events": _events(trace)}
    return frame


def _columns_of(description: dict[str, Any]) -> list[str]:
    """Names of the columns of a table, in their order."""
    parts = [name for part in _parts_of(description) for name in part.columns]
    kl = [f"kl[{name}]" for name in description["variables"]]
    measures, controls = _measures_of(description), description["controls"]
    return ["step", "time", "loss", "data", "elbo", *kl, *parts, *measures, *controls]


def _from_table(columns: Sequence[NDArray[Any]], description: dict[str, Any]) -> Fields:
    step, time, loss, data, _, *rest = columns
    split = len(rest) - len(description["controls"])
    terms, control = _stack([data, *rest[:split]], len(step)), _stack(rest[split:], len(step))
    return Fields(description, step, time, loss, terms, control)


def _write_csv(trace: Table, path: Path) -> None:
    """Write a table, and the description in cells of a last column, from the first row down."""
    text = json.dumps(_content(trace))
    frame = to_dataframe(trace)
    frame.columns = [_inert(name) for name in frame.columns]
    rows = len(frame)
    cells = [text[start : start + CELL] for start in range(0, len(text), CELL)]
    cells[rows - 1 :] = ["".join(cells[rows - 1 :])]
    cells[1:] = [f"'{cell}" for cell in cells[1:] if cell]  # whatever it begins with
    name, cells = (KEY, cells + [""] * (rows - len(cells))) if rows else (f"{KEY} {text}", [])
    frame.insert(frame.shape[1], name, cells, allow_duplicates=True)
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            frame.to_csv(file, na_rep="NaN", lineterminator="\n")


def _inert(name: str) -> str:
    """Keep a spreadsheet from running a name."""
    return f"'{name}" if name.startswith(tuple("=+-@\t\r'")) else name


def _read_csv(path: Path) -> Fields:
    with path.open(encoding="utf-8", newline="") as file:
        first = file.readline()
        if first.startswith(f"# {KEY} "):  # version 1 had the description before the table
            description, head = _parse(first.removeprefix(f"# {KEY} ")), file.readline()
        else:
            description, head = {}, first
        while head.count('"') % 2:  # a name with a line break
            line = file.readline()
            if not line:
                raise _not_a_trace()
            head += line
        names = _cells(head)
        lines = [line for line in file if not line.isspace()]
    if not description:
        if not names or not names[-1].startswith(KEY):
            raise _not_a_trace()
        texts = [names.pop().removeprefix(KEY)]
        for i, line in enumerate(lines):
            *numbers, text = line.rstrip("\r\n").split(",", len(names))
            if not text:
                break
            text = text[1:-1].replace('""', '"') if text.startswith('"') else text
            texts.append(text.removeprefix("'"))
            lines[i] = ",".join(numbers) + ",\n"
        description = _parse("".join(texts))
        names = [name.removeprefix("'") if _inert(name[1:]) == name else name for name in names]
    _check_size(description, len(lines), path.stat().st_size)
    if names != (wanted := _columns_of(description)):
        raise _Refused(f"is damaged: its columns are {names}, and were {wanted}")
    step = np.array([int(line.partition(",")[0]) for line in lines], dtype=np.int64)
    # Not pandas: whether its parser is exact to the last bit depends on its version.
    others = np.empty((0, len(names) - 1))
    if lines:
        columns = range(1, len(names))
        others = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2, usecols=columns)
    return _from_table([step, *others.T], description)


def _cells(line: str) -> list[str]:
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(line)))
    try:
        return next(csv.reader([line], strict=True))
    finally:
        csv.field_size_limit(limit)


def _write_parquet(trace: Table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    description = json.dumps(_content(trace))
    frame = to_dataframe(trace)
    units = frame.attrs["units"]
    frame.attrs = {}  # the description holds them, whatever their type
    schema = pa.Schema.from_pandas(frame)  # lets pandas find its index again
    names = ["step", *frame.columns]
    fields = [schema.field(n).with_metadata({"units": units.get(n, "")}) for n in names]
    schema = pa.schema(fields, metadata={**schema.metadata, KEY: description})
    # Column by column: from_pandas would turn NaN into null.
    columns = [frame.index, *(frame[name] for name in frame.columns)]
    table = pa.Table.from_arrays([pa.array(column.to_numpy()) for column in columns], schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _read_parquet(path: Path) -> Fields:
    import pyarrow.parquet as pq

    size = path.stat().st_size
    limits = {"thrift_string_size_limit": size, "thrift_container_size_limit": size}
    with pq.ParquetFile(path, **limits) as file:
        text = (file.schema_arrow.metadata or {}).get(KEY.encode())
        if text is None:
            raise _not_a_trace()
        description = _parse(text)
        _check_size(description, file.metadata.num_rows, size, packed=100)
        names = _columns_of(description)
        table = file.read(columns=names)
    return _from_table([table[name].to_numpy() for name in names], description)


# --- data sets -----------------------------------------------------------------------------


def to_xarray(trace: Table) -> "xarray.Dataset":
    """Copy a trace to a data set: see `Trace.to_xarray`."""
    import xarray as xr

    trace = trace[:]

    def along_step(name: str, column: NDArray[Any]) -> tuple[str, NDArray[Any], dict[str, str]]:
        return "step", column.copy(), {"units": UNITS[name], "long_name": LONG_NAMES[name]}

    kl_attrs = {"units": "nats", "long_name": "KL contribution, not multiplied by β"}
    parts, coords = {}, {}
    for part, (name, dims) in zip(trace.parts.values(), _array_names(trace), strict=True):
        what = f"parts of the KL contribution of {part.variable}, not multiplied by β"
        attrs = {"units": "nats", "long_name": what, "variable": part.variable}
        parts[name] = (("step", *dims), trace.kl_by[part.variable].copy(), attrs)
        for dim, own in zip(dims, part.dims, strict=True):
            if own in part.coords:
                coords[dim] = _label_array(part.coords[own])
    arrays, named = _q_arrays(trace.attrs.get("q"))
    return xr.Dataset(
        {
            "loss": along_step("loss", trace.loss),
            "data": along_step("data", trace.data),
            "elbo": along_step("elbo", trace.elbo),
            "kl": (("step", "variable"), trace.kl.array.T.copy(), kl_attrs),
            "controls": (
                ("step", "control"),
                trace.control.array.T.copy(),
                {"long_name": "value that the step used"},
            ),
            **parts,
            **{
                name: ("step", trace.measure[name].copy(), _measure_attrs(name))
                for name in trace.measures
            },
            **arrays,
        },
        coords={
            **coords,
            **named,
            "step": ("step", trace.step.copy(), {"long_name": "optimization step"}),
            "time": along_step("time", trace.time),
            "variable": np.array(trace.variables, dtype=object),
            "control": np.array(trace.controls, dtype=object),
        },
        attrs={**_readable(trace.attrs), KEY: json.dumps(_content(trace))},
    )


def _q_arrays(q: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where q stood at the end, coordinate by coordinate: arrays of a data set, and their coords.

    Parameters
    ----------
    q : mapping or None
        What ``Snapshots.table`` told.
    """
    if q is None:
        return {}, {}
    dims, middle = ("coordinate", "end"), "ends and median of the middle 68 %"
    moved = {"long_name": "how far q moved in the last tenth of the steps", "units": "sd of q"}
    arrays: dict[str, Any] = {
        "q": (dims, np.array(q["posterior"]), {"long_name": f"q: {middle}"}),
        "moved": ("coordinate", np.array(q["moved"]), moved),
    }
    if q["prior"] is not None:
        arrays["prior"] = (dims, np.array(q["prior"]), {"long_name": f"prior: {middle}"})
    coords = {"coordinate": q["name"], "end": ["low", "median", "high"]}
    return arrays, {name: np.array(labels, dtype=object) for name, labels in coords.items()}


def _measure_attrs(name: str) -> dict[str, str]:
    if not name.startswith("penalty["):
        return {}
    return {"units": "nats", "long_name": "part of the loss in the place of β KL, not divided by c"}


def _array_names(trace: Table) -> list[tuple[str, tuple[str, ...]]]:
    """Name of the array of each part in a data set, and of its dims; none means two things."""
    names: dict[str, Any] = dict.fromkeys((*RESERVED, *GROUPS))
    names.update(dict.fromkeys(trace.measures))
    parts = trace.parts.values()
    arrays = [_free(f"kl_by_{part.variable}", names) for part in parts]
    found = []
    for array, part in zip(arrays, parts, strict=True):
        dims: list[str] = []
        for dim, length in zip(part.dims, part.shape, strict=True):
            meaning = (dim, length, repr(part.coords.get(dim)))
            name = _safe(dim)
            if names.get(name, meaning) != meaning:
                name = _free(f"{part.variable}_{dim}", names)
            names[name] = meaning
            dims.append(name)
        found.append((array, tuple(dims)))
    return found


def _safe(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name)  # "/" makes a group, ":" is not for every file system


def _free(name: str, names: dict[str, Any]) -> str:
    """Find a name that is not there yet, and take it."""
    name = _safe(name)
    while name in names:
        name += "_"
    names[name] = None
    return name


def _label_array(labels: Sequence[str | int | float]) -> NDArray[Any]:
    """One type for all labels of a dim, one that every format has."""
    if all(type(label) is int and abs(label) < 2**63 for label in labels):
        return np.array(labels, dtype=np.int64)
    if all(type(label) is float for label in labels):
        return np.array(labels, dtype=float)
    return np.array([str(label) for label in labels], dtype=object)


def _readable(attrs: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Attributes as people look them up; only the description has to be exact."""
    readable: dict[str, str | int | float] = {}
    for key, value in plain(attrs, "attrs").items():
        if not key.isidentifier() or key == "q":  # q has arrays of its own
            continue
        simple = (
            value.isprintable()
            if isinstance(value, str)
            else type(value) is float or (type(value) is int and abs(value) < 2**63)
        )
        readable[key] = value if simple else json.dumps(value)
    return readable


def _write_netcdf(trace: Table, path: Path) -> None:
    # To memory first: on a full disk, HDF5 would end the process when it closes the file.
    file = BytesIO()
    to_xarray(trace).to_netcdf(file, engine="h5netcdf")
    file.seek(0, SEEK_END)
    file.write(_seal(zlib.crc32(file.getbuffer())))
    with replacing(path) as temporary:
        temporary.write_bytes(file.getbuffer())


def _read_netcdf(path: Path) -> Fields:
    import h5py

    _check_seal(path)
    with h5py.File(path, "r") as file:
        return _from_arrays(file, path.stat().st_size)


def _seal(crc: int) -> bytes:
    """What stands behind the end of a NetCDF file, where HDF5 does not look and which it drops."""
    return b"vitoolkit %08x" % crc


def _check_seal(path: Path) -> None:
    """Refuse a damaged file of ours before HDF5 sees it, which loops for ever on some."""
    length, crc = len(_seal(0)), 0
    left = path.stat().st_size - length
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, 1 << 24))):
            crc, left = zlib.crc32(piece, crc), left - len(piece)
        seal = file.read()
    if seal.startswith(_seal(0)[:-8]) and seal != _seal(crc):
        raise _Refused("is damaged: its bytes are not those that were written")


def _write_zarr(trace: Table, path: Path) -> None:
    store = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
    if path.exists() and not store and (path.is_file() or any(path.iterdir())):
        raise FileExistsError(f"{str(path)!r} is not a Zarr store; it is not overwritten")
    dataset = to_xarray(trace)
    with replacing(path) as temporary:
        # Version 2 has metadata in one place and text in its standard; others read it as well.
        dataset.to_zarr(temporary, mode="w", zarr_format=2, consolidated=True)


def _read_zarr(path: Path) -> Fields:
    import zarr

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return _from_arrays(zarr.open_group(path, mode="r"), size)


def _from_arrays(group: Any, size: int) -> Fields:
    """Read the data set of `to_xarray`, also from among the draws of a fit."""
    if KEY not in group.attrs:
        if GROUP not in group or KEY not in group[GROUP].attrs:
            raise _not_a_trace()
        group = group[GROUP]
    description = _parse(np.asarray(group.attrs[KEY]).item())  # netCDF4 may put it in an array
    rows = math.prod(group["step"].shape)
    _check_size(description, rows, size)
    measures, controls = _measures_of(description), description["controls"]
    named = Table(description["variables"], parts=_parts_of(description), measures=measures)

    def numbers(name: str, *shape: int) -> NDArray[Any]:
        array = group[name]
        if array.shape != (rows, *shape):
            raise _Refused(
                f"is damaged: {name!r} has the shape {array.shape}, and had {(rows, *shape)}"
            )
        return np.asarray(array[...]).reshape(rows, math.prod(shape))

    terms = [numbers("data"), numbers("kl", len(named.variables))]
    for part, (name, _) in zip(named.parts.values(), _array_names(named), strict=True):
        terms.append(numbers(name, *part.shape))
    terms += [numbers(name) for name in measures]
    step, time, loss = (numbers(name)[:, 0] for name in ("step", "time", "loss"))
    control = numbers("controls", len(controls))
    return Fields(description, step, time, loss, np.concatenate(terms, axis=1), control)


# --- JSON and HTML ---------------------------------------------------------------------------


def _write_json(trace: Table, path: Path) -> None:
    content = _content(trace)
    columns: dict[str, Any] = {"step": trace.step.tolist()}
    for name in UNITS:
        columns[name] = _numbers(getattr(trace, name))
    columns["kl"] = {name: _numbers(column) for name, column in trace.kl.items()}
    columns["control"] = {name: _numbers(column) for name, column in trace.control.items()}
    columns["measure"] = {name: _numbers(column) for name, column in trace.measure.items()}
    columns["kl_by"] = {name: _nested(array) for name, array in trace.kl_by.items()}
    content |= {"units": {**UNITS, "kl": "nats", "kl_by": "nats"}, "columns": columns}
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, allow_nan=False)


def _numbers(column: NDArray[np.float64]) -> list[float | str]:
    numbers: list[float | str] = column.tolist()
    for i in np.flatnonzero(~np.isfinite(column)):
        value = column[i]
        numbers[i] = "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return numbers


def _nested(array: NDArray[np.float64]) -> list[Any]:
    numbers = np.empty(array.size, dtype=object)
    numbers[:] = _numbers(array.ravel())
    return numbers.reshape(array.shape).tolist()


def _read_json(path: Path) -> Fields:
    content = _parse(path.read_text(encoding="utf-8"))

    def column(numbers: list[float | str]) -> NDArray[np.float64]:
        return np.array([float(number) for number in numbers])

    columns = content.pop("columns")
    steps = np.array(columns["step"], dtype=np.int64)
    rows = len(steps)
    _check_size(content, rows, path.stat().st_size)
    kl = [column(columns["kl"][name]) for name in content["variables"]]
    control = [column(columns["control"][name]) for name in content["controls"]]
    time, loss, data = (column(columns[name]) for name in ("time", "loss", "data"))
    terms = [_stack([data, *kl], rows)]
    for part in _parts_of(content):
        numbers = np.array(columns["kl_by"][part.variable], dtype=object)
        terms.append(column(numbers.ravel().tolist()).reshape(rows, part.size))
    terms += [column(columns["measure"][name])[:, None] for name in _measures_of(content)]
    return Fields(content, steps, time, loss, np.hstack(terms), _stack(control, rows))


def _write_html(trace: Table, path: Path, **options: Any) -> None:
    from vitoolkit.views.report import write_report  # the one thing here that draws

    write_report(trace, path, **options)


# --- saving and opening ----------------------------------------------------------------------

#: Every kind of file, by the end of its name.
FORMATS: dict[str, Format] = {
    ".csv": Format("CSV", "every recorded step, for any program", _write_csv, _read_csv),
    ".parquet": Format(
        "Parquet",
        "every recorded step, small, for pandas, polars and R",
        _write_parquet,
        _read_parquet,
        ("pyarrow",),
    ),
    ".nc": Format(
        "NetCDF",
        "every recorded step, for xarray and ArviZ",
        _write_netcdf,
        _read_netcdf,
        ("h5netcdf", "h5py"),
    ),
    ".zarr": Format(
        "Zarr",
        "every recorded step, in a folder, for xarray",
        _write_zarr,
        _read_zarr,
        ("zarr",),
    ),
    ".json": Format("JSON", "every recorded step, for a program", _write_json, _read_json),
    ".html": Format(
        "HTML report",
        "these charts, to zoom and to read, in a file that needs no network",
        _write_html,
    ),
}


def save(trace: Table, path: str | Path, suffix: str | None = None, **options: Any) -> Path:
    """Write a file: see `Trace.save`.

    Parameters
    ----------
    trace : Table
        What to write; the rows of this moment.
    path : str or Path
        Where to.
    suffix : str, optional
        What the name has to end in. By default it tells the format.
    **options
        What the writer takes beside a trace and a path.

    Returns
    -------
    Path
        Where it was written.
    """
    path = Path(path).expanduser()
    wanted = path.suffix.lower() if suffix is None else suffix
    if wanted not in FORMATS:
        raise ValueError(
            f"the name tells the format, and {str(path)!r} tells none that is known. "
            f"Names that can be written end in {', '.join(FORMATS)}"
        )
    made = FORMATS[wanted]
    require(*made.packages, extra=made.extra)
    path = target(path, wanted)
    made.write(trace[:], path, **options)
    return path


def read(path: str | Path, build: Callable[[Fields], T]) -> T:
    """Read a file: see `Trace.open`.

    Parameters
    ----------
    path : str or Path
        The file.
    build : callable
        Makes a trace of `Fields`.

    Returns
    -------
    Table
        What was built, with the checksum of what was written.
    """
    path = Path(path).expanduser()
    accepted = ", ".join(suffix for suffix, made in FORMATS.items() if made.read)
    made = FORMATS.get(".html" if path.suffix.lower() == ".htm" else path.suffix.lower())
    if made is None:
        raise ValueError(
            f"the name tells the format, and {str(path)!r} tells none that is known. "
            f"Names that can be opened end in {accepted}"
        )
    if made.read is None:
        raise ValueError(
            f"{str(path)!r} is a report for people: it holds a decimated picture, not the trace. "
            f"Names that can be opened end in {accepted}"
        )
    there = found(path)
    if not there.exists():
        raise FileNotFoundError(f"there is no {str(path)!r}")
    require(*made.packages, extra=made.extra)
    try:
        fields = made.read(there)
        trace = build(fields)
        if fields.description.get("checksum", "") not in ("", _checksum(trace)):
            raise _Refused("is damaged: its checksum is not that of what was written")
    except _Refused as error:
        raise ValueError(f"{path} {error}") from error
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a parser of a damaged file may raise anything
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    return trace


def __getattr__(name: str) -> Any:
    """Names of before: what a trace's own methods do now."""
    trace = sys.modules.get("vitoolkit.trace")
    suffixes = {f"to_{word}": suffix for suffix, word in _WORDS.items()}
    if name in suffixes:
        return functools.partial(save, suffix=suffixes[name])
    if trace is not None and name == "open_trace":
        return trace.Trace.open
    if trace is not None and name == "READERS":
        return {suffix: trace.Trace.open for suffix, made in FORMATS.items() if made.read}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_WORDS = {
    ".csv": "csv", ".parquet": "parquet", ".nc": "netcdf", ".zarr": "zarr", ".json": "json",
    ".html": "html",
}  # fmt: skip
