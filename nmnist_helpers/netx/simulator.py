"""Integer simulation of an exported network: what the chip computes at each time step.

There are two engines with identical results. `run_reference` is easy to read; `run_fast` uses compiled loops. They
compute for each layer and time step t, with w the weights in the file and s the incoming spikes:

    I[t] = trunc(I[t-1] * (4096 - iDecay) / 4096) + 64 * sum_i w[i] s[i, t]
    V[t] = trunc(R[t-1] * (4096 - vDecay) / 4096) + I[t] + 64 * bias
    fires where V[t] > 64 * vThMant;   R[t] = 0 where it fires, else V[t]

The chip keeps both states in 24 bits: I wraps around there, and V stops at the limits, +-(2**23 - 1). (So does
`PyLifModelBitAcc`, the model of the chip's neuron in lava.) In training, states may grow further, as in lava-dl.

A spike leaves the layer one step later, plus the learned delay of its channel. Weights are stored as value x 64 and
states as value x 4096, hence the factor 64. `trunc` rounds toward zero. A dense layer is a convolution over a picture
of one pixel, and pooling is a convolution of each channel on its own, so the same code runs all three.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from ..block.spec import WEIGHT_MAX, WEIGHT_MIN, LayerSpec
from ..jit.compiled import njit
from ..jit.tasks import tasks
from ..kernels.constants import DECAY_SCALE, STATE_SCALE, WEIGHT_SCALE, WEIGHT_STEPS
from ..spikes.convert import rows_to_events

TO_STATE = STATE_SCALE // WEIGHT_SCALE  # units of a state per unit of a weight
END = 1 << 23  # the chip's currents are -END + 1 .. END, and its voltages -END + 1 .. END - 1


class Events(NamedTuple):
    """List of the spikes of a batch; row ``b * T + t`` contains ``channel[indptr[row]:indptr[row + 1]]``."""

    indptr: np.ndarray  # int32 [B * T + 1]
    channel: np.ndarray  # int32 [N]
    shape: tuple[int, int, int]  # (B, C, T)


def events_of(dense: np.ndarray) -> Events:
    """Return the non-zero entries of an array [B, C, T] as `Events`."""
    batch, channels, steps = dense.shape
    b, rest = np.divmod(np.flatnonzero(dense != 0), channels * steps)
    c, t = np.divmod(rest, steps)
    row, channel = np.divmod(np.sort((b * steps + t) * channels + c), channels)
    indptr = np.searchsorted(row, np.arange(batch * steps + 1))
    return Events(indptr.astype(np.int32), channel.astype(np.int32), dense.shape)


def events_of_rows(rows: np.ndarray) -> Events:
    """Return the spikes of a uint8 array [B, T, C] as `Events`."""
    batch, steps, channels = rows.shape
    indptr, channel = rows_to_events(torch.from_numpy(rows))
    return Events(indptr.numpy(), channel.numpy(), (batch, channels, steps))


# -- the reference


def truncated_product(state: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return ``trunc(state * keep / 4096)`` for integers: divide the magnitude, then restore the sign."""
    return np.sign(state) * (np.abs(state) * keep // DECAY_SCALE)


def wrap(current: np.ndarray) -> np.ndarray:
    """Return integers modulo 2**24, from ``-END + 1`` to `END`."""
    return (current + END - 1) % (2 * END) - END + 1


def run_reference(layers: list[LayerSpec], events: Events) -> list[np.ndarray]:
    """Return the output spikes of each layer, computed in plain NumPy.

    Parameters
    ----------
    layers : list of LayerSpec
        From input to output.
    events : Events
        Input spikes of shape (B, in, T).

    Returns
    -------
    list of uint8 array [B, out, T]
        One array per layer, shifted and delayed.
    """
    sent = []
    for layer in layers:
        sent.append(_run_neurons(layer, _drives(layer, events), events.shape[0], events.shape[2]))
        events = events_of(sent[-1])
    return sent


def run_input(layer: LayerSpec, values: np.ndarray) -> np.ndarray:
    """Return the spikes [B, N, T] of an input layer for numbers [B, N, T].

    The numbers are rounded to multiples of 1/32 and clamped to -4..254/64.
    """
    values = np.clip(2 * np.rint(values.astype(np.float64) * WEIGHT_STEPS), WEIGHT_MIN, WEIGHT_MAX).astype(np.int64)
    weight = int(layer.weight[0, 0, 0, 0])
    bias = 0 if layer.bias is None else TO_STATE * layer.per_neuron(layer.bias)
    drives = (weight * values[:, :, t] + bias for t in range(values.shape[2]))
    return _run_neurons(layer, drives, len(values), values.shape[2])


def _pictures(layer: LayerSpec, events: Events) -> Iterable[np.ndarray]:
    """Yield the input [B, C, H, W] of the layer at each time step."""
    batch, channels, steps = events.shape
    for t in range(steps):
        picture = np.zeros((batch, channels))
        for b in range(batch):
            row = b * steps + t
            picture[b, events.channel[events.indptr[row] : events.indptr[row + 1]]] = 1
        yield picture.reshape(batch, *layer.in_shape)


def _drives(layer: LayerSpec, events: Events) -> Iterable[np.ndarray]:
    """Yield what the spikes of each time step add to the currents, int64 [B, out]; float64 sums are exact here."""
    (_, height, width), groups, stride, dilation = layer.out_shape, layer.kernel_groups, layer.stride, layer.dilation
    out, inputs, *size = layer.kernel.shape
    kernel = TO_STATE * layer.kernel.reshape(groups, out // groups, inputs, *size).astype(np.float64)
    weights = {place: np.ascontiguousarray(kernel[..., *place].swapaxes(1, 2)) for place in np.ndindex(*size)}
    # Zeros around the picture, up to the end of the last window.
    reach = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(stride, (height, width), dilation, size, strict=True)]
    sides = zip(reach, layer.padding, layer.in_shape[1:], strict=True)
    zeros = [(0, 0), (0, 0), *((p, max(0, r - p - side)) for r, p, side in sides)]
    for picture in _pictures(layer, events):
        picture = np.pad(picture, zeros)
        # Skip silent channels: in a single time step, most channels are silent.
        active = np.flatnonzero(picture.any(axis=(0, 2, 3))) if groups == 1 else slice(None)
        total = np.zeros((groups, len(picture) * height * width, out // groups))
        for (y, x), weight in weights.items():
            rows = slice(y * dilation[0], y * dilation[0] + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(x * dilation[1], x * dilation[1] + stride[1] * (width - 1) + 1, stride[1])
            patch = picture[:, :, rows, columns].transpose(1, 0, 2, 3).reshape(groups, inputs, -1).swapaxes(1, 2)
            total += patch[..., active] @ weight[:, active]
        total = total.reshape(groups, len(picture), height, width, -1).transpose(1, 0, 4, 2, 3)
        yield total.reshape(len(picture), -1).astype(np.int64)


def _run_neurons(layer: LayerSpec, drives: Iterable[np.ndarray], batch: int, steps: int) -> np.ndarray:
    """Return the output spikes [B, out, T] of neurons that receive `drives`, int64 [B, out], at each time step."""
    i_keep, v_keep = (DECAY_SCALE - layer.per_neuron(decay) for decay in (layer.i_decay, layer.v_decay))
    # The drive of an input layer already contains the bias.
    bias = 0 if layer.bias is None or layer.type == "input" else TO_STATE * layer.per_neuron(layer.bias)
    lag = 1 + layer.per_neuron(0 if layer.delay is None else layer.delay)
    out = np.zeros((batch, layer.out_features, steps), np.uint8)
    current = np.zeros((batch, layer.out_features), np.int64)  # I
    after_reset = np.zeros((batch, layer.out_features), np.int64)  # R
    for t, drive in enumerate(drives):
        current = wrap(truncated_product(current, i_keep) + drive)
        voltage = np.clip(truncated_product(after_reset, v_keep) + current + bias, -END + 1, END - 1)
        fires = voltage > TO_STATE * layer.v_th_mant
        after_reset = np.where(fires, 0, voltage)
        b, neuron = np.nonzero(fires)
        arrives = t + lag[neuron]
        in_time = arrives < steps
        out[b[in_time], neuron[in_time], arrives[in_time]] = 1
    return out


# -- the fast engine


def run_fast(layers: list[LayerSpec], events: Events) -> list[np.ndarray]:
    """Return the same as `run_reference`, from event-driven compiled loops; recordings run in parallel.

    Within a layer, neurons are ordered by position and then by channel, so that a spike updates contiguous stretches
    of memory.
    """
    sent = []
    for layer in layers:
        batch, _, steps = events.shape
        channels, height, width = layer.out_shape
        out = np.zeros((batch, steps, height * width * channels), np.uint8)
        _run_layer(
            batch,
            indptr=events.indptr,
            channel=events.channel,
            synapses=_weights_by_input(layer),
            sizes=np.array([layer.in_shape[1:], layer.kernel.shape[2:], layer.out_shape[1:]]),
            geometry=np.array([layer.stride, layer.padding, layer.dilation]),
            group_inputs=layer.kernel.shape[1],
            i_keep=_expand_to_neurons(layer, DECAY_SCALE - np.asarray(layer.i_decay)),
            v_keep=_expand_to_neurons(layer, DECAY_SCALE - np.asarray(layer.v_decay)),
            bias=_expand_to_neurons(layer, 0 if layer.bias is None else TO_STATE * layer.bias),
            threshold=TO_STATE * layer.v_th_mant,
            lag=_expand_to_neurons(layer, 1 + (np.int64(0) if layer.delay is None else layer.delay)),
            out=out,
        )
        if height * width > 1:
            out = out.reshape(batch, steps, height * width, channels).swapaxes(2, 3).reshape(batch, steps, -1)
        sent.append(out.transpose(0, 2, 1))
        events = events_of_rows(out)
    return sent


def _weights_by_input(layer: LayerSpec) -> np.ndarray:
    """Return the weights as a matrix with a column for each output channel of a group.

    Row ``(c * height + y) * width + x`` belongs to input channel c and kernel position (y, x).
    """
    out, inputs, *size = layer.kernel.shape
    kernel = layer.kernel.reshape(layer.kernel_groups, -1, inputs, *size)
    return np.ascontiguousarray(kernel.transpose(0, 2, 3, 4, 1)).reshape(-1, out // layer.kernel_groups)


def _expand_to_neurons(layer: LayerSpec, value) -> np.ndarray:
    """Expand a value per channel, or one for all, to all neurons in the order that `run_fast` uses."""
    channels, height, width = layer.out_shape
    return np.tile(np.broadcast_to(np.asarray(value, np.int64), channels), height * width)


@njit(inline="always")
def _decay_state(state, keep):
    product = state * keep
    # An arithmetic shift rounds down; adding 4095 to negative numbers makes it round toward zero.
    return (product + ((product >> 63) & 4095)) >> 12


@njit(inline="always")
def _window(place, stride, reach, count):
    """Return the index of the window that has `place` at offset `reach` from its start, or -1 if there is none."""
    at = place - reach
    return at // stride if at >= 0 and at % stride == 0 and at // stride < count else -1


@tasks()
def _run_layer(b, indptr, channel, synapses, sizes, geometry, group_inputs, i_keep, v_keep, bias, threshold, lag, out):
    _, steps, neurons = out.shape
    (height, width), (kernel_h, kernel_w), (out_h, out_w) = sizes
    (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = geometry
    channels = neurons // (out_h * out_w)
    group_outputs = synapses.shape[1]  # output channels of a group
    current = np.zeros(neurons, np.int64)
    after_reset = np.zeros(neurons, np.int64)
    drive = np.zeros(neurons, np.int32)
    for t in range(steps):
        drive[:] = 0
        for event in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
            source, place = divmod(channel[event], height * width)
            y, x = divmod(place, width)
            first = source // group_inputs * group_outputs
            for ky in range(kernel_h):
                row = _window(y + pad_h, stride_h, ky * dilation_h, out_h)
                if row < 0:
                    continue
                for kx in range(kernel_w):
                    column = _window(x + pad_w, stride_w, kx * dilation_w, out_w)
                    if column < 0:
                        continue
                    start = (row * out_w + column) * channels + first
                    weights = synapses[(source * kernel_h + ky) * kernel_w + kx]
                    for n in range(group_outputs):
                        drive[start + n] += weights[n]
        for n in range(neurons):
            total = _decay_state(current[n], i_keep[n]) + TO_STATE * np.int64(drive[n])
            current[n] = ((total + END - 1) & (2 * END - 1)) - END + 1
            voltage = _decay_state(after_reset[n], v_keep[n]) + current[n] + bias[n]
            voltage = min(max(voltage, -END + 1), END - 1)
            after_reset[n] = voltage
            if voltage > threshold:
                after_reset[n] = 0
                if t + lag[n] < steps:
                    out[b, t + lag[n], n] = 1
