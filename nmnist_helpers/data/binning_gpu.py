"""Augment and bin recorded events into the spikes of a batch on a GPU, in one launch.

The integer arithmetic is that of `nmnist_helpers.data.binning` and `nmnist_helpers.data.draw`. Therefore every event
falls on the same pixel and into the same bin.
"""

import torch
import triton
import triton.language as tl

from ..geometry import CHANNELS, PIXELS, SIDE
from ..kernels.gpu.launch import on
from ..kernels.gpu.weight import padded
from ..spikes import DenseSpikes
from .augmentation import Augment, scales_of
from .draw import DX, DY, FLIP, GOLDEN, GRID, KEY, ONE, WARP, XX, XY, YX, YY, check_draws

EVENTS = 256  # events that a program processes at a time
PROGRAMS = 16  # programs per recording; up to 4,096 events are processed in one round

_GOLDEN, _PIXELS, _SIDE = tl.constexpr(GOLDEN), tl.constexpr(PIXELS), tl.constexpr(SIDE)
_ONE, _HALF = tl.constexpr(ONE), tl.constexpr(ONE // 2)
_XX, _XY, _YX, _YY = tl.constexpr(XX), tl.constexpr(XY), tl.constexpr(YX), tl.constexpr(YY)
_GRID, _WARP = tl.constexpr(GRID), tl.constexpr(WARP)
_DX, _DY = tl.constexpr(DX), tl.constexpr(DY)
_FLIP, _KEY, _DRAW = tl.constexpr(FLIP), tl.constexpr(KEY), tl.constexpr(KEY + 1)


@triton.jit
def mix(v):
    """Compute `nmnist_helpers.data.draw.mix` on uint32, where products wrap around without a mask."""
    v = v ^ (v >> 16)
    v = v * 0x85EBCA6B
    v = v ^ (v >> 13)
    v = v * 0xC2B2AE35
    return v ^ (v >> 16)


@triton.jit
def warp(key, scale, x, y):
    """Compute `nmnist_helpers.data.draw.warp` for a block of pixels."""
    seed = mix(key ^ _WARP)
    column, row = x // _GRID, y // _GRID
    right, down = x % _GRID, y % _GRID
    move_x, move_y = tl.zeros_like(x), tl.zeros_like(y)
    for j in tl.static_range(2):
        for i in tl.static_range(2):
            number = mix(seed + (5 * (row + j) + column + i).to(tl.uint32) * _GOLDEN)
            weight = (_GRID * (1 - i) + (2 * i - 1) * right) * (_GRID * (1 - j) + (2 * j - 1) * down)
            move_x += weight * (2 * (number & 0xFFFF).to(tl.int32) - 65535)
            move_y += weight * (2 * (number >> 16).to(tl.int32) - 65535)
    return ((move_x.to(tl.int64) * scale) >> 20).to(tl.int32), ((move_y.to(tl.int64) * scale) >> 20).to(tl.int32)


@triton.jit(do_not_specialize=["T", "cap", "drop_below", "jitter_scale", "warp_scale"])
def raster_kernel(
    words, first, count, draws, edges, out, T, width, cap, drop_below, jitter_scale, warp_scale,
    RANDOM: tl.constexpr, JITTER: tl.constexpr, WARPED: tl.constexpr, SEARCH: tl.constexpr, EVENTS: tl.constexpr,
):  # fmt: skip
    """Write 1 to ``out[b, bin, channel]`` for every event; events of the same bin and channel write the same byte."""
    b = tl.program_id(0).to(tl.int64)
    begin, n = tl.load(first + b), tl.load(count + b)
    draws += b * _DRAW
    xx, xy = tl.load(draws + _XX).to(tl.int32), tl.load(draws + _XY).to(tl.int32)
    yx, yy = tl.load(draws + _YX).to(tl.int32), tl.load(draws + _YY).to(tl.int32)
    dx, dy = tl.load(draws + _DX).to(tl.int32), tl.load(draws + _DY).to(tl.int32)
    flip = tl.load(draws + _FLIP).to(tl.int32)
    key = tl.load(draws + _KEY).to(tl.uint32)
    latest = tl.load(edges + T - 1)
    out += b * T * width
    for start in range(tl.program_id(1) * EVENTS, n, tl.num_programs(1) * EVENTS):
        i = start + tl.arange(0, EVENTS).to(tl.int64)
        word = tl.load(words + begin + i, mask=i < n, other=0).to(tl.int64)
        channel, time = (word & 0xFFF).to(tl.int32), word >> 12
        keep = (i < n) & ((n <= cap) | ((i + 1) * cap // n != i * cap // n))
        p, pixel = channel // _PIXELS, channel % _PIXELS
        x, y = pixel % _SIDE, pixel // _SIDE
        u, v = 2 * x - (_SIDE - 1), 2 * y - (_SIDE - 1)
        # The entries are at most 2.2 * 2**20 (stretch 0.5, shear 45 degrees) and |u|, |v| <= 33: sums stay below 2**28.
        new_x, new_y = _SIDE * _ONE + xx * u + xy * v, _SIDE * _ONE + yx * u + yy * v
        if WARPED:
            warp_x, warp_y = warp(key, warp_scale, x, y)
            new_x, new_y = new_x + warp_x, new_y + warp_y
        x, y = (new_x >> 21) + dx, (new_y >> 21) + dy
        keep &= (x >= 0) & (x < _SIDE) & (y >= 0) & (y < _SIDE)
        if RANDOM:
            number = mix(key + i.to(tl.uint32) * _GOLDEN)
            keep &= number.to(tl.int64) >= drop_below
            if JITTER:
                low = mix(number ^ _GOLDEN)
                high = mix(low + _GOLDEN)
                total = (low & 0xFFFF) + (low >> 16) + (high & 0xFFFF) + (high >> 16)
                time += ((total.to(tl.int64) - 131070) * jitter_scale + _HALF) >> 20
        keep &= (time >= 0) & (time <= latest)
        # The bin is the number of edges below the time, found by a binary search.
        bin = tl.zeros([EVENTS], tl.int32)
        for j in tl.static_range(SEARCH):
            ahead = bin + (1 << (SEARCH - 1 - j))
            edge = tl.load(edges + ahead - 1, mask=keep & (ahead < T), other=0)
            bin = tl.where(keep & (ahead < T) & (edge < time), ahead, bin)
        at = bin.to(tl.int64) * width + (p ^ flip) * _PIXELS + y * _SIDE + x
        tl.store(out + at, 1, mask=keep)


def rasterise(
    words: torch.Tensor,
    first: torch.Tensor,
    count: torch.Tensor,
    draws: torch.Tensor,
    edges: torch.Tensor,
    augment: Augment | None,
    cap: int | None,
    value: float,
) -> DenseSpikes:
    """Compute the spikes of a batch without a host-device synchronisation.

    Parameters
    ----------
    words : int32 or int64 tensor [E]
        All events of a dataset as ``t << 12 | channel``, with t in microseconds
        (see `nmnist_helpers.data.device.DeviceEvents`).
    first, count : int64 tensors [B]
        The events of recording b are ``words[first[b]:first[b] + count[b]]``.
    draws, edges : int64 tensors [B, 8], [T]
        These, `augment` and `cap` have the same meaning as in `nmnist_helpers.data.binning.rasterise`.
    value : float
        Value of a spike.

    Returns
    -------
    DenseSpikes
        Of shape (B, 2312, T).
    """
    batch, bins = len(first), len(edges)
    check_draws(draws, batch)
    out = torch.zeros(batch, bins, padded(CHANNELS), dtype=torch.uint8, device=words.device)
    drop_below, jitter_scale, warp_scale = scales = scales_of(augment)
    with on(words):
        raster_kernel[(batch, PROGRAMS)](
            words, first, count, draws, edges, out, bins, out.shape[2], cap or 2**31 - 1, *scales,
            RANDOM=drop_below > 0 or jitter_scale > 0, JITTER=jitter_scale > 0, WARPED=warp_scale > 0,
            SEARCH=bins.bit_length(), EVENTS=EVENTS,
        )  # fmt: skip
    return DenseSpikes(out, CHANNELS, value)
