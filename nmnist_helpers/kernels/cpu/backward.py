"""Back through axon, neuron and weights in one pass over time, against its direction."""

from typing import NamedTuple

import numpy as np
import torch
from numba import prange

from ...compiled import njit
from ...spikes import Spikes
from ..common import Axon, Membrane, OutputGradients, State
from ..constants import DECAY_SCALE
from .arithmetic import LOG2_E, exp2_negative, f32, i32, i64, leak
from .lanes import LANES, distance, load, spread, store, to_f32, where
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
    # Unsigned, since Numba checks of every signed index whether it counts from the end.
    reach = np.empty(LANES, np.uint64)
    farthest = 0
    for c in range(LANES):
        reach[c] = np.uint64(row + lag[first + c] * width + c)
        farthest = max(farthest, lag[first + c])
    for t in range(steps):
        begin, to = np.uint64(t * width), np.uint64(t * LANES)
        if t + farthest < steps:
            for c in range(np.uint64(LANES)):
                out[to + c] = grad[begin + reach[c]]
        else:
            for c in range(np.uint64(LANES)):
                out[to + c] = grad[begin + reach[c]] if t + lag[np.uint64(first) + c] < steps else f32(0.0)


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(
    grad, grad_voltage, grad_current, voltage, layout, retain_i, retain_v, threshold, current0, reset0,
    by_tau, factor, lag, steps, indptr, channel, value, grad_z, grad_table, sums,
):  # fmt: skip
    width = len(lag)
    batch, chunks = len(factor) // width, width // LANES
    of_sample, of_chunk, of_step = layout
    inputs = len(grad_table) // width
    # One task adds to the weights of a chunk of channels; it goes through all samples in order.
    together = batch if inputs else 1
    for task in prange(chunks * batch // together):
        chunk = task % chunks
        first = chunk * LANES
        k_v, limit, zero, rest = load(retain_v, first), spread(i32(threshold)), spread(f32(0.0)), spread(i32(0))
        a_i = to_f32(load(retain_i, first)) * spread(f32(1.0 / DECAY_SCALE))
        a_v = to_f32(k_v) * spread(f32(1.0 / DECAY_SCALE))
        nearest, farthest = i64(lag[first]), i64(lag[first])
        for c in range(1, LANES):
            nearest, farthest = min(nearest, lag[first + c]), max(farthest, lag[first + c])
        # Delays begin below 1 and most stay there: with two neighbouring lags every row is still loaded whole, once.
        near = farthest - nearest < 2
        late = load(lag, first) > spread(i32(nearest))
        sent = np.empty(0 if near else steps * LANES, np.float32)
        rows = np.empty(steps * LANES if inputs else 0, np.float32)
        table = np.zeros(inputs * LANES, np.float32)
        for b in range(task // chunks, task // chunks + together):
            state, begin = b * width + first, b * steps * width + first
            volts = b * of_sample + chunk * of_chunk
            if grad.size and not near:
                _read_where_sent(grad, lag, first, begin, width, steps, sent)
            gain = load(factor, state)
            g_v, g_i, g_after, row_after = zero, zero, zero, zero
            sum_i, sum_v, sum_d = zero, zero, zero
            v = load(voltage, volts + (steps - 1) * of_step)
            for t in range(steps - 1, -1, -1):
                g = zero
                if grad.size:
                    if near:
                        row = load(grad, begin + (t + nearest) * width) if t + nearest < steps else zero
                        g_s = where(late, row_after, row)
                        row_after = row
                    else:
                        g_s = load(sent, t * LANES)
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
                    r = where(before > limit, rest, before)
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
                    store(rows, t * LANES, g_i)
                if grad_z.size:
                    store(grad_z, begin + t * width, g_i)
            sum_i = sum_i + g_i * to_f32(load(current0, state))
            store(sums, state, sum_i)
            store(sums, batch * width + state, sum_v)
            store(sums, 2 * batch * width + state, sum_d)
            if inputs:
                for t in range(steps):
                    g_i = load(rows, t * LANES)
                    for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                        at = i64(channel[k]) * LANES
                        store(table, at, load(table, at) + g_i)
        for c in range(inputs):
            store(grad_table, c * width + first, load(table, c * LANES) * spread(f32(value)))


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
    _backward(
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
