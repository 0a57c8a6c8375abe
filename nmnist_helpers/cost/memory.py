"""Memory that the parameters of a network need on the chip."""

import math
from dataclasses import dataclass

import numpy as np

from ..netx import LayerSpec, as_specs
from ..table import Table


@dataclass
class LayerMemory:
    """Memory in bytes that the parameters of one layer need. Thresholds and biases are few and not counted.

    Attributes
    ----------
    weights : int
        All weights, with 8 bits each.
    nonzero : int
        Non-zero weights, with 8 bits each.
    float32 : int
        All weights in float32, as in training.
    delays : int
        Delays, with 6 bits each, rounded up to bytes.
    decays : int
        Decays, with 12 bits each, rounded up to bytes. A shared decay counts once.
    """

    name: str
    weights: int
    nonzero: int
    float32: int
    delays: int
    decays: int


@dataclass
class Memory(Table):
    """Memory of the parameters of a network, layer by layer, as a table that can be printed."""

    layers: list[LayerMemory]
    title: str = "memory of the parameters, bytes"

    @property
    def total(self) -> int:
        """Bytes of all 8-bit weights, delays and decays."""
        return sum(layer.weights + layer.delays + layer.decays for layer in self.layers)

    def rows(self) -> list[dict[str, str]]:
        """Return one row per layer and a last row for the whole network."""
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
    """Compute the memory that the parameters of `network` need on the chip; `network` is as for `count_operations`."""
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
