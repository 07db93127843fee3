"""A trace as a data set, a data frame, a file or a report, and files as a trace again.

Every format holds one JSON text beside its columns: names, attributes and events, all that is not
a column. What a format cannot say in its own way (an absent value, a nested attribute) is there.
"""

import csv
import html
import importlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitoolkit.events import Event
from vitoolkit.parts import Part
from vitoolkit.trace import ACTIVE, GROUPS, NAMED, RESERVED, TAIL, Trace

if TYPE_CHECKING:
    import pandas
    import xarray
    from bokeh.plotting import figure

__all__ = [
    "READERS",
    "describe",
    "open_trace",
    "to_csv",
    "to_dataframe",
    "to_html",
    "to_json",
    "to_netcdf",
    "to_parquet",
    "to_xarray",
    "to_zarr",
]

FORMAT, VERSION = "vitoolkit trace", 1
KEY = "vitoolkit_trace"  # where a format keeps the description
FLOAT = "__float__"  # marks a number in an attribute that JSON has no number for
UNITS = {"time": "s", "loss": "nats", "data": "nats", "elbo": "nats"}
LONG_NAMES = {
    "time": "time since the trace began",
    "loss": "loss: what was minimized",
    "data": "data term",
    "elbo": "ELBO (β = 1)",
}


# --- what is not a column ----------------------------------------------------------------


def describe(trace: Trace) -> dict[str, Any]:
    """Return what a trace holds beside its columns, ready for JSON.

    Parameters
    ----------
    trace : Trace
        The trace.

    Returns
    -------
    dict
        Format and version, names of variables and controls, parts, attributes, events.

    Raises
    ------
    TypeError
        If an attribute has a value, or a key, that JSON cannot hold. The message names it.

    Examples
    --------
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
        "parts": [_plain(asdict(part), f"parts[{name!r}]") for name, part in trace.parts.items()],
        "attrs": _plain(trace.attrs, "attrs"),
        "events": [_plain(event._asdict(), f"events[{i}]") for i, event in enumerate(trace.events)],
    }


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist(), where)
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(float(value))}
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; the keys of attributes are strings")
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where} cannot be written: numbers, strings, True, False, None, lists and dicts of them "
        f"are accepted; received {type(value).__name__}: {value!r}"
    )


def _parse(text: str | bytes, path: Path) -> dict[str, Any]:
    """Read a description, or a whole JSON file that has one."""

    def revive(item: dict[str, Any]) -> Any:
        return float(item[FLOAT]) if item.keys() == {FLOAT} else item

    try:
        found = json.loads(text, object_hook=revive)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _not_a_trace(path)
    if found["version"] != VERSION:
        raise ValueError(
            f"{path} has version {found['version']} of the format; this vitoolkit reads {VERSION}"
        )
    return found


def _not_a_trace(path: Path) -> ValueError:
    return ValueError(f"{path} is not a trace that vitoolkit wrote: it has no {KEY!r}")


def _restore(
    description: dict[str, Any],
    step: ArrayLike,
    time: ArrayLike,
    loss: ArrayLike,
    terms: ArrayLike,
    control: ArrayLike,
) -> Trace:
    trace = Trace(
        description["variables"],
        description["controls"],
        parts=_parts_of(description),
        measures=_measures_of(description),
    )
    trace.extend(step, time, loss, terms, control)
    trace.attrs = description["attrs"]
    for event in description["events"]:
        trace.add_event(Event(**event))
    return trace


def _parts_of(description: dict[str, Any]) -> list[Part]:
    return [Part(**fields) for fields in description.get("parts", ())]  # the first files have none


def _measures_of(description: dict[str, Any]) -> list[str]:
    return description.get("measures", [])


def _stack(columns: Sequence[ArrayLike], rows: int) -> NDArray[np.float64]:
    """Put columns side by side, also if there is none."""
    if not columns:
        return np.empty((rows, 0))
    return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)


# --- writing without harm ------------------------------------------------------------------


def target(path: str | Path, suffix: str) -> Path:
    path = Path(path).expanduser()
    if path.suffix.lower() != suffix:
        raise ValueError(f"the name of the file must end in {suffix!r}; received {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path.name!r}: the folder {str(path.parent)!r} does not exist"
        )
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put what was written there in its place."""
    target = Path(os.path.realpath(path))  # a symbolic link keeps pointing where it did
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    aside = temporary.with_suffix(".old")
    try:
        yield temporary
        if temporary.is_dir() and target.exists():  # a folder cannot be replaced in one move
            os.replace(target, aside)
            try:
                os.replace(temporary, target)
            except BaseException:
                os.replace(aside, target)
                raise
            shutil.rmtree(aside)
        else:
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        raise


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"this format needs {package}, which cannot be imported ({error}). "
                'Install it with: pip install "vitoolkit[export]"'
            ) from error


