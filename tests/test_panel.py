"""The widgets of one fit, and their pace, without a browser."""

import gc
import time
from types import SimpleNamespace

import ipywidgets
from records import a_trace

import vitoolkit as vt
from vitoolkit.dashboard import live_figure as live_figure_module
from vitoolkit.dashboard import panel as panel_module
from vitoolkit.dashboard.lifetime import close_widgets


def a_panel(controls=(), variables=("z", "w")):
    fit = SimpleNamespace(
        prepared="",
        first=0,
        n=1000,
        step=1000,
        status="running",
        error=None,
        running=True,
        can_undo=False,
        unused=(),
        holding="",
        took_before=None,
        steps_per_second=None,
    )
    return panel_module.Panel(fit, controls, variables, {}, {})


def test_the_last_picture_has_the_lines_of_all_variables_for_the_page_to_choose(monkeypatch):
    names = tuple(f"v{i}" for i in range(30))
    panel, sent = a_panel(variables=names), []
    monkeypatch.setattr(panel.figure, "send", lambda content, buffers: sent.append(content))
    panel.watch(a_trace(names), {})
    panel.refresh()
    panel.fit.running, panel.fit.status = False, "finished"
    panel.finish()
    assert [len(content["header"]["lines"]) for content in sent] == [12, 30]
    legend = panel.figure._legend
    assert (legend["largest"], legend["most"]) == (12, 24)


def open_widgets():
    return set(ipywidgets.widgets.widget._instances)


def test_nothing_is_drawn_for_a_page_that_was_closed(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now, now=100.0)
    for module in (panel_module, live_figure_module):
        monkeypatch.setattr(module, "time", clock)
    panel = a_panel()
    panel.watch(a_trace(), {})
    figure, sent = panel.figure, []
    monkeypatch.setattr(figure, "send", lambda content, buffers=None: sent.append(content["kind"]))

    def drawn(seen=True):
        told = {"kind": "drawn", "number": figure.sent, "ms": 10.0, "seen": seen}
        figure._on_page(figure, told, [])

    def minute(answer=lambda: None):
        sent.clear()
        for _ in range(6000):
            clock.now += 0.01
            panel.refresh()
            answer()
        return sent

    assert 250 < len(minute(drawn)) <= 300 and set(sent) == {"frame"}
    assert len(minute(lambda: drawn(seen=False))) <= 40  # out of sight
    drawn()
    minute()  # closed
    assert minute().count("frame") == 0 and sent.count("there?") == 12
    figure._on_page(figure, {"kind": "here"}, [])
    sent.clear()
    panel.refresh()
    assert sent == ["frame"]
    drawn()
    minute()
    figure.get_state()  # a page loads
    panel.refresh()
    assert sent[-1] == "frame"
    never_heard = a_panel()
    never_heard.watch(a_trace(), {})
    for _ in range(6000):
        clock.now += 0.01
        never_heard.refresh()
    assert 40 < never_heard.figure.sent < 70  # it may be seen all the same
    panel.close()
    never_heard.close()


def test_a_page_that_lags_is_drawn_less():
    trace = a_trace()
    panel = a_panel()
    panel.watch(trace, {})
    panel.refresh()
    told = {"kind": "drawn", "number": panel.figure.sent, "ms": 400.0, "seen": True}
    panel.figure._on_page(panel.figure, told, [])
    panel._due = 0.0
    panel.refresh()
    assert panel._due - time.perf_counter() > 0.9
    for _ in range(10):  # a page that is busy
        panel.figure.sent += 1
    panel._due = time.perf_counter() - 0.5
    sent = panel.figure.sent
    panel.refresh()
    assert panel.figure.sent == sent
    panel._due = time.perf_counter() - 1.5
    panel.refresh()
    assert panel.figure.sent == sent + 1
    panel.close()


def test_closing_closes_all_of_it_and_the_library_stays():
    live_figure_module.BokehJS.shared()
    gc.collect()  # what earlier tests have left
    before = open_widgets()
    panel = a_panel([vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=100))])
    panel.steered_by("pump", "steering by pump")
    panel.actions.note.value = True  # what it unfolds
    assert len(open_widgets() - before) > 50
    panel.close()
    assert open_widgets() == before


def test_a_panel_that_nobody_holds_leaves_its_charts():
    live_figure_module.BokehJS.shared()
    gc.collect()  # what earlier tests have left
    before = open_widgets()
    panel = a_panel([vt.Beta(1.0)])
    whole, figure = panel.widget, panel.figure
    del panel
    gc.collect()
    assert figure.comm is not None and figure in whole.children
    (head,) = whole.children[0].children
    (status,) = head.children
    assert isinstance(status, live_figure_module.StatusLine)
    assert len(open_widgets() - before) <= 10  # status, figure, their boxes, and a layout of each
    close_widgets([whole])
    assert open_widgets() == before


def test_a_panel_that_is_shown_again_stays_when_the_page_has_its_charts():
    panel = a_panel()
    panel.watch(a_trace(), {})
    panel.fit.running, panel.fit.status = False, "finished"
    assert panel.again() is panel  # in a cell of its own, before the page has answered
    panel.figure._on_page(panel.figure, {"kind": "kept"}, [])
    assert panel.open
    panel.close()
