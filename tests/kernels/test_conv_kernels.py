"""Compare the convolution kernels of the reference and of the CPU twin with the oracle."""

import numpy as np
import pytest
import torch
from support.rows import TWINS, ints, membrane_of, state_of
from support.windows import WINDOWS, check_conv

from nmnist_helpers.kernels.common import Axon
from nmnist_helpers.spikes import Spikes

pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")


@TWINS
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("value", "dropped", "spread"), [(1.0, False, 2), (1.25, True, 25)], ids=["plain", "dropout"])
def test_conv_agrees_with_the_oracle(twin, name, value, dropped, spread):
    check_conv(twin, WINDOWS[name], torch.device("cpu"), value=value, dropped=dropped, spread=spread)


@TWINS
def test_conv_forward_raises_for_a_value_out_of_range(twin):
    window = WINDOWS["one place"]
    spikes = Spikes(ints([0, 0, 3]), ints([0, 1, 2]), (1, 12, 2))
    spikes.value = 1e30
    weights, zero = twin.quantise(torch.ones(70, 12), torch.ones(70)), np.zeros(70)
    constants = membrane_of(zero, zero), state_of(zero[None], zero[None]), Axon(ints(zero))
    with pytest.raises(OverflowError, match="left the range of the fixed-point"):
        twin.conv_forward(spikes, weights, window, *constants)
