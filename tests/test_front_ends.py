"""No front end at all: nbconvert, papermill and a plain script run the very cells of a notebook."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FIT = """
import json
import pymc as pm, vitoolkit as vt
beta = vt.Beta(1.0)
dashboard = vt.Dashboard(beta)
with pm.Model():
    z = pm.Normal("z")
    pm.Normal("y", z, observed=[0.2, 1.1])
    pm.fit(
        200, method=vt.ADVI(beta=beta, random_seed=1), callbacks=[dashboard],
        compile_kwargs={"mode": "FAST_COMPILE"}, progressbar=False,
    )
"""
TELL = """
print(len(dashboard.trace), dashboard.trace.attrs["status"], dashboard.trace.events, beta.value)
"""
TOLD = "200 finished () 1.0"
COMMANDS = {
    "nbconvert": [
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output",
        "out",
        "in.ipynb",
    ],
    "papermill": ["-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar"],
    "plain": ["script.py"],
}


@pytest.mark.parametrize("way", COMMANDS)
def test_without_a_front_end_the_fit_runs_to_its_end_and_is_recorded(way, tmp_path):
    if way == "papermill":
        pytest.importorskip("papermill")
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (FIT, TELL)]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    (tmp_path / "script.py").write_text(FIT + TELL)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", *COMMANDS[way]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    if way == "plain":
        assert done.stdout.strip() == TOLD and "Warning" not in done.stderr
        return
    first, second = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-2:]
    assert second.outputs[0].text.strip() == TOLD
    (picture,) = [output for output in first.outputs if "data" in output]
    assert "finished after 200 steps" in picture.data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in picture.data
    said = "".join(o.text for o in first.outputs if o.get("name") == "stderr")
    assert "Warning" not in said.replace("BLAS", "")
