"""A whole layer, forward and backward, composed of a twin's kernels for product, neuron and axon.

`reference` and `gpu` use these functions; `cpu` has a fused layer of its own.
"""

from types import ModuleType

import torch

from ..spikes import DenseSpikes, Spikes
from .common import EVERYTHING, Axon, LayerGradients, LayerTrace, Membrane, Needs, OutputGradients, State
from .window import Window


def layer_forward(
    parts: ModuleType,
    spikes: Spikes | torch.Tensor,
    weights: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need_grad: bool = True,
) -> LayerTrace:
    """Compute the output spikes of a layer.

    They stay 0/1 bytes. If they were a list on a GPU, only the device would know its length; waiting for it would
    stall the queue at every layer and make it impossible to record a step as a CUDA graph.

    Parameters
    ----------
    parts : module
        The twin, with its `product`, `neuron_forward` and `axon_forward`.
    spikes : Spikes of shape (B, C_in, T), or float rows [B, T, C_in]
    weights
        From `quantise`.
    membrane, state, axon
        The neurons' constants, their initial state, and their axons' constants.
    need_grad : bool
        Whether `layer_backward` may follow.

    Returns
    -------
    LayerTrace

    Raises
    ------
    OverflowError
        Where `neuron_forward` raises it.
    """
    return _run_neurons(parts, parts.product(spikes, weights), membrane, state, axon, need_grad)


def layer_backward(
    parts: ModuleType,
    grad: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    spikes: Spikes | torch.Tensor,
    weights: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need: Needs = EVERYTHING,
) -> LayerGradients:
    """Compute the gradients of `layer_forward`.

    Parameters
    ----------
    parts : module
        The twin, with its `neuron_backward`, `weight_gradient`, `input_gradient` and `delay_gradient`.
    grad : float tensor [B, T, C_out]
        Gradient of the layer's output.
    saved
        From `layer_forward`.
    spikes, weights, membrane, state, axon
        The arguments of `layer_forward`.
    need : Needs
        Which gradients are needed; the others may be None.

    Returns
    -------
    LayerGradients
    """
    z, found = _backpropagate(parts, grad, saved, membrane, state, axon, need)
    return found._replace(
        input=parts.input_gradient(z, weights) if need.input else None,
        weights=parts.weight_gradient(spikes, z) if need.weights else None,
    )


def conv_forward(
    parts: ModuleType,
    spikes: Spikes,
    weights: torch.Tensor,
    window: Window,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need_grad: bool = True,
) -> LayerTrace:
    """Compute the output spikes of a convolution, as `layer_forward` does for a dense layer.

    The product is the twin's `conv_product`. `spikes` have the shape (B, C_in * H * W, T), `weights` come from
    `quantise` of [C_out, C_in / groups * height * width], and the layer has the C_out * H' * W' neurons of `window`.
    """
    return _run_neurons(parts, parts.conv_product(spikes, weights, window), membrane, state, axon, need_grad)


def conv_backward(
    parts: ModuleType,
    grad: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    spikes: Spikes,
    weights: torch.Tensor,
    window: Window,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need: Needs = EVERYTHING,
) -> LayerGradients:
    """Compute the gradients of `conv_forward`, with the twin's `conv_weight_gradient` and `conv_input_gradient`.

    `grad` and the gradient of the input are pictures, [B, T, C_out, H', W'] and [B, T, C_in, H, W]. The gradients of
    decays and delays have one number per neuron.
    """
    z, found = _backpropagate(parts, grad.flatten(2), saved, membrane, state, axon, need)
    return found._replace(
        input=parts.conv_input_gradient(z, weights, window) if need.input else None,
        weights=parts.conv_weight_gradient(spikes, z, window) if need.weights else None,
    )


def _run_neurons(
    parts: ModuleType, z: torch.Tensor, membrane: Membrane, state: State, axon: Axon, need_grad: bool
) -> LayerTrace:
    """Compute the spikes that leave the axons, from the dendrite input z."""
    trace = parts.neuron_forward(z, membrane, state, need_voltage=need_grad)
    out = parts.axon_forward(trace.spikes, axon)
    return LayerTrace(DenseSpikes(out, value=axon.value), trace.state, (trace.voltage, out) if need_grad else ())


def _backpropagate(
    parts: ModuleType,
    rows: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    membrane: Membrane,
    state: State,
    axon: Axon,
    need: Needs,
) -> tuple[torch.Tensor, LayerGradients]:
    """Compute the gradients of z, decays and delays, from the gradient of the output of `_run_neurons`, as rows."""
    voltage, out = saved
    z, grad_current_decay, grad_voltage_decay = parts.neuron_backward(
        OutputGradients(rows), voltage, membrane, state, axon, need_decay=need.decay
    )
    grad_delay = parts.delay_gradient(rows, out, axon.value) if need.delay else None
    return z, LayerGradients(
        input=None, weights=None, current_decay=grad_current_decay, voltage_decay=grad_voltage_decay, delay=grad_delay
    )
