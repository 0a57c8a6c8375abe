"""Fixtures for the tests of the Triton kernels, which run on a GPU or, without one, in Triton's interpreter.

``TRITON_INTERPRET=1 pytest tests/kernels/gpu_twin`` runs them in the interpreter, as `test_gpu_interpreter.py` does.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Triton reads TRITON_INTERPRET when it is imported, so tests in the interpreter need a process of their own.
if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan():
    """Let torch.empty return NaN (or the largest integer), so that elements that no kernel writes are noticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _check_flag():
    """Fail if a test made a state leave its range and has not called `gpu.check`, which clears the flag."""
    from nmnist_helpers.kernels import gpu

    yield
    gpu.check()
