"""The neuron's arithmetic on vector lanes: the integer leak and a fast exponential."""

import numpy as np

from ...jit.compiled import njit
from .lanes import abs_i32, bits_to_f32, f32_to_bits, spread, where

i8, i16, i32, i64, f32 = np.int8, np.int16, np.int32, np.int64, np.float32

LOG2_E = 1.4426950408889634
ROUNDING = f32(1.5 * 2**23)  # adding it leaves no bits for a fraction: the sum's lowest bits are the nearest integer


@njit(inline="always")
def leak(state, retention):
    """Return ``trunc(state * retention / 4096)``, exactly and without 64-bit products.

    The magnitude is split at bit 12: ``(hi * 4096 + lo) * retention / 4096 = hi * retention + lo * retention / 4096``,
    and both terms fit 32 bits for ``|state| < 2**31`` and ``retention <= 4096``.
    """
    size = abs_i32(state)
    hi = (size >> spread(i32(12))) * retention
    lo = ((size & spread(i32(4095))) * retention) >> spread(i32(12))
    left = hi + lo
    return where(state < spread(i32(0)), spread(i32(0)) - left, left)


@njit(inline="always")
def exp2_negative(x):
    """Return ``2**x`` for x <= 0 with a relative error below 2.5e-7; for x < -125, return about 2**-125.

    ``2**x = 2**k * 2**f`` with k the integer nearest to x. A polynomial, fitted at Chebyshev nodes, gives 2**f, and k
    is added to its exponent bits. The C library's exp needs a call per element, this only a few vector instructions.
    """
    x = where(x < spread(f32(-125.0)), spread(f32(-125.0)), x)
    shifted = x + spread(ROUNDING)
    f = x - (shifted - spread(ROUNDING))
    p = spread(f32(1.32669706e-3))
    p = p * f + spread(f32(9.67545994e-3))
    p = p * f + spread(f32(5.55074252e-2))
    p = p * f + spread(f32(2.40221217e-1))
    p = p * f + spread(f32(6.93146944e-1))
    p = p * f + spread(f32(1.0))
    return bits_to_f32(f32_to_bits(p) + (f32_to_bits(shifted) << spread(i32(23))))
