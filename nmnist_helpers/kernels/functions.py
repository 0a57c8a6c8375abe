"""The kernels as differentiable functions: a neuron, an axon, and a whole layer in one step.

The neuron and the layer run on the `twin` of their device. Inputs of any floating-point type are computed in float32,
and autograd converts their gradients back to the type of the input.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch

from ..spikes import Spikes
from .backend import twin
from .common import Axon, Membrane, Needs, OutputGradients, State
from .integers import lag_of
from .reference.axon import delay_gradient, shift_rows
from .reference.product import adds_in_usual_order, normalise_gradient
from .window import Window


def sum_to_shape(grad: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """Sum a gradient over the neurons that share a parameter, and return it in the parameter's `shape`."""
    return None if grad is None else grad.reshape(shape.numel(), -1).sum(1).reshape(shape)


def once_differentiable(backward: Callable) -> Callable:
    """Decorate a backward pass: raise if it is to be differentiated again, and compute in float32 under autocast."""

    @functools.wraps(backward)
    def call(ctx, *grads):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "backward: expected create_graph=False, found True: a spike's derivative is a surrogate and has no"
                " derivative of its own"
            )
        kind = next((grad.device.type for grad in grads if isinstance(grad, torch.Tensor)), "cpu")
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            return backward(ctx, *grads)

    return call


class NeuronStep(torch.autograd.Function):
    """A layer of CUBA neurons.

    ``apply(z, current_decay, voltage_decay, membrane, state, need_current)`` takes the dendrite input z [B, T, C]. It
    returns spikes, voltage and current (None unless `need_current`), float32 [B, T, C] in real units, and the final
    state. `membrane` already contains the decays; as arguments they only receive gradients, and may be None.
    """

    @staticmethod
    def forward(ctx, z, current_decay, voltage_decay, membrane, state, need_current):
        kernels = twin(z.device)
        trace = kernels.neuron_forward(z, membrane, state, need_current=need_current)
        ctx.save_for_backward(trace.voltage)
        ctx.membrane, ctx.state, ctx.kernels = membrane, state, kernels
        # Only the decays' shapes are saved: the decays may be clamped in place before the backward pass runs.
        ctx.decay_shapes = [None if decay is None else decay.shape for decay in (current_decay, voltage_decay)]
        ctx.set_materialize_grads(False)
        current = trace.current.float().div_(membrane.scale) if need_current else None
        return trace.spikes.float(), trace.voltage.float().div_(membrane.scale), current, trace.state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_spikes, grad_voltage, grad_current, _):
        (voltage,) = ctx.saved_tensors
        grads = OutputGradients(grad_spikes, grad_voltage, grad_current)
        if all(grad is None for grad in grads):
            return (None,) * 6
        need = ctx.needs_input_grad[1:3]
        grad_z, *grad_decay = ctx.kernels.neuron_backward(grads, voltage, ctx.membrane, ctx.state, need_decay=any(need))
        grad_decay = [
            sum_to_shape(grad, shape) if needed else None
            for grad, shape, needed in zip(grad_decay, ctx.decay_shapes, need, strict=True)
        ]
        return grad_z, *grad_decay, None, None, None


