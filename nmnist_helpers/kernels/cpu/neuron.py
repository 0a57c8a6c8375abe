"""The CUBA neuron on the CPU: a block of channels of one sample per task, all of time inside."""

import numpy as np
import torch
from numba import njit, prange

from ..common import DECAY_SCALE, MAX_STATE, STATE_SCALE, State, Surrogate, Trace, check_rows, raise_out_of_range
from .arithmetic import BLOCK, exp_negative, f32, i32, leak

FEW_LAGS = 6  # up to so many different lags within a block of channels are picked row by row
NO_CURRENT = np.empty((0, 0, 0), np.int32)
NO_GRADIENT = np.empty((0, 0, 0), np.float32)


@njit(inline="always")
def step(drive, keep_i, keep_v, threshold, current, reset, voltage_row, spike_row, seen):
    """One step of time for a block of channels, in place. `seen` collects the bits of all magnitudes."""
    bits = i32(0)
    for c in range(drive.shape[0]):
        i = i32(leak(current[c], keep_i[c]) + drive[c])
        v = i32(leak(reset[c], keep_v[c]) + i)
        fired = v > threshold
        current[c] = i
        voltage_row[c] = v
        reset[c] = i32(0) if fired else v
        spike_row[c] = fired
        bits |= i32(abs(i)) | i32(abs(v))
    return seen | bits


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(z, keep_i, keep_v, threshold, scale, current, reset, voltage, spikes, currents):
    batch, steps, channels = z.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    keep_current = currents.size > 0
    flags = np.zeros(batch * blocks, np.int32)
    limit = f32(MAX_STATE + 1)
    for task in prange(batch * blocks):
        b, first = task // blocks, (task % blocks) * BLOCK
        last = min(first + BLOCK, channels)
        drive = np.empty(last - first, np.int32)
        i, r = current[b, first:last], reset[b, first:last]
        seen = i32(0)
        for t in range(steps):
            row = z[b, t, first:last]
            for c in range(drive.shape[0]):
                x = row[c] * scale
                inside = abs(x) < limit  # False for NaN too
                drive[c] = i32(x) if inside else i32(0)
                seen |= i32(0) if inside else i32(-1)
            seen = step(
                drive, keep_i[first:last], keep_v[first:last], threshold, i, r,
                voltage[b, t, first:last], spikes[b, t, first:last], seen,
            )  # fmt: skip
            if keep_current:
                currents[b, t, first:last] = i
        flags[task] = seen
    return np.max(flags) > MAX_STATE or np.min(flags) < 0


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract"})
def _backward(
    grad, grad_voltage, grad_current, voltage, keep_i, keep_v, threshold, current0, reset0,
    tau, gain, scale, lag, kept, value, grad_z, need_decay,
):  # fmt: skip
    batch, steps, channels = voltage.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    decay_sums = np.zeros((2, batch, channels), np.float32)
    by_tau, at_threshold = f32(-1.0 / (scale * tau)), f32(threshold)
    for task in prange(batch * blocks):
        b, first = task // blocks, (task % blocks) * BLOCK
        last = min(first + BLOCK, channels)
        n = last - first
        k_i, k_v = keep_i[first:last], keep_v[first:last]
        a_i, a_v = k_i.astype(np.float32) / f32(DECAY_SCALE), k_v.astype(np.float32) / f32(DECAY_SCALE)
        lags = lag[first:last]
        nearest, farthest = lags.min(), lags.max()
        factor = np.empty(n, np.float32)
        for c in range(n):
            factor[c] = value * gain * (f32(1.0) if kept.size == 0 else f32(kept[b, first + c]))
        g_v, g_i, g_s = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        sum_i, sum_v = np.zeros(n, np.float32), np.zeros(n, np.float32)
        for t in range(steps - 1, -1, -1):
            if grad.size > 0:  # the output's gradient, read where the axon has sent the spike
                if farthest - nearest < FEW_LAGS:  # pick from whole rows: a gather, but in vector code
                    for away in range(nearest, farthest + 1):
                        if t + away < steps:
                            row = grad[b, t + away, first:last]
                            for c in range(n):
                                g_s[c] = row[c] if lags[c] == away else g_s[c]
                        else:
                            for c in range(n):
                                g_s[c] = f32(0.0) if lags[c] == away else g_s[c]
                else:
                    for c in range(n):
                        at = t + lags[c]
                        g_s[c] = grad[b, at, first + c] if at < steps else f32(0.0)
            v_row, z_row = voltage[b, t, first:last], grad_z[b, t, first:last]
            for c in range(n):
                distance = abs(f32(v_row[c]) - at_threshold)  # in float: with NEVER, 32 bits would wrap
                g_v[c] = a_v[c] * g_v[c] + g_s[c] * factor[c] * exp_negative(distance * by_tau)
            if grad_voltage.size > 0:
                for c in range(n):
                    g_v[c] += grad_voltage[b, t, first + c]
            for c in range(n):
                g_i[c] = a_i[c] * g_i[c] + g_v[c]
            if grad_current.size > 0:
                for c in range(n):
                    g_i[c] += grad_current[b, t, first + c]
            z_row[:] = g_i
            if not need_decay:
                continue
            if t >= 2:
                before, earlier = voltage[b, t - 1, first:last], voltage[b, t - 2, first:last]
                for c in range(n):
                    r = i32(0) if before[c] > threshold else before[c]
                    r_earlier = i32(0) if earlier[c] > threshold else earlier[c]
                    sum_v[c] += g_v[c] * f32(r)
                    sum_i[c] += g_i[c] * f32(i32(before[c] - leak(r_earlier, k_v[c])))
            elif t == 1:
                before = voltage[b, 0, first:last]
                for c in range(n):
                    r = i32(0) if before[c] > threshold else before[c]
                    sum_v[c] += g_v[c] * f32(r)
                    sum_i[c] += g_i[c] * f32(i32(before[c] - leak(reset0[b, first + c], k_v[c])))
            else:
                for c in range(n):
                    sum_v[c] += g_v[c] * f32(reset0[b, first + c])
                    sum_i[c] += g_i[c] * f32(current0[b, first + c])
        decay_sums[0, b, first:last] = sum_i
        decay_sums[1, b, first:last] = sum_v
    return decay_sums


