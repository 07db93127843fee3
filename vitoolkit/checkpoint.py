"""Everything a step changes, by name, saved so that it can be put back exactly."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vitoolkit.plain import from_plain, to_plain

__all__ = ["Checkpoint", "with_state"]


class Checkpoint:
    """Values of shared variables at one moment: arrays, and the states of random generators.

    Parameters
    ----------
    values : mapping of str to ndarray or dict
        By the name of the variable, such as ``"parameter[0]"``; of a generator, what
        ``bit_generator.state`` tells.

    Raises
    ------
    ValueError
        From :meth:`restore`, when the variables are others than those that were saved; the message
        names the difference.

    Examples
    --------
    >>> import pytensor
    >>> variables = {"parameter[0]": pytensor.shared(1.0)}
    >>> checkpoint = Checkpoint.of(variables)
    >>> variables["parameter[0]"].set_value(2.0)
    >>> Checkpoint.from_bytes(checkpoint.to_bytes()).restore(variables)
    >>> float(variables["parameter[0]"].get_value())
    1.0
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    @classmethod
    def of(cls, variables: Mapping[str, Any]) -> Checkpoint:
        """Save shared variables: parameters, the optimizer's state, random generators."""
        return cls({name: _saved(variable) for name, variable in variables.items()})

    def restore(self, variables: Mapping[str, Any]) -> None:
        """Put the values into shared variables of the same names; may be done again."""
        self.check(variables)
        for name, saved in self.values.items():
            if isinstance(saved, dict):
                variables[name].set_value(with_state(saved), borrow=True)
            else:
                variables[name].set_value(saved, borrow=False)

    def finite(self) -> bool:
        """Whether every number is."""
        return all_finite(self.values.values())

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of names, shapes and types, not of the values."""
        text = json.dumps({name: _kind(saved) for name, saved in sorted(self.values.items())})
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Write it down, as NumPy's ``.npz`` without anything pickled."""
        arrays = {k: v for k, v in self.values.items() if not isinstance(v, dict)}
        states = {k: to_plain(v) for k, v in self.values.items() if isinstance(v, dict)}
        file = io.BytesIO()
        text = np.frombuffer(json.dumps(states).encode(), np.uint8)
        np.savez(file, generators=text, **{f"array {k}": v for k, v in arrays.items()})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Read what :meth:`to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            arrays = {k.removeprefix("array "): found[k] for k in found.files if k != "generators"}
            states = from_plain(json.loads(found["generators"].tobytes()))
        return cls({**arrays, **states})

    def check(self, variables: Mapping[str, Any]) -> None:
        """Raise where the variables are others than those that were saved."""
        missing = sorted(self.values.keys() - variables.keys())
        new = sorted(variables.keys() - self.values.keys())
        if missing or new:
            raise ValueError(
                "this checkpoint is of another step function: "
                f"it has {', '.join(missing) or 'nothing'} that is not there, "
                f"and lacks {', '.join(new) or 'nothing'}"
            )
        for name, saved in self.values.items():
            here = _kind(variables[name].get_value(borrow=True))
            if here != _kind(saved):
                raise ValueError(
                    f"{name} of this checkpoint is {_kind(saved)}, and here it is {here}"
                )


def _saved(variable: Any) -> Any:
    value = variable.get_value(borrow=True)
    if isinstance(value, np.random.Generator):
        # Twenty times faster than a copy of the generator, and as exact.
        return value.bit_generator.state
    return np.array(value)


def _kind(value: Any) -> str:
    if isinstance(value, np.random.Generator):
        value = value.bit_generator.state
    if isinstance(value, dict):
        return str(value["bit_generator"])
    value = np.asarray(value)
    return f"{value.dtype} of shape {value.shape}"


def all_finite(values: Iterable[Any]) -> bool:
    """Whether no array among some values has a NaN or ±inf; what is no array of floats has none."""
    kinds = ((value, getattr(getattr(value, "dtype", None), "kind", "")) for value in values)
    return all(kind != "f" or bool(np.isfinite(value).all()) for value, kind in kinds)


def with_state(state: Mapping[str, Any]) -> np.random.Generator:
    """A new random generator in a state that ``bit_generator.state`` has told."""
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)
