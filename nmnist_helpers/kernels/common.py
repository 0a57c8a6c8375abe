"""Containers and checks that the three twins share."""

from typing import Any, NamedTuple

import torch

from ..spikes import Spikes
from .constants import DECAY_SCALE, MAX_INPUTS, MAX_STATE, STATE_SCALE
from .window import Window


class State(NamedTuple):
    """The state of neurons between two calls: current, and voltage after the reset, int32 [B, C], x4096."""

    current: torch.Tensor
    voltage: torch.Tensor


class Surrogate(NamedTuple):
    """The surrogate derivative of the spike function, ``gain * exp(-|V - threshold| / tau)``.

    `tau` is in real voltage units; ``gain = scale / (2 * tau)`` (SLAYER, Shrestha and Orchard, 2018).
    """

    tau: float
    gain: float


class Membrane(NamedTuple):
    """The constants of a layer's neurons.

    current_retention, voltage_retention : int32 [C], what is left of a state of 4096 after a step (4096 minus decay);
    threshold : in the integer units of the states; a voltage equal to it does not fire;
    surrogate : the derivative of the spike function;
    scale : integer units of the states per real unit.
    """

    current_retention: torch.Tensor
    voltage_retention: torch.Tensor
    threshold: int
    surrogate: Surrogate
    scale: int = STATE_SCALE


class Axon(NamedTuple):
    """The constants of a layer's axons.

    lag : int32 [C], steps (0 or more) by which each channel is delayed: the shift plus the floor of the learned delay;
    kept : uint8 [B, C], 0 for the neurons that dropout silences, 1 for the others; None without dropout;
    value : the value of a spike, 1 or dropout's 1/(1-p).
    """

    lag: torch.Tensor
    kept: torch.Tensor | None = None
    value: float = 1.0


class OutputGradients(NamedTuple):
    """Gradients of a neuron's outputs, float [B, T, C] in real units; None for an output without a gradient."""

    spikes: torch.Tensor | None = None
    voltage: torch.Tensor | None = None
    current: torch.Tensor | None = None


class Needs(NamedTuple):
    """Which gradients of a layer are needed."""

    input: bool = True
    weights: bool = True
    decay: bool = True
    delay: bool = True


EVERYTHING = Needs()


class Trace(NamedTuple):
    """The output of a layer's neurons, and their final state.

    Spikes are uint8; voltage and current are int32, x4096; all are [B, T, C]. Without `need_current`, the current is
    None. Without `need_voltage`, the time axis of the voltage may be empty.
    """

    spikes: torch.Tensor
    voltage: torch.Tensor
    current: torch.Tensor | None
    state: State


class LayerTrace(NamedTuple):
    """The spikes that leave a layer's axons, its neurons' final state, and what the backward pass needs (`saved`).

    `active` says where a gradient of these spikes has an effect; None if the twin does not compute it.
    """

    spikes: Spikes
    state: State
    saved: tuple[torch.Tensor, ...]
    active: Any = None


class LayerGradients(NamedTuple):
    """Gradients of a layer; None for those that are not needed.

    `input` is [B, T, C_in], or [B, T, C_in, H, W] for a convolution. `weights` has the layout of the twin's weights.
    The others have one number per neuron, for the parameters as they are stored (decays x4096, delays in steps).
    """

    input: torch.Tensor | None
    weights: torch.Tensor | None
    current_decay: torch.Tensor | None
    voltage_decay: torch.Tensor | None
    delay: torch.Tensor | None


def zero_state(batch: int, channels: int, device: torch.device) -> State:
    """Return the state of neurons at rest."""
    return State(*torch.zeros(2, batch, channels, dtype=torch.int32, device=device))


def check_rows(name: str, rows: torch.Tensor) -> None:
    """Raise unless `rows` is a floating-point tensor [B, T, C] without an empty axis."""
    if rows.dim() != 3 or not rows.is_floating_point() or not rows.numel():
        raise ValueError(
            f"{name}: expected a floating-point tensor [B, T, C] with no side empty,"
            f" found {rows.dtype} {list(rows.shape)}"
        )


def _check(
    name: str, x: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], least: int, most: int, device: torch.device
) -> None:
    """Raise unless `x` has this type, shape, device and range.

    The range is checked only on the CPU; for another device the host would have to wait.
    """
    if not isinstance(x, torch.Tensor) or x.dtype != dtype or tuple(x.shape) != shape or x.device != device:
        found = f"{x.dtype} {list(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected {dtype} {list(shape)} on {device}, found {found}")
    if device.type == "cpu" and x.numel():
        low, high = (limit.item() for limit in x.aminmax())
        if low < least or high > most:
            raise ValueError(f"{name}: expected values in {least}..{most}, found {low}..{high}")


def check_neuron(membrane: Membrane, state: State, batch: int, channels: int, device: torch.device) -> None:
    """Raise unless constants and state are valid: compiled code does not check its arguments."""
    for name, x in (("current", membrane.current_retention), ("voltage", membrane.voltage_retention)):
        _check(f"retention of the {name}", x, torch.int32, (channels,), 0, DECAY_SCALE, device)
    for name, x in (("current", state.current), ("voltage", state.voltage)):
        _check(f"neuron state, {name}", x, torch.int32, (batch, channels), -MAX_STATE, MAX_STATE, device)


def check_fan_in(window: Window) -> None:
    """Raise if a window holds so many pixels that the sum of their weights might leave the range of the states."""
    inputs = window.inputs[0] // window.groups * window.kernel[0] * window.kernel[1]
    if inputs > MAX_INPUTS:
        raise ValueError(f"convolution: expected at most {MAX_INPUTS} inputs of a neuron, found {inputs}")


def check_axon(axon: Axon, batch: int, channels: int, device: torch.device) -> None:
    """Raise unless the axon's constants are valid; within their range the sum of a lag and a step fits 32 bits."""
    _check("axon lag", axon.lag, torch.int32, (channels,), 0, MAX_STATE, device)
    if axon.kept is not None:
        _check("dropout mask", axon.kept, torch.uint8, (batch, channels), 0, 1, device)


def raise_not_a_number(name: str) -> None:
    """Raise the error for a parameter that holds NaN, which a conversion to integers would hide."""
    zeros = "; or a row of weight_v is all zeros" if name == "weights" else ""
    raise OverflowError(
        f"{name}: expected finite numbers, found NaN; training has diverged, or a damaged checkpoint was loaded{zeros}"
    )


def raise_out_of_range() -> None:
    """Raise the error for an input or a state that fixed-point numbers cannot represent."""
    raise OverflowError(
        "neuron: expected a finite input and fixed-point states with |value| < 262144, found an input that is not"
        " finite, or a current or voltage that left the range of the fixed-point states; check weights, decays,"
        " delays and input for NaN, Inf and runaway values"
    )
