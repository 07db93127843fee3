import builtins
import csv
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import vitoolkit as vt
from vitoolkit import export, files
from vitoolkit.events import Event
from vitoolkit.parts import Part
from vitoolkit.trace import Trace

NEEDS = {
    "csv": [],
    "json": [],
    "parquet": ["pyarrow"],
    "nc": ["h5netcdf", "h5py"],
    "zarr": ["zarr"],
}
METHODS = {name: getattr(Trace, f"to_{name}") for name in NEEDS if name != "nc"}
METHODS["nc"] = Trace.to_netcdf
PLAIN = ["csv", "json", "parquet", "nc"]  # those that are one file

ATTRS = {
    "method": "advi",
    "none": None,
    "flags": [True, False],
    "beyond int64": 2**70,
    "large": 1e300,
    "limits": {"low": float("-inf"), "high": [float("inf")]},
    "empty": "",
    "nothing": [],
    "odd text": 'line\nbreak, "quote", \x00, \udc80, β',
    "a/b": 0.1,
    "β": "unicode",
}
EVENTS = [
    Event(0, 0.0, "set", "beta", 1.0, 4.0, "user"),
    Event(3, 0.1 + 0.2, "release", "β, x", -0.0, None, "code"),
    Event(3, float("inf"), 'odd "kind"\n', None, float("-inf"), float("inf"), "<b>"),
    Event(4, 0.5, "note", None, None, None, "user", 'β, "z"\n collapses <i>\x00'),
    Event(5, 0.6, "reschedule", "beta", 1.0, 2.0, "user", "linear(0.0, 2.0, steps=9)"),
]
NAMES = [
    ((), ()),
    (("z",), ()),
    ((), ("beta",)),
    (("beta", "time", "w[0, 1]", "μ β", ' a,"b"\n#'), ("beta", "learning rate", "γ[1]", "#c")),
]
PARTS = {
    "labels": [Part("z", ("latent",), (3,), {"latent": ["a", 'b, "c"', "μ\n"]})],
    "two of one dim": [
        Part("z", ("latent",), (2,), {"latent": [3, -1]}),
        Part("w", ("row", "latent"), (3, 2), {"latent": [3, -1]}),
    ],
    "names taken": [
        Part("z", ("step", "time", "variable"), (2, 1, 2), {"step": [0.5, float("inf")]}),
        Part("w", ("kl_by_z", "z_step", "loss"), (1, 2, 1), {"loss": [1]}),
    ],
    "one dim, two meanings": [
        Part("z", ("row",), (2,), {"row": [0, 1]}),
        Part("w", ("row",), (3,), {"row": [0, 1, 2]}),
    ],
    "odd names": [
        Part("a/b", ("x/y",), (2,), {"x/y": [1, "1"]}),
        Part("a:b", ("x:y",), (2,), {"x:y": [2**70, 0.1]}),
    ],
    "scalar and nothing": [Part("z", (), ()), Part("w", ("empty",), (0,), {"empty": []})],
}


@pytest.fixture(params=NEEDS)
def kind(request):
    for package in NEEDS[request.param]:
        pytest.importorskip(package)
    return request.param


def write(trace, kind, folder):
    return METHODS[kind](trace, folder / f"fit.{kind}")


def odd_trace(variables, controls, rows, seed=0, parts=(), measures=()):
    """Numbers of every bit pattern, so of every size, among them NaN, infinities and -0.0."""
    rng = np.random.default_rng(seed)
    split = 3 + len(variables) + sum(part.size for part in parts) + len(measures)
    bits = rng.integers(0, 2**64, (rows, split + len(controls)), dtype=np.uint64)
    numbers = bits.view(float)
    for value in (np.nan, np.inf, -np.inf, -0.0, 5e-324):
        numbers[rng.random(numbers.shape) < 0.05] = value
    trace = Trace(variables, controls, ATTRS, parts, measures)
    trace.extend(
        np.cumsum(rng.integers(1, 1000, rows)),
        numbers[:, 0],
        numbers[:, 1],
        numbers[:, 2:split],
        numbers[:, split:],
    )
    for event in EVENTS:
        trace.add_event(event)
    return trace


@pytest.fixture
def trace():
    return odd_trace(("z", "w"), ("beta",), 20)


@pytest.fixture
def plain():
    """Numbers that a plot can show."""
    trace = Trace(("z", "<w>"), ("beta",))
    for step in range(30):
        trace.append(step, 0.1 * step, 50.0 - step, -9.0, [1.0, 2.0], [0.1 * step])
    trace.add_event(Event(7, 0.7, "set", "beta", 0.6, 0.7, "user"))
    return trace


# --- reading back -------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 300])
@pytest.mark.parametrize("names", NAMES)
def test_reads_back_equal(kind, names, rows, tmp_path):
    trace = odd_trace(*names, rows)
    back = Trace.open(write(trace, kind, tmp_path))
    assert back.equals(trace)
    assert back.attrs == trace.attrs
    assert back.events == trace.events
    assert (back.variables, back.controls) == names
    for name in ("step", "time", "loss", "data", "elbo"):
        np.testing.assert_array_equal(getattr(back, name), getattr(trace, name), strict=True)


