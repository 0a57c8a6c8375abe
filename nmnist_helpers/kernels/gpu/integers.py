"""Decays and delays as the integers that the neurons and the axons use, each in one launch."""

import torch
import triton
import triton.language as tl

from ..constants import DECAY_SCALE
from .launch import flag_of, on
from .weight import TO_WHOLE

SCALE = tl.constexpr(float(DECAY_SCALE))
BLOCK = 256


@triton.jit(do_not_specialize=["places"])
def retention_kernel(decay, retention, flag, N, places, SHARED: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(decay + (n * 0 if SHARED else n // places), mask=n < N, other=0.0)
    tl.store(flag, 1, mask=tl.max((x != x).to(tl.int32), 0) > 0)
    x = tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), 0.0), SCALE)
    whole = (x + TO_WHOLE) - TO_WHOLE
    tl.store(retention + n, (-whole + SCALE).to(tl.int32), mask=n < N)


@triton.jit(do_not_specialize=["shift", "T"])
def lag_kernel(delay, lag, flag, C, shift, T, BLOCK: tl.constexpr):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(delay + c, mask=c < C, other=0.0)
    tl.store(flag, 1, mask=tl.max((x != x).to(tl.int32), 0) > 0)
    longest = T.to(tl.float32)
    x = tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), -longest), longest)
    steps = tl.floor(x).to(tl.int32) + shift
    tl.store(lag + c, tl.minimum(tl.maximum(steps, -T), T), mask=c < C)


def retention_of(decay: torch.Tensor, channels: int, places: int) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.integers.retention_of` of a float32 decay; only `check` reports NaN."""
    retention = torch.empty(channels * places, dtype=torch.int32, device=decay.device)
    with on(decay):
        retention_kernel[(triton.cdiv(channels * places, BLOCK),)](
            decay=decay.detach().contiguous(), retention=retention, flag=flag_of(decay.device), N=channels * places,
            places=places, SHARED=decay.numel() == 1, BLOCK=BLOCK,
        )  # fmt: skip
    return retention


def lag_of(delay: torch.Tensor, shift: int, steps: int) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.integers.lag_of` of a float32 delay; only `check` reports NaN."""
    channels = len(delay)
    lag = torch.empty(channels, dtype=torch.int32, device=delay.device)
    with on(delay):
        lag_kernel[(triton.cdiv(channels, BLOCK),)](
            delay=delay.detach().contiguous(), lag=lag, flag=flag_of(delay.device), C=channels, shift=shift, T=steps,
            BLOCK=BLOCK,
        )  # fmt: skip
    return lag
