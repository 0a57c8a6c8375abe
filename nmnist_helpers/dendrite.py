"""Dendrites: what happens to weighted spikes before the neuron sees them.

Accumulation is part of the product (`synapse`), normalisation part of the neuron (`neuron.norm`); what is
left here is the sum over several inputs.
"""

import torch


class Sigma(torch.nn.Module):
    """Running sum over time: the dendrite of neurons that send changes instead of values.

    Examples
    --------
    >>> Sigma()(torch.tensor([[[1.0, 0.0, 2.0]]]))
    tensor([[[1., 1., 3.]]])
    """

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Cumulative sum of z [B, C, ..., T] over its last axis."""
        return torch.cumsum(z, dim=-1)
