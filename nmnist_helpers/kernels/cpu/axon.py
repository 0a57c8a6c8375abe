"""Dropout, shift and learned delay on the CPU, spike by spike: a silent neuron costs nothing."""

import numpy as np
import torch
from numba import njit, prange

from ...spikes.convert import spiking

NOT_DROPPED = np.empty((0, 0), np.uint8)


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(spikes, lag, kept, out):
    batch, steps, channels = spikes.shape
    for b in prange(batch):
        found = np.empty(channels, np.int32)
        out[b] = 0
        for t in range(steps):
            for k in range(spiking(spikes[b, t], found)):
                c = found[k]
                if t + lag[c] < steps and (kept.size == 0 or kept[b, c]):
                    out[b, t + lag[c], c] = 1


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(grad, lag, kept, value, out):
    batch, steps, channels = grad.shape
    for b in prange(batch):
        for t in range(steps):
            for c in range(channels):
                at = t + lag[c]
                g = grad[b, at, c] * value if at < steps else np.float32(0.0)
                out[b, t, c] = g if kept.size == 0 or kept[b, c] else np.float32(0.0)


@njit(parallel=True, cache=True, error_model="numpy")
def _delay_gradient(grad, out, value):
    batch, steps, channels = grad.shape
    sums = np.zeros((batch, channels), np.float64)
    for b in prange(batch):
        found = np.empty(channels, np.int32)
        for t in range(steps):
            for k in range(spiking(out[b, t], found)):
                c = found[k]
                after = grad[b, t + 1, c] if t + 1 < steps else np.float32(0.0)
                sums[b, c] += value * (after - grad[b, t, c])
    return sums


def axon_forward(spikes: torch.Tensor, lag: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.axon_forward`."""
    out = torch.empty(spikes.shape, dtype=torch.uint8)
    _forward(spikes.contiguous().numpy(), lag.numpy(), NOT_DROPPED if kept is None else kept.numpy(), out.numpy())
    return out


def axon_backward(
    grad: torch.Tensor, lag: torch.Tensor, kept: torch.Tensor | None = None, value: float = 1.0
) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.axon_backward`."""
    out = torch.empty(grad.shape, dtype=torch.float32)
    _backward(
        grad.float().contiguous().numpy(),
        lag.numpy(),
        NOT_DROPPED if kept is None else kept.numpy(),
        np.float32(value),
        out.numpy(),
    )
    return out


def delay_gradient(grad: torch.Tensor, out: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.delay_gradient`."""
    sums = _delay_gradient(grad.float().contiguous().numpy(), out.contiguous().numpy(), np.float32(value))
    return torch.from_numpy(sums.sum(0)).float()
