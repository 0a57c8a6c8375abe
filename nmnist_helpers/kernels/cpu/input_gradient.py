"""The gradient of a dense layer's input, computed only where it has an effect.

The neurons of the layer below multiply the gradient of their spikes by the surrogate derivative, which decays
exponentially on either side of the threshold. In many trained networks, most neurons are far below it most of the
time. Their gradient is then too small to change a sum that also has terms from steps nearer to the threshold.
Perez-Nieves and Goodman ("Sparse spiking gradient descent", NeurIPS 2021) call a neuron *active* where its voltage is
near enough to the threshold for the gradient to matter, and skip all others.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from ...jit.compiled import njit
from ...jit.tasks import tasks
from ..common import Axon, Membrane
from .arithmetic import f32
from .events import axon_arrays
from .lanes import LANES, load, spread, total
from .layout import flat
from .product import flat_rows, matmul
from .weight import weight_values

REACH = 24  # in units of tau: a thousand steps at exp(-24) of the surrogate's peak add up to half of float32's last bit
GROUP = 8  # steps that share a bit
WORD = 32 * GROUP  # steps that share a word of bits
ROWS = 16  # steps per task: the gradients that a task reads stay in the first-level cache
SPARSE_BELOW = 0.6  # active share below which skipping the rest is faster than the full product
DEEP_FROM = 64  # smallest number of neurons in the layer above for which skipping is worthwhile


class Active(NamedTuple):
    """Where the gradient of a layer's spikes has an effect on its neurons.

    near : int32 [B, words, width]; bit j of word w is set if the voltage was near or above the threshold within the
        `GROUP` steps from ``WORD * w + GROUP * j`` on; the last word is zero;
    axon : the constants of the axons through which the spikes left.
    """

    near: np.ndarray
    axon: Axon

    def share(self, steps: int) -> float:
        """Return the active share of all pairs of a neuron and a group of steps; a recording has `steps` steps."""
        near = self.near[..., : len(self.axon.lag)]  # without the padding
        batch, _, channels = near.shape
        return float(np.bitwise_count(near.view(np.uint32)).sum()) / (batch * channels * -(-steps // GROUP))


def zero_bits(batch: int, steps: int, width: int) -> np.ndarray:
    """Return the bits of an `Active`, all zero."""
    return np.zeros((batch, -(-steps // WORD) + 1, width), np.int32)


def least_voltage(membrane: Membrane) -> int:
    """Return the voltage, x4096, above which a neuron is active.

    It is below the threshold, so that every spike counts as active: the gradient of a delay needs all spikes, however
    far above the threshold the voltage is.
    """
    low = max(-(2.0**31), membrane.threshold - REACH * membrane.surrogate.tau * membrane.scale)
    return min(membrane.threshold - 1, math.floor(low))


@njit(inline="always")
def _active_channels(near, lag, kept, b, begin, end, found):
    """Write to `found` the neurons active in steps whose spikes arrive from `begin` to `end`; return their number.

    The axon moves the spike of step t to step ``t + lag``. The step before `begin` counts as well: the gradient of a
    delay is the gradient one step after a spike arrives minus that at its arrival.
    """
    n = 0
    for c in range(len(lag)):
        last = end - 1 - lag[c]
        if last >= 0 and (kept.size == 0 or kept[b, c]):
            first = max(begin - 1 - lag[c], 0) // GROUP
            word, bit = first // 32, first % 32
            two = np.uint64(np.uint32(near[b, word, c])) | np.uint64(np.uint32(near[b, word + 1, c])) << np.uint64(32)
            many = np.uint64(last // GROUP - first + 1)
            if (two >> np.uint64(bit)) & ((np.uint64(1) << many) - np.uint64(1)):
                found[n] = c
                n += 1
    return n


@tasks(error_model="numpy", fastmath={"contract"})
def _multiply_active(task, near, lag, kept, grad, stride, depth, weights, steps, out):
    """Process a few steps of a sample: two rows of gradients times three neurons' weights, with sums in registers."""
    width, blocks = out.shape[1], -(-steps // ROWS)
    b, block = divmod(task, blocks)
    begin = block * ROWS
    end = min(begin + ROWS, steps)
    out[b * steps + begin : b * steps + end] = f32(0.0)
    found = np.empty(width + 2, np.int64)
    n = _active_channels(near, lag, kept, b, begin, end, found)
    if n == 0:
        return
    found[n], found[n + 1] = found[n - 1], found[n - 1]  # completes the last three
    vectorised, zero = depth - depth % LANES, spread(f32(0.0))
    for three in range(0, n, 3):
        c0, c1, c2 = found[three], found[three + 1], found[three + 2]
        w0, w1, w2 = c0 * depth, c1 * depth, c2 * depth
        for t in range(begin, end, 2):
            r0 = b * steps + t
            r1 = r0 + (1 if t + 1 < end else 0)
            g0, g1 = r0 * stride, r1 * stride
            s00, s01, s02, s10, s11, s12 = zero, zero, zero, zero, zero, zero
            for k in range(0, vectorised, LANES):
                x0, x1 = load(grad, g0 + k), load(grad, g1 + k)
                w = load(weights, w0 + k)
                s00 = s00 + x0 * w
                s10 = s10 + x1 * w
                w = load(weights, w1 + k)
                s01 = s01 + x0 * w
                s11 = s11 + x1 * w
                w = load(weights, w2 + k)
                s02 = s02 + x0 * w
                s12 = s12 + x1 * w
            t00, t01, t02, t10, t11, t12 = total(s00), total(s01), total(s02), total(s10), total(s11), total(s12)
            for k in range(vectorised, depth):
                x0, x1 = grad[g0 + k], grad[g1 + k]
                t00 += x0 * weights[w0 + k]
                t01 += x0 * weights[w1 + k]
                t02 += x0 * weights[w2 + k]
                t10 += x1 * weights[w0 + k]
                t11 += x1 * weights[w1 + k]
                t12 += x1 * weights[w2 + k]
            out[r0, c0], out[r0, c1], out[r0, c2] = t00, t01, t02
            out[r1, c0], out[r1, c1], out[r1, c2] = t10, t11, t12


def input_gradient(grad_z: torch.Tensor, table: torch.Tensor, active: Active | None = None) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.input_gradient` on the CPU.

    It is zero for neurons that `active` excludes. Nothing is excluded without `active`, for a small layer above, if no
    neuron is active, or if too many are active for skipping to be faster.
    """
    batch, steps, depth = grad_z.shape
    share = 1.0 if active is None or depth < DEEP_FROM else active.share(steps)
    if not share or share > SPARSE_BELOW:  # if none is active, even a tiny gradient may matter
        return matmul(grad_z, table.t())
    weights = weight_values(table).t().contiguous()
    grad, stride = flat_rows(grad_z)
    lag, kept = axon_arrays(active.axon)
    out = torch.empty(batch * steps, len(weights), dtype=torch.float32)
    _multiply_active(
        batch * -(-steps // ROWS),
        near=active.near,
        lag=lag,
        kept=kept,
        grad=grad,
        stride=stride,
        depth=depth,
        weights=flat(weights),
        steps=steps,
        out=out.numpy(),
    )
    return out.view(batch, steps, -1)