@pytest.mark.parametrize("rows", [0, 1, 50])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_read_back_equal(kind, parts, rows, tmp_path):
    trace = odd_trace(tuple(part.variable for part in parts), ("beta",), rows, parts=parts)
    back = Trace.open(write(trace, kind, tmp_path))
    assert back.equals(trace)
    assert list(back.parts) == list(trace.parts)
    assert back.columns == trace.columns
    for name, array in trace.kl_by.items():
        assert array.shape == (rows, *trace.parts[name].shape)
        np.testing.assert_array_equal(back.kl_by[name], array, strict=True)
    assert back.parts == trace.parts


@pytest.mark.parametrize("rows", [0, 9])
def test_measures_read_back_equal(kind, rows, tmp_path):
    measures = ("gradient_norm", "gradient_snr")
    trace = odd_trace(("z",), ("beta",), rows, parts=PARTS["labels"], measures=measures)
    back = Trace.open(write(trace, kind, tmp_path))
    assert back.equals(trace) and back.measures == measures and back.columns == trace.columns
    for name in measures:
        np.testing.assert_array_equal(back.measure[name], trace.measure[name], strict=True)
    assert not back.equals(odd_trace(("z",), ("beta",), rows, parts=PARTS["labels"]))


def write_version_1(trace, kind, path):
    """Write a file as the first versions did: no row count, checksum or branches."""
    dataset, frame = trace.to_xarray(), trace.to_dataframe()
    description = json.loads(dataset.attrs[export.KEY])
    for later in ("rows", "checksum", "branches"):
        del description[later]
    description["version"] = 1
    dataset.attrs[export.KEY] = text = json.dumps(description)
    if kind == "csv":
        with path.open("w", newline="") as file:
            file.write(f"# vitoolkit_trace {text}\n")
            frame.to_csv(file, na_rep="nan", lineterminator="\n")
    elif kind == "json":
        trace.to_json(path)
        columns = json.loads(path.read_text())["columns"]
        path.write_text(json.dumps({**description, "columns": columns}))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        frame.attrs = {}
        table = pa.Table.from_pandas(frame, preserve_index=True)
        metadata = {**table.schema.metadata, "vitoolkit_trace": text}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    elif kind == "nc":
        dataset.to_netcdf(path, engine="h5netcdf")
    else:
        dataset.to_zarr(path, zarr_format=3, consolidated=False)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Zarr 3, about text
def test_files_of_version_1_are_opened(kind, tmp_path):
    trace = odd_trace(('z"', "w"), ("a,b\n", "=c"), 20, parts=[Part('z"', ("k",), (2,))])
    path = tmp_path / f"fit.{kind}"
    write_version_1(trace, kind, path)
    assert Trace.open(path).equals(trace)


@pytest.mark.parametrize("kind", ["csv", "json"], indirect=True)
def test_files_from_before_there_were_parts(kind, plain, tmp_path):
    path = tmp_path / f"fit.{kind}"
    write_version_1(plain, kind, path)
    text = path.read_text(encoding="utf-8")
    older = text.replace('"measures": [], "parts": [], ', "", 1).replace(', "kl_by": {}', "", 1)
    assert len(older) < len(text) and "parts" not in older
    path.write_text(older, encoding="utf-8")
    assert Trace.open(path).equals(plain)


@pytest.mark.parametrize("parts", [(), PARTS["labels"]])
def test_branches_read_back_equal(kind, parts, tmp_path):
    trace = odd_trace(("z",), ("beta",), 30, parts=parts, measures=("norm",))
    first = trace.cut(trace.step[20])
    terms = np.ones((2, 3 + sum(part.size for part in parts)))
    trace.extend([trace.step[-1] + 1, 10**6], [0, 1], [0, 1], terms, [[1], [2]])
    second = trace.cut(10**6)
    back = Trace.open(write(trace, kind, tmp_path))
    assert back.equals(trace)
    for branch, wanted in zip(back.branches, (first, second), strict=True):
        assert branch[:2] == wanted[:2] and branch.rows.columns == trace.columns
        np.testing.assert_array_equal(branch.rows.step, wanted.rows.step)
        np.testing.assert_array_equal(branch.rows.values(), wanted.rows.values())
    back.append(10**6, 0.0, 0.0, 0.0, [1.0], [1.0], [1.0] * (terms.shape[1] - 3), [1.0])


def test_steps_beyond_the_floats_read_back(kind, tmp_path):
    trace = Trace(controls=("beta",))
    for step in (0, 2**53 + 1, 2**62 + 1):
        trace.append(step, 0.0, 0.0, 0.0, (), [1.0])
    assert Trace.open(write(trace, kind, tmp_path)).step.tolist() == [0, 2**53 + 1, 2**62 + 1]


def test_attributes_that_look_like_a_mark(kind, tmp_path):
    attrs = {"a": {"__float__": "1.5"}, "b": {"__float__": {"__float__": [1]}}, "c": [np.inf]}
    trace = Trace(attrs=attrs)
    back = Trace.open(write(trace, kind, tmp_path))
    assert back.attrs == trace.attrs and back.equals(trace)


def test_reading_back_goes_on(kind, plain, tmp_path):
    back = Trace.open(write(plain, kind, tmp_path))
    back.append(30, 3.0, 1.0, -9.0, [1.0, 2.0], [0.5])
    assert back[:30].equals(plain)


