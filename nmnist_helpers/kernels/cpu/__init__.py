"""The CPU twin: Numba kernels, parallel over samples and blocks of channels, no compiler needed."""

from .axon import axon_backward, axon_forward, delay_gradient
from .layer import layer_backward, layer_forward
from .memory import keep_freed_memory
from .neuron import neuron_backward, neuron_forward
from .product import input_gradient, product, weight_gradient
from .weight import quantise, quantise_gradient, weight_values

keep_freed_memory()

__all__ = [
    "axon_backward",
    "axon_forward",
    "delay_gradient",
    "input_gradient",
    "layer_backward",
    "layer_forward",
    "neuron_backward",
    "neuron_forward",
    "product",
    "quantise",
    "quantise_gradient",
    "weight_gradient",
    "weight_values",
]
