"""The backward pass through axon, neuron and weights, as one loop backwards through time."""

from typing import NamedTuple

import numpy as np
import torch

from ...jit.compiled import njit
from ...jit.tasks import tasks
from ...spikes import Spikes
from ..common import Axon, Membrane, OutputGradients, State
from ..constants import DECAY_SCALE
from .arithmetic import LOG2_E, exp2_negative, f32, i32, i64, leak
from .lanes import CHUNK, LANES, abs_f32, load, load_each, spread, store, to_f32, where
from .layout import Layout, flat, pad


class Gradients(NamedTuple):
    """The gradients that `backward` returns: z [B, T, P], table of weights [C_in, P], decays and delay [C].

    P is the number of channels C, padded to a whole number of chunks.
    """

    z: torch.Tensor | None
    table: torch.Tensor | None
    current_decay: torch.Tensor
    voltage_decay: torch.Tensor
    delay: torch.Tensor


@njit(inline="always")
def _copy_rows(rows, row, width, steps, out):
    """Copy the gradient of a sample's chunk to `out` [steps, CHUNK], which then lies in the cache."""
    for t in range(steps):
        for part in range(0, CHUNK, LANES):
            store(out, t * CHUNK + part, load(rows, row + t * width + part))


@njit(inline="always")
def _all_equal(values, first):
    """Return whether `LANES` values are equal, from `first` on."""
    equal = True
    for c in range(1, LANES):
        equal &= values[first + c] == values[first]
    return equal


@njit(inline="always")
def _add_weight_gradient(indptr, channel, rows, table, row, steps):
    """Add the gradient of each step to the table rows of the inputs that spiked in that step."""
    k = np.uint64(indptr[row])
    for t in range(steps):
        last = np.uint64(indptr[row + t + 1])
        while k < last:
            at = i64(channel[k]) * CHUNK
            for part in range(0, CHUNK, LANES):
                store(table, at + part, load(table, at + part) + load(rows, t * CHUNK + part))
            k += np.uint64(1)


@tasks(error_model="numpy")
def _backward(
    task, grad, grad_voltage, grad_current, voltage, layout, retain_i, retain_v, threshold, current0, reset0,
    by_tau, factor, lag, steps, channels, indptr, channel, value, grad_z, grad_table, sums,
):  # fmt: skip
    """Process a chunk of neurons in one sample; in all samples, in order, if the weights' gradient is summed too."""
    width = len(lag)
    batch, chunks = len(factor) // width, width // CHUNK
    of_sample, of_chunk, of_step = layout
    inputs = len(grad_table) // width
    sample, chunk = divmod(task, chunks)
    # An axon moves a spike from step t to ``t + lag``, so a neuron reads its gradient `lag` rows ahead. Zeros
    # follow the last row: the gradient of spikes that leave the recording.
    delayed = np.empty(CHUNK, np.int64)  # position of a neuron's gradient for t = 0
    longest = i64(0)
    for c in range(CHUNK):
        own = i64(lag[chunk * CHUNK + c])
        delayed[c] = own * CHUNK + c
        if own > longest:
            longest = own
    limit, zero = spread(i32(threshold)), spread(f32(0.0))
    grad_spikes = np.empty((steps + longest) * CHUNK if grad.size else 0, np.float32)
    for at in range(steps * CHUNK, len(grad_spikes), LANES):
        store(grad_spikes, at, zero)
    rows = np.empty(steps * CHUNK if inputs else 0, np.float32)
    table = np.empty(inputs * CHUNK, np.float32)
    for at in range(0, len(table), LANES):
        store(table, at, zero)
    for b in range(0 if inputs else sample, batch if inputs else sample + 1):
        if grad.size:
            _copy_rows(grad, b * steps * width + chunk * CHUNK, width, steps, grad_spikes)
        for part in range(0, min(CHUNK, channels - chunk * CHUNK), LANES):
            first = chunk * CHUNK + part
            a_i = to_f32(load(retain_i, first)) * spread(f32(1.0 / DECAY_SCALE))
            k_v = load(retain_v, first)
            a_v = to_f32(k_v) * spread(f32(1.0 / DECAY_SCALE))
            state, begin = b * width + first, b * steps * width + first
            base = b * of_sample + chunk * of_chunk + part
            gain, together = load(factor, state), _all_equal(lag, first)
            g_v, g_i, g_after = zero, zero, zero
            sum_i, sum_v, sum_d = zero, zero, zero
            v = load(voltage, base + (steps - 1) * of_step)
            for t in range(steps - 1, -1, -1):
                g = zero
                if grad.size:
                    at = t * CHUNK
                    if together:
                        g_s = load(grad_spikes, at + delayed[part])
                    else:
                        g_s = load_each(grad_spikes, at, delayed, part)
                    # The delayed spike train rises at a spike and falls one step later.
                    sum_d = sum_d + where(v > limit, g_after - g_s, zero)
                    g_after = g_s
                    away = abs_f32(to_f32(v) - to_f32(limit))  # in float: NEVER would overflow 32-bit integers
                    g = g_s * gain * exp2_negative(away * spread(f32(by_tau)))
                if grad_voltage.size:
                    g = g + load(grad_voltage, begin + t * width)
                g_v = a_v * g_v + g
                # At step t, the sums get the terms gV[t] R[t-1] and gI[t+1] I[t], with I[t] = V[t] - leak(R[t-1]).
                # Each V is thus read only once, one step ahead.
                if t > 0:
                    before = load(voltage, base + (t - 1) * of_step)
                    r = where(before > limit, spread(i32(0)), before)
                else:
                    before = load(reset0, state)
                    r = before
                sum_v = sum_v + g_v * to_f32(r)
                sum_i = sum_i + g_i * to_f32(v - leak(r, k_v))
                v = before
                g_i = a_i * g_i + g_v
                if grad_current.size:
                    g_i = g_i + load(grad_current, begin + t * width)
                if inputs:
                    store(rows, t * CHUNK + part, g_i)
                if grad_z.size:
                    store(grad_z, begin + t * width, g_i)
            sum_i = sum_i + g_i * to_f32(load(current0, state))
            store(sums, state, sum_i)
            store(sums, batch * width + state, sum_v)
            store(sums, 2 * batch * width + state, sum_d)
        if inputs:
            _add_weight_gradient(indptr, channel, rows, table, b * steps, steps)
    for c in range(inputs):
        for part in range(0, CHUNK, LANES):
            to = c * width + chunk * CHUNK + part
            store(grad_table, to, load(table, c * CHUNK + part) * spread(f32(value)))


