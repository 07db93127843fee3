"""The panel: the widgets of one fit, drawn and read at a pace that fit and page can bear."""

from __future__ import annotations

import html
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets

from vitoolkit.controls import Control, Switch
from vitoolkit.dashboard.actions import Actions
from vitoolkit.dashboard.control_row import ControlRow
from vitoolkit.dashboard.diagnose_button import DiagnoseButton
from vitoolkit.dashboard.lifetime import captured, close_widgets, weakly, when_gone
from vitoolkit.dashboard.live_figure import LiveFigure, StatusLine
from vitoolkit.dashboard.marimo import in_marimo, show_in_marimo
from vitoolkit.dashboard.protocols import Fit, Row
from vitoolkit.dashboard.switch_row import SwitchRow
from vitoolkit.decimation import View
from vitoolkit.means import final, final_kl
from vitoolkit.predictive import Predictive
from vitoolkit.snapshots import Snapshots
from vitoolkit.trace import Trace
from vitoolkit.verdict import verdict_of
from vitoolkit.views.ahead import Ahead
from vitoolkit.views.charts import penalties_of
from vitoolkit.views.clock import Clock
from vitoolkit.views.frame import Lines, frame_of, mean_now, points_for
from vitoolkit.views.ghost import Earlier, left_behind
from vitoolkit.views.marks import Marks
from vitoolkit.views.picture import summary_html
from vitoolkit.views.posterior import posterior_of
from vitoolkit.views.styles import control_styles, variable_styles
from vitoolkit.views.tables import active_text, diagnosis_section, shown_as

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

__all__ = ["Panel"]

#: Seconds between two pictures at least, and at most.
FASTEST, SLOWEST = 0.2, 2.0
#: Share of its time that a page may spend on drawing, and the fit on what it draws from.
PAGE_SHARE, FIT_SHARE = 1 / 4, 1 / 50
#: Pictures on their way that make a page a slow one; it gets one in so many seconds.
WAITING, SLOW_PAGE = 2, 1.0
#: Seconds between two looks at what is dear to know: active units, and whether it is done.
UNITS_EVERY, VERDICT_EVERY = 1.0, 2.0
#: Seconds between two questions to a page that was closed, whether there is one again.
AWAY = 5.0
#: Rows whose sliders are moved in one refresh: with dozens of controls they take turns.
ROWS_A_REFRESH = 4


