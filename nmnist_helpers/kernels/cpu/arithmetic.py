"""The neuron's arithmetic on lanes: the integer leak and a fast exponential."""

import numpy as np

from ...compiled import njit
from .lanes import bits_to_f32, floor, magnitude, spread, to_i32, where

i32, i64, f32 = np.int32, np.int64, np.float32

LOG2_E = 1.4426950408889634


@njit(inline="always")
def leak(state, retention):
    """``trunc(state * retention / 4096)``, exact without 64-bit products.

    The magnitude is split at bit 12: ``(hi * 4096 + lo) * retention / 4096 = hi * retention + lo * retention / 4096``,
    and both parts fit 32 bits for ``|state| < 2**31`` and ``retention <= 4096``.
    """
    size = magnitude(state)
    hi = (size >> spread(i32(12))) * retention
    lo = ((size & spread(i32(4095))) * retention) >> spread(i32(12))
    left = hi + lo
    return where(state < spread(i32(0)), spread(i32(0)) - left, left)


@njit(inline="always")
def exp2_negative(x):
    """``2**x`` for x <= 0, relative error below 1e-7.

    ``2**x = 2**k * 2**f``: k goes into the exponent bits, 2**f on [0, 1) is a polynomial fitted at
    Chebyshev nodes. The library's exp is a call per element; this is a handful of vector instructions.
    """
    x = where(x < spread(f32(-126.0)), spread(f32(-126.0)), x)
    k = floor(x)
    f = x - k
    p = spread(f32(2.1701169e-4))
    p = p * f + spread(f32(1.2453414e-3))
    p = p * f + spread(f32(9.6755704e-3))
    p = p * f + spread(f32(5.5486065e-2))
    p = p * f + spread(f32(2.4022892e-1))
    p = p * f + spread(f32(6.9314709e-1))
    p = p * f + spread(f32(1.0))
    return p * bits_to_f32((to_i32(k) + spread(i32(127))) << spread(i32(23)))
