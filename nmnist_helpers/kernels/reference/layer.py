"""A whole layer, forward and back: product, neuron and axon, one after the other."""

import torch

from ...spikes import Spikes
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
    """`product`, `neuron_forward`, then `axon_forward`.

    Parameters
    ----------
    spikes : Spikes of shape (B, C_in, T), or float rows [B, T, C_in]
    weights
        From `quantise`.
    keep_i, keep_v, threshold, state
        As in `neuron_forward`.
    lag, kept
        As in `axon_forward`.
    value : float
        What an output spike is worth.
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
    trace = neuron_forward(product(spikes, weights), keep_i, keep_v, threshold, state)
    out = axon_forward(trace.spikes, lag, kept)
    return LayerTrace(Spikes.from_rows(out, value), trace.state, (trace.voltage, out) if need_grad else ())


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
    """Gradients of `layer_forward`: `neuron_backward`, `weight_gradient`, `input_gradient`, `delay_gradient`.

    Parameters
    ----------
    grad : float tensor [B, T, C_out]
        Gradient of the layer's output.
    saved
        From `layer_forward`.
    spikes, weights, keep_i, keep_v, threshold, state, lag, kept, value
        As given to `layer_forward`.
    surrogate : Surrogate
        Shape of the spike function's derivative.
    need_input, need_weights, need_decay, need_delay : bool
        Which gradients are asked for; the others may be None.

    Returns
    -------
    LayerGradients
    """
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
