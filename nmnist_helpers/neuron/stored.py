"""Storage of a neuron: its decays, in units that suit an optimiser, and its state, as integers."""

import math
import sys
import warnings
from typing import Any, cast

import numpy as np
import torch

from ..checks import as_number
from ..kernels.common import State, zero_state
from ..kernels.constants import DECAY_SCALE, MAX_STATE
from .units import InUnits

#: Decays are read and saved x 4096, but the optimiser's parameters are these numbers divided by this unit: decay x 4.
#: An optimiser such as Adam changes every parameter by about its step size, whatever the gradient. At a step size that
#: suits weights, a parameter of up to 4096 would hardly change. A parameter equal to the decay would change as fast as
#: the weights; with the factor 4, decays change more slowly than the weights that depend on them.
DECAY_UNIT = DECAY_SCALE // 4
#: Public name of each decay -> name of the parameter that stores it.
DECAYS = {"current_decay": "scaled_current_decay", "voltage_decay": "scaled_voltage_decay"}
#: Constants of a neuron, with lava-dl's other names for them.
CONSTANTS = ("threshold", "tau_grad", "scale_grad", "_threshold", "tau_rho", "scale_rho")
#: torch's module that assigns to attributes for a single call, and then assigns again what it had read from them.
FUNCTIONAL_CALL = "torch.nn.utils._named_member_accessor"
#: Public name of each state -> name of the buffer that stores it, as integers.
STATES = {"current_state": "current_units", "voltage_state": "voltage_units"}


def constant(name: str, value: Any) -> float:
    """Return a constant of a neuron as a number; raise ValueError if it is not one number, or if it is learned."""
    if isinstance(value, int | float):
        return value
    learned = getattr(value, "requires_grad", False)
    number = math.nan if learned else as_number(value)
    if math.isnan(number):
        found = "a tensor that requires a gradient" if learned else _in_brief(value)
        raise ValueError(f"Neuron: expected one number as {name}, which is not learned, found {found}")
    return number


def _in_brief(value: Any) -> str:
    return " ".join(repr(value).split())[:80]


