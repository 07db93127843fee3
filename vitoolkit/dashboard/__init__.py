"""The dashboard: what a person sees and moves while a fit runs, in a notebook."""

import sys
from importlib import import_module

from vitoolkit.dashboard.check import check
from vitoolkit.dashboard.comparison import Comparison
from vitoolkit.dashboard.dashboard import Dashboard

__all__ = ["Comparison", "Dashboard", "check"]

# What needs no kernel is in vitoolkit.views; its old names keep working.
for _name in ("ahead", "document", "frame", "marks", "report", "styles"):
    sys.modules[f"{__name__}.{_name}"] = import_module(f"vitoolkit.views.{_name}")
sys.modules[f"{__name__}.static_picture"] = import_module("vitoolkit.views.picture")
