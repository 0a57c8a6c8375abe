"""The CUBA neuron on the CPU: a task runs a chunk of channels of one sample through time, its state in registers."""

import numpy as np
import torch

from ...jit.compiled import njit
from ...jit.tasks import tasks
from ...spikes import Spikes
from ..common import Axon, Membrane, OutputGradients, State, Trace, check_neuron, check_rows, raise_out_of_range
from ..constants import MAX_STATE
from .arithmetic import f32, i16, i32, i64, leak
from .backward import backward
from .input_gradient import GROUP, WORD, least_voltage
from .lanes import (
    CHUNK,
    LANES,
    abs_f32,
    abs_i32,
    bits,
    load,
    load_chunk,
    spread,
    spread_chunk,
    store,
    to_f32,
    to_i32,
    where,
)
from .layout import EMPTY, Layout, by_lanes, by_rows, flat, pad, padded, zero_words

DRIVE_SHIFT = 7  # 4096 / 32 = 2**7: from weight steps to state units
SHORT_SUM = 256  # the sum of this many int8 numbers fits int16
BLOCK = 32  # steps whose sums are computed together; their bits in `Active` share a word
LOWEST = -(1 << 31)
assert (BLOCK % GROUP, WORD % BLOCK) == (0, 0)


@njit(inline="always")
def drive_of(x, scale):
    """Return ``trunc(scale * x)``, and -1 in the lanes where it is NaN or out of range (and replaced by 0)."""
    y = x * scale
    inside = abs_f32(y) < spread(f32(MAX_STATE + 1))  # False for NaN too
    return to_i32(where(inside, y, spread(f32(0.0)))), where(inside, spread(i32(0)), spread(i32(-1)))


@njit(inline="always")
def _add_weights(indptr, channel, table, width, row, end, first, sums):
    """Write to `sums`, for each row from `row` to `end`, the sum of a chunk of the weights of the inputs that spike."""
    k, more = np.uint64(indptr[row]), np.empty(CHUNK, np.int32)
    for r in range(row, end):
        last, at = np.uint64(indptr[r + 1]), (r - row) * CHUNK
        begun = False
        while k < last or not begun:
            fits, total = min(last, k + np.uint64(SHORT_SUM)), spread_chunk(i16(0))
            while k < fits:
                total = total + load_chunk(table, i64(channel[k]) * width + first)
                k += np.uint64(1)
            if begun:  # a sum of more than `SHORT_SUM` numbers
                store(more, 0, total)
                for c in range(CHUNK):
                    sums[at + c] += more[c]
            else:
                store(sums, at, total)
                begun = True


