"""Make an environment with ipykernel 6 in front of the packages of this one; print its Python.

export VITOOLKIT_IPYKERNEL6_PYTHON=$(python tests/browser/make_kernel6.py .venv-kernel6)
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

VERSION = "6.31.0"


def main(folder: str) -> None:
    root = Path(folder).absolute()
    python = root / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(root, with_pip=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    # Read after the environment's own packages, so that its ipykernel wins.
    here = sysconfig.get_path("purelib")
    Path(own.stdout.strip(), "main_environment.pth").write_text(
        f"import site; site.addsitedir({here!r})\n"
    )
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps"]
        + [f"ipykernel=={VERSION}"],
        check=True,
        stdout=sys.stderr,
    )
    print(python)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".venv-kernel6")
