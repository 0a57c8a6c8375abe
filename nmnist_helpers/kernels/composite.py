"""A whole layer, forward and back, from a twin's parts: product, neuron and axon, one after the other.

`reference` and `gpu` take their layer from here; `cpu` has a fused one of its own.
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
    """Let spikes pass a layer.

    The spikes that come out stay 0/1 bytes. On a GPU, the length of a list is known on the device only; waiting for
    it would stop the queue at every layer and forbid recording a step as a CUDA graph.

    Parameters
    ----------
    parts : module
        The twin: its `product`, `neuron_forward`, `axon_forward`.
    spikes : Spikes of shape (B, C_in, T), or float rows [B, T, C_in]
    weights
        From `quantise`.
    membrane, state, axon
        Constants of the neurons, where they begin, constants of their axons.
    need_grad : bool
        Whether `layer_backward` may follow.

    Returns
    -------
    LayerTrace

    Raises
    ------
    OverflowError
        As `neuron_forward`.
    """
    return _send(parts, parts.product(spikes, weights), membrane, state, axon, need_grad)


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
    """Gradients of `layer_forward`.

    Parameters
    ----------
    parts : module
        The twin: its `neuron_backward`, `weight_gradient`, `input_gradient`, `delay_gradient`.
    grad : float tensor [B, T, C_out]
        Gradient of the layer's output.
    saved
        From `layer_forward`.
    spikes, weights, membrane, state, axon
        As they came into `layer_forward`.
    need : Needs
        Which gradients are asked for; the others may be None.

    Returns
    -------
    LayerGradients
    """
    z, found = _back(parts, grad, saved, membrane, state, axon, need)
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
    """As `layer_forward`, by the twin's `conv_product`, for the C_out * H' * W' neurons of `window`.

    `spikes` are of shape (B, C_in * H * W, T), `weights` from `quantise` of [C_out, C_in / groups * height * width].
    """
    return _send(parts, parts.conv_product(spikes, weights, window), membrane, state, axon, need_grad)


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
    """As `layer_backward`, by the twin's `conv_weight_gradient` and `conv_input_gradient`.

    `grad` and the gradient of the input are pictures, [B, T, C_out, H', W'] and [B, T, C_in, H, W]; decays and delays
    have a gradient for every neuron.
    """
    z, found = _back(parts, grad.flatten(2), saved, membrane, state, axon, need)
    return found._replace(
        input=parts.conv_input_gradient(z, weights, window) if need.input else None,
        weights=parts.conv_weight_gradient(spikes, z, window) if need.weights else None,
    )


def _send(
    parts: ModuleType, z: torch.Tensor, membrane: Membrane, state: State, axon: Axon, need_grad: bool
) -> LayerTrace:
    """From the sums of a product to the spikes that arrive."""
    trace = parts.neuron_forward(z, membrane, state, need_voltage=need_grad)
    out = parts.axon_forward(trace.spikes, axon)
    return LayerTrace(DenseSpikes(out, value=axon.value), trace.state, (trace.voltage, out) if need_grad else ())


def _back(
    parts: ModuleType,
    rows: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    membrane: Membrane,
    state: State,
    axon: Axon,
    need: Needs,
) -> tuple[torch.Tensor, LayerGradients]:
    """From the gradient of what `_send` gave, as rows, to that of the sums, and those of decays and delays."""
    voltage, out = saved
    z, by_current, by_voltage = parts.neuron_backward(
        OutputGradients(rows), voltage, membrane, state, axon, need_decay=need.decay
    )
    by_delay = parts.delay_gradient(rows, out, axon.value) if need.delay else None
    return z, LayerGradients(
        input=None, weights=None, current_decay=by_current, voltage_decay=by_voltage, delay=by_delay
    )
