"""What the three twins share: containers and checks."""

from typing import NamedTuple

import torch

from ..spikes import Spikes


class State(NamedTuple):
    """Neuron state between two calls: current and voltage after reset, int32 [B, C], x4096."""

    current: torch.Tensor
    voltage: torch.Tensor


class Trace(NamedTuple):
    """What a neuron did: spikes uint8, voltage and (if asked for) current int32 x4096, all [B, T, C]."""

    spikes: torch.Tensor
    voltage: torch.Tensor
    current: torch.Tensor | None
    state: State


class LayerTrace(NamedTuple):
    """What a layer did: the spikes that left its axons, the neurons' state, and what its backward pass needs."""

    spikes: Spikes
    state: State
    saved: tuple[torch.Tensor, ...]


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


class Surrogate(NamedTuple):
    """The spike function's surrogate derivative ``gain * exp(-|V - threshold| / tau)``.

    `tau` is in real voltage units; ``gain = scale / (2 * tau)`` (SLAYER, Shrestha and Orchard, 2018).
    """

    tau: float
    gain: float


def zero_state(batch: int, channels: int, device: torch.device) -> State:
    """The state of neurons at rest."""
    return State(
        torch.zeros(batch, channels, dtype=torch.int32, device=device),
        torch.zeros(batch, channels, dtype=torch.int32, device=device),
    )


def check_rows(name: str, rows: torch.Tensor) -> None:
    """Raise unless `rows` is a floating-point tensor [B, T, C] with no side empty."""
    if rows.dim() != 3 or not rows.is_floating_point() or not rows.numel():
        raise ValueError(
            f"{name}: expected a floating-point tensor [B, T, C] with no side empty,"
            f" found {rows.dtype} {list(rows.shape)}"
        )


def raise_not_a_number(name: str) -> None:
    """The error of every twin for parameters that hold NaN, which integers would silently turn into numbers."""
    raise OverflowError(f"{name}: found NaN; training has diverged, or a damaged checkpoint was loaded")


def raise_out_of_range() -> None:
    """The error of every twin for an input or a state that the fixed-point neuron cannot hold."""
    raise OverflowError(
        "neuron: the input is not finite, or a current or voltage left the range of the fixed-point"
        " states (|value| < 262144); check the weights and the input for NaN, Inf and runaway values"
    )
