"""The reference and the CPU twin of every kernel against the oracles and so against each other."""

import numba
import numpy as np
import pytest
import torch
from support import oracles
from support.oracles import NEVER, assert_close

from nmnist_helpers import kernels
from nmnist_helpers.block.cuba import Dense
from nmnist_helpers.kernels import backend, cpu, reference
from nmnist_helpers.kernels.common import Axon, Membrane, Needs, OutputGradients, State, Surrogate
from nmnist_helpers.kernels.cpu import product as cpu_product
from nmnist_helpers.kernels.cpu.lanes import LANES
from nmnist_helpers.kernels.cpu.layer import MAX_INPUTS
from nmnist_helpers.kernels.cpu.product import DENSE_FROM
from nmnist_helpers.kernels.reference.axon import axon_backward
from nmnist_helpers.spikes import Spikes

THRESHOLD = 80 * 64
SURROGATE = Surrogate(3.75, 0.3 / (2 * 3.75))
TWINS = pytest.mark.parametrize("twin", [reference, cpu], ids=["reference", "cpu"])
SIZES = pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (3, 1, 17), (2, 130, 1), (3, 129, 63), (1, 7, 1000), (2, 257, 2), (5, 64, 31)], ids=str
)


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan():
    """torch.empty gives NaN (or the largest integer): an element that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def rows(x, dtype=torch.float32) -> torch.Tensor:
    """NumPy [B, C, T] as contiguous rows [B, T, C]."""
    return oracles.tensor(np.swapaxes(x, 1, 2), dtype)


def trains(x: torch.Tensor) -> np.ndarray:
    """Rows [B, T, C] as NumPy [B, C, T]."""
    return np.swapaxes(x.numpy(), 1, 2)


def ints(x) -> torch.Tensor:
    return oracles.tensor(x, torch.int32)


def state_of(current, reset) -> State:
    return State(ints(current), ints(reset))


def random_case(seed, sizes, per_channel=True, with_state=True):
    """Input with all sorts of values around the threshold, decays and a state."""
    rng = np.random.default_rng(seed)
    batch, channels, steps = sizes
    z = rng.normal(0.1, 0.8, sizes).astype(np.float32)
    z[rng.random(sizes) < 0.3] = 0
    count = channels if per_channel else 1
    keep_i = np.broadcast_to(rng.integers(0, 4097, count), channels).copy()
    keep_v = np.broadcast_to(rng.integers(2000, 4097, count), channels).copy()
    keep_i[0], keep_v[0] = (0, 4096) if seed % 2 else (4096, 0)
    shape = (batch, channels)
    current = rng.integers(-9000, 9000, shape) if with_state else np.zeros(shape, np.int64)
    reset = rng.integers(-9000, THRESHOLD, shape) if with_state else np.zeros(shape, np.int64)
    return z, keep_i, keep_v, current, reset


def membrane_of(keep_i, keep_v, threshold=THRESHOLD, surrogate=SURROGATE) -> Membrane:
    return Membrane(ints(keep_i), ints(keep_v), threshold, surrogate)


def run_forward(twin, z_rows, keep_i, keep_v, threshold, current, reset, **options):
    return twin.neuron_forward(z_rows, membrane_of(keep_i, keep_v, threshold), state_of(current, reset), **options)


def check_forward(trace, expected):
    current, voltage, spikes, i, r = expected
    assert trace.spikes.dtype == torch.uint8
    assert trace.voltage.dtype == torch.int32
    np.testing.assert_array_equal(trains(trace.spikes), spikes)
    np.testing.assert_array_equal(trains(trace.voltage), voltage)
    np.testing.assert_array_equal(trace.state.current.numpy(), i)
    np.testing.assert_array_equal(trace.state.voltage.numpy(), r)
    if trace.current is not None:
        np.testing.assert_array_equal(trains(trace.current), current)


# ---------------------------------------------------------------------------------------------- neuron, forward


@TWINS
@SIZES
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_neuron_forward(twin, sizes, per_channel, with_state):
    for seed in (0, 1):
        case = random_case(seed, sizes, per_channel, with_state)
        z, keep_i, keep_v, current, reset = case
        expected = oracles.neuron(z, keep_i, keep_v, THRESHOLD, current, reset)
        trace = run_forward(twin, rows(z), keep_i, keep_v, THRESHOLD, current, reset, need_current=True)
        assert trace.current is not None
        check_forward(trace, expected)
        if z.size > 1000:
            assert 0.01 < expected[2].mean() < 0.9  # both branches of the spike were taken
        check_forward(run_forward(twin, rows(z), keep_i, keep_v, THRESHOLD, current, reset), expected)


@TWINS
def test_neuron_forward_random_sizes(twin):
    rng = np.random.default_rng(5)
    for seed in range(25):
        sizes = tuple(int(n) for n in (rng.integers(1, 5), rng.integers(1, 300), rng.integers(1, 50)))
        z, keep_i, keep_v, current, reset = random_case(seed, sizes)
        trace = run_forward(twin, rows(z), keep_i, keep_v, THRESHOLD, current, reset, need_current=True)
        check_forward(trace, oracles.neuron(z, keep_i, keep_v, THRESHOLD, current, reset))


@TWINS
def test_neuron_forward_leaves_the_given_state_alone(twin):
    z, keep_i, keep_v, current, reset = random_case(0, (2, 5, 9))
    state = state_of(current, reset)
    twin.neuron_forward(rows(z), membrane_of(keep_i, keep_v), state)
    np.testing.assert_array_equal(state.current.numpy(), current)
    np.testing.assert_array_equal(state.voltage.numpy(), reset)


@TWINS
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "double"])
def test_neuron_forward_any_layout(twin, layout):
    z, keep_i, keep_v, current, reset = random_case(3, (4, 33, 20))
    if layout == "transposed":
        given = oracles.tensor(z).transpose(1, 2)
    elif layout == "strided":
        given = torch.full((4, 40, 66), 7.0)
        given[:, ::2, ::2] = rows(z)
        given = given[:, ::2, ::2]
    elif layout == "expanded":
        z = np.broadcast_to(z[:1], z.shape)
        given = rows(z[:1]).expand(4, -1, -1)
    else:
        given = rows(z).double()
    assert layout == "double" or not given.is_contiguous()
    trace = run_forward(twin, given, keep_i, keep_v, THRESHOLD, current, reset)
    check_forward(trace, oracles.neuron(z, keep_i, keep_v, THRESHOLD, current, reset))


@TWINS
def test_voltage_at_the_threshold_neither_fires_nor_resets(twin):
    z = np.zeros((1, 3, 3), np.float32)
    z[0, :, 0] = 1.25, 1.25 + 1 / 4096, 1.25 - 1 / 4096
    keep_i, keep_v = np.zeros(3, int), np.full(3, 4096)  # the voltage stays where it is
    trace = run_forward(twin, rows(z), keep_i, keep_v, THRESHOLD, np.zeros((1, 3)), np.zeros((1, 3)))
    np.testing.assert_array_equal(trains(trace.spikes)[0], [[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(trains(trace.voltage)[0], [[5120] * 3, [5121, 0, 0], [5119] * 3])
    np.testing.assert_array_equal(trace.state.voltage.numpy(), [[5120, 0, 5119]])


@TWINS
def test_leak_is_exact_for_every_state_and_decay(twin):
    """One step without input shows the leak alone: products of up to 42 bits, cut toward zero."""
    rng = np.random.default_rng(0)
    edges = np.array([0, 1, 4095, 4096, 4097, 2**19 - 1, 2**19, 2**19 + 1, 2**23, 2**29, 2**29 + 4095, 2**30 - 1])
    state = np.concatenate([edges, -edges, rng.integers(-(2**30) + 1, 2**30, 4097 * 2)])
    keep = np.concatenate([rng.integers(0, 4097, 2 * len(edges)), np.repeat(np.arange(4097), 2)])
    expected = np.fix(state * keep / 4096)  # exact: below 2**53, divided by a power of two
    z = torch.zeros(1, 1, len(state))
    zero = np.zeros((1, len(state)))
    as_current = run_forward(twin, z, keep, np.zeros_like(keep), NEVER, state[None], zero)
    as_voltage = run_forward(twin, z, np.zeros_like(keep), keep, NEVER, zero, state[None])
    np.testing.assert_array_equal(as_current.state.current[0].numpy(), expected)
    np.testing.assert_array_equal(as_voltage.voltage[0, 0].numpy(), expected)


@TWINS
@pytest.mark.parametrize("size", [2**19, 2**23, 2**29])
def test_large_states(twin, size):
    rng = np.random.default_rng(size)
    shape = (2, 131, 200)
    z = rng.normal(0, size / 4096 / 14, shape).astype(np.float32)
    z[:, ::2] += np.float32(size / 4096 / 70)
    keep_i, keep_v = rng.integers(0, 2000, 131), rng.integers(3500, 4000, 131)
    threshold = int(0.7 * size)
    expected = oracles.neuron(z, keep_i, keep_v, threshold)
    assert size < np.abs(expected[1]).max() < 2**30
    assert expected[2].any()
    trace = run_forward(twin, rows(z), keep_i, keep_v, threshold, np.zeros((2, 131)), np.zeros((2, 131)))
    check_forward(trace, expected)


@TWINS
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**18, -(2.0**18), 1e38, -1e38])
@pytest.mark.parametrize("where", [(0, 0, 0), (1, 129, 4)])
def test_input_out_of_range_raises(twin, bad, where):
    z = np.zeros((2, 130, 5), np.float32)
    z[where] = bad
    zero = np.zeros((2, 130))
    with pytest.raises(OverflowError, match="not finite, or a current or voltage that left"):
        run_forward(twin, rows(z), np.full(130, 3072), np.full(130, 3973), THRESHOLD, zero, zero)


@TWINS
@pytest.mark.parametrize("sign", [1, -1])
def test_largest_input_is_taken(twin, sign):
    z = np.full((1, 1, 1), sign * np.nextafter(np.float32(2**18), np.float32(0)))
    trace = run_forward(twin, rows(z), np.zeros(1), np.zeros(1), NEVER, np.zeros((1, 1)), np.zeros((1, 1)))
    assert trace.voltage.item() == sign * (2**30 - 64)


@TWINS
@pytest.mark.parametrize("case", ["current", "voltage", "current between", "input beside a state"])
def test_state_out_of_range_raises(twin, case):
    z = np.zeros((1, 1, 4), np.float32)
    keep_i, keep_v, current, reset = 4096, 0, 0, 0
    if case == "current":
        z[:] = 100000.0
    elif case == "voltage":
        z[:], keep_i, keep_v = -100000.0, 0, 4096
    elif case == "current between":  # the voltage stays inside, and so does the last current
        z[0, 0] = [-130000.0, 200000.0, 200000.0, -200000.0]
        current, reset, keep_v = 0, -(2**29), 4096
        i, v, *_ = oracles.neuron(z, 4096, 4096, NEVER, [[0]], [[reset]])
        assert np.abs(v).max() < 2**30 <= np.abs(i).max()
        assert np.abs(i[..., -1]) < 2**30
    else:  # input of exactly 2**30 that a state of the other sign brings back inside
        z[0, 0, 0], current = 2.0**18, -100
    with pytest.raises(OverflowError, match="left the range of the fixed-point"):
        run_forward(twin, rows(z), [keep_i], [keep_v], NEVER, [[current]], [[reset]])


@TWINS
@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.zeros(2, 3, 4, dtype=torch.int32), torch.zeros(2, 0, 3)])
def test_neuron_refuses_other_tensors(twin, bad):
    with pytest.raises(ValueError, match=r"z: expected a floating-point tensor \[B, T, C\] with no side empty, found"):
        run_forward(twin, bad, [0], [0], THRESHOLD, [[0]], [[0]])


# --------------------------------------------------------------------------------------------- neuron, backward


def backward_case(seed, sizes):
    z, keep_i, keep_v, current0, reset0 = random_case(seed, sizes)
    current, voltage, spikes, *_ = oracles.neuron(z, keep_i, keep_v, THRESHOLD, current0, reset0)
    return keep_i, keep_v, current0, reset0, current, voltage, spikes


def run_backward(twin, case, *grads, threshold=THRESHOLD, surrogate=SURROGATE, **options):
    keep_i, keep_v, current0, reset0, _, voltage, _ = case
    spike, volt, curr = (g if g is None or isinstance(g, torch.Tensor) else rows(g) for g in grads)
    membrane = membrane_of(keep_i, keep_v, threshold, surrogate)
    return twin.neuron_backward(
        OutputGradients(spike, volt, curr), rows(voltage, torch.int32), membrane, state_of(current0, reset0), **options
    )


def expect_backward(case, spike=None, voltage=None, current=None):
    keep_i, keep_v, current0, reset0, i, v, s = case
    return oracles.neuron_gradient(
        spike, i, v, s, keep_i, keep_v, oracles.surrogate(v), current0, reset0, voltage, current
    )


@TWINS
@SIZES
@pytest.mark.parametrize("given", ["spike", "voltage", "current", "all"])
def test_neuron_backward(twin, sizes, given):
    case = backward_case(1, sizes)
    rng = np.random.default_rng(2)
    grads = {k: rng.normal(size=sizes) if given in (k, "all") else None for k in ("spike", "voltage", "current")}
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.float64, 1e-11)]:
        if dtype == torch.float32 and twin is reference and sizes[2] == 1000:
            continue  # a plain float32 sum over so many steps; the fast twin must hold what it does not
        if dtype == torch.float64 and twin is cpu:
            continue
        found = run_backward(twin, case, *(None if g is None else rows(g, dtype) for g in grads.values()))
        for f, e in zip(found, expect_backward(case, **grads), strict=True):
            assert f.dtype == dtype
            assert_close(trains(f) if f.dim() == 3 else f, e, tolerance)


@TWINS
def test_neuron_backward_without_decay_gradients(twin):
    case = backward_case(1, (2, 5, 7))
    grad = np.random.default_rng(0).normal(size=(2, 5, 7))
    grad_z, by_current, by_voltage = run_backward(twin, case, grad, None, None, need_decay=False)
    assert by_current is None
    assert by_voltage is None
    assert_close(trains(grad_z), expect_backward(case, grad)[0])


@TWINS
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_neuron_backward_takes_any_layout(twin, which, layout):
    sizes = (3, 131, 20)
    case = backward_case(4, sizes)
    g = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    if layout == "transposed":
        given = oracles.tensor(g).transpose(1, 2)
    elif layout == "strided":
        given = torch.full((3, 40, 131), 9.0)[:, ::2]
        given.copy_(rows(g))
    else:
        g = np.broadcast_to(g[:, :, :1], sizes)
        given = rows(g[:, :, :1]).expand(-1, 20, -1)
    assert not given.is_contiguous()
    grads = [None] * 3
    grads[which] = given
    named = {("spike", "voltage", "current")[which]: g}
    for f, e in zip(run_backward(twin, case, *grads), expect_backward(case, **named), strict=True):
        assert_close(trains(f) if f.dim() == 3 else f, e)


@TWINS
@pytest.mark.parametrize("same_lag", [True, False])
def test_neuron_backward_with_the_axon_in_it(twin, same_lag):
    rng = np.random.default_rng(8)
    sizes = (3, 140, 30)
    case = backward_case(2, sizes)
    grad = rng.normal(size=sizes)
    lag = np.full(140, 3) if same_lag else rng.integers(0, 35, 140)
    kept = rng.random((3, 140)) < 0.8
    found = run_backward(twin, case, grad, None, None, axon=Axon(ints(lag), oracles.tensor(kept, torch.uint8), 1.25))
    at_neuron = oracles.shifted_back(grad, lag) * 1.25 * kept[:, :, None]
    for f, e in zip(found, expect_backward(case, at_neuron), strict=True):
        assert_close(trains(f) if f.dim() == 3 else f, e)


@TWINS
def test_surrogate_at_every_distance(twin):
    """One step, one sample: the gradient of z is the surrogate, down to where float32 ends."""
    rng = np.random.default_rng(0)
    v = np.concatenate([[THRESHOLD], THRESHOLD + rng.integers(-(2**17), 2**17, 5000), [2**30 - 1, -(2**30) + 1]])
    n = len(v)
    case = (np.zeros(n), np.zeros(n), np.zeros((1, n)), np.zeros((1, n)), None, v.reshape(1, n, 1), None)
    grad_z, *_ = run_backward(twin, case, np.ones((1, n, 1)), None, None, need_decay=False)
    expected = oracles.surrogate(v)
    found = grad_z.flatten().numpy().astype(np.float64)
    assert found[0] == pytest.approx(0.04, rel=1e-6)  # 0.3 / (2 * 3.75)
    near = expected > 1e-30
    np.testing.assert_allclose(found[near], expected[near], rtol=2e-6)
    close = np.abs(v - THRESHOLD) < 2.5 * 4096 * SURROGATE.tau / np.log2(np.e)  # some whole turns of the exponent
    assert close.sum() > 500
    np.testing.assert_allclose(found[close], expected[close], rtol=4e-7)
    assert (np.abs(found[~near]) < 1e-30).all()


@TWINS
def test_a_neuron_that_never_fires_has_finite_gradients(twin):
    """With NEVER as threshold the distance does not fit 32 bits; whatever tau is, no gradient may turn NaN."""
    v = np.array([-1, -2, 0, 1, -(2**29), 2**29]).reshape(1, 6, 1)
    zero = np.zeros((1, 6))
    case = (np.zeros(6), np.zeros(6), zero, zero, None, v, None)
    for exponent in [128, 384] + [255 - 127 + 256 * m for m in range(600, 610)]:
        tau = 2**31 / 4096 * np.log2(np.e) / (exponent + 0.5)  # a wrapped distance would give 2**exponent, Inf
        grad_z, *_ = run_backward(
            twin, case, None, np.ones((1, 6, 1)), None, threshold=NEVER, surrogate=Surrogate(tau, 0.1 / tau)
        )
        assert (grad_z == 1).all(), tau


# --------------------------------------------------------------------------------------------------------- axon


@SIZES
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
    assert np.vdot(grad, expected * 1.5) == pytest.approx(np.vdot(expected_back, spikes))  # of the oracle itself

    by_delay = reference.delay_gradient(rows(grad), out, 1.5)
    assert_close(by_delay, oracles.delay_gradient(grad, expected * 1.5))


def test_axon_takes_strided_rows():
    rng = np.random.default_rng(0)
    spikes, grad = (rng.random((2, 9, 12)) < 0.4).astype(np.int64), rng.normal(size=(2, 9, 12))
    axon = Axon(ints(np.arange(9)))
    expected = oracles.shifted(spikes, np.arange(9))
    out = reference.axon_forward(oracles.tensor(spikes, torch.uint8).transpose(1, 2), axon)
    np.testing.assert_array_equal(trains(out), expected)
    strided = oracles.tensor(grad).transpose(1, 2)
    assert_close(trains(axon_backward(strided, axon)), oracles.shifted_back(grad, np.arange(9)), 1e-6)
    of_output = oracles.tensor(expected, torch.uint8).transpose(1, 2)
    assert_close(reference.delay_gradient(strided, of_output), oracles.delay_gradient(grad, expected))


# --------------------------------------------------------------------------------------------- weights, products


def weight_case(seed, outputs, inputs):
    """Weights with ties of the rounding, values beyond the clamp, and everything between."""
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 1.5, (outputs, inputs)).astype(np.float32)
    ties = rng.random(w.shape) < 0.2
    w[ties] = (rng.integers(-140, 140, ties.sum()) + 0.5) / 32
    w.flat[: min(4, w.size)] = np.array([-4 - 1 / 64, 254 / 64 + 1 / 64, 4.5, -300], np.float32)[: w.size]
    return w


SHAPES = pytest.mark.parametrize("shape", [(1, 1), (10, 512), (33, 7), (16, 16), (130, 45)], ids=str)


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


def test_quantise_rounds_half_to_even():
    w = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.5]]) / 32
    for twin in (reference, cpu):
        values = twin.weight_values(twin.quantise(w, torch.ones(1))) * 32
        assert values[0].tolist() == [0, 2, 2, 0, -2, 126, 127, -128]


@TWINS
def test_quantise_raises_for_nan(twin):
    w = torch.zeros(40, 30)
    w[37, 29] = float("nan")
    with pytest.raises(OverflowError, match="weights: expected finite numbers, found NaN"):
        twin.quantise(w, torch.ones(40))
    with pytest.raises(
        OverflowError, match="weights: expected finite numbers, found NaN"
    ):  # a row of zeros under weight normalisation
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
    layout = torch.from_numpy(grad if twin is reference else np.ascontiguousarray(grad.T))
    by_v, by_g = twin.quantise_gradient(v, factor, norm, layout)
    expected_v, expected_g = oracles.straight_through(v, g, grad)
    if weight_norm and shape[1] > 1:
        assert_close(by_v, expected_v)
        assert_close(by_g.reshape(-1, 1), expected_g)
    elif weight_norm:  # one input: v has no direction to turn to
        assert np.abs(by_v.numpy()).max() < 1e-5
        assert_close(by_g.reshape(-1, 1), expected_g)
    else:
        np.testing.assert_array_equal(by_v.numpy(), expected_v.astype(np.float32))
        assert by_g is None
        assert w_outside_has_no_gradient(v, by_v)


def w_outside_has_no_gradient(w, grad) -> bool:
    outside = (w > 128 / 32) | (w < -129 / 32)
    return bool((grad[outside] == 0).all() and (grad[~outside] != 0).any() | (w.numel() == 1))


DENSITIES = pytest.mark.parametrize("density", [0.0, 0.01, 0.6 * DENSE_FROM, 0.5, 1.0])
VALUES = pytest.mark.parametrize("value", [1.0, 1 / 0.95, 0.25])


def spike_case(seed, sizes, density, value):
    rng = np.random.default_rng(seed)
    dense = (rng.random(sizes) < density).astype(np.uint8)
    return dense, Spikes.from_rows(oracles.tensor(np.swapaxes(dense, 1, 2), torch.uint8), value)


def product_of(twin):
    """A twin's product by itself; the CPU's stands apart from the neuron for dense inputs alone."""
    return cpu_product.dense_product if twin is cpu else twin.product


@TWINS
@DENSITIES
@VALUES
def test_product_of_events(twin, density, value):
    dense, spikes = spike_case(1, (3, 70, 11), density, value)
    assert (spikes.density > DENSE_FROM) == (density > 0.2)  # both sides of the switch are met
    w = weight_case(1, 150, 70)
    weights = twin.quantise(torch.from_numpy(w), torch.ones(150))
    z = product_of(twin)(spikes, weights)
    np.testing.assert_array_equal(trains(z), oracles.product(oracles.steps_of_weight(w), dense, value))


@TWINS
def test_product_of_graded_rows(twin):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20, 6)).astype(np.float32)
    w = weight_case(1, 30, 20)
    z = product_of(twin)(rows(x), twin.quantise(torch.from_numpy(w), torch.ones(30)))
    assert_close(trains(z), np.einsum("oi,bit->bot", oracles.steps_of_weight(w) / 32, x.astype(np.float64)), 1e-6)


def layer_voltage(trace, sizes) -> np.ndarray:
    """The voltage that a layer kept for its backward pass, as [B, C, T]; the CPU's lies by chunks of channels."""
    batch, channels, steps = sizes
    voltage = trace.saved[0]
    if voltage.dim() == 1:
        voltage = voltage.view(batch, -1, steps, LANES).transpose(1, 2).reshape(batch, steps, -1)[..., :channels]
    return trains(voltage)


