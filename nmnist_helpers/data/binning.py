"""Bin and augment packed events into the spikes of a batch on the CPU (`device` does the same on other devices).

Both give exactly the same spikes. In a list of spikes, row ``b * T + t`` has its channels in strictly increasing order.
"""

import numpy as np

from ..checks import as_number, check_sampling_time
from ..geometry import CHANNELS, PIXELS, SIDE
from ..io import PackedEvents
from ..jit.bits import count_bits, lowest_bit
from ..jit.compiled import njit
from .augmentation import Augment, scales_of
from .draw import FLIP, GOLDEN, KEY, MASK, check_draws, mix, move, time_offset, warp

_WORDS = (CHANNELS + 63) // 64
#: Maximum length of a sample in ms (35 years). In microseconds, float64 still holds the edge of every bin exactly.
MAX_LENGTH = 2**40


def time_bins(sample_length: float, sampling_time: float) -> int:
    """Return the number of time bins, T = sample_length / sampling_time (both in ms).

    Raises
    ------
    ValueError
        If a bin has no positive length, if there are not 1 to 2^20 bins, or if a sample is longer than `MAX_LENGTH`.
    """
    check_sampling_time(sampling_time)
    bins = as_number(sample_length) / as_number(sampling_time)
    if not 1 <= bins <= 2**20:
        raise ValueError(
            f"sample_length / sampling_time: expected 1 to 2^20 bins, found {sample_length!r} ms / "
            f"{sampling_time} ms = {bins:g}"
        )
    if sample_length > MAX_LENGTH:
        raise ValueError(f"sample_length: expected at most {MAX_LENGTH} ms, found {sample_length:g}")
    return int(bins + 1e-9)


def bin_of(t_us: np.ndarray, sampling_time: float) -> np.ndarray:
    """Return the time bins (int64) of times in microseconds: round(t in ms / sampling_time), half to even."""
    return np.rint(np.asarray(t_us) / 1000 / sampling_time).astype(np.int64)


def bin_edges(bins: int, sampling_time: float) -> np.ndarray:
    """Return the last whole microsecond of each bin, int64 [bins].

    A time t falls into the first bin k with ``t <= edges[k]``. The edges are found by applying `bin_of` to the
    microseconds around each half-way point, so that both functions always agree.
    """
    middle = np.floor((np.arange(bins) + 0.5) * sampling_time * 1000).astype(np.int64)
    near = middle[:, None] + np.arange(-2, 3)
    inside = bin_of(near, sampling_time) <= np.arange(bins)[:, None]
    return near[:, 0] + inside.sum(axis=1) - 1


@njit(inline="always")
def _raster_one(
    x, y, p, t, draw, edges, cap, drop_below, jitter_scale, warp_scale, bitmap, filled, target, row_count, channel
):
    """Write the channels of one recording's spikes into `channel` and their numbers into `row_count` [T].

    Return the number of spikes. `bitmap` [T, 37] has one bit for each channel; `filled` [T] has one bit for each
    non-zero word of `bitmap`. Both are zero before and after. `target` [1156] is scratch memory.
    """
    bins = len(edges)
    n = len(t)
    flip, key = draw[FLIP], draw[KEY]
    # A recording has three to four times as many events as the sensor has pixels, so each pixel is moved only once.
    for row in range(SIDE):
        for column in range(SIDE):
            warp_x, warp_y = warp(key, warp_scale, column, row) if warp_scale > 0 else (0, 0)
            new_x, new_y = move(draw, column, row, warp_x, warp_y)
            inside = 0 <= new_x < SIDE and 0 <= new_y < SIDE
            target[row * SIDE + column] = new_y * SIDE + new_x if inside else -1
    random = drop_below > 0 or jitter_scale > 0
    k, marks = 0, np.uint64(0)
    for i in range(n):
        # With a cap, every (n / cap)th of n events is used.
        if n > cap and (i + 1) * cap // n == i * cap // n:
            continue
        if x[i] >= SIDE or y[i] >= SIDE or p[i] > 1:
            continue
        pixel = target[np.int64(y[i]) * SIDE + x[i]]
        if pixel < 0:
            continue
        time = np.int64(t[i])
        if random:
            number = mix((key + i * GOLDEN) & MASK)
            if number < drop_below:
                continue
            if jitter_scale > 0:
                time += time_offset(number, jitter_scale)
        if time < 0 or time > edges[bins - 1]:
            continue
        # Without jitter, times never decrease, so the bin is the previous event's or a little later.
        if time > edges[k] or (k > 0 and time <= edges[k - 1]):
            filled[k] |= marks
            marks = np.uint64(0)
            while time > edges[k]:
                k += 1
            while k > 0 and time <= edges[k - 1]:
                k -= 1
        c = (np.int64(p[i]) ^ flip) * PIXELS + pixel
        word = c >> 6
        bitmap[k, word] |= np.uint64(1) << np.uint64(c & 63)
        marks |= np.uint64(1) << np.uint64(word)
    filled[k] |= marks
    size = 0
    for k in range(bins):
        start = size
        words = filled[k]
        filled[k] = 0
        while words:
            w = lowest_bit(words)
            words &= words - np.uint64(1)
            bits = bitmap[k, w]
            bitmap[k, w] = 0
            # Most words hold one or two spikes. Always writing two avoids a branch; a surplus one is overwritten, or
            # stays unused beyond the end.
            base, count = w << np.uint64(6), np.int64(count_bits(bits))
            channel[size] = base + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            channel[size + 1] = base + lowest_bit(bits)
            for j in range(2, count):
                bits &= bits - np.uint64(1)
                channel[size + j] = base + lowest_bit(bits)
            size += count
        row_count[k] = size - start
    return size


