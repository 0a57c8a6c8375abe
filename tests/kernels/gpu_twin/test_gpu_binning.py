"""Test that binning and augmentation on the device give the same spikes as on the CPU."""

import numpy as np
import pytest
import torch

from nmnist_helpers.data import binning_gpu
from nmnist_helpers.data.augmentation import Augment
from nmnist_helpers.data.binning import bin_edges, rasterise, time_bins
from nmnist_helpers.data.device import DeviceEvents
from nmnist_helpers.data.draw import IDENTITY
from nmnist_helpers.geometry import CHANNELS, SIDE
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.spikes import Spikes

COUNTS = np.array([0, 1, 300, 5000])  # none, one, few, and more than the programs of a recording process in one round


def recordings(longest_us=330_000) -> PackedEvents:
    rng = np.random.default_rng(0)
    total = COUNTS.sum()
    x, y, p = (rng.integers(0, limit, total).astype(np.uint8) for limit in (SIDE, SIDE, 2))
    t = np.concatenate([np.sort(rng.integers(0, longest_us, n)) for n in COUNTS]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(COUNTS)]).astype(np.int64)
    zeros = np.zeros(len(COUNTS), np.int64)
    return PackedEvents(x, y, p, t, offsets, zeros, zeros).validate()


def bin_on_both(packed, index, sampling_time, augment, cap, device):
    """Return the spikes of some recordings, binned on the device and on the CPU."""
    bins = time_bins(300, sampling_time)
    edges = bin_edges(bins, sampling_time)
    if augment:
        draws = augment.draws(np.random.default_rng(1).random((len(index), 5)))
    else:
        draws = np.tile(IDENTITY, (len(index), 1))
    indptr, channel = rasterise(packed, index, draws, edges, augment, cap)
    shape = (len(index), CHANNELS, bins)
    expected = Spikes(torch.from_numpy(indptr), torch.from_numpy(channel), shape, 1 / sampling_time)
    first = packed.offsets[index]
    count = packed.offsets[index + 1] - first
    arrays = (torch.from_numpy(a).to(device) for a in (first, count, draws, edges))
    words = DeviceEvents(packed, device).words
    found = binning_gpu.rasterise(words, *arrays, augment, cap, 1 / sampling_time)
    assert found.shape == shape
    assert found.value == expected.value
    return found, expected


@pytest.mark.parametrize(
    ("sampling_time", "augment", "cap"),
    [
        (1, Augment(), None),
        (1, Augment(180, 10, event_dropout=0.3, time_jitter=2, polarity_flip=0.5), 500),
        (1, Augment(8, 1, max_warp=3), None),
        (1, Augment(8, 1, max_stretch=0.5, max_shear=45), None),
        (2.5, Augment(event_dropout=1.0), None),
        (0.7, Augment(time_jitter=0.1), 1),
        (300, None, None),
    ],
    ids=str,
)
def test_spikes_equal_those_of_the_cpu(device, sampling_time, augment, cap):
    found, expected = bin_on_both(recordings(), np.array([3, 0, 1, 2]), sampling_time, augment, cap, device)
    assert (expected.count == 0) == (augment is not None and augment.event_dropout == 1)
    assert torch.equal(found.rows().cpu(), expected.rows())
    assert not found.data[..., CHANNELS:].any()


def test_long_recordings(device):
    """Times above half a second need 64-bit words."""
    packed = recordings(longest_us=900_000)
    found, expected = bin_on_both(packed, np.array([2, 2]), 1, Augment(), None, device)
    assert torch.equal(found.rows().cpu(), expected.rows())
