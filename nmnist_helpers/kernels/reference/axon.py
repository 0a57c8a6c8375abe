"""What happens to a spike on its way out: dropout, the one-step shift, a learned delay per channel."""

import torch


def moved(rows: torch.Tensor, lag: torch.Tensor) -> torch.Tensor:
    """Rows [B, T, C] read `lag` [C] steps earlier (negative: later), zeros from outside."""
    steps = rows.shape[1]
    source = torch.arange(steps, device=rows.device)[:, None] - lag  # [T, C]
    inside = (source >= 0) & (source < steps)
    index = source.clamp(0, steps - 1).expand(rows.shape[0], -1, -1)
    return torch.where(inside, rows.gather(1, index), torch.zeros((), dtype=rows.dtype, device=rows.device))


def axon_forward(spikes: torch.Tensor, lag: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Drop neurons and delay the others.

    Parameters
    ----------
    spikes : uint8 tensor [B, T, C]
        0/1, straight from the neuron.
    lag : int32 tensor [C]
        Steps by which each channel is moved: shift plus whole delay.
    kept : uint8 tensor [B, C], optional
        0 where dropout silences a neuron.

    Returns
    -------
    uint8 tensor [B, T, C]
    """
    if kept is not None:
        spikes = spikes * kept[:, None]
    return moved(spikes, lag.to(torch.int64))


def axon_backward(
    grad: torch.Tensor, lag: torch.Tensor, kept: torch.Tensor | None = None, value: float = 1.0
) -> torch.Tensor:
    """Gradient of the neuron's spikes: `grad` [B, T, C] moved back by `lag`, dropped and scaled."""
    back = moved(grad, -lag.to(torch.int64)) * value
    return back if kept is None else back * kept[:, None]


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
