"""Compare the reference's and the CPU twin's kernels for axons, weights, products and layers with the oracle."""

import numba
import numpy as np
import pytest
import torch
from support import oracles
from support.neurons import THRESHOLD
from support.oracles import NEVER, assert_close
from support.pairs import pairwise
from support.rows import (
    SIZES,
    TWINS,
    ints,
    membrane_of,
    random_case,
    rows,
    state_of,
    trains,
)

from nmnist_helpers.kernels import cpu, reference
from nmnist_helpers.kernels.common import Axon, Needs, State
from nmnist_helpers.kernels.cpu import input_gradient as cpu_gradient
from nmnist_helpers.kernels.cpu import product as cpu_product
from nmnist_helpers.kernels.cpu.lanes import CHUNK
from nmnist_helpers.kernels.cpu.layer import MAX_INPUTS
from nmnist_helpers.kernels.cpu.neuron import SHORT_SUM
from nmnist_helpers.kernels.cpu.product import DENSE_FROM
from nmnist_helpers.kernels.functions import normalise
from nmnist_helpers.kernels.reference.axon import axon_backward
from nmnist_helpers.kernels.reference.product import adds_in_usual_order
from nmnist_helpers.spikes import Spikes

pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")


# --------------------------------------------------------------------------------------------------------- axon


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dropped", [True, False])
def test_axon(sizes, dropped):
    rng = np.random.default_rng(3)
    batch, channels, steps = sizes
    spikes = (rng.random(sizes) < 0.3).astype(np.int64)
    lag = rng.integers(0, steps + 3, channels)
    lag[0] = 0
    kept = rng.random((batch, channels)) < 0.7 if dropped else None
    kept_tensor = None if kept is None else oracles.tensor(kept, torch.uint8)
    axon = Axon(ints(lag), kept_tensor, 1.5)
    sent = spikes if kept is None else spikes * kept[:, :, None]
    expected = oracles.shifted(sent, lag)
    out = reference.axon_forward(rows(spikes, torch.uint8), axon)
    np.testing.assert_array_equal(trains(out), expected)

    grad = rng.normal(size=sizes)
    back = axon_backward(rows(grad), axon)
    expected_back = oracles.shifted_back(grad, lag) * 1.5 * (1 if kept is None else kept[:, :, None])
    assert_close(trains(back), expected_back, 1e-6)
    # The oracle's backward pass is the transpose of its forward pass.
    assert np.vdot(grad, expected * 1.5) == pytest.approx(np.vdot(expected_back, spikes))

    by_delay = reference.delay_gradient(rows(grad), out, 1.5)
    assert_close(by_delay, oracles.delay_gradient(grad, expected * 1.5))


def test_axon_accepts_strided_rows():
    rng = np.random.default_rng(0)
    spikes, grad = (rng.random((2, 9, 12)) < 0.4).astype(np.int64), rng.normal(size=(2, 9, 12))
    axon = Axon(ints(np.arange(9)))
    expected = oracles.shifted(spikes, np.arange(9))
    out = reference.axon_forward(oracles.tensor(spikes, torch.uint8).transpose(1, 2), axon)
    np.testing.assert_array_equal(trains(out), expected)
    strided = oracles.tensor(grad).transpose(1, 2)
    assert_close(trains(axon_backward(strided, axon)), oracles.shifted_back(grad, np.arange(9)), 1e-6)
    strided_out = oracles.tensor(expected, torch.uint8).transpose(1, 2)
    assert_close(reference.delay_gradient(strided, strided_out), oracles.delay_gradient(grad, expected))


# --------------------------------------------------------------------------------------------- weights, products


def weight_case(seed, outputs, inputs):
    """Return random weights, some of which are rounding ties or beyond the clamp."""
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 1.5, (outputs, inputs)).astype(np.float32)
    ties = rng.random(w.shape) < 0.2
    w[ties] = (rng.integers(-140, 140, ties.sum()) + 0.5) / 32
    w.flat[: min(4, w.size)] = np.array([-4 - 1 / 64, 254 / 64 + 1 / 64, 4.5, -300], np.float32)[: w.size]
    return w


SHAPES = pytest.mark.parametrize("shape", [(1, 1), (10, 512), (33, 7), (16, 16), (130, 45)], ids=str)