@tasks(error_model="numpy")
def _forward(
    task, z, indptr, channel, table, scale, retain_i, retain_v, threshold, current, reset,
    steps, width, channels, voltage, layout, fired, spikes, currents, low, near, failed,
):  # fmt: skip
    """Compute the spikes of a chunk of neurons in one sample, from dendrite inputs `z`, or from events if `z` is empty.

    With events, product and neuron are fused: each input spike adds its row of the `table` of weights, the sums of a
    few steps stay in the first-level cache, and the dendrite input is never stored.
    """
    b, chunk = divmod(task, width // CHUNK)
    of_sample, of_chunk, of_step = layout
    sums = np.empty(0 if z.size else BLOCK * CHUNK, np.int32)
    for begin in range(0, steps, BLOCK):
        end = min(begin + BLOCK, steps)
        if not z.size:
            _add_weights(indptr, channel, table, width, b * steps + begin, b * steps + end, chunk * CHUNK, sums)
        for part in range(0, min(CHUNK, channels - chunk * CHUNK), LANES):
            first = chunk * CHUNK + part
            state, out = b * width + first, b * of_sample + chunk * of_chunk + part
            k_i, k_v, limit = load(retain_i, first), load(retain_v, first), spread(i32(threshold))
            i, r, magnitudes = load(current, state), load(reset, state), spread(i32(0))
            top, active = spread(i32(LOWEST)), spread(i32(0))
            for t in range(begin, end):
                row = (b * steps + t) * width + first
                if z.size:
                    drive, bad = drive_of(load(z, row), spread(f32(scale)))
                    magnitudes = magnitudes | bad
                else:
                    drive = load(sums, (t - begin) * CHUNK + part) << spread(i32(DRIVE_SHIFT))
                    if scale != f32(1.0):  # applied to the exact sum, with one rounding, as in a float product
                        drive, bad = drive_of(to_f32(drive), spread(f32(scale)))
                        magnitudes = magnitudes | bad
                i = leak(i, k_i) + drive
                v = leak(r, k_v) + i
                spike = v > limit
                r = where(spike, spread(i32(0)), v)
                magnitudes = magnitudes | abs_i32(i) | abs_i32(v)  # bitwise or: too large if any of them is
                fired[np.uint64(row) // np.uint64(LANES)] = bits(spike)
                store(voltage, out + t * of_step, v)
                if spikes.size:
                    store(spikes, row, spike)
                if currents.size:
                    store(currents, row, i)
                if near.size:
                    top = where(v > top, v, top)
                    if t % GROUP == GROUP - 1 or t == end - 1:
                        bit = spread(i32(1)) << spread(i32(t % WORD // GROUP))
                        active = active | where(top > spread(i32(low)), bit, spread(i32(0)))
                        top = spread(i32(LOWEST))
            store(current, state, i)
            store(reset, state, r)
            if near.size:
                word = b * (near.size * width // len(current)) + begin // WORD * width + first
                store(near, word, load(near, word) | active)
            if bits((magnitudes > spread(i32(MAX_STATE))) | (magnitudes < spread(i32(0)))):
                failed[task] = 1


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
    near: np.ndarray | None = None,
) -> State:
    """Run a layer's neurons through time.

    Parameters
    ----------
    source : float tensor [B, T, C], or Spikes with `table`
        Dendrite inputs, or the layer's input spikes.
    table : int8 tensor [C_in, C], optional
        Weights x32; None for dendrite inputs.
    membrane, state
        As in `nmnist_helpers.kernels.reference.neuron_forward`.
    voltage : int32 tensor
        Receives the voltage, in the memory layout `layout`.
    fired : uint64 array [B, T, chunks]
        Receives one bit for each neuron and step.
    spikes, currents : uint8 and int32 tensors [B, T, width], optional
        Receive spikes (0/1) and currents (x4096).
    near : int32 array, optional
        Receives the bits of `nmnist_helpers.kernels.cpu.input_gradient.Active`.

    Returns
    -------
    State
        The final state.

    Raises
    ------
    OverflowError
        If the input is not finite or a state leaves its range.
    """
    has_events = isinstance(source, Spikes)
    channels = membrane.current_retention.numel()
    end = State(pad(state.current, copy=True), pad(state.voltage, copy=True))
    batch, steps, chunks = fired.shape
    failed = np.zeros(batch * chunks, np.uint8)
    _forward(
        len(failed),
        z=flat(None if has_events else pad(source.float())),
        indptr=flat(source.indptr if has_events else None, np.int32),
        channel=flat(source.channel if has_events else None, np.int32),
        table=flat(pad(table) if has_events else None, np.int8),
        scale=f32(source.value if has_events else membrane.scale),
        retain_i=flat(pad(membrane.current_retention)),
        retain_v=flat(pad(membrane.voltage_retention)),
        threshold=i32(membrane.threshold),
        current=flat(end.current),
        reset=flat(end.voltage),
        steps=steps,
        width=chunks * CHUNK,
        channels=channels,
        voltage=flat(voltage),
        layout=layout,
        fired=by_lanes(fired),
        spikes=flat(spikes, np.uint8),
        currents=flat(currents, np.int32),
        low=i32(least_voltage(membrane)),
        near=EMPTY[np.int32] if near is None else near.reshape(-1),
        failed=failed,
    )
    if failed.any():
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
    """Compute `nmnist_helpers.kernels.reference.neuron_forward` on the CPU."""
    check_rows("z", z)
    batch, steps, channels = z.shape
    check_neuron(membrane, state, batch, channels, z.device)
    width = padded(channels)
    voltage = torch.empty(batch, steps, width, dtype=torch.int32)
    spikes = torch.empty(batch, steps, width, dtype=torch.uint8)
    current = torch.empty(batch, steps, width, dtype=torch.int32) if need_current else None
    fired = zero_words(batch, steps, width)
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
    """Compute `nmnist_helpers.kernels.reference.neuron_backward` on the CPU, fused with the axon's backward pass."""
    channels = voltage.shape[2]
    voltage = pad(voltage)
    found = backward(grads, voltage, by_rows(*voltage.shape[1:]), membrane, state, axon)
    return found.z[..., :channels], *((found.current_decay, found.voltage_decay) if need_decay else (None, None))
