"""Repeating a value at every step of time."""

import torch


def replicate(input: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Repeat a tensor of any shape [...] along a new last axis, time: [..., num_steps]."""
    return input[..., None].repeat_interleave(num_steps, -1)
