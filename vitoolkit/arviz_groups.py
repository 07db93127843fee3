"""The record of a fit beside its draws, as groups of ArviZ."""

from __future__ import annotations

from typing import Any

from vitoolkit.export import GROUP
from vitoolkit.trace import Trace

__all__ = ["with_record"]


def with_record(posterior: Any, trace: Trace) -> Any:
    """Add the record of a fit to the draws from it.

    Parameters
    ----------
    posterior : arviz.InferenceData or xarray.DataTree
        What ``approx.sample`` of the installed PyMC returns; it is changed.
    trace : Trace
        The record.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        `posterior` with the groups ``fit`` (the ELBO over the steps, as pymc-extras has it),
        ``fit_stats`` (all else that is recorded of a step) and ``variational_trace`` (the whole
        record with its events, from which :meth:`Trace.open` reads it back).
    """
    record = trace.to_xarray()
    said = {key: record.attrs[key] for key in ("status", "verdict") if key in record.attrs}
    said["inference_library"] = "vitoolkit"
    groups = {"fit": record[["elbo"]], "fit_stats": record.drop_vars("elbo")}
    groups["fit_stats"] = groups["fit_stats"].drop_dims("coordinate", errors="ignore")
    for group in groups.values():
        group.attrs = dict(said)
    groups[GROUP] = record
    if hasattr(posterior, "add_groups"):  # ArviZ 0, with PyMC 5
        posterior.add_groups(groups, warn_on_custom_groups=False)
        return posterior
    import xarray

    for name, group in groups.items():
        posterior[name] = xarray.DataTree(group)
    return posterior
