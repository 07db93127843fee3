import subprocess
import sys


def test_importing_vitoolkit_imports_neither_bokeh_nor_ipywidgets_nor_ipython():
    code = (
        "import sys, pymc; before = set(sys.modules); import vitoolkit; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = done.stdout.strip().splitlines()[-1]
    for heavy in ("bokeh", "ipywidgets", "anywidget", "IPython", "pandas"):
        assert f"'{heavy}'" not in added


def test_every_public_name_is_there():
    import vitoolkit

    for name in vitoolkit.__all__:
        assert getattr(vitoolkit, name) is not None


def test_names_of_before_are_still_there(tmp_path):
    from vitoolkit.dashboard.marks import acts_of  # noqa: F401
    from vitoolkit.dashboard.static_picture import summary_html  # noqa: F401

    from vitoolkit.controls import Control, distinct_controls, future_of  # noqa: F401
    from vitoolkit.export import READERS, describe, open_trace, to_csv, to_html, to_zarr
    from vitoolkit.loop import Block, Callback, Run, begin, execute  # noqa: F401
    from vitoolkit.objective import BetaKL, Latent, latents_of  # noqa: F401
    from vitoolkit.recorder import Recorder  # noqa: F401
    from vitoolkit.trace import RESERVED, TAIL, Columns, Part, Trace  # noqa: F401

    trace = Trace(variables=("z",))
    trace.append(0, 0.5, 9.0, -6.0, [1.25])
    path = to_csv(trace, tmp_path / "fit.csv")
    assert open_trace(path).equals(trace) and READERS[".csv"](path).equals(trace)
    assert describe(trace)["variables"] == ["z"] and callable(to_zarr)
    assert to_html(trace, tmp_path / "fit.html", title="A").read_text("utf-8").count("A") > 1
