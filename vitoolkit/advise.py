"""Warnings that point at the line a person wrote, however deep in the libraries they arise."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pymc

__all__ = ["warn_user"]

_OURS = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, str(pymc.__file__)))


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither of vitoolkit nor of PyMC.

    Parameters
    ----------
    message : str
    category : type of Warning

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warn_user("beta ended at 0.5")
    >>> print(told[0].message)
    beta ended at 0.5
    """
    frame, level = sys._getframe(1), 2
    # Python 3.12 has skip_file_prefixes for this, 3.11 has not.
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
