"""Tests of the Triton kernels: on a GPU as they are, without one under Triton's interpreter.

``TRITON_INTERPRET=1 pytest tests/kernels/gpu_twin`` runs them by hand; `test_gpu_interpreter.py` does so in the suite.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Triton decides when it is imported whether it interprets, so these tests need a process of their own.
if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan():
    """torch.empty gives NaN (or the largest integer): an element that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _flag_is_clear():
    """A test that makes a state leave its range has to look for it itself."""
    from nmnist_helpers.kernels import gpu

    yield
    gpu.check()