def layer_case(twin, sizes, outputs, density, value, same_lag, dropped):
    """Arguments of `layer_forward`, and what the oracles expect of it."""
    rng = np.random.default_rng(6)
    batch, inputs, steps = sizes
    dense, spikes = spike_case(2, sizes, density, value)
    w = weight_case(3, outputs, inputs) * np.float32(0.1)
    weights = twin.quantise(torch.from_numpy(w), torch.ones(outputs))
    _, keep_i, keep_v, current, reset = random_case(1, (batch, outputs, 1))
    lag = np.full(outputs, 2) if same_lag == 1 else rng.integers(1, 1 + same_lag, outputs)
    kept = rng.random((batch, outputs)) < 0.7 if dropped else None
    z = oracles.product(oracles.steps_of_weight(w), dense, value)
    neuron = oracles.neuron(z, keep_i, keep_v, THRESHOLD, current, reset)
    sent = neuron[2] if kept is None else neuron[2] * kept[:, :, None]
    axon = Axon(ints(lag), None if kept is None else oracles.tensor(kept, torch.uint8), 1.25 if dropped else 1.0)
    given = weights, membrane_of(keep_i, keep_v), state_of(current, reset), axon
    inside = {
        "voltage": neuron[1], "current": neuron[0], "spikes": neuron[2], "lag": lag, "start": (current, reset),
    }  # fmt: skip
    return dense, spikes, given, neuron, oracles.shifted(sent, lag), (oracles.steps_of_weight(w), inside, kept)


