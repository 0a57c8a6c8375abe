"""Compare convolution in Triton with the oracle."""

import pytest
import torch
from support.windows import WINDOWS, check_conv

from nmnist_helpers.kernels import gpu
from nmnist_helpers.spikes import DenseSpikes


@pytest.mark.parametrize("name", WINDOWS)
def test_conv_agrees_with_the_oracle(device, name):
    check_conv(gpu, WINDOWS[name], device, value=1.25, dropped=True, spread=4, steps=8)


def test_more_places_than_32_bits_can_count_raise_an_error():
    rows = torch.empty(1, dtype=torch.uint8).expand(1 << 20, 1 << 11, 1)  # takes no memory
    with pytest.raises(ValueError, match="at most 21474835.* places .* found 21474836"):
        gpu.conv_product(DenseSpikes(rows), torch.empty(1, 1), WINDOWS["one place"])
