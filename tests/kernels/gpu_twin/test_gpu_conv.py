"""Compare convolution in Triton with the oracle."""

import pytest
from support.windows import WINDOWS, check_conv

from nmnist_helpers.kernels import gpu


@pytest.mark.parametrize("name", WINDOWS)
def test_conv_agrees_with_the_oracle(device, name):
    check_conv(gpu, WINDOWS[name], device, value=1.25, dropped=True, spread=4, steps=8)