# --- tables --------------------------------------------------------------------------------


def to_dataframe(trace: Trace) -> "pandas.DataFrame":
    """Copy a trace to a data frame: see `Trace.to_dataframe`."""
    import pandas as pd

    trace = trace[:]
    columns = {"time": trace.time, **dict(zip(trace.columns, trace.values().T, strict=True))}
    frame = pd.DataFrame(columns, index=pd.Index(trace.step, name="step"))
    others = {*trace.controls, *trace.measures}
    terms = [name for name in trace.columns if name not in others]
    units = {**UNITS, **dict.fromkeys(terms, "nats")}
    frame.attrs = {**trace.attrs, "units": units, "events": describe(trace)["events"]}
    return frame


def _from_table(
    columns: Mapping[str, ArrayLike], step: NDArray[np.int64], description: dict[str, Any]
) -> Trace:
    kl = [columns[f"kl[{name}]"] for name in description["variables"]]
    control = _stack([columns[name] for name in description["controls"]], len(step))
    parts = [columns[name] for part in _parts_of(description) for name in part.columns]
    measures = [columns[name] for name in _measures_of(description)]
    terms = _stack([columns["data"], *kl, *parts, *measures], len(step))
    return _restore(description, step, columns["time"], columns["loss"], terms, control)


def to_csv(trace: Trace, path: str | Path) -> Path:
    """Write a CSV file: see `Trace.to_csv`."""
    path, trace = target(path, ".csv"), trace[:]
    description = json.dumps(describe(trace))
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(f"# {KEY} {description}\n")
            to_dataframe(trace).to_csv(file, na_rep="nan", lineterminator="\n")
    return path


def _open_csv(path: Path) -> Trace:
    with path.open(encoding="utf-8", newline="") as file:
        mark, _, text = file.readline().removeprefix("# ").partition(" ")
        if mark != KEY:
            raise _not_a_trace(path)
        description = _parse(text, path)
        names = next(csv.reader(file), [])
        lines = list(file)
    # Not pandas: whether its parser is exact to the last bit depends on its version.
    table = np.empty((0, len(names)))
    if lines:
        table = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2)
    columns = dict(zip(names, table.T, strict=True))
    return _from_table(columns, columns["step"].astype(np.int64), description)


def to_parquet(trace: Trace, path: str | Path) -> Path:
    """Write a Parquet file: see `Trace.to_parquet`."""
    _require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, trace = target(path, ".parquet"), trace[:]
    description = json.dumps(describe(trace))
    frame = to_dataframe(trace)
    units = frame.attrs["units"]
    frame.attrs = {}  # the description holds them, whatever their type
    schema = pa.Schema.from_pandas(frame)  # lets pandas find its index again
    fields = [field.with_metadata({"units": units.get(field.name, "")}) for field in schema]
    schema = pa.schema(fields, metadata={**schema.metadata, KEY: description})
    # Column by column: from_pandas would turn NaN into null.
    columns = [frame.index if name == "step" else frame[name] for name in schema.names]
    table = pa.Table.from_arrays([pa.array(column.to_numpy()) for column in columns], schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
    return path


def _open_parquet(path: Path) -> Trace:
    _require("pyarrow")
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        table = pq.read_table(file)
    text = (table.schema.metadata or {}).get(KEY.encode())
    if text is None:
        raise _not_a_trace(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return _from_table(columns, columns["step"], _parse(text, path))


# --- data sets -----------------------------------------------------------------------------


def to_xarray(trace: Trace) -> "xarray.Dataset":
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
            **{name: ("step", trace.measure[name].copy()) for name in trace.measures},
        },
        coords={
            **coords,
            "step": ("step", trace.step.copy(), {"long_name": "optimization step"}),
            "time": along_step("time", trace.time),
            "variable": np.array(trace.variables, dtype=object),
            "control": np.array(trace.controls, dtype=object),
        },
        attrs={**_readable(trace.attrs), KEY: json.dumps(describe(trace))},
    )