@pytest.mark.skipif(not adds_in_usual_order(), reason="this processor adds in another order")
@pytest.mark.parametrize("columns", [1, 7, 8, 37, 514, 2312])
def test_norms_are_the_same_to_the_bit_where_torch_adds_in_another_order(monkeypatch, columns):
    v = torch.from_numpy(np.random.default_rng(columns).normal(0, 0.1, (60, columns)).astype(np.float32))
    g = torch.ones(60, 1)
    expected, weights = reference.norms(v), normalise(v, g)
    if columns > 50:  # another order of the sum would be noticed
        assert not torch.equal(v.square().sum(1).sqrt(), expected)
    assert torch.equal(cpu.norms(v), expected)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert torch.equal(reference.norms(v), expected)
    assert torch.equal(normalise(v, g), weights)


@TWINS
@SHAPES
def test_quantise(twin, shape):
    w = weight_case(0, *shape)
    for factor in (np.ones(shape[0]), np.random.default_rng(1).uniform(0.2, 3, shape[0])):
        factor = factor.astype(np.float32)
        weights = twin.quantise(torch.from_numpy(w), torch.from_numpy(factor))
        expected = oracles.steps_of_weight(w * factor[:, None])
        np.testing.assert_array_equal(twin.weight_values(weights).numpy() * 32, expected)
    if w.size > 4:
        assert expected.min() == -128
        assert expected.max() == 127


@TWINS
def test_quantise_raises_for_nan(twin):
    w = torch.zeros(40, 30)
    w[37, 29] = float("nan")
    with pytest.raises(OverflowError, match="weights: expected finite numbers, found NaN"):
        twin.quantise(w, torch.ones(40))
    # The factor is infinite for a row of zeros under weight normalisation.
    with pytest.raises(OverflowError, match="weights: expected finite numbers, found NaN"):
        twin.quantise(torch.zeros(2, 3), torch.tensor([1.0, float("inf")]))


@TWINS
@SHAPES
@pytest.mark.parametrize("weight_norm", [True, False])
def test_quantise_gradient(twin, shape, weight_norm):
    rng = np.random.default_rng(4)
    v = torch.from_numpy(weight_case(2, *shape))
    g = torch.from_numpy(rng.uniform(0.5, 40, (shape[0], 1)).astype(np.float32)) if weight_norm else None
    norm = v.norm(dim=1) if weight_norm else None
    factor = g.flatten() / norm if weight_norm else torch.ones(shape[0])
    grad = rng.normal(size=shape).astype(np.float32)
    grad_table = torch.from_numpy(grad if twin is reference else np.ascontiguousarray(grad.T))
    by_v, by_g = twin.quantise_gradient(v, factor, norm, grad_table)
    expected_v, expected_g = oracles.straight_through(v, g, grad)
    if weight_norm and shape[1] > 1:
        assert_close(by_v, expected_v)
        assert_close(by_g.reshape(-1, 1), expected_g)
    elif weight_norm:  # with a single input, w depends only on the sign of v
        assert np.abs(by_v.numpy()).max() < 1e-5
        assert_close(by_g.reshape(-1, 1), expected_g)
    else:
        np.testing.assert_array_equal(by_v.numpy(), expected_v.astype(np.float32))
        assert by_g is None
        assert is_zero_where_clamped(v, by_v)


def is_zero_where_clamped(w, grad) -> bool:
    outside = (w > 128 / 32) | (w < -129 / 32)
    return bool((grad[outside] == 0).all() and (grad[~outside] != 0).any() | (w.numel() == 1))


DENSITIES = [0.0, 0.01, 0.6 * DENSE_FROM, 0.6, 1.0]
VALUES = [1.0, 1 / 0.95, 0.25]


def spike_case(seed, sizes, density, value):
    rng = np.random.default_rng(seed)
    dense = (rng.random(sizes) < density).astype(np.uint8)
    return dense, Spikes.from_rows(oracles.tensor(np.swapaxes(dense, 1, 2), torch.uint8), value)


def product_function(twin):
    """Return a twin's product; the CPU twin has a separate one only for dense inputs."""
    return cpu_product.dense_product if twin is cpu else twin.product


@TWINS
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("value", VALUES)
def test_product_of_events(twin, density, value):
    dense, spikes = spike_case(1, (3, 70, 11), density, value)
    assert (spikes.density > DENSE_FROM) == (density > DENSE_FROM)  # densities on both sides of it
    w = weight_case(1, 150, 70)
    weights = twin.quantise(torch.from_numpy(w), torch.ones(150))
    z = product_function(twin)(spikes, weights)
    np.testing.assert_array_equal(trains(z), oracles.product(oracles.steps_of_weight(w), dense, value))


