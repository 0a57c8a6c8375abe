"""Decays and delays as the integers that the neurons and the axons use, in a few NumPy calls.

They are small arrays: torch would take longer to look up its functions than to compute.
"""

import numpy as np
import torch

from ..common import raise_not_a_number
from ..constants import DECAY_SCALE


def _numbers(name: str, parameter: torch.Tensor) -> np.ndarray:
    """Return a float32 parameter as a flat array, or raise OverflowError if it holds NaN."""
    numbers = parameter.detach().reshape(-1).numpy()
    if np.isnan(numbers).any():
        raise_not_a_number(name)
    return numbers


def retention_of(decay: torch.Tensor, channels: int, places: int) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.integers.retention_of` of a float32 decay on the CPU."""
    numbers = np.minimum(np.maximum(_numbers("decay", decay), 0), DECAY_SCALE)
    retention = (DECAY_SCALE - np.rint(numbers)).astype(np.int32)
    return torch.from_numpy(np.repeat(retention, channels * places if len(retention) == 1 else places))


def lag_of(delay: torch.Tensor, shift: int, steps: int) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.integers.lag_of` of a float32 delay on the CPU."""
    whole = np.minimum(np.maximum(np.floor(_numbers("delay", delay)), -steps), steps).astype(np.int64)
    return torch.from_numpy(np.minimum(np.maximum(whole + shift, -steps), steps).astype(np.int32))
