"""Test that an `EventLoader` with its events on the device gives the same batches as on the CPU."""

import numpy as np
import pytest
import torch

from nmnist_helpers.data.augmentation import Augment
from nmnist_helpers.data.loader import EventLoader
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.kernels import using
from nmnist_helpers.spikes import DenseSpikes

COUNTS = np.array([40, 1, 300, 7, 120])


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(0)
    total = COUNTS.sum()
    x, y, p = (rng.integers(0, top, total).astype(np.uint8) for top in (34, 34, 2))
    t = np.concatenate([np.sort(rng.integers(0, 60_000, n)) for n in COUNTS]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(COUNTS)])
    return PackedEvents(x, y, p, t, offsets, np.arange(5), np.arange(5)).validate()


@pytest.mark.parametrize(("value", "expected_value"), [(None, 2), (1, 1)])
@pytest.mark.parametrize("transform", [False, Augment(), Augment(20, 4, 0.2, 2, 0.5)], ids=str)
def test_batches_equal_those_of_the_cpu(packed, device, transform, value, expected_value):
    options = {
        "batch_size": 2, "shuffle": True, "seed": 3, "transform": transform, "sampling_time": 0.5,
        "sample_length": 20, "max_events": 100, "value": value,
    }  # fmt: skip
    cpu = EventLoader(packed, **options)
    gpu = EventLoader(packed, device=device, on_device=True, **options)
    with using("gpu"):
        batches = list(gpu)
    assert len(batches) == 3
    for (spikes, labels), (expected, expected_labels) in zip(batches, cpu, strict=True):
        assert isinstance(spikes, DenseSpikes)
        assert spikes.shape == expected.shape
        assert spikes.value == expected.value == expected_value
        assert torch.equal(spikes.rows().cpu(), expected.rows())
        assert torch.equal(labels.cpu(), expected_labels)
