"""Products of spikes with quantised weights, and their gradients.

Weights are one byte each (value x 32, exact), so that a block of 128 columns of the whole first layer fits the
second-level cache, and sums of integers need no rounding.
"""

import platform

import numpy as np
import torch
import torch.nn.functional as F
from numba import get_num_threads, njit, prange

from ...spikes import Spikes
from ..constants import WEIGHT_STEPS
from .arithmetic import f32, i32
from .weight import weight_values

BLOCK = 128  # columns of weights per task: their sums stay in the first-level cache
DENSE_FROM = 0.2  # share of set bins from which a dense product is the faster one (tests/benchmarks/test_cpu.py)
MAX_INPUTS = (1 << 16) - 1  # inputs x 128 x 128 must stay below 2**30
ONE_DNN = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


@njit(parallel=True, cache=True, error_model="numpy")
def _product(indptr, channel, table, value, out):
    batch, steps, channels = out.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    for task in prange(batch * blocks):
        b, first = task // blocks, (task % blocks) * BLOCK
        last = min(first + BLOCK, channels)
        total = np.empty(last - first, np.int32)
        for t in range(steps):
            total[:] = 0
            for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                row = table[channel[k], first:last]
                for c in range(last - first):
                    total[c] = i32(total[c] + i32(row[c]))
            for c in range(last - first):
                out[b, t, first + c] = value * (f32(total[c]) * f32(1.0 / WEIGHT_STEPS))


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract"})
def _weight_gradient(indptr, channel, grad_z, value, block, out):
    batch, steps, channels = grad_z.shape
    blocks = (channels + block - 1) // block
    for task in prange(blocks):
        first = task * block
        last = min(first + block, channels)
        # Rows of a block side by side: at a stride of 2 kB they would fall into the same few cache sets.
        own = np.zeros((out.shape[0], last - first), np.float32)
        for b in range(batch):
            for t in range(steps):
                g = grad_z[b, t, first:last]
                for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                    row = own[channel[k]]
                    for c in range(last - first):
                        row[c] += g[c]
        out[:, first:last] = own * value


def is_sparse(spikes: Spikes | torch.Tensor) -> bool:
    """Whether a product goes spike by spike, which is the faster way for the few that there mostly are."""
    return isinstance(spikes, Spikes) and spikes.density <= DENSE_FROM


def check_inputs(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> tuple[int, int, int]:
    """(B, T, C_out) of a product, or an error that says why there is none."""
    events = isinstance(spikes, Spikes)
    batch, inputs, steps = spikes.shape if events else spikes.transpose(1, 2).shape
    if events and inputs > MAX_INPUTS:
        raise ValueError(f"event product: at most {MAX_INPUTS} inputs, found {inputs}")
    if 0 in (batch, inputs, steps):
        raise ValueError(f"product: expected spikes (B, C, T) with no side empty, found {(batch, inputs, steps)}")
    return batch, steps, table.shape[1]


def _dense_product(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``rows @ matrix``, [B, T, K] by [K, N].

    It goes to oneDNN, as a convolution of length 1, where torch has it: torch gives matrix products to MKL, which
    on AMD processors leaves half of the vector unit idle (27 against 11 ms for 9600 x 512 x 512).
    """
    if not ONE_DNN:
        return rows @ matrix
    image = rows.transpose(1, 2).unsqueeze(2)  # [B, K, 1, T], channels last: nothing moves
    return F.conv2d(image, matrix.t()[..., None, None]).squeeze(2).transpose(1, 2)


def product(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.product`, with weights int8 [C_in, C_out]."""
    if not isinstance(spikes, Spikes):
        return _dense_product(spikes, weight_values(table).t())
    if not is_sparse(spikes):
        z = _dense_product(spikes.rows(value=1.0), weight_values(table).t())
        return z if spikes.value == 1.0 else z * spikes.value
    out = torch.empty(check_inputs(spikes, table))
    _product(spikes.indptr.numpy(), spikes.channel.numpy(), table.numpy(), f32(spikes.value), out.numpy())
    return out


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.weight_gradient`, but [C_in, C_out] like the weights here.

    Each thread owns a block of columns, so nothing is added twice at once and the sum's order is fixed.
    """
    outputs = grad_z.shape[2]
    if not is_sparse(spikes):
        rows, value = (spikes.rows(value=1.0), spikes.value) if isinstance(spikes, Spikes) else (spikes, 1.0)
        grad = rows.reshape(-1, rows.shape[2]).t() @ grad_z.reshape(-1, outputs)
        return grad if value == 1.0 else grad * value
    block = max(16, min(BLOCK, -(-outputs // (2 * get_num_threads()) // 16) * 16))
    out = torch.empty(spikes.shape[1], outputs)
    _weight_gradient(
        spikes.indptr.numpy(), spikes.channel.numpy(), grad_z.numpy(), f32(spikes.value), block, out.numpy()
    )
    return out


def input_gradient(grad_z: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.input_gradient`: the one product that nothing makes sparse."""
    return _dense_product(grad_z, weight_values(table))
