"""A convolutional layer on the CPU: every spike adds a patch of weights to the neurons whose windows contain it.

In this module neurons are ordered by place: the channels of a place in the picture lie side by side (height, width,
channel). A patch then consists of a few lines in memory, and each line of weights is added to a line of neurons. The
other modules use torch's order (channel, height, width).
"""

import functools

import numpy as np
import torch

from ...jit.bits import lowest_bit
from ...jit.compiled import njit
from ...jit.tasks import tasks
from ...spikes import Spikes
from ..common import (
    EVERYTHING,
    Axon,
    LayerGradients,
    LayerTrace,
    Membrane,
    Needs,
    OutputGradients,
    State,
    check_axon,
    check_fan_in,
    check_neuron,
    raise_out_of_range,
)
from ..constants import MAX_STATE
from ..window import Window
from .arithmetic import f32, i32, i64, leak
from .backward import backward
from .conv_input import input_gradient
from .events import axon_arrays, fired_to_events
from .lanes import CHUNK, LANES, abs_i32, bits, load, spread, store, to_f32, where
from .layout import by_chunks, by_lanes, flat, last_only, pad, padded, zero_words
from .neuron import DRIVE_SHIFT, drive_of


@functools.lru_cache(maxsize=64)
def _footprints(window: Window) -> tuple[np.ndarray, int, int]:
    """Return where the patch of each input's spike lies.

    Returns
    -------
    footprints : int32 array [C_in * H * W, 4]
        First neuron, first weight, number of lines, numbers in a line.
    next_neuron, next_weight : int
        Distance from one line to the next.
    """
    channels, *size = window.inputs
    features, *out = window.outputs
    first, count, tap = [], [], []
    for axis in range(2):
        at = np.arange(size[axis]) + window.padding[axis]
        kernel, stride = window.kernel[axis], window.stride[axis]
        low = np.maximum(0, -(-(at - kernel + 1) // stride))  # windows that contain it: at - kernel < low * stride ...
        high = np.minimum(out[axis] - 1, at // stride)  # ... and high * stride <= at
        first.append(low)
        count.append(np.maximum(0, high - low + 1))
        tap.append(at - low * stride)
    place_of_column = np.argsort(_column_order(window))  # position in the table of each of the kernel's columns
    taps = np.clip(tap[1], 0, window.kernel[1] - 1)  # a tap outside the kernel is not used: its count is zero
    c, y, x = np.meshgrid(np.arange(channels), *map(np.arange, size), indexing="ij")
    to = (first[0][y] * out[1] + first[1][x]) * features
    line = (c * window.kernel[0] + tap[0][y]) * window.kernel[1] + place_of_column[taps][x]
    numbers = count[1][x] * features
    lines = np.where(numbers > 0, count[0][y], 0)
    found = np.stack([to, line * features, lines, numbers], -1).reshape(-1, 4)
    return found.astype(np.int32), out[1] * features, -window.stride[0] * window.kernel[1] * features


def _column_order(window: Window) -> np.ndarray:
    """Return the kernel's columns in the order of the table: columns that apply to the same pixel lie side by side.

    A pixel in column k of one window is in column ``k - stride`` of the next.
    """
    columns = np.arange(window.kernel[1])
    return np.lexsort((-columns, columns % window.stride[1]))


def _expand_groups(weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Expand a table [C_in / groups * height * width, C_out] to [C_in, height, width, C_out], zero between groups."""
    features, groups = window.outputs[0], window.groups
    kernels = weights.view(-1, *window.kernel, features)
    if groups == 1:
        return kernels
    found = torch.zeros(groups, len(kernels), *window.kernel, groups, features // groups, dtype=weights.dtype)
    for group, part in enumerate(kernels.unflatten(3, (groups, -1)).unbind(3)):
        found[group, ..., group, :] = part
    return found.flatten(4).flatten(0, 1)


def _to_weight_layout(table: torch.Tensor, window: Window) -> torch.Tensor:
    """Convert the gradient of the expanded table, in the order of `_column_order`, to that of the weights."""
    features, groups = window.outputs[0], window.groups
    lines = table.view(groups, -1, *window.kernel, groups, features // groups)
    lines = torch.stack([lines[group, ..., group, :] for group in range(groups)], 3).flatten(3)
    back = torch.from_numpy(np.argsort(_column_order(window)))
    return lines[:, :, back].reshape(-1, features)


@njit(inline="always")
def _add_patch(at, into, to, next_to, given, begin, next_begin):
    """Add ``given[begin:]`` to ``into[to:]``, line by line, for the patch `at` (a row of `_footprints`)."""
    for _ in range(at[2]):
        target, source = into[to : to + at[3]], given[begin : begin + at[3]]
        for c in range(len(target)):
            target[c] += source[c]
        to += next_to
        begin += next_begin


@tasks(error_model="numpy")
def _forward(
    b, indptr, channel, footprints, next_neuron, next_weight, table, scale,
    retain_i, retain_v, threshold, current, reset, steps, width, voltage, layout, fired, failed,
):  # fmt: skip
    """Run one sample through time, from events to firing bits."""
    of_sample, of_chunk, of_step = layout
    z = np.zeros(width, np.int32)
    magnitudes, limit, zero = spread(i32(0)), spread(i32(threshold)), spread(i32(0))
    for t in range(steps):
        for k in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
            at = footprints[channel[k]]
            _add_patch(at, z, i64(at[0]), next_neuron, table, i64(at[1]), next_weight)
        for first in range(0, width, LANES):
            state, row = b * width + first, (b * steps + t) * width + first
            drive = load(z, first) << spread(i32(DRIVE_SHIFT))
            store(z, first, zero)
            if scale != f32(1.0):  # applied to the exact sum, with one rounding, as in a float product
                drive, bad = drive_of(to_f32(drive), spread(f32(scale)))
                magnitudes = magnitudes | bad
            i = leak(load(current, state), load(retain_i, first)) + drive
            v = leak(load(reset, state), load(retain_v, first)) + i
            spike = v > limit
            store(current, state, i)
            store(reset, state, where(spike, zero, v))
            magnitudes = magnitudes | abs_i32(i) | abs_i32(v)  # bitwise or: too large if any of them is
            fired[np.uint64(row) // np.uint64(LANES)] = bits(spike)
            store(voltage, b * of_sample + first // CHUNK * of_chunk + t * of_step + first % CHUNK, v)
    failed[b] = bits((magnitudes > spread(i32(MAX_STATE))) | (magnitudes < zero)) != np.uint64(0)


@tasks(error_model="numpy")
def _move_spikes(b, fired, lag, kept, places, arrived):
    """Move firing bits along the axons and into the order channel, height, width."""
    _, steps, chunks = fired.shape
    features = len(lag)
    for t in range(steps):
        for chunk in range(chunks):
            word = fired[b, t, chunk]
            while word:
                place, c = divmod(chunk * CHUNK + np.int64(lowest_bit(word)), features)
                word &= word - np.uint64(1)
                neuron = c * places + place
                if t + lag[c] < steps and (kept.size == 0 or kept[b, neuron]):
                    arrived[b, t + lag[c], neuron // CHUNK] |= np.uint64(1) << np.uint64(neuron % CHUNK)


@tasks(error_model="numpy")
def _weight_gradient(b, indptr, channel, footprints, next_neuron, next_weight, grad_z, steps, tables):
    """Fill the sample's table of sums: every spike adds the gradients of the neurons that its patch reached."""
    table = tables[b]
    for row in range(b * steps, (b + 1) * steps):
        z = grad_z[row]
        for k in range(indptr[row], indptr[row + 1]):
            at = footprints[channel[k]]
            _add_patch(at, table, i64(at[1]), next_weight, z, i64(at[0]), next_neuron)


def _swap_axes(x: torch.Tensor, first: int) -> torch.Tensor:
    """Reorder neurons [..., first * second] to [..., second * first]."""
    return x.unflatten(-1, (first, -1)).transpose(-1, -2).flatten(-2)


def _order_by_place(membrane: Membrane, state: State, axon: Axon, window: Window) -> tuple[Membrane, State, Axon]:
    def reorder(x):
        return None if x is None else _swap_axes(x, window.outputs[0])

    return (
        Membrane(*map(reorder, membrane[:2]), *membrane[2:]),
        State(*map(reorder, state)),
        axon._replace(lag=reorder(axon.lag), kept=reorder(axon.kept)),
    )


def conv_forward(
    spikes: Spikes,
    weights: torch.Tensor,
    window: Window,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need_grad: bool = True,
) -> LayerTrace:
    """Compute `nmnist_helpers.kernels.composite.conv_forward` on the CPU."""
    batch, _, steps = spikes.shape
    neurons = window.neurons
    check_fan_in(window)
    check_neuron(membrane, state, batch, neurons, weights.device)
    check_axon(axon, batch, neurons, weights.device)
    width = padded(neurons)
    layout = by_chunks(steps, width) if need_grad else last_only(width)
    voltage = torch.empty(batch * layout[0], dtype=torch.int32)
    fired = zero_words(batch, steps, width)
    by_place, begin, _ = _order_by_place(membrane, state, axon, window)
    end = State(*(pad(x, copy=True) for x in begin))
    footprints, next_neuron, next_weight = _footprints(window)
    failed = np.zeros(batch, np.uint8)
    _forward(
        batch,
        indptr=spikes.indptr.numpy(),
        channel=spikes.channel.numpy(),
        footprints=footprints,
        next_neuron=next_neuron,
        next_weight=next_weight,
        table=flat(_expand_groups(weights, window)[:, :, _column_order(window)].contiguous(), np.int8),
        scale=f32(spikes.value),
        retain_i=flat(pad(by_place.current_retention)),
        retain_v=flat(pad(by_place.voltage_retention)),
        threshold=i32(membrane.threshold),
        current=flat(end.current),
        reset=flat(end.voltage),
        voltage=flat(voltage),
        steps=steps,
        width=width,
        layout=layout,
        fired=by_lanes(fired),
        failed=failed,
    )
    if failed.any():
        raise_out_of_range()
    arrived = np.zeros_like(fired)
    by_channel = axon._replace(lag=axon.lag.view(-1, window.places)[:, 0])
    lag, kept = axon_arrays(by_channel)
    _move_spikes(batch, fired=fired, lag=lag, kept=kept, places=window.places, arrived=arrived)
    out = Spikes.trusted(
        *fired_to_events(arrived, Axon(torch.zeros_like(axon.lag))), (batch, neurons, steps), axon.value
    )
    end = State(*(_swap_axes(x[:, :neurons], window.places) for x in end))
    return LayerTrace(out, end, (voltage,) if need_grad else ())


def conv_backward(
    grad: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    spikes: Spikes,
    weights: torch.Tensor,
    window: Window,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need: Needs = EVERYTHING,
) -> LayerGradients:
    """Compute `nmnist_helpers.kernels.composite.conv_backward` on the CPU."""
    batch, steps = grad.shape[:2]
    features, neurons, width = window.outputs[0], window.neurons, padded(window.neurons)
    rows = grad.permute(0, 1, 3, 4, 2).reshape(batch, steps, neurons)
    found = backward(
        OutputGradients(rows), saved[0], by_chunks(steps, width), *_order_by_place(membrane, state, axon, window),
        need_z=need.input or need.weights,
    )  # fmt: skip
    grad_weights = grad_input = None
    if need.weights:
        footprints, next_neuron, next_weight = _footprints(window)
        tables = np.zeros((batch, len(weights) * window.groups * features), np.float32)
        _weight_gradient(
            batch,
            indptr=spikes.indptr.numpy(),
            channel=spikes.channel.numpy(),
            footprints=footprints,
            next_neuron=next_neuron,
            next_weight=next_weight,
            grad_z=found.z.view(batch * steps, width).numpy(),
            steps=steps,
            tables=tables,
        )
        grad_weights = _to_weight_layout(torch.from_numpy(tables.sum(0) * f32(spikes.value)), window)
    if need.input:
        grad_input = input_gradient(found.z, _expand_groups(weights, window), window)
    sums = (_swap_axes(x, window.places) for x in found[2:])
    return LayerGradients(grad_input, grad_weights, *sums)
