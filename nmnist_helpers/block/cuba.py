"""The CUBA blocks under lava-dl's names, and the conversion of integer layers into blocks."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..kernels.constants import WEIGHT_SCALE
from ..lava import absent, public
from ..neuron.norm import MeanOnlyBatchNorm
from .base import Block
from .conv import Conv, Flatten, OfPicture, Pool
from .dense import Dense
from .spec import LayerSpec


def from_specs(layers: Iterable[LayerSpec], neuron_params: dict) -> Iterator[torch.nn.Module]:
    """Yield blocks that quantise to exactly the integers of `layers`.

    `neuron_params` supplies the neuron arguments that the layers do not contain.

    Raises
    ------
    ValueError
        If no block can represent a layer: an input layer, pooling with a bias, or a bias that is not a quantised mean.
        If `neuron_params` supplies an argument that a layer decides, such as the threshold.
    """
    before = None
    for index, layer in enumerate(layers):
        if before is not None and before.type != "dense" and layer.type == "dense":
            yield Flatten()
        try:
            yield _from_spec(layer, neuron_params)
        except (TypeError, ValueError) as error:
            raise ValueError(f"layer {index}: {error}") from error
        before = layer


@torch.no_grad()
def _from_spec(layer: LayerSpec, neuron_params: dict) -> Block:
    params: dict[str, Any] = {
        "scale": WEIGHT_SCALE,
        "threshold": layer.v_th_mant / WEIGHT_SCALE,
        "current_decay": 0.0,  # placeholders; the integers are copied in below
        "voltage_decay": 0.0,
        "num_neurons": layer.channels,
        "shared_param": np.ndim(layer.i_decay) == 0 and np.ndim(layer.v_decay) == 0,
    }
    if layer.bias is not None:
        params["norm"] = MeanOnlyBatchNorm
    if both := [name for name in neuron_params if name in params]:
        raise ValueError(f"expected no arguments that the layers decide, found {', '.join(both)}; leave them out")
    params |= neuron_params
    pairs = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    delay = layer.delay is not None
    block: Block
    if layer.type == "dense":
        block = Dense(params, layer.in_features, layer.out_features, delay=delay)
    elif layer.type == "conv":
        size = layer.weight.shape[2:]
        block = Conv(params, layer.in_shape[0], layer.channels, size, groups=layer.groups, **pairs, delay=delay)
    elif layer.type == "pool":
        if layer.bias is not None:
            raise ValueError("bias: expected none in a pooling layer, found one, and a Pool block has no normalisation")
        block = Pool(params, layer.weight.shape[2:], **pairs, delay=delay)
    else:
        raise ValueError(f"type: expected a layer type that has a block, found {layer.type!r}")
    if layer.type != "dense":
        block.input_shape = layer.in_shape
    synapses, neuron = block.synapse, block.neuron
    synapses.weight.copy_(torch.from_numpy(layer.weight / WEIGHT_SCALE).reshape(synapses.weight.shape))
    for parameter, decay in ((neuron.current_decay, layer.i_decay), (neuron.voltage_decay, layer.v_decay)):
        parameter.copy_(torch.as_tensor(np.asarray(decay), dtype=torch.float32).expand(parameter.shape))
    if block.delay is not None:
        block.delay.draw(layer.channels)
        # Half a step more keeps the delay off the edges of floor(), so that a small update moves no spike.
        block.delay.delay.copy_(torch.from_numpy(layer.delay) + 0.5)
    if layer.bias is not None:
        neuron.norm.running_mean.copy_(torch.from_numpy(-layer.bias / WEIGHT_SCALE))
        if not np.array_equal(neuron.norm.bias.cpu().numpy(), layer.bias):
            raise ValueError("bias: expected even integers in -254..256, found values that no normalisation yields")
    return block


if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["Block", "Conv", "Dense", "Flatten", "OfPicture", "Pool", "from_specs"]
