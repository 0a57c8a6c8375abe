"""Test the running sum over time."""

import torch

from nmnist_helpers.dendrite import Sigma


def test_sigma_adds_up_over_time():
    z = torch.tensor([1.0, 0.0, 2.0]).expand(2, 3, 4, 5, 3)
    assert torch.equal(Sigma()(z), torch.tensor([1.0, 1.0, 3.0]).expand_as(z))
