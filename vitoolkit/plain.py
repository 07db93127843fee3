"""What JSON can hold of numbers, arrays and containers, and the way back to the very same bits."""

from __future__ import annotations

import base64
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["from_plain", "to_plain"]

#: Kinds of NumPy's types that are kept: booleans, integers, floats and complex numbers.
_KINDS = "biufc"
_NAN = struct.pack("<d", float("nan"))


def _refused(value: Any) -> Any:
    raise TypeError(
        "JSON can hold numbers, strings, arrays of numbers, and lists, tuples, deques and dicts of "
        f"these, received {type(value).__name__}"
    )


def to_plain(value: Any, other: Callable[[Any], Any] = _refused) -> Any:
    """What JSON can hold in the place of a value.

    Parameters
    ----------
    value : object
        None, a bool, number or string, a NumPy scalar or array of numbers, or a list, tuple, deque,
        or dict of these with strings as keys.
    other : callable, optional
        Gives what stands for a value that is none of these, which must itself be plain.

    Raises
    ------
    TypeError
        By default, when a value is none of these.

    Examples
    --------
    >>> import json
    >>> import numpy as np
    >>> kept = json.dumps(to_plain({"z": np.array([0.1, np.nan], "float32"), "n": (1, 2)}))
    >>> from_plain(json.loads(kept))
    {'z': array([0.1, nan], dtype=float32), 'n': (1, 2)}
    """
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS:
        array = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
        told = {
            "__array__": base64.b64encode(array.tobytes()).decode(),
            "dtype": array.dtype.str,
            "shape": list(array.shape),
        }
        return told if isinstance(value, np.ndarray) else {**told, "scalar": True}
    if type(value) is float and value != value and struct.pack("<d", value) != _NAN:
        return {"__nan__": struct.pack("<d", value).hex()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [to_plain(item, other) for item in value]
    if type(value) is tuple:
        return {"__tuple__": [to_plain(item, other) for item in value]}
    if type(value) is deque:
        return {"__deque__": [to_plain(item, other) for item in value], "most": value.maxlen}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_plain(item, other) for key, item in value.items()}
    return other(value)


def from_plain(item: Any, other: Callable[[dict[str, Any]], Any] = lambda item: item) -> Any:
    """The value that :func:`to_plain` told of; nothing is run.

    Parameters
    ----------
    item : object
        As JSON gives it back.
    other : callable, optional
        Given a dict whose items have been made already: what it stands for.
    """
    if isinstance(item, list):
        return [from_plain(one, other) for one in item]
    if not isinstance(item, dict):
        return item
    if "__array__" in item:
        dtype = np.dtype(item["dtype"])
        if dtype.kind not in _KINDS:
            raise ValueError(f"an array of {dtype} is not one of numbers")
        array = np.frombuffer(bytearray(base64.b64decode(item["__array__"])), dtype)
        array = array.reshape(item["shape"]).astype(dtype.newbyteorder("="), copy=False)
        return array[()] if "scalar" in item else array
    if "__nan__" in item:
        return struct.unpack("<d", bytes.fromhex(item["__nan__"]))[0]
    if "__tuple__" in item:
        return tuple(from_plain(one, other) for one in item["__tuple__"])
    if "__deque__" in item:
        return deque((from_plain(one, other) for one in item["__deque__"]), item["most"])
    return other({key: from_plain(one, other) for key, one in item.items()})
