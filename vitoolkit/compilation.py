"""What makes steps faster than PyTensor's own mode, with the same numbers up to rounding."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode, optdb
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.jax import JAXLinker
from pytensor.link.numba import NumbaLinker
from pytensor.tensor.basic import switch
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import exp, log1p, maximum, neg, sigmoid, softplus
from pytensor.tensor.type import float_dtypes

from vitoolkit.triangle import known_to

__all__ = ["ROWS", "compile_for", "compile_now", "faster", "takes_rows"]

_TAG = "vitoolkit"
#: How the names of inputs begin that have a row for each step.
ROWS = "vitoolkit rows"


def faster(mode: Mode) -> Mode:
    """Return the mode with vitoolkit's rewrites and, on Numba, a cheaper way into its functions."""
    if not isinstance(mode.provided_optimizer, RewriteDatabaseQuery):
        return mode
    known_to(mode.linker)
    linker, optimizer = mode.linker, mode.provided_optimizer.including(_TAG)
    # The PyTensor of PyMC 5.26 enters its functions in another way, and goes its own.
    if type(linker) is NumbaLinker and find_spec("pytensor.link.numba.cache") is not None:
        from vitoolkit import elementary  # imports Numba

        linker, optimizer = _Linker(), optimizer.including(elementary.TAG)
    return Mode(linker=linker, optimizer=optimizer)


def compile_now(function: Any) -> None:
    """Compile what would be compiled at the first call, without that call and what it changes.

    Ctrl-C can then end a compilation at once, and needs not to look whether a step was taken.
    """
    linker = function.maker.linker
    if isinstance(linker, NumbaLinker | JAXLinker):
        jitted = function.vm.jit_fn
        arguments = [storage[0] for storage in function.vm.inputs]
        if isinstance(linker, NumbaLinker):
            compile_for(jitted, arguments)
        else:
            jitted(*arguments)  # JAX's functions change nothing


def compile_for(jitted: Any, arguments: list[Any]) -> None:
    """Let Numba compile a function for arguments of these types, unless it has.

    The code that runs is always that of the cache on disk, and by itself: LLVM joins functions of
    one name of all that is loaded, so that what was just compiled, with its pieces, would add in
    another order than the same code in the next process.
    """
    import numba

    types = tuple(numba.typeof(argument) for argument in arguments)
    made_by = getattr(jitted, "made_by", None)
    if made_by is None:
        jitted.compile(types)
    elif types not in jitted.overloads:
        found = jitted._cache.load_overload(types, jitted.targetctx)
        if found is None:
            made_by.compile(types)
            found = jitted._cache.load_overload(types, jitted.targetctx)
        # Without a cache there is no other process whose bits they could be.
        jitted.add_overload(made_by.overloads[types] if found is None else found)


def _own_engine(context: Any) -> Any:
    """Numba's target with an engine of its own, which holds nothing else."""
    from numba.core.codegen import JITCPUCodegen

    return context.subtarget(_internal_codegen=JITCPUCodegen("vitoolkit"))


class _Linker(NumbaLinker):
    """Numba with one parameter for each argument of the entry, and a loop over steps there.

    PyTensor's entry takes ``*args``. Numba types that tuple anew at every call, and in Python when
    a random generator is in it, which costs about 10 µs an argument. Where there are inputs whose
    name begins with ROWS, row k of them belongs to step k: the entry takes as many steps as they
    have rows, and hands what one step changes to the next. One step is a loop of one, so that the
    same compiled code gives the same bits however many steps a call takes. The call lets go of the
    interpreter, so that threads run beside it: another fit, or what a person does.
    """

    def jit_compile(self, fn_and_cache: Any) -> Any:
        from pytensor.link.numba.cache import compile_numba_function_src
        from pytensor.link.numba.dispatch.basic import numba_njit

        assert self.fgraph is not None
        function, key = fn_and_cache
        inner = function.py_func.__globals__.get("jitable_func")
        if key is None or inner is None:
            return super().jit_compile(fn_and_cache)
        source, kind = _entry(self.fgraph)
        entry = compile_numba_function_src(
            source,
            "entry",
            globals() | {"inner": inner, "np": np},
            cache_key=f"{key}_by_{kind}_nogil",  # Numba's own key leaves it out
        )
        made: Any = numba_njit(entry, final_function=True, cache=True, nogil=True)
        alone: Any = numba_njit(entry, final_function=True, cache=True, nogil=True)
        alone.targetctx = _own_engine(made.targetctx)
        alone.made_by = made
        return alone


