"""The CPU twin: Numba kernels that run in parallel over samples and blocks of channels; they need no C compiler."""

from ..reference import norms
from .conv import conv_backward, conv_forward
from .layer import layer_backward, layer_forward
from .memory import retain_freed_memory
from .neuron import neuron_backward, neuron_forward
from .weight import quantise, quantise_gradient, weight_values

retain_freed_memory()

__all__ = [
    "conv_backward",
    "conv_forward",
    "layer_backward",
    "layer_forward",
    "neuron_backward",
    "neuron_forward",
    "norms",
    "quantise",
    "quantise_gradient",
    "weight_values",
]
