"""Fixtures of the kernel tests."""

import pytest
import torch


@pytest.fixture
def fresh_memory_is_nan():
    """Let torch.empty return NaN (or the largest integer), so that elements that no kernel writes are noticed."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
