"""Weight normalisation and 8-bit quantisation in one pass over the weights, and their gradient in another."""

import numpy as np
import torch

from ...tasks import tasks
from ..common import raise_not_a_number
from ..constants import HIGHEST_STEP, LOWEST_STEP, WEIGHT_STEPS
from .arithmetic import f32

TILE = 16  # rows of outputs per task: a tile and its transpose fit the second-level cache


@tasks(error_model="numpy")
def _quantise(tile, v, factor, table, missing):
    outputs, inputs = v.shape
    first, last = tile * TILE, min((tile + 1) * TILE, outputs)
    local = np.empty((last - first, inputs), np.int8)
    nans = 0
    for o in range(first, last):
        f, row, to = factor[o], v[o], local[o - first]
        for i in range(inputs):
            q = np.rint((row[i] * f) * f32(WEIGHT_STEPS))  # half to even, as torch.round
            nans += q != q
            to[i] = np.int8(min(max(q, f32(LOWEST_STEP)), f32(HIGHEST_STEP)))
    for i in range(inputs):
        for o in range(last - first):
            table[i, first + o] = local[o, i]
    missing[tile] = nans


@tasks(error_model="numpy", fastmath={"contract", "reassoc"})
def _gradient(tile, v, factor, norm, grad_table, normed, grad_v, grad_g):
    outputs, inputs = v.shape
    first, last = tile * TILE, min((tile + 1) * TILE, outputs)
    local = np.empty((last - first, inputs), np.float32)
    for i in range(inputs):
        for o in range(last - first):
            local[o, i] = grad_table[i, first + o]
    for o in range(first, last):
        f, row, g, to = factor[o], v[o], local[o - first], grad_v[o]
        dot = f32(0.0)
        for i in range(inputs):  # straight through the rounding, nothing outside the clamp
            q = np.rint((row[i] * f) * f32(WEIGHT_STEPS))
            inside = (q >= f32(LOWEST_STEP)) & (q <= f32(HIGHEST_STEP))
            x = g[i] if inside else f32(0.0)
            g[i] = x
            dot += x * row[i]
        if normed:
            grad_g[o] = dot / norm[o]
            along = dot * f / (norm[o] * norm[o])
            for i in range(inputs):
                to[i] = f * g[i] - along * row[i]
        else:  # as a loop: Numba drops `to[:] = g` here, and nothing is written
            for i in range(inputs):
                to[i] = g[i]


def quantise(v: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.quantise`, but int8 x32 and [C_in, C_out].

    Transposed, so that the weights of one input lie side by side. One byte each, so that a chunk of columns of the
    whole first layer fits the second-level cache, and sums of integers need no rounding.
    """
    v, factor = v.float().contiguous(), factor.float().contiguous()
    table = torch.empty(v.shape[1], v.shape[0], dtype=torch.int8)
    missing = np.zeros(-(-len(v) // TILE), np.int32)
    _quantise(len(missing), v=v.numpy(), factor=factor.numpy(), table=table.numpy(), missing=missing)
    if missing.any():
        raise_not_a_number("weights")
    return table


def weight_values(table: torch.Tensor) -> torch.Tensor:
    """The quantised weights as float [C_out, C_in]."""
    return table.t().to(torch.float32).div_(WEIGHT_STEPS)


def quantise_gradient(
    v: torch.Tensor, factor: torch.Tensor, norm: torch.Tensor | None, grad_table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `nmnist_helpers.kernels.reference.quantise_gradient`, from a gradient [C_in, C_out]."""
    grad_v = torch.empty(v.shape)
    grad_g = torch.empty(v.shape[0])
    normed = norm is not None
    _gradient(
        -(-len(v) // TILE),
        v=v.float().contiguous().numpy(),
        factor=factor.float().contiguous().numpy(),
        norm=(norm if normed else factor).float().contiguous().numpy(),
        grad_table=grad_table.float().contiguous().numpy(),
        normed=normed,
        grad_v=grad_v.numpy(),
        grad_g=grad_g.numpy(),
    )
    return grad_v, grad_g if normed else None
