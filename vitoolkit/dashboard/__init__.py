"""The dashboard: what a person sees and moves while a fit runs, in Jupyter."""

from vitoolkit.dashboard.comparison import Comparison
from vitoolkit.dashboard.dashboard import Dashboard

__all__ = ["Comparison", "Dashboard"]