def test_nan_in_attributes_and_events(kind, tmp_path):
    trace = Trace(attrs={"x": [float("nan"), np.float32(0.1), np.arange(3)]})
    trace.add_event(Event(0, 0.0, "set", "beta", float("nan"), np.float64(0.1)))
    back = Trace.open(write(trace, kind, tmp_path))
    assert back.equals(trace)
    assert np.isnan(back.attrs["x"][0]) and np.isnan(back.events[0].old)
    assert back.attrs["x"][1:] == [float(np.float32(0.1)), [0, 1, 2]]


def test_many_events(kind, tmp_path):
    """HDF5 limits small attributes to 64 kB."""
    trace = Trace(controls=("beta",))
    for i in range(3000):
        trace.add_event(Event(i, 0.1 * i, "set", "beta", 0.1 * i, 0.1 * (i + 1), "rule"))
    assert Trace.open(write(trace, kind, tmp_path)).events == trace.events


def test_overwrites(kind, trace, plain, tmp_path):
    write(trace, kind, tmp_path)
    path = write(plain, kind, tmp_path)
    assert Trace.open(path).equals(plain)
    assert os.listdir(tmp_path) == [path.name]


def test_part_of_a_growing_trace(kind, plain, tmp_path):
    part = plain[3:20:2]
    assert Trace.open(write(part, kind, tmp_path)).equals(part)


def test_paths(kind, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert METHODS[kind](plain, f"~/home.{kind}") == tmp_path / f"home.{kind}"
    assert Trace.open(f"~/home.{kind}").equals(plain)
    METHODS[kind](plain, f"here.{kind}")
    assert Trace.open(f"here.{kind}").equals(plain)
    METHODS[kind](plain, f"UPPER.{kind.upper()}")
    assert Trace.open(f"UPPER.{kind.upper()}").equals(plain)


# --- what others read ----------------------------------------------------------------------


def test_dataframe(plain):
    frame = plain.to_dataframe()
    assert frame.index.name == "step" and frame.index.tolist() == list(range(30))
    columns = ["time", "loss", "data", "elbo", "kl[z]", "kl[<w>]", "beta"]
    assert list(frame.columns) == columns
    assert set(frame.dtypes) == {np.dtype(float)}
    assert frame["elbo"].tolist() == [-12.0] * 30
    assert frame.attrs["units"] == {"time": "s"} | {name: "nats" for name in columns[1:6]}
    assert frame.attrs["created"] == plain.attrs["created"]
    assert frame.attrs["events"][0]["new"] == 0.7


def test_xarray(plain):
    dataset = plain.to_xarray()
    assert dataset["loss"].dims == dataset["data"].dims == dataset["elbo"].dims == ("step",)
    assert dataset["kl"].dims == ("step", "variable")
    assert dataset["controls"].dims == ("step", "control")
    assert dataset["kl"].sel(variable="<w>", step=4).item() == 2.0
    assert dataset["controls"].sel(control="beta", step=4).item() == 0.4
    for name in ("loss", "data", "elbo", "kl"):
        assert dataset[name].attrs["units"] == "nats"
    assert dataset["time"].attrs["units"] == "s" and "time" in dataset.coords
    assert dataset.attrs["created"] == plain.attrs["created"]
    assert json.loads(dataset.attrs["versions"]) == plain.attrs["versions"]


def test_where_q_stood_reads_back_and_is_arrays_in_xarray(kind, plain, tmp_path):
    plain.attrs["q"] = {
        "step": 30,
        "name": ["z", "<w>[a]"],
        "posterior": [[-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]],
        "prior": [[np.nan] * 3, [-1.0, 0.0, 1.0]],
        "moved": [0.1, 2.0],
    }
    assert Trace.open(write(plain, kind, tmp_path)).equals(plain)
    dataset = plain.to_xarray()
    assert dataset.q.dims == dataset.prior.dims == ("coordinate", "end")
    assert float(dataset.q.sel(coordinate="<w>[a]", end="high")) == 2.0
    assert np.isnan(dataset.prior.sel(coordinate="z")).all()
    assert dataset.moved.values.tolist() == [0.1, 2.0] and "q" not in dataset.attrs
    plain.attrs["q"]["prior"] = None
    assert "prior" not in plain.to_xarray()


@pytest.fixture
def taken_apart():
    """A trace with parts that add up to the contributions."""
    parts = [
        Part("z", ("latent",), (3,), {"latent": ["a", "b", "c"]}),
        Part("w", ("step", "latent"), (2, 3), {"latent": ["a", "b", "c"]}),
    ]
    trace = Trace(("z", "w"), ("beta",), parts=parts)
    for step in range(4):
        z, w = np.array([2.0, 0.0, 1.0]) + step, np.arange(6.0)
        terms = [z.sum(), w.sum()]
        trace.append(step, 0.1 * step, 9.0, -9.0, terms, [1.0], np.concatenate([z, w]))
    return trace


def test_parts_in_the_dataframe(taken_apart):
    frame = taken_apart.to_dataframe()
    z = [f"kl[z, latent={label}]" for label in "abc"]
    w = [f"kl[w, step={i}, latent={label}]" for i in range(2) for label in "abc"]
    columns = ["time", "loss", "data", "elbo", "kl[z]", "kl[w]", *z, *w, "beta"]
    assert list(frame.columns) == columns
    np.testing.assert_array_equal(frame[z].sum(axis=1), frame["kl[z]"])
    assert frame["kl[w, step=1, latent=b]"].tolist() == [4.0] * 4
    assert frame.attrs["units"] == {"time": "s"} | dict.fromkeys(columns[1:-1], "nats")


def test_parts_in_xarray(taken_apart):
    dataset = taken_apart.to_xarray()
    z, w = dataset["kl_by_z"], dataset["kl_by_w"]
    assert z.dims == ("step", "latent") and w.dims == ("step", "w_step", "latent")
    assert dataset["latent"].values.tolist() == ["a", "b", "c"]
    assert z.sel(step=3, latent="c").item() == 4.0
    assert w.isel(w_step=1).sel(step=3, latent="b").item() == 4.0
    assert "w_step" not in dataset.coords  # the model has no labels for it
    for array in (z, w):
        assert array.attrs["units"] == "nats"
    assert w.attrs["variable"] == "w"
    xr.testing.assert_allclose(
        z.sum("latent"), dataset["kl"].sel(variable="z", drop=True), check_dim_order=False
    )
    z[:] = 0.0
    assert taken_apart.kl_by["z"][0, 0] == 2.0


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ("labels", {"kl_by_z": ("latent",)}),
        ("two of one dim", {"kl_by_z": ("latent",), "kl_by_w": ("row", "latent")}),
        (
            "names taken",
            {
                "kl_by_z": ("z_step", "z_time", "z_variable"),
                "kl_by_w": ("w_kl_by_z", "w_z_step", "w_loss"),
            },
        ),
        ("one dim, two meanings", {"kl_by_z": ("row",), "kl_by_w": ("w_row",)}),
        ("odd names", {"kl_by_a_b": ("x_y",), "kl_by_a_b_": ("a_b_x_y",)}),
        ("scalar and nothing", {"kl_by_z": (), "kl_by_w": ("empty",)}),
    ],
)
def test_names_in_xarray(parts, names):
    parts = PARTS[parts]
    dataset = odd_trace([part.variable for part in parts], (), 3, parts=parts).to_xarray()
    assert {name: dataset[name].dims for name in names} == {
        name: ("step", *dims) for name, dims in names.items()
    }
    assert len(dataset.data_vars) == 5 + len(names)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([2, -1], "i"), ([0.5, float("nan")], "f"), (["b", "a"], "O"), ([2**64, 1], "O")],
)
def test_labels_have_one_type(labels, kind):
    part = Part("z", ("latent",), (2,), {"latent": labels})
    values = Trace(("z",), parts=[part]).to_xarray()["latent"].values
    assert values.dtype.kind == kind
    wanted = [str(label) for label in labels] if kind == "O" else labels
    np.testing.assert_array_equal(values, np.array(wanted, dtype=values.dtype))


