"""Memory that the parameters of a network take on the chip."""

import math
from dataclasses import dataclass

import numpy as np

from ..netx import LayerSpec, as_specs
from ..table import Table


@dataclass
class LayerMemory:
    """Bytes that one layer's parameters take.

    Attributes
    ----------
    weights : int
        Weights at 8 bits each.
    nonzero : int
        Those that are not zero.
    float32 : int
        The same weights as they are trained.
    delays : int
        Delays at 6 bits, rounded up to bytes.
    decays : int
        Decays at 12 bits, shared ones once, rounded up to bytes.
    """

    name: str
    weights: int
    nonzero: int
    float32: int
    delays: int
    decays: int


@dataclass
class Memory(Table):
    """Memory of a network's parameters, layer by layer."""

    layers: list[LayerMemory]
    title: str = "memory of the parameters, bytes"

    @property
    def total(self) -> int:
        """Bytes of all parameters."""
        return sum(layer.weights + layer.delays + layer.decays for layer in self.layers)

    def rows(self) -> list[dict[str, str]]:
        """The listing, the last line for the whole network."""
        names = ("weights", "nonzero", "float32", "delays", "decays")
        total = LayerMemory("all", **{name: sum(getattr(layer, name) for layer in self.layers) for name in names})
        return [
            {
                "block": layer.name,
                "weights, 8 bit": f"{layer.weights:,}",
                "of these not zero": f"{layer.nonzero:,}",
                "weights, float32": f"{layer.float32:,}",
                "delays, 6 bit": f"{layer.delays:,}",
                "decays, 12 bit": f"{layer.decays:,}",
            }
            for layer in [*self.layers, total]
        ]


def count_memory(network) -> Memory:
    """Memory that the parameters of `network` (as for `count_operations`) take on the chip."""
    return Memory([_layer_memory(str(i), spec) for i, spec in enumerate(as_specs(network), 1)])


def _layer_memory(name: str, spec: LayerSpec) -> LayerMemory:
    decays = sum(np.size(decay) for decay in (spec.i_decay, spec.v_decay))
    return LayerMemory(
        name=name,
        weights=spec.weight.size,
        nonzero=int(np.count_nonzero(spec.weight)),
        float32=4 * spec.weight.size,
        delays=0 if spec.delay is None else math.ceil(6 * spec.delay.size / 8),
        decays=math.ceil(12 * decays / 8),
    )
