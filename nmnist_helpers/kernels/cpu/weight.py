"""Weight normalisation and 8-bit quantisation in one pass over the weights, and their gradient in another."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ...jit.tasks import tasks
from ..common import raise_not_a_number
from ..constants import HIGHEST_STEP, LOWEST_STEP, NORM_LANES, WEIGHT_STEPS
from .arithmetic import f32
from .lanes import LANES, bits, gather, load, nearest, scatter, spread, store, to_i32, where
from .layout import flat


@tasks(error_model="numpy")
def _norms(task, v, inputs, norm):
    """Compute the norms of `LANES` rows; see `nmnist_helpers.kernels.reference.norms` for the order of the sums."""
    first, sums = task * LANES, np.empty(NORM_LANES, np.float32)
    for row in range(first, min(first + LANES, len(norm))):
        lanes, rest = NORM_LANES if inputs >= NORM_LANES else 1, inputs % NORM_LANES
        sums[:] = f32(0.0)
        for k in range(row * inputs, (row + 1) * inputs - rest, NORM_LANES):
            for lane in range(NORM_LANES):
                sums[lane] += v[k + lane] * v[k + lane]
        for lane in range(rest):
            x = v[(row + 1) * inputs - rest + lane]
            sums[lane & (lanes - 1)] += x * x
        while lanes > 1:
            lanes //= 2
            for lane in range(lanes):
                sums[lane] += sums[lane + lanes]
        norm[row] = math.sqrt(np.float64(sums[0]))  # the root of a double, rounded once: torch's is as exact on x86


@tasks(error_model="numpy")
def _quantise(tile, v, factor, outputs, inputs, table, has_nan):
    """Quantise a tile of `LANES` outputs; the last tile overlaps the one before if it would not be full."""
    first = min(tile * LANES, outputs - LANES)
    f, steps = load(factor, first), spread(f32(WEIGHT_STEPS))
    least, most = spread(f32(LOWEST_STEP)), spread(f32(HIGHEST_STEP))
    nan = f != f
    for i in range(inputs):
        q = nearest((gather(v, first * inputs + i, inputs) * f) * steps)
        nan = nan | (q != q)
        q = where(q < least, least, q)
        q = where(most < q, most, q)
        store(table, i * outputs + first, to_i32(q))
    has_nan[tile] = bits(nan)


@tasks(error_model="numpy")
def _gradient(tile, v, factor, ratio, outputs, inputs, grad_table, grad_v, dot):
    """Compute a tile's gradient. `ratio` is ``factor / norm**2`` or 0; `dot` receives its dot products with v."""
    first = min(tile * LANES, outputs - LANES)
    f, steps = load(factor, first), spread(f32(WEIGHT_STEPS))
    least, most = spread(f32(LOWEST_STEP)), spread(f32(HIGHEST_STEP))
    weights, grads = np.empty(inputs * LANES, np.float32), np.empty(inputs * LANES, np.float32)
    zero = spread(f32(0.0))
    total = zero
    for i in range(inputs):  # straight through the rounding, zero outside the clamp
        w, g = gather(v, first * inputs + i, inputs), load(grad_table, i * outputs + first)
        q = nearest((w * f) * steps)
        g = where((q < least) | (most < q), zero, g)
        total = total + g * w
        store(weights, i * LANES, w)
        store(grads, i * LANES, g)
    along = total * load(ratio, first)
    for i in range(inputs):
        scatter(grad_v, first * inputs + i, inputs, f * load(grads, i * LANES) - along * load(weights, i * LANES))
    store(dot, first, total)


def norms(v: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.norms` of float32 rows [C_out, C_in] on the CPU."""
    outputs, inputs = v.shape
    norm = torch.empty(outputs, dtype=torch.float32)
    _norms(-(-outputs // LANES), v=flat(v), inputs=inputs, norm=norm.numpy())
    return norm


def quantise(v: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.quantise` on the CPU, as int8 x32, transposed to [C_in, C_out].

    Transposed, the weights of one input lie side by side. With one byte each, a chunk of columns of the whole first
    layer fits into the second-level cache, and sums of integers need no rounding.
    """
    outputs, inputs = v.shape
    width = max(outputs, LANES)
    table = torch.empty(inputs, width, dtype=torch.int8)
    has_nan = np.zeros(-(-width // LANES), np.uint64)
    _quantise(
        len(has_nan),
        v=_pad_outputs(v, width),
        factor=_pad_outputs(factor, width),
        outputs=width,
        inputs=inputs,
        table=flat(table),
        has_nan=has_nan,
    )
    if has_nan.any():
        raise_not_a_number("weights")
    return table if width == outputs else table[:, :outputs].contiguous()


def weight_values(table: torch.Tensor) -> torch.Tensor:
    """Return the quantised weights as float [C_out, C_in]."""
    return table.t().to(torch.float32).div_(WEIGHT_STEPS)


def quantise_gradient(
    v: torch.Tensor, factor: torch.Tensor, norm: torch.Tensor | None, grad_table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `nmnist_helpers.kernels.reference.quantise_gradient` on the CPU, from a gradient [C_in, C_out]."""
    outputs, inputs = v.shape
    width = max(outputs, LANES)
    ratio = torch.zeros(outputs, dtype=torch.float32) if norm is None else factor / (norm * norm)
    grad_v, dot = torch.empty(width, inputs, dtype=torch.float32), torch.empty(width, dtype=torch.float32)
    _gradient(
        -(-width // LANES),
        v=_pad_outputs(v, width),
        factor=_pad_outputs(factor, width),
        ratio=_pad_outputs(ratio, width),
        outputs=width,
        inputs=inputs,
        grad_table=_pad_outputs(grad_table, width, axis=1),
        grad_v=flat(grad_v),
        dot=flat(dot),
    )
    return grad_v[:outputs], None if norm is None else dot[:outputs] / norm


def _pad_outputs(x: torch.Tensor, width: int, axis: int = 0) -> np.ndarray:
    """Return `x` as flat float32, its axis of outputs padded with zeros to `width`, copied only if necessary."""
    x, short = x.float(), width - x.shape[axis]
    if short:  # `F.pad` would copy even without padding
        x = F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (0, short))
    return flat(x.contiguous())
