"""Launching kernels: block sizes, the device, and the flag that says a state left its range."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton

from ..common import raise_out_of_range

CHECK = "NMNIST_CHECK"  # environment variable: 1 reads the flag after every neuron step

_flags: dict[torch.device, torch.Tensor] = {}


class Shape(NamedTuple):
    """A launch: channels per program, warps per program, loads in flight per thread."""

    block: int
    warps: int
    stages: int


# From the smallest to the largest number of neurons (B * C). Few neurons cannot fill a GPU, so that each step
# waits for the one before: as many warps as there are, one channel a thread, and loads far ahead. With many,
# four channels a thread make every access 16 bytes wide and the warps hide each other's waiting.
# Chosen by counting registers and bytes in flight, not measured yet: `tests/benchmarks/test_gpu.py` measures.
SHAPES = (
    (0, Shape(32, 1, 8)),
    (1 << 15, Shape(64, 1, 6)),
    (1 << 17, Shape(128, 1, 4)),
    (1 << 19, Shape(256, 2, 4)),
)


def shape_for(batch: int, channels: int) -> Shape:
    """The launch for `batch` x `channels` neurons, with no block wider than the channels need."""
    shape = next(shape for least, shape in reversed(SHAPES) if batch * channels >= least)
    return shape._replace(block=min(shape.block, max(32 * shape.warps, triton.next_power_of_2(channels))))


def on(tensor: torch.Tensor) -> AbstractContextManager:
    """Make the tensor's device the current one, which is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def flag_of(device: torch.device) -> torch.Tensor:
    """The device's flag, int32 [1]: a neuron step writes 1 where its input or a state left the range."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if device not in _flags:
        _flags[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return _flags[device]


def check() -> None:
    """Wait for the devices, and raise if an input or a state has left the range since the last check.

    The other twins raise on the spot. Here the host would have to wait for every launch, so the error stays
    on the device until somebody asks: this function, or every neuron step under ``NMNIST_CHECK=1`` (slow, and
    not while a CUDA graph is recorded).

    Raises
    ------
    OverflowError
        As the other twins do; the flag is cleared.
    """
    failed = [flag for flag in _flags.values() if flag.item()]
    for flag in failed:
        flag.zero_()
    if failed:
        raise_out_of_range()


def check_if_asked() -> None:
    """`check` under ``NMNIST_CHECK=1``."""
    if os.environ.get(CHECK) == "1" and not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        check()
