"""The integer arithmetic of one augmented event: what a draw, a row of random integers, does to it.

The code for one recording in `augmentation`, Numba's in `binning`, Triton's in `binning_gpu` and the tensor operations
in `device` therefore move every event to the same pixel and the same microsecond on every machine.
"""

import numpy as np
import torch
from numba.extending import register_jitable

from ..geometry import SIDE

#: 1 in fixed point: the entries of matrices are stored times 2^20.
ONE = 1 << 20
MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
#: They tell the random numbers of the warp, and those of stretch and shear, from those of the events.
WARP, SHAPE = 0x85157AF5, 0x3C6EF372
#: Distance of the warp's grid points in pixels: 0, 11, 22 and 33.
GRID = 11
#: Columns of a draw: the 2 x 2 matrix that turns, stretches and shears (times 2^20, row by row), shift in x and y
#: (pixels), 1 to swap the polarities, and a 32-bit key from which all further random numbers are computed.
XX, XY, YX, YY, DX, DY, FLIP, KEY = range(8)
#: The draw that changes nothing.
IDENTITY = np.array([ONE, 0, 0, ONE, 0, 0, 0, 0], dtype=np.int64)


@register_jitable
def mix(v):
    """Hash 32-bit numbers with the finaliser of MurmurHash3: neighbouring numbers give unrelated ones.

    `v` is int64 with values 0..2^32-1: a Numba scalar, a NumPy array or a tensor. Products may overflow 64 bits. Their
    low 32 bits, the only ones that are used, are correct even then.
    """
    v = v ^ (v >> 16)
    v = (v * 0x85EBCA6B) & MASK
    v = v ^ (v >> 13)
    v = (v * 0xC2B2AE35) & MASK
    return v ^ (v >> 16)


@register_jitable
def warp(key, scale, x, y):
    """Return how far an elastic distortion moves pixel (x, y), in 1 / 2^21 pixels; all int64.

    Each grid point is moved at random, and the pixels between four points by their bilinear interpolation. The sums
    stay below 121 * 65535; `scale` (`Augment.warp_scale`) turns them into pixels.
    """
    seed = mix(key ^ WARP)
    column, row = x // GRID, y // GRID
    right, down = x % GRID, y % GRID
    move_x, move_y = 0 * x, 0 * x
    for j in range(2):
        for i in range(2):
            number = mix((seed + (5 * (row + j) + column + i) * GOLDEN) & MASK)
            weight = (right if i else GRID - right) * (down if j else GRID - down)
            move_x = move_x + weight * (2 * (number & 0xFFFF) - 65535)
            move_y = move_y + weight * (2 * (number >> 16) - 65535)
    return (move_x * scale) >> 20, (move_y * scale) >> 20


@register_jitable
def move(draw, x, y, warp_x=0, warp_y=0):
    """Multiply the place of pixel (x, y), measured from the centre (16.5, 16.5), by the draw's matrix; warp and shift.

    All numbers are int64. The new column X obeys ``2 X = 33 + xx (2x - 33) + xy (2y - 33)``, and is rounded half up by
    ``floor(X + 1/2) = (2 X + 1) >> 1``.
    """
    u, v = 2 * x - (SIDE - 1), 2 * y - (SIDE - 1)
    new_x = ((SIDE * ONE + draw[XX] * u + draw[XY] * v + warp_x) >> 21) + draw[DX]
    return new_x, ((SIDE * ONE + draw[YX] * u + draw[YY] * v + warp_y) >> 21) + draw[DY]


@register_jitable
def time_offset(h, scale):
    """Return a nearly normal time offset (microseconds), a sum of four uniform numbers, from the 32-bit number `h`."""
    a = mix(h ^ GOLDEN)
    b = mix((a + GOLDEN) & MASK)
    return (((a & 0xFFFF) + (a >> 16) + (b & 0xFFFF) + (b >> 16) - 131070) * scale + ONE // 2) >> 20


def check_draws(draws: np.ndarray | torch.Tensor, recordings: int) -> None:
    """Raise ValueError unless there is a draw for each recording, because compiled code would read beyond the end.

    A TypeError says that draws are no whole numbers.
    """
    if draws.dtype not in (np.int64, torch.int64):
        raise TypeError(f"draws: expected int64, found {draws.dtype}")
    if tuple(draws.shape) != (recordings, len(IDENTITY)):
        raise ValueError(f"draws: expected shape [{recordings}, {len(IDENTITY)}], found {list(draws.shape)}")