LAGS = pytest.mark.parametrize("same_lag", [1, 2, 30])  # one lag, two neighbours, all over the place


@TWINS
@DENSITIES
@VALUES
@LAGS
@pytest.mark.parametrize("dropped", [False, True])
def test_layer_forward(twin, density, value, same_lag, dropped):
    sizes, outputs = (3, 70, 25), 140
    dense, spikes, given, neuron, expected, _ = layer_case(twin, sizes, outputs, density, value, same_lag, dropped)
    _, voltage, fired, current, reset = neuron
    for source in (spikes, oracles.tensor(dense * np.float32(value)).transpose(1, 2)):
        if not isinstance(source, Spikes) and value == 1 / 0.95:
            continue  # a dense product of such a value is not exact: blocks hand over events then
        trace = twin.layer_forward(source, *given)
        np.testing.assert_array_equal(layer_voltage(trace, (3, outputs, 25)), voltage)
        np.testing.assert_array_equal(trace.state.current.numpy(), current)
        np.testing.assert_array_equal(trace.state.voltage.numpy(), reset)
        assert trace.spikes.shape == (3, outputs, 25)
        assert trace.spikes.value == given[-1].value
        np.testing.assert_array_equal(trains(trace.spikes.rows(value=1.0)), expected)
        listed = Spikes.from_rows(rows(expected, torch.uint8))  # in order, none twice
        assert torch.equal(trace.spikes.indptr, listed.indptr)
        assert torch.equal(trace.spikes.channel, listed.channel)
        bare = twin.layer_forward(source, *given, need_grad=False)
        assert bare.saved == ()
        assert torch.equal(bare.spikes.channel, trace.spikes.channel)
        assert torch.equal(bare.state.voltage, trace.state.voltage)
        assert torch.equal(bare.state.current, trace.state.current)
    assert density < 0.04 or fired.any()