class NeuronStorage(torch.nn.Module):
    """The parameters and the state of a neuron, accessible under lava-dl's names and in lava-dl's units."""

    spared = tuple(DECAYS.values())  # parameters without weight decay; see `utils.parameter_groups`
    scaled_current_decay: torch.nn.Parameter
    scaled_voltage_decay: torch.nn.Parameter
    on_the_way: torch.Tensor | None
    stored_versions: tuple[int, ...] = (0, 0)  # how often the states had been changed in place when they were stored
    persistent_state: bool
    requires_grad: bool
    shared_param: bool
    num_neurons: int | None
    s_scale: int
    p_scale: int

    def create_parameters(self, current_decay: torch.Tensor, voltage_decay: torch.Tensor) -> None:
        """Create the parameters from decays x 4096, [1] or [C], and a state of zero."""
        for name, decay in zip(DECAYS.values(), (current_decay, voltage_decay), strict=True):
            self.register_parameter(name, torch.nn.Parameter(decay / DECAY_UNIT, requires_grad=self.requires_grad))
        for name in STATES.values():
            self.register_buffer(name, torch.zeros(1, dtype=torch.int32), persistent=False)
        self.register_buffer("on_the_way", None, persistent=False)  # spikes that the axon has not delivered yet
        self.shape: torch.Size | None = None

    def _initial_decay(self, name: str, decay: float | tuple[float, float]) -> torch.Tensor:
        """Return the initial value of a decay, x 4096: shape [1] if shared, else [C]."""
        ends = decay if isinstance(decay, tuple | list) else (decay, decay)
        several = len(ends) != 2 or any(map(np.ndim, ends))
        if several or (self.shared_param and isinstance(decay, tuple | list)):
            wanted = "a number (shared_param=True)" if self.shared_param else "a number or a pair (lowest, highest)"
            hint = "; to choose each channel's, see shared_param" if several else ""
            raise ValueError(f"Neuron: expected {name} to be {wanted}, found {_in_brief(decay)}{hint}")
        for end in ends:
            if not 0 <= end <= 1:
                raise ValueError(f"Neuron: expected {name} in 0..1, found {decay}")
        if ends[0] > ends[1]:
            raise ValueError(f"Neuron: expected {name} as a pair (lowest, highest), found {decay}")
        if self.shared_param:
            return torch.tensor([self.p_scale * float(ends[0])])
        if ends[0] == ends[1]:
            ends = (0.99 * ends[0], min(1.0, 1.01 * ends[1]))
        return self.p_scale * torch.empty(cast(int, self.num_neurons)).uniform_(float(ends[0]), float(ends[1]))

    def __getattr__(self, name: str):
        if name in DECAYS:
            return InUnits.of(getattr(self, DECAYS[name]), DECAY_UNIT)  # a parametrised one belongs to the class
        if name in STATES:
            return InUnits.of(cast(torch.Tensor, super().__getattr__(STATES[name])), 1 / self.s_scale)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value) -> None:
        if name in DECAYS:
            if sys._getframe(1).f_globals.get("__name__") == FUNCTIONAL_CALL:
                raise ValueError(
                    f"functional_call: expected the names of named_parameters(), such as {DECAYS[name]}, found {name},"
                    " a name of state_dict(): only parameters can be replaced for a single call"
                )
            if isinstance(value, int | float | np.number) and 0 < value < 1:
                meant = f"{value * DECAY_SCALE:g} stands for {value:g}"
                raise ValueError(f"Neuron: expected {name} x {DECAY_SCALE}, found {value:g}; {meant}")
            values = torch.as_tensor(value)
            several = not isinstance(value, InUnits) and values.numel() > 1 and values.device.type != "meta"
            if several and (values.detach() <= 1).all() and (values.detach() % 1).any():
                warnings.warn(
                    f"Neuron: expected {name} x {DECAY_SCALE}, found {values.min():g}..{values.max():g};"
                    f" {DECAY_SCALE // 4} stands for 0.25",
                    stacklevel=2,
                )
            with torch.no_grad():
                getattr(self, DECAYS[name]).copy_(values / DECAY_UNIT)
        elif name in CONSTANTS:
            super().__setattr__(name, cast(Any, constant(name, value)))
        elif name in STATES:
            whole = torch.round(torch.as_tensor(value, device=self.device).detach() * self.s_scale)
            if not (whole.abs() <= MAX_STATE).all():
                raise ValueError(f"Neuron: expected {name} of at most {MAX_STATE / self.s_scale:g}, found {value}")
            setattr(self, STATES[name], whole.to(torch.int32))
            if not whole.any():  # a reset, as lava-dl's programs write it
                self.on_the_way = None
        else:
            super().__setattr__(name, value)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, stored in DECAYS.items():
            owner = destination.pop(prefix + stored, None)
            if owner is not None:  # None if it is parametrised
                destination[prefix + name] = InUnits.of(owner, DECAY_UNIT)

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        for name, stored in DECAYS.items():
            if prefix + name in state_dict:
                state_dict[prefix + stored] = state_dict.pop(prefix + name) / DECAY_UNIT
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        for name, stored in DECAYS.items():  # error messages use the names in the file
            for messages in (missing, errors):
                messages[:] = [message.replace(prefix + stored, prefix + name) for message in messages]

    def clamp(self) -> None:
        """Clamp the decays to 0..4096 in place, in case an optimiser step left this range."""
        with torch.no_grad():
            for name in DECAYS.values():
                getattr(self, name).clamp_(0, DECAY_SCALE / DECAY_UNIT)

    def decays(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the decays of current and voltage x 4096, as plain tensors with gradients.

        In training mode, learned decays are clamped first.
        """
        if self.training and self.requires_grad:
            self.clamp()
        current, voltage = (getattr(self, name).float() * DECAY_UNIT for name in DECAYS.values())
        return current, voltage

    def start(self, batch: int, channels: int) -> State:
        """Return the initial state: the stored state if it is persistent and of the right size, else zero.

        A state that the user has set may also be one number, or one for each neuron.

        Raises
        ------
        ValueError
            If a state that the user has set has numbers for other neurons.
        """
        if not self.persistent_state:
            return zero_state(batch, channels, self.device)
        self._notice_reset()
        shape = (channels,) if self.shape is None else tuple(self.shape)
        units = []
        for name, stored in STATES.items():
            unit = getattr(self, stored)
            if unit.dim() < 2:  # not of a call
                if unit.numel() not in (1, channels):
                    raise ValueError(f"Neuron: expected {name} of {channels} neurons, found {list(unit.shape)}")
                units.append(unit.reshape(1, -1).expand(batch, channels).contiguous())
            elif tuple(unit.shape) in ((batch, *shape), (batch, channels)):
                units.append(unit.reshape(batch, channels))
            else:  # of a call with another batch
                return zero_state(batch, channels, self.device)
        return State(*units)

    def store(self, end: State) -> None:
        """Store the state at the end of a call, if it is persistent."""
        if self.persistent_state:
            for name, units in zip(STATES.values(), end, strict=True):
                # A view of the kernels' padded rows would keep these in memory, and have strides of its own.
                units = units.contiguous()
                setattr(self, name, units if self.shape is None else units.reshape(-1, *self.shape))
            self.stored_versions = self._versions()

    def _versions(self) -> tuple[int, ...]:
        """Return how often each stored state has been changed in place; always 0 in inference mode."""
        units = (getattr(self, name) for name in STATES.values())
        return tuple(0 if unit.is_inference() else unit._version for unit in units)

    def _notice_reset(self) -> None:
        """Discard undelivered spikes if a state was set to zero in place since the last call, as if 0 was assigned."""
        if self.on_the_way is not None:
            for name, now, before in zip(STATES.values(), self._versions(), self.stored_versions, strict=True):
                if now > before and not getattr(self, name).any():
                    self.on_the_way = None

    def reset_state(self) -> None:
        """Reset the state to zero and discard undelivered spikes."""
        for name in STATES.values():
            setattr(self, name, torch.zeros(1, dtype=torch.int32, device=self.device))
        self.on_the_way = None
