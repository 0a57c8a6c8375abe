"""Compare dropout, shift and learned delay in Triton with NumPy."""

import numpy as np
import pytest
import torch
from support import oracles
from support.rows import rows, trains

from nmnist_helpers.kernels import gpu
from nmnist_helpers.kernels.common import Axon


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 130, 7), (3, 5, 40)], ids=str)
@pytest.mark.parametrize("dropped", [False, True])
def test_axon(device, sizes, dropped):
    rng = np.random.default_rng(0)
    batch, channels, steps = sizes
    spikes = (rng.random(sizes) < 0.3).astype(np.int64)
    lag = rng.integers(0, min(steps + 3, 63), channels)  # some are longer than the recording
    kept = (rng.random((batch, channels)) < 0.6).astype(np.int64) if dropped else None
    mask = np.ones((batch, channels)) if kept is None else kept
    device_lag = oracles.tensor(lag, torch.int32).to(device)
    device_kept = None if kept is None else oracles.tensor(kept, torch.uint8).to(device)

    out = gpu.axon_forward(rows(spikes, torch.uint8).to(device), Axon(device_lag, device_kept, 1.25))
    expected = oracles.shifted(spikes * mask[:, :, None].astype(np.int64), lag)
    np.testing.assert_array_equal(trains(out), expected)

    grad = rng.normal(size=sizes).astype(np.float32)
    by_delay = gpu.delay_gradient(rows(grad).to(device), out, 1.25)
    assert by_delay.dtype == torch.float32
    expected = oracles.delay_gradient(grad.astype(np.float64), expected * 1.25)
    np.testing.assert_allclose(by_delay.cpu().numpy(), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


def test_axon_accepts_strided_rows(device):
    spikes = (torch.rand(2, 6, 9) < 0.5).to(torch.uint8).to(device)
    axon = Axon(torch.tensor([0, 1, 2, 3, 4, 9], dtype=torch.int32, device=device))
    strided = spikes.transpose(1, 2)
    assert torch.equal(gpu.axon_forward(strided, axon), gpu.axon_forward(strided.contiguous(), axon))
    grad = torch.randn(2, 6, 9, device=device).transpose(1, 2)
    assert torch.equal(gpu.delay_gradient(grad, strided), gpu.delay_gradient(grad.contiguous(), strided.contiguous()))
