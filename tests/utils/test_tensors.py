"""Test the helpers for tensors: quantisation, event rates, shifts in time and replication."""

import numpy as np
import pytest
import torch

from nmnist_helpers.utils import QUANTIZE_MODE, event_rate, quantize, quantize_hook_fx
from nmnist_helpers.utils.time import replicate, shift


def test_quantize_rounds_half_to_even_or_down_and_passes_gradients():
    x = torch.tensor([-0.8, -0.25, 0.25, 0.75, 0.8], requires_grad=True)
    nearest = quantize(x, step=0.5)
    assert nearest.tolist() == [-1.0, 0.0, 0.0, 1.0, 1.0]
    assert quantize(x, 0.5, QUANTIZE_MODE.FLOOR).tolist() == [-1.0, -0.5, 0.0, 0.5, 0.5]
    (nearest * torch.arange(5.0)).sum().backward()
    assert x.grad.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="QUANTIZE_MODE"):
        quantize(x, mode=7)
    with pytest.raises(ValueError, match="quantize: expected a positive step, found 0"):
        quantize(x, 0)


def test_quantize_hook_gives_even_integers_in_range():
    x = torch.linspace(-20, 20, 1001)
    integers = quantize_hook_fx(x, descale=True)
    assert (integers.min().item(), integers.max().item()) == (-512, 510)
    assert not (integers % 2).any()
    assert torch.equal(quantize_hook_fx(x) * 64, integers)
    assert quantize_hook_fx(x, scale=32, num_bits=4, descale=True).max() == 30


def test_event_rate_leaves_out_the_first_step():
    x = torch.zeros(2, 3, 5)
    x[:, :, 0] = 1
    x[0, 1, 2] = -2
    assert event_rate(x) == pytest.approx(1 / 24)
    assert event_rate(x[..., :1]) == 1


@pytest.mark.parametrize("sampling_time", [1, 2])
def test_shift_moves_every_signal_by_its_own_number_of_steps(sampling_time):
    x = torch.rand(2, 3, 4, 9, requires_grad=True)
    shifts = torch.randint(-11, 12, (3, 4)).float() * sampling_time
    found = shift(x, shifts, sampling_time)
    expected = np.zeros(x.shape, np.float32)
    for c, d in np.ndindex(3, 4):
        for t in range(9):
            source = t - int(shifts[c, d] / sampling_time)
            if 0 <= source < 9:
                expected[:, c, d, t] = x.detach()[:, c, d, source]
    np.testing.assert_array_equal(found.detach(), expected)
    found.sum().backward()
    assert ((x.grad == 0) | (x.grad == 1)).all()
    assert x.grad.sum() == (expected != 0).sum()


def test_one_number_shifts_all_signals():
    x = torch.arange(1.0, 6).reshape(1, 1, 5)
    assert shift(x, 2).tolist() == [[[0, 0, 1, 2, 3]]]
    assert shift(x, torch.tensor(-2)).tolist() == [[[3, 4, 5, 0, 0]]]
    assert shift(x, 9).sum() == 0
    with pytest.raises(ValueError, match="expected 1 or 3 shifts, found 2"):
        shift(torch.zeros(1, 3, 5), torch.ones(2))


def test_replicate_repeats_a_tensor_over_time():
    x = torch.rand(2, 3)
    found = replicate(x, 4)
    assert found.shape == (2, 3, 4)
    assert torch.equal(found[..., 3], x)


def test_invalid_steps_modes_and_scales_raise():
    x = torch.rand(3)
    for step in (float("inf"), float("nan"), "1", None):
        with pytest.raises(ValueError, match="quantize: expected a positive step, found"):
            quantize(x, step)
    with pytest.raises(ValueError, match="quantize: expected a QUANTIZE_MODE, ROUND .* found 3"):
        quantize(x, 1, 3)
    assert torch.equal(quantize(x, 1, 1), torch.zeros(3))  # a number will do
    with pytest.raises(ValueError, match="quantize_hook_fx: expected a positive scale, found 0"):
        quantize_hook_fx(x, 0)
    with pytest.raises(ValueError, match="num_bits: expected a whole number from 0, found -1"):
        quantize_hook_fx(x, num_bits=-1)


def test_shifts_may_be_a_list():
    x = torch.rand(1, 2, 5)
    assert torch.equal(shift(x, [1, 2]), shift(x, torch.tensor([1.0, 2])))
