"""The terms of a fit whose inference vitoolkit did not build."""

from __future__ import annotations

import copy
import time
import weakref
from typing import Any

import numpy as np
import pytensor
from pymc.pytensorf import collect_default_updates, compile, reseed_rngs
from pymc.variational.opvi import Approximation
from pytensor.graph.replace import graph_replace

from vitoolkit.checks import whole_number
from vitoolkit.objective import BetaKL
from vitoolkit.steps import counter_of

__all__ = ["KLMonitor"]

_FUNCTIONS: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


class KLMonitor:
    """Data term and KL contributions of an approximation, within a budget of time.

    An inference of PyMC's own does not hand its terms out. The monitor evaluates them in a compiled
    function of its own, on draws of its own, so that the fit's numbers stay what they are. The
    function is compiled once for a model and a kind of approximation, and used again by later fits.

    Parameters
    ----------
    budget : float
        Largest share of the fit's time that evaluations may take, between 0 and 1. The compilation,
        once, is not counted.
    every : int, optional
        Evaluate when a multiple of so many steps was taken, and at no other step, whatever the
        budget says. A law that reads the terms then gives the same run from the same seed; the
        budget goes by the clock.
    draws : int
        Draws from the approximation for one evaluation.
    random_seed : int, optional
        Seed of the draws; default is one that follows from the seed of the fit.
    compile_kwargs : dict, optional
        Passed to the compiler.

    Attributes
    ----------
    compile_seconds : float
        Time spent compiling so far.
    evaluate_seconds : float
        Time spent evaluating in the present fit.
    elapsed_seconds : float
        Time of the present fit up to the last evaluation, without the compilation.
    terms : dict
        The last evaluation in nats, ``{"data": ..., "kl": {variable: ...}}``.

    Raises
    ------
    TypeError, ValueError
        When the budget is not between 0 and 1, or `every` or `draws` is no whole number from 1 up.

    See Also
    --------
    vitoolkit.Recorder : Takes a monitor and records what it finds.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> monitor = vt.KLMonitor(random_seed=1)
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     approx = pm.fit(500, callbacks=[monitor], random_seed=1, progressbar=False)
    >>> sorted(monitor.terms["kl"])
    ['z']
    """

    def __init__(
        self,
        *,
        budget: float = 0.05,
        every: int | None = None,
        draws: int = 1,
        random_seed: int | None = None,
        compile_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not 0 < budget < 1:
            raise ValueError(f"budget is a share of the fit's time between 0 and 1, got {budget!r}")
        self.budget = float(budget)
        self.every = None if every is None else whole_number("every", every, least=1, of="steps")
        self.draws = whole_number("draws", draws, least=1)
        self.random_seed = random_seed
        self.compile_kwargs = dict(compile_kwargs or {})
        self.compile_seconds = self.evaluate_seconds = self.elapsed_seconds = 0.0
        self.evaluations = 0
        self.terms: dict[str, Any] = {}
        self._approx: Any = None
        self._function: Any
        self._variables: tuple[str, ...] = ()

    def variables(self, approx: Approximation) -> tuple[str, ...]:
        """Names of the KL terms of an approximation; none when it states no log q."""
        try:
            return BetaKL(approx, {}).variables
        except TypeError:
            return ()

    def evaluate(self, approx: Approximation, *, always: bool = False) -> np.ndarray | None:
        """Evaluate the terms, unless that would overdraw the budget.

        Parameters
        ----------
        approx : Approximation
            The approximation as it is now.
        always : bool
            Whether to evaluate whatever the budget says.

        Returns
        -------
        numpy.ndarray or None
            Data term and KL contributions, shape (1 + variables,), nats.

        Raises
        ------
        TypeError
            When the approximation states no log q.
        """
        if self._approx is None or self._approx() is not approx:
            self._start(approx)
        begun = time.perf_counter()
        elapsed = begun - self._started
        expected = self.evaluate_seconds / self.evaluations if self.evaluations else 0.0
        if not always and self.evaluate_seconds + expected > self.budget * elapsed:
            return None
        row = self._function(*_values(approx))
        now = time.perf_counter()
        self.evaluations += 1
        self.evaluate_seconds += now - begun
        self.elapsed_seconds = now - self._started
        data, *kl = row.tolist()
        self.terms = {"data": data, "kl": dict(zip(self._variables, kl, strict=True))}
        return row

    def __call__(self, approx, losses, i) -> None:
        """PyMC's callback."""
        if self.every is None:
            self.evaluate(approx)
        elif (counter_of(approx).tick(losses, i) + 1) % self.every == 0:
            self.evaluate(approx, always=True)

    def __repr__(self) -> str:
        spent = ""
        if self.elapsed_seconds:
            share = self.evaluate_seconds / self.elapsed_seconds
            spent = f", {self.evaluations:,} evaluations took {share:.1%} of the fit"
        when = f"budget {self.budget:.0%}" if self.every is None else f"every {self.every:,} steps"
        return f"<KLMonitor, {when}{spent}>"

    def _start(self, approx: Approximation) -> None:
        op = BetaKL(approx, {})
        self._variables = op.variables
        amortized = any(group.user_params is not None for group in approx.groups)
        functions = {} if amortized else _FUNCTIONS.setdefault(approx.model, {})
        kinds = tuple((type(group), tuple(group.ordering)) for group in approx.groups)
        key = (kinds, self.draws, repr(self.compile_kwargs))
        if key not in functions:
            begun = time.perf_counter()
            functions[key] = self._compile(approx, op), self._generators
            functions[key][0](*_values(approx))  # Numba compiles at the first call
            self.compile_seconds += time.perf_counter() - begun
        self._function, generators = functions[key]
        reseed_rngs(generators, self._seed(approx))
        self._approx = weakref.ref(approx)
        self._started = time.perf_counter()
        self.evaluate_seconds, self.evaluations = 0.0, 0

    def _seed(self, approx: Approximation) -> int | None:
        """The seed, or one that is drawn from a copy of the fit's own generator."""
        if self.random_seed is not None or getattr(approx, "rng", None) is None:
            return self.random_seed
        return int(copy.deepcopy(approx.rng).randint(2**30))

    def _compile(self, approx: Approximation, op: BetaKL) -> Any:
        _, terms, _ = op.drawn(self.draws)
        # The fit's own generators, of the minibatch above all, must not move.
        generators = {
            rng: pytensor.shared(np.random.default_rng())
            for rng in collect_default_updates([terms])
        }
        parameters = {parameter: parameter.type() for parameter in approx.params}
        (terms,) = graph_replace([terms], {**generators, **parameters}, strict=False)
        function = compile(list(parameters.values()), terms, **self.compile_kwargs)
        self._generators = list(generators.values())
        return function


def _values(approx: Approximation) -> list[Any]:
    return [parameter.get_value(borrow=True) for parameter in approx.params]
