"""Test cases for kernels, whose signals are rows [B, T, C], and comparisons with the oracles' trains [B, C, T]."""

import numpy as np
import pytest
import torch

from nmnist_helpers.kernels import cpu, reference
from nmnist_helpers.kernels.common import Membrane, State, Surrogate
from support import oracles
from support.neurons import THRESHOLD

SURROGATE = Surrogate(3.75, 0.3 / (2 * 3.75))
TWINS = pytest.mark.parametrize("twin", [reference, cpu], ids=["reference", "cpu"])
SIZES = [(1, 1, 1), (3, 1, 17), (2, 130, 1), (3, 129, 63), (1, 7, 1000), (2, 257, 2), (5, 64, 31)]


def rows(x, dtype=torch.float32) -> torch.Tensor:
    """Return a NumPy array [B, C, T] as contiguous rows [B, T, C]."""
    return oracles.tensor(np.swapaxes(x, 1, 2), dtype)


def trains(x: torch.Tensor) -> np.ndarray:
    """Return rows [B, T, C] as a NumPy array [B, C, T]."""
    return np.swapaxes(x.cpu().numpy(), 1, 2)


def ints(x) -> torch.Tensor:
    return oracles.tensor(x, torch.int32)


def state_of(current, reset) -> State:
    return State(ints(current), ints(reset))


def random_case(seed, sizes, per_channel=True, with_state=True):
    """Return a random input [B, C, T], two retention factors (of 4096) per channel, and an initial state [B, C]."""
    rng = np.random.default_rng(seed)
    batch, channels, steps = sizes
    z = rng.normal(0.1, 0.8, sizes).astype(np.float32)
    z[rng.random(sizes) < 0.3] = 0
    count = channels if per_channel else 1
    retain_i = np.broadcast_to(rng.integers(0, 4097, count), channels).copy()
    retain_v = np.broadcast_to(rng.integers(2000, 4097, count), channels).copy()
    retain_i[0], retain_v[0] = (0, 4096) if seed % 2 else (4096, 0)
    shape = (batch, channels)
    current = rng.integers(-9000, 9000, shape) if with_state else np.zeros(shape, np.int64)
    reset = rng.integers(-9000, THRESHOLD, shape) if with_state else np.zeros(shape, np.int64)
    return z, retain_i, retain_v, current, reset


def membrane_of(retain_i, retain_v, threshold=THRESHOLD, surrogate=SURROGATE) -> Membrane:
    return Membrane(ints(retain_i), ints(retain_v), threshold, surrogate)


def run_forward(twin, z_rows, retain_i, retain_v, threshold, current, reset, **options):
    return twin.neuron_forward(z_rows, membrane_of(retain_i, retain_v, threshold), state_of(current, reset), **options)


def check_forward(trace, expected):
    current, voltage, spikes, i, r = expected
    assert trace.spikes.dtype == torch.uint8
    assert trace.voltage.dtype == torch.int32
    np.testing.assert_array_equal(trains(trace.spikes), spikes)
    np.testing.assert_array_equal(trains(trace.voltage), voltage)
    np.testing.assert_array_equal(trace.state.current.numpy(), i)
    np.testing.assert_array_equal(trace.state.voltage.numpy(), r)
    if trace.current is not None:
        np.testing.assert_array_equal(trains(trace.current), current)
