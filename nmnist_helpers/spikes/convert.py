"""Between dense spikes and lists of spikes (CSR over rows b * T + t) on the CPU, in both directions."""

import numpy as np
import torch
from numba import prange

from ..compiled import njit


@njit(parallel=True, cache=True, error_model="numpy")
def _count_rows(spikes):
    """Spikes in every row."""
    rows, channels = spikes.shape
    counts = np.zeros(rows, np.int32)
    for r in prange(rows):
        row = spikes[r]
        n = 0
        for c in range(channels):
            n += row[c] != 0
        counts[r] = n
    return counts


@njit(inline="always")
def spiking(row, found):
    """Channels that spike in a row of 0/1 bytes, into `found`; eight at a time are passed over where all are silent."""
    channels = row.shape[0]
    whole = channels // 8
    words = row[: 8 * whole].view(np.uint64)
    n = 0
    for w in range(whole):
        if words[w]:
            for c in range(8 * w, 8 * w + 8):
                if row[c]:
                    found[n] = c
                    n += 1
    for c in range(8 * whole, channels):
        if row[c]:
            found[n] = c
            n += 1
    return n


@njit(parallel=True, cache=True, error_model="numpy")
def _fill_rows(spikes, indptr, channel):
    for r in prange(len(spikes)):
        if indptr[r] != indptr[r + 1]:
            spiking(spikes[r], channel[indptr[r] : indptr[r + 1]])


@njit(parallel=True, cache=True, error_model="numpy")
def _scatter(indptr, channel, value, out):
    for r in prange(out.shape[0]):
        out[r] = 0
        for k in range(indptr[r], indptr[r + 1]):
            out[r, channel[k]] = value


@njit(parallel=True, cache=True, error_model="numpy")
def _mark(dense, rows):
    """Dense [B, C, T] to 0/1 rows [B, T, C]; per sample the one non-zero value, or NaN where they differ."""
    batch, channels, steps = dense.shape
    values = np.zeros(batch, dense.dtype)
    for b in prange(batch):
        rows[b] = 0
        value = dense.dtype.type(0)
        for c in range(channels):
            train = dense[b, c]
            for t in range(steps):
                x = train[t]
                if x != 0:
                    rows[b, t, c] = 1
                    if value == 0:
                        value = x
                    if x != value:
                        value = dense.dtype.type(np.nan)
        values[b] = value
    return values


@njit(parallel=True, cache=True, error_model="numpy")
def _holds(words, strides, indptr, channel, word):
    """Whether flat `words` are `word` at every spike and 0 elsewhere; `strides` of (row b, row t, channel)."""
    of_sample, of_step, of_channel, steps = strides
    parts = 64
    share = (len(words) + parts - 1) // parts
    count = np.zeros(parts, np.int64)
    for part in prange(parts):
        n = 0
        for i in range(part * share, min((part + 1) * share, len(words))):
            n += words[i] != 0
        count[part] = n
    if count.sum() != len(channel):
        return False
    for r in range(len(indptr) - 1):
        row = r // steps * of_sample + r % steps * of_step
        for k in range(indptr[r], indptr[r + 1]):
            if words[row + channel[k] * of_channel] != word:
                return False
    return True


def holds_events(rows: torch.Tensor, indptr: torch.Tensor, channel: torch.Tensor, value: float) -> bool:
    """Whether float32 rows [B, T, C], contiguous as they are or as [B, C, T], hold these spikes and nothing else."""
    words = torch.as_strided(rows, (rows.numel(),), (1,)).view(torch.int32).numpy()
    word = np.float32(value).view(np.int32)
    return bool(_holds(words, (*rows.stride(), rows.shape[1]), indptr.numpy(), channel.numpy(), word))


def rows_to_events(spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """List the spikes of 0/1 rows.

    Parameters
    ----------
    spikes : uint8 tensor [B, T, C]
        0 or 1.

    Returns
    -------
    indptr : int32 tensor [B * T + 1]
    channel : int32 tensor [N]
    """
    rows = spikes.contiguous().view(-1, spikes.shape[2]).numpy()
    indptr = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(_count_rows(rows), out=indptr[1:])
    channel = np.empty(indptr[-1], np.int32)
    _fill_rows(rows, indptr, channel)
    return torch.from_numpy(indptr), torch.from_numpy(channel)


def events_to_rows(
    indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int], value: float, dtype: torch.dtype
) -> torch.Tensor:
    """Rows [B, T, C] of `dtype` that hold `value` at every spike; `shape` is (B, C, T)."""
    batch, channels, steps = shape
    rows = torch.empty(batch, steps, channels, dtype=dtype)
    out = rows.view(-1, channels).numpy()
    _scatter(indptr.numpy(), channel.numpy(), out.dtype.type(value), out)
    return rows


def dense_to_events(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """List the spikes of a dense tensor whose non-zero entries are all the same value.

    Parameters
    ----------
    dense : float tensor [B, C, T]

    Returns
    -------
    (indptr, channel, value) or None
        None if the entries differ (graded spikes), so that only a dense product will do.
    """
    batch, channels, steps = dense.shape
    rows = torch.empty(batch, steps, channels, dtype=torch.uint8)
    values = _mark(dense.detach().contiguous().numpy(), rows.numpy())
    values = values[values != 0]
    if len(values) and not (values == values[0]).all():  # NaN is unequal to itself
        return None
    return *rows_to_events(rows), float(values[0]) if len(values) else 1.0