@TWINS
def test_product_of_graded_rows(twin):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20, 6)).astype(np.float32)
    w = weight_case(1, 30, 20)
    z = product_function(twin)(rows(x), twin.quantise(torch.from_numpy(w), torch.ones(30)))
    assert_close(trains(z), np.einsum("oi,bit->bot", oracles.steps_of_weight(w) / 32, x.astype(np.float64)), 1e-6)


def layer_voltage(trace, sizes) -> np.ndarray:
    """Return the voltage that a layer saved for its backward pass as [B, C, T]; the CPU twin stores it in chunks."""
    batch, channels, steps = sizes
    voltage = trace.saved[0]
    if voltage.dim() == 1:
        voltage = voltage.view(batch, -1, steps, CHUNK).transpose(1, 2).reshape(batch, steps, -1)[..., :channels]
    return trains(voltage)


def layer_case(twin, sizes, outputs, density, value, lag_count, dropped):
    """Return a random case for a layer and what the oracle computes for it.

    The items are dense spikes, the same spikes as a list, the other arguments of `layer_forward`, the results of
    `oracles.neuron`, the output spikes, and the details that `oracles.block_gradient` needs.
    """
    rng = np.random.default_rng(6)
    batch, inputs, steps = sizes
    dense, spikes = spike_case(2, sizes, density, value)
    w = weight_case(3, outputs, inputs) * np.float32(0.1)
    weights = twin.quantise(torch.from_numpy(w), torch.ones(outputs))
    _, retain_i, retain_v, current, reset = random_case(1, (batch, outputs, 1))
    lag = np.full(outputs, 2) if lag_count == 1 else rng.integers(1, 1 + lag_count, outputs)
    kept = rng.random((batch, outputs)) < 0.7 if dropped else None
    z = oracles.product(oracles.steps_of_weight(w), dense, value)
    neuron = oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset)
    sent = neuron[2] if kept is None else neuron[2] * kept[:, :, None]
    axon = Axon(ints(lag), None if kept is None else oracles.tensor(kept, torch.uint8), 1.25 if dropped else 1.0)
    arguments = weights, membrane_of(retain_i, retain_v), state_of(current, reset), axon
    signals = {
        "voltage": neuron[1], "current": neuron[0], "spikes": neuron[2], "lag": lag, "start": (current, reset),
    }  # fmt: skip
    return dense, spikes, arguments, neuron, oracles.shifted(sent, lag), (oracles.steps_of_weight(w), signals, kept)


LAGS = [1, 2, 30]  # at most this many different lags in a layer


@TWINS
@pairwise(density=DENSITIES, value=VALUES, lag_count=LAGS, dropped=[False, True])
def test_layer_forward(twin, density, value, lag_count, dropped):
    sizes, outputs = (3, 70, 25), 140
    dense, spikes, arguments, neuron, expected, _ = layer_case(twin, sizes, outputs, density, value, lag_count, dropped)
    _, voltage, fired, current, reset = neuron
    for source in (spikes, oracles.tensor(dense * np.float32(value)).transpose(1, 2)):
        if not isinstance(source, Spikes) and value == 1 / 0.95:
            continue  # a dense product with this value is not exact, so blocks pass lists
        trace = twin.layer_forward(source, *arguments)
        np.testing.assert_array_equal(layer_voltage(trace, (3, outputs, 25)), voltage)
        np.testing.assert_array_equal(trace.state.current.numpy(), current)
        np.testing.assert_array_equal(trace.state.voltage.numpy(), reset)
        assert trace.spikes.shape == (3, outputs, 25)
        assert trace.spikes.value == arguments[-1].value
        np.testing.assert_array_equal(trains(trace.spikes.rows(value=1.0)), expected)
        listed = Spikes.from_rows(rows(expected, torch.uint8))  # sorted, without duplicates
        assert torch.equal(trace.spikes.indptr, listed.indptr)
        assert torch.equal(trace.spikes.channel, listed.channel)
        bare = twin.layer_forward(source, *arguments, need_grad=False)
        assert bare.saved == ()
        assert torch.equal(bare.spikes.channel, trace.spikes.channel)
        assert torch.equal(bare.state.voltage, trace.state.voltage)
        assert torch.equal(bare.state.current, trace.state.current)
    assert density < 0.04 or fired.any()


