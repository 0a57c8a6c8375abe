"""What happens to a spike on its way out: dropout, the one-step shift, a learned delay per channel."""

import torch

from ..common import Axon, check_axon


def moved(rows: torch.Tensor, lag: torch.Tensor) -> torch.Tensor:
    """Rows [B, T, C] read `lag` [C] steps earlier (negative: later), zeros from outside."""
    steps = rows.shape[1]
    source = torch.arange(steps, device=rows.device)[:, None] - lag.to(torch.int64)  # [T, C]
    inside = (source >= 0) & (source < steps)
    index = source.clamp(0, steps - 1).expand(rows.shape[0], -1, -1)
    return torch.where(inside, rows.gather(1, index), torch.zeros((), dtype=rows.dtype, device=rows.device))


def axon_forward(spikes: torch.Tensor, axon: Axon) -> torch.Tensor:
    """Drop neurons and delay the others.

    Parameters
    ----------
    spikes : uint8 tensor [B, T, C]
        0/1, straight from the neuron.
    axon : Axon

    Returns
    -------
    uint8 tensor [B, T, C]
        0/1: what a spike is worth is left for later.
    """
    check_axon(axon, spikes.shape[0], spikes.shape[2], spikes.device)
    if axon.kept is not None:
        spikes = spikes * axon.kept[:, None]
    return moved(spikes, axon.lag)


def axon_backward(grad: torch.Tensor, axon: Axon) -> torch.Tensor:
    """Gradient of the neuron's spikes: `grad` [B, T, C] moved back by the lags, dropped and scaled."""
    back = moved(grad, -axon.lag) * axon.value
    return back if axon.kept is None else back * axon.kept[:, None]


def delay_gradient(grad: torch.Tensor, out: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    """Gradient of the delays: ``sum_bt grad[b,t,c] * (y[b,t-1,c] - y[b,t,c])``, y the delayed output.

    Parameters
    ----------
    grad : float tensor [B, T, C]
        Gradient of the delayed output.
    out : uint8 tensor [B, T, C]
        The delayed output, 0/1.
    value : float
        What a spike is worth.

    Returns
    -------
    float tensor [C]
    """
    y = out.to(grad.dtype) * value
    before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
    return (grad * (before - y)).sum((0, 1))
