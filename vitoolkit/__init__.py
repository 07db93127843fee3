"""Steer PyMC variational inference while it runs."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from vitoolkit import penalties, rules, schedules
from vitoolkit.attach import attach
from vitoolkit.callback import Callback, every
from vitoolkit.compiled import clear_cache
from vitoolkit.controls import Beta, Control, Draws, LearningRate, Switch
from vitoolkit.diagnose import Diagnosis, diagnose
from vitoolkit.events import Event
from vitoolkit.fit import Fit, fit, fit_async
from vitoolkit.inference import ADVI, FullRankADVI, KLqp
from vitoolkit.journal import Journal
from vitoolkit.lr_find import LRFind, lr_find
from vitoolkit.many import Fits, fit_many
from vitoolkit.monitor import KLMonitor
from vitoolkit.recorder import Recorder
from vitoolkit.recover import Recover
from vitoolkit.replay import Replay
from vitoolkit.resume import resume
from vitoolkit.stock import StockRun  # noqa: F401  # makes callbacks work in PyMC's own loop
from vitoolkit.stopping import StopWhenConverged
from vitoolkit.sweep import sweep
from vitoolkit.trace import Trace
from vitoolkit.vsbc import Calibration, vsbc
from vitoolkit.watch import watch

try:
    __version__ = version("vitoolkit")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    # controls
    "Control",
    "Beta",
    "LearningRate",
    "Draws",
    "Switch",
    "schedules",
    "rules",
    "penalties",
    # inference
    "KLqp",
    "ADVI",
    "FullRankADVI",
    # one call
    "fit",
    "fit_async",
    "fit_many",
    "sweep",
    "resume",
    "attach",
    "Recover",
    "diagnose",
    "Diagnosis",
    "vsbc",
    "Calibration",
    "lr_find",
    "LRFind",
    "Fit",
    "Fits",
    "clear_cache",
    # what is called during a fit
    "Callback",
    "every",
    "watch",
    "StopWhenConverged",
    # the record
    "Recorder",
    "Journal",
    "KLMonitor",
    "Replay",
    "Trace",
    "Event",
    # the panel, imported when it is first used
    "Dashboard",
    "Comparison",
]

_LAZY = {"Dashboard": "vitoolkit.dashboard", "Comparison": "vitoolkit.dashboard"}


def __getattr__(name: str):
    if name == "dashboard":  # for vitoolkit.dashboard.check()
        return import_module("vitoolkit.dashboard")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
