"""Test decays and delays as integers, and sums over rows, in Triton: identical to torch's."""

import pytest
import torch

from nmnist_helpers import kernels
from nmnist_helpers.kernels import gpu, integers
from nmnist_helpers.kernels.gpu.launch import sum_rows


def both(function, parameter: torch.Tensor, *args, device) -> list[torch.Tensor]:
    """Return the results of the reference and of the kernel."""
    found = []
    for twin, where in (("reference", torch.device("cpu")), ("gpu", device)):
        with kernels.using(twin):
            last = (where,) if function is integers.lag_of else ()
            found.append(function(parameter.to(where), *args, *last).cpu())
    return found


@pytest.mark.parametrize(("channels", "places"), [(1, 1), (7, 1), (300, 1), (5, 81)])
def test_retention(device, channels, places):
    decay = torch.rand(channels) * 5000 - 400  # beyond both limits
    decay[: min(channels, 4)] = torch.tensor([0.5, 1.5, 4095.5, 4096.5])[: min(channels, 4)]  # half to even
    for parameter in (decay, decay[:1]):
        expected, found = both(integers.retention_of, parameter, channels, places, device=device)
        assert found.dtype == torch.int32
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shift", [0, 1, -3, 10**6])
def test_lag(device, shift):
    delay = torch.cat(
        [torch.rand(600) * 80 - 10, torch.tensor([0.0, 1.0, 0.9999999, float("inf"), -float("inf"), 62.0])]
    )
    expected, found = both(integers.lag_of, delay, shift, len(delay), 50, device=device)
    assert found.dtype == torch.int32
    assert torch.equal(found, expected)


def test_not_a_number_is_found_by_check(device):
    x = torch.tensor([1.0, float("nan"), 2.0], device=device)
    for convert in (lambda: gpu.retention_of(x, 3, 1), lambda: gpu.lag_of(x, 0, 10)):
        convert()
        with pytest.raises(OverflowError):
            gpu.check()


@pytest.mark.parametrize("shape", [(1, 1), (130, 45), (2, 200, 70)], ids=str)
def test_sums_of_rows(device, shape):
    rows = torch.randn(shape, device=device)
    for factor in (-0.25, 1 / 0.95):
        found = sum_rows(rows, factor)
        expected = (rows.double().sum(-2) * factor).float()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