@pytest.mark.parametrize(
    ("twin", "threads"), [(reference, 1), (cpu, 1), (cpu, 2)], ids=["reference", "cpu, 1 thread", "cpu, 2 threads"]
)
@LAGS
@pytest.mark.parametrize("density", [0.0, 0.6 * DENSE_FROM, 0.5])
@pytest.mark.parametrize("outputs", [1, 10, 64, 150])
@pytest.mark.parametrize("dropped", [False, True])
def test_layer_backward(twin, threads, same_lag, density, outputs, dropped):
    sizes, value = (3, 70, 25), 0.25
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        dense, spikes, given, _, out, inside = layer_case(twin, sizes, outputs, density, value, same_lag, dropped)
        _, membrane, _, axon = given
        steps, known, kept_there = inside
        grad = np.random.default_rng(0).normal(size=(3, outputs, 25))
        expected = oracles.block_gradient(
            grad, dense * value, steps, known, out, *(r.numpy() for r in membrane[:2]), kept=kept_there,
            value=axon.value, delay=axon.lag,
        )  # fmt: skip
        saved = twin.layer_forward(spikes, *given).saved
        arguments = (rows(grad), saved, spikes, *given)
        found = twin.layer_backward(*arguments)
        assert_close(trains(found.input), expected["x"])
        assert_close(found.weights if twin is reference else found.weights.t(), expected["weight"])
        for name in ("current_decay", "voltage_decay", "delay"):
            assert_close(getattr(found, name), expected[name])
        only = twin.layer_backward(*arguments, Needs(input=False))
        assert only.input is None
        assert torch.equal(only.weights, found.weights)
        only = twin.layer_backward(*arguments, Needs(weights=False))
        assert only.weights is None
        assert torch.equal(only.input, found.input)
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@TWINS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 2.0**16, -(2.0**16)])
def test_layer_forward_raises_for_a_value_out_of_range(twin, value):
    spikes = Spikes(ints([0, 0, 4]), ints([0, 1, 2, 3]), (1, 40, 2))
    spikes.value = value  # `Spikes` itself refuses what is not finite
    weights = twin.quantise(torch.ones(3, 40), torch.ones(3))
    zero = np.zeros(3)
    with pytest.raises(OverflowError, match="left the range of the fixed-point"):
        twin.layer_forward(spikes, weights, membrane_of(zero, zero), state_of(zero[None], zero[None]), Axon(ints(zero)))