def test_copies_do_not_follow_the_trace(plain):
    frame, dataset = plain.to_dataframe(), plain.to_xarray()
    frame.iloc[:, :] = 0.0
    dataset["loss"][:] = 0.0
    dataset["kl"][:] = 0.0
    assert plain.loss[0] == 50.0 and plain.kl["z"][0] == 1.0


def test_pandas_reads_the_csv(plain, tmp_path):
    frame = pd.read_csv(plain.to_csv(tmp_path / "fit.csv"))
    wanted = plain.to_dataframe().reset_index()
    assert list(frame.columns) == [*wanted.columns, "vitoolkit_trace"]
    pd.testing.assert_frame_equal(frame[wanted.columns], wanted, check_flags=False, rtol=1e-15)


@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_the_csv_is_a_table(rows, tmp_path):
    """As many rows as were recorded, numbers in every column, also beside very many events."""
    trace = odd_trace(('z"', "a\nb"), ("beta", "=1+1"), rows)
    for i in range(1000):
        trace.add_event(Event(i, 0.1, "note", text='=cmd|"/c calc"!A1, ' * 5))
    path = trace.to_csv(tmp_path / "fit.csv")
    frame = pd.read_csv(path)
    *numbers, last = frame.columns
    assert len(frame) == rows and last.startswith("vitoolkit_trace")
    assert numbers[0] == "step" and frame["step"].tolist() == trace.step.tolist()
    if rows:
        assert {dtype.kind for dtype in frame[numbers].dtypes} <= {"i", "f"}
        np.testing.assert_allclose(frame[numbers[1:]], trace.to_dataframe(), rtol=1e-14)
        cells = frame[last].dropna()
        assert cells.str.len().max() < 32_767 or len(cells) == rows
        assert frame[last].isna().sum() == max(rows - 8, 0) or len(cells) == rows
    assert Trace.open(path).equals(trace)