def _array_names(trace: Trace) -> list[tuple[str, tuple[str, ...]]]:
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
    for key, value in _plain(attrs, "attrs").items():
        if not key.isidentifier():
            continue
        plain = (
            value.isprintable()
            if isinstance(value, str)
            else type(value) is float or (type(value) is int and abs(value) < 2**63)
        )
        readable[key] = value if plain else json.dumps(value)
    return readable


def _from_xarray(dataset: "xarray.Dataset", path: Path) -> Trace:
    if KEY not in dataset.attrs:
        raise _not_a_trace(path)
    description = _parse(dataset.attrs[KEY], path)
    data, kl = dataset["data"].values, dataset["kl"].values
    measures = _measures_of(description)
    named = Trace(description["variables"], parts=_parts_of(description), measures=measures)
    parts = [
        dataset[name].values.reshape(len(data), part.size)
        for part, (name, _) in zip(named.parts.values(), _array_names(named), strict=True)
    ]
    measured = [dataset[name].values[:, None] for name in measures]
    terms = np.concatenate([data[:, None], kl, *parts, *measured], axis=1)
    step, time, loss, control = (dataset[k].values for k in ("step", "time", "loss", "controls"))
    return _restore(description, step, time, loss, terms, control)


def to_netcdf(trace: Trace, path: str | Path) -> Path:
    """Write a NetCDF file: see `Trace.to_netcdf`."""
    _require("h5netcdf", "h5py")
    path = target(path, ".nc")
    dataset = to_xarray(trace)
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")
    return path


def _open_netcdf(path: Path) -> Trace:
    _require("h5netcdf", "h5py")
    import xarray as xr

    return _from_xarray(xr.load_dataset(path, engine="h5netcdf"), path)


def to_zarr(trace: Trace, path: str | Path) -> Path:
    """Write a Zarr store: see `Trace.to_zarr`."""
    _require("zarr")
    path = target(path, ".zarr")
    dataset = to_xarray(trace)
    store = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
    if path.exists() and not store and (path.is_file() or any(path.iterdir())):
        raise FileExistsError(f"{str(path)!r} is not a Zarr store; it is not overwritten")
    with replacing(path) as temporary:
        dataset.to_zarr(temporary, mode="w", consolidated=False)
    return path


def _open_zarr(path: Path) -> Trace:
    _require("zarr")
    import xarray as xr

    with xr.open_zarr(path, chunks=None, consolidated=False) as dataset:
        return _from_xarray(dataset.load(), path)


# --- JSON ----------------------------------------------------------------------------------


def to_json(trace: Trace, path: str | Path) -> Path:
    """Write a JSON file: see `Trace.to_json`."""
    path, trace = target(path, ".json"), trace[:]
    content = describe(trace)
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
    return path


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


def _open_json(path: Path) -> Trace:
    content = _parse(path.read_text(encoding="utf-8"), path)

    def column(numbers: list[float | str]) -> NDArray[np.float64]:
        return np.array([float(number) for number in numbers])

    columns = content["columns"]
    kl = [column(columns["kl"][name]) for name in content["variables"]]
    control = [column(columns["control"][name]) for name in content["controls"]]
    time, loss, data = (column(columns[name]) for name in ("time", "loss", "data"))
    steps = np.array(columns["step"], dtype=np.int64)
    rows = len(steps)
    terms = [_stack([data, *kl], rows)]
    for part in _parts_of(content):
        numbers = np.array(columns["kl_by"][part.variable], dtype=object)
        terms.append(column(numbers.ravel().tolist()).reshape(rows, part.size))
    terms += [column(columns["measure"][name])[:, None] for name in _measures_of(content)]
    return _restore(content, steps, time, loss, np.hstack(terms), _stack(control, rows))


