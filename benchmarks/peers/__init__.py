"""Other libraries on the benchmarks' models, a module each with one interface.

``steps_a_second(model)`` takes the name of a model and returns a function ``steps -> steps a
second``, or raises NotImplementedError with the reason why the library does not have the model.
All are in float64 on the CPU, with Adam at the same rate and one draw a step, and draw a batch
every step where the model has minibatches.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

#: The packages that each peer needs.
PEERS = {
    "numpyro": ("numpyro",),
    "blackjax": ("blackjax",),
    "pymc_jax": ("jax",),
    "pymc_extras": ("pymc-extras",),
}


def missing(peer: str) -> list[str]:
    """Packages to install before a peer can run."""
    return [name for name in PEERS[peer] if find_spec(name.replace("-", "_")) is None]


def steps_a_second(peer: str, model: str) -> Callable[[int], float]:
    """The function ``steps -> steps a second`` of a peer."""
    return import_module(f"benchmarks.peers.{peer}").steps_a_second(model)