class Panel:
    """The widgets of one fit.

    Parameters
    ----------
    fit : Fit
        What runs.
    controls : tuple of Control
    variables : sequence of str
    of_variable : dict of str to str
        The variable of each control that belongs to just one.
    notes : dict of str to str
        Words in place of the chart "loss" or "kl".
    notify : bool
        Whether the browser tells of the end, of NaN and of a standstill.
    earlier : Earlier, optional
        A run to be drawn softly behind.
    snapshots : Snapshots, optional
        Of q, while it is trained.
    predictive : Predictive, optional
        Sketches what q implies for the data.
    """

    def __init__(
        self,
        fit: Fit,
        controls: Sequence[Control],
        variables: Sequence[str],
        of_variable: Mapping[str, str],
        notes: Mapping[str, str],
        notify: bool = False,
        earlier: Earlier | None = None,
        snapshots: Snapshots | None = None,
        predictive: Predictive | None = None,
    ) -> None:
        self._made_of = (
            fit, controls, variables, of_variable, notes, notify, earlier, snapshots, predictive,
        )  # fmt: skip
        self.fit = fit
        self.variables = tuple(variables)
        styles = variable_styles(self.variables)
        self.scales = shown_as(controls)
        self.lines = [name for name, scale in self.scales.items() if scale != "switch"]
        self.figure = LiveFigure(
            styles,
            control_styles(self.lines, of_variable, styles),
            self.scales,
            notes=notes,
            measures=getattr(getattr(fit, "inference", None), "measures", ()),
            earlier=earlier,
            posterior=posterior_of(snapshots, styles),
            predictive=predictive is not None,
        )
        self._predictive = predictive
        self._chosen = Lines(self.variables)
        self._ahead = Ahead([control for control in controls if control.name in self.lines])
        self._marks, self._clock = Marks(), Clock()
        #: How many branches there were when one was drawn behind; None: something else is there.
        self._branches: int | None = 0 if earlier is None else None
        self.trace: Trace | None = None
        self.view: View | None = None
        self._sizes: dict[str, int] = {}
        self.actions = Actions(fit, self._record, self.scales, weakly(self._tell))
        self.status = StatusLine(
            self.actions.pause, notify=notify, layout=dict(flex="1 1 300px", min_width="0")
        )
        self.pause, self.stop = self.actions.pause, self.actions.stop
        self.rows: list[Row] = [
            ControlRow(control, self.say) for control in controls if not isinstance(control, Switch)
        ]
        for row in self.rows:
            if isinstance(row, ControlRow) and row.control.name in fit.unused:
                row.show_unused()
        self.rows += [SwitchRow(control) for control in controls if isinstance(control, Switch)]
        self._head = ipywidgets.HBox(
            [self.status, self.actions.buttons],
            layout=dict(flex_flow="row wrap", align_items="flex-start"),
        )
        grid = ipywidgets.Box([row.widgets[0] for row in self.rows])
        grid.add_class("vitoolkit-controls")
        self._helm = ipywidgets.VBox([self._head, self.actions.drawer, grid])
        self._helm.add_class("vitoolkit-helm")
        self.widget = ipywidgets.VBox([self._helm, self.figure])
        self.widget.add_class("vitoolkit-panel")
        self._handle: DisplayHandle | None = None
        self._elsewhere = False
        own = [*self.actions.widgets, grid, *(w for row in self.rows for w in row.widgets)]
        #: Closed with the panel, and what is added later, too.
        self._own: list[ipywidgets.Widget] = own
        when_gone(
            self, _leave_charts, self._helm, self._head, self.status, self.widget, self.figure, own
        )
        self.figure.on_kept = partial(close_widgets, [self.widget, *own])
        self._diagnosis: DiagnoseButton | None = None
        self._message = ""
        self._began = time.perf_counter()
        self._took: float | None = None
        self._pace: deque[tuple[float, int]] = deque(maxlen=30)
        self._due = 0.0
        self._turn = 0
        self._active, self._active_due = "", 0.0
        self._verdict, self._verdict_due = "", 0.0
        #: Seconds of Python and bytes that the last refresh took.
        self.cost = (0.0, 0)

    @property
    def open(self) -> bool:
        """Whether its widgets are there."""
        return self.widget.comm is not None

    @property
    def seen(self) -> bool:
        """Whether a page has shown it."""
        return self.status.seen

    def display(self) -> None:
        """Put the panel into the cell's output."""
        self._tell()
        if in_marimo():
            return show_in_marimo(self.widget)
        from IPython.display import display

        self._elsewhere = captured()
        self._handle = display(self.widget, display_id=True)

    def steered_by(self, way: str, words: str) -> None:
        """Say below, softly, how a hand at the panel gets here; on top, aloud, if it does not."""
        line = ipywidgets.HTML(html.escape(words))
        line.add_class("vitoolkit-steering")
        if way == "none":
            line.add_class("vitoolkit-loud")
            self.widget.children = (line, *self.widget.children)
        else:
            self.widget.children = (*self.widget.children, line)

    def watch(self, trace: Trace, rows: dict[str, int]) -> None:
        """Draw this trace from now on; `rows` of the data set belong to a local latent."""
        self.trace, self._sizes = trace, rows
        others = len(self.lines) + len(penalties_of(trace.measures))
        self.view = trace.view(points_for(len(self.variables), others))

    def refresh(self) -> None:
        """Draw, if it is time and the page keeps up."""
        now, figure = time.perf_counter(), self.figure
        if not figure.wanted:  # by a page that has come, or comes back
            if now < self._due:
                return
            if figure.gone:
                figure.ask()
                self._due = now + AWAY
                return
            if figure.waiting > WAITING and now < self._due + SLOW_PAGE:
                return  # a slow page, or one that cannot be heard: it gets a picture a second
        figure.wanted = False
        self._pace.append((now, self.fit.step))
        size = self._draw(self.fit.first + self.fit.n)
        self._tell()
        moved = 0
        for _ in self.rows:
            row = self.rows[self._turn % len(self.rows)]
            self._turn += 1
            moved += row.follow()
            if moved == ROWS_A_REFRESH:
                break
        took = time.perf_counter() - now
        self.cost = (took, size)
        drawing = figure.drawing_ms / 1000
        pause = max(FASTEST if figure.in_sight else SLOWEST, drawing / PAGE_SHARE, took / FIT_SHARE)
        self._due = now + min(pause, SLOWEST)

    def finish(self) -> None:
        """Show how it ended; the notebook keeps a picture, and the open page its charts in it."""
        self._active_due, self._took = 0.0, time.perf_counter() - self._began
        self._draw(self.fit.step - 1)
        self._tell()
        for row in self.rows:
            row.follow()
        if self._handle is not None and self.trace is not None:
            from IPython.display import HTML

            place = str(self.widget.model_id)
            picture = summary_html(
                self.trace, self.variables, self.scales, active=self._active, view=self.view,
                place=place,
            )  # fmt: skip
            self._handle.update(HTML(picture))
            if self._elsewhere:  # an Output widget takes no later word: the widgets stay
                self._offer_diagnosis()
            elif self.seen or self.figure.drawn or self.figure.adopted:
                # A page moves the charts into the picture, then they need no kernel.
                self.figure.leave(place, picture)
                self._offer_diagnosis(place)
            else:
                self.close()
        elif in_marimo():
            self._offer_diagnosis()

    def diagnosed(self) -> None:
        """Show the diagnosis that the record has: in the notebook, and by the button."""
        if self._diagnosis is None or self.trace is None:
            return
        if self._handle is not None and not self._elsewhere:
            from IPython.display import HTML

            picture = summary_html(
                self.trace, self.variables, self.scales, active=self._active, view=self.view,
                place=self._diagnosis.place,
            )  # fmt: skip
            self._handle.update(HTML(picture))
        self._diagnosis.tell(diagnosis_section(self.trace))

    def _offer_diagnosis(self, place: str = "") -> None:
        """Put a button into the panel, or into the picture that took its place."""
        if self.trace is None or not len(self.trace) or not hasattr(self.fit, "approx"):
            return
        found = diagnosis_section(self.trace)
        self._diagnosis = DiagnoseButton(weakly(self._diagnose), place=place, found=found)
        self._own.append(self._diagnosis)
        if not place:
            helm, *rest = self.widget.children
            self.widget.children = (helm, self._diagnosis, *rest)

    def _diagnose(self) -> None:
        from vitoolkit.diagnose import diagnose

        diagnose(getattr(self.fit, "approx", None))  # which tells the fit's callbacks

    def close(self) -> None:
        """Close the widgets; the page forgets them."""
        for row in self.rows:
            row.close()
        self.actions.close()
        close_widgets([self.widget, *self._own])

    def again(self) -> Panel:
        """Return this panel, to be shown in another place, or a new one where it is closed."""
        if self.open:
            self._elsewhere = True
            self.figure.on_kept = _stay  # the page may be about to have the charts of the cell
            return self
        panel = Panel(*self._made_of)
        panel._began, panel._took, panel._message = self._began, self._took, self._message
        panel._elsewhere = True
        if self.trace is not None:
            panel.watch(self.trace, self._sizes)
            panel._draw(self.fit.step - 1)
            panel._offer_diagnosis()
        panel._tell()
        return panel

    def _draw(self, end: float) -> int:
        if self.trace is None or self.view is None:
            return 0
        branches = len(self.trace.branches)
        if self._branches is not None and branches != self._branches:
            self._branches = branches
            if (behind := left_behind(self.trace)) is not None:
                self.figure.haunt(behind)
        self._chosen.picked = self.figure.picked  # at the end, the page has all lines and chooses
        frame = frame_of(
            self.view, self.variables, self.lines, end=end, smooth=self.figure.smooth,
            lines=self._chosen if self.fit.running else None, ahead=self._ahead,
            marks=self._marks, clock=self._clock,
        )  # fmt: skip
        if not self.fit.running:  # what the table says, too
            frame = frame._replace(now=final_kl(self.trace))
        now = time.perf_counter()
        if self.trace.parts and now >= self._active_due:
            self._active = active_text(self.trace, self._sizes)
            self._active_due = now + UNITS_EVERY
        told = None if self._predictive is None else self._predictive.told
        return self.figure.show(
            frame, active=self._active, predictive=told, last=not self.fit.running
        )

    def _record(self) -> Trace | None:
        """What is exported."""
        for followed in self._made_of:
            if self.trace is not None and isinstance(followed, Snapshots | Predictive):
                followed.write(self.trace.attrs)
        return self.trace

    def _tell(self) -> None:
        fit, now = self.fit, time.perf_counter()
        status: dict[str, Any] = {
            "phase": fit.status, "message": self._message, "holding": fit.holding, "n": fit.n,
            "saved": self.actions.saved,
        }  # fmt: skip
        if fit.status == "compiling":
            before = fit.took_before
            status.update(seconds=now - self._began, compiles=fit.compiles, before=before)
        else:
            done = fit.step - fit.first
            status.update(done=done, prepared=fit.prepared)
            if fit.status == "paused":
                self._pace.clear()
            if len(self._pace) > 1 and fit.status == "running":
                (then, earlier), (last, later) = self._pace[0], self._pace[-1]
                rate = (later - earlier) / (last - then)
                if rate > 0:
                    status.update(rate=rate, left=(fit.n - done) / rate)
        if fit.status not in ("compiling", "running", "paused"):
            status["took"] = now - self._began if self._took is None else self._took
            if fit.error is not None and not isinstance(fit.error, KeyboardInterrupt):
                status["message"] = f"{type(fit.error).__name__}: {fit.error}".partition("\n")[0]
        if self.view is not None and len(self.view):
            for name in ("loss", "elbo") if self.variables else ("loss",):
                view = self.view
                value = mean_now(view, name) if fit.running else final(view.trace, name)
                status[name] = _finite(value)
        if fit.status == "running" and self.trace is not None and now >= self._verdict_due:
            verdict = verdict_of(self.trace, near=True)
            self._verdict = verdict.text if verdict.kind in ("still", "falling", "noisy") else ""
            self._verdict_due = now + VERDICT_EVERY
        if not fit.running and self.trace is not None:
            self._verdict = self.trace.attrs.get("verdict", "")
        status["verdict"] = self._verdict
        self.status.status = status
        self.actions.show()

    def say(self, message: str) -> None:
        """Show a line of words below the status; "" takes it away."""
        if message != self._message:
            self._message = message
            self._tell()


def _stay() -> None:
    """Close nothing."""


def _leave_charts(
    helm: ipywidgets.VBox,
    head: ipywidgets.HBox,
    status: StatusLine,
    widget: ipywidgets.VBox,
    figure: LiveFigure,
    rest: list[ipywidgets.Widget],
) -> None:
    """Take away what a panel that nobody holds cannot do any more; its charts need no kernel."""
    if widget.comm is not None:
        figure.let_go()
        head.children, helm.children, widget.children = (status,), (head,), (helm, figure)
    close_widgets(rest)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
