"""Containers and checks that the three twins share."""

from typing import Any, NamedTuple

import torch

from ..spikes import Spikes
from .constants import DECAY_SCALE, MAX_STATE, STATE_SCALE


class State(NamedTuple):
    """Neuron state between two calls: current and voltage after reset, int32 [B, C], x4096."""

    current: torch.Tensor
    voltage: torch.Tensor


class Surrogate(NamedTuple):
    """The spike function's surrogate derivative ``gain * exp(-|V - threshold| / tau)``.

    `tau` is in real voltage units; ``gain = scale / (2 * tau)`` (SLAYER, Shrestha and Orchard, 2018).
    """

    tau: float
    gain: float


class Membrane(NamedTuple):
    """A neuron's constants.

    current_retention, voltage_retention : int32 [C], what a state retains of 4096 in one step (4096 minus the decay);
    threshold : in units of the states, a voltage exactly at it does not fire;
    surrogate : shape of the spike function's derivative;
    scale : integer units of the states per real unit.
    """

    current_retention: torch.Tensor
    voltage_retention: torch.Tensor
    threshold: int
    surrogate: Surrogate
    scale: int = STATE_SCALE


class Axon(NamedTuple):
    """An axon's constants.

    lag : int32 [C], steps from 0 by which each channel is moved: shift plus whole delay;
    kept : uint8 [B, C], 0 where dropout silences a neuron; None without dropout;
    value : what a spike is worth.
    """

    lag: torch.Tensor
    kept: torch.Tensor | None = None
    value: float = 1.0


class OutputGradients(NamedTuple):
    """Gradients of what a neuron returned, float [B, T, C], real units; None where there is none."""

    spikes: torch.Tensor | None = None
    voltage: torch.Tensor | None = None
    current: torch.Tensor | None = None


class Needs(NamedTuple):
    """Which gradients of a layer are asked for."""

    input: bool = True
    weights: bool = True
    decay: bool = True
    delay: bool = True


EVERYTHING = Needs()


class Trace(NamedTuple):
    """What a neuron did: spikes uint8, voltage and (if asked for) current int32 x4096, all [B, T, C]."""

    spikes: torch.Tensor
    voltage: torch.Tensor
    current: torch.Tensor | None
    state: State


class LayerTrace(NamedTuple):
    """What a layer did: the spikes that left its axons, the neurons' state, and what its backward pass needs.

    `active`: the places where a gradient of these spikes matters; None if the twin does not know.
    """

    spikes: Spikes
    state: State
    saved: tuple[torch.Tensor, ...]
    active: Any = None


class LayerGradients(NamedTuple):
    """Gradients of a layer; None where nobody asked.

    input : [B, T, C_in]; weights : in the layout of the twin's weights; the others [C_out], by the parameters as
    they are stored (decays x4096, delays in steps).
    """

    input: torch.Tensor | None
    weights: torch.Tensor | None
    current_decay: torch.Tensor | None
    voltage_decay: torch.Tensor | None
    delay: torch.Tensor | None


def zero_state(batch: int, channels: int, device: torch.device) -> State:
    """The state of neurons at rest."""
    return State(*torch.zeros(2, batch, channels, dtype=torch.int32, device=device))


def check_rows(name: str, rows: torch.Tensor) -> None:
    """Raise unless `rows` is a floating-point tensor [B, T, C] with no side empty."""
    if rows.dim() != 3 or not rows.is_floating_point() or not rows.numel():
        raise ValueError(
            f"{name}: expected a floating-point tensor [B, T, C] with no side empty,"
            f" found {rows.dtype} {list(rows.shape)}"
        )


def _check(
    name: str, x: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], least: int, most: int, device: torch.device
) -> None:
    """Raise unless `x` is such a tensor; its numbers are looked at on the CPU alone, elsewhere the host would wait."""
    if not isinstance(x, torch.Tensor) or x.dtype != dtype or tuple(x.shape) != shape or x.device != device:
        found = f"{x.dtype} {list(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected {dtype} {list(shape)} on {device}, found {found}")
    if device.type == "cpu" and x.numel():
        low, high = x.aminmax()
        if low < least or high > most:
            raise ValueError(f"{name}: expected values in {least}..{most}, found {int(low)}..{int(high)}")


def check_neuron(membrane: Membrane, state: State, batch: int, channels: int, device: torch.device) -> None:
    """Raise unless constants and state fit each other and the kernels: what compiled code sees was checked."""
    for name, x in (("current", membrane.current_retention), ("voltage", membrane.voltage_retention)):
        _check(f"retention of the {name}", x, torch.int32, (channels,), 0, DECAY_SCALE, device)
    for name, x in (("current", state.current), ("voltage", state.voltage)):
        _check(f"neuron state, {name}", x, torch.int32, (batch, channels), -MAX_STATE, MAX_STATE, device)


def check_axon(axon: Axon, batch: int, channels: int, device: torch.device) -> None:
    """Raise unless the axon's constants fit the layer; `lag_of` makes lags that no sum with a step can wrap."""
    _check("axon lag", axon.lag, torch.int32, (channels,), 0, MAX_STATE, device)
    if axon.kept is not None:
        _check("dropout mask", axon.kept, torch.uint8, (batch, channels), 0, 1, device)


def raise_not_a_number(name: str) -> None:
    """The error of every twin for parameters that hold NaN, which integers would silently turn into numbers."""
    raise OverflowError(
        f"{name}: expected finite numbers, found NaN; training has diverged, or a damaged checkpoint was loaded"
    )


def raise_out_of_range() -> None:
    """The error of every twin for an input or a state that the fixed-point neuron cannot hold."""
    raise OverflowError(
        "neuron: expected a finite input and fixed-point states with |value| < 262144, found an input that is not"
        " finite, or a current or voltage that left the range of the fixed-point states; check the weights and the"
        " input for NaN, Inf and runaway values"
    )