def backward(
    grads: OutputGradients,
    voltage: torch.Tensor,
    layout: Layout,
    membrane: Membrane,
    state: State,
    axon: Axon | None,
    *,
    events: Spikes | None = None,
    need_z: bool = True,
) -> Gradients:
    """Compute the gradients of the neurons' input z, decays and delays, and of the weights if `events` is given.

    Parameters
    ----------
    grads, membrane, state, axon
        As in `nmnist_helpers.kernels.reference.neuron_backward`.
    voltage : int32 tensor
        From the forward pass, padded to a whole number of chunks.
    layout : Layout
        Memory layout of the voltage.
    events : Spikes of shape (B, C_in, T), optional
        The layer's input. The weights' gradient is summed while the gradient of z is still in the cache.
    need_z : bool
        Whether to return the gradient of z; a network's first block does not need it.
    """
    batch, steps, channels = next(grad for grad in grads if grad is not None).shape
    width = voltage.numel() // (batch * steps)
    axon = axon or Axon(torch.zeros(channels, dtype=torch.int32))
    spikes_grad, voltage_grad, current_grad = (None if g is None else pad(g.float()) for g in grads)
    factor = torch.full((batch, channels), axon.value * membrane.surrogate.gain, dtype=torch.float32)
    if axon.kept is not None:
        factor *= axon.kept
    z = torch.empty(batch, steps, width, dtype=torch.float32) if need_z else None
    table = None if events is None else torch.empty(events.shape[1], width, dtype=torch.float32)
    sums = torch.empty(3, batch, width, dtype=torch.float32)
    chunks = width // CHUNK
    _backward(
        chunks if events is not None else batch * chunks,
        grad=flat(spikes_grad),
        grad_voltage=flat(voltage_grad),
        grad_current=flat(current_grad),
        voltage=flat(voltage),
        layout=layout,
        retain_i=flat(pad(membrane.current_retention)),
        retain_v=flat(pad(membrane.voltage_retention)),
        threshold=i32(membrane.threshold),
        current0=flat(pad(state.current)),
        reset0=flat(pad(state.voltage)),
        by_tau=f32(-LOG2_E / (membrane.scale * membrane.surrogate.tau)),
        factor=flat(pad(factor)),
        lag=flat(pad(axon.lag, fill=int(axon.lag[-1]))),
        steps=steps,
        channels=channels,
        indptr=flat(None if events is None else events.indptr, np.int32),
        channel=flat(None if events is None else events.channel, np.int32),
        value=f32(1.0 if events is None else events.value),
        grad_z=flat(z),
        grad_table=flat(table),
        sums=flat(sums),
    )
    if axon.kept is not None:
        sums[2, :, :channels] *= axon.kept
    totals = sums[..., :channels].numpy().sum(1, dtype=np.float64)  # takes a sixth of the time of torch's sum
    per_decay = -1.0 / (DECAY_SCALE * membrane.scale)
    totals *= np.array([[per_decay], [per_decay], [axon.value]])
    return Gradients(z, table, *torch.from_numpy(totals).float())
