"""The moving part of the panel: charts and a status line, fed by small binary messages.

One anywidget holds the whole Bokeh document. BokehJS travels once a page, out of the installed
bokeh package, so nothing is loaded from the network. A page that loads in mid-fit reads the last
frame from a trait that is computed only when it is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import anywidget
import bokeh
import ipywidgets
import traitlets

from vitoolkit.dashboard.protocols import Message
from vitoolkit.views.assets import CSS, bokehjs, document_of, figure_legend, page_code
from vitoolkit.views.frame import SMOOTH, Frame, Header
from vitoolkit.views.ghost import Earlier
from vitoolkit.views.posterior import Posterior
from vitoolkit.views.styles import Style

__all__ = ["BokehJS", "LiveFigure", "StatusLine"]


class BokehJS(anywidget.AnyWidget):
    """Carries BokehJS to the page; all figures of a kernel share one."""

    _esm = "export default { render() {} }"
    _source = traitlets.Bytes().tag(sync=True)
    _shared: BokehJS | None = None

    @classmethod
    def shared(cls) -> BokehJS:
        """Return the one of this kernel, made at first and after all widgets were closed."""
        shared = cls._shared
        # marimo closes what a cell made when that is run anew, and tells the widget nothing.
        if shared is None or shared.comm is None or getattr(shared.comm, "_closed", False):
            shared = cls._shared = cls(_source=bokehjs())
        return shared


class StatusLine(anywidget.AnyWidget):
    """Where the fit stands, in words; the page itself counts the seconds of compiling.

    Parameters
    ----------
    pause : ipywidgets.Button, optional
        Shows in the page at once that it was pressed, while the kernel compiles and hears nothing.
    notify : bool
        Whether the browser tells of the end, of NaN and of a standstill, with leave of a person.
    """

    _esm = page_code("status")
    _css = CSS
    status = traitlets.Dict({"phase": "waiting"}).tag(sync=True)
    _notify = traitlets.Bool(False).tag(sync=True)
    _pause = traitlets.Any(None, allow_none=True).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(
        self, pause: ipywidgets.Button | None = None, *, notify: bool = False, **kwargs: Any
    ) -> None:
        #: Whether a page has shown it.
        self.seen = False
        super().__init__(_pause=pause, _notify=notify, **kwargs)
        self.on_msg(self._on_page)

    def _on_page(self, widget: StatusLine, content: Message, buffers: list[bytes]) -> None:
        self.seen |= content.get("kind") == "here"


class LiveFigure(anywidget.AnyWidget):
    """The charts of a fit that have something to show.

    Parameters
    ----------
    variables : mapping of str to Style
    controls : mapping of str to Style
    scales : mapping of str to str
        "linear", "log" or "switch" for each control.
    notes : mapping of str to str
        Words in place of the chart "loss" or "kl".
    measures : collection of str
        What else is recorded in every step: those that a chart reads are drawn.
    earlier : Earlier, optional
        A run to be drawn softly behind.
    posterior : Posterior, optional
        Snapshots of q.
    predictive : bool
        Whether there is a sketch of the posterior predictive.
    """

    _esm = page_code("figure")
    _css = CSS
    _document = traitlets.Unicode().tag(sync=True)
    _version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    _legend = traitlets.Dict().tag(sync=True)
    _ghost = traitlets.Any(None, allow_none=True).tag(sync=True)
    _ghost_arrays = traitlets.Bytes().tag(sync=True)
    _library = traitlets.Any(None, allow_none=True).tag(
        sync=True, **ipywidgets.widget_serialization
    )
    #: Where the picture of the ended fit is to be in the page, and its HTML.
    _left = traitlets.Dict().tag(sync=True)
    # Never assigned: evaluated when a page asks for the widget's state.
    _header = traitlets.Any(None, allow_none=True).tag(
        sync=True, to_json=lambda value, widget: widget._asked_for()[0]
    )
    _arrays = traitlets.Any(b"").tag(
        sync=True, to_json=lambda value, widget: widget._asked_for()[1]
    )

    def __init__(
        self,
        variables: Mapping[str, Style],
        controls: Mapping[str, Style],
        scales: Mapping[str, str],
        *,
        notes: Mapping[str, str] | None = None,
        measures: Collection[str] = (),
        earlier: Earlier | None = None,
        posterior: Posterior | None = None,
        predictive: bool = False,
    ) -> None:
        self._posterior = posterior
        self._last: tuple[Header | None, bytes] = (None, b"")
        #: Number of frames sent, and of those the page has drawn, with its milliseconds for the
        #: last one, and whether that was in sight.
        self.sent = 0
        self.drawn = 0
        self.drawing_ms = 0.0
        self.in_sight = True
        #: Names of variables that a person wants a line of.
        self.picked: tuple[str, ...] = ()
        #: What a mean is of, as the page has it: a share of the rows, or a number of them.
        self.smooth = SMOOTH
        #: Set when a page loads or comes into sight: it wants the present.
        self.wanted = False
        #: Set when a page that loaded later shows it: no word to the cell's output gets there.
        self.adopted = False
        #: Called when a page has taken the charts over for good.
        self.on_kept: Callable[[], None] = lambda: None
        self._made = False
        self._whole: tuple[Header, bytes] | None = None
        self._heard = -math.inf
        q = None if posterior is None else posterior.legend()
        measures = (*measures, *["q"] * (q is not None), *["predictive"] * predictive)
        legend = figure_legend(variables, controls, scales, notes or {}, measures, q)
        self._names = [*variables], [*controls]
        super().__init__(_document=document_of(legend), _legend=legend, _library=BokehJS.shared())
        self.on_msg(self._on_page)
        if earlier is not None:
            self.haunt(earlier)
        self._made = True

    def show(
        self,
        frame: Frame,
        *,
        active: str = "",
        predictive: Header | None = None,
        last: bool = False,
    ) -> int:
        """Send a frame to the page, with words on active units; returns its size in bytes.

        The last one holds all of q; those before it what is new, while a page shows it.
        """
        header, arrays = frame.packed()
        header["active"], header["predictive"] = active, predictive
        self.sent += 1
        header["number"] = self.sent
        self._last = (dict(header), arrays)
        if self._posterior is not None and (last or self._posterior.seen):
            arrays += self._posterior.add_to(header, whole=last)
        self.send({"kind": "frame", "header": header}, [arrays])
        return len(arrays)

    def haunt(self, earlier: Earlier) -> None:
        """Draw a run softly behind, in the place of the one that is there."""
        header, arrays = earlier.packed(*self._names)
        with self.hold_sync():  # a page reads both when the first one comes
            self._ghost_arrays, self._ghost = arrays, header

    def leave(self, place: str, picture: str) -> None:
        """Tell the page to move the charts into the picture of the fit, which has ended."""
        self._left = {"id": place, "html": picture}

    def let_go(self) -> None:
        """Hold nothing of the fit any more; what was seen can still be looked at."""
        if self._posterior is not None:
            self._posterior.snapshots = self._posterior.snapshots.still()

    def ask(self) -> None:
        """Ask whether a page is there; one that is answers, and is drawn again."""
        self.send({"kind": "there?"})

    @property
    def waiting(self) -> int:
        """Frames sent that no page has drawn yet."""
        return self.sent - self.drawn

    @property
    def gone(self) -> bool:
        """Whether a page drew before and none has answered for a while: it was closed."""
        return self.drawn > 0 and self.waiting > 2 and time.monotonic() - self._heard > 5.0

    def _asked_for(self) -> tuple[Header | None, bytes]:
        self.wanted = True
        self.adopted |= self._made
        header, arrays = self._last
        if self._posterior is None or header is None:
            return self._last
        if self._whole is None or self._whole[0]["number"] != header["number"]:  # the same to both
            header = dict(header)
            self._whole = header, arrays + self._posterior.add_to(header, whole=True)
        return self._whole

    def _on_page(self, widget: LiveFigure, content: Message, buffers: list[bytes]) -> None:
        kind, self._heard = content.get("kind"), time.monotonic()
        if kind == "drawn":
            self.drawn = max(self.drawn, int(content["number"]))
            self.drawing_ms = float(content["ms"])
            self.in_sight = bool(content["seen"])
        elif kind == "here":
            self.wanted = self.in_sight = True
        elif kind == "kept":
            self.on_kept()
        elif kind == "lines":
            self.picked, self.wanted = tuple(map(str, content["names"])), True
        elif kind == "coordinates" and self._posterior is not None:
            self._posterior.seen = bool(content["seen"])
            self._posterior.pick(content["picked"])
            self.wanted = True
        elif kind == "smooth":
            self.smooth, self.wanted = float(content["rows"]), True
