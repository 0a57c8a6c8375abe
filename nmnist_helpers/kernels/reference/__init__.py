"""The plain twin: loops over time, integers, nothing clever. The fast twins are held to it."""

from .axon import axon_backward, axon_forward, delay_gradient
from .layer import layer_backward, layer_forward
from .neuron import neuron_backward, neuron_forward
from .product import input_gradient, product, quantise, quantise_gradient, weight_gradient, weight_values

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
