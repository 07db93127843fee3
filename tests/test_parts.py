import copy
import pickle
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from vitoolkit.parts import Part
from vitoolkit.trace import Trace


@pytest.fixture
def part():
    return Part("z", ("row", "latent"), (2, 3), {"latent": ["a", "b", "c"]})


def test_labels_and_positions_in_c_order(part):
    assert part.size == 6
    assert part.labels[:4] == (
        "row=0, latent=a",
        "row=0, latent=b",
        "row=0, latent=c",
        "row=1, latent=a",
    )
    assert part.columns[-1] == "kl[z, row=1, latent=c]"


@pytest.mark.parametrize(
    ("dims", "shape", "coords", "labels"),
    [
        ((), (), {}, ("()",)),
        (("k",), (0,), {}, ()),
        (("k",), (2,), {"k": [1.5, -2]}, ("k=1.5", "k=-2")),
        (("k",), (2,), {"k": [1, "1"]}, ("k=0", "k=1")),
        (
            ("k", "l"),
            (2, 2),
            {"k": ["0", "0, l=0"], "l": ["0", "0, l=0"]},
            ("k=0, l=0", "k=0, l=1", "k=1, l=0", "k=1, l=1"),
        ),
    ],
    ids=["scalar", "empty", "numbers", "equal texts", "texts that join to the same"],
)
def test_labels_always_differ(dims, shape, coords, labels):
    part = Part("z", dims, shape, coords)
    assert part.labels == labels
    assert len(set(part.columns)) == part.size


def test_labels_become_plain():
    labels = np.array(["a", "b"]), [np.float32(0.5), np.int8(3)], [date(2020, 1, 2), (1, 2)]
    part = Part("z", ("i", "j", "k"), [2, np.int64(2), 2], dict(zip("ijk", labels, strict=True)))
    assert part.coords == {"i": ["a", "b"], "j": [0.5, 3], "k": ["2020-01-02", "(1, 2)"]}
    kinds = [[type(label) for label in labels] for labels in part.coords.values()]
    assert kinds == [[str, str], [float, int], [str, str]]
    assert part.shape == (2, 2, 2) and type(part.shape[1]) is int


DAYS = ["2020-01-02", "2020-01-03T12:30:00"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("make", [np.asarray, list, pd.DatetimeIndex])
def test_moments_of_every_kind_are_iso_text(make, unit):
    labels = make(np.array(DAYS, dtype=f"M8[{unit}]"))
    assert Part("z", ("t",), (2,), {"t": labels}).coords["t"] == DAYS


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (np.datetime64("2020"), "2020"),
        (np.datetime64("2020-02"), "2020-02"),
        (np.datetime64("2020-02-03", "D"), "2020-02-03"),
        (np.datetime64("2020-02-03T04", "h"), "2020-02-03T04"),
        (np.datetime64("2020-02-03T04:05:06.070", "ns"), "2020-02-03T04:05:06.07"),
        (np.datetime64("2020-02-03T04:05:06.000000789", "ns"), "2020-02-03T04:05:06.000000789"),
        (np.datetime64("NaT", "ns"), "NaT"),
        (pd.Timestamp("2020-02-03"), "2020-02-03"),
        (pd.Timestamp("2020-02-03", tz="UTC"), "2020-02-03T00:00:00+00:00"),
        (pd.Period("2020-02", "M"), "2020-02"),
        (pd.NaT, "NaT"),
        (datetime(2020, 2, 3, 4, 5), "2020-02-03T04:05:00"),
        (date(2020, 2, 3), "2020-02-03"),
        (np.timedelta64(3, "M"), "P3M"),
        (np.timedelta64(2, "W"), "P2W"),
        (np.timedelta64(36, "h"), "P1DT12H"),
        (np.timedelta64(-90, "s"), "-PT1M30S"),
        (np.timedelta64(86_400 * 10**9, "ns"), "P1D"),
        (np.timedelta64(1, "ns"), "PT0.000000001S"),
        (np.timedelta64(0, "ns"), "PT0S"),
        (np.timedelta64("NaT", "ns"), "NaT"),
        (pd.Timedelta("1D 00:00:00.5"), "P1DT0.5S"),
        (timedelta(hours=25), "P1DT1H"),
    ],
    ids=str,
)
def test_moments_and_spans_of_time_are_iso_text(label, text):
    assert Part("z", ("t",), (1,), {"t": [label]}).coords["t"] == [text]