@njit(error_model="numpy", nogil=True)
def _raster_batch(
    x, y, p, t, offsets, index, draws, edges, cap, drop_below, jitter_scale, warp_scale, bitmap, filled, target,
    starts, scratch, size, indptr,
):  # fmt: skip
    """Rasterise every recording of a batch into its own part of `scratch`; write the numbers of spikes to `size` [B].

    Recording b may use ``scratch[starts[b]:starts[b + 1] + 2]``. ``indptr[1 + r]`` gets the number of spikes in row r.
    """
    bins = len(edges)
    for b in range(len(index)):
        first, last = offsets[index[b]], offsets[index[b] + 1]
        row_count = indptr[1 + b * bins : 1 + (b + 1) * bins]
        size[b] = _raster_one(
            x[first:last], y[first:last], p[first:last], t[first:last], draws[b], edges, cap, drop_below, jitter_scale,
            warp_scale, bitmap, filled, target, row_count, scratch[starts[b] : starts[b + 1] + 2],
        )  # fmt: skip


def _read_only(array: np.ndarray) -> np.ndarray:
    # Memory-mapped arrays are read-only. With all arrays read-only, Numba compiles one version instead of two.
    array = array.view()
    array.flags.writeable = False
    return array


def rasterise(
    packed: PackedEvents,
    index: np.ndarray,
    draws: np.ndarray,
    edges: np.ndarray,
    augment: Augment | None = None,
    cap: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the spikes of the recordings `index` on the CPU.

    Parameters
    ----------
    packed : PackedEvents
        The events; the arrays may be memory-mapped.
    index : int64 array [B]
        Numbers of the recordings in `packed`.
    draws : int64 array [B, 8]
        The draw of each recording (see `Augment.draws`; `IDENTITY` changes nothing).
    edges : int64 array [T]
        The last microsecond of each bin, from `bin_edges`.
    augment : Augment, optional
        Sets the event dropout, the time jitter and the warp; all else is in `draws`.
    cap : int, optional
        Maximum number of events that are used of each recording, spread evenly over its events.

    Returns
    -------
    indptr : int32 array [B * T + 1]
        The spikes of row r = b * T + t are ``channel[indptr[r]:indptr[r + 1]]``.
    channel : int32 array [N]

    Raises
    ------
    ValueError
        If `draws` does not have the shape above.
    """
    check_draws(draws, len(index))
    starts = np.concatenate([[0], np.cumsum(packed.offsets[index + 1] - packed.offsets[index])])
    scratch = np.empty(starts[-1] + 2, dtype=np.uint16)
    size = np.zeros(len(index), dtype=np.int64)
    indptr = np.zeros(len(index) * len(edges) + 1, dtype=np.int32)
    _raster_batch(
        *(_read_only(array) for array in (packed.x, packed.y, packed.p, packed.t, packed.offsets)),
        index, draws, edges, cap or np.iinfo(np.int32).max, *scales_of(augment),
        np.zeros((len(edges), _WORDS), np.uint64), np.zeros(len(edges), np.uint64), np.empty(PIXELS, np.int16),
        starts, scratch, size, indptr,
    )  # fmt: skip
    np.cumsum(indptr, out=indptr)
    channel = [scratch[start : start + count] for start, count in zip(starts, size, strict=False)]
    return indptr, np.concatenate([np.empty(0, np.uint16), *channel], dtype=np.int32)
