"""Several runs in one panel, and a run as a page: what is told of them, without a browser."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import vitoolkit as vt


def a_trace(rows=1000, elbo=-50.0, variables=("z", "w"), status="finished"):
    rng = np.random.default_rng(1)
    trace = vt.Trace(variables, ("beta",), attrs={"status": status} if status else None)
    extend(trace, rows, elbo, rng)
    return trace


def extend(trace, rows, elbo=-50.0, rng=None):
    step = np.arange(len(trace), len(trace) + rows)
    kl = np.full((rows, len(trace.variables)), 4.0)
    data = elbo + kl.sum(axis=1) + (0 if rng is None else rng.normal(size=rows))
    terms = np.column_stack([data, kl])
    trace.extend(step, step * 1e-3, -data, terms, np.ones((rows, len(trace.controls))))


def sent_by(comparison):
    """Arrays by run and column, as a page would read them."""
    header, data = comparison._packed()
    numbers, runs, at = np.frombuffer(data, np.float32), {}, 0
    for name, (count,) in header["arrays"]:
        column, i = name.split()
        runs.setdefault(header["runs"][int(i)]["name"], {})[column] = numbers[at : at + count]
        at += count
    assert at == len(numbers)
    return header, runs


def test_runs_are_told_by_name():
    fit = SimpleNamespace(trace=a_trace(500, elbo=-70.0))
    comparison = vt.Comparison({"first": a_trace(), "second": fit})
    first, second = comparison.rows()
    assert (first["name"], first["status"], first["steps"]) == ("first", "finished", 1000)
    assert first["rate"] == pytest.approx(8.0) and second["elbo"] == pytest.approx(-70, abs=0.5)
    assert first["elbo"] == pytest.approx(-first["rate"] - first["distortion"])
    html = comparison._repr_html_()
    assert "<td>second</td><td>finished</td><td>500</td>" in html
    header, runs = sent_by(comparison)
    assert not header["live"]
    assert runs["first"]["step"][-1] == 999 and runs["second"]["step"][-1] == 499
    np.testing.assert_allclose(runs["first"]["rate"], 8.0, rtol=1e-6)
    assert len({run["color"] for run in header["runs"]}) == 2


def test_a_run_that_goes_on_is_followed_and_nothing_is_sent_twice(monkeypatch):
    trace = a_trace(status=None)
    comparison = vt.Comparison({"running": trace, "done": a_trace()})
    bundle = comparison._repr_mimebundle_()
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
    figure, sent = comparison._widget, []
    monkeypatch.setattr(figure, "send", lambda content, buffers: sent.append(content))
    figure._handle_custom_msg({"kind": "more?"}, [])
    assert sent == []
    extend(trace, 200)
    figure._handle_custom_msg({"kind": "more?"}, [])
    (message,) = sent
    assert message["header"]["live"]
    assert [run["steps"] for run in message["header"]["runs"]] == [1200, 1000]
    assert figure.get_state()["_header"] == message["header"]  # for a page that loads
    comparison.runs["third"] = a_trace(50)
    comparison.refresh()
    assert [run["name"] for run in sent[-1]["header"]["runs"]] == ["running", "done", "third"]
    figure.close()


def test_many_long_runs_are_one_small_message():
    runs = {f"run {i}": a_trace(3000) for i in range(24)}
    header, data = vt.Comparison(runs)._packed()
    assert len(data) + len(json.dumps(header)) < 64_000


def test_a_run_without_terms_or_rows_has_no_curve_and_a_row():
    empty, no_terms = vt.Trace(("z",)), a_trace(variables=())
    comparison = vt.Comparison({"empty": empty, "no terms": no_terms})
    assert [row["steps"] for row in comparison.rows()] == [0, 1000]
    assert all(np.isnan(row["elbo"]) for row in comparison.rows())
    _, runs = sent_by(comparison)
    assert all(len(run["elbo"]) == 0 for run in runs.values())


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        vt.Comparison({})
    with pytest.raises(TypeError, match="mapping of names"):
        vt.Comparison([a_trace()])
    with pytest.raises(TypeError, match="'a' is to be a Trace, or to have one"):
        vt.Comparison({"a": 3})
    with pytest.raises(TypeError, match="a string; received 1"):
        vt.Comparison({1: a_trace()})
