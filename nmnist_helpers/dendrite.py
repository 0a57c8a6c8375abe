"""Dendrites: processing of weighted spikes before they reach the neuron.

The sum over synapses is part of the product (`synapse`), and normalisation is part of the neuron (`neuron.norm`). Only
the running sum over time is defined here.
"""

import torch

from .lava import public


class Sigma(torch.nn.Module):
    """Running sum over time, for inputs that encode changes instead of values.

    Examples
    --------
    >>> Sigma()(torch.tensor([[[1.0, 0.0, 2.0]]]))
    tensor([[[1., 1., 3.]]])
    """

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the cumulative sum of z [B, C, ..., T] over its last axis."""
        return torch.cumsum(z, dim=-1)


__dir__ = public(__name__)

__all__ = ["Sigma"]
