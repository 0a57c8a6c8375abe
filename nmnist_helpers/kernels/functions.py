"""The kernels as differentiable functions: a neuron, an axon, and a whole layer in one step.

Each asks `backend.resolve` which twin serves its tensors; everything else is the same for all of them. Inputs of any
floating-point type are computed in float32; autograd turns their gradients back into the type that came in.
"""

import functools
import importlib
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import NamedTuple

import torch

from ..spikes import Spikes
from . import backend
from .common import Axon, Membrane, Needs, OutputGradients, State, raise_not_a_number
from .constants import DECAY_SCALE
from .reference.axon import delay_gradient, moved
from .window import Window


def twin(device: torch.device) -> ModuleType:
    """The package of kernels that serves `device`: `reference`, `cpu` or `gpu`."""
    return importlib.import_module(f".{backend.resolve(device)}", __package__)


def retention_of(decay: torch.Tensor, channels: int, places: int = 1) -> torch.Tensor:
    """What a state retains of 4096 in one step, int32 [C * places]: ``4096 - round(clamp(decay, 0, 4096))``."""
    if decay.numel() not in (1, channels) or not decay.is_floating_point():
        raise ValueError(
            f"decay: expected a floating-point tensor with one number or {channels},"
            f" found {decay.dtype} {list(decay.shape)}"
        )
    _check_number("decay", decay)
    retention = (DECAY_SCALE - torch.round(decay.detach().flatten().clamp(0, DECAY_SCALE))).to(torch.int32)
    return retention.expand(channels)[:, None].expand(-1, places).flatten().contiguous()


def lag_of(delay: torch.Tensor | None, shift: int, channels: int, steps: int, device: torch.device) -> torch.Tensor:
    """Steps by which the axon moves each channel, int32 [C]: shift plus ``floor(delay)``.

    Whoever leaves the recording at one end is as far out with `steps` as with any larger number, and the sum of that
    and a step fits 32 bits whatever the delay.
    """
    shift = max(-steps, min(steps, int(shift)))
    if delay is None:
        return torch.full((channels,), shift, dtype=torch.int32, device=device)
    if delay.shape != (channels,) or not delay.is_floating_point():
        raise ValueError(
            f"delay: expected a floating-point tensor [{channels}], found {delay.dtype} {list(delay.shape)}"
        )
    _check_number("delay", delay)
    whole = torch.floor(delay.detach()).nan_to_num(0, steps, -steps).clamp(-steps, steps).to(torch.int32)
    return (whole + shift).clamp_(-steps, steps)


def _check_number(name: str, parameter: torch.Tensor) -> None:
    """Raise where a parameter on the CPU holds NaN (on a GPU the host would have to wait for the device)."""
    if parameter.device.type == "cpu" and torch.isnan(parameter.detach()).any():
        raise_not_a_number(name)