def test_layer_forward_refuses_what_its_integers_cannot_hold():
    inputs = MAX_INPUTS + 1
    spikes = Spikes(ints([0, 0]), ints([]), (1, inputs, 1))
    table = torch.zeros(inputs, 1, dtype=torch.int8)
    with pytest.raises(ValueError, match=f"at most {MAX_INPUTS} inputs, found {inputs}"):
        cpu.layer_forward(spikes, table, membrane_of([0], [0]), state_of([[0]], [[0]]), Axon(ints([0])))
    assert MAX_INPUTS * 128 * 128 < 2**30  # the largest sum fits


def test_largest_sums_are_exact():
    """All inputs at once, all weights at their limits: sums near the end of the range."""
    inputs = 40_000
    channel = ints(np.arange(inputs))
    spikes = Spikes(ints([0] + [inputs] * 200), channel, (1, inputs, 200))
    assert spikes.density < DENSE_FROM
    table = torch.tensor([[-128, 127]], dtype=torch.int8).repeat(inputs, 1)
    membrane, state = membrane_of([0, 0], [0, 0], NEVER), state_of([[0, 0]], [[0, 0]])
    trace = cpu.layer_forward(spikes, table, membrane, state, Axon(ints([0, 0])))
    assert layer_voltage(trace, (1, 2, 200))[0, :, 0].tolist() == [-128 * 128 * inputs, 127 * 128 * inputs]


