"""Convert dense spikes to lists of spikes (CSR over rows b * T + t) and back: compiled on the CPU, else by torch."""

import numpy as np
import torch

from ..jit.compiled import njit
from ..jit.tasks import tasks

BAND = 256  # rows per task


@tasks(error_model="numpy")
def _count_rows(band, spikes, counts):
    """Count the spikes in each row of one band."""
    for r in range(band * BAND, min((band + 1) * BAND, len(spikes))):
        row = spikes[r]
        n = 0
        for c in range(len(row)):
            n += row[c] != 0
        counts[r] = n


@njit(inline="always")
def spiking(row, found):
    """Write the channels that spike in a row of 0/1 bytes to `found`; return their number.

    Eight channels at a time are skipped if all of them are silent.
    """
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


@tasks(error_model="numpy")
def _fill_rows(band, spikes, indptr, channel):
    for r in range(band * BAND, min((band + 1) * BAND, len(spikes))):
        if indptr[r] != indptr[r + 1]:
            spiking(spikes[r], channel[indptr[r] : indptr[r + 1]])


@tasks(error_model="numpy")
def _scatter(band, indptr, channel, value, out):
    for r in range(band * BAND, min((band + 1) * BAND, len(out))):
        out[r] = 0
        for k in range(indptr[r], indptr[r + 1]):
            out[r, channel[k]] = value


@tasks(error_model="numpy")
def _to_rows(b, dense, rows, values):
    """Convert sample `b` of `dense` [B, C, T] to 0/1 `rows` [B, T, C].

    ``values[b]`` becomes the value of its non-zero entries, NaN if they differ, or 0 if there are none.
    """
    _, channels, steps = dense.shape
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


@tasks(error_model="numpy")
def _compare_sample(b, words, strides, indptr, channel, word, same):
    """Compare row `b` of `words` [B, T * C] with the sample's spikes: `word` at each of them, 0 elsewhere.

    `strides` are (of t, of a channel). The sample is counted first and is still in the cache when its spikes are read.
    """
    sample, steps = words[b], (len(indptr) - 1) // len(words)
    spikes, n, matches = indptr[b * steps : (b + 1) * steps + 1], np.int32(0), True
    for c in range(len(sample)):
        n = np.int32(n + np.int32(sample[c] != 0))  # as int64, which Numba would choose, half as fast
    for t in range(steps):
        for k in range(spikes[t], spikes[t + 1]):
            matches &= sample[t * strides[0] + channel[k] * strides[1]] == word
    same[b] = matches and n == spikes[steps] - spikes[0]


def _bands(rows: np.ndarray) -> int:
    return -(-len(rows) // BAND)


def holds_events(rows: torch.Tensor, indptr: torch.Tensor, channel: torch.Tensor, value: float) -> bool:
    """Return whether float32 rows [B, T, C], contiguous in this order or as [B, C, T], hold exactly these spikes."""
    entries = rows.shape[1] * rows.shape[2]
    words = torch.as_strided(rows, (len(rows), entries), (entries, 1)).view(torch.int32).numpy()
    word, same = np.float32(value).view(np.int32), np.ones(len(rows), np.bool_)
    arrays = {"indptr": indptr.numpy(), "channel": channel.numpy()}
    _compare_sample(len(rows), words=words, strides=rows.stride()[1:], **arrays, word=word, same=same)
    return bool(same.all())


def rows_to_events(spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """List the spikes of 0/1 rows.

    Parameters
    ----------
    spikes : uint8 tensor [B, T, C]
        0, or another number for a spike.

    Returns
    -------
    indptr : int32 tensor [B * T + 1]
    channel : int32 tensor [N]
    """
    if spikes.device.type != "cpu":
        flat = spikes.reshape(-1, spikes.shape[2]) != 0
        limits = torch.zeros(len(flat) + 1, dtype=torch.int32, device=spikes.device)
        torch.cumsum(flat.sum(1, dtype=torch.int32), 0, out=limits[1:])
        return limits, flat.nonzero()[:, 1].to(torch.int32)
    rows = spikes.contiguous().view(-1, spikes.shape[2]).numpy()
    indptr = np.zeros(len(rows) + 1, np.int32)
    counts = np.empty(len(rows), np.int32)
    _count_rows(_bands(rows), spikes=rows, counts=counts)
    np.cumsum(counts, out=indptr[1:])
    channel = np.empty(indptr[-1], np.int32)
    _fill_rows(_bands(rows), spikes=rows, indptr=indptr, channel=channel)
    return torch.from_numpy(indptr), torch.from_numpy(channel)


def events_to_rows(
    indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int], value: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return rows [B, T, C] of `dtype` that hold `value` at every spike and 0 elsewhere; `shape` is (B, C, T)."""
    batch, channels, steps = shape
    if indptr.device.type != "cpu":
        filled = torch.zeros(batch * steps, channels, dtype=dtype, device=indptr.device)
        row = torch.repeat_interleave(
            torch.arange(batch * steps, device=indptr.device), indptr.diff(), output_size=len(channel)
        )
        filled[row, channel] = value
        return filled.view(batch, steps, channels)
    if dtype in (torch.float16, torch.bfloat16):  # compiled code has no numbers of 16 bits
        return events_to_rows(indptr, channel, shape, value, torch.float32).to(dtype)
    rows = torch.empty(batch, steps, channels, dtype=dtype)
    out = rows.view(-1, channels).numpy()
    _scatter(_bands(out), indptr=indptr.numpy(), channel=channel.numpy(), value=out.dtype.type(value), out=out)
    return rows


def dense_to_events(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """List the spikes of a dense tensor whose non-zero entries are all equal.

    Parameters
    ----------
    dense : float tensor [B, C, T]

    Returns
    -------
    (indptr, channel, value) or None
        As in `Spikes`; None if the entries differ (graded spikes), which only a dense product can handle.
    """
    batch, channels, steps = dense.shape
    rows = torch.empty(batch, steps, channels, dtype=torch.uint8)
    dense = dense.detach().contiguous()
    values = np.zeros(batch, dense.numpy().dtype)
    _to_rows(batch, dense=dense.numpy(), rows=rows.numpy(), values=values)
    values = values[values != 0]
    if len(values) and not (values == values[0]).all():  # also if one is NaN, which does not equal itself
        return None
    return *rows_to_events(rows), float(values[0]) if len(values) else 1.0
