"""Install other versions of ipykernel, each in a folder to put before this Python's own packages.

export VITOOLKIT_IPYKERNELS=$(python tests/browser/make_kernels.py .venv/ipykernels 6.31.0 7.0.1)
"""

import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("6.29.5", "6.31.0", "7.0.1", "7.3.0")


def main(folder: str, *versions: str) -> None:
    """Install `versions`, and nothing else, below `folder`; print the folder."""
    root = Path(folder).absolute()
    wanted = versions or VERSIONS
    for other in root.glob("*"):
        if other.name not in wanted:
            shutil.rmtree(other)
    for version in wanted:
        if (root / version / "ipykernel").exists():
            continue
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--target", str(root / version)]
        subprocess.run([*command, f"ipykernel=={version}"], check=True, stdout=sys.stderr)
    print(root)


if __name__ == "__main__":
    main(*sys.argv[1:])
