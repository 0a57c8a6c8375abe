"""The CUBA neuron on the CPU: a chunk of channels of one sample per task, all of time inside, state in registers."""

import numpy as np
import torch
from numba import njit, prange

from ..common import State, Surrogate, Trace, check_rows, raise_out_of_range
from ..constants import MAX_STATE, STATE_SCALE
from .arithmetic import f32, i32, leak
from .backward import backward
from .lanes import LANES, bits, distance, load, magnitude, spread, store, to_f32, to_i32, where
from .layout import NOTHING, by_rows, flat, pad

DRIVE_SHIFT = 7  # 4096 / 32 = 2**7: from weight steps to state units


@njit(inline="always")
def _drive(x, scale):
    """``trunc(scale * x)``, and -1 in the lanes where that is not a number or out of range."""
    y = x * scale
    inside = distance(y) < spread(f32(MAX_STATE + 1))  # False for NaN too
    return to_i32(where(inside, y, spread(f32(0.0)))), where(inside, spread(i32(0)), spread(i32(-1)))


@njit(parallel=True, cache=True, error_model="numpy")
def forward(
    z, indptr, channel, table, scale, keep_i, keep_v, threshold, current, reset,
    voltage, layout, fired, spikes, currents,
):  # fmt: skip
    """From dendrite inputs `z`, or from events where `z` is empty, to spikes; True if a state left its range.

    With events, product and neuron are one: a sample's input spikes add rows of the `table` of weights, the neuron
    eats the sum on the spot, and the dendrite input never reaches memory.
    """
    batch, steps, chunks = fired.shape
    width = chunks * LANES
    of_sample, of_chunk, of_step = layout
    failed = np.zeros(batch * chunks, np.uint8)
    for task in prange(batch * chunks):
        b, chunk = task // chunks, task % chunks
        first = chunk * LANES
        state, out = b * width + first, b * of_sample + chunk * of_chunk
        k_i, k_v, limit = load(keep_i, first), load(keep_v, first), spread(i32(threshold))
        i, r, seen = load(current, state), load(reset, state), spread(i32(0))
        for t in range(steps):
            row = (b * steps + t) * width + first
            if z.size:
                drive, bad = _drive(load(z, row), spread(f32(scale)))
                seen = seen | bad
            else:
                drive = spread(i32(0))
                for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                    drive = drive + load(table, np.int64(channel[k]) * width + first)
                drive = drive << spread(i32(DRIVE_SHIFT))
                if scale != f32(1.0):  # it multiplies the exact sum, one rounding, as a float product would
                    drive, bad = _drive(to_f32(drive), spread(f32(scale)))
                    seen = seen | bad
            i = leak(i, k_i) + drive
            v = leak(r, k_v) + i
            spike = v > limit
            r = where(spike, spread(i32(0)), v)
            seen = seen | magnitude(i) | magnitude(v)  # the bits of all magnitudes
            fired[b, t, chunk] = bits(spike)
            store(voltage, out + t * of_step, v)
            if spikes.size:
                store(spikes, row, spike)
            if currents.size:
                store(currents, row, i)
        store(current, state, i)
        store(reset, state, r)
        failed[task] = bits((seen > spread(i32(MAX_STATE))) | (seen < spread(i32(0)))) != np.uint64(0)
    return failed.any()


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
    batch, steps, channels = z.shape
    z = pad(z.float())
    width = z.shape[2]
    voltage = torch.empty(z.shape, dtype=torch.int32)
    spikes = torch.empty(z.shape, dtype=torch.uint8)
    current = torch.empty(z.shape, dtype=torch.int32) if need_current else None
    end = State(pad(state.current, copy=True), pad(state.voltage, copy=True))
    failed = forward(
        flat(z), NOTHING[np.int32], NOTHING[np.int32], NOTHING[np.int8], f32(scale), flat(pad(keep_i)),
        flat(pad(keep_v)), i32(threshold), flat(end.current), flat(end.voltage), flat(voltage), by_rows(steps, width),
        np.empty((batch, steps, width // LANES), np.uint64), flat(spikes),
        NOTHING[np.int32] if current is None else flat(current),
    )  # fmt: skip
    if failed:
        raise_out_of_range()
    own = slice(channels)
    return Trace(
        spikes[..., own],
        voltage[..., own],
        None if current is None else current[..., own],
        State(end.current[:, own], end.voltage[:, own]),
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
    """As `nmnist_helpers.kernels.reference.neuron_backward`, with the axon's backward fused in."""
    shape = tuple(voltage.shape)
    voltage = pad(voltage)
    found = backward(
        grad_spike, grad_voltage, grad_current, voltage, by_rows(*voltage.shape[1:]), shape, keep_i, keep_v, threshold,
        state, surrogate, scale, lag, kept, value,
    )  # fmt: skip
    return found.z[..., : shape[2]], *((found.current_decay, found.voltage_decay) if need_decay else (None, None))
