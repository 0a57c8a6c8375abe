"""What the tests of the kernels share."""

import pytest
import torch


@pytest.fixture
def fresh_memory_is_nan():
    """torch.empty gives NaN (or the largest integer): an element that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
