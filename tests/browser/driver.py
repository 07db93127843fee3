"""A real JupyterLab, Notebook 7 and Voila in a real Chromium: open notebooks, move widgets.

with lab(folder, kernels={"newest": None}) as server, chromium() as browser:
    page = Notebook.open(browser, server, server.write("run.ipynb", ["1 + 1"], "newest"))
    page.run(0)
    page.drag_slider("beta", 100)
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
WIDGET = "window.jupyterapp.shell.currentWidget"
COMMANDS = "window.jupyterapp.commands"
#: A cell with a model that FAST_COMPILE compiles in a second.
REGRESSION = """
import numpy as np, pymc as pm
import vitoolkit as vt
rng = np.random.default_rng(1)
x = rng.normal(size=(200, 3))
with pm.Model() as model:
    intercept = pm.Normal("intercept", 0, 10)
    w = pm.Normal("w", 0, 1, shape=3)
    pm.Normal("y", intercept + x @ w, 0.5, observed=x @ [1.0, -2.0, 0.5] + 0.3)
"""


def chromium_path():
    """Chromium on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def kernel_spec(name, packages=None):
    """What a ``kernel.json`` says of this Python, with other packages in front of its own."""
    path = [str(packages)] * bool(packages) + [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "env": {"PYTHONPATH": os.pathsep.join(path).rstrip(os.pathsep)},
        "display_name": name,
        "language": "python",
    }


class Server:
    """A running Jupyter server."""

    def __init__(self, folder, url, process):
        self.folder, self.url, self.process = Path(folder), url, process

    def write(self, name, cells, kernel="newest"):
        """Write a notebook: of code cells by their source, or a whole one."""
        if isinstance(cells, nbformat.NotebookNode):
            notebook = cells
        else:
            notebook = nbformat.v4.new_notebook()
            notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
        notebook.metadata["kernelspec"] = {
            "name": kernel,
            "display_name": kernel,
            "language": "python",
        }
        nbformat.write(notebook, self.folder / name)
        return name

    def stop_kernels(self):
        """Shut all kernels down."""
        for kernel in json.load(urllib.request.urlopen(f"{self.url}/api/kernels")):
            request = urllib.request.Request(
                f"{self.url}/api/kernels/{kernel['id']}", method="DELETE"
            )
            urllib.request.urlopen(request)


