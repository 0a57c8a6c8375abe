"""The kernels as differentiable functions: a neuron, an axon, and a whole layer in one step.

Each asks `backend.resolve` which twin serves its tensors; everything else is the same for all of them.
"""

from dataclasses import dataclass, field

import torch

from ..spikes import Spikes
from . import backend
from .common import State, Surrogate, raise_not_a_number, zero_state
from .constants import NEVER, STATE_SCALE


def twin(device: torch.device):
    """The package of kernels that serves `device`: `reference`, `cpu` or `gpu`."""
    name = backend.resolve(device)
    if name == "cpu":
        from . import cpu as kernels
    elif name == "gpu":
        from . import gpu as kernels
    else:
        from . import reference as kernels
    return kernels


def keep_of(decay: torch.Tensor, channels: int) -> torch.Tensor:
    """What a state keeps of 4096 in one step, int32 [C]: ``4096 - round(clamp(decay, 0, 4096))``."""
    _check_number("decay", decay)
    keep = (4096 - torch.round(decay.detach().clamp(0, 4096))).to(torch.int32)
    return keep.expand(channels).contiguous()


def _check_number(name: str, parameter: torch.Tensor) -> None:
    """Raise where a parameter on the CPU holds NaN (on a GPU the look would cost a halt of the queue)."""
    if parameter.device.type == "cpu" and torch.isnan(parameter.detach()).any():
        raise_not_a_number(name)


def as_parameter(grad: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """Gradient [C] folded to the decay's own shape: summed where all channels share one decay."""
    return None if grad is None else (grad.sum().reshape(shape) if shape.numel() == 1 else grad)


@dataclass
class Membrane:
    """The fixed part of a neuron step: threshold and scale in integers, surrogate, state before and after."""

    threshold: int
    surrogate: Surrogate
    scale: int = STATE_SCALE
    state: State | None = None
    end: State | None = field(default=None, repr=False)

    def start(self, batch: int, channels: int, device: torch.device) -> State:
        """The state to begin with: the given one, or rest."""
        return self.state if self.state is not None else zero_state(batch, channels, device)


class NeuronStep(torch.autograd.Function):
    """Input rows [B, T, C] to (spikes, voltage, current) [B, T, C], float32, real units."""

    @staticmethod
    def forward(ctx, z, current_decay, voltage_decay, membrane, need_current):
        kernels = twin(z.device)
        channels = z.shape[2]
        keep_i, keep_v = keep_of(current_decay, channels), keep_of(voltage_decay, channels)
        state = membrane.start(z.shape[0], channels, z.device)
        trace = kernels.neuron_forward(z, keep_i, keep_v, membrane.threshold, state, membrane.scale, need_current)
        membrane.end = trace.state
        # of the decays only the shapes: they are clamped in place, also between a forward and its backward
        ctx.save_for_backward(trace.voltage, keep_i, keep_v, *state)
        ctx.membrane, ctx.kernels = membrane, kernels
        ctx.decay_shapes = current_decay.shape, voltage_decay.shape
        ctx.set_materialize_grads(False)
        current = trace.current.float().div_(membrane.scale) if need_current else None
        return trace.spikes.float(), trace.voltage.float().div_(membrane.scale), current

    @staticmethod
    def backward(ctx, grad_spike, grad_voltage, grad_current):
        voltage, keep_i, keep_v, *state = ctx.saved_tensors
        if grad_spike is None and grad_voltage is None and grad_current is None:
            return (None,) * 5
        membrane = ctx.membrane
        grad_z, grad_i, grad_v = ctx.kernels.neuron_backward(
            grad_spike, voltage, keep_i, keep_v, membrane.threshold, State(*state), membrane.surrogate,
            membrane.scale, grad_voltage, grad_current,
            need_decay=ctx.needs_input_grad[1] or ctx.needs_input_grad[2],
        )  # fmt: skip
        of_current, of_voltage = ctx.decay_shapes
        return grad_z, as_parameter(grad_i, of_current), as_parameter(grad_v, of_voltage), None, None


class SpikeFunction(torch.autograd.Function):
    """Voltage to spikes, for whoever computed the voltage elsewhere; the derivative is the surrogate."""

    @staticmethod
    def forward(ctx, voltage, threshold, surrogate):
        ctx.save_for_backward(voltage)
        ctx.threshold, ctx.surrogate = threshold, surrogate
        return (voltage > threshold).to(voltage.dtype)

    @staticmethod
    def backward(ctx, grad):
        (voltage,) = ctx.saved_tensors
        distance = (voltage - ctx.threshold).abs()
        return grad * ctx.surrogate.gain * torch.exp(-distance / ctx.surrogate.tau), None, None


class AxonDelay(torch.autograd.Function):
    """Rows [B, T, C] moved by whole steps: a fixed shift plus the floor of a learned delay."""

    @staticmethod
    def forward(ctx, rows, delay, shift):
        from .reference.axon import moved

        lag = lag_of(delay, shift, rows.shape[2], rows.device)
        out = moved(rows, lag.to(torch.int64))
        ctx.save_for_backward(out if ctx.needs_input_grad[1] else None, lag)
        return out

    @staticmethod
    def backward(ctx, grad):
        from .reference.axon import moved

        out, lag = ctx.saved_tensors
        grad_delay = None
        if ctx.needs_input_grad[1]:
            before = torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], 1)
            grad_delay = (grad * (before - out)).sum((0, 1))
        return moved(grad, -lag.to(torch.int64)), grad_delay, None


