"""Test decays and delays as integers on the CPU: identical to the reference."""

import pytest
import torch

from nmnist_helpers import kernels
from nmnist_helpers.kernels.integers import lag_of, retention_of

CPU = torch.device("cpu")


def both(function, *args) -> list[torch.Tensor]:
    """Return the results of the reference and of the CPU twin."""
    found = []
    for twin in ("reference", "cpu"):
        with kernels.using(twin):
            found.append(function(*args))
    return found


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("channels", "places"), [(1, 1), (7, 1), (300, 1), (5, 81)])
def test_retention(channels, places, kind):
    decay = torch.rand(channels) * 5000 - 400  # beyond both limits
    decay[: min(channels, 4)] = torch.tensor([0.5, 1.5, 4095.5, float("inf")])[: min(channels, 4)]  # half to even
    decay = decay.to(kind).requires_grad_()
    for parameter in (decay, decay[:1]):
        expected, found = both(retention_of, parameter, channels, places)
        assert found.dtype == torch.int32
        assert found.shape == (channels * places,)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shift", [0, 1, -3, 10**6])
def test_lag(shift):
    delay = torch.cat(
        [torch.rand(600) * 80 - 10, torch.tensor([0.0, 1.0, 0.9999999, float("inf"), -float("inf"), 62.0])]
    ).requires_grad_()
    expected, found = both(lag_of, delay, shift, len(delay), 50, CPU)
    assert found.dtype == torch.int32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("twin", ["reference", "cpu"])
def test_not_a_number_raises(twin):
    x = torch.tensor([1.0, float("nan"), 2.0])
    with kernels.using(twin):
        with pytest.raises(OverflowError, match="decay: expected finite numbers, found NaN"):
            retention_of(x, 3)
        with pytest.raises(OverflowError, match="delay: expected finite numbers, found NaN"):
            lag_of(x, 0, 3, 10, CPU)
