"""Warnings about a block that cannot learn; each is given once per block, in training mode."""

import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .base import Block


def warn_if_weights_vanish(block: "Block") -> None:
    """Warn if all weights round to zero; check only at the first forward pass."""
    if not block.training or block.weights_seen:
        return
    block.weights_seen = True
    if block.quantised and not block.synapse.quantised_weight().any():
        largest = block.synapse.weight.detach().abs().max().item()
        warnings.warn(
            f"block.cuba.{type(block).__name__}: expected weights above {1 / block.neuron.w_scale:.4g}, found none"
            f" larger than {largest:.4g}: all round to zero, so no spike passes and nothing can learn; choose a"
            " larger weight_scale",
            stacklevel=4,
        )


def warn_if_gradients_end(block: "Block", spikes: torch.Tensor) -> None:
    """Warn if a call has only one step, so that all its spikes arrive in the next one, which no gradient reaches."""
    if not block.training or block.ends_seen or not spikes.requires_grad or spikes.shape[-1] > int(block.delay_shift):
        return
    block.ends_seen = True
    warnings.warn(
        f"block.cuba.{type(block).__name__}: expected pieces of several steps, found one step: its spikes arrive in the"
        " next call, and with persistent_state gradients end where a call begins, so the weights do not learn; use"
        " longer pieces, or torch.no_grad() if nothing shall learn",
        stacklevel=5,
    )
