"""The one switch that says which twin of the kernels runs: reference, cpu (Numba) or gpu (Triton)."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..compiled import check_process

CHOICES = ("auto", "reference", "cpu", "gpu")
ENVIRONMENT = "NMNIST_BACKEND"

_chosen: str | None = None  # by `use`, for the whole process
_within: ContextVar[str | None] = ContextVar("nmnist_backend", default=None)  # by `using`, for one thread's block


def _checked(name: str, source: str) -> str:
    if name not in CHOICES:
        raise ValueError(f"{source}: expected a back end of {', '.join(CHOICES)}, found {name!r}")
    return name


def use(name: str | None) -> None:
    """Choose the back end of every kernel from now on.

    Parameters
    ----------
    name : {'auto', 'reference', 'cpu', 'gpu'} or None
        'auto' takes Triton for CUDA tensors and Numba for CPU tensors. None goes back to what the
        environment variable ``NMNIST_BACKEND`` says ('auto' if it says nothing).

    Raises
    ------
    ValueError
        If the name is not one of these.
    """
    global _chosen
    _chosen = None if name is None else _checked(name, "kernels.use")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Choose the back end for the length of a ``with`` block, in this thread alone."""
    token = _within.set(_checked(name, "kernels.using"))
    try:
        yield
    finally:
        _within.reset(token)


def triton_interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU (``TRITON_INTERPRET=1``), as the tests do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def resolve(device: torch.device) -> str:
    """The twin that serves tensors on `device`.

    Parameters
    ----------
    device : torch.device
        Where the tensors live.

    Returns
    -------
    str
        'reference', 'cpu' or 'gpu'.

    Raises
    ------
    RuntimeError
        If a back end was chosen by name that cannot serve this device: a choice is never replaced
        behind the user's back. In a child of ``os.fork`` too, where the threads of the kernels are missing.
    """
    name = _within.get() or _chosen
    if name is None:
        name = _checked(os.environ.get(ENVIRONMENT, "auto"), f"environment variable {ENVIRONMENT}")
    cuda = device.type == "cuda"
    if device.type == "cpu":
        check_process()
    if name == "auto":
        if cuda:
            return "gpu" if importlib.util.find_spec("triton") else "reference"
        return "cpu" if device.type == "cpu" else "reference"
    if name == "cpu" and device.type != "cpu":
        raise RuntimeError(f"back end 'cpu': expected tensors on the CPU, found them on {device}; move them to the CPU")
    if name == "gpu":
        if importlib.util.find_spec("triton") is None:
            raise RuntimeError("back end 'gpu': expected the package triton, found none")
        if not cuda and not triton_interpreted():
            raise RuntimeError(
                f"back end 'gpu': expected tensors on a CUDA device, found them on {device}; move them there"
                " (or set TRITON_INTERPRET=1 before the start to run the Triton kernels on the CPU)"
            )
    return name
