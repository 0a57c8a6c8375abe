"""Numba scalars that LLVM turns into vector code: the integer leak and a fast exponential.

Every intermediate is pinned to 32 bits. Numba would otherwise widen to 64, which halves the lanes.
"""

import numpy as np
from numba import njit

i32, f32 = np.int32, np.float32

BLOCK = 128  # channels per task: the state of a block stays in the first-level cache

LOG2_E = f32(1.4426950408889634)


@njit(inline="always")
def leak(state, keep):
    """``trunc(state * keep / 4096)``, exact without 64-bit products.

    The magnitude is split at bit 12: ``(hi * 4096 + lo) * keep / 4096 = hi * keep + lo * keep / 4096``,
    and both parts fit 32 bits for ``|state| < 2**31`` and ``keep <= 4096``.
    """
    magnitude = i32(abs(state))
    hi = i32(i32(magnitude >> i32(12)) * keep)
    lo = i32(i32(i32(magnitude & i32(4095)) * keep) >> i32(12))
    kept = i32(hi + lo)
    return kept if state >= 0 else i32(-kept)


@njit(inline="always")
def exp_negative(x):
    """``exp(x)`` for x <= 0, relative error below 1e-7.

    ``exp(x) = 2**k * 2**f``: k goes into the exponent bits, 2**f on [0, 1) is a polynomial fitted at
    Chebyshev nodes. The library's exp is a call per element; this is a handful of vector instructions.
    """
    y = max(x * LOG2_E, f32(-126.0))
    k = np.floor(y)
    f = y - k
    p = f32(2.1701169e-4)
    p = p * f + f32(1.2453414e-3)
    p = p * f + f32(9.6755704e-3)
    p = p * f + f32(5.5486065e-2)
    p = p * f + f32(2.4022892e-1)
    p = p * f + f32(6.9314709e-1)
    p = p * f + f32(1.0)
    bits = i32(i32(i32(k) + i32(127)) << i32(23))
    return p * bits.view(f32)
