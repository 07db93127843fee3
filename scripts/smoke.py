"""Is the installed package whole? Run it in an environment that has nothing else in it."""

import sys
from importlib.resources import files
from pathlib import Path

import pymc as pm

before = set(sys.modules)  # PyMC 5 brings Bokeh along where it is installed
import vitoolkit as vt  # noqa: E402

drawn_in = {"bokeh", "ipywidgets", "IPython"} & (set(sys.modules) - before)
assert not drawn_in, f"import vitoolkit imported {drawn_in}"
assert "site-packages" in vt.__file__, vt.__file__
packaged = {entry.name for entry in files("vitoolkit.views").joinpath("page").iterdir()}
assert any(name.endswith(".js") for name in packaged), packaged
assert any(name.endswith(".css") for name in packaged), packaged
assert files("vitoolkit").joinpath("py.typed").is_file()

# The README's example as it is printed there.
readme = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")
example = readme.split("```python\n")[1].split("```")[0]
names: dict = {}
exec(compile(example, "README.md", "exec"), names)
dashboard = names["dashboard"]
assert len(dashboard.trace) == 20_000
assert names["beta"].value == 1.0
print(f"vitoolkit {vt.__version__} with PyMC {pm.__version__}: {dashboard.trace!r}")
