"""Functions on signals in time: shift them, and repeat a value at every step."""

from collections.abc import Sequence

import torch

from ..axon import in_steps
from ..lava import public


def shift(
    input: torch.Tensor, shift_val: float | Sequence[float] | torch.Tensor, sampling_time: float = 1
) -> torch.Tensor:
    """Shift signals to later time steps (or to earlier ones, if the shift is negative), filling in zeros.

    Parameters
    ----------
    input : tensor [B, C, ..., T]
        Any signal over time.
    shift_val : float, sequence of float or tensor
        Shift in ms: one number for all signals, or one for each of the C x ... signals.
    sampling_time : float
        ms per time step. Shifts are truncated to whole steps; see `axon.in_steps`.

    Returns
    -------
    tensor [B, C, ..., T]
        The shifted signals. In the backward pass, the gradient is shifted back.

    Raises
    ------
    ValueError
        If the number of shifts is neither 1 nor the number of signals, if one is not finite, or if `sampling_time` is
        not positive.

    Examples
    --------
    >>> shift(torch.tensor([[[1.0, 2.0, 3.0]]]), 1)
    tensor([[[0., 1., 2.]]])
    """
    inner = input.shape[1:-1]
    shifts = torch.as_tensor(shift_val, dtype=torch.float64, device=input.device)
    if not torch.isfinite(shifts).all():
        raise ValueError(f"shift: expected finite shifts, found {shift_val}")
    steps = in_steps(shifts, sampling_time).trunc().to(torch.int64)
    if steps.numel() not in (1, inner.numel()):
        raise ValueError(f"shift: expected 1 or {inner.numel()} shifts, found {steps.numel()}")
    steps = steps.reshape(()) if steps.numel() == 1 else steps.reshape(*inner, 1)
    source = (torch.arange(input.shape[-1], device=input.device) - steps).expand(input.shape)
    inside = (source >= 0) & (source < input.shape[-1])
    moved = input.gather(-1, source.clamp(0, max(0, input.shape[-1] - 1)))
    return torch.where(inside, moved, torch.zeros_like(moved))


def replicate(input: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Repeat a tensor of any shape [...] along a new last axis, time: [..., num_steps]."""
    return input[..., None].repeat_interleave(num_steps, -1)


__dir__ = public(__name__)

__all__ = ["replicate", "shift"]
