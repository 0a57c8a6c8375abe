"""The exported network, run in integers: what the chip computes, step by step.

Two engines with one answer. `run_reference` is the text to read; `run_fast` does the same in compiled loops.
For each layer and time step t, with w the file's weights and s the spikes that arrive:

    I[t] = trunc(I[t-1] * (4096 - iDecay) / 4096) + 64 * sum_i w[i] s[i, t]
    V[t] = trunc(R[t-1] * (4096 - vDecay) / 4096) + I[t] + 64 * bias
    fires where V[t] > 64 * vThMant;   R[t] = 0 where it fires, else V[t]

A spike leaves one step later, and later again by the neuron's learned delay. The weight is value x 64 and the
states are value x 4096, hence the factor 64. `trunc` rounds toward zero.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from ..block.spec import LayerSpec
from ..compiled import njit
from ..kernels.constants import DECAY_SCALE, STATE_SCALE, WEIGHT_SCALE

TO_STATE = STATE_SCALE // WEIGHT_SCALE  # states are that much finer than weights


class Events(NamedTuple):
    """Spikes of a batch as a list: row ``b * T + t`` owns ``channel[indptr[row]:indptr[row + 1]]``."""

    indptr: np.ndarray  # int64 [B * T + 1]
    channel: np.ndarray  # int32 [N]
    shape: tuple[int, int, int]  # (B, C, T)


def events_of(dense: np.ndarray) -> Events:
    """List the spikes of an array [B, C, T]: everything that is not zero."""
    batch, channels, steps = dense.shape
    b, rest = np.divmod(np.flatnonzero(dense != 0), channels * steps)
    c, t = np.divmod(rest, steps)
    return _listed(np.sort((b * steps + t) * channels + c), dense.shape)


def events_of_rows(rows: np.ndarray) -> Events:
    """As `events_of`, of an array [B, T, C]."""
    batch, steps, channels = rows.shape
    return _listed(np.flatnonzero(rows), (batch, channels, steps))


def _listed(place: np.ndarray, shape: tuple[int, int, int]) -> Events:
    """Events from their places ``(b * T + t) * C + c`` in increasing order."""
    batch, channels, steps = shape
    row, channel = np.divmod(place, channels)
    indptr = np.searchsorted(row, np.arange(batch * steps + 1))
    return Events(indptr.astype(np.int64), channel.astype(np.int32), shape)


def truncated_product(state: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """``trunc(state * keep / 4096)`` for integers: divide the magnitude, give the sign back."""
    return np.sign(state) * (np.abs(state) * keep // DECAY_SCALE)


def run_reference(layers: list[LayerSpec], events: Events) -> list[np.ndarray]:
    """The spikes that each layer sends on, int64 NumPy throughout.

    Parameters
    ----------
    layers : list of LayerSpec
        From input to output.
    events : Events
        Input spikes of shape (B, in, T).

    Returns
    -------
    list of uint8 array [B, out, T]
        One for each layer, shifted and delayed.
    """
    sent = []
    for layer in layers:
        batch, _, steps = events.shape
        column = layer.weight.T.astype(np.int64)  # [in, out]: row i is what a spike of input i adds
        bias = 0 if layer.bias is None else layer.bias
        delay = np.zeros(layer.out_features, np.int64) if layer.delay is None else layer.delay
        out = np.zeros((batch, layer.out_features, steps), np.uint8)
        current = np.zeros((batch, layer.out_features), np.int64)  # I
        rest = np.zeros((batch, layer.out_features), np.int64)  # R
        for t in range(steps):
            drive = np.zeros_like(current)
            for b in range(batch):
                row = b * steps + t
                drive[b] = column[events.channel[events.indptr[row] : events.indptr[row + 1]]].sum(axis=0)
            current = truncated_product(current, DECAY_SCALE - layer.i_decay) + TO_STATE * drive
            voltage = truncated_product(rest, DECAY_SCALE - layer.v_decay) + current + TO_STATE * bias
            fires = voltage > TO_STATE * layer.v_th_mant
            rest = np.where(fires, 0, voltage)
            b, neuron = np.nonzero(fires)
            arrives = t + 1 + delay[neuron]
            seen = arrives < steps
            out[b[seen], neuron[seen], arrives[seen]] = 1
        sent.append(out)
        events = events_of(out)
    return sent


def run_fast(layers: list[LayerSpec], events: Events) -> list[np.ndarray]:
    """As `run_reference`, event-driven and compiled; recordings run in parallel."""
    sent = []
    for layer in layers:
        batch, _, steps = events.shape
        every = np.ones(layer.out_features, np.int64)
        out = np.zeros((batch, steps, layer.out_features), np.uint8)  # time-major: one step is contiguous
        _run_layer(
            events.indptr,
            events.channel,
            np.ascontiguousarray(layer.weight.T),
            every * (DECAY_SCALE - layer.i_decay),
            every * (DECAY_SCALE - layer.v_decay),
            every * (0 if layer.bias is None else TO_STATE * layer.bias),
            TO_STATE * layer.v_th_mant,
            every + (0 if layer.delay is None else layer.delay),
            out,
        )
        sent.append(out.transpose(0, 2, 1))
        events = events_of_rows(out)
    return sent


@njit(inline="always")
def _decayed(state, keep):
    product = state * keep
    # An arithmetic shift rounds down; 4095 added to negative numbers makes that toward zero.
    return (product + ((product >> 63) & 4095)) >> 12


@njit(cache=True, parallel=True)
def _run_layer(indptr, channel, column, i_keep, v_keep, bias, threshold, lag, out):
    batch, steps, neurons = out.shape
    for b in prange(batch):
        current = np.zeros(neurons, np.int64)
        rest = np.zeros(neurons, np.int64)
        drive = np.zeros(neurons, np.int32)
        for t in range(steps):
            drive[:] = 0
            for event in range(indptr[b * steps + t], indptr[b * steps + t + 1]):
                source = channel[event]
                for n in range(neurons):
                    drive[n] += column[source, n]
            for n in range(neurons):
                current[n] = _decayed(current[n], i_keep[n]) + TO_STATE * np.int64(drive[n])
                voltage = _decayed(rest[n], v_keep[n]) + current[n] + bias[n]
                rest[n] = voltage
                if voltage > threshold:
                    rest[n] = 0
                    if t + lag[n] < steps:
                        out[b, t + lag[n], n] = 1
