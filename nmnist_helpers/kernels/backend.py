"""The choice of the twin that runs the kernels: reference, cpu (Numba) or gpu (Triton)."""

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

from ..jit.compiled import check_process

CHOICES = ("auto", "reference", "cpu", "gpu")
ENVIRONMENT = "NMNIST_BACKEND"

_process_choice: str | None = None  # set by `use`, for the whole process
_block_choice: ContextVar[str | None] = ContextVar("nmnist_backend", default=None)  # set by `using`, for one thread


def _check_name(name: str, source: str) -> str:
    if name not in CHOICES:
        raise ValueError(f"{source}: expected one of {', '.join(CHOICES)}, found {name!r}")
    return name


def use(name: str | None) -> None:
    """Choose the back end of all kernels from now on.

    Parameters
    ----------
    name : {'auto', 'reference', 'cpu', 'gpu'} or None
        'auto' selects Triton for CUDA tensors and Numba for CPU tensors. None restores the choice of the
        environment variable ``NMNIST_BACKEND``, or 'auto' if it is not set.

    Raises
    ------
    ValueError
        If `name` is anything else.

    Notes
    -----
    Whether the back end can run is checked at the next call of a layer: without a GPU, it raises RuntimeError after
    ``use("gpu")``.
    """
    global _process_choice
    _process_choice = None if name is None else _check_name(name, "kernels.use")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Choose the back end within a ``with`` block, for this thread only; see `use`.

    Raises
    ------
    ValueError
        If `name` is none of the back ends.
    """
    token = _block_choice.set(_check_name(name, "kernels.using"))
    try:
        yield
    finally:
        _block_choice.reset(token)


def triton_interpreted() -> bool:
    """Return whether Triton interprets its kernels on the CPU (``TRITON_INTERPRET=1``), as in the tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def resolve(device: torch.device) -> str:
    """Return the name of the twin that serves tensors on `device`.

    Parameters
    ----------
    device : torch.device
        Device of the tensors.

    Returns
    -------
    str
        'reference', 'cpu' or 'gpu'.

    Raises
    ------
    RuntimeError
        If the back end that was chosen by name cannot serve this device; no other is used silently in its place.
        Also in a child that ``os.fork`` made after the parent had run kernels (`compiled.check_process`).
    """
    name = _block_choice.get() or _process_choice
    if name is None:
        name = _check_name(os.environ.get(ENVIRONMENT, "auto"), f"environment variable {ENVIRONMENT}")
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


@functools.cache
def _package(name: str) -> ModuleType:
    return importlib.import_module(f".{name}", __package__)


def twin(device: torch.device) -> ModuleType:
    """Return the package of kernels that serves `device`: `reference`, `cpu` or `gpu`."""
    return _package(resolve(device))
