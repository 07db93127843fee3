"""Several fits in one panel: their ELBO, KL, and path of rate and distortion, overlaid."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import anywidget
import bokeh
import ipywidgets
import numpy as np
import traitlets

from vitoolkit.dashboard.lifetime import weakly
from vitoolkit.dashboard.live_figure import BokehJS
from vitoolkit.dashboard.protocols import Message
from vitoolkit.decimation import View
from vitoolkit.trace import Trace
from vitoolkit.views.ahead import edge_of
from vitoolkit.views.assets import CSS, comparison_legend, page_code
from vitoolkit.views.document import comparison_document
from vitoolkit.views.frame import Header, frame_of
from vitoolkit.views.styles import variable_styles

__all__ = ["Comparison"]

COLUMNS = ("step", "elbo", "rate", "distortion")
HEADINGS = ("run", "", "steps", "ELBO, nats", "rate: sum of KL", "distortion: −data term")
#: Bytes of a message, shared by the runs.
BUDGET = 56_000


class Comparison:
    """Several fits in one panel, picked by name, live as long as one of them runs.

    Shown as the last line of a cell, it overlays the ELBO at β = 1, the sum of the KL contributions
    and the path of rate and distortion (Alemi et al. 2018), with a table to hide and show runs by
    name. While a run goes on, the page asks for news once a second; nothing is sent to a closed
    one.

    Parameters
    ----------
    runs : mapping of str to Trace, Fit, Dashboard or Recorder
        The runs by name. What is not a trace has a `trace`, read anew at every refresh.

    Attributes
    ----------
    runs : dict
        The runs by name. Add to it, or take away, and :meth:`refresh`.

    Raises
    ------
    TypeError
        When a run is neither a trace nor has one, or a name is not a string.
    ValueError
        When no runs are given.

    Examples
    --------
    >>> import vitoolkit as vt
    >>> traces = {}
    >>> for beta in (0.5, 1.0):
    ...     traces[f"β = {beta}"] = trace = vt.Trace(variables=("z",))
    ...     for step in range(100):
    ...         trace.append(step, 0.1 * step, 9.0, -6.0 / beta, [2.0 / beta])
    >>> comparison = vt.Comparison(traces)
    >>> comparison
    <Comparison of 'β = 0.5' (100 steps, ELBO -16), 'β = 1.0' (100 steps, ELBO -8)>
    """

    def __init__(self, runs: Mapping[str, object]) -> None:
        if not isinstance(runs, Mapping):
            raise TypeError(f"runs is a mapping of names to runs; received {runs!r}")
        if not runs:
            raise ValueError("at least one run is needed; received none")
        self.runs = dict(runs)
        self._views: dict[str, View] = {}
        self._widget: ComparisonFigure | None = None
        for name in self.runs:
            self._trace(name)

    def refresh(self) -> None:
        """Look at the runs again and send what is new to the page."""
        if self._widget is not None:
            self._widget.show(*self._packed())

    def rows(self) -> list[Header]:
        """Tell the runs in numbers.

        Returns
        -------
        list of dict
            For each run its ``name``, ``status``, ``steps``, and the last running means of
            ``elbo``, ``rate`` (sum of KL) and ``distortion`` (negative data term) in nats; NaN
            where the run has no terms.
        """
        rows = []
        for name in self.runs:
            run = self._run(name)
            last = {c: float(run[c][-1]) if len(run[c]) else np.nan for c in COLUMNS[1:]}
            rows.append({"name": name, "status": run["status"], "steps": run["steps"], **last})
        return rows

    def _trace(self, name: str) -> Trace:
        if not isinstance(name, str):
            raise TypeError(f"the name of a run is a string; received {name!r}")
        run = self.runs[name]
        trace = run if isinstance(run, Trace) else getattr(run, "trace", None)
        if not isinstance(trace, Trace):
            raise TypeError(
                f"the run {name!r} is to be a Trace, or to have one as a Fit, a Dashboard or a "
                f"Recorder does; received {run!r}"
            )
        return trace

    def _run(self, name: str) -> Header:
        trace, view = self._trace(name), self._views.get(name)
        points = max(40, min(500, BUDGET // 4 // len(COLUMNS) // len(self.runs)))
        if view is None or view.trace is not trace or view.points > points:
            view = self._views[name] = trace.view(points)
        last = int(trace[-1:].step[0]) if len(trace) else 0
        frame = frame_of(view, trace.variables, (), end=last)
        running = "status" not in trace.attrs
        run = {c: getattr(frame, c) for c in COLUMNS} if trace.variables else {}
        run = run or dict.fromkeys(COLUMNS, np.empty(0))
        edge = edge_of(last, np.inf) if running else float(last)
        status = str(trace.attrs.get("status", "running"))
        return {**run, "status": status, "steps": last + bool(len(trace)), "edge": edge}

    def _packed(self) -> tuple[Header, bytes]:
        styles = variable_styles(list(self.runs))
        runs, arrays, flat = [], [], []
        for i, (name, style) in enumerate(styles.items()):
            run = self._run(name)
            for column in COLUMNS:
                values = np.asarray(run.pop(column), np.float32)
                arrays.append([f"{column} {i}", list(values.shape)])
                flat.append(values)
            runs.append({"name": name, "color": style.color, "dash": style.dash, **run})
        live = any(run["status"] == "running" for run in runs)
        return {"runs": runs, "arrays": arrays, "live": live}, np.concatenate(flat).tobytes()

    def __repr__(self) -> str:
        words = [
            f"{row['name']!r} ({row['steps']:,} steps, ELBO {row['elbo']:.6g})"
            for row in self.rows()
        ]
        return f"<Comparison of {', '.join(words)}>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{word}</th>" for word in HEADINGS)
        body = "".join(
            f"<tr><td>{escape(row['name'])}</td><td>{escape(row['status'])}</td>"
            f"<td>{row['steps']:,}</td>"
            + "".join(f"<td>{row[c]:,.6g}</td>" for c in COLUMNS[1:])
            + "</tr>"
            for row in self.rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if self._widget is None or self._widget.comm is None:
            self._widget = ComparisonFigure(self.refresh)
        self.refresh()
        bundle = self._widget._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return {**(data or {}), "text/plain": repr(self), "text/html": self._repr_html_()}


class ComparisonFigure(anywidget.AnyWidget):
    """What the page shows of a comparison.

    Parameters
    ----------
    more : bound method
        Called when the page asks for news. It is held weakly once no run goes on: what is shown
        stays, and the traces need not.
    """

    _esm = page_code("comparison")
    _css = CSS
    _document = traitlets.Unicode().tag(sync=True)
    _legend = traitlets.Dict().tag(sync=True)
    _version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    _library = traitlets.Any(None, allow_none=True).tag(
        sync=True, **ipywidgets.widget_serialization
    )
    _header = traitlets.Any(None, allow_none=True).tag(
        sync=True, to_json=lambda value, widget: widget.last[0]
    )
    _arrays = traitlets.Any(b"").tag(sync=True, to_json=lambda value, widget: widget.last[1])

    def __init__(self, more: Callable[[], None]) -> None:
        self._more = more
        self.last: tuple[Header | None, bytes] = (None, b"")
        super().__init__(
            _document=comparison_document(),
            _legend=comparison_legend(),
            _library=BokehJS.shared(),
        )
        self.on_msg(self._on_page)

    def show(self, header: Header, arrays: bytes) -> None:
        """Send the runs, unless the page has them as they are."""
        if (header, arrays) != self.last:
            self.last = (header, arrays)
            self.send({"kind": "runs", "header": header}, [arrays])
            if not header["live"] and inspect.ismethod(self._more):
                self._more = weakly(self._more)

    def _on_page(self, widget: ComparisonFigure, content: Message, buffers: list[bytes]) -> None:
        self._more()