@pytest.mark.parametrize(
    ("twin", "threads"), [(reference, 1), (cpu, 1), (cpu, 2)], ids=["reference", "cpu, 1 thread", "cpu, 2 threads"]
)
@pairwise(lag_count=LAGS, density=[0.0, 0.6 * DENSE_FROM, 0.6], outputs=[1, 10, 64, 150], dropped=[False, True])
def test_layer_backward(twin, threads, lag_count, density, outputs, dropped):
    sizes, value = (3, 70, 25), 0.25
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        dense, spikes, arguments, _, out, details = layer_case(twin, sizes, outputs, density, value, lag_count, dropped)
        _, membrane, _, axon = arguments
        weight_steps, signals, kept = details
        grad = np.random.default_rng(0).normal(size=(3, outputs, 25))
        expected = oracles.block_gradient(
            grad, dense * value, weight_steps, signals, out, *(r.numpy() for r in membrane[:2]), kept=kept,
            value=axon.value, delay=axon.lag,
        )  # fmt: skip
        saved = twin.layer_forward(spikes, *arguments).saved
        backward_arguments = (rows(grad), saved, spikes, *arguments)
        found = twin.layer_backward(*backward_arguments)
        assert_close(trains(found.input), expected["x"])
        assert_close(found.weights if twin is reference else found.weights.t(), expected["weight"])
        for name in ("current_decay", "voltage_decay", "delay"):
            assert_close(getattr(found, name), expected[name])
        partial = twin.layer_backward(*backward_arguments, Needs(input=False))
        assert partial.input is None
        assert torch.equal(partial.weights, found.weights)
        partial = twin.layer_backward(*backward_arguments, Needs(weights=False))
        assert partial.weights is None
        assert torch.equal(partial.input, found.input)
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@TWINS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 2.0**16, -(2.0**16)])
def test_layer_forward_raises_for_a_value_out_of_range(twin, value):
    spikes = Spikes(ints([0, 0, 4]), ints([0, 1, 2, 3]), (1, 40, 2))
    spikes.value = value  # set here, because `Spikes` refuses values that are not finite
    weights = twin.quantise(torch.ones(3, 40), torch.ones(3))
    zero = np.zeros(3)
    with pytest.raises(OverflowError, match="left the range of the fixed-point"):
        twin.layer_forward(spikes, weights, membrane_of(zero, zero), state_of(zero[None], zero[None]), Axon(ints(zero)))


def test_layer_forward_refuses_too_many_inputs():
    inputs = MAX_INPUTS + 1
    spikes = Spikes(ints([0, 0]), ints([]), (1, inputs, 1))
    table = torch.zeros(inputs, 1, dtype=torch.int8)
    with pytest.raises(ValueError, match=f"at most {MAX_INPUTS} inputs, found {inputs}"):
        cpu.layer_forward(spikes, table, membrane_of([0], [0]), state_of([[0]], [[0]]), Axon(ints([0])))
    assert MAX_INPUTS * 128 * 128 < 2**30  # the largest sum is a valid state


def test_largest_sums_are_exact():
    """All inputs spike at once, with all weights at their limits: the sums exceed half of the range of a state."""
    inputs = 40_000
    channel = ints(np.arange(inputs))
    spikes = Spikes(ints([0] + [inputs] * 200), channel, (1, inputs, 200))
    assert spikes.density < DENSE_FROM
    table = torch.tensor([[-128, 127]], dtype=torch.int8).repeat(inputs, 1)
    membrane, state = membrane_of([0, 0], [0, 0], NEVER), state_of([[0, 0]], [[0, 0]])
    trace = cpu.layer_forward(spikes, table, membrane, state, Axon(ints([0, 0])))
    assert layer_voltage(trace, (1, 2, 200))[0, :, 0].tolist() == [-128 * 128 * inputs, 127 * 128 * inputs]


def test_sums_of_many_spikes():
    """Sums are made in blocks of `SHORT_SUM` spikes: test numbers of spikes on both sides of whole blocks."""
    counts = [0, 1, SHORT_SUM - 1, SHORT_SUM, SHORT_SUM + 1, 2 * SHORT_SUM, 3 * SHORT_SUM - 1, 5000]
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.integers(-128, 128, (5000, 70)).astype(np.int8))
    chosen = [np.sort(rng.choice(5000, count, replace=False)) for count in counts]
    spikes = Spikes(ints(np.cumsum([0, *counts])), ints(np.concatenate(chosen)), (1, 5000, len(counts)))
    assert spikes.density < DENSE_FROM
    nothing = np.zeros(70)
    membrane, state = membrane_of(nothing, nothing, NEVER), state_of(nothing[None], nothing[None])
    trace = cpu.layer_forward(spikes, table, membrane, state, Axon(ints(nothing)))
    expected = np.stack([128 * table.numpy()[rows].sum(0, dtype=np.int64) for rows in chosen])
    np.testing.assert_array_equal(layer_voltage(trace, (1, 70, len(counts)))[0], expected.T)