# --- opening -------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Trace]] = {
    ".csv": _open_csv,
    ".parquet": _open_parquet,
    ".nc": _open_netcdf,
    ".zarr": _open_zarr,
    ".json": _open_json,
}


def open_trace(path: str | Path) -> Trace:
    """Read a trace back: see `Trace.open`."""
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    accepted = ", ".join(READERS)
    if suffix in (".html", ".htm"):
        raise ValueError(
            f"{str(path)!r} is a report for people: it holds a decimated picture, not the trace. "
            f"Names that can be opened end in {accepted}"
        )
    if suffix not in READERS:
        raise ValueError(
            f"the name tells the format, and {str(path)!r} tells none that is known. "
            f"Names that can be opened end in {accepted}"
        )
    if not path.exists():
        raise FileNotFoundError(f"there is no {str(path)!r}")
    return READERS[suffix](path)


# --- report --------------------------------------------------------------------------------

POINTS = 500  # points a line in the report
LISTED = 200  # events in the report's table and marks
BARS = 64  # coordinates of a part that the report draws
GRAY = "#8a8a8a"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1080px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.6em; margin: 0; } h2 { font-size: 1.15em; margin: 2em 0 .4em; }
p { margin: .3em 0; color: #555; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6em 0; }
th, td { text-align: left; padding: .25em 1.2em .25em 0; border-bottom: 1px solid #e4e4e4;
         vertical-align: top; }
th { font-weight: 600; }
"""


def to_html(trace: Trace, path: str | Path, *, title: str = "Variational fit") -> Path:
    """Write a report: see `Trace.to_html`."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    path, trace = target(path, ".html"), trace[:]
    description = describe(trace)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{html.escape(title)}</h1>{_table([], list(trace.summary().items()))}"
    if len(trace):
        sections = _sections(trace)
        script, places = components({heading: plot for heading, plot, _ in sections})
        for heading, _, note in sections:
            body += f"<h2>{html.escape(heading)}</h2><p>{html.escape(note)}</p>{places[heading]}"
        head += Resources(mode="inline", components=["bokeh"]).render()
        body += script
    else:
        body += "<p>No step was recorded, so there is nothing to plot.</p>"
    body += _event_section(trace.events)
    attrs = [(key, _text(value)) for key, value in description["attrs"].items()]
    body += f"<h2>Attributes</h2>{_table([], attrs)}"
    page = f"<!DOCTYPE html>\n<html lang=en><head>{head}</head><body>{body}</body></html>\n"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return path


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table; without a head, the first cell of each row is its heading."""

    def cells(tag: str, texts: Iterable[str]) -> str:
        return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)

    lines = [cells("th", head)] if head else []
    for first, *others in rows:
        lines.append(cells("td" if head else "th", [first]) + cells("td", others))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table>{body}</table></div>"


def _event_section(events: Sequence[Event]) -> str:
    if not events:
        return "<h2>Events</h2><p>None.</p>"
    head = ["first step", "time (s)", "what", "control", "old", "new", "source", "text"]
    rows = [
        [
            f"{e.step:,}",
            f"{e.time:,.2f}",
            e.kind,
            e.control or "",
            _say(e.old),
            _say(e.new),
            e.source,
            e.text or "",
        ]
        for e in events[:LISTED]
    ]
    note = f"<p>The first {LISTED} of {len(events):,}.</p>" if len(events) > LISTED else ""
    return f"<h2>Events</h2>{note}{_table(head, rows)}"


def _text(value: Any) -> str:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _say(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _sections(trace: Trace) -> list[tuple[str, "figure", str]]:
    """Make the plots of the report: heading, plot, and a line that says what it shows."""
    from bokeh.models import Range1d
    from bokeh.palettes import Category10

    view = trace.view(POINTS)
    steps = view.step.astype(float)
    rows = max(1, min(100, len(trace) // 20))
    running = view.running(rows)
    means = f"mean of {-(-rows // view.width) * view.width:,} rows"
    spread = f"smallest to largest of {view.width:,} rows" if view.width > 1 else "every row"
    first, last = float(trace.step[0]), float(trace.step[-1])
    x_range = Range1d(start=first, end=max(last, first + 1))
    colors = ["#222222" if color == "#7f7f7f" else color for color in Category10[NAMED]]
    sections = []

    def plot(label: str, **options: Any) -> "figure":
        return _plot(label, trace.events, x_range=x_range, **options)

    def curve(fig: "figure", values: NDArray[np.float64], **options: Any) -> Any:
        draw: Any = fig.line if len(steps) > 1 else fig.scatter  # one point makes no line
        return draw(steps, values, **options)

    def noisy(heading: str, name: str, label: str, color: str, note: str) -> None:
        low, high = view.low[name], view.high[name]
        bottom, top, cut = _frame(low, high)
        fig = plot(label, y_range=Range1d(start=bottom, end=top))
        if view.width > 1:
            band = fig.varea(steps, low, high, color=color, alpha=0.2)
        else:
            band = curve(fig, view.mean[name], color=color, alpha=0.4)
        line = curve(fig, running[name], color=color, line_width=2)
        _legend(fig, [(spread, [band]), (means, [line])])
        _hover(fig, [line], label)
        note += " The frame leaves out the first fall and rare extremes: drag to see them." * cut
        sections.append((heading, fig, note))

    noisy("Loss", "loss", "loss (nats)", colors[0], "What was minimized.")
    if trace.has_terms:
        note = "Data term minus KL, with β = 1 whatever β was in force; higher is better."
        noisy("ELBO", "elbo", "ELBO (nats)", colors[2], note)

        curves = {name: running[f"kl[{name}]"] for name in trace.variables}
        order = sorted(curves, key=lambda name: abs(_last_finite(curves[name])))
        bottom, top, _ = _frame(*[np.stack(list(curves.values()))] * 2)
        fig = plot("KL (nats)", y_range=Range1d(start=bottom, end=top))
        entries: list[tuple[str, list[Any]]] = []
        if len(order) > NAMED:
            entries.append((f"{len(order) - NAMED} more", []))
        for name in order[:-NAMED]:
            entries[0][1].append(curve(fig, curves[name], color=GRAY, alpha=0.5, name=name))
        for name, color in zip(order[-NAMED:], colors[: len(order)][::-1], strict=True):
            line = curve(fig, curves[name], color=color, line_width=2, name=name)
            entries.append((name, [line]))
        _legend(fig, entries[::-1])
        _hover(fig, [line for _, lines in entries for line in lines], "KL (nats)", named=True)
        note = f"What each variable pays, not multiplied by β; {means}."
        sections.append(("KL by variable", fig, note))
        sections += _part_sections(trace, colors[0])
    for name in trace.controls:
        low, high = view.low[name], view.high[name]
        log = bool((low > 0).all() and high.max() > 30 * low.min())
        fig = plot(name, height=200, y_axis_type="log" if log else "linear")
        _hover(fig, [curve(fig, view.last[name], color="#333333", line_width=2)], name)
        sections.append((f"Control: {name}", fig, "The value that each step used."))
    return sections


def _part_sections(trace: Trace, color: str) -> list[tuple[str, "figure", str]]:
    """Make a bar plot for each of the first parts that are small enough to be read."""
    from bokeh.models import ColumnDataSource, FactorRange, HoverTool
    from bokeh.plotting import figure

    sections = []
    rows, active, means = min(len(trace), TAIL), trace.active_units(), trace._part_means()
    few = [part for part in trace.parts.values() if 0 < part.size <= BARS]
    for part in few[:NAMED]:
        shown = part.dims[0] if len(part.dims) == 1 else "coordinate"
        # Factors of Bokeh differ: the labels of a part do.
        labels = [label.removeprefix(f"{shown}=") for label in part.labels]
        fig = figure(
            x_range=FactorRange(factors=labels),
            x_axis_label=shown,
            y_axis_label="KL (nats)",
            height=300,
            sizing_mode="stretch_width",
            tools="save",
        )
        bars = ColumnDataSource({"x": labels, "kl": means[part.variable].ravel()})
        drawn = fig.vbar("x", 0.8, "kl", source=bars, color=color)
        fig.add_tools(HoverTool(renderers=[drawn], tooltips=[(shown, "@x"), ("KL (nats)", "@kl")]))
        fig.toolbar.logo = None
        fig.grid.grid_line_alpha = 0.5
        fig.xgrid.grid_line_color = None
        fig.outline_line_color = None
        fig.min_border_left = 80
        if max(map(len, labels)) * len(labels) > 100:
            fig.xaxis.major_label_orientation = "vertical"
        note = (
            f"Not multiplied by β; mean of the last {rows:,} row{'s' * (rows > 1)}. Above {ACTIVE} "
            f"nats of the full data set: {active[part.variable]} of {part.size}."
        )
        by = ", ".join(part.dims) or "coordinate"
        sections.append((f"KL of {part.variable} by {by}", fig, note))
    return sections


def _plot(label: str, events: Sequence[Event], **options: Any) -> "figure":
    from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, NumeralTickFormatter
    from bokeh.plotting import figure

    fig = figure(
        x_axis_label="step",
        y_axis_label=label,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,xwheel_zoom,reset,save",
        active_scroll=None,
        **{"height": 300, **options},
    )
    fig.toolbar.logo = None
    fig.xaxis.formatter = NumeralTickFormatter(format="0,0")
    fig.xaxis.ticker = BasicTicker(min_interval=1)
    fig.grid.grid_line_alpha = 0.5
    fig.outline_line_color = None
    fig.min_border_left = 80  # the plots' left edges stand below each other
    if events:
        shown = events[:LISTED]
        what = [
            " ".join(
                part for part in (e.kind, e.control, _say(e.new), e.text, f"by {e.source}") if part
            )
            for e in shown
        ]
        marks = ColumnDataSource({"x": [e.step for e in shown], "what": what})
        spans = fig.vspan("x", source=marks, line_color=GRAY, line_dash="dashed")
        tips = [("step", "@x{0,0}"), ("event", "@what")]
        fig.add_tools(HoverTool(renderers=[spans], tooltips=tips))
    return fig


def _legend(fig: "figure", entries: list[tuple[str, list[Any]]]) -> None:
    from bokeh.models.annotations import Legend

    legend = Legend()
    legend.update(items=entries, ncols=6, click_policy="hide", border_line_color=None)
    legend.update(margin=0, spacing=16, label_standoff=6)
    fig.add_layout(legend, "above")


def _hover(fig: "figure", lines: list[Any], label: str, *, named: bool = False) -> None:
    from bokeh.models import HoverTool

    tips = [("step", "@x{0,0}"), (label, "@y")]
    if named:
        tips.insert(0, ("variable", "$name"))
    fig.add_tools(HoverTool(renderers=lines, tooltips=tips, mode="mouse" if named else "vline"))


def _last_finite(column: NDArray[np.float64]) -> float:
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else 0.0


def _frame(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[float, float, bool]:
    """Choose limits that show the fit's course, not only its first fall; tell if that cuts."""
    late = slice(low.shape[-1] // 10, None)
    lows, highs = low[..., late], high[..., late]
    lows, highs = lows[np.isfinite(lows)], highs[np.isfinite(highs)]
    if not len(lows):
        return 0.0, 1.0, False
    bottom, top = float(np.nanmin(low)), float(np.nanmax(high))
    near, far = float(np.quantile(lows, 0.01)), float(np.quantile(highs, 0.99))
    cut = top - bottom > 4 * (far - near) > 0
    if cut:
        bottom, top = near, far
    margin = 0.08 * (top - bottom) or 0.05 * abs(top) or 1.0
    return bottom - margin, top + margin, cut
