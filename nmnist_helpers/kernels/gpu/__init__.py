"""The GPU twin: Triton kernels.

What the other twins raise on the spot, an input or a state that left its range, is kept on the device here
until `check` asks for it.
"""

from .axon import axon_backward, axon_forward, delay_gradient
from .launch import check
from .layer import layer_backward, layer_forward
from .neuron import neuron_backward, neuron_forward
from .product import input_gradient, product, weight_gradient
from .weight import quantise, quantise_gradient, weight_values

__all__ = [
    "axon_backward",
    "axon_forward",
    "check",
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
