"""Conversion of the neurons' firing bits to the list of spikes that leave the axons (CSR over rows b * T + t)."""

import numpy as np
import torch

from ...jit.bits import lowest_bit
from ...jit.compiled import njit
from ...jit.tasks import tasks
from ..common import Axon
from .lanes import CHUNK

NO_DROPOUT = np.empty((0, 0), np.uint8)


@njit(inline="always")
def _arriving_channels(fired, lag, kept, b, t, chunk, steps, found):
    """Write to `found` the channels of a chunk whose spikes of step t arrive in time, and return their number."""
    n = 0
    word = fired[b, t, chunk]
    while word:
        c = chunk * CHUNK + np.int64(lowest_bit(word))
        word &= word - np.uint64(1)
        if c < len(lag) and t + lag[c] < steps and (kept.size == 0 or kept[b, c]):
            found[n] = c
            n += 1
    return n


@tasks(error_model="numpy")
def _count_spikes(b, fired, lag, kept, indptr):
    _, steps, chunks = fired.shape
    found = np.empty(CHUNK, np.int32)
    for t in range(steps):
        for chunk in range(chunks):
            for k in range(_arriving_channels(fired, lag, kept, b, t, chunk, steps, found)):
                indptr[b * steps + t + lag[found[k]] + 1] += 1


@tasks(error_model="numpy")
def _fill_channels(b, fired, lag, kept, indptr, channel):
    _, steps, chunks = fired.shape
    found = np.empty(CHUNK, np.int32)
    free = indptr[b * steps : (b + 1) * steps].copy()
    for t in range(steps):
        for chunk in range(chunks):
            for k in range(_arriving_channels(fired, lag, kept, b, t, chunk, steps, found)):
                c = found[k]
                arrival = t + lag[c]
                at = free[arrival]
                free[arrival] = at + 1
                begin = indptr[b * steps + arrival]
                while at > begin and channel[at - 1] > c:  # sort: with different lags, spikes arrive out of order
                    channel[at] = channel[at - 1]
                    at -= 1
                channel[at] = c


def axon_arrays(axon: Axon) -> tuple[np.ndarray, np.ndarray]:
    """Return lags and dropout mask as arrays for the kernels; without dropout the mask is empty."""
    kept = NO_DROPOUT if axon.kept is None else axon.kept.contiguous().numpy()
    return axon.lag.contiguous().numpy(), kept


def fired_to_events(fired: np.ndarray, axon: Axon) -> tuple[torch.Tensor, torch.Tensor]:
    """List the spikes that leave the axons, each delayed by its lag.

    Spikes of dropped neurons are omitted, and so are those that would arrive after the last step.

    Parameters
    ----------
    fired : uint64 array [B, T, chunks]
        One bit for each neuron and step, as `nmnist_helpers.kernels.cpu.neuron.run` writes them.
    axon : Axon

    Returns
    -------
    indptr, channel
        The list, in the form of `nmnist_helpers.spikes.convert.rows_to_events`.
    """
    batch, steps, _ = fired.shape
    lag, kept = axon_arrays(axon)
    indptr = np.zeros(batch * steps + 1, np.int32)
    _count_spikes(batch, fired=fired, lag=lag, kept=kept, indptr=indptr)
    np.cumsum(indptr, out=indptr)
    channel = np.empty(indptr[-1], np.int32)
    _fill_channels(batch, fired=fired, lag=lag, kept=kept, indptr=indptr, channel=channel)
    return torch.from_numpy(indptr), torch.from_numpy(channel)
