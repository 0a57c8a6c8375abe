"""From integers back to blocks: a network that quantises to exactly the layers it came from."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..block import cuba
from ..network import NEURON_PARAMS
from ..neuron.norm import MeanOnlyBatchNorm
from .rules import LayerSpec
from .writer import write_network

UNIT = 64  # integer steps of a weight and of the threshold per real unit
UNSAID = {name: NEURON_PARAMS[name] for name in ("tau_grad", "scale_grad", "requires_grad")}  # by a file


class BlockNetwork(torch.nn.Module):
    """Blocks one after the other, under the names that the tutorial's network has (``blocks.0...``).

    Parameters
    ----------
    blocks : iterable of torch.nn.Module
        From input to output.
    """

    def __init__(self, blocks) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)

    def forward(self, spikes):
        """Spikes [B, in, T] to spikes [B, out, T]."""
        for block in self.blocks:
            spikes = block(spikes)
        return spikes

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[torch.nn.Module]:
        return iter(self.blocks)

    def __getitem__(self, index: int) -> torch.nn.Module:
        return self.blocks[index]

    def export_hdf5(self, filename: str | os.PathLike) -> Path:
        """Write the `.net` file."""
        return write_network(filename, self)


def to_blocks(layers: list[LayerSpec], neuron_params: dict) -> BlockNetwork:
    """See `Net.to_blocks`."""
    return BlockNetwork(_block(layer, neuron_params) for layer in layers)


@torch.no_grad()
def _block(layer: LayerSpec, neuron_params: dict) -> cuba.Dense:
    params = {
        **UNSAID,
        **neuron_params,
        "threshold": layer.v_th_mant / UNIT,
        "current_decay": 0.0,  # both follow below, in whole steps
        "voltage_decay": 0.0,
        "shared_param": np.ndim(layer.i_decay) == 0 and np.ndim(layer.v_decay) == 0,
    }
    if layer.bias is not None:
        params["norm"] = MeanOnlyBatchNorm
    block = cuba.Dense(params, layer.in_features, layer.out_features, delay=layer.delay is not None)
    block.synapse.weight.copy_(torch.from_numpy(layer.weight / UNIT).reshape(block.synapse.weight.shape))
    for parameter, decay in ((block.neuron.current_decay, layer.i_decay), (block.neuron.voltage_decay, layer.v_decay)):
        parameter.copy_(torch.as_tensor(np.asarray(decay), dtype=torch.float32).expand(parameter.shape))
    if layer.delay is not None:
        # Half a step on top, away from the edges of floor(): the first small update moves no spike by itself.
        block.delay.delay.copy_(torch.from_numpy(layer.delay) + 0.5)
    if layer.bias is not None:
        block.neuron.norm.running_mean.copy_(torch.from_numpy(-layer.bias / UNIT))
    return block
