import os
import sys

import pytest
from driver import Notebook, chromium, chromium_path, lab

REQUIRED = os.environ.get("VITOOLKIT_REQUIRE_BROWSER") == "1"
KERNEL6 = os.environ.get("VITOOLKIT_IPYKERNEL6_PYTHON")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


def lacking(what):
    """Skip, or fail where a browser is required."""
    if REQUIRED:
        pytest.fail(f"VITOOLKIT_REQUIRE_BROWSER=1, but {what}", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser():
    if chromium_path() is None:
        lacking("there is no Chromium on the path")
    try:
        import playwright  # noqa: F401
    except ImportError:
        lacking("playwright is not installed")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    try:
        import jupyterlab  # noqa: F401
    except ImportError:
        lacking("jupyterlab is not installed")
    kernels = {"python3": sys.executable}
    if KERNEL6:
        kernels["ipykernel6"] = KERNEL6
    with lab(tmp_path_factory.mktemp("lab"), kernels) as server:
        yield server


@pytest.fixture(params=["python3", "ipykernel6"])
def kernel(request):
    if request.param == "ipykernel6" and not KERNEL6:
        lacking("VITOOLKIT_IPYKERNEL6_PYTHON is not set; see tests/browser/make_kernel6.py")
    return request.param


@pytest.fixture
def notebook(request, browser, server, kernel):
    """Open a notebook of the given cells, ``notebook(*cells)``, or a whole one."""
    opened = []

    def make(*cells, **kwargs):
        name = f"{request.node.name.translate(str.maketrans('[]/ ', '____'))}.ipynb"
        whole = len(cells) == 1 and not isinstance(cells[0], str)
        server.write(name, cells[0] if whole else cells, kernel)
        opened.append(Notebook.open(browser, server, name, **kwargs))
        return opened[-1]

    yield make
    for notebook in opened:
        notebook.page.close()
    server.stop_kernels()
