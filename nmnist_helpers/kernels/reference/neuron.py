"""The CUBA neuron, one step of time after the other."""

import torch

from ..common import State, Surrogate, Trace, check_rows, raise_out_of_range
from ..constants import DECAY_SCALE, MAX_STATE, STATE_SCALE
from .axon import axon_backward


def leak(state: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """What is left of an integer state after one step: ``trunc(state * keep / 4096)``, toward zero."""
    return torch.sign(state) * ((state.abs() * keep) >> 12)  # a shift is much faster than an integer division


def neuron_forward(
    z: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    scale: int = STATE_SCALE,
    need_current: bool = False,
) -> Trace:
    """Integrate `z` in a current, the current in a voltage, fire and reset.

    For every step t::

        I[t] = trunc(I[t-1] * keep_i / 4096) + trunc(scale * z[t])
        V[t] = trunc(R[t-1] * keep_v / 4096) + I[t]
        s[t] = V[t] > threshold
        R[t] = 0 where s[t] else V[t]

    Parameters
    ----------
    z : float tensor [B, T, C]
        Dendrite input, real units.
    keep_i, keep_v : int32 tensors [C]
        4096 minus the decay x4096: what a state keeps in one step.
    threshold : int
        In units of the states; a voltage exactly at it does not fire.
    state : State
        Where to begin.
    scale : int
        Integer units of the states per real unit.
    need_current : bool
        Whether to return the current too.

    Returns
    -------
    Trace

    Raises
    ------
    OverflowError
        If the input is not finite or a state leaves its range, |state| < 2**30.
    """
    check_rows("z", z)
    drive = torch.trunc(z * scale)
    if not (drive.abs() < MAX_STATE + 1).all():  # NaN fails this too
        raise_out_of_range()
    drive = drive.to(torch.int64)
    keep_i, keep_v = keep_i.to(torch.int64), keep_v.to(torch.int64)
    current, voltage = state.current.to(torch.int64), state.voltage.to(torch.int64)
    currents, voltages, spikes = [], [], []
    peak = torch.zeros_like(current)  # largest |I| so far
    for t in range(z.shape[1]):
        current = leak(current, keep_i) + drive[:, t]
        peak = torch.maximum(peak, current.abs())
        before_reset = leak(voltage, keep_v) + current
        fired = before_reset > threshold
        voltage = torch.where(fired, 0, before_reset)
        if need_current:
            currents.append(current)
        voltages.append(before_reset)
        spikes.append(fired)
    v = torch.stack(voltages, 1)
    i = torch.stack(currents, 1) if need_current else None
    if max(v.abs().max(), peak.max()) > MAX_STATE:
        raise_out_of_range()
    return Trace(
        torch.stack(spikes, 1).to(torch.uint8),
        v.to(torch.int32),
        None if i is None else i.to(torch.int32),
        State(current.to(torch.int32), voltage.to(torch.int32)),
    )


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
    """Gradients of `neuron_forward`, SLAYER's way: the integrators are linear filters.

    The spike function's derivative is the surrogate; reset and truncation are passed over. Only the
    voltage was kept: the current follows from it, ``I[t] = V[t] - trunc(R[t-1] * keep_v / 4096)``.

    Parameters
    ----------
    grad_spike : float tensor [B, T, C], optional
        Gradient of the spikes.
    voltage : int32 tensor [B, T, C]
        From the forward pass.
    keep_i, keep_v, threshold, state, scale
        As given to the forward pass.
    surrogate : Surrogate
        Shape of the spike function's derivative.
    grad_voltage, grad_current : float tensors [B, T, C], optional
        Gradients of voltage and current, real units.
    lag, kept, value
        If given, `grad_spike` is the gradient of what leaves the axon (`axon_backward`).
    need_decay : bool
        Whether the gradients of the decays are asked for.

    Returns
    -------
    grad_z : float tensor [B, T, C]
    grad_current_decay, grad_voltage_decay : float tensors [C] or None
        True derivatives by the decays as they are stored, x4096.
    """
    given = next(g for g in (grad_spike, grad_voltage, grad_current) if g is not None)
    dtype = given.dtype
    v = voltage.to(torch.int64)
    reset = torch.where(v > threshold, 0, v)
    reset_before = torch.cat([state.voltage.to(torch.int64)[:, None], reset[:, :-1]], 1)  # R[t-1]
    i = v - leak(reset_before, keep_v.to(torch.int64))
    i_before = torch.cat([state.current.to(torch.int64)[:, None], i[:, :-1]], 1)  # I[t-1]

    g = torch.zeros(v.shape, dtype=dtype, device=v.device)
    if grad_spike is not None:
        if lag is not None:
            grad_spike = axon_backward(grad_spike, lag, kept, value)
        distance = (v - threshold).abs().to(dtype) / scale
        g = grad_spike * surrogate.gain * torch.exp(-distance / surrogate.tau)
    if grad_voltage is not None:
        g = g + grad_voltage

    a_i, a_v = keep_i.to(dtype) / DECAY_SCALE, keep_v.to(dtype) / DECAY_SCALE
    g_v, g_i = torch.zeros_like(g[:, 0]), torch.zeros_like(g[:, 0])
    grad_v, grad_z = torch.empty_like(g), torch.empty_like(g)
    for t in reversed(range(g.shape[1])):
        g_v = a_v * g_v + g[:, t]
        g_i = a_i * g_i + g_v
        if grad_current is not None:
            g_i = g_i + grad_current[:, t]
        grad_v[:, t] = g_v
        grad_z[:, t] = g_i
    if not need_decay:
        return grad_z, None, None
    grad_current_decay = -(grad_z * (i_before.to(dtype) / scale)).sum((0, 1)) / DECAY_SCALE
    grad_voltage_decay = -(grad_v * (reset_before.to(dtype) / scale)).sum((0, 1)) / DECAY_SCALE
    return grad_z, grad_current_decay, grad_voltage_decay