BAD = {  # what a user's own state, mask or delay may do to the compiled code, and what is said about it
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
@pytest.mark.parametrize("name", BAD)
def test_nothing_unchecked_reaches_compiled_code(twin, name):
    changed, message = BAD[name]
    zero = np.zeros((1, 5))
    given = {"membrane": membrane_of(zero[0], zero[0]), "state": state_of(zero, zero), "axon": Axon(ints(zero[0]))}
    spikes = Spikes(ints([0, 2, 2]), ints([0, 3]), (1, 4, 2))
    weights = twin.quantise(torch.ones(5, 4), torch.ones(5))
    twin.layer_forward(spikes, weights, **given)
    with pytest.raises(ValueError, match=f"{message}.*: expected .*, found"):
        twin.layer_forward(spikes, weights, **{**given, **changed})


def products_of(twin):
    return cpu_product if twin is cpu else twin


@TWINS
@DENSITIES
@VALUES
@pytest.mark.parametrize("outputs", [1, 10, 150])
def test_weight_gradient(twin, density, value, outputs):
    dense, spikes = spike_case(5, (3, 70, 11), density, value)
    grad_z = np.random.default_rng(0).normal(size=(3, outputs, 11))
    expected = oracles.weight_gradient(grad_z, dense * value)
    graded = oracles.tensor(dense * value).transpose(1, 2)
    for source in (spikes, graded):
        found = products_of(twin).weight_gradient(source, rows(grad_z))
        assert_close(found if twin is reference else found.t(), expected)


@TWINS
def test_input_gradient(twin):
    grad_z = np.random.default_rng(0).normal(size=(2, 30, 9))
    w = weight_case(1, 30, 20)
    weights = twin.quantise(torch.from_numpy(w), torch.ones(30))
    expected = np.einsum("oi,bot->bit", oracles.steps_of_weight(w) / 32, grad_z)
    assert_close(trains(products_of(twin).input_gradient(rows(grad_z), weights)), expected, 1e-6)


# ------------------------------------------------------------------------------------------------------- switch


@pytest.fixture
def clean_choice(monkeypatch):
    monkeypatch.delenv(backend.ENVIRONMENT, raising=False)
    kernels.use(None)
    yield monkeypatch
    kernels.use(None)


CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def test_switch_by_argument_and_environment(clean_choice):
    assert backend.resolve(CPU) == "cpu"
    kernels.use("reference")
    assert backend.resolve(CPU) == "reference"
    assert backend.resolve(CUDA) == "reference"
    with kernels.using("cpu"):
        assert backend.resolve(CPU) == "cpu"
        with kernels.using("auto"):
            assert backend.resolve(CPU) == "cpu"
    assert backend.resolve(CPU) == "reference"
    kernels.use(None)
    clean_choice.setenv(backend.ENVIRONMENT, "reference")
    assert backend.resolve(CPU) == "reference"
    with kernels.using("cpu"):  # the argument goes before the environment
        assert backend.resolve(CPU) == "cpu"
    assert backend.resolve(CPU) == "reference"


def test_using_gives_the_choice_back_after_an_error(clean_choice):
    def fail():
        with kernels.using("reference"):
            raise KeyError("x")

    pytest.raises(KeyError, fail)
    assert backend.resolve(CPU) == "cpu"


def test_switch_refuses_unknown_names(clean_choice):
    with pytest.raises(ValueError, match="kernels.use: expected a back end of auto, reference, .*, found 'fast'"):
        kernels.use("fast")
    with pytest.raises(ValueError, match="found 'numba'"), kernels.using("numba"):
        pass
    assert backend.resolve(CPU) == "cpu"
    clean_choice.setenv(backend.ENVIRONMENT, "slow")
    with pytest.raises(
        ValueError, match="environment variable NMNIST_BACKEND: expected a back end of .*, found 'slow'"
    ):
        backend.resolve(CPU)


def test_a_choice_that_cannot_be_had_raises(clean_choice):
    clean_choice.setenv("TRITON_INTERPRET", "0")
    kernels.use("cpu")
    with pytest.raises(RuntimeError, match="back end 'cpu': expected tensors on the CPU, found them on cuda:0"):
        backend.resolve(CUDA)
    kernels.use("gpu")
    with pytest.raises(
        RuntimeError, match="back end 'gpu': expected (tensors on a CUDA device, found them on cpu|the package triton)"
    ):
        backend.resolve(CPU)
    with pytest.raises(RuntimeError, match="back end 'gpu': expected"):
        Dense({"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}, 4, 2)(torch.zeros(1, 4, 3))
    clean_choice.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="expected the package triton, found none"):
        backend.resolve(CUDA)
    kernels.use("auto")
    assert backend.resolve(CUDA) == "reference"


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_the_chosen_twin_is_the_one_that_runs(clean_choice, name):
    ran = []
    for twin in (reference, cpu):
        original = twin.layer_forward
        clean_choice.setattr(twin, "layer_forward", lambda *a, t=twin, f=original, **o: (ran.append(t), f(*a, **o))[1])
    with kernels.using(name):
        Dense({"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}, 4, 2)(torch.zeros(1, 4, 3))
    assert ran == [{"reference": reference, "cpu": cpu}[name]]


def test_backward_runs_on_the_twin_of_its_forward(clean_choice):
    """Weights lie in the twin's own layout: another twin's backward would read them transposed."""
    torch.manual_seed(0)
    params = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03, "tau_grad": 0.03, "scale_grad": 3}
    block = Dense(params, 8, 8, weight_scale=4)
    x = (torch.rand(2, 8, 20) < 0.4).float().requires_grad_()
    inside, outside = [], []
    for name in ("cpu", "reference"):
        with kernels.using(name):
            inside.append(torch.autograd.grad(block(x).square().sum(), x)[0])
            out = block(x)
        with kernels.using({"cpu": "reference", "reference": "cpu"}[name]):
            outside.append(torch.autograd.grad(out.square().sum(), x)[0])
    assert inside[0].abs().max() > 0
    for found in (inside[1], *outside):
        assert_close(found, inside[0])
