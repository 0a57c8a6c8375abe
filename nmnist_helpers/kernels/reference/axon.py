"""The axon, through which spikes leave a layer: dropout, one-step shift, and a learned delay per channel."""

import torch

from ..common import Axon, check_axon


def shift_rows(rows: torch.Tensor, lag: torch.Tensor) -> torch.Tensor:
    """Return rows [B, T, C] moved `lag` [C] steps later (negative: earlier), with zeros from outside."""
    steps = rows.shape[1]
    source = torch.arange(steps, device=rows.device)[:, None] - lag.to(torch.int64)  # [T, C]
    inside = (source >= 0) & (source < steps)
    index = source.clamp(0, steps - 1).expand(rows.shape[0], -1, -1)
    return torch.where(inside, rows.gather(1, index), torch.zeros((), dtype=rows.dtype, device=rows.device))


def axon_forward(spikes: torch.Tensor, axon: Axon) -> torch.Tensor:
    """Remove the spikes of dropped neurons and delay those of the others.

    Parameters
    ----------
    spikes : uint8 tensor [B, T, C]
        0/1, the output of the neuron.
    axon : Axon

    Returns
    -------
    uint8 tensor [B, T, C]
        0/1; the value of a spike is applied later.
    """
    check_axon(axon, spikes.shape[0], spikes.shape[2], spikes.device)
    if axon.kept is not None:
        spikes = spikes * axon.kept[:, None]
    return shift_rows(spikes, axon.lag)


def axon_backward(grad: torch.Tensor, axon: Axon) -> torch.Tensor:
    """Return the gradient of the neuron's spikes: `grad` [B, T, C] moved back by the lags, masked and scaled."""
    back = shift_rows(grad, -axon.lag) * axon.value
    return back if axon.kept is None else back * axon.kept[:, None]


def delay_gradient(grad: torch.Tensor, out: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    """Return the gradient of the delays: ``sum_bt grad[b,t,c] * (y[b,t-1,c] - y[b,t,c])``, with the delayed output y.

    Parameters
    ----------
    grad : float tensor [B, T, C]
        Gradient of the delayed output.
    out : uint8 tensor [B, T, C]
        The delayed output, 0/1.
    value : float
        The value of a spike.

    Returns
    -------
    float tensor [C]
    """
    y = out.to(grad.dtype) * value
    before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
    return (grad * (before - y)).sum((0, 1))
