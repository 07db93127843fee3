"""exp, log, log1p and tanh as plain arithmetic, which LLVM computes for several numbers at once.

PyTensor's loops on Numba call the C library, which takes one number at a time, and a fused step of
a mean-field q spends most of its time there. These functions have neither branches nor tables nor
calls, so that the loops around them become vector instructions. IEEE 754 fixes the result of every
operation in them: unlike the C library they give the same bits on every machine.

They are for float64, with an error below 1 unit in the last place (tanh, sigmoid and softplus: 2).
The methods, and the coefficients of the logarithm, are those of fdlibm (Sun Microsystems, 1993) as
FreeBSD's msun has them; the polynomial of exp, on [-log(2)/2, log(2)/2], and the rational of tanh,
on [0, 0.75], were fitted by least squares in 40 digits.
"""

from __future__ import annotations

from typing import Any

import numba.extending
from llvmlite import ir
from numba import njit, types
from pytensor.compile.mode import optdb
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.link.numba.cache import compile_numba_function_src
from pytensor.link.numba.dispatch.basic import (
    numba_funcify_and_cache_key,
    register_funcify_and_cache_key,
)
from pytensor.scalar import basic
from pytensor.scalar.math import Sigmoid as _Sigmoid
from pytensor.scalar.math import Softplus as _Softplus
from pytensor.tensor.elemwise import Elemwise

__all__ = ["TAG"]

#: Of the rewrite that puts these functions in the place of PyTensor's.
TAG = "vitoolkit_numba"

# PyTensor keeps compiled code on disk, by this number: another for whatever changes a bit of a
# result, or what is inlined.
_VERSION = 2

_INFINITY, _NAN = float("inf"), float("nan")
intrinsic: Any = numba.extending.intrinsic  # whose own types leave out what it does
_INT, _FLOAT = ir.IntType(64), ir.DoubleType()


@intrinsic
def _bits(context: Any, x: Any) -> Any:
    """The bits of a float64, an int64."""
    return types.int64(types.float64), lambda context, b, signature, a: b.bitcast(a[0], _INT)


@intrinsic
def _float(context: Any, bits: Any) -> Any:
    """The float64 of these bits."""
    return types.float64(types.int64), lambda context, b, signature, a: b.bitcast(a[0], _FLOAT)


@intrinsic
def _shifted(context: Any, bits: Any, by: Any) -> Any:
    """Bits moved to the right, zeros for them: AVX2 has no such shift that keeps the sign."""
    signature = types.int64(types.int64, types.int64)
    return signature, lambda context, b, signature, a: b.lshr(a[0], a[1])


@intrinsic
def _select(context: Any, condition: Any, x: Any, y: Any) -> Any:
    """x or y, which are both computed: a branch would keep the loop around it from vectors."""
    signature = types.float64(types.boolean, types.float64, types.float64)

    def code(context: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.select(a[0], a[1], a[2])

    return signature, code


# Without fast-math, which would reorder what recovers rounding errors. Numba marks instructions
# one by one, and LLVM keeps that when it inlines these functions into PyTensor's.
_compiled = njit(fastmath=False, forceinline=True, error_model="numpy")

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 * 2**52: a float64 of this size has no fraction
_ROUND_BITS = 0x4338000000000000


@_compiled
def _reduced(x):
    """Integer k, and exp(x) / 2**k - 1 with a relative error near 2**-54."""
    t = x * _LOG2E + _ROUND
    n = t - _ROUND
    high = x - n * _LN2_HIGH  # exact
    low = n * _LN2_LOW
    r = high - low
    r2 = r * r
    r4 = r2 * r2
    a = (0.5000000000000006 + 0.16666666666666677 * r) + r2 * (
        0.04166666666657306 + 0.008333333333321421 * r
    )
    b = (0.0013888888932517304 + 0.00019841269886591435 * r) + r2 * (
        2.4801504310983356e-05 + 2.755724378779126e-06 * r
    )
    c = 2.762637210237089e-07 + 2.5109171314008863e-08 * r
    return _bits(t) - _ROUND_BITS, high + (r2 * (a + r4 * (b + r4 * c)) - low)


@_compiled
def exp(x):
    # Beyond these bounds the result is 0 or inf as at them. NaN passes through.
    x = _select(x < -746.0, -746.0, x)
    x = _select(x > 710.0, 710.0, x)
    k, q = _reduced(x)
    # 2**k by two factors: of a subnormal result, and of the largest, k is out of range.
    half = _shifted(k + 2048, 1)
    return ((1.0 + q) * _float((half - 1) << 52)) * _float((k - half + 2047) << 52)


_SQRT_HALF_BITS = 0x3FE6A09E00000000
_TO_SQRT_HALF = 0x3FF0000000000000 - _SQRT_HALF_BITS
_FRACTION = 0x000FFFFFFFFFFFFF
_TWO_52_BITS = 0x4330000000000000


@_compiled
def _split(x):
    """Float k + 1023, and f, of a normal x = 2**k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2))."""
    bits = _bits(x) + _TO_SQRT_HALF
    k = _float(_shifted(bits, 52) | _TWO_52_BITS) - 4503599627370496.0
    return k, _float((bits & _FRACTION) + _SQRT_HALF_BITS) - 1.0


@_compiled
def _logarithm(k, f, c):
    """k log(2) + log(1 + f) + c, where c is a small correction."""
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (
        3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01)
    )
    odd = z * (
        6.666666666666735130e-01
        + w
        * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01))
    )
    half = 0.5 * f * f
    return k * _LN2_HIGH - ((half - (s * (half + (even + odd)) + (k * _LN2_LOW + c))) - f)