def _entry(fgraph: Any) -> tuple[str, str]:
    """Source of the entry into a compiled graph, and what kind it is."""
    names = [f"x{i}" for i in range(len(fgraph.inputs))]
    head = f"def entry({', '.join(names)}):"
    rows = [i for i, v in enumerate(fgraph.inputs) if (v.name or "").startswith(ROWS)]
    if not rows:
        return f"{head} return inner({', '.join(names)})", "position"
    changed = fgraph.update_mapping or {}  # index of an output to that of the input it replaces
    results = [f"x{changed[j]}" if j in changed else f"y{j}" for j in range(len(fgraph.outputs))]
    given = ", ".join(f"{x}[k : k + 1]" if i in rows else x for i, x in enumerate(names))
    step = f"{', '.join(results)}, = inner({given})"
    source = f"""{head}
    k = 0
    {step}
    rows = np.empty((len(x{rows[0]}), y0.shape[1]), y0.dtype)
    rows[0] = y0[0]
    for k in range(1, len(rows)):
        {step}
        rows[k] = y0[0]
    return {", ".join(["rows", *results[1:]])}
"""
    return source, "rows"


def takes_rows(function: Any) -> bool:
    """Whether a compiled function takes as many steps as it is given rows."""
    inputs = function.maker.fgraph.inputs
    named = any((variable.name or "").startswith(ROWS) for variable in inputs)
    entry: Any = getattr(getattr(function.vm, "jit_fn", None), "py_func", None)
    return named and isinstance(function.maker.linker, _Linker) and entry.__name__ == "entry"


@node_rewriter([switch])
def _switch_of_one_function(fgraph, node):
    """Replace ``switch(c, f(x), f(y))`` by ``f(switch(c, x, y))``: f is computed once.

    A Bernoulli likelihood is such a switch, of two softplus.
    """
    condition, *branches = node.inputs
    if any(branch.owner is None for branch in branches):
        return None
    (op, *ops), inputs = zip(*[(branch.owner.op, branch.owner.inputs) for branch in branches])
    if not isinstance(op, Elemwise) or ops != [op] or len(inputs[0]) != 1:
        return None
    x, y = inputs[0][0], inputs[1][0]
    shapes = {variable.type.broadcastable for variable in (x, y, node.outputs[0])}
    shared = any(len(fgraph.clients[branch]) > 1 for branch in branches)
    if x.type.dtype != y.type.dtype or len(shapes) > 1 or shared:
        return None
    return [op(switch(condition, x, y))]


@node_rewriter([sigmoid])
def _softplus_and_its_derivative(fgraph, node):
    """Compute softplus and sigmoid, of x and of -x, of one exponential, ``e = exp(-|x|)``.

    A mean-field q needs both of every ρ: its σ is the softplus, and the gradient has the sigmoid. A
    Bernoulli likelihood has softplus of the logit and of its negative. With e, which never
    overflows, softplus is ``max(x, 0) + log1p(e)``, and sigmoid ``1 / (1 + e)``, or
    ``e / (1 + e)`` where x is negative.
    """
    (x,) = node.inputs
    if x.owner is not None and x.owner.op == neg:
        (x,) = x.owner.inputs
    if x.type.dtype not in float_dtypes:
        return None
    e = exp(-abs(x))
    found: dict[Any, Any] = {}
    for signed in (x, *_results(fgraph, neg, x)):
        for output in _results(fgraph, softplus, signed):
            found[output] = maximum(signed, 0) + log1p(e)
    if not found:
        return None
    for signed in (x, *_results(fgraph, neg, x)):
        for output in _results(fgraph, sigmoid, signed):
            found[output] = switch(signed < 0, e, 1) / (1 + e)
    return found


def _results(fgraph: Any, op: Any, x: Any) -> list[Any]:
    return [client.outputs[0] for client, _ in fgraph.clients[x] if client.op == op]


# After PyTensor's "specialize" (2), which makes a neg of a product with -1, and before it fuses
# elementwise operations (49). The switch comes last: it makes softplus(x) one of the switch.
for _position, _rewrite in (2.9, _softplus_and_its_derivative), (2.95, _switch_of_one_function):
    _name = _rewrite.__name__
    optdb.register(_name, dfs_rewriter(_rewrite, name=_name), _TAG, position=_position)
