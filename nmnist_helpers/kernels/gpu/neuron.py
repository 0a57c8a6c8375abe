"""The CUBA neuron on a GPU: one program runs a block of channels of one sample through all time steps."""

import torch
import triton
import triton.language as tl

from ..common import Axon, Membrane, OutputGradients, State, Trace, check_neuron, check_rows
from ..constants import DECAY_SCALE, MAX_STATE
from .launch import check_if_requested, flag_of, on, shape_for, sum_rows

LIMIT = tl.constexpr(MAX_STATE)


@triton.jit
def leak(state, retention):
    """Return ``trunc(state * retention / 4096)``, exactly and without 64-bit products.

    With ``state = 4096 * hi + lo`` and 0 <= lo < 4096, the quotient is ``hi * retention + lo * retention / 4096``. A
    right shift rounds down. For a negative state, 4095 is added first, so that it rounds up, toward zero.
    """
    hi, lo = state >> 12, state & 4095
    return hi * retention + ((lo * retention + ((state >> 31) & 4095)) >> 12)


@triton.jit(do_not_specialize=["T", "threshold"])
def forward_kernel(
    z, retain_i, retain_v, current0, voltage0, current1, voltage1, voltage, spikes, current, flag,
    T, C, threshold, scale, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Run one block of neurons through time; `voltage` and `current` are not written if they are None."""
    blocks = tl.cdiv(C, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)  # B * T * C may exceed 2**31
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    r_i = tl.load(retain_i + c, mask=inside, other=0)
    r_v = tl.load(retain_v + c, mask=inside, other=0)
    i = tl.load(current0 + b * C + c, mask=inside, other=0)
    r = tl.load(voltage0 + b * C + c, mask=inside, other=0)
    magnitudes = tl.zeros([BLOCK], tl.int32)  # bitwise or of all: too large if any of them is
    first = b * T * C
    z += first
    spikes += first
    if voltage is not None:
        voltage += first
    if current is not None:
        current += first
    for _ in tl.range(0, T, num_stages=STAGES):  # z does not depend on the state: STAGES rows are prefetched
        x = tl.load(z + c, mask=inside, other=0.0) * scale
        good = tl.abs(x) < LIMIT + 1  # False for NaN too
        i = leak(i, r_i) + tl.where(good, x, 0.0).to(tl.int32)
        v = leak(r, r_v) + i
        fired = v > threshold
        r = tl.where(fired, 0, v)
        magnitudes |= tl.abs(i) | tl.abs(v) | tl.where(good, 0, -1)
        tl.store(spikes + c, fired.to(tl.uint8), mask=inside)
        z += C
        spikes += C
        if voltage is not None:
            tl.store(voltage + c, v, mask=inside)
            voltage += C
        if current is not None:
            tl.store(current + c, i, mask=inside)
            current += C
    tl.store(current1 + b * C + c, i, mask=inside)
    tl.store(voltage1 + b * C + c, r, mask=inside)
    bad = tl.max(((magnitudes > LIMIT) | (magnitudes < 0)).to(tl.int32), 0)
    tl.store(flag, bad, mask=bad != 0)  # all writers write 1, so they need no order


@triton.jit(do_not_specialize=["T", "threshold"])
def backward_kernel(
    grad, grad_voltage, grad_current, voltage, retain_i, retain_v, current0, voltage0, lag, kept, grad_z, sums,
    T, C, threshold, by_tau, gain, sum_stride, BLOCK: tl.constexpr, STAGES: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    """Run one block of neurons backwards through time.

    The output gradients, `lag`, `kept` and `sums` may be None. `sums` receives the sums for the current's decay, and
    `sum_stride` elements later those for the voltage's decay.
    """
    blocks = tl.cdiv(C, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    r_v = tl.load(retain_v + c, mask=inside, other=0)
    a_i = tl.load(retain_i + c, mask=inside, other=0).to(tl.float32) / DECAY
    a_v = r_v.to(tl.float32) / DECAY
    factor = tl.full([BLOCK], 1.0, tl.float32) * gain
    if kept is not None:
        factor *= tl.load(kept + b * C + c, mask=inside, other=0).to(tl.float32)
    offset, ahead = c, c * 0
    if lag is not None:  # the axon moves the spike of step t to step t + lag
        ahead = tl.load(lag + c, mask=inside, other=0)
        offset = ahead.to(tl.int64) * C + c
    at_threshold = threshold.to(tl.float32)  # in float: NEVER would overflow 32-bit integers
    g_v = tl.zeros([BLOCK], tl.float32)
    g_i = tl.zeros([BLOCK], tl.float32)
    sums_i = tl.zeros([BLOCK], tl.float32)
    sums_v = tl.zeros([BLOCK], tl.float32)
    last = (b * T + T - 1) * C
    if grad is not None:
        grad += last
    if grad_voltage is not None:
        grad_voltage += last
    if grad_current is not None:
        grad_current += last
    grad_z += last
    voltage += last
    v = tl.load(voltage + c, mask=inside, other=0)
    i0 = tl.load(current0 + b * C + c, mask=inside, other=0)
    r0 = tl.load(voltage0 + b * C + c, mask=inside, other=0)
    for back in tl.range(0, T, num_stages=STAGES):
        t = T - 1 - back
        g = tl.zeros([BLOCK], tl.float32)
        if grad is not None:
            g = tl.load(grad + offset, mask=inside & (t + ahead < T), other=0.0)
            g *= factor * tl.exp(tl.abs(v.to(tl.float32) - at_threshold) * by_tau)
            grad -= C
        if grad_voltage is not None:
            g += tl.load(grad_voltage + c, mask=inside, other=0.0)
            grad_voltage -= C
        g_v = a_v * g_v + g
        voltage -= C
        before = tl.load(voltage + c, mask=inside & (t >= 1), other=0)  # V[t-1]
        if sums is not None:
            # At step t, the sums get the terms gV[t] R[t-1] and gI[t+1] I[t], with I[t] = V[t] - leak(R[t-1]).
            # Each V is thus read only once, one step ahead.
            r = tl.where(t >= 1, tl.where(before > threshold, 0, before), r0)
            sums_v += g_v * r.to(tl.float32)
            sums_i += g_i * (v - leak(r, r_v)).to(tl.float32)
        v = before
        g_i = a_i * g_i + g_v
        if grad_current is not None:
            g_i += tl.load(grad_current + c, mask=inside, other=0.0)
            grad_current -= C
        tl.store(grad_z + c, g_i, mask=inside)
        grad_z -= C
    sums_i += g_i * i0.to(tl.float32)
    if sums is not None:
        tl.store(sums + b * C + c, sums_i, mask=inside)
        tl.store(sums + sum_stride + b * C + c, sums_v, mask=inside)


def neuron_forward(
    z: torch.Tensor,
    membrane: Membrane,
    state: State,
    *,
    need_current: bool = False,
    need_voltage: bool = True,
) -> Trace:
    """Compute `nmnist_helpers.kernels.reference.neuron_forward` on a GPU; only `check` reports an overflow.

    Without `need_voltage`, the voltage is omitted (its time axis is empty).
    """
    check_rows("z", z)
    z = z.float().contiguous()
    batch, steps, channels = z.shape
    check_neuron(membrane, state, batch, channels, z.device)
    spikes = torch.empty(z.shape, dtype=torch.uint8, device=z.device)
    voltage = torch.empty(batch, steps if need_voltage else 0, channels, dtype=torch.int32, device=z.device)
    current = torch.empty(z.shape, dtype=torch.int32, device=z.device) if need_current else None
    state = State(*(x.contiguous() for x in state))
    end = State(torch.empty_like(state.current), torch.empty_like(state.voltage))
    shape = shape_for(batch, channels)
    with on(z):
        forward_kernel[(batch * triton.cdiv(channels, shape.block),)](
            z=z, retain_i=membrane.current_retention, retain_v=membrane.voltage_retention,
            current0=state.current, voltage0=state.voltage, current1=end.current, voltage1=end.voltage,
            voltage=voltage if need_voltage else None, spikes=spikes, current=current, flag=flag_of(z.device),
            T=steps, C=channels, threshold=membrane.threshold, scale=float(membrane.scale),
            BLOCK=shape.block, STAGES=shape.stages, num_warps=shape.warps,
        )  # fmt: skip
    check_if_requested()
    return Trace(spikes, voltage, current, end)


def neuron_backward(
    grads: OutputGradients,
    voltage: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon | None = None,
    *,
    need_decay: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Compute `nmnist_helpers.kernels.reference.neuron_backward` on a GPU, fused with the axon's backward pass.

    Every neuron sums its own decay gradients, and these sums are added in a fixed order, so two runs agree bit for
    bit.
    """
    batch, steps, channels = voltage.shape
    grads = OutputGradients(*(None if g is None else g.float().contiguous() for g in grads))
    grad_z = torch.empty(voltage.shape, dtype=torch.float32, device=voltage.device)
    sums = torch.empty(2, batch, channels, dtype=torch.float32, device=voltage.device) if need_decay else None
    shape = shape_for(batch, channels)
    gain = membrane.surrogate.gain * (axon.value if axon else 1.0)
    with on(voltage):
        backward_kernel[(batch * triton.cdiv(channels, shape.block),)](
            grad=grads.spikes, grad_voltage=grads.voltage, grad_current=grads.current, voltage=voltage,
            retain_i=membrane.current_retention, retain_v=membrane.voltage_retention,
            current0=state.current.contiguous(), voltage0=state.voltage.contiguous(),
            lag=axon.lag if axon else None, kept=axon.kept if axon else None, grad_z=grad_z, sums=sums,
            T=steps, C=channels, threshold=membrane.threshold,
            by_tau=-1.0 / (membrane.scale * membrane.surrogate.tau), gain=gain, sum_stride=batch * channels,
            BLOCK=shape.block, STAGES=shape.stages, DECAY=DECAY_SCALE, num_warps=shape.warps,
        )  # fmt: skip
    if sums is None:
        return grad_z, None, None
    decays = sum_rows(sums, -1.0 / (DECAY_SCALE * membrane.scale))
    return grad_z, decays[0], decays[1]