def lag_of(delay: torch.Tensor | None, shift: int, channels: int, device: torch.device) -> torch.Tensor:
    """Steps by which the axon moves each channel, int32 [C]: shift plus ``floor(delay)``."""
    if delay is None:
        return torch.full((channels,), shift, dtype=torch.int32, device=device)
    _check_number("delay", delay)
    return torch.floor(delay.detach()).to(torch.int32) + shift


@dataclass
class Layer:
    """What `CubaLayer` needs beside its tensors, and where it leaves what is not a tensor."""

    membrane: Membrane
    spikes: Spikes | None  # the input as events, None where only a dense product will do
    shift: int  # 1 with delay_shift, else 0
    kept: torch.Tensor | None = None  # uint8 [B, C], 0 where dropout silences a neuron
    value: float = 1.0  # what an output spike is worth: 1/(1-p) under dropout
    need_grad: bool = True  # whether a backward pass may follow
    dense: bool = True  # whether to write the output's numbers, or only a tensor that stands for them
    out: Spikes | None = field(default=None, repr=False)


class CubaLayer(torch.autograd.Function):
    """Synapse, neuron, dropout, shift and learned delay as one differentiable step.

    ``apply(x, v, g, current_decay, voltage_decay, delay, layer)``: x dense [B, C_in, T] or None (then
    `layer.spikes` is the input), v [C_out, C_in, ...] and g [C_out, 1, ...] (None without weight norm),
    delay [C_out] or None. Returns dense spikes as rows [B, T, C_out] (without `layer.dense`, a zero that was expanded
    to that shape, for autograd alone); their events are left in `layer.out`.

    Kept for the backward pass: what the twin asks for (the CPU's the voltage alone, int32), and the input's
    events. Everything else is computed again.
    """

    @staticmethod
    def forward(ctx, x, v, g, current_decay, voltage_decay, delay, layer):
        kernels = twin(v.device)
        membrane = layer.membrane
        source = layer.spikes if layer.spikes is not None else x.transpose(1, 2)
        batch = source.shape[0]
        channels = v.shape[0]
        flat = v.detach().reshape(channels, -1)
        norm, factor = None, torch.ones(channels, device=v.device)
        if g is not None:
            # the very norm that torch's weight norm divides by: `norm_except_dim` differs in the last bit
            norm = torch._weight_norm_interface(flat, g.detach().view(channels, 1), 0)[1].flatten()
            factor = g.detach().flatten() / norm
        weights = kernels.quantise(flat, factor)
        keep_i, keep_v = keep_of(current_decay, channels), keep_of(voltage_decay, channels)
        state = membrane.start(batch, channels, v.device)
        lag = lag_of(delay, layer.shift, channels, v.device)
        trace = kernels.layer_forward(
            source, weights, keep_i, keep_v, membrane.threshold, state, lag, layer.kept, layer.value, layer.need_grad
        )
        membrane.end = trace.state
        layer.out = trace.spikes
        ctx.save_for_backward(
            x if layer.spikes is None else None, flat, factor, norm, g, weights, keep_i, keep_v, lag, *state,
            *trace.saved,
        )  # fmt: skip
        ctx.layer, ctx.source, ctx.kernels, ctx.v_shape = layer, layer.spikes, kernels, v.shape
        ctx.decay_shapes = current_decay.shape, voltage_decay.shape
        if not layer.dense:
            return torch.zeros((), device=v.device).expand(batch, layer.out.shape[2], channels)
        return layer.out.rows()  # the caller turns them: a view made in here could not be changed in place

    @staticmethod
    def backward(ctx, grad):
        (x, flat, factor, norm, g, weights, keep_i, keep_v, lag, current, voltage, *saved) = ctx.saved_tensors
        layer, need, kernels = ctx.layer, ctx.needs_input_grad, ctx.kernels
        membrane = layer.membrane
        found = kernels.layer_backward(
            grad.contiguous(), saved, ctx.source if ctx.source is not None else x.transpose(1, 2), weights,
            keep_i, keep_v, membrane.threshold, State(current, voltage), membrane.surrogate, lag, layer.kept,
            layer.value, need_input=need[0], need_weights=need[1] or need[2], need_decay=need[3] or need[4],
            need_delay=need[5],
        )  # fmt: skip
        by_v = by_g = None
        if found.weights is not None:
            by_v, by_g = kernels.quantise_gradient(flat, factor, norm, found.weights)
            by_v = by_v.view(ctx.v_shape)
            by_g = None if by_g is None else by_g.view(g.shape)
        return (
            None if found.input is None else found.input.transpose(1, 2),
            by_v,
            by_g,
            as_parameter(found.current_decay, ctx.decay_shapes[0]) if need[3] else None,
            as_parameter(found.voltage_decay, ctx.decay_shapes[1]) if need[4] else None,
            found.delay if need[5] else None,
            None,
        )


__all__ = ["NEVER", "AxonDelay", "CubaLayer", "Layer", "Membrane", "NeuronStep", "SpikeFunction", "keep_of", "twin"]
