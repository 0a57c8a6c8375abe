"""Products of events with quantised weights, and product and neuron in one.

A sample's input spikes add weight rows, and the neuron eats the sum on the spot: the dendrite input z
never reaches memory. Weights are one byte each (value x 32, exact), so that a block of
128 columns of the whole first layer fits the second-level cache, and sums of integers need no rounding.
"""

import numpy as np
import torch
from numba import njit, prange

from ...spikes import Spikes
from ..common import MAX_STATE, State, Trace, raise_out_of_range
from .arithmetic import BLOCK, f32, i32
from .neuron import neuron_forward, step
from .weight import WEIGHT_STEPS, weight_values

DRIVE_SHIFT = 7  # 4096 / 32 = 2**7: from weight steps to state units
DENSE_FROM = 0.08  # share of set bins from which a dense product is the faster one (tests/benchmarks/test_cpu.py)
MAX_INPUTS = (1 << 16) - 1  # inputs x 128 x 128 must stay below 2**30


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(indptr, channel, table, value, keep_i, keep_v, threshold, current, reset, voltage, spikes):
    batch, steps, channels = spikes.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    keep_voltage = voltage.shape[1] == steps  # else one row, written over and over
    flags = np.zeros(batch * blocks, np.int32)
    for task in prange(batch * blocks):
        b, first = task // blocks, (task % blocks) * BLOCK
        last = min(first + BLOCK, channels)
        n = last - first
        drive = np.empty(n, np.int32)
        i, r = current[b, first:last], reset[b, first:last]
        seen = i32(0)
        for t in range(steps):
            drive[:] = 0
            for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                row = table[channel[k], first:last]
                for c in range(n):
                    drive[c] = i32(drive[c] + i32(row[c]))
            if value == f32(1.0):
                for c in range(n):
                    drive[c] = i32(drive[c] << i32(DRIVE_SHIFT))
            else:  # the value multiplies the exact sum, one rounding, as a float product would
                for c in range(n):
                    x = value * f32(i32(drive[c] << i32(DRIVE_SHIFT)))
                    inside = abs(x) < f32(MAX_STATE + 1)  # False for NaN too
                    drive[c] = i32(x) if inside else i32(0)
                    seen |= i32(0) if inside else i32(-1)
            seen = step(
                drive, keep_i[first:last], keep_v[first:last], threshold, i, r,
                voltage[b, t if keep_voltage else 0, first:last], spikes[b, t, first:last], seen,
            )  # fmt: skip
        flags[task] = seen
    return np.max(flags) > MAX_STATE or np.min(flags) < 0


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


def product(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.product`, with weights int8 [C_in, C_out]."""
    if not isinstance(spikes, Spikes):
        return spikes @ weight_values(table).t()
    batch, inputs, steps = spikes.shape
    if inputs > MAX_INPUTS:
        raise ValueError(f"event product: at most {MAX_INPUTS} inputs, found {inputs}")
    if spikes.density > DENSE_FROM:
        z = spikes.rows(value=1.0) @ weight_values(table).t()
        return z if spikes.value == 1.0 else z * spikes.value
    out = torch.empty(batch, steps, table.shape[1])
    _product(spikes.indptr.numpy(), spikes.channel.numpy(), table.numpy(), f32(spikes.value), out.numpy())
    return out


def layer_forward(
    spikes: Spikes | torch.Tensor,
    table: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    need_voltage: bool = True,
) -> Trace:
    """As `nmnist_helpers.kernels.reference.layer_forward`."""
    if not isinstance(spikes, Spikes) or spikes.density > DENSE_FROM:
        return neuron_forward(product(spikes, table), keep_i, keep_v, threshold, state)
    batch, inputs, steps = spikes.shape
    if inputs > MAX_INPUTS:
        raise ValueError(f"event product: at most {MAX_INPUTS} inputs, found {inputs}")
    if 0 in spikes.shape:
        raise ValueError(f"event product: expected spikes (B, C, T) with no side empty, found {spikes.shape}")
    outputs = table.shape[1]
    voltage = torch.empty(batch, steps if need_voltage else 1, outputs, dtype=torch.int32)
    fired = torch.empty(batch, steps, outputs, dtype=torch.uint8)
    end = State(state.current.clone(), state.voltage.clone())
    failed = _forward(
        spikes.indptr.numpy(), spikes.channel.numpy(), table.numpy(), f32(spikes.value), keep_i.numpy(),
        keep_v.numpy(), i32(threshold), end.current.numpy(), end.voltage.numpy(), voltage.numpy(), fired.numpy(),
    )  # fmt: skip
    if failed:
        raise_out_of_range()
    return Trace(fired, voltage, None, end)


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.weight_gradient`, but [C_in, C_out] like the weights here.

    Each thread owns a block of columns, so nothing is added twice at once and the sum's order is fixed.
    """
    outputs = grad_z.shape[2]
    if not isinstance(spikes, Spikes) or spikes.density > DENSE_FROM:
        rows, value = (spikes.rows(value=1.0), spikes.value) if isinstance(spikes, Spikes) else (spikes, 1.0)
        grad = rows.reshape(-1, rows.shape[2]).t() @ grad_z.reshape(-1, outputs)
        return grad if value == 1.0 else grad * value
    block = max(16, min(BLOCK, -(-outputs // (2 * torch.get_num_threads()) // 16) * 16))
    out = torch.empty(spikes.shape[1], outputs)
    _weight_gradient(
        spikes.indptr.numpy(), spikes.channel.numpy(), grad_z.numpy(), f32(spikes.value), block, out.numpy()
    )
    return out


def input_gradient(grad_z: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """As `nmnist_helpers.kernels.reference.input_gradient`: the one product that nothing makes sparse."""
    return grad_z @ weight_values(table)
