"""The CPU twin: Numba kernels that run in parallel over samples and blocks of channels; they need no C compiler."""

from .conv import conv_backward, conv_forward
from .integers import lag_of, retention_of
from .layer import layer_backward, layer_forward
from .memory import retain_freed_memory
from .neuron import neuron_backward, neuron_forward
from .weight import norms, quantise, quantise_gradient, weight_values

retain_freed_memory()

__all__ = [
    "conv_backward",
    "conv_forward",
    "lag_of",
    "layer_backward",
    "layer_forward",
    "neuron_backward",
    "neuron_forward",
    "norms",
    "quantise",
    "quantise_gradient",
    "retention_of",
    "weight_values",
]