INVALID = {  # invalid arguments of `layer_forward`, and what the error message names
    "state of another type": ({"state": State(torch.zeros(1, 5), torch.zeros(1, 5))}, "neuron state, current"),
    "state of another size": (
        {"state": State(ints(np.zeros((1, 5))), ints(np.zeros((1, 4))))},
        "neuron state, voltage",
    ),
    "state out of range": ({"state": State(ints(np.full((1, 5), -(2**31))), ints(np.zeros((1, 5))))}, "neuron state"),
    "retention above 4096": ({"membrane": membrane_of(np.full(5, 4097), np.zeros(5))}, "retention of the current"),
    "too few retentions": ({"membrane": membrane_of(np.zeros(5), np.zeros(4))}, "retention of the voltage"),
    "lag below 0": ({"axon": Axon(ints([0, 0, 0, 0, -1]))}, "axon lag"),
    "lag that wraps": ({"axon": Axon(ints(np.full(5, 2**31 - 1)))}, "axon lag"),
    "too few lags": ({"axon": Axon(ints(np.zeros(4)))}, "axon lag"),
    "lags of another type": ({"axon": Axon(torch.zeros(5, dtype=torch.int64))}, "axon lag"),
    "mask of another size": ({"axon": Axon(ints(np.zeros(5)), torch.ones(1, 4, dtype=torch.uint8))}, "dropout mask"),
    "mask of another type": ({"axon": Axon(ints(np.zeros(5)), torch.ones(1, 5))}, "dropout mask"),
}


@TWINS
@pytest.mark.parametrize("name", INVALID)
def test_layer_forward_refuses_invalid_arguments(twin, name):
    invalid, message = INVALID[name]
    zero = np.zeros((1, 5))
    valid = {"membrane": membrane_of(zero[0], zero[0]), "state": state_of(zero, zero), "axon": Axon(ints(zero[0]))}
    spikes = Spikes(ints([0, 2, 2]), ints([0, 3]), (1, 4, 2))
    weights = twin.quantise(torch.ones(5, 4), torch.ones(5))
    twin.layer_forward(spikes, weights, **valid)
    with pytest.raises(ValueError, match=f"{message}.*: expected .*, found"):
        twin.layer_forward(spikes, weights, **{**valid, **invalid})


def product_module(twin):
    return cpu_product if twin is cpu else twin


@TWINS
@pairwise(density=DENSITIES, value=VALUES, outputs=[1, 10, 150])
def test_weight_gradient(twin, density, value, outputs):
    dense, spikes = spike_case(5, (3, 70, 11), density, value)
    grad_z = np.random.default_rng(0).normal(size=(3, outputs, 11))
    expected = oracles.weight_gradient(grad_z, dense * value)
    graded = oracles.tensor(dense * value).transpose(1, 2)
    for source in (spikes, graded):
        found = product_module(twin).weight_gradient(source, rows(grad_z))
        assert_close(found if twin is reference else found.t(), expected)


@pytest.mark.parametrize("depth", [3, 300])
def test_matmul_accepts_views(depth):
    """Test parts of wider rows (up to the end of their memory), expanded rows, and columns as rows of one step."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-128, 128, (depth, 70), generator=generator, dtype=torch.int8)
    wide = torch.randint(-9, 9, (3, 7, depth + 5), generator=generator).float()
    column = torch.randint(-9, 9, (3, depth, 1), generator=generator).float().transpose(1, 2)
    for view in (wide[..., 5:], wide[..., :depth], wide[:1, :1, 5:].expand(3, 7, depth), wide[:, ::2, 5:], column):
        expected = view @ (weights.float() / 32)
        assert torch.equal(cpu_product.matmul(view, weights), expected)
        assert torch.equal(cpu_product.matmul(view, weights.t().contiguous().t()), expected)


@TWINS
def test_input_gradient(twin):
    grad_z = np.random.default_rng(0).normal(size=(2, 30, 9))
    w = weight_case(1, 30, 20)
    weights = twin.quantise(torch.from_numpy(w), torch.ones(30))
    expected = np.einsum("oi,bot->bit", oracles.steps_of_weight(w) / 32, grad_z)
    found = (cpu_gradient if twin is cpu else twin).input_gradient(rows(grad_z), weights)
    assert_close(trains(found), expected, 1e-6)