class SpikeFunction(torch.autograd.Function):
    """The spikes (0/1) of a voltage that was computed elsewhere; the derivative is the surrogate."""

    @staticmethod
    def forward(ctx, voltage, threshold, surrogate):
        ctx.save_for_backward(voltage)
        ctx.threshold, ctx.surrogate = threshold, surrogate
        return (voltage > threshold).to(voltage.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (voltage,) = ctx.saved_tensors
        distance = (voltage - ctx.threshold).abs()
        return grad * ctx.surrogate.gain * torch.exp(-distance / ctx.surrogate.tau), None, None


class AxonDelay(torch.autograd.Function):
    """Rows [B, T, C] delayed by whole steps: a fixed shift plus the floor of a learned delay."""

    @staticmethod
    def forward(ctx, rows, delay, shift):
        lag = lag_of(delay, shift, rows.shape[2], rows.shape[1], rows.device)
        out = shift_rows(rows, lag)
        ctx.save_for_backward(out if ctx.needs_input_grad[1] else None, lag)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        out, lag = ctx.saved_tensors
        return shift_rows(grad, -lag), delay_gradient(grad, out) if ctx.needs_input_grad[1] else None, None


class LayerCall(NamedTuple):
    """The arguments of `CubaLayer` that receive no gradient.

    spikes : the input as events; None if its spikes differ in value, so that only a dense product will do;
    membrane, state, axon : the neurons' constants, their initial state, and their axons' constants;
    need_grad : whether a backward pass may follow;
    dense : whether to return the output as numbers; otherwise a placeholder for autograd is returned;
    window : the geometry of a convolution; None for a dense layer;
    weights : weights that `quantise_all` has quantised before, for calls without a backward pass.
    """

    spikes: Spikes | None
    membrane: Membrane
    state: State
    axon: Axon
    need_grad: bool = True
    dense: bool = True
    window: Window | None = None
    weights: torch.Tensor | None = None


class Quantised(NamedTuple):
    """Quantised weights in the twin's layout (`table`), and what their gradient needs.

    `flat` is v as a matrix, `factor` is ``g / ||v||`` (ones without g), `norm` is ``||v||`` (None without g).
    """

    table: torch.Tensor
    flat: torch.Tensor
    factor: torch.Tensor
    norm: torch.Tensor | None


class Normalise(torch.autograd.Function):
    """Scale weights v [C_out, C_in, ...] with norms [C_out, 1, ...] to the lengths g; the norms get no gradient."""

    @staticmethod
    def forward(ctx, v: torch.Tensor, g: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(v, g, norm)
        return v * (g / norm)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        v, g, norm = ctx.saved_tensors
        factor = (g / norm).flatten()
        grad_v, grad_g = normalise_gradient(v.flatten(1), factor, norm.flatten(), grad.flatten(1))
        return grad_v.view_as(v), grad_g.view_as(g), None


def normalise(v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Scale the weights v [C_out, C_in, ...] to the lengths g [C_out, 1, ...], like torch's weight normalisation.

    Weights of type float32 are the same to the bit on every processor, and on a GPU with Triton.
    """
    if (v.device.type == "cpu" and adds_in_usual_order()) or v.dtype != torch.float32 or v.dtype != g.dtype:
        return torch._weight_norm(v, g, 0)
    return Normalise.apply(v, g, twin(v.device).norms(v.detach().flatten(1).contiguous()).view_as(g))


def quantise_all(v: torch.Tensor, g: torch.Tensor | None) -> Quantised:
    """Scale the weights v [C_out, C_in, ...] to the lengths g [C_out, 1, ...], if given, and quantise them."""
    channels, kernels = v.shape[0], twin(v.device)
    # Contiguous also for pooling, whose channels share one kernel: on a GPU, torch's weight norm ignores strides.
    flat = v.detach().reshape(channels, -1).float().contiguous()
    if g is None:
        norm, factor = None, torch.ones(channels, dtype=torch.float32, device=v.device)
    else:
        length = g.detach().float().reshape(channels, 1).contiguous()
        norm = kernels.norms(flat)
        factor = length.flatten() / norm
    return Quantised(kernels.quantise(flat, factor), flat, factor, norm)


class CubaLayer(torch.autograd.Function):
    """Synapse, neuron, dropout, shift and learned delay as one differentiable step.

    ``apply(x, v, g, current_decay, voltage_decay, delay, call)`` takes the dense input x [B, C_in, T], the weights v
    [C_out, C_in, ...], their lengths g [C_out, 1, ...] (None without weight norm), and the delay [C_out] or None. If
    `call.spikes` is given, it is the input, and x (which may be None) only receives the gradient. The same holds for
    decays and delay: `call.membrane` and `call.axon` already contain them.

    With `call.window` the layer is a convolution: x is [B, C_in, H, W, T], and the neurons of a channel share its
    weights, decays and delay.

    It returns the output as rows [B, T, neurons], the same output as `Spikes`, and the final state. Without
    `call.dense` the rows only serve autograd: they are a single zero, expanded to [B, T, C_out], or to [B, T, C_out,
    H', W'] for a convolution.

    For the backward pass, the forward pass saves the input's events, the weights, and what the twin needs (on the CPU
    only the voltage, int32). Everything else is computed again.
    """

    @staticmethod
    def forward(ctx, x, v, g, current_decay, voltage_decay, delay, call):
        kernels = twin(v.device)
        source = call.spikes.verify() if call.spikes is not None else x.transpose(1, 2)
        table, flat, factor, norm = quantise_all(v, g) if call.weights is None else (call.weights, None, None, None)
        constants = call.membrane, call.state, call.axon
        if call.window is None:
            trace = kernels.layer_forward(source, table, *constants, need_grad=call.need_grad)
        else:
            trace = kernels.conv_forward(source, table, call.window, *constants, need_grad=call.need_grad)
        ctx.save_for_backward(x if call.spikes is None else None, flat, factor, norm, table, *trace.saved)
        ctx.call, ctx.kernels = call, kernels
        ctx.shapes = v.shape, None if g is None else g.shape, current_decay.shape, voltage_decay.shape
        if call.dense:
            # The caller makes pictures of the rows and transposes them: autograd would forbid in-place changes of a
            # view that is made here.
            rows = trace.spikes.rows()
        else:
            shape = v.shape[:1] if call.window is None else call.window.outputs
            trace.spikes.active = trace.active  # only a placeholder's gradient may be incomplete
            rows = torch.zeros((), dtype=torch.float32, device=v.device).expand(
                source.shape[0], trace.spikes.shape[2], *shape
            )
        return rows, trace.spikes, trace.state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, flat, factor, norm, table, *saved = ctx.saved_tensors
        call, kernels = ctx.call, ctx.kernels
        need_x, need_v, need_g, need_current_decay, need_voltage_decay, need_delay, _ = ctx.needs_input_grad
        source = call.spikes if call.spikes is not None else x.transpose(1, 2)
        constants = call.membrane, call.state, call.axon
        need = Needs(need_x, need_v or need_g, need_current_decay or need_voltage_decay, need_delay)
        if call.window is None:
            found = kernels.layer_backward(grad, saved, source, table, *constants, need)
        else:
            grad = grad.unflatten(2, call.window.outputs) if call.dense else grad
            found = kernels.conv_backward(grad, saved, source, table, call.window, *constants, need)
        grad_v = grad_g = None
        v_shape, g_shape, current_shape, voltage_shape = ctx.shapes
        if found.weights is not None:
            grad_v, grad_g = kernels.quantise_gradient(flat, factor, norm, found.weights)
            grad_v = grad_v.view(v_shape)
            grad_g = None if grad_g is None else grad_g.view(g_shape)
        return (
            None if found.input is None else found.input.movedim(1, -1),
            grad_v,
            grad_g,
            sum_to_shape(found.current_decay, current_shape) if need_current_decay else None,
            sum_to_shape(found.voltage_decay, voltage_shape) if need_voltage_decay else None,
            sum_to_shape(found.delay, flat.shape[:1]) if need_delay else None,
            None,
        )