def test_equal_parts_are_equal(part):
    same = Part("z", ["row", "latent"], [2, 3], {"latent": list("abc")})
    assert same == part and hash(same) == hash(part)
    assert Part("z", ("row", "latent"), (2, 3)) != part
    for other in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert other == part and other.columns == part.columns
    with pytest.raises(AttributeError):
        part.shape = (3, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("z", ("k",), (2, 3)), ValueError, r"received dims \('k',\) and shape \(2, 3\)"),
        (("z", ("k", "k"), (2, 2)), ValueError, "every dim once"),
        (("z", ("k",), (-1,)), ValueError, "from 0 up"),
        (("z", ("k",), (2,), {"l": [1, 2]}), ValueError, r"labels for \['l'\]"),
        (("z", ("k",), (2,), {"k": [1]}), ValueError, "has the length 2; received 1 labels"),
        (("z", ("",), (2,)), ValueError, "not empty"),
        (("", (), ()), ValueError, "not empty"),
        (("z", (None,), (2,)), TypeError, "received None"),
        (("z", "k", (2,)), TypeError, "the string 'k'"),
        (("z", ("k",), (2.5,)), TypeError, "integer"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Part(*arguments)


# --- in a trace -----------------------------------------------------------------------------


@pytest.fixture
def trace(part):
    trace = Trace(("w", "z", "v"), ("beta",), parts=[part, Part("v", ("k",), (2,))])
    for step in range(5):
        z, v = np.arange(6.0) + step, np.array([0.5, 0.25])
        kl = [7.0, z.sum(), v.sum()]
        trace.append(step, 0.1 * step, 9.0, -5.0, kl, [0.1 * step], [*z, *v])
    return trace


def terms_of(trace):
    return np.column_stack([trace.data, trace.kl.array.T, trace.kl_by.array])


def test_parts_have_their_shape(trace):
    assert list(trace.parts) == list(trace.kl_by) == ["z", "v"]
    assert trace.parts["z"].dims == ("row", "latent")
    z, v = trace.kl_by["z"], trace.kl_by["v"]
    assert z.shape == (5, 2, 3) and v.shape == (5, 2)
    np.testing.assert_array_equal(z[3], np.arange(6.0).reshape(2, 3) + 3)
    np.testing.assert_array_equal(v, [[0.5, 0.25]] * 5)
    np.testing.assert_array_equal(z.sum(axis=(1, 2)), trace.kl["z"])


def test_other_columns_are_as_without_parts(trace):
    assert trace.kl["w"].tolist() == [7.0] * 5
    assert trace.control["beta"].tolist() == [0.1 * step for step in range(5)]
    np.testing.assert_array_equal(trace.elbo, -5.0 - 7.0 - trace.kl["z"] - 0.75)


def test_columns_and_values_agree(trace):
    z, v = trace.parts["z"].columns, ("kl[v, k=0]", "kl[v, k=1]")
    head = ("loss", "data", "elbo", "kl[w]", "kl[z]", "kl[v]")
    assert trace.columns == (*head, *z, *v, "beta")
    columns = dict(zip(trace.columns, trace.values().T, strict=True))
    np.testing.assert_array_equal(columns["kl[z, row=1, latent=a]"], 3.0 + np.arange(5))
    np.testing.assert_array_equal(columns["beta"], trace.control["beta"])
    np.testing.assert_array_equal(columns["elbo"], trace.elbo)
    without = trace.values(parts=False)
    assert without.shape == (5, 7)
    np.testing.assert_array_equal(without[:, :6], trace.values()[:, :6])
    np.testing.assert_array_equal(without[:, 6], trace.control["beta"])


def test_extend_equals_append(trace):
    other = Trace(trace.variables, trace.controls, trace.attrs, tuple(trace.parts.values()))
    control = trace.control.array.T
    for rows in (slice(0, 3), slice(3, 3), slice(3, 5)):
        other.extend(
            trace.step[rows],
            trace.time[rows],
            trace.loss[rows],
            terms_of(trace)[rows],
            control[rows],
        )
    assert other.equals(trace)


def test_growth_keeps_the_parts():
    trace = Trace(("z",), ("beta",), parts=[Part("z", ("k",), (3,))])
    for step in range(2_000):
        trace.append(step, 0.0, 0.0, 0.0, [3.0 * step], [-step], [step, step + 1, step + 2])
    np.testing.assert_array_equal(trace.kl_by["z"], np.arange(2_000)[:, None] + np.arange(3))
    np.testing.assert_array_equal(trace.control["beta"], -np.arange(2_000.0))


@pytest.mark.parametrize("count", [0, 7, 9])
def test_append_checks_the_number_of_parts(trace, count):
    with pytest.raises(
        ValueError, match=f"3 .*, 1 .* 8 parts and 0 measures; received 3, 1, {count} and 0"
    ):
        trace.append(5, 0.0, 0.0, 0.0, [1.0] * 3, [1.0], [1.0] * count)
    with pytest.raises(ValueError, match=r"\(1, 12\).*received"):
        trace.extend([5], [0.0], [0.0], np.zeros((1, 4 + count)), np.zeros((1, 1)))
    assert len(trace) == 5


def test_parts_are_read_only_views_of_their_moment(trace):
    kl_by = trace.kl_by
    z = kl_by["z"]
    assert np.shares_memory(z, trace._read().pieces[0])
    with pytest.raises(ValueError, match="read-only"):
        z[0, 0, 0] = 1.0
    trace.append(5, 0.0, 0.0, 0.0, [1.0] * 3, [1.0], [1.0] * 8)
    assert len(z) == len(kl_by["v"]) == 5 and len(trace.kl_by["z"]) == 6


def test_unknown_names_are_answered_with_the_known(trace):
    with pytest.raises(KeyError, match="of 'w'.*'z', 'v'"):
        trace.kl_by["w"]
    with pytest.raises(KeyError, match="none: fit with kl_by="):
        Trace(("z",)).kl_by["z"]


def test_slices_and_copies_have_the_parts(trace):
    last = trace[-4::2]
    np.testing.assert_array_equal(last.kl_by["z"], trace.kl_by["z"][-4::2])
    assert last.parts == trace.parts and last.columns == trace.columns
    for other in (copy.deepcopy(trace), pickle.loads(pickle.dumps(trace))):
        assert other.equals(trace)
        other.append(5, 0.0, 0.0, 0.0, [1.0] * 3, [1.0], [1.0] * 8)
        assert len(other) == 6 and len(trace) == 5


def test_equals_sees_the_parts(part):
    def one(parts, values):
        trace = Trace(("z",), attrs={"created": "now"}, parts=parts)
        trace.append(0, 0.0, 0.0, 0.0, [1.0], (), values)
        return trace

    base = one([part], np.arange(6.0))
    assert base.equals(one([part], np.arange(6.0)))
    assert not base.equals(one([part], np.arange(6.0) + [0, 0, 0, 0, 0, 1e-15]))
    assert not base.equals(one([Part("z", part.dims, part.shape)], np.arange(6.0)))
    assert not base.equals(one([Part("z", part.dims, (3, 2))], np.arange(6.0)))
    assert not base.equals(one([], ()))


def test_same_layout(trace, part):
    other = Part("v", ("k",), (2,))
    assert trace.same_layout(Trace(trace.variables, trace.controls, parts=[part, other]))
    assert not trace.same_layout(Trace(trace.variables, trace.controls, parts=[other, part]))
    assert not trace.same_layout(Trace(trace.variables, trace.controls))
    assert not trace.same_layout(Trace(trace.variables, parts=[part, other]))


@pytest.mark.parametrize(
    ("variables", "controls", "parts", "error", "message"),
    [
        (("w",), (), [("z", 2)], ValueError, r"of 'z'; the variables of this trace are \('w',\)"),
        (("z",), (), [("z", 2), ("z", 3)], ValueError, "every variable once; received 'z' twice"),
        (("z", "z, k=1"), (), [("z", 2)], ValueError, r"'kl\[z, k=1\]'"),
        (("z",), ("kl[z, k=0]",), [("z", 2)], ValueError, r"'kl\[z, k=0\]'"),
    ],
)
def test_clashes_are_refused(variables, controls, parts, error, message):
    parts = [Part(variable, ("k",), (length,)) for variable, length in parts]
    with pytest.raises(error, match=message):
        Trace(variables, controls, parts=parts)


def test_parts_are_parts():
    with pytest.raises(TypeError, match=r"Part objects; received \('z', 2\)"):
        Trace(("z",), parts=[("z", 2)])


def test_showing(trace):
    assert repr(trace).endswith(
        "controls=('beta',), parts={'z': (2, 3), 'v': (2,)}, ELBO -39.75 nats)"
    )
    summary = trace.summary()
    assert summary["KL of z in parts"] == "6 coordinates, row=1, latent=c the largest: 7 nats"
    assert summary["KL of v in parts"] == "2 coordinates, k=0 the largest: 0.5 nats"
    assert "KL of z in parts" in trace._repr_html_()


@pytest.mark.filterwarnings("error")
def test_showing_what_is_not_finite():
    trace = Trace(("z", "w"), parts=[Part("z", ("k",), (2,)), Part("w", ("k",), (0,))])
    assert repr(trace).endswith("parts={'z': (2,), 'w': (0,)})")
    trace.append(0, 0.0, 0.0, 0.0, [1.0, 1.0], (), [np.nan, np.inf])
    assert trace.summary()["KL of z in parts"] == "2 coordinates"
    assert trace.summary()["KL of w in parts"] == "0 coordinates"


# --- views ----------------------------------------------------------------------------------


def test_views_have_parts_when_asked(trace):
    assert list(trace.view().mean) == ["loss", "data", "elbo", "kl[w]", "kl[z]", "kl[v]", "beta"]
    view = trace.view(2, parts=True)
    assert tuple(view.mean) == trace.columns and view.width == 4
    assert view.high["kl[z, row=1, latent=c]"].tolist() == [8.0, 9.0]
    assert view.mean["kl[z, row=0, latent=a]"].tolist() == [1.5, 4.0]
    trace.append(5, 0.0, 0.0, 0.0, [1.0] * 3, [1.0], [-1.0] * 8)
    assert view.update().low["kl[v, k=1]"].tolist() == [0.25, -1.0]


def test_a_view_without_parts_is_the_same_as_of_a_trace_without(trace):
    bare = Trace(trace.variables, trace.controls)
    bare.extend(trace.step, trace.time, trace.loss, terms_of(trace)[:, :4], trace.control.array.T)
    for columns in ("low", "high", "mean", "last", "nonfinite"):
        mine, other = getattr(trace.view(2), columns), getattr(bare.view(2), columns)
        assert list(mine) == list(other)
        np.testing.assert_array_equal(mine.array, other.array)


# --- active units ---------------------------------------------------------------------------


def counted(values, **options):
    values = np.asarray(values, dtype=float)
    trace = Trace(("z",), parts=[Part("z", ("latent",), (values.shape[1],))])
    steps, zeros = np.arange(len(values)), np.zeros(len(values))
    terms = np.column_stack([zeros, zeros, values])
    trace.extend(steps, zeros, zeros, terms, np.empty((len(values), 0)))
    return trace.active_units(**options)["z"]


def test_active_units_are_above_the_threshold():
    below, above = np.nextafter(0.01, 0), np.nextafter(0.01, 1)
    assert counted([[0.0, below, 0.01, above, 5.0, -5.0]]) == 2
    assert counted([[1.0, 2.0, 3.0]], threshold=2.0) == 1


def test_active_units_are_of_the_last_rows():
    rows = [[9.0, 0.0, 0.0]] * 50 + [[0.0, 0.0, 0.02]] * 100
    assert counted(rows) == 1
    assert counted(rows, rows=101) == 2
    assert counted(rows, rows=1000) == 2
    assert counted([[0.0, 1.0], [0.03, 0.0]], rows=2) == 2
    assert counted([[0.0, 1.0], [0.03, 0.0]], rows=1) == 1


@pytest.mark.filterwarnings("error")
def test_active_units_leave_out_what_is_not_finite():
    rows = [[np.nan, np.nan, np.inf, -np.inf], [np.nan, 0.02, 0.0, 0.02]]
    assert counted(rows) == 2
    assert counted(np.empty((0, 3))) == 0


def test_active_units_per_row_of_the_data():
    rows = [[1000 * 0.02, 1000 * 0.005, 0.0]]
    assert counted(rows) == 2
    assert counted(rows, per=1000) == 1


def test_active_units_of_every_part(trace):
    assert trace.active_units() == {"z": 6, "v": 2}
    assert trace.active_units(0.3) == {"z": 6, "v": 1}
    assert Trace(("z",)).active_units() == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rows": 0}, ValueError, "rows is at least 1; received 0"),
        ({"rows": 1.5}, TypeError, "integer"),
        ({"threshold": np.nan}, ValueError, "threshold .* received nan"),
        ({"per": 0}, ValueError, "per is a positive number; received 0"),
        ({"per": np.inf}, ValueError, "received inf"),
    ],
)
def test_active_units_check_their_options(trace, options, error, message):
    with pytest.raises(error, match=message):
        trace.active_units(**options)
