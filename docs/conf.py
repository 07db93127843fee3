"""How the documentation is built: scripts/docs."""

import os
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "notebooks"
GALLERY = HERE / "gallery"

# The notebooks have their place beside the package; here are copies, made anew at every build.
GALLERY.mkdir(exist_ok=True)
for notebook in NOTEBOOKS.glob("*.ipynb"):
    copied = GALLERY / notebook.name
    if not copied.exists() or copied.read_bytes() != notebook.read_bytes():
        shutil.copy(notebook, copied)

project = "vitoolkit"
author = "The vitoolkit developers"
copyright = "2026, the vitoolkit developers"
version = release = version_of("vitoolkit")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute", "**/runs"]
templates_path = ["_templates"]
nitpicky = False

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# A build runs what has changed since the last one, and fails where a cell does. The gate's tests
# run the notebooks, so that its build of the pages need not.
nb_execution_mode = os.environ.get("NOTEBOOKS", "cache")
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]  # the live panel; its picture stands beside it

html_theme = "pydata_sphinx_theme"
html_title = "vitoolkit"
html_static_path = ["_static"]
html_theme_options = {
    "github_url": "https://github.com/vitoolkit/vitoolkit",
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "comparison": [], "changelog": []}
linkcheck_timeout = 20
linkcheck_ignore = [r"https://github\.com/vitoolkit/.*"]  # there from the first release on
