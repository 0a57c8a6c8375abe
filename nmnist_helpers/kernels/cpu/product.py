"""The products that stand apart from the neuron: dense ones, and the gradients of weights and inputs."""

import platform

import numpy as np
import torch
import torch.nn.functional as F
from numba import get_num_threads, prange

from ...compiled import njit
from ...spikes import Spikes
from .arithmetic import f32
from .weight import weight_values

BLOCK = 128  # columns of weights per task: their sums stay in the second-level cache
DENSE_FROM = 0.2  # share of set bins from which a dense product is the faster one (tests/benchmarks/test_cpu.py)
ONE_DNN = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


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


def _matmul(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``rows @ matrix``, [B, T, K] by [K, N].

    It goes to oneDNN, as a convolution of length 1, where torch has it: torch gives matrix products to MKL, which
    on AMD processors leaves half of the vector unit idle (27 against 11 ms for 9600 x 512 x 512).
    """
    if not ONE_DNN:
        return rows @ matrix
    image = rows.transpose(1, 2).unsqueeze(2)  # [B, K, 1, T], channels last: nothing moves
    return F.conv2d(image, matrix.t()[..., None, None]).squeeze(2).transpose(1, 2)


def dense_product(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.product`, with weights int8 [C_in, C_out]."""
    rows, value = _rows(spikes)
    z = _matmul(rows, weight_values(table).t())
    return z if value == 1.0 else z * value


def _rows(spikes: Spikes | torch.Tensor) -> tuple[torch.Tensor, float]:
    """Dense float32 rows [B, T, C_in] and the factor that is left for after the product."""
    return (spikes.rows(value=1.0), spikes.value) if isinstance(spikes, Spikes) else (spikes.float(), 1.0)


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.weight_gradient`, but [C_in, C_out] like the weights here.

    Each thread computes a block of columns alone, so nothing is added twice at once and the sum's order is fixed.
    """
    outputs = grad_z.shape[2]
    if not is_sparse(spikes):
        rows, value = _rows(spikes)
        grad = rows.reshape(-1, rows.shape[2]).t() @ grad_z.reshape(-1, outputs)
        return grad if value == 1.0 else grad * value
    block = max(16, min(BLOCK, -(-outputs // (2 * get_num_threads()) // 16) * 16))
    out = torch.empty(spikes.shape[1], outputs)
    _weight_gradient(
        indptr=spikes.indptr.numpy(),
        channel=spikes.channel.numpy(),
        grad_z=grad_z.numpy(),
        value=f32(spikes.value),
        block=block,
        out=out.numpy(),
    )
    return out


def input_gradient(grad_z: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.input_gradient`: the one product that nothing makes sparse."""
    return _matmul(grad_z, weight_values(table))
