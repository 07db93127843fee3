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
