"""The figure between kernel and page, without a page."""

import math

from records import a_trace

from vitoolkit.dashboard.live_figure import BokehJS, LiveFigure
from vitoolkit.views.frame import frame_of
from vitoolkit.views.styles import variable_styles


def test_a_page_that_loads_reads_the_last_frame():
    figure = LiveFigure(variable_styles(["z", "w"]), {}, {})
    assert not figure.adopted
    assert figure.get_state()["_header"] is None
    assert figure.adopted
    trace = a_trace()
    figure.show(frame_of(trace.view(50), trace.variables, end=1000))
    state = figure.get_state()
    assert state["_header"]["number"] == 1
    assert len(state["_arrays"]) == 4 * sum(math.prod(s) for _, s in state["_header"]["arrays"])
    assert figure.waiting == 1
    figure._on_page(figure, {"kind": "drawn", "number": 1, "ms": 12.5, "seen": True}, [])
    assert (figure.waiting, figure.drawing_ms) == (0, 12.5)
    figure._on_page(figure, {"kind": "lines", "names": ["w"]}, [])
    assert figure.picked == ("w",)
    figure.close()


def test_a_new_library_is_made_when_the_old_one_was_closed(monkeypatch):
    monkeypatch.setattr(BokehJS, "_shared", None)
    first = BokehJS.shared()
    assert BokehJS.shared() is first
    monkeypatch.setattr(first.comm, "_closed", True, raising=False)  # as marimo does, in silence
    second = BokehJS.shared()
    assert second is not first
    second.close()
    assert BokehJS.shared() is not second
