"""Is the installed package whole? Run it in an environment that has nothing else in it."""

import sys
from importlib.resources import files

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

beta = vt.Beta(schedule=vt.schedules.linear(0.0, 1.0, steps=50))
dashboard = vt.Dashboard(beta)
with pm.Model():
    z = pm.Normal("z")
    pm.Normal("y", z, observed=[0.2, 1.1])
    pm.fit(
        100,
        method=vt.ADVI(beta=beta, random_seed=1),
        callbacks=[dashboard],
        progressbar=False,
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
assert len(dashboard.trace) == 100
assert beta.value == 1.0
print(f"vitoolkit {vt.__version__} with PyMC {pm.__version__}: {dashboard.trace!r}")
