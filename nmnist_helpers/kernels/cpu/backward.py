"""Back through axon, neuron and weights in one pass over time, against its direction."""

from typing import NamedTuple

import numpy as np
import torch

from ...compiled import njit
from ...spikes import Spikes
from ...tasks import tasks
from ..common import Axon, Membrane, OutputGradients, State
from ..constants import DECAY_SCALE
from .arithmetic import LOG2_E, exp2_negative, f32, i32, i64, leak
from .lanes import CHUNK, LANES, distance, load, spread, store, to_f32, where
from .layout import Layout, flat, pad


class Gradients(NamedTuple):
    """What `backward` finds: by the rows z [B, T, P], the table of weights [C_in, P], and by channel [C]."""

    z: torch.Tensor | None
    table: torch.Tensor | None
    current_decay: torch.Tensor
    voltage_decay: torch.Tensor
    delay: torch.Tensor


@njit(inline="always")
def _read_where_sent(grad, lag, first, row, width, steps, out):
    """Gradient rows of a sample as seen before the axon, which sent the spike of step t to step ``t + lag``."""
    nearest, farthest = i64(lag[first]), i64(lag[first])
    for c in range(1, CHUNK):
        nearest, farthest = min(nearest, i64(lag[first + c])), max(farthest, i64(lag[first + c]))
    # Most delays are equal: rows are copied whole, and the others of their numbers replaced. Places are unsigned, since
    # Numba checks of every signed index whether it counts from the end.
    other, reach = np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.uint64)
    others = np.uint64(0)
    for c in range(CHUNK):
        if lag[first + c] != nearest:
            other[others], reach[others] = np.uint64(c), np.uint64(row + lag[first + c] * width + c)
            others += np.uint64(1)
    for t in range(steps):
        begin, to = np.uint64(t * width), np.uint64(t * CHUNK)
        for part in range(0, CHUNK, LANES):
            at = row + (t + nearest) * width + part
            store(out, t * CHUNK + part, load(grad, at) if t + nearest < steps else spread(f32(0.0)))
        if t + farthest < steps:
            for k in range(others):
                out[to + other[k]] = grad[begin + reach[k]]
        else:
            for k in range(others):
                inside = t + lag[np.uint64(first) + other[k]] < steps
                out[to + other[k]] = grad[begin + reach[k]] if inside else f32(0.0)


@njit(inline="always")
def _add_rows(indptr, channel, rows, table, row, steps):
    """Add the gradient of each step to the weights of the inputs that spiked in it."""
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
    """A chunk of neurons of one sample; of all samples in order where the task adds to the weights of the chunk."""
    width = len(lag)
    batch, chunks = len(factor) // width, width // CHUNK
    of_sample, of_chunk, of_step = layout
    inputs = len(grad_table) // width
    sample, chunk = divmod(task, chunks)
    sent = np.empty(steps * CHUNK if grad.size else 0, np.float32)
    rows = np.empty(steps * CHUNK if inputs else 0, np.float32)
    table = np.zeros(inputs * CHUNK, np.float32)
    limit, zero = spread(i32(threshold)), spread(f32(0.0))
    for b in range(0 if inputs else sample, batch if inputs else sample + 1):
        if grad.size:
            _read_where_sent(grad, lag, chunk * CHUNK, b * steps * width + chunk * CHUNK, width, steps, sent)
        for part in range(0, min(CHUNK, channels - chunk * CHUNK), LANES):
            first = chunk * CHUNK + part
            a_i = to_f32(load(retain_i, first)) * spread(f32(1.0 / DECAY_SCALE))
            k_v = load(retain_v, first)
            a_v = to_f32(k_v) * spread(f32(1.0 / DECAY_SCALE))
            state, begin = b * width + first, b * steps * width + first
            volts = b * of_sample + chunk * of_chunk + part
            gain = load(factor, state)
            g_v, g_i, g_after = zero, zero, zero
            sum_i, sum_v, sum_d = zero, zero, zero
            v = load(voltage, volts + (steps - 1) * of_step)
            for t in range(steps - 1, -1, -1):
                g = zero
                if grad.size:
                    g_s = load(sent, t * CHUNK + part)
                    # The delayed train jumps up at a spike and down one step later.
                    sum_d = sum_d + where(v > limit, g_after - g_s, zero)
                    g_after = g_s
                    away = distance(to_f32(v) - to_f32(limit))  # in float: with NEVER, 32 bits would wrap
                    g = g_s * gain * exp2_negative(away * spread(f32(by_tau)))
                if grad_voltage.size:
                    g = g + load(grad_voltage, begin + t * width)
                g_v = a_v * g_v + g
                # Both sums take what stands here at step t, so that V is read once and one step ahead:
                # gV[t] R[t-1], and gI[t+1] I[t] with I[t] = V[t] - leak(R[t-1]).
                if t > 0:
                    before = load(voltage, volts + (t - 1) * of_step)
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
            _add_rows(indptr, channel, rows, table, b * steps, steps)
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
    """Gradients of a neuron's input, of its decays, of its axon's delays, and of its weights where `events` came in.

    Parameters
    ----------
    grads, membrane, state, axon
        As in `nmnist_helpers.kernels.reference.neuron_backward`.
    voltage : int32 tensor
        From the forward pass, a whole number of lanes wide.
    layout : Layout
        How the voltage lies.
    events : Spikes of shape (B, C_in, T), optional
        The block's input. Its weights' gradient is added up while the rows of z are still in the cache.
    need_z : bool
        Whether to write the gradient of z; a network's first block needs none.
    """
    batch, steps, channels = next(grad for grad in grads if grad is not None).shape
    width = voltage.numel() // (batch * steps)
    axon = axon or Axon(torch.zeros(channels, dtype=torch.int32))
    spikes_grad, voltage_grad, current_grad = (None if g is None else pad(g.float()) for g in grads)
    factor = torch.full((batch, channels), axon.value * membrane.surrogate.gain)
    if axon.kept is not None:
        factor *= axon.kept
    z = torch.empty(batch, steps, width) if need_z else None
    table = None if events is None else torch.empty(events.shape[1], width)
    sums = torch.empty(3, batch, width)
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
    totals = sums[..., :channels].numpy().sum(1, dtype=np.float64)  # a sixth of the time that torch takes for it
    per_decay = -1.0 / (DECAY_SCALE * membrane.scale)
    totals *= np.array([[per_decay], [per_decay], [axon.value]])
    return Gradients(z, table, *torch.from_numpy(totals).float())
