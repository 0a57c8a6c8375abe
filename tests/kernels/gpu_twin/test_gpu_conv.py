"""Compare convolution in Triton with the oracle."""

import math

import numpy as np
import pytest
import torch
from support.windows import WINDOWS, check_conv

from nmnist_helpers.kernels import gpu, reference
from nmnist_helpers.spikes import DenseSpikes


@pytest.mark.parametrize("name", WINDOWS)
def test_conv_agrees_with_the_oracle(device, name):
    check_conv(gpu, WINDOWS[name], device, value=1.25, dropped=True, spread=4, steps=8)


@pytest.mark.parametrize("form", ["transposed", "cut in time", "one step", "one sample for all", "padded"])
def test_the_spacing_of_spikes_in_memory_does_not_matter(device, form):
    window, rng = WINDOWS["padded"], np.random.default_rng(0)
    channels = math.prod(window.inputs)
    data = torch.from_numpy((rng.random((3, 5, channels)) < 0.2).astype(np.uint8)).to(device)
    data = {
        "transposed": data.transpose(1, 2).contiguous().transpose(1, 2),
        "cut in time": data[:, :3],
        "one step": data[:, 1:2],
        "one sample for all": data[:1].expand(3, -1, -1),
        "padded": torch.nn.functional.pad(data, (0, 2)),
    }[form]
    spikes, copied = DenseSpikes(data, channels), DenseSpikes(data.contiguous(), channels)
    v = torch.from_numpy(rng.normal(0, 0.7, (5, 18)).astype(np.float32)).to(device)
    weights = gpu.quantise(v, torch.ones(5, device=device))
    z = gpu.conv_product(spikes, weights, window)
    expected = reference.conv_product(copied.to(torch.device("cpu")), gpu.weight_values(weights).cpu(), window)
    assert z.any()
    assert torch.equal(z.cpu(), expected)
    grad = torch.randn_like(z)
    found, wanted = (gpu.conv_weight_gradient(given, grad, window) for given in (spikes, copied))
    assert torch.equal(found, wanted)


def test_more_places_than_32_bits_can_count_raise_an_error():
    rows = torch.empty(1, dtype=torch.uint8).expand(1 << 20, 1 << 11, 1)  # takes no memory
    with pytest.raises(ValueError, match="at most 2147450880 places .* found 2147483648"):
        gpu.conv_product(DenseSpikes(rows), torch.empty(1, 1), WINDOWS["one place"])
