"""The CUBA neuron, computed one time step at a time."""

import torch

from ..common import Axon, Membrane, OutputGradients, State, Trace, check_neuron, check_rows, raise_out_of_range
from ..constants import DECAY_SCALE, MAX_STATE
from .axon import axon_backward


def leak(state: torch.Tensor, retention: torch.Tensor) -> torch.Tensor:
    """Return what is left of an integer state after one step: ``trunc(state * retention / 4096)``."""
    return torch.sign(state) * ((state.abs() * retention) >> 12)  # a shift is much faster than an integer division


def neuron_forward(
    z: torch.Tensor,
    membrane: Membrane,
    state: State,
    *,
    need_current: bool = False,
    need_voltage: bool = True,
) -> Trace:
    """Integrate `z` into a current and the current into a voltage, fire, and reset.

    In every step t, with ``trunc`` rounding toward zero::

        I[t] = trunc(I[t-1] * current_retention / 4096) + trunc(scale * z[t])
        V[t] = trunc(R[t-1] * voltage_retention / 4096) + I[t]
        s[t] = V[t] > threshold
        R[t] = 0 where s[t] else V[t]

    Parameters
    ----------
    z : float tensor [B, T, C]
        Dendrite input in real units.
    membrane : Membrane
        The neurons' constants.
    state : State
        The initial state.
    need_current : bool
        Whether to return the current as well.
    need_voltage : bool
        If False, a twin may omit the voltage.

    Returns
    -------
    Trace

    Raises
    ------
    OverflowError
        If the input is not finite or a state leaves its range, |state| < 2**30.
    """
    check_rows("z", z)
    check_neuron(membrane, state, z.shape[0], z.shape[2], z.device)
    drive = torch.trunc(z * membrane.scale)
    if not (drive.abs() < MAX_STATE + 1).all():  # NaN fails this too
        raise_out_of_range()
    drive = drive.to(torch.int64)
    retain_i, retain_v = (r.to(torch.int64) for r in membrane[:2])
    current, voltage = state.current.to(torch.int64), state.voltage.to(torch.int64)
    currents, voltages, spikes = [], [], []
    peak = torch.zeros_like(current)  # largest |I| so far
    for t in range(z.shape[1]):
        current = leak(current, retain_i) + drive[:, t]
        peak = torch.maximum(peak, current.abs())
        before_reset = leak(voltage, retain_v) + current
        fired = before_reset > membrane.threshold
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
    grads: OutputGradients,
    voltage: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon | None = None,
    *,
    need_decay: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients of `neuron_forward` as SLAYER does, with the integrators as linear filters.

    The derivative of the spike function is the surrogate; reset and truncation are ignored. Only the voltage
    was saved; the current follows from it: ``I[t] = V[t] - trunc(R[t-1] * voltage_retention / 4096)``.

    Parameters
    ----------
    grads : OutputGradients
        Gradients of spikes, voltage and current; at least one is given.
    voltage : int32 tensor [B, T, C]
        From the forward pass.
    membrane, state
        The arguments of the forward pass.
    axon : Axon, optional
        If given, ``grads.spikes`` is the gradient of the axon's output, to be passed through `axon_backward`.
    need_decay : bool
        Whether to compute the gradients of the decays.

    Returns
    -------
    grad_z : float tensor [B, T, C]
    grad_current_decay, grad_voltage_decay : float tensors [C] or None
        True derivatives with respect to the decays as they are stored, x4096.
    """
    dtype = next(g for g in grads if g is not None).dtype
    threshold, surrogate, scale = membrane[2:]
    v = voltage.to(torch.int64)
    reset = torch.where(v > threshold, 0, v)
    reset_before = torch.cat([state.voltage.to(torch.int64)[:, None], reset[:, :-1]], 1)  # R[t-1]
    i = v - leak(reset_before, membrane.voltage_retention.to(torch.int64))
    i_before = torch.cat([state.current.to(torch.int64)[:, None], i[:, :-1]], 1)  # I[t-1]

    g = torch.zeros(v.shape, dtype=dtype, device=v.device)
    if grads.spikes is not None:
        at_neuron = grads.spikes if axon is None else axon_backward(grads.spikes, axon)
        distance = (v - threshold).abs().to(dtype) / scale
        g = at_neuron * surrogate.gain * torch.exp(-distance / surrogate.tau)
    if grads.voltage is not None:
        g = g + grads.voltage

    a_i, a_v = (r.to(dtype) / DECAY_SCALE for r in membrane[:2])
    g_v, g_i = torch.zeros_like(g[:, 0]), torch.zeros_like(g[:, 0])
    grad_v, grad_z = torch.empty_like(g), torch.empty_like(g)
    for t in reversed(range(g.shape[1])):
        g_v = a_v * g_v + g[:, t]
        g_i = a_i * g_i + g_v
        if grads.current is not None:
            g_i = g_i + grads.current[:, t]
        grad_v[:, t] = g_v
        grad_z[:, t] = g_i
    if not need_decay:
        return grad_z, None, None
    grad_current_decay = -(grad_z * (i_before.to(dtype) / scale)).sum((0, 1)) / DECAY_SCALE
    grad_voltage_decay = -(grad_v * (reset_before.to(dtype) / scale)).sum((0, 1)) / DECAY_SCALE
    return grad_z, grad_current_decay, grad_voltage_decay
