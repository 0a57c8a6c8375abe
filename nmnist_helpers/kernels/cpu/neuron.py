"""The CUBA neuron on the CPU: a chunk of channels of one sample per task, all of time inside, state in registers."""

import numpy as np
import torch
from numba import prange

from ...compiled import njit
from ...spikes import Spikes
from ..common import Axon, Membrane, OutputGradients, State, Trace, check_neuron, check_rows, raise_out_of_range
from ..constants import MAX_STATE
from .arithmetic import f32, i32, leak
from .backward import backward
from .lanes import LANES, bits, distance, load, magnitude, spread, store, to_f32, to_i32, where
from .layout import Layout, by_rows, flat, pad, padded

DRIVE_SHIFT = 7  # 4096 / 32 = 2**7: from weight steps to state units


@njit(inline="always")
def drive_of(x, scale):
    """``trunc(scale * x)``, and -1 in the lanes where that is not a number or out of range."""
    y = x * scale
    inside = distance(y) < spread(f32(MAX_STATE + 1))  # False for NaN too
    return to_i32(where(inside, y, spread(f32(0.0)))), where(inside, spread(i32(0)), spread(i32(-1)))


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(
    z, indptr, channel, table, scale, retain_i, retain_v, threshold, current, reset,
    voltage, layout, fired, spikes, currents,
):  # fmt: skip
    """From dendrite inputs `z`, or from events where `z` is empty, to spikes; True if a state left its range.

    With events, product and neuron are one: a sample's input spikes add rows of the `table` of weights, the sum goes
    straight into the neuron, and the dendrite input never reaches memory.
    """
    batch, steps, chunks = fired.shape
    width = chunks * LANES
    of_sample, of_chunk, of_step = layout
    failed = np.zeros(batch * chunks, np.uint8)
    for task in prange(batch * chunks):
        b, chunk = task // chunks, task % chunks
        first = chunk * LANES
        state, out = b * width + first, b * of_sample + chunk * of_chunk
        k_i, k_v, limit = load(retain_i, first), load(retain_v, first), spread(i32(threshold))
        i, r, seen = load(current, state), load(reset, state), spread(i32(0))
        for t in range(steps):
            row = (b * steps + t) * width + first
            if z.size:
                drive, bad = drive_of(load(z, row), spread(f32(scale)))
                seen = seen | bad
            else:
                drive = spread(i32(0))
                for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                    drive = drive + load(table, np.int64(channel[k]) * width + first)
                drive = drive << spread(i32(DRIVE_SHIFT))
                if scale != f32(1.0):  # it multiplies the exact sum, one rounding, as a float product would
                    drive, bad = drive_of(to_f32(drive), spread(f32(scale)))
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


def run(
    source: torch.Tensor | Spikes,
    table: torch.Tensor | None,
    membrane: Membrane,
    state: State,
    voltage: torch.Tensor,
    layout: Layout,
    fired: np.ndarray,
    spikes: torch.Tensor | None = None,
    currents: torch.Tensor | None = None,
) -> State:
    """Run neurons through time.

    Parameters
    ----------
    source : float tensor [B, T, C], or Spikes with `table`
        Dendrite inputs, or the input's spikes.
    table : int8 tensor [C_in, C], optional
        Weights x32.
    membrane, state
        As in `nmnist_helpers.kernels.reference.neuron_forward`.
    voltage : int32 tensor
        Takes the voltage, in `layout`.
    fired : uint64 array [B, T, chunks]
        Takes a bit for every neuron and step.
    spikes, currents : uint8 and int32 tensors [B, T, width], optional
        Take what their names say.

    Returns
    -------
    State
        At the end.

    Raises
    ------
    OverflowError
        If the input is not finite or a state left its range.
    """
    listed = isinstance(source, Spikes)
    channels = membrane.current_retention.numel()
    end = State(pad(state.current, copy=True), pad(state.voltage, copy=True))
    failed = _forward(
        z=flat(None if listed else pad(source.float())),
        indptr=flat(source.indptr if listed else None, np.int32),
        channel=flat(source.channel if listed else None, np.int32),
        table=flat(pad(table) if listed else None, np.int8),
        scale=f32(source.value if listed else membrane.scale),
        retain_i=flat(pad(membrane.current_retention)),
        retain_v=flat(pad(membrane.voltage_retention)),
        threshold=i32(membrane.threshold),
        current=flat(end.current),
        reset=flat(end.voltage),
        voltage=flat(voltage),
        layout=layout,
        fired=fired,
        spikes=flat(spikes, np.uint8),
        currents=flat(currents, np.int32),
    )
    if failed:
        raise_out_of_range()
    return State(end.current[:, :channels], end.voltage[:, :channels])


def neuron_forward(
    z: torch.Tensor,
    membrane: Membrane,
    state: State,
    *,
    need_current: bool = False,
    need_voltage: bool = True,
) -> Trace:
    """As `nmnist_helpers.kernels.reference.neuron_forward`."""
    check_rows("z", z)
    batch, steps, channels = z.shape
    check_neuron(membrane, state, batch, channels, z.device)
    width = padded(channels)
    voltage = torch.empty(batch, steps, width, dtype=torch.int32)
    spikes = torch.empty(batch, steps, width, dtype=torch.uint8)
    current = torch.empty(batch, steps, width, dtype=torch.int32) if need_current else None
    fired = np.empty((batch, steps, width // LANES), np.uint64)
    end = run(z, None, membrane, state, voltage, by_rows(steps, width), fired, spikes, current)
    own = slice(channels)
    return Trace(spikes[..., own], voltage[..., own], current[..., own] if need_current else None, end)


def neuron_backward(
    grads: OutputGradients,
    voltage: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon | None = None,
    *,
    need_decay: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """As `nmnist_helpers.kernels.reference.neuron_backward`, with the axon's backward fused in."""
    channels = voltage.shape[2]
    voltage = pad(voltage)
    found = backward(grads, voltage, by_rows(*voltage.shape[1:]), membrane, state, axon)
    return found.z[..., :channels], *((found.current_decay, found.voltage_decay) if need_decay else (None, None))
