"""Convolution test cases for kernels. Their oracle is a dense layer whose synapses share weights."""

from typing import Any

import numpy as np
import torch

from nmnist_helpers.kernels.common import Axon, Needs
from nmnist_helpers.kernels.window import Window
from nmnist_helpers.spikes import Spikes
from support import oracles
from support.neurons import THRESHOLD
from support.oracles import assert_close
from support.rows import ints, membrane_of, random_case, rows, state_of, trains

WINDOWS = {
    "padded": Window((2, 9, 7), (5, 5, 4), (3, 3), (2, 2), (1, 1)),
    "groups": Window((4, 9, 11), (6, 5, 4), (5, 4), (1, 3), (0, 2), 2),
    "pooling with an edge": Window((3, 5, 6), (3, 3, 3), (2, 2), (2, 2), (0, 0), 3),
    "one place": Window((1, 3, 4), (70, 1, 1), (3, 4), (1, 1), (0, 0)),
    "gaps between": Window((2, 12, 8), (3, 4, 2), (2, 2), (3, 4), (0, 0)),
    "padded groups of one channel": Window((3, 5, 4), (3, 3, 3), (3, 2), (2, 2), (1, 1), 3),
    "windows beyond the picture": Window((2, 1, 2), (3, 3, 4), (3, 3), (1, 1), (2, 2)),
}


def synapses(window: Window) -> np.ndarray:
    """Return [neurons, inputs]: the index of the weight between a neuron and an input, or -1 if there is none."""
    features, groups = window.outputs[0], window.groups
    within = window.inputs[0] // groups
    weights = np.arange(features * within * window.kernel[0] * window.kernel[1])
    weights = weights.reshape(features, within, *window.kernel)
    found = np.full((*window.outputs, *window.inputs), -1)
    for o, y, x in np.ndindex(*window.outputs):
        for c, i, j in np.ndindex(*weights.shape[1:]):
            row = y * window.stride[0] + i - window.padding[0]
            column = x * window.stride[1] + j - window.padding[1]
            if 0 <= row < window.inputs[1] and 0 <= column < window.inputs[2]:
                found[o, y, x, o // (features // groups) * within + c, row, column] = weights[o, c, i, j]
    return found.reshape(window.neurons, -1)


def check_conv(
    twin, window: Window, device: torch.device, *, value: float, dropped: bool, spread: int, steps: int = 21
) -> None:
    """Compare a twin's `conv_forward` and `conv_backward` with the oracle; lags are random in 1..`spread`."""
    rng = np.random.default_rng(4)
    batch, features, neurons = 2, window.outputs[0], window.neurons
    shared = synapses(window)
    x = (rng.random((batch, shared.shape[1], steps)) < 0.15).astype(np.float32)
    w = rng.normal(0, 0.7, (features, shared.max() // features + 1)).astype(np.float32)
    dense = np.where(shared < 0, 0, oracles.steps_of_weight(w).ravel()[shared])
    per_channel = [np.repeat(a, window.places) for a in random_case(1, (batch, features, 1))[1:3]]
    lag = np.repeat(rng.integers(1, 1 + spread, features), window.places)
    kept = rng.random((batch, neurons)) < 0.7 if dropped else None
    out_value = 1.25 if dropped else 1.0
    zero = np.zeros((batch, neurons))
    expected, inside = oracles.block(
        x, dense, *per_channel, THRESHOLD, value_in=value, kept=kept, shift=0, delay=lag
    )  # fmt: skip
    assert inside["spikes"].any()
    spikes = Spikes.from_dense(oracles.tensor(x))
    spikes.value = value
    weights = twin.quantise(torch.from_numpy(w).to(device), torch.ones(features, device=device))

    def move(given: Any) -> Any:
        return type(given)(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in given))

    axon = Axon(ints(lag), None if kept is None else oracles.tensor(kept, torch.uint8), out_value)
    given = (spikes.to(device), weights, window, *map(move, (membrane_of(*per_channel), state_of(zero, zero), axon)))
    trace = twin.conv_forward(*given)
    np.testing.assert_array_equal(trains(trace.spikes.rows(value=1.0).cpu()), expected)
    assert (trace.spikes.shape, trace.spikes.value) == ((batch, neurons, steps), out_value)
    np.testing.assert_array_equal(trace.state.current.cpu().numpy(), inside["state"][0])
    np.testing.assert_array_equal(trace.state.voltage.cpu().numpy(), inside["state"][1])
    listed = Spikes.from_rows(rows(expected, torch.uint8))  # sorted and without duplicates
    assert torch.equal(trace.spikes.channel.cpu(), listed.channel)
    without_trace = twin.conv_forward(*given, need_grad=False)
    assert without_trace.saved == ()
    assert torch.equal(without_trace.spikes.channel, trace.spikes.channel)

    grad = rng.normal(size=expected.shape)
    back = oracles.block_gradient(
        grad, x * value, dense, inside, expected, *per_channel, kept=kept, value=out_value, delay=lag
    )  # fmt: skip
    by_weight = np.bincount(shared[shared >= 0], back["weight"][shared >= 0]).reshape(w.shape)
    pictures = rows(grad).unflatten(2, window.outputs).to(device)
    for layout in (pictures, pictures.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)):
        found = twin.conv_backward(layout, trace.saved, *given)
        assert_close(trains(found.input.cpu().flatten(2)), back["x"])
        assert_close(found.weights.cpu() if found.weights.shape == w.shape else found.weights.t().cpu(), by_weight)
        for name in ("current_decay", "voltage_decay", "delay"):
            assert_close(getattr(found, name).cpu(), back[name])
    only = twin.conv_backward(pictures, trace.saved, *given, Needs(input=False, decay=False, delay=False))
    assert only.input is None
    assert_close(only.weights.cpu(), found.weights.cpu())
