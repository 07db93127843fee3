"""An earlier run behind the live one."""

import numpy as np
import pytest
from records import a_trace

import vitoolkit as vt
from vitoolkit.dashboard.live_figure import LiveFigure
from vitoolkit.views.ghost import earlier_run
from vitoolkit.views.styles import INK, Style, variable_styles


def test_an_earlier_run_is_sent_once_with_what_both_runs_have(tmp_path):
    trace = a_trace(("z", "w"), ("beta", "rate"), rows=3000)
    path = trace.to_csv(tmp_path / "old.csv")
    for given, title in ((trace, "earlier run, 3,000 steps"), (path, "old.csv, 3,000 steps")):
        lines = {"beta": Style(INK, ()), "other": Style(INK, ())}
        earlier = earlier_run(given)
        figure = LiveFigure(variable_styles(["new", "z"]), lines, {}, earlier=earlier)
        header = figure._ghost
        assert header["title"] == title and header["marks"] == ()
        assert (header["variables"], header["controls"]) == (["z"], ["beta"])
        shapes = dict(header["arrays"])
        assert shapes["kl"][0] == shapes["control"][0] == 1 and shapes["step"][0] > 100
        flat = np.frombuffer(figure._ghost_arrays, np.float32)
        assert len(flat) == sum(int(np.prod(shape)) for shape in shapes.values())
        assert flat[shapes["step"][0] - 1] == 2999
        figure.close()
    assert LiveFigure({}, {}, {})._ghost is None


def test_a_run_that_goes_on_is_compared_as_it_was():
    trace = a_trace(rows=100)
    earlier = earlier_run(trace)
    trace.extend([100], [0.1], [1.0], [[1.0, 2.0, 3.0]], [[1.0]])
    assert len(earlier.trace) == 100


@pytest.mark.parametrize(
    ("compare", "error", "words"),
    [
        (3, TypeError, "compare is a Trace or the path of one; received 3"),
        (a_trace, TypeError, "compare is a Trace or the path of one; received <function"),
        ("no such.csv", FileNotFoundError, "no such.csv"),
        ("a.txt", ValueError, "a.txt"),
        (vt.Trace(("z",)), ValueError, "a run with rows to compare with"),
    ],
)
def test_what_is_no_run_is_refused_before_anything_is_compiled(compare, error, words):
    with pytest.raises(error, match=words):
        vt.Dashboard(compare=compare)