def neuron_forward(
    z: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    scale: int = STATE_SCALE,
    need_current: bool = False,
) -> Trace:
    """As `nmnist_helpers.kernels.reference.neuron_forward`."""
    check_rows("z", z)
    z = z.float().contiguous()
    voltage = torch.empty(z.shape, dtype=torch.int32)
    spikes = torch.empty(z.shape, dtype=torch.uint8)
    current = torch.empty(z.shape, dtype=torch.int32) if need_current else None
    end = State(state.current.clone(), state.voltage.clone())
    failed = _forward(
        z.numpy(), keep_i.numpy(), keep_v.numpy(), i32(threshold), f32(scale), end.current.numpy(),
        end.voltage.numpy(), voltage.numpy(), spikes.numpy(), NO_CURRENT if current is None else current.numpy(),
    )  # fmt: skip
    if failed:
        raise_out_of_range()
    return Trace(spikes, voltage, current, end)


def _or_nothing(grad: torch.Tensor | None) -> np.ndarray:
    return NO_GRADIENT if grad is None else grad.float().contiguous().numpy()


def neuron_backward(
    grad_spike: torch.Tensor | None,
    voltage: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    surrogate: Surrogate,
    scale: int = STATE_SCALE,
    grad_voltage: torch.Tensor | None = None,
    grad_current: torch.Tensor | None = None,
    *,
    lag: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    value: float = 1.0,
    need_decay: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """As `nmnist_helpers.kernels.reference.neuron_backward`, with the axon's backward fused in.

    With `lag`, `kept` and `value`, `grad_spike` is the gradient of what leaves the axon, and
    `reference.axon_backward` happens while it is read.
    """
    channels = voltage.shape[2]
    grad_z = torch.empty(voltage.shape, dtype=torch.float32)
    sums = _backward(
        _or_nothing(grad_spike), _or_nothing(grad_voltage), _or_nothing(grad_current), voltage.numpy(),
        keep_i.numpy(), keep_v.numpy(), i32(threshold), state.current.numpy(), state.voltage.numpy(),
        f32(surrogate.tau), f32(surrogate.gain), f32(scale),
        np.zeros(channels, np.int32) if lag is None else lag.numpy(),
        np.empty((0, 0), np.uint8) if kept is None else kept.numpy(), f32(value), grad_z.numpy(), need_decay,
    )  # fmt: skip
    if not need_decay:
        return grad_z, None, None
    decays = torch.from_numpy(sums.sum(1, dtype=np.float64) * (-1.0 / (DECAY_SCALE * scale))).float()
    return grad_z, decays[0], decays[1]
