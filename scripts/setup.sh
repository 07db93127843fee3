# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment with this package in it.
#
# PYTHON  interpreter to use, Python 3.11 or later (default: python3)
# VENV    folder of the environment (default: .venv-<version>)

fail() {
    echo "$*" >&2
    exit 1
}

# need_package COMMAND PACKAGE: install a Debian package if COMMAND is not there; 1 if that is not possible.
need_package() {
    local sudo=()
    if command -v "$1" >/dev/null; then return 0; fi
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        sudo=(sudo)
    fi
    echo "Installing $2, which brings $1 ..."
    "${sudo[@]}" apt-get update -qq &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
}

# setup EXTRA: make the environment if need be, install the package with EXTRA, set $python and $bin.
setup() {
    local base=${PYTHON:-python3} version stamp
    command -v "$base" >/dev/null || fail "$base is not there: set PYTHON to Python 3.11 or later"
    version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "vitoolkit needs Python 3.11 or later and $base is $version: set PYTHON to a later one"
    VENV=${VENV:-.venv-$version}
    bin=$VENV/bin
    python=$bin/python
    if ! [ -x "$bin/pip" ]; then
        echo "Making the environment $VENV with Python $version ..."
        if "$base" -c 'import ensurepip' 2>/dev/null; then
            "$base" -m venv "$VENV"
        else # Debian without python3-venv
            "$base" -m venv --without-pip "$VENV"
            "$base" -m pip --quiet --python "$python" install pip
        fi
    fi
    stamp=$VENV/.vitoolkit-$1
    if ! [ "$stamp" -nt pyproject.toml ]; then
        echo "Installing vitoolkit[$1] and what it needs; the first time takes a few minutes ..."
        if command -v uv >/dev/null; then
            uv pip install --quiet --python "$python" -e ".[$1]"
        else
            "$python" -m pip install --quiet --disable-pip-version-check -e ".[$1]"
        fi
        touch "$stamp"
    fi
    if [ "$version" = 3.11 ]; then # PyMC 5 compiles with C++, PyMC 6 does not
        need_package g++ g++ || echo "No C++ compiler was found: PyMC 5 will be very slow" >&2
        "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
            need_package python3.11-config python3-dev ||
            echo "Python.h was not found: PyMC 5 will be very slow" >&2
    fi
    "$python" -c 'import sys, pymc; print(f"Python {sys.version.split()[0]}, PyMC {pymc.__version__}")'
}
