"""Weight normalisation and 8-bit quantisation in one pass over the weights, and their gradient in another."""

import numpy as np
import torch
import torch.nn.functional as F

from ...tasks import tasks
from ..common import raise_not_a_number
from ..constants import HIGHEST_STEP, LOWEST_STEP, WEIGHT_STEPS
from .arithmetic import f32
from .lanes import LANES, bits, gather, load, nearest, scatter, spread, store, to_i32, where
from .layout import flat


@tasks(error_model="numpy")
def _quantise(tile, v, factor, outputs, inputs, table, missing):
    """A tile of `LANES` outputs; the last one begins early enough to be whole."""
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
    missing[tile] = bits(nan)


@tasks(error_model="numpy")
def _gradient(tile, v, factor, ratio, outputs, inputs, grad_table, grad_v, dot):
    """As `_quantise` by tiles. `ratio` is ``factor / norm**2``, or 0; `dot` takes the products of gradient and v."""
    first = min(tile * LANES, outputs - LANES)
    f, steps = load(factor, first), spread(f32(WEIGHT_STEPS))
    least, most = spread(f32(LOWEST_STEP)), spread(f32(HIGHEST_STEP))
    weights, grads = np.empty(inputs * LANES, np.float32), np.empty(inputs * LANES, np.float32)
    zero = spread(f32(0.0))
    total = zero
    for i in range(inputs):  # straight through the rounding, nothing outside the clamp
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


def quantise(v: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.quantise`, but int8 x32 and [C_in, C_out].

    Transposed, so that the weights of one input lie side by side. One byte each, so that a chunk of columns of the
    whole first layer fits the second-level cache, and sums of integers need no rounding.
    """
    outputs, inputs = v.shape
    width = max(outputs, LANES)
    table = torch.empty(inputs, width, dtype=torch.int8)
    missing = np.zeros(-(-width // LANES), np.uint64)
    _quantise(
        len(missing),
        v=_wide(v, width),
        factor=_wide(factor, width),
        outputs=width,
        inputs=inputs,
        table=flat(table),
        missing=missing,
    )
    if missing.any():
        raise_not_a_number("weights")
    return table if width == outputs else table[:, :outputs].contiguous()


def weight_values(table: torch.Tensor) -> torch.Tensor:
    """The quantised weights as float [C_out, C_in]."""
    return table.t().to(torch.float32).div_(WEIGHT_STEPS)


def quantise_gradient(
    v: torch.Tensor, factor: torch.Tensor, norm: torch.Tensor | None, grad_table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `nmnist_helpers.kernels.reference.quantise_gradient`, from a gradient [C_in, C_out]."""
    outputs, inputs = v.shape
    width = max(outputs, LANES)
    ratio = torch.zeros(outputs) if norm is None else factor / (norm * norm)
    grad_v, dot = torch.empty(width, inputs), torch.empty(width)
    _gradient(
        -(-width // LANES),
        v=_wide(v, width),
        factor=_wide(factor, width),
        ratio=_wide(ratio, width),
        outputs=width,
        inputs=inputs,
        grad_table=_wide(grad_table, width, axis=1),
        grad_v=flat(grad_v),
        dot=flat(dot),
    )
    return grad_v[:outputs], None if norm is None else dot[:outputs] / norm


def _wide(x: torch.Tensor, width: int, axis: int = 0) -> np.ndarray:
    """Float32 numbers, flat, with zeros where an axis of outputs is shorter than `width`; a copy only where needed."""
    x, short = x.float(), width - x.shape[axis]
    if short:  # to pad by nothing would be a copy
        x = F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (0, short))
    return flat(x.contiguous())
