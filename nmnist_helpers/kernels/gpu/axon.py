"""Dropout, shift and learned delay on a GPU."""

import torch
import triton
import triton.language as tl

from ..common import Axon, check_axon
from .launch import on, sum_rows

ROWS = 16  # time steps per program: steps are independent here, unlike those of the neurons
COLUMNS = 128


@triton.jit(do_not_specialize=["T"])
def axon_kernel(spikes, lag, kept, out, T, C, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Compute ``out[t] = kept * spikes[t - lag]``, with zeros from outside; `kept` may be None."""
    blocks = tl.cdiv(T, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    source = t - tl.load(lag + c, mask=c < C, other=0)
    inside = (t < T) & (c < C) & (source >= 0) & (source < T)
    x = tl.load(spikes + (b * T + source) * C + c, mask=inside, other=0)
    if kept is not None:
        x *= tl.load(kept + b * C + c, mask=c < C, other=0).to(x.dtype)
    tl.store(out + (b * T + t) * C + c, x, mask=(t < T) & (c < C))


@triton.jit(do_not_specialize=["T"])
def delay_gradient_kernel(grad, out, sums, T, C, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum ``grad[t + 1] - grad[t]`` over those of ROWS steps that have a spike."""
    blocks = tl.cdiv(T, ROWS)
    part = tl.program_id(0).to(tl.int64)  # number of the sample and of the rows in it
    t = part % blocks * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    at = (part // blocks * T + t) * C + c
    inside = (t < T) & (c < C)
    fired = tl.load(out + at, mask=inside, other=0) != 0
    here = tl.load(grad + at, mask=inside, other=0.0)
    after = tl.load(grad + at + C, mask=inside & (t + 1 < T), other=0.0)
    total = tl.sum(tl.where(fired, after - here, 0.0), 0)[None, :]
    tl.store(sums + part * C + c, total, mask=c < C)


def axon_forward(spikes: torch.Tensor, axon: Axon) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.axon_forward` on a GPU."""
    check_axon(axon, spikes.shape[0], spikes.shape[2], spikes.device)
    spikes = spikes.contiguous()
    batch, steps, channels = spikes.shape
    out = torch.empty_like(spikes)
    with on(spikes):
        axon_kernel[(batch * triton.cdiv(steps, ROWS), triton.cdiv(channels, COLUMNS))](
            spikes=spikes, lag=axon.lag, kept=axon.kept, out=out, T=steps, C=channels, ROWS=ROWS, BLOCK=COLUMNS
        )
    return out


def delay_gradient(grad: torch.Tensor, out: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.delay_gradient` on a GPU, summed in a fixed order."""
    grad, out = grad.float().contiguous(), out.contiguous()
    batch, steps, channels = grad.shape
    parts = batch * triton.cdiv(steps, ROWS)
    sums = torch.empty(parts, channels, dtype=torch.float32, device=grad.device)
    with on(grad):
        delay_gradient_kernel[(parts, triton.cdiv(channels, COLUMNS))](
            grad=grad, out=out, sums=sums, T=steps, C=channels, ROWS=ROWS, BLOCK=COLUMNS
        )
    return sum_rows(sums, value)