def test_a_spreadsheet_runs_nothing(tmp_path):
    names = ("=1+1", "+a", "-b", "@c", "\td", "'e", "'=1+1", "f=1", "vitoolkit_trace")
    trace = Trace(("z",), names, measures=("=2",))
    for step in range(30):
        trace.append(step, 0.0, -1.0, 1.0, [1.0], range(9), (), [2.0])
    for i in range(3000):
        trace.add_event(Event(i, 0.0, "note", text="=1," * 40))
    path = trace.to_csv(tmp_path / "fit.csv")
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    cells = [*head, *(cell for row in rows for cell in row)]
    numbers = re.compile(r"-?[0-9.e+-]+")
    assert not [c for c in cells if c.startswith(tuple("=+-@\t\r")) and not numbers.fullmatch(c)]
    assert sum(bool(row[-1]) for row in rows) > 3  # in more cells than one
    back = Trace.open(path)
    assert back.equals(trace) and back.controls == names


def test_pandas_reads_the_parquet_file(plain, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    path = plain.to_parquet(tmp_path / "fit.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(path), plain.to_dataframe())
    assert pq.read_schema(path).names == ["step", *plain.to_dataframe().columns]
    assert pq.read_schema(path).field("loss").metadata == {b"units": b"nats"}


def test_parquet_keeps_nan_apart_from_null(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    trace = Trace()
    trace.append(0, 0.0, 1.0, np.nan)
    assert pq.read_table(trace.to_parquet(tmp_path / "fit.parquet"))["elbo"].null_count == 0


@pytest.mark.parametrize("kind", ["nc", "zarr"], indirect=True)
@pytest.mark.filterwarnings("error")
def test_xarray_reads_the_data_set(kind, plain, tmp_path):
    path = write(plain, kind, tmp_path)
    with xr.open_dataset(path, engine="h5netcdf" if kind == "nc" else "zarr") as dataset:
        xr.testing.assert_identical(dataset.load(), plain.to_xarray())
    assert Trace.open(path).equals(plain)


@pytest.mark.parametrize("kind", ["nc", "zarr"], indirect=True)
def test_the_trace_among_the_draws_of_a_fit(kind, trace, tmp_path):
    draws = xr.Dataset({"z": (("chain", "draw"), np.zeros((1, 5)))})
    tree = xr.DataTree.from_dict({"posterior": draws, "variational_trace": trace.to_xarray()})
    path = tmp_path / f"posterior.{kind}"
    if kind == "nc":
        tree.to_netcdf(path, engine="h5netcdf")
    else:
        tree.to_zarr(path, zarr_format=2)
    assert Trace.open(path).equals(trace)
    xr.DataTree.from_dict({"posterior": draws}).to_netcdf(tmp_path / "none.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="none.nc is not a trace"):
        Trace.open(tmp_path / "none.nc")


def test_a_saved_sample_opens_as_the_trace_of_its_fit(tmp_path):
    """InferenceData of ArviZ 0 with PyMC 5, a DataTree with PyMC 6."""
    with pm.Model(coords={"k": ["a", "b"]}):
        z = pm.Normal("z", dims="k")
        pm.Normal("y", z, 0.5, observed=[0.2, 1.1])
        options = {"compile_kwargs": {"mode": "FAST_COMPILE"}, "progressbar": False}
        fit = vt.fit(20, dashboard=False, random_seed=1, **options)
    fit.sample(10).to_netcdf(tmp_path / "posterior.nc")
    assert Trace.open(tmp_path / "posterior.nc").equals(fit.trace)


def test_a_store_that_was_set_aside_is_opened(plain, tmp_path):
    path = plain.to_zarr(tmp_path / "fit.zarr")
    aside = tmp_path / f".fit.zarr.{files._host()}-{2**40}-0123abcd.old"
    path.rename(aside)
    assert Trace.open(path).equals(plain)
    assert os.listdir(tmp_path) == ["fit.zarr"]


def test_json_is_valid_and_plain(trace, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    path = trace.to_json(tmp_path / "fit.json")
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    loss = np.array([float(number) for number in content["columns"]["loss"]])
    np.testing.assert_array_equal(loss, trace.loss)
    assert content["units"]["elbo"] == "nats"


# --- what goes wrong -----------------------------------------------------------------------


def failing_writer(kind, monkeypatch, error):
    """Let the library's own writer do its work, then fail."""
    targets = {
        "csv": (pd.DataFrame, "to_csv"),
        "json": (json, "dump"),
        "nc": (xr.Dataset, "to_netcdf"),
        "zarr": (xr.Dataset, "to_zarr"),
    }
    if kind == "parquet":
        import pyarrow.parquet

        targets["parquet"] = (pyarrow.parquet, "write_table")
    owner, name = targets[kind]
    real = getattr(owner, name)

    def writer(*args, **kwargs):
        real(*args, **kwargs)
        raise error

    monkeypatch.setattr(owner, name, writer)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_a_failed_write_changes_nothing(kind, there, error, trace, plain, tmp_path, monkeypatch):
    if there:
        write(plain, kind, tmp_path)
    before = os.listdir(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        failing_writer(kind, patch, error)
        write(trace, kind, tmp_path)
    assert os.listdir(tmp_path) == before
    if there:
        assert Trace.open(tmp_path / before[0]).equals(plain)


@pytest.mark.parametrize(
    ("kind", "failing"),
    [*((kind, 1) for kind in NEEDS), ("zarr", 2)],  # a folder is replaced in two moves
    indirect=["kind"],
)
def test_a_failed_move_changes_nothing(kind, failing, trace, plain, tmp_path, monkeypatch):
    path = write(plain, kind, tmp_path)
    moves = []
    replace = os.replace

    def move(source, target):
        if Path(target).parent == tmp_path:  # Zarr moves files of its own, inside
            moves.append(target)
        if len(moves) == failing:
            raise PermissionError("in use")
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(os, "replace", move)
        write(trace, kind, tmp_path)
    assert os.listdir(tmp_path) == [path.name]
    assert Trace.open(path).equals(plain)


def test_attributes_that_json_cannot_hold_are_named(kind, plain, tmp_path):
    plain.attrs["deep"] = {"list": [1, object()]}
    with pytest.raises(TypeError, match=re.escape("attrs['deep']['list'][1]") + ".*object"):
        write(plain, kind, tmp_path)
    plain.attrs["deep"] = {1: 2}
    with pytest.raises(TypeError, match=r"attrs\['deep'\] has the key 1"):
        write(plain, kind, tmp_path)
    assert os.listdir(tmp_path) == []


def test_missing_folder(kind, plain, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.*does not exist"):
        write(plain, kind, tmp_path / "absent")


def test_wrong_suffix(kind, plain, tmp_path):
    with pytest.raises(ValueError, match=rf"must end in '\.{kind}'; received .*fit\.txt"):
        METHODS[kind](plain, tmp_path / "fit.txt")


def test_a_folder_is_not_replaced(kind, plain, tmp_path):
    folder = tmp_path / f"fit.{kind}"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    with pytest.raises(OSError, match=f"fit.{kind}"):
        write(plain, kind, tmp_path)
    assert (folder / "precious.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == [folder.name]


def test_zarr_does_not_replace_a_file(plain, tmp_path):
    pytest.importorskip("zarr")
    (tmp_path / "fit.zarr").write_text("mine")
    with pytest.raises(FileExistsError, match="not a Zarr store"):
        write(plain, "zarr", tmp_path)
    assert (tmp_path / "fit.zarr").read_text() == "mine"


def test_links_and_permissions_stay(plain, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.csv", tmp_path / "link.csv"
    plain[:3].to_csv(target)
    target.chmod(0o640)
    link.symlink_to(target)
    plain.to_csv(link)
    assert link.is_symlink() and Trace.open(target).equals(plain)
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path / "there") == ["real.csv"]


@pytest.mark.parametrize(
    ("suffix", "package"),
    [("parquet", "pyarrow"), ("nc", "h5netcdf"), ("nc", "h5py"), ("zarr", "zarr")],
)
def test_missing_package_is_named(suffix, package, plain, tmp_path, monkeypatch):
    for other in NEEDS[suffix]:
        if other != package:
            pytest.importorskip(other)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'needs {package}.*pip install "vitoolkit\[export\]"'
    with pytest.raises(ImportError, match=message):
        write(plain, suffix, tmp_path)
    (tmp_path / f"fit.{suffix}").touch()
    with pytest.raises(ImportError, match=message):
        Trace.open(tmp_path / f"fit.{suffix}")


@pytest.mark.parametrize("name", ["fit.txt", "fit", "fit.csv.gz"])
def test_unknown_suffix_is_answered_with_the_known(name):
    with pytest.raises(ValueError, match=r"\.csv, \.parquet, \.nc, \.zarr, \.json") as caught:
        Trace.open(name)
    assert name in str(caught.value)


def test_reports_cannot_be_opened(plain, tmp_path):
    with pytest.raises(ValueError, match="report for people.*Names that can be opened"):
        Trace.open(plain.to_html(tmp_path / "fit.html"))


def test_nothing_there(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"fit.{kind}"):
        Trace.open(tmp_path / f"fit.{kind}")


def foreign(kind, path):
    """Write something of that format that is not a trace."""
    frame = pd.DataFrame({"step": [1, 2], "loss": [1.0, 2.0]})
    if kind == "csv":
        frame.to_csv(path)
    elif kind == "json":
        path.write_text('{"loss": [1]}')
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "nc":
        frame.to_xarray().to_netcdf(path, engine="h5netcdf")
    else:
        frame.to_xarray().to_zarr(path, consolidated=False)


def test_not_a_trace(kind, tmp_path):
    path = tmp_path / f"other.{kind}"
    foreign(kind, path)
    with pytest.raises(ValueError, match=f"other.{kind} is not a trace"):
        Trace.open(path)


def test_newer_format_and_damage(plain, tmp_path):
    path = plain.to_json(tmp_path / "fit.json")
    text = path.read_text()
    path.write_text(text.replace('"version": 2', '"version": 3', 1))
    with pytest.raises(ValueError, match="fit.json has version 3.*reads 1 and 2"):
        Trace.open(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="fit.json is damaged"):
        Trace.open(path)


@pytest.mark.parametrize("how", ["cut short", "a bit"])
def test_damage_is_told_or_harmless(kind, how, plain, tmp_path):
    """Nothing else than a ValueError that names the file, and no other trace."""
    there = write(plain, kind, tmp_path)
    whole = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    whole = whole or {there: there.read_bytes()}
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(60):
        path = list(whole)[rng.integers(len(whole))]
        data = bytearray(whole[path])
        if not data:
            continue
        at = int(rng.integers(len(data)))
        if how == "a bit":
            data[at] ^= 1 << int(rng.integers(8))
        else:
            del data[at:]
        path.write_bytes(data)
        try:
            assert Trace.open(there).equals(plain)
        except ValueError as error:
            assert str(there) in str(error)
            told += 1
        path.write_bytes(whole[path])
    assert told > 10 if kind == "zarr" else told > 20


def test_a_damaged_netcdf_is_told_before_hdf5_sees_it(plain, tmp_path, monkeypatch):
    """Some single bits, where an attribute says how long it is, keep HDF5 busy for ever."""
    h5py = pytest.importorskip("h5py")
    path = plain.to_netcdf(tmp_path / "fit.nc")
    whole = path.read_bytes()
    with monkeypatch.context() as never:
        never.setattr(h5py, "File", None)
        for at in range(0, len(whole) - 20, 97):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            with pytest.raises(ValueError, match="fit.nc is damaged: its bytes are not those"):
                Trace.open(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:  # somebody's own word: what is written is theirs from here
        file.attrs["mine"] = "a word"
    assert Trace.open(path).equals(plain)


def test_a_csv_that_lacks_rows_is_told(plain, tmp_path):
    path = plain.to_csv(tmp_path / "fit.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]))
    with pytest.raises(ValueError, match="fit.csv is damaged: it has 27 of the 30 rows"):
        Trace.open(path)
    path.write_text("".join([*lines, "\n"]))
    assert Trace.open(path).equals(plain)
    path.write_text("".join(lines).replace(",50.0,", ",50.5,", 1))
    with pytest.raises(ValueError, match="fit.csv is damaged: its checksum"):
        Trace.open(path)
    path.write_text("".join(lines).replace("loss", "losses", 1))
    with pytest.raises(ValueError, match="fit.csv is damaged: its columns are"):
        Trace.open(path)


def claims(kind, rows, path):
    """Write a file of a few kB that says that it has so many rows."""
    if kind == "nc":
        import h5py

        with h5py.File(path, "r+") as file:
            for name in ("step", "loss"):
                del file[name]
                file.create_dataset(name, (rows,), "f8", chunks=(10**6,))  # no chunk is written
    elif kind == "zarr":
        for name in ("step", "loss"):
            for metadata in (path / name / ".zarray", path / ".zmetadata"):
                text = metadata.read_text()
                text = re.sub(r'("shape": \[\s*)30(\s*\])', rf"\g<1>{rows}\2", text)
                metadata.write_text(text)
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        text = table.schema.metadata[b"vitoolkit_trace"].replace(
            b'"rows": 30', b'"rows": %d' % rows
        )
        schema = table.schema.with_metadata({"vitoolkit_trace": text})
        zero = pa.array(np.zeros(rows, dtype=np.int8)).dictionary_encode()
        columns = [zero.cast(pa.dictionary(pa.int32(), field.type)) for field in schema]
        schema = pa.schema(
            [(f.name, c.type) for f, c in zip(schema, columns, strict=True)], schema.metadata
        )
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
    else:
        path.write_text(path.read_text().replace('"rows": 30', f'"rows": {rows}'))
        path.write_text(path.read_text().replace('""rows"": 30', f'""rows"": {rows}'))


def test_a_file_that_claims_more_than_it_holds(kind, plain, tmp_path):
    path = write(plain, kind, tmp_path)
    claims(kind, 10**7 if kind == "parquet" else 10**12, path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"fit.{kind} is damaged: it (claims|has)"):
            Trace.open(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("kind", PLAIN, indirect=True)
def test_a_part_that_claims_more_than_the_file_holds(kind, tmp_path):
    trace = Trace(("z",), parts=[Part("z", ("k",), (2,))])
    trace.append(0, 0.0, 1.0, 1.0, [1.0], parts=[1.0, 2.0])
    path = write(trace, kind, tmp_path)
    data = path.read_bytes()
    for quote in (b'"', b'""'):
        old = b"%sshape%s: [2]" % (quote, quote)
        data = data.replace(old, old.replace(b"2", b"9" * 9)) if kind != "nc" else data
    if kind == "nc":
        import h5py

        with h5py.File(path, "r+") as file:
            text = file.attrs["vitoolkit_trace"].replace('"shape": [2]', '"shape": [999999999]')
            file.attrs["vitoolkit_trace"] = text
    elif kind == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        text = table.schema.metadata[b"vitoolkit_trace"]
        text = text.replace(b'"shape": [2]', b'"shape": [999999999]')
        pq.write_table(table.replace_schema_metadata({"vitoolkit_trace": text}), path)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=f"fit.{kind} is damaged: it claims"):
        Trace.open(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1e999}', "\x00", "", "\ud800"])
def test_text_that_is_no_json(text, tmp_path):
    path = tmp_path / "fit.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match="fit.json is (damaged|not a trace)"):
        Trace.open(path)


@pytest.mark.parametrize("kind", PLAIN, indirect=True)
def test_a_folder_is_no_file(kind, tmp_path):
    (tmp_path / f"fit.{kind}").mkdir()
    with pytest.raises(ValueError, match=f"fit.{kind} is damaged"):
        Trace.open(tmp_path / f"fit.{kind}")


def test_a_file_is_no_zarr_store(tmp_path):
    pytest.importorskip("zarr")
    (tmp_path / "fit.zarr").write_text("mine")
    with pytest.raises(ValueError, match="fit.zarr is damaged"):
        Trace.open(tmp_path / "fit.zarr")


def test_a_file_that_may_not_be_read(plain, tmp_path, monkeypatch):
    path = plain.to_csv(tmp_path / "fit.csv")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ValueError, match="fit.csv cannot be read: Permission denied"):
        Trace.open(path)


FULL_DISK = """
import gc, os, resource, signal, sys
import numpy as np
from vitoolkit.trace import Trace

trace, rows = Trace([f"v{i}" for i in range(5)], ["beta"]), 60_000
numbers = np.random.default_rng(0).normal(size=(rows, 6))
trace.extend(np.arange(rows), np.arange(rows) * 1e-3, numbers[:, 0], numbers, np.ones((rows, 1)))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
folder, *names = sys.argv[1:]
for name in names:
    try:
        trace.save(os.path.join(folder, name))
    except OSError as error:
        print(name, "File too large" in str(error))
    gc.collect()
    print("alive", os.listdir(folder), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of a file")
def test_a_full_disk_costs_the_file_only(tmp_path):
    names = [f"fit.{kind}" for kind in PLAIN]
    code = [sys.executable, "-c", FULL_DISK, str(tmp_path), *names]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for name in names for line in (f"{name} True", "alive []")]
    assert done.stdout.splitlines() == lines


@pytest.mark.parametrize("suffix", export.FORMATS)
def test_one_list_of_formats(suffix, plain, tmp_path, monkeypatch):
    made = export.FORMATS[suffix]
    assert made.label and made.words and made.extra == "export"
    path = plain.save(tmp_path / f"fit{suffix}")
    assert path == tmp_path / f"fit{suffix}" and path.exists()
    if made.read:
        assert Trace.open(path).equals(plain)


def test_a_new_format_is_one_entry(plain, tmp_path, monkeypatch):
    def write_pickle(trace, path):
        with export.replacing(path) as temporary:
            temporary.write_bytes(pickle.dumps((export.describe(trace), trace.kept())))

    def read_pickle(path):
        description, rows = pickle.loads(path.read_bytes())
        step = rows[:, 0].view(np.int64)
        return export.Fields(description, step, rows[:, 1], rows[:, 2], rows[:, 3:6], rows[:, 6:])

    new = export.Format("Pickle", "for a test", write_pickle, read_pickle)
    monkeypatch.setitem(export.FORMATS, ".pickle", new)
    assert Trace.open(plain.save(tmp_path / "fit.pickle")).equals(plain)
    with pytest.raises(ValueError, match=r"end in .csv, .*\.html, .pickle"):
        plain.save(tmp_path / "fit.txt")


def test_reading_needs_no_import_of_the_optional(monkeypatch, plain, tmp_path):
    """CSV and JSON work where only the required packages are installed."""
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.split(".")[0] in ("pyarrow", "h5netcdf", "h5py", "zarr"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    for kind in ("csv", "json"):
        assert Trace.open(write(plain, kind, tmp_path)).equals(plain)


# --- report --------------------------------------------------------------------------------


def text_of(path):
    page = path.read_text(encoding="utf-8")
    return page, re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.S)


def test_report(plain, tmp_path):
    (tmp_path / "fit.html").write_text("old")
    path = plain.to_html(tmp_path / "fit.html", title="a <b> & c")
    page, text = text_of(path)
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in text and "<title>a &lt;b&gt; &amp; c</title>" in page
    assert "KL of &lt;w&gt;" in text and "<w>" not in page
    assert "0.6" in text and "0.7" in text  # the event
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert os.listdir(tmp_path) == ["fit.html"]
    assert "Variational fit" in text_of(plain.save(tmp_path / "other.html"))[1]


def test_report_of_a_long_trace_is_small(tmp_path):
    rows = 50_000
    trace = Trace([f"v{i}" for i in range(50)], ("beta",))
    steps, zeros = np.arange(rows), np.zeros(rows)
    trace.extend(steps, zeros, zeros + 1, np.ones((rows, 51)), np.ones((rows, 1)))
    for step in range(1000):
        trace.add_event(Event(step, 0.0, "set", "beta", 1.0, 1.0, "rule"))
    assert trace.to_html(tmp_path / "long.html").stat().st_size < 2_500_000


@pytest.mark.parametrize(
    "trace",
    [
        Trace(),
        Trace(("z",), ("beta",)),
        odd_trace(("z", "w"), ("beta",), 1),
        odd_trace((), ("beta",), 60),
        odd_trace(tuple("abcdefghijkl"), (), 700),
        odd_trace(("z", "w"), ("beta",), 60, parts=PARTS["names taken"]),
        odd_trace(("z", "w"), (), 1, parts=PARTS["scalar and nothing"]),
        odd_trace(("a/b", "a:b"), (), 1, parts=PARTS["odd names"]),
    ],
    ids=[
        "empty",
        "no rows",
        "one row",
        "no terms",
        "odd numbers",
        "odd parts",
        "parts of one or none",
        "parts with odd labels",
    ],
)
def test_report_of_odd_traces(trace, tmp_path):
    page = trace.to_html(tmp_path / "fit.html").read_text(encoding="utf-8")
    assert page.endswith("</html>\n")
    assert ("took no steps" in page) == (len(trace) == 0)