@_compiled
def log(x):
    subnormal = x < 2.2250738585072014e-308
    k, f = _split(_select(subnormal, x * 18014398509481984.0, x))
    result = _logarithm(k - _select(subnormal, 1077.0, 1023.0), f, 0.0)
    result = _select(x < _INFINITY, result, x)
    result = _select(x == 0.0, -_INFINITY, result)
    return _select(x < 0.0, _NAN, result)


@_compiled
def log1p(x):
    u = 1.0 + x
    k, f = _split(u)
    k -= 1023.0
    c = (x - (u - 1.0)) / u  # what the sum lost
    # Near 0 nothing was lost.
    f = _select(k == 0.0, x, f)
    c = _select(k == 0.0, 0.0, c)
    result = _logarithm(k, f, c)
    result = _select(x < _INFINITY, result, x)
    result = _select(x == -1.0, -_INFINITY, result)
    return _select(x < -1.0, _NAN, result)


@_compiled
def tanh(x):
    a = abs(x)
    s = a * a
    k, q = _reduced(2.0 * _select(a > 20.0, 20.0, a))
    scale = _float((k + 1023) << 52)
    # a + a**3 P(a**2) / Q(a**2) or 1 - 2 / (exp(2 a) + 1): one division for either.
    p = -0.3333333333333333 + s * (-0.020493005360841303 - s * 0.00019892149738808866)
    q = (scale + 1.0) + scale * q
    small = a < 0.75
    top = _select(small, a * s * p, -2.0)
    bottom = _select(
        small,
        1.0 + s * (0.4614790160825057 + s * (0.023283609020809524 + s * 0.00020625899059210814)),
        q,
    )
    result = _select(small, a, 1.0) + top / bottom
    return _float(_bits(result) | (_bits(x) & -0x8000000000000000))


@_compiled
def sigmoid(x):
    e = exp(-abs(x))
    return _select(x < 0.0, e, 1.0) / (1.0 + e)


@_compiled
def softplus(x):
    return _select(x < 0.0, 0.0, x) + log1p(exp(-abs(x)))


class Exp(basic.Exp):
    """:class:`pytensor.scalar.basic.Exp`, computed here on Numba."""


class Log(basic.Log):
    """:class:`pytensor.scalar.basic.Log`, computed here on Numba."""


class Log1p(basic.Log1p):
    """:class:`pytensor.scalar.basic.Log1p`, computed here on Numba."""


class Tanh(basic.Tanh):
    """:class:`pytensor.scalar.basic.Tanh`, computed here on Numba."""


class Sigmoid(_Sigmoid):
    """:class:`pytensor.scalar.math.Sigmoid`, computed here on Numba."""


class Softplus(_Softplus):
    """:class:`pytensor.scalar.math.Softplus`, computed here on Numba."""


_FUNCTIONS: dict[Any, Any] = {
    Exp: exp,
    Log: log,
    Log1p: log1p,
    Tanh: tanh,
    Sigmoid: sigmoid,
    Softplus: softplus,
}
_OWN = {own.__base__: own for own in _FUNCTIONS}


def _inlined(function: Any, count: int) -> Any:
    """A function of `count` numbers, inlined where it is called with all that only calls it.

    PyTensor calls an operation through functions that forward their arguments. LLVM would leave
    those it finds too long outside of the loop, which it then does not vectorize.
    """

    def typed(context: Any, *args: Any) -> Any:
        kind = context.resolve_value_type(function)
        signature = context.resolve_function_type(kind, args, {})

        def code(context: Any, b: Any, signature: Any, a: Any) -> Any:
            if len(b.function.blocks) <= 2:  # it branches nowhere before the call
                b.function.attributes.add("alwaysinline")
            return context.get_function(kind, signature)(b, a)

        return signature, code

    names = ", ".join(f"x{i}" for i in range(count))
    source = f"def call(context, {names}): return typed(context, {names})"
    return intrinsic(compile_numba_function_src(source, "call", {"typed": typed}))


def _funcify(op: Any, node: Any, **kwargs: Any) -> tuple[Any, str]:
    name = type(op).__name__
    return _inlined(_FUNCTIONS[type(op)], 1), f"{__name__}.{name} {_VERSION}"


for _own in _FUNCTIONS:
    register_funcify_and_cache_key(_own)(_funcify)

_funcify_composite = numba_funcify_and_cache_key.dispatch(basic.Composite)


def _funcify_inlined(op: Any, node: Any, **kwargs: Any) -> tuple[Any, str | None]:
    """PyTensor's own but inlined, if there are functions of this module in it."""
    function, key = _funcify_composite(op, node=node, **kwargs)
    if all(type(inner.op) not in _FUNCTIONS for inner in op.fgraph.apply_nodes):
        return function, key
    dispatcher: Any = function
    dispatcher.targetoptions["forceinline"] = True
    return _inlined(function, len(node.inputs)), key


register_funcify_and_cache_key(basic.Composite)(_funcify_inlined)


@node_rewriter([Elemwise])
def _own_functions(fgraph, node):
    """Put the functions of this module in the place of PyTensor's."""
    own = _OWN.get(type(node.op.scalar_op))
    if own is None or {v.type.dtype for v in (*node.inputs, *node.outputs)} != {"float64"}:
        return None
    scalar = own(basic.upgrade_to_float, name=node.op.scalar_op.name)
    return [Elemwise(scalar)(*node.inputs)]


# After all rewrites that know PyTensor's functions, and before elementwise operations are fused.
optdb.register(
    "own_functions", dfs_rewriter(_own_functions, name="own_functions"), TAG, position=48
)
