"""The parameters of the tutorial's neuron, and small networks and signals for tests."""

from collections.abc import Sequence

import numpy as np
import torch

from nmnist_helpers.block import cuba
from nmnist_helpers.neuron import Dropout

THRESHOLD = 80 * 64  # 1.25 in units of the integer state
DYNAMICS = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}
FIXED = {**DYNAMICS, "tau_grad": 0.03, "scale_grad": 3}
PARAMS = {**FIXED, "requires_grad": True}


class Blocks(torch.nn.Module):
    """A chain of dense blocks as a lava-dl user writes it; the last block has no delay and no dropout.

    `sizes` are the numbers of channels from the input to the output; `changes` override parameters of the neurons.
    """

    def __init__(self, sizes: Sequence[int], weight_norm=True, delay=True, dropout: float | None = None, **changes):
        super().__init__()
        last = {**PARAMS, **changes}
        hidden = last if dropout is None else {**last, "dropout": Dropout(p=dropout)}
        *before, (inputs, outputs) = zip(sizes, sizes[1:], strict=False)
        self.blocks = torch.nn.ModuleList(
            [cuba.Dense(hidden, *pair, weight_norm=weight_norm, delay=delay) for pair in before]
        )
        self.blocks.append(cuba.Dense(last, inputs, outputs, weight_norm=weight_norm))

    def forward(self, spikes):
        for block in self.blocks:
            spikes = block(spikes)
        return spikes


def sample(sizes, density=0.05, value=1.0, seed=0) -> torch.Tensor:
    """Return a random spike train, float32 of shape `sizes`, whose spikes all have the same value."""
    return torch.from_numpy((np.random.default_rng(seed).random(sizes) < density).astype(np.float32)) * value


def gradient_like(sizes, seed=9) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=sizes).astype(np.float32))
