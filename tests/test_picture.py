"""What stays in a notebook that has no kernel."""

import base64
import math
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from records import a_trace

import vitoolkit as vt
from vitoolkit.views.ghost import left_behind
from vitoolkit.views.picture import picture_svg, summary_html

#: Where q stood, as snapshots tell it.
Q = {
    "step": 1000,
    "name": ["z", "w[b]"],
    "posterior": [[-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]],
    "prior": [[-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]],
    "moved": [0.1, 2.0],
}


def test_the_picture_is_one_svg_with_every_line():
    trace = a_trace(("z", "w & <v>"))
    root = ElementTree.fromstring(picture_svg(trace))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Loss", "KL by variable, nats", "z", "w & <v>", "beta", "step"} <= texts


def test_the_summary_needs_nothing_else():
    trace = a_trace()
    trace.attrs["status"] = "finished"
    trace.add_event(vt.Event(10, 0.5, "set", "beta", 0.5, 2.0, "user"))
    html = summary_html(trace)
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    image = html.partition("base64,")[2].partition('"')[0]
    ElementTree.fromstring(base64.b64decode(image))
    assert "finished after 1,000 steps" in html
    assert "0.5 → 2" in html
    assert len(html) < 200_000


def test_the_summary_says_how_it_ended_and_where_q_stands():
    trace = a_trace()
    assert "prior" not in summary_html(trace)
    trace.attrs["verdict"] = "Not finished: the loss still falls by 1 < 2 nats."
    trace.attrs["q"] = Q
    html = summary_html(trace)
    assert "<strong>Not finished: the loss still falls by 1 &lt; 2 nats.</strong>" in html
    moved = "<td>w[b]</td><td>1 (0, 2)</td><td>0 (−1, 1)</td><td>2 sd</td>"
    assert html.index(moved) < html.index("<td>z</td>")
    columns = ("name", "posterior", "prior", "moved")
    trace.attrs["q"] = {**Q, **{column: Q[column] * 10 for column in columns}}
    html = summary_html(trace)
    assert html.count("<td>w[b]</td>") == 10 and "and 8 more that moved less" in html


def test_a_switch_is_words_in_the_summary_and_no_line():
    trace = a_trace(controls=("scale_cost_to_minibatch",))
    trace.add_event(vt.Event(10, 0.5, "set", "scale_cost_to_minibatch", 1.0, 0.0, "user"))
    html = summary_html(trace, None, {"scale_cost_to_minibatch": "switch"})
    assert "<td>on → off</td>" in html
    assert "<td>scale_cost_to_minibatch</td><td>on</td>" in html
    svg = picture_svg(trace, None, {"scale_cost_to_minibatch": "switch"})
    assert "scale_cost" not in svg and "scale_cost" in picture_svg(trace)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_short_run_has_a_picture(rows):
    ElementTree.fromstring(picture_svg(a_trace(rows=rows)))


def test_a_run_that_diverged_has_a_picture():
    trace = vt.Trace(("z",), ("beta",))
    trace.extend(range(5), range(5), [math.nan] * 5, np.full((5, 2), np.nan), np.ones((5, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = summary_html(trace)
    assert "not finite" in html
    assert "no steps" in summary_html(vt.Trace())


def test_what_was_left_behind_is_drawn_softly():
    trace = a_trace()
    assert 'stroke-opacity="0.6"' not in picture_svg(trace)
    trace.go_back(400, 0)
    trace.go_back(400, 0)  # without rows
    picture = picture_svg(trace)
    assert picture.count('stroke-opacity="0.6"') == 2  # of loss and ELBO
    assert left_behind(trace).title == "left behind at step 1,000, back to 400"
