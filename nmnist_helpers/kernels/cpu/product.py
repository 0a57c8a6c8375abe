"""The products that are not fused with the neuron: dense products, and the gradient of the weights."""

import numpy as np
import torch
from numba import get_num_threads

from ...jit.compiled import njit
from ...jit.tasks import tasks
from ...spikes import Spikes
from ..constants import WEIGHT_STEPS
from .arithmetic import f32, i8
from .lanes import LANES, load, spread, store
from .layout import flat

BLOCK = 128  # columns of weights per task, whose sums stay in the second-level cache
DENSE_FROM = 0.3  # share of set bins from which a dense product is faster (tests/benchmarks/test_cpu.py)
DEPTH = 256  # rows of a panel that stay in the first-level cache
TALL, FLAT = 96, 6  # rows per task: many for panels that exceed the cache, few for panels that all fit into it
CACHE = 1 << 13  # float32 numbers that fit into the first-level cache


@tasks(error_model="numpy", fastmath={"contract"})
def _weight_gradient(task, indptr, channel, grad_z, value, block, out):
    batch, steps, channels = grad_z.shape
    first = task * block
    last = min(first + block, channels)
    # A contiguous array: at the stride of `out`, say 2 kB, the rows would compete for the same few cache sets.
    own = np.zeros((out.shape[0], last - first), np.float32)
    for b in range(batch):
        for t in range(steps):
            g = grad_z[b, t, first:last]
            for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                row = own[channel[k]]
                for c in range(last - first):
                    row[c] += g[c]
    out[:, first:last] = own * value


@tasks(error_model="numpy")
def _fill_panels(panel, weights, of_row, of_column, depth, columns, panels):
    """Write a panel of `LANES` columns of the weights, which are stored x32; the last panel is filled up with zeros."""
    for lane in range(LANES):
        column, to = panel * LANES + lane, panel * LANES * depth + lane
        for k in range(depth):
            weight = weights[k * of_row + column * of_column] if column < columns else i8(0)
            panels[to + k * LANES] = f32(weight) * f32(1 / WEIGHT_STEPS)


@njit(inline="always")
def _add(out, to, total, begin):
    store(out, to, load(out, to) + total if begin else total)


@tasks(error_model="numpy")
def _multiply(task, tall, rows, stride, depth, panels, width, out):
    """Multiply `tall` rows by panels of `LANES` columns, six rows at a time, with the sums in registers."""
    last = min((task + 1) * tall, len(out) // width)
    s = np.uint64(stride)  # unsigned, because Numba tests every signed index for a negative value
    for begin in range(0, depth, DEPTH):
        end = min(begin + DEPTH, depth)
        for first in range(0, width, LANES):
            row, zero = task * tall, spread(f32(0.0))
            while row + 6 <= last:
                s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
                for k in range(begin, end):
                    panel, at = load(panels, first * depth + k * LANES), np.uint64(row * stride + k)
                    s0 = s0 + spread(rows[at]) * panel
                    s1 = s1 + spread(rows[at + s]) * panel
                    s2 = s2 + spread(rows[at + s + s]) * panel
                    s3 = s3 + spread(rows[at + s + s + s]) * panel
                    s4 = s4 + spread(rows[at + s + s + s + s]) * panel
                    s5 = s5 + spread(rows[at + s + s + s + s + s]) * panel
                to = row * width + first
                _add(out, to, s0, begin)
                _add(out, to + width, s1, begin)
                _add(out, to + 2 * width, s2, begin)
                _add(out, to + 3 * width, s3, begin)
                _add(out, to + 4 * width, s4, begin)
                _add(out, to + 5 * width, s5, begin)
                row += 6
            while row < last:
                s0 = zero
                for k in range(begin, end):
                    s0 = s0 + spread(rows[np.uint64(row * stride + k)]) * load(panels, first * depth + k * LANES)
                _add(out, row * width + first, s0, begin)
                row += 1


def is_sparse(spikes: Spikes | torch.Tensor) -> bool:
    """Return whether to add weights spike by spike, which is faster than a dense product if there are few spikes."""
    return isinstance(spikes, Spikes) and spikes.density <= DENSE_FROM


def flat_rows(rows: torch.Tensor) -> tuple[np.ndarray, int]:
    """Return rows [B, T, K] as a flat array, and the stride between rows; slices of wider rows are not copied."""
    batch, steps, depth = rows.shape
    stride = rows.stride(1)
    if rows.stride() != (steps * stride, stride, 1):
        rows, stride = rows.contiguous(), depth  # torch may report any stride for an axis of length 1
    return rows.as_strided(((batch * steps - 1) * stride + depth,), (1,)).numpy(), stride


def matmul(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``rows @ weights / 32``: float [B, T, K] times int8 weights [K, N], which may be a transposed view.

    This is as fast as oneDNN's product and, on AMD processors, faster than MKL's. Like all other kernels, it shares the
    work among threads with `nmnist_helpers.jit.tasks`.
    """
    batch, steps, depth = rows.shape
    numbers, stride = flat_rows(rows)
    columns = weights.shape[1]
    width, by_rows = -(-columns // LANES) * LANES, weights.is_contiguous()
    panels = np.empty(width * depth, np.float32)
    _fill_panels(
        width // LANES,
        weights=flat(weights if by_rows else weights.t(), np.int8),
        of_row=columns if by_rows else 1,
        of_column=1 if by_rows else depth,
        depth=depth,
        columns=columns,
        panels=panels,
    )
    out = torch.empty(batch, steps, width, dtype=torch.float32)
    tall = FLAT if panels.size <= CACHE else TALL
    _multiply(
        -(-batch * steps // tall),
        tall=tall,
        rows=numbers,
        stride=stride,
        depth=depth,
        panels=panels,
        width=width,
        out=flat(out),
    )
    return out[..., :columns]


def dense_product(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.product` as a dense product on the CPU; weights int8 [C_in, C_out]."""
    rows, value = _rows(spikes)
    z = matmul(rows, table)
    return z if value == 1.0 else z * value


def _rows(spikes: Spikes | torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return dense float32 rows [B, T, C_in], and the factor that is to be applied after the product."""
    return (spikes.rows(value=1.0), spikes.value) if isinstance(spikes, Spikes) else (spikes.float(), 1.0)


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.weight_gradient` on the CPU, as [C_in, C_out].

    Each task computes its own block of columns, so no two threads add to the same number and the order is fixed.
    """
    outputs = grad_z.shape[2]
    if not is_sparse(spikes):
        rows, value = _rows(spikes)
        grad = rows.reshape(-1, rows.shape[2]).t() @ grad_z.reshape(-1, outputs)
        return grad if value == 1.0 else grad * value
    block = max(16, min(BLOCK, -(-outputs // (2 * get_num_threads()) // 16) * 16))
    out = torch.empty(spikes.shape[1], outputs, dtype=torch.float32)
    _weight_gradient(
        -(-outputs // block),
        indptr=spikes.indptr.numpy(),
        channel=spikes.channel.numpy(),
        grad_z=grad_z.numpy(),
        value=f32(spikes.value),
        block=block,
        out=out.numpy(),
    )
    return out