def as_parameter(grad: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """Gradient by neurons folded to the parameter's own shape: summed over the neurons that share a number."""
    return None if grad is None else grad.reshape(shape.numel(), -1).sum(1).reshape(shape)


def first_derivative(backward: Callable) -> Callable:
    """Guard a backward pass: refuse to be differentiated again, and compute in float32 under autocast too."""

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
    """A neuron.

    ``apply(z, current_decay, voltage_decay, membrane, state, need_current)`` takes rows z [B, T, C] to spikes, voltage
    and current (None unless asked for), float32 [B, T, C] in real units, and the state at the end. The decays are
    those that `membrane` was made from, here for their gradients alone: None for one that does not learn.
    """

    @staticmethod
    def forward(ctx, z, current_decay, voltage_decay, membrane, state, need_current):
        kernels = twin(z.device)
        trace = kernels.neuron_forward(z, membrane, state, need_current=need_current)
        ctx.save_for_backward(trace.voltage)
        ctx.membrane, ctx.state, ctx.kernels = membrane, state, kernels
        # of the decays only the shapes: they are clamped in place, also between a forward and its backward
        ctx.decay_shapes = [None if decay is None else decay.shape for decay in (current_decay, voltage_decay)]
        ctx.set_materialize_grads(False)
        current = trace.current.float().div_(membrane.scale) if need_current else None
        return trace.spikes.float(), trace.voltage.float().div_(membrane.scale), current, trace.state

    @staticmethod
    @first_derivative
    def backward(ctx, grad_spikes, grad_voltage, grad_current, _):
        (voltage,) = ctx.saved_tensors
        grads = OutputGradients(grad_spikes, grad_voltage, grad_current)
        if all(grad is None for grad in grads):
            return (None,) * 6
        need = ctx.needs_input_grad[1:3]
        grad_z, *by_decay = ctx.kernels.neuron_backward(grads, voltage, ctx.membrane, ctx.state, need_decay=any(need))
        by_decay = [
            as_parameter(grad, shape) if needed else None
            for grad, shape, needed in zip(by_decay, ctx.decay_shapes, need, strict=True)
        ]
        return grad_z, *by_decay, None, None, None


class SpikeFunction(torch.autograd.Function):
    """Voltage to spikes, for whoever computed the voltage elsewhere; the derivative is the surrogate."""

    @staticmethod
    def forward(ctx, voltage, threshold, surrogate):
        ctx.save_for_backward(voltage)
        ctx.threshold, ctx.surrogate = threshold, surrogate
        return (voltage > threshold).to(voltage.dtype)

    @staticmethod
    @first_derivative
    def backward(ctx, grad):
        (voltage,) = ctx.saved_tensors
        distance = (voltage - ctx.threshold).abs()
        return grad * ctx.surrogate.gain * torch.exp(-distance / ctx.surrogate.tau), None, None


class AxonDelay(torch.autograd.Function):
    """Rows [B, T, C] moved by whole steps: a fixed shift plus the floor of a learned delay."""

    @staticmethod
    def forward(ctx, rows, delay, shift):
        lag = lag_of(delay, shift, rows.shape[2], rows.shape[1], rows.device)
        out = moved(rows, lag)
        ctx.save_for_backward(out if ctx.needs_input_grad[1] else None, lag)
        return out

    @staticmethod
    @first_derivative
    def backward(ctx, grad):
        out, lag = ctx.saved_tensors
        return moved(grad, -lag), delay_gradient(grad, out) if ctx.needs_input_grad[1] else None, None


class LayerCall(NamedTuple):
    """What `CubaLayer` needs beside its tensors.

    spikes : the input as events, None where only a dense product will do;
    membrane, state, axon : the neurons' constants, where they begin, and their axons' constants;
    need_grad : whether a backward pass may follow;
    dense : whether to write the output's numbers, or only a tensor that stands for them;
    window : the geometry of a convolution, None for a layer where all inputs meet all neurons;
    weights : the weights as `quantise_all` made them before, for calls that no backward pass follows.
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
    """Weights for the kernels, and what their gradient needs: v as a matrix, g / |v|, and |v| (None without g)."""

    table: torch.Tensor
    flat: torch.Tensor
    factor: torch.Tensor
    norm: torch.Tensor | None


def quantise_all(v: torch.Tensor, g: torch.Tensor | None) -> Quantised:
    """Normalise the weights v [C_out, C_in, ...] to lengths g [C_out, 1, ...] where given, and round them."""
    channels = v.shape[0]
    flat = v.detach().reshape(channels, -1).float()
    norm, factor = None, torch.ones(channels, device=v.device)
    if g is not None:
        length = g.detach().float().view(channels, 1)
        # the very norm that torch's weight norm divides by: `norm_except_dim` differs in the last bit
        norm = torch._weight_norm_interface(flat, length, 0)[1].flatten()
        factor = length.flatten() / norm
    return Quantised(twin(v.device).quantise(flat, factor), flat, factor, norm)


class CubaLayer(torch.autograd.Function):
    """Synapse, neuron, dropout, shift and learned delay as one differentiable step.

    ``apply(x, v, g, current_decay, voltage_decay, delay, call)``: x dense [B, C_in, T] or None (then `call.spikes` is
    the input), v [C_out, C_in, ...] and g [C_out, 1, ...] (None without weight norm), delay [C_out] or None. Decays
    and delay are those that `call.membrane` and `call.axon` were made from, here for their gradients alone.

    With `call.window` the layer is a convolution: x is [B, C_in, H, W, T] or None, rows are pictures
    [B, T, C_out, H', W'], and the neurons of a channel share its weights, decays and delay.

    Returns dense spikes as rows [B, T, C_out] (without `call.dense`, a zero that was expanded to that shape, for
    autograd alone), the same spikes as `Spikes`, and the state at the end.

    Saved for the backward pass: what the twin asks for (the CPU's the voltage alone, int32), and the input's
    events. Everything else is computed again.
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
        shape = v.shape[:1] if call.window is None else call.window.outputs
        if call.dense:
            rows = trace.spikes.rows()  # the caller turns them: a view made in here could not be changed in place
            rows = rows if call.window is None else rows.view(*rows.shape[:2], *shape)
        else:
            trace.spikes.active = trace.active  # the gradient of a stand-in need not be whole
            rows = torch.zeros((), device=v.device).expand(source.shape[0], trace.spikes.shape[2], *shape)
        return rows, trace.spikes, trace.state

    @staticmethod
    @first_derivative
    def backward(ctx, grad, *_):
        x, flat, factor, norm, table, *saved = ctx.saved_tensors
        call, kernels = ctx.call, ctx.kernels
        of_x, of_v, of_g, of_current, of_voltage, of_delay, _ = ctx.needs_input_grad
        source = call.spikes if call.spikes is not None else x.transpose(1, 2)
        constants = call.membrane, call.state, call.axon
        need = Needs(of_x, of_v or of_g, of_current or of_voltage, of_delay)
        if call.window is None:
            found = kernels.layer_backward(grad, saved, source, table, *constants, need)
        else:
            found = kernels.conv_backward(grad, saved, source, table, call.window, *constants, need)
        by_v = by_g = None
        v_shape, g_shape, current_shape, voltage_shape = ctx.shapes
        if found.weights is not None:
            by_v, by_g = kernels.quantise_gradient(flat, factor, norm, found.weights)
            by_v = by_v.view(v_shape)
            by_g = None if by_g is None else by_g.view(g_shape)
        return (
            None if found.input is None else found.input.movedim(1, -1),
            by_v,
            by_g,
            as_parameter(found.current_decay, current_shape) if of_current else None,
            as_parameter(found.voltage_decay, voltage_shape) if of_voltage else None,
            as_parameter(found.delay, flat.shape[:1]) if of_delay else None,
            None,
        )
