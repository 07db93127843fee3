"""The quickstart itself in a real JupyterLab: someone drags β while its fit runs."""

import json
from pathlib import Path

import nbformat
import pytest
from conftest import TWO

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
STEPS = 20_000
REPORT = """
import json
trace.to_netcdf("dragged.nc")
again = vt.Trace.open("dragged.nc")
print(json.dumps({
    "equal": again.equals(trace),
    "status": again.attrs["status"],
    "beta": again.control["beta"].tolist(),
    "events": [event._asdict() for event in again.events],
}))
"""


def quickstart():
    """The notebook up to the trace of its first fit, and a cell that reports."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    (fit,) = [i for i in code if "dashboard = vt.Dashboard(beta, lr, paused=True" in sources[i]]
    after = code[code.index(fit) + 1]
    assert "trace = dashboard.trace" in sources[after]
    notebook.cells = [*notebook.cells[: after + 1], nbformat.v4.new_code_cell(REPORT)]
    return notebook, [i for i in code if i < fit], fit, after


@pytest.mark.parametrize("kernel", TWO, indirect=True)
def test_beta_dragged_in_the_fit_of_the_quickstart(notebook):
    source, before, fit, after = quickstart()
    page = notebook(source)
    for cell in before:
        page.run(cell)
    page.start(fit)
    page.wait_for_panel("paused", timeout=300)
    page.press("Start")
    page.wait_for_panel()
    page.wait("document.querySelector('.vitoolkit-figure').__vitoolkit.last?.step.length > 20")
    # Far down the page, and what nobody sees is not drawn.
    page.page.locator(".vitoolkit-chart").first.scroll_into_view_if_needed()
    page.wait("document.querySelector('.vitoolkit-figure').__vitoolkit.sources.loss.data.x.length")
    step_before, (_, loss_before) = page.step(), page.loss_points()
    page.drag_slider("beta", 60)
    step_after = page.later()
    drawn = "document.querySelector('.vitoolkit-figure').__vitoolkit.sources.loss.data.x"
    page.wait(f"{drawn}.at(-1) > {loss_before}")
    _, loss_after = page.loss_points()
    assert page.running(fit)
    assert 0 < step_before < step_after < STEPS
    assert loss_after > loss_before > 0  # the line grew while the cell ran
    assert page.row("beta").locator("button.vitoolkit-wheel").inner_text() == "manual"
    page.press("Stop")
    page.done(fit)
    page.run(after)
    page.run(after + 1)
    told = json.loads(page.text(after + 1))
    assert told["equal"] and told["status"] == "stopped"
    moved = [event for event in told["events"] if event["control"] == "beta"]
    assert [e["kind"] for e in told["events"][:2]] == ["pause", "resume"]
    assert moved and {(e["kind"], e["source"]) for e in moved} == {("set", "user")}
    for event in moved:  # a row holds the value that its step used
        assert told["beta"][event["step"]] == event["new"]
    assert step_before < moved[0]["step"] <= moved[-1]["step"] <= step_after
    assert told["beta"][-1] == moved[-1]["new"] > 0.3
    errors = [text for kind, text in page.console if kind in ("error", "pageerror")]
    assert not errors, errors
