import os
from pathlib import Path

import pytest
from driver import Notebook, Voila, chromium, chromium_path, lab

REQUIRED = os.environ.get("VITOOLKIT_REQUIRE_BROWSER") == "1"
#: Folder of other ipykernels, one a version; see make_kernels.py.
FOLDER = os.environ.get("VITOOLKIT_IPYKERNELS")
#: By name: the installed ipykernel, and folders of others.
KERNELS = {"newest": None} | {
    path.name: path for path in sorted(Path(FOLDER).glob("*") if FOLDER else ())
}
#: The kernels for what differs between them: ipykernel 6 queues messages in another way.
TWO = ("newest", "6.31.0")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


def lacking(what):
    """Skip, or fail where a browser is required."""
    if REQUIRED:
        pytest.fail(f"VITOOLKIT_REQUIRE_BROWSER=1, but {what}", pytrace=False)
    pytest.skip(what)


def needs(package):
    """Lack a package where it is not installed."""
    try:
        __import__(package)
    except ImportError:
        lacking(f"{package} is not installed")


@pytest.fixture(scope="session")
def browser():
    if chromium_path() is None:
        lacking("there is no Chromium on the path")
    needs("playwright")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    needs("jupyterlab")
    with lab(tmp_path_factory.mktemp("lab"), KERNELS) as server:
        yield server


@pytest.fixture
def kernel(request):
    """Name of the kernel: the newest one, unless the test is parametrized."""
    name = getattr(request, "param", "newest")
    if name not in KERNELS:
        lacking(f"VITOOLKIT_IPYKERNELS has no {name}; see tests/browser/make_kernels.py")
    return name


@pytest.fixture
def front(request):
    """Where a notebook is opened: "lab", "notebook" or "voila"."""
    name = getattr(request, "param", "lab")
    if name != "lab":
        needs(name)
    return name


@pytest.fixture
def notebook(request, browser, server, kernel, front):
    """Open a notebook of the given cells, ``notebook(*cells)``, or a whole one."""
    opened = []

    def make(*cells, **kwargs):
        name = f"{request.node.name.translate(str.maketrans('[]/ ', '____'))}.ipynb"
        whole = len(cells) == 1 and not isinstance(cells[0], str)
        server.write(name, cells[0] if whole else cells, kernel)
        if front == "voila":
            opened.append(Voila.open(browser, server, name, **kwargs))
        else:
            opened.append(Notebook.open(browser, server, name, front=front, **kwargs))
        return opened[-1]

    yield make
    for notebook in opened:
        notebook.page.close()
    server.stop_kernels()
