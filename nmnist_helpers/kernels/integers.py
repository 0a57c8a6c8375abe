"""Decays and delays as the integers that the neurons and the axons use.

The twins compute in float32. The reference also takes numbers of 64 bits, which float32 would round.
"""

import torch

from . import reference
from .backend import twin


def retention_of(decay: torch.Tensor, channels: int, places: int = 1) -> torch.Tensor:
    """Return what is left of a state of 4096 after one step: ``4096 - round(clamp(decay, 0, 4096))``.

    The result is int32 [C * places]. `decay` holds one number, or one for each of the C channels; the neurons of a
    channel, one for each of its `places`, share its number.
    """
    if decay.numel() not in (1, channels) or not decay.is_floating_point():
        raise ValueError(
            f"decay: expected a floating-point tensor with 1 or {channels} elements,"
            f" found {decay.dtype} {list(decay.shape)}"
        )
    kernels, decay = _twin_and_numbers(decay)
    return kernels.retention_of(decay, channels, places)


def lag_of(delay: torch.Tensor | None, shift: int, channels: int, steps: int, device: torch.device) -> torch.Tensor:
    """Return the steps by which the axon delays each channel: ``shift + floor(delay)``, int32 [C].

    The result is clamped to -`steps`..`steps`. Either limit already moves every spike out of the recording, and the
    sum of a lag and a time step then fits 32 bits.
    """
    shift = max(-steps, min(steps, int(shift)))
    if delay is None:
        return torch.full((channels,), shift, dtype=torch.int32, device=device)
    if delay.shape != (channels,) or not delay.is_floating_point():
        raise ValueError(
            f"delay: expected a floating-point tensor [{channels}], found {delay.dtype} {list(delay.shape)}"
        )
    kernels, delay = _twin_and_numbers(delay)
    return kernels.lag_of(delay, shift, steps)


def _twin_and_numbers(parameter: torch.Tensor):
    if parameter.dtype == torch.float64:
        return reference, parameter
    return twin(parameter.device), parameter.float()  # 16 bits cannot represent all results
