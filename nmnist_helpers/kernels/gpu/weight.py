"""Weight normalisation and 8-bit quantisation on a GPU, and their gradient.

Quantised weights are multiples of 1/32 in -4..127/32. They have eight significant bits, so bfloat16 represents them
exactly and tensor cores multiply them exactly.
"""

from functools import reduce

import torch
import triton
import triton.language as tl

from ..constants import HIGHEST_STEP, LOWEST_STEP, NORM_LANES
from .launch import on

LOWEST, HIGHEST = tl.constexpr(float(LOWEST_STEP)), tl.constexpr(float(HIGHEST_STEP))
TO_WHOLE = tl.constexpr(1.5 * 2**23)  # float32 numbers this large have no fraction: adding it rounds half to even
COLUMNS = 1024
ROW_MULTIPLE = 64  # rows are padded with zeros to whole tiles, so that products need no masks


def padded(columns: int) -> int:
    """Return the stored length of a row of `columns` numbers."""
    return -(-columns // ROW_MULTIPLE) * ROW_MULTIPLE


@triton.jit
def norm_kernel(v, out, N, C, ROWS: tl.constexpr, LANES: tl.constexpr, STAGES: tl.constexpr):
    """Add up the squares of each row in the order of torch's CPU kernel, without fused multiply-adds."""
    o, lane = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, LANES)
    at = v + o.to(tl.int64)[:, None] * C + lane[None, :]
    total = tl.zeros([ROWS, LANES], tl.float32)
    for first in tl.range(0, C, LANES, num_stages=STAGES):
        x = tl.load(at + first, mask=(o < N)[:, None] & (first + lane < C)[None, :], other=0.0)
        total += x * x
    total = tl.sum(tl.reshape(total, [ROWS, 2, LANES // 2]), 1)
    total = tl.sum(tl.reshape(total, [ROWS, 2, LANES // 4]), 1)
    tl.store(out + o, tl.sum(total, 1), mask=o < N)


@triton.jit
def quantise_kernel(v, factor, weights, C, stride, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    # The product with the factor is rounded once, as in torch; the product with 32 is exact, fused or not.
    steps = tl.load(v + o * C + i, mask=i < C, other=0.0) * tl.load(factor + o) * 32.0
    # Clamped before rounding: the limits are integers, so rounding cannot exceed them. NaN stays NaN, and the
    # neuron step detects it.
    steps = tl.maximum(steps, LOWEST, propagate_nan=tl.PropagateNan.ALL)
    steps = tl.minimum(steps, HIGHEST, propagate_nan=tl.PropagateNan.ALL)
    whole = (steps + TO_WHOLE) - TO_WHOLE
    tl.store(weights + o * stride + i, (whole / 32.0).to(weights.dtype.element_ty), mask=i < stride)


@triton.jit
def gradient_kernel(v, factor, norm, grad, grad_v, grad_g, C, stride, BLOCK: tl.constexpr):
    """Compute a row per program: first its dot product, then its gradient while the row is still in the cache.

    `norm` and `grad_g` are None without weight normalisation.
    """
    o = tl.program_id(0).to(tl.int64)
    v += o * C
    grad += o * stride
    grad_v += o * C
    f = tl.load(factor + o)
    along = 0.0
    if norm is not None:
        length = tl.load(norm + o)
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(0, C, BLOCK):
            i = first + tl.arange(0, BLOCK)
            x = tl.load(v + i, mask=i < C, other=0.0)
            steps = x * f * 32.0
            inside = (steps >= LOWEST - 0.5) & (steps < HIGHEST + 0.5)  # rounds to a step within the limits
            g = tl.load(grad + i, mask=(i < C) & inside, other=0.0)
            total += g * x
        dot = tl.sum(total, 0)
        tl.store(grad_g + o, dot / length)
        along = dot * f / (length * length)
    for first in range(0, C, BLOCK):
        i = first + tl.arange(0, BLOCK)
        x = tl.load(v + i, mask=i < C, other=0.0)
        steps = x * f * 32.0
        inside = (steps >= LOWEST - 0.5) & (steps < HIGHEST + 0.5)
        g = tl.load(grad + i, mask=(i < C) & inside, other=0.0)
        if norm is not None:
            g = f * g - along * x
        tl.store(grad_v + i, g, mask=i < C)


def norms(v: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.norms` on a GPU, to the bit.

    Equal norms give equal weights, and a network that has learned on a GPU is exported as on a CPU.
    """
    rows, columns = v.shape
    if columns < NORM_LANES:
        squares = reduce(torch.add, v.square().unbind(1))
    else:
        squares = torch.empty(rows, dtype=torch.float32, device=v.device)
        with on(v):
            norm_kernel[(triton.cdiv(rows, 4),)](
                v=v, out=squares, N=rows, C=columns, ROWS=4, LANES=NORM_LANES, STAGES=16, num_warps=1,
                enable_fp_fusion=False,
            )  # fmt: skip
    return squares.double().sqrt().float()  # correctly rounded; a square root in float32 can be off in the last bit


def quantise(v: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.quantise` on a GPU, in bfloat16.

    The rows are stored with zeros up to `padded` columns; the result is a view of the first C_in columns.
    """
    v, factor = v.float().contiguous(), factor.float().contiguous()
    outputs, inputs = v.shape
    weights = torch.empty(outputs, padded(inputs), dtype=torch.bfloat16, device=v.device)
    with on(v):
        quantise_kernel[(outputs, triton.cdiv(weights.shape[1], COLUMNS))](
            v=v, factor=factor, weights=weights, C=inputs, stride=weights.shape[1], BLOCK=COLUMNS
        )
    return weights[:, :inputs]


def weight_values(weights: torch.Tensor) -> torch.Tensor:
    """Return the quantised weights as float [C_out, C_in]."""
    return weights.float()


def quantise_gradient(
    v: torch.Tensor, factor: torch.Tensor, norm: torch.Tensor | None, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `nmnist_helpers.kernels.reference.quantise_gradient` on a GPU."""
    v, factor = v.float().contiguous(), factor.float().contiguous()
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    outputs, inputs = v.shape
    grad_v = torch.empty_like(v)
    grad_g = None if norm is None else torch.empty(outputs, dtype=torch.float32, device=v.device)
    with on(v):
        gradient_kernel[(outputs,)](
            v=v, factor=factor, norm=norm, grad=grad, grad_v=grad_v, grad_g=grad_g, C=inputs, stride=grad.stride(0),
            BLOCK=COLUMNS,
        )  # fmt: skip
    return grad_v, grad_g
