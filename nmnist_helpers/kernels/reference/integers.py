"""Decays and delays as the integers that the neurons and the axons use."""

import torch

from ..common import raise_not_a_number
from ..constants import DECAY_SCALE


def retention_of(decay: torch.Tensor, channels: int, places: int) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.integers.retention_of`."""
    _check_not_nan("decay", decay)
    retention = (DECAY_SCALE - torch.round(decay.detach().flatten().clamp(0, DECAY_SCALE))).to(torch.int32)
    return retention.expand(channels)[:, None].expand(-1, places).flatten().contiguous()


def lag_of(delay: torch.Tensor, shift: int, steps: int) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.integers.lag_of`."""
    _check_not_nan("delay", delay)
    whole = torch.floor(delay.detach()).nan_to_num(0, steps, -steps).clamp(-steps, steps).to(torch.int32)
    return (whole + shift).clamp_(-steps, steps)


def _check_not_nan(name: str, parameter: torch.Tensor) -> None:
    """Raise if a parameter on the CPU holds NaN; on a GPU the check would make the host wait for the device."""
    if parameter.device.type == "cpu" and torch.isnan(parameter.detach()).any():
        raise_not_a_number(name)
