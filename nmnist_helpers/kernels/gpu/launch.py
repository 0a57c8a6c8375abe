"""What kernel launches need: block sizes, the current device, and the flag for states that leave their range."""

import math
import os
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..common import raise_out_of_range

CHECK = "NMNIST_CHECK"  # environment variable: with 1, the flag is read after every neuron step

_flags: dict[torch.device, torch.Tensor] = {}


class Shape(NamedTuple):
    """Options of a launch: channels per program, warps per program, and loads in flight per thread."""

    block: int
    warps: int
    stages: int


# Each shape applies from the given number of neurons (B * C) on. Few neurons cannot fill a GPU, and every step waits
# for the one before: hence one channel per thread, and loads far ahead. With many neurons, four channels per thread
# make every access 16 bytes wide, and the warps hide each other's latency.
# The first three were the fastest on an H200 (`tests/benchmarks/test_gpu.py`); the last one is not measured.
SHAPES = (
    (0, Shape(64, 2, 16)),
    (1 << 16, Shape(128, 1, 16)),
    (1 << 17, Shape(128, 1, 8)),
    (1 << 19, Shape(256, 2, 4)),
)


def shape_for(batch: int, channels: int) -> Shape:
    """Return the options for `batch` x `channels` neurons, with no block wider than the channels need."""
    shape = next(shape for least, shape in reversed(SHAPES) if batch * channels >= least)
    return shape._replace(block=min(shape.block, max(32 * shape.warps, triton.next_power_of_2(channels))))


def on(tensor: torch.Tensor) -> AbstractContextManager:
    """Return a context in which the tensor's device is the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def flag_of(device: torch.device) -> torch.Tensor:
    """Return the device's flag, int32 [1]; kernels set it to 1 if an input or state leaves its range, and for NaN."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if device not in _flags:
        _flags[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return _flags[device]


@triton.jit
def sum_kernel(rows, out, N, C, factor, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    part = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, N, ROWS):
        n = first + tl.arange(0, ROWS)
        at = rows + (part * N + n)[:, None] * C + c[None, :]
        x = tl.load(at, mask=(n < N)[:, None] & (c < C)[None, :], other=0.0)
        total += tl.sum(x.to(tl.float64), 0)
    tl.store(out + part * C + c, (total * factor).to(tl.float32), mask=c < C)


def sum_rows(rows: torch.Tensor, factor: float) -> torch.Tensor:
    """Return ``factor`` times the sum of rows [..., N, C] over N, float32 [..., C].

    The rows are added as float64 numbers in a fixed order. `factor` is rounded to float32.
    """
    *parts, count, channels = rows.shape
    out = torch.empty(*parts, channels, dtype=torch.float32, device=rows.device)
    with on(rows):
        sum_kernel[(math.prod(parts), triton.cdiv(channels, 32))](
            rows=rows, out=out, N=count, C=channels, factor=float(factor), ROWS=64, BLOCK=32
        )
    return out


def check() -> None:
    """Wait for the devices, and raise if an input or a state has left its range, or a decay or delay was NaN.

    The other twins raise immediately. Here the host would have to wait for every launch, so the device only sets a
    flag, which is read by this function. With ``NMNIST_CHECK=1`` it is read after every neuron step (slow, and not
    while a CUDA graph is recorded).

    Raises
    ------
    OverflowError
        With one message for all causes since the last check. The flag is cleared.
    """
    failed = [flag for flag in _flags.values() if flag.item()]
    for flag in failed:
        flag.zero_()
    if failed:
        raise_out_of_range()


def check_requested() -> bool:
    """Return whether the environment variable ``NMNIST_CHECK`` is 1."""
    return os.environ.get(CHECK) == "1"


def check_if_requested() -> None:
    """Call `check` if the environment variable ``NMNIST_CHECK`` is 1."""
    if check_requested() and not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        check()
