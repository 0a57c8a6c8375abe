"""A whole layer on a GPU."""

import torch

from ...spikes import DenseSpikes, Spikes
from ..common import LayerGradients, LayerTrace, State, Surrogate
from ..constants import STATE_SCALE
from .axon import axon_forward, delay_gradient
from .neuron import neuron_backward, neuron_forward
from .product import input_gradient, product, weight_gradient


def layer_forward(
    spikes: Spikes | torch.Tensor,
    weights: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    lag: torch.Tensor,
    kept: torch.Tensor | None = None,
    value: float = 1.0,
    need_grad: bool = True,
) -> LayerTrace:
    """As `nmnist_helpers.kernels.reference.layer_forward`; the spikes stay 0/1 bytes.

    The length of a list is known on the device only; waiting for it would stop the queue at every layer and
    forbid recording the step as a CUDA graph.
    """
    z = product(spikes, weights)
    trace = neuron_forward(z, keep_i, keep_v, threshold, state, need_voltage=need_grad)
    out = axon_forward(trace.spikes, lag, kept)
    return LayerTrace(DenseSpikes(out, value=value), trace.state, (trace.voltage, out) if need_grad else ())


def layer_backward(
    grad: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    spikes: Spikes | torch.Tensor,
    weights: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    surrogate: Surrogate,
    lag: torch.Tensor,
    kept: torch.Tensor | None = None,
    value: float = 1.0,
    *,
    need_input: bool = True,
    need_weights: bool = True,
    need_decay: bool = True,
    need_delay: bool = True,
) -> LayerGradients:
    """As `nmnist_helpers.kernels.reference.layer_backward`."""
    voltage, out = saved
    z, of_current, of_voltage = neuron_backward(
        grad, voltage, keep_i, keep_v, threshold, state, surrogate, STATE_SCALE,
        lag=lag, kept=kept, value=value, need_decay=need_decay,
    )  # fmt: skip
    return LayerGradients(
        input_gradient(z, weights) if need_input else None,
        weight_gradient(spikes, z) if need_weights else None,
        of_current,
        of_voltage,
        delay_gradient(grad, out, value) if need_delay else None,
    )
