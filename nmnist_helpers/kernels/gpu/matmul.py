"""The products of dense layers on tensor cores of a GPU: bfloat16 times bfloat16, summed in float32.

Spikes (0 or 1) and quantised weights (multiples of 1/32 with eight significant bits) are exact in bfloat16. The
product of two of them is exact in float32, and so is every partial sum of a layer, a multiple of 1/32 far below
2**24 / 32. The order in which tensor cores add therefore does not matter, and the result equals that of the other twins
bit for bit. A float32 factor (a gradient) is split into two bfloat16 terms, its leading eight bits and the next eight;
the error is below 2**-16 of each element.
"""

import torch
import triton
import triton.language as tl

from ..backend import triton_interpreted
from .launch import on

# Triton's interpreter uses NumPy, which has no bfloat16. The operands have eight significant bits in any case, so
# float32 gives the same products.
OPERAND = tl.float32 if triton_interpreted() else tl.bfloat16
GROUP = 8  # blocks of rows that share a block of columns in the second-level cache
PROGRAMS = 256  # with fewer tiles, the inner dimension is split too; fixed, so that every GPU adds in the same order


@triton.jit
def eight_bits(x):
    """Return `x` rounded to eight significant bits, as many as bfloat16 has, but still as float32."""
    bits = (x.to(tl.int32, bitcast=True) + 0x8000) & -0x10000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)  # the addition could turn NaN into a number


@triton.jit
def matmul_kernel(
    a, b, out, M, N, K, a_m, a_k, b_k, b_n, out_m, out_part, share, value,
    TWO_TERMS: tl.constexpr, OPERAND: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute ``out[part] = value * a[:, k of part] @ b[k of part]``, where each part has `share` values of k."""
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    tile, part = tl.program_id(0), tl.program_id(1)
    group = tile // (GROUP * columns)  # tiles go down GROUP rows before the next column
    height = tl.minimum(rows - group * GROUP, GROUP)
    m = (group * GROUP + tile % (GROUP * columns) % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % (GROUP * columns) // height * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    first = part * share
    count = tl.minimum(share, K - first)
    a += first.to(tl.int64) * a_k
    b += first.to(tl.int64) * b_k
    a_at = a + m.to(tl.int64)[:, None] * a_m + k[None, :] * a_k
    b_at = b + k[:, None] * b_k + n[None, :] * b_n
    a_inside, b_inside = (m < M)[:, None], (n < N)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for done in range(0, count, BLOCK_K):
        if WHOLE:
            x = tl.load(a_at, mask=a_inside, other=0)
            y = tl.load(b_at, mask=b_inside, other=0)
        else:
            x = tl.load(a_at, mask=a_inside & (k < count - done)[None, :], other=0)
            y = tl.load(b_at, mask=b_inside & (k < count - done)[:, None], other=0)
        y = y.to(OPERAND)
        if TWO_TERMS:
            leading = eight_bits(x)
            total = tl.dot(eight_bits(x - leading).to(OPERAND), y, total)
            total = tl.dot(leading.to(OPERAND), y, total)
        else:
            total = tl.dot(x.to(OPERAND), y, total)
        a_at += BLOCK_K * a_k
        b_at += BLOCK_K * b_k
    out += part.to(tl.int64) * out_part
    out_at = out + m.to(tl.int64)[:, None] * out_m + n[None, :]
    tl.store(out_at, total * value, mask=a_inside & b_inside)


def tiling(m: int, n: int, two_terms: bool) -> dict[str, int]:
    """Return the launch options of a product [m, ...] @ [..., n].

    They were the fastest of some thirty on an H200, for 9,600 and 76,800 rows of 512 and 2,312 neurons (32 and 256
    recordings). No registers spill (`tests/kernels/test_gpu_compile.py`).
    """
    few = m * n < 1 << 23  # smaller blocks then spread the work over all multiprocessors
    # Many rows are the time steps of a batch (forward pass, input gradient), few are neurons (weight gradient).
    block_m = 64 if m > 2048 else 128
    block_n = 128 if few or two_terms else 256
    return {
        "BLOCK_M": min(block_m, max(16, triton.next_power_of_2(m))),
        "BLOCK_N": min(block_n, max(16, triton.next_power_of_2(n))),
        "BLOCK_K": 32 if two_terms else 64,
        "num_warps": 8 if block_m == 128 else 4,
        "num_stages": 4 if two_terms else 3,
    }


def matmul(a: torch.Tensor, b: torch.Tensor, value: float = 1.0, inner: int | None = None) -> torch.Tensor:
    """Compute ``value * a @ b`` in float32.

    Parameters
    ----------
    a : tensor [M, K]
        uint8 or bfloat16 (exact), or float32 (split into two terms).
    b : tensor [K, N]
        uint8 or bfloat16.
    value : float
        Factor of the finished sums.
    inner : int, optional
        Sum over this many k instead of K; the caller knows that both tensors are stored with zeros after K.

    Returns
    -------
    float32 tensor [M, N]
        Its rows start at multiples of 16 elements. The order of the sums depends only on the sizes.
    """
    (m, k), n = a.shape, b.shape[1]
    k = inner or k
    two_terms = a.dtype == torch.float32
    options = tiling(m, n, two_terms)
    block_k = options["BLOCK_K"]
    tiles = triton.cdiv(m, options["BLOCK_M"]) * triton.cdiv(n, options["BLOCK_N"])
    parts = max(1, min(PROGRAMS // tiles, k // (8 * block_k)))
    share = triton.cdiv(triton.cdiv(k, parts), block_k) * block_k
    parts = triton.cdiv(k, share)
    out = torch.empty(parts, m, -(-n // 16) * 16, dtype=torch.float32, device=a.device)
    with on(a):
        matmul_kernel[(tiles, parts)](
            a=a, b=b, out=out, M=m, N=n, K=k, a_m=a.stride(0), a_k=a.stride(1), b_k=b.stride(0), b_n=b.stride(1),
            out_m=out.stride(1), out_part=out.stride(0), share=share, value=float(value),
            TWO_TERMS=two_terms, OPERAND=OPERAND, WHOLE=k % block_k == 0, GROUP=GROUP, **options,
        )  # fmt: skip
    out = out[..., :n]
    return out[0] if parts == 1 else out.sum(0)
