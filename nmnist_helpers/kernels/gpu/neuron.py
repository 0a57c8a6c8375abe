"""The CUBA neuron on a GPU: one program takes a block of channels of one sample through all of time."""

import torch
import triton
import triton.language as tl

from ..common import State, Surrogate, Trace, check_rows
from ..constants import DECAY_SCALE, MAX_STATE, STATE_SCALE
from .launch import check_if_asked, flag_of, on, shape_for

LIMIT = tl.constexpr(MAX_STATE)


@triton.jit
def leak(state, keep):
    """``trunc(state * keep / 4096)``, exact without 64-bit products.

    ``state = 4096 * hi + lo`` with 0 <= lo < 4096, so the quotient is ``hi * keep + lo * keep / 4096``. A right
    shift rounds down; below zero, adding 4095 first rounds up, which there is toward zero.
    """
    hi, lo = state >> 12, state & 4095
    return hi * keep + ((lo * keep + ((state >> 31) & 4095)) >> 12)


@triton.jit(do_not_specialize=["T", "threshold"])
def forward_kernel(
    z, keep_i, keep_v, current0, voltage0, current1, voltage1, voltage, spikes, current, flag,
    T, C, threshold, scale,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, NEED_VOLTAGE: tl.constexpr, NEED_CURRENT: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(C, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)  # B * T * C may pass 2**31
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    k_i = tl.load(keep_i + c, mask=inside, other=0)
    k_v = tl.load(keep_v + c, mask=inside, other=0)
    i = tl.load(current0 + b * C + c, mask=inside, other=0)
    r = tl.load(voltage0 + b * C + c, mask=inside, other=0)
    seen = tl.zeros([BLOCK], tl.int32)  # the bits of all magnitudes
    z += b * T * C
    voltage += b * T * C
    spikes += b * T * C
    current += b * T * C
    for _ in tl.range(0, T, num_stages=STAGES):  # z[t] does not wait for the state: STAGES rows are under way
        x = tl.load(z + c, mask=inside, other=0.0) * scale
        good = tl.abs(x) < LIMIT + 1  # False for NaN too
        i = leak(i, k_i) + tl.where(good, x, 0.0).to(tl.int32)
        v = leak(r, k_v) + i
        fired = v > threshold
        r = tl.where(fired, 0, v)
        seen |= tl.abs(i) | tl.abs(v) | tl.where(good, 0, -1)
        tl.store(spikes + c, fired.to(tl.uint8), mask=inside)
        if NEED_VOLTAGE:
            tl.store(voltage + c, v, mask=inside)
        if NEED_CURRENT:
            tl.store(current + c, i, mask=inside)
        z += C
        voltage += C
        spikes += C
        current += C
    tl.store(current1 + b * C + c, i, mask=inside)
    tl.store(voltage1 + b * C + c, r, mask=inside)
    bad = tl.max(((seen > LIMIT) | (seen < 0)).to(tl.int32), 0)
    tl.store(flag, bad, mask=bad != 0)  # whoever writes, writes 1


@triton.jit(do_not_specialize=["T", "threshold"])
def backward_kernel(
    grad, grad_voltage, grad_current, voltage, keep_i, keep_v, current0, voltage0, lag, kept, grad_z, sum_i, sum_v,
    T, C, threshold, by_tau, gain,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, DECAY: tl.constexpr, HAS_SPIKE: tl.constexpr,
    HAS_VOLTAGE: tl.constexpr, HAS_CURRENT: tl.constexpr, HAS_LAG: tl.constexpr, HAS_KEPT: tl.constexpr,
    NEED_DECAY: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(C, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    k_v = tl.load(keep_v + c, mask=inside, other=0)
    a_i = tl.load(keep_i + c, mask=inside, other=0).to(tl.float32) / DECAY
    a_v = k_v.to(tl.float32) / DECAY
    factor = tl.full([BLOCK], 1.0, tl.float32) * gain
    if HAS_KEPT:
        factor *= tl.load(kept + b * C + c, mask=inside, other=0).to(tl.float32)
    reach, ahead = c, c * 0
    if HAS_LAG:  # the axon sent the spike of step t to step t + lag
        ahead = tl.load(lag + c, mask=inside, other=0)
        reach = ahead.to(tl.int64) * C + c
    at_threshold = threshold.to(tl.float32)  # the distance is taken in float: with NEVER, 32 bits would wrap
    g_v = tl.zeros([BLOCK], tl.float32)
    g_i = tl.zeros([BLOCK], tl.float32)
    sums_i = tl.zeros([BLOCK], tl.float32)
    sums_v = tl.zeros([BLOCK], tl.float32)
    last = (b * T + T - 1) * C
    grad += last
    grad_voltage += last
    grad_current += last
    grad_z += last
    voltage += last
    v = tl.load(voltage + c, mask=inside, other=0)
    i0 = tl.load(current0 + b * C + c, mask=inside, other=0)
    r0 = tl.load(voltage0 + b * C + c, mask=inside, other=0)
    for back in tl.range(0, T, num_stages=STAGES):
        t = T - 1 - back
        g = tl.zeros([BLOCK], tl.float32)
        if HAS_SPIKE:
            g = tl.load(grad + reach, mask=inside & (t + ahead < T), other=0.0)
            g *= factor * tl.exp(tl.abs(v.to(tl.float32) - at_threshold) * by_tau)
        if HAS_VOLTAGE:
            g += tl.load(grad_voltage + c, mask=inside, other=0.0)
        g_v = a_v * g_v + g
        voltage -= C
        before = tl.load(voltage + c, mask=inside & (t >= 1), other=0)  # V[t-1]
        if NEED_DECAY:
            # Both sums take what stands here at step t, so that V is read once and one step ahead:
            # gV[t] R[t-1], and gI[t+1] I[t] with I[t] = V[t] - leak(R[t-1]).
            r = tl.where(t >= 1, tl.where(before > threshold, 0, before), r0)
            sums_v += g_v * r.to(tl.float32)
            sums_i += g_i * (v - leak(r, k_v)).to(tl.float32)
        v = before
        g_i = a_i * g_i + g_v
        if HAS_CURRENT:
            g_i += tl.load(grad_current + c, mask=inside, other=0.0)
        tl.store(grad_z + c, g_i, mask=inside)
        grad -= C
        grad_voltage -= C
        grad_current -= C
        grad_z -= C
    sums_i += g_i * i0.to(tl.float32)
    if NEED_DECAY:
        tl.store(sum_i + b * C + c, sums_i, mask=inside)
        tl.store(sum_v + b * C + c, sums_v, mask=inside)


def neuron_forward(
    z: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    scale: int = STATE_SCALE,
    need_current: bool = False,
    *,
    need_voltage: bool = True,
) -> Trace:
    """As `nmnist_helpers.kernels.reference.neuron_forward`, but an overflow shows in `check` only.

    `need_voltage` False leaves the voltage out (its time axis is empty then).
    """
    check_rows("z", z)
    z = z.float().contiguous()
    batch, steps, channels = z.shape
    spikes = torch.empty(z.shape, dtype=torch.uint8, device=z.device)
    voltage = torch.empty(batch, steps if need_voltage else 0, channels, dtype=torch.int32, device=z.device)
    current = torch.empty(z.shape, dtype=torch.int32, device=z.device) if need_current else None
    end = State(torch.empty_like(state.current), torch.empty_like(state.voltage))
    shape = shape_for(batch, channels)
    with on(z):
        forward_kernel[(batch * triton.cdiv(channels, shape.block),)](
            z, keep_i, keep_v, state.current, state.voltage, *end, voltage, spikes,
            voltage if current is None else current, flag_of(z.device), steps, channels, threshold, float(scale),
            BLOCK=shape.block, STAGES=shape.stages, NEED_VOLTAGE=need_voltage, NEED_CURRENT=need_current,
            num_warps=shape.warps,
        )  # fmt: skip
    check_if_asked()
    return Trace(spikes, voltage, current, end)


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

    Every neuron adds up its own decay gradients, and the sums are added in a fixed order: two runs agree bit
    for bit.
    """
    batch, steps, channels = voltage.shape
    grads = [None if g is None else g.float().contiguous() for g in (grad_spike, grad_voltage, grad_current)]
    grad_z = torch.empty(voltage.shape, dtype=torch.float32, device=voltage.device)
    sums = torch.empty(2 if need_decay else 0, batch, channels, dtype=torch.float32, device=voltage.device)
    shape = shape_for(batch, channels)
    with on(voltage):
        backward_kernel[(batch * triton.cdiv(channels, shape.block),)](
            *(grad_z if g is None else g for g in grads), voltage, keep_i, keep_v, *state,
            keep_i if lag is None else lag, keep_i if kept is None else kept, grad_z,
            sums[0] if need_decay else grad_z, sums[1] if need_decay else grad_z,
            steps, channels, threshold, -1.0 / (scale * surrogate.tau), value * surrogate.gain,
            BLOCK=shape.block, STAGES=shape.stages, DECAY=DECAY_SCALE, HAS_SPIKE=grads[0] is not None,
            HAS_VOLTAGE=grads[1] is not None, HAS_CURRENT=grads[2] is not None, HAS_LAG=lag is not None,
            HAS_KEPT=kept is not None, NEED_DECAY=need_decay, num_warps=shape.warps,
        )  # fmt: skip
    if not need_decay:
        return grad_z, None, None
    decays = (sums.sum(1, dtype=torch.float64) * (-1.0 / (DECAY_SCALE * scale))).float()
    return grad_z, decays[0], decays[1]
