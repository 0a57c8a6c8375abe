"""The reference twin: plain PyTorch, integers, a loop over time. The fast twins are tested against it."""

import sys
from functools import partial

from .. import composite
from .axon import axon_forward, delay_gradient
from .conv import conv_input_gradient, conv_product, conv_weight_gradient
from .integers import lag_of, retention_of
from .neuron import neuron_backward, neuron_forward
from .product import input_gradient, norms, product, quantise, quantise_gradient, weight_gradient, weight_values

layer_forward = partial(composite.layer_forward, sys.modules[__name__])
layer_backward = partial(composite.layer_backward, sys.modules[__name__])
conv_forward = partial(composite.conv_forward, sys.modules[__name__])
conv_backward = partial(composite.conv_backward, sys.modules[__name__])

__all__ = [
    "axon_forward",
    "conv_backward",
    "conv_forward",
    "conv_input_gradient",
    "conv_product",
    "conv_weight_gradient",
    "delay_gradient",
    "input_gradient",
    "lag_of",
    "layer_backward",
    "layer_forward",
    "neuron_backward",
    "neuron_forward",
    "norms",
    "product",
    "quantise",
    "quantise_gradient",
    "retention_of",
    "weight_gradient",
    "weight_values",
]
