"""Dropout, shift and learned delay on a GPU."""

import torch
import triton
import triton.language as tl

from .launch import on, shape_for

ROWS = 16  # steps of time per program: moving needs no order, so that time is spread over programs too
COLUMNS = 128


@triton.jit(do_not_specialize=["T", "direction"])
def move_kernel(
    rows, lag, kept, out, T, C, direction, value,
    HAS_KEPT: tl.constexpr, SCALE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``out[t] = rows[t - direction * lag]``, zeros from outside."""
    blocks = tl.cdiv(T, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    source = t - direction * tl.load(lag + c, mask=c < C, other=0)
    inside = (t < T) & (c < C) & (source >= 0) & (source < T)
    x = tl.load(rows + (b * T + source) * C + c, mask=inside, other=0)
    if HAS_KEPT:
        x *= tl.load(kept + b * C + c, mask=c < C, other=0).to(x.dtype)
    if SCALE:
        x *= value
    tl.store(out + (b * T + t) * C + c, x, mask=(t < T) & (c < C))


@triton.jit(do_not_specialize=["T"])
def delay_gradient_kernel(grad, out, sums, T, C, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    blocks = tl.cdiv(C, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    grad += b * T * C
    out += b * T * C
    total = tl.zeros([BLOCK], tl.float32)
    here = tl.load(grad + c, mask=inside, other=0.0)
    for t in tl.range(0, T, num_stages=STAGES):
        grad += C
        after = tl.load(grad + c, mask=inside & (t + 1 < T), other=0.0)
        y = tl.load(out + c, mask=inside, other=0)
        total += tl.where(y != 0, after - here, 0.0)
        here = after
        out += C
    tl.store(sums + b * C + c, total, mask=inside)


def _move(rows, lag, kept, direction, value):
    rows = rows.contiguous()
    batch, steps, channels = rows.shape
    out = torch.empty_like(rows)
    with on(rows):
        move_kernel[(batch * triton.cdiv(steps, ROWS), triton.cdiv(channels, COLUMNS))](
            rows, lag, lag if kept is None else kept, out, steps, channels, direction, float(value),
            HAS_KEPT=kept is not None, SCALE=value != 1.0, ROWS=ROWS, BLOCK=COLUMNS,
        )  # fmt: skip
    return out


def axon_forward(spikes: torch.Tensor, lag: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.axon_forward`."""
    return _move(spikes, lag, kept, 1, 1.0)


def axon_backward(
    grad: torch.Tensor, lag: torch.Tensor, kept: torch.Tensor | None = None, value: float = 1.0
) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.axon_backward`."""
    return _move(grad.float(), lag, kept, -1, value)


def delay_gradient(grad: torch.Tensor, out: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.delay_gradient`; sums in a fixed order."""
    grad, out = grad.float().contiguous(), out.contiguous()
    batch, steps, channels = grad.shape
    sums = torch.empty(batch, channels, dtype=torch.float32, device=grad.device)
    shape = shape_for(batch, channels)
    with on(grad):
        delay_gradient_kernel[(batch * triton.cdiv(channels, shape.block),)](
            grad, out, sums, steps, channels, BLOCK=shape.block, STAGES=shape.stages, num_warps=shape.warps
        )
    return (sums.sum(0, dtype=torch.float64) * value).float()