@contextlib.contextmanager
def lab(folder, kernels, *, dark=False, env=()):
    """Start a Jupyter server on a free loopback port, with its settings and kernels in `folder`.

    JupyterLab, Notebook 7 and Voila are all at home there, as far as they are installed.

    Parameters
    ----------
    folder : path
        Served folder; holds the configuration as well.
    kernels : dict of str to path or None
        By name of the kernel: a folder with another ipykernel, see make_kernels.py.
    dark : bool
        Whether to start in the dark theme.
    env : mapping
        More environment variables for the server and its kernels.
    """
    folder = Path(folder)
    home = folder / ".jupyter_home"
    for name, packages in kernels.items():
        spec = home / "data" / "kernels" / name
        spec.mkdir(parents=True, exist_ok=True)
        spec.joinpath("kernel.json").write_text(json.dumps(kernel_spec(name, packages)))
    settings = home / "settings" / "@jupyterlab"
    for plugin, content in {
        "apputils-extension/themes": {"theme": f"JupyterLab {'Dark' if dark else 'Light'}"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = settings / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        **dict(env),
    }
    log = open(home / "server.log", "w")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
        + [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
        + ["--ServerApp.password=", f"--ServerApp.root_dir={folder}", "--allow-root"]
        + [
            "--ServerApp.disable_check_xsrf=True",
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            "--LabApp.news_url=None",
        ],
        env=variables,
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    server = Server(folder, f"http://127.0.0.1:{port}", process)
    try:
        for _ in range(1200):  # five minutes: a busy machine takes more than one
            try:
                urllib.request.urlopen(f"{server.url}/api/status", timeout=5)
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError((home / "server.log").read_text()) from None
                time.sleep(0.25)
        else:
            raise TimeoutError((home / "server.log").read_text())
        yield server
        server.stop_kernels()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@contextlib.contextmanager
def chromium():
    """Start a headless Chromium that never asks the network for anything but the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            + ["--disable-component-update", "--disable-sync", "--no-first-run"],
        )
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A page that a panel is in."""

    def __init__(self, page, server, name):
        self.page, self.server, self.name = page, server, name
        self.console, self.requests = [], []
        page.on("console", lambda message: self.console.append((message.type, message.text)))
        page.on("pageerror", lambda error: self.console.append(("pageerror", str(error))))
        page.on("request", lambda request: self.requests.append(request.url))

    def wait(self, condition, *, timeout=90, what=None):
        """Wait until a JavaScript expression is true."""
        try:
            # At every frame, as Playwright does of itself, is more than the page has to do.
            self.page.wait_for_function(f"() => ({condition})", timeout=timeout * 1000, polling=50)
        except Exception as error:
            raise TimeoutError(
                f"waited {timeout} s for {what or condition}; console: {self.console[-8:]}"
            ) from error

    def wait_for_panel(self, phase="running", timeout=120):
        """Wait until a panel shows the given phase and its charts are drawn."""
        self.page.wait_for_selector(
            f".vitoolkit-status[data-phase='{phase}']", timeout=timeout * 1000
        )
        if phase == "running":
            self.page.wait_for_selector(
                ".vitoolkit-figure[data-empty='false']", timeout=timeout * 1000
            )

    def status(self):
        """Text of the status line."""
        return self.page.locator(".vitoolkit-status").first.inner_text()

    def step(self):
        """Number of steps done, as the page shows it."""
        words = self.status().replace(",", "").split()
        return int(words[words.index("step") + 1])

    def later(self):
        """Wait until the page shows a later step than now, with all that was said before it."""
        now = self.step()
        words = "document.querySelector('.vitoolkit-status').innerText.replaceAll(',', '')"
        self.wait(f"Number(/step\\s+(\\d+)/.exec({words})?.[1]) > {now}", what="a later step")
        return self.step()

    def row(self, control):
        """Row of a control."""
        return self.page.locator(
            ".vitoolkit-controls .vitoolkit-control",
            has=self.page.locator(f".vitoolkit-name:text-is('{control}')"),
        ).first

    def handle(self, control):
        """Slider of a control."""
        slider = self.row(control).locator("input[type=range]")
        slider.scroll_into_view_if_needed()
        return slider

    def thumb(self, slider):
        """Where the middle of a slider's thumb is, which is 24 px wide."""
        box, place = slider.bounding_box(), float(slider.input_value())
        return box["x"] + 12 + place * (box["width"] - 24), box["y"] + box["height"] / 2

    def watch_hand(self, control):
        """Note from now on when a key or the mouse moved a slider, and to where."""
        self.handle(control).evaluate(
            """(handle) => {
              const moves = (window.__moves = []);
              let time = 0;
              const note = () => { time = (performance.timeOrigin + performance.now()) / 1000; };
              document.addEventListener('keydown', note, true);
              document.addEventListener('pointermove', note, true);
              handle.closest('.vitoolkit-control')
                .addEventListener('vitoolkit-moved', ({ detail }) => moves.push([time, detail]));
            }"""
        )

    def arrived(self, control):
        """Wait until the kernel has answered the last move."""
        self.row(control).evaluate("(row) => { window.__row = row.__vitoolkit; }")
        self.wait("!window.__row.waiting", what=f"an answer to the last move of {control}")

    def moves(self):
        """Time and value of every move since :meth:`watch_hand` or the last call."""
        return self.page.evaluate("() => window.__moves.splice(0)")

    def press_key(self, control, key, *, times, seconds):
        """Press a key on a slider so many times in so many seconds."""
        self.handle(control).focus()
        for _ in range(times):
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(1000 * seconds / times)
        self.arrived(control)

    def drag_slider(self, control, dx, *, moves=20, seconds=0.8):
        """Drag the handle of a control's slider by `dx` pixels."""
        handle = self.handle(control)
        x, y = self.thumb(handle)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for move in range(moves):
            self.page.mouse.move(x + dx * (move + 1) / moves, y)
            self.page.wait_for_timeout(1000 * seconds / moves)
        self.page.mouse.up()
        self.arrived(control)

    def held(self, control, who):
        """Wait until a control's button says who moves it, "auto" or "manual"."""
        self.row(control).locator(f"button.vitoolkit-wheel:text-is('{who}')").wait_for()

    def type_number(self, control, value):
        """Type a number into a control's box and press Enter."""
        box = self.row(control).locator("input[type=number]")
        box.fill(str(value))
        box.press("Enter")
        self.arrived(control)

    def press(self, text, panel=0):
        """Press a button of a panel."""
        panels = self.page.locator(".vitoolkit-panel")
        panels.nth(panel).locator(f"button:has-text('{text}')").first.click()

    def loss_points(self):
        """Number of points of the loss line and its last step, as drawn on the page."""
        return self.page.evaluate(
            """() => { const chart = document.querySelector('.vitoolkit-figure').__vitoolkit;
            const x = chart.sources.loss.data.x; return [x.length, x[x.length - 1]]; }"""
        )


class Notebook(Page):
    """A notebook open in JupyterLab or in Notebook 7."""

    front = "lab"

    @classmethod
    def open(cls, browser, server, name, *, front="lab", width=1300, height=1250):
        """Open a notebook with its kernel in a page of its own, in "lab" or in "notebook"."""
        notebook = cls(browser.new_page(viewport={"width": width, "height": height}), server, name)
        notebook.front = front
        notebook.load(reset=True)
        notebook.wait(
            f"{WIDGET}.sessionContext.session?.kernel?.status === 'idle'", what="the kernel"
        )
        notebook.wait_for_answer()
        # More room for the notebook.
        notebook.page.evaluate(
            "() => { for (const s of ['left', 'right']) {"
            " window.jupyterapp.shell[s === 'left' ? 'collapseLeft' : 'collapseRight'](); } }"
        )
        return notebook

    def load(self, *, reset=False):
        """Load or reload the page."""
        if self.front == "lab":
            address = f"lab/tree/{self.name}" + ("?reset" if reset else "")
        else:
            address = f"notebooks/{self.name}"
        self.page.goto(f"{self.server.url}/{address}")
        self.wait("window.jupyterapp?.shell?.currentWidget?.sessionContext", what="the notebook")
        self.page.evaluate(
            f"async () => {{ await {WIDGET}.context.ready; await {WIDGET}.sessionContext.ready; }}"
        )

    def wait_for_answer(self):
        """Wait until the kernel answers; a question that came while it still began may be lost."""
        for _ in range(6):
            answered = self.page.evaluate(
                f"""() => Promise.race([
                  {WIDGET}.sessionContext.session.kernel.requestKernelInfo().then(() => true),
                  new Promise((resolve) => setTimeout(resolve, 15000, false)),
                ])"""
            )
            if answered:
                return
        raise TimeoutError(f"the kernel does not answer: {self.kernel_state()}")

    def kernel_state(self):
        """What the page knows of its kernel, and the end of the server's log."""
        state = self.page.evaluate(
            f"""() => {{
              const kernel = {WIDGET}.sessionContext.session?.kernel;
              return `${{kernel?.name}} is ${{kernel?.status}}, ${{kernel?.connectionStatus}}`;
            }}"""
        )
        log = self.server.folder / ".jupyter_home" / "server.log"
        return f"{state}; {log.read_text()[-600:]}"

    def start(self, cell):
        """Run a cell without waiting for it; several queue up as in the notebook."""
        self.page.evaluate(
            f"""(i) => {{
              const content = {WIDGET}.content, done = (window.__done ??= {{}});
              content.activeCellIndex = i;
              content.deselectAll();
              done[i] = false;
              {COMMANDS}.execute('notebook:run-cell').then(() => {{ done[i] = true; }});
            }}""",
            cell,
        )

    def done(self, cell, timeout=120):
        """Wait until a cell that was started has ended."""
        try:
            self.wait(f"window.__done[{cell}]", timeout=timeout, what=f"cell {cell}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.kernel_state()}") from error

    def run(self, cell, timeout=120):
        """Run a cell and wait for its end."""
        self.start(cell)
        self.done(cell, timeout)

    def running(self, cell):
        """Whether a started cell still runs."""
        return not self.page.evaluate("(i) => window.__done[i]", cell)

    def interrupt(self):
        """Press the notebook's stop button."""
        self.page.evaluate(f"() => {{ {COMMANDS}.execute('notebook:interrupt-kernel'); }}")

    def save(self):
        """Save the notebook and return it as it is on disk."""
        self.page.evaluate(f"async () => {{ await {COMMANDS}.execute('docmanager:save'); }}")
        return nbformat.read(self.server.folder / self.name, as_version=4)

    def outputs(self, cell):
        """The outputs of a cell in the notebook's model."""
        return self.page.evaluate(
            f"(i) => {WIDGET}.content.widgets[i].model.outputs.toJSON()", cell
        )

    def text(self, cell):
        """Everything a cell printed."""
        outputs = self.outputs(cell)
        return "".join(output.get("text", "") for output in outputs)

    def theme(self, dark):
        """Switch JupyterLab's theme."""
        self.page.evaluate(
            f"async (theme) => {{ await {COMMANDS}.execute('apputils:change-theme', {{theme}}); }}",
            f"JupyterLab {'Dark' if dark else 'Light'}",
        )
        self.page.wait_for_timeout(1500)

    def screenshot(self, path, cell=None):
        """Take a picture of the page, or of a cell's output."""
        if cell is None:
            self.page.screenshot(path=path)
        else:
            self.page.locator(".jp-Cell-outputArea").nth(cell).screenshot(path=path)


class Voila(Page):
    """A notebook shown as an application by Voila."""

    @classmethod
    def open(cls, browser, server, name, *, width=1300, height=1250):
        """Open a notebook; Voila shows it when all of its cells have ended."""
        page = cls(browser.new_page(viewport={"width": width, "height": height}), server, name)
        page.page.goto(f"{server.url}/voila/render/{name}", timeout=180_000)
        return page
