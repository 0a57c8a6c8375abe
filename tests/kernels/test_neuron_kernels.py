"""Compare the reference's and the CPU twin's kernels for neurons, forward and backward, with the oracle."""

import numpy as np
import pytest
import torch
from support import oracles
from support.neurons import THRESHOLD
from support.oracles import NEVER, assert_close
from support.pairs import pairwise
from support.rows import (
    SIZES,
    SURROGATE,
    TWINS,
    check_forward,
    ints,
    membrane_of,
    random_case,
    rows,
    run_forward,
    state_of,
    trains,
)

from nmnist_helpers.kernels import cpu, reference
from nmnist_helpers.kernels.common import Axon, OutputGradients, Surrogate

pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")


# ---------------------------------------------------------------------------------------------- neuron, forward


@TWINS
@pairwise(sizes=SIZES, per_channel=[True, False], with_state=[True, False])
def test_neuron_forward(twin, sizes, per_channel, with_state):
    for seed in (0, 1):
        case = random_case(seed, sizes, per_channel, with_state)
        z, retain_i, retain_v, current, reset = case
        expected = oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset)
        trace = run_forward(twin, rows(z), retain_i, retain_v, THRESHOLD, current, reset, need_current=True)
        assert trace.current is not None
        check_forward(trace, expected)
        if z.size > 1000:
            assert 0.01 < expected[2].mean() < 0.9  # there are steps with and without a spike
        check_forward(run_forward(twin, rows(z), retain_i, retain_v, THRESHOLD, current, reset), expected)


@TWINS
def test_neuron_forward_with_random_sizes(twin):
    rng = np.random.default_rng(5)
    for seed in range(25):
        sizes = tuple(int(n) for n in (rng.integers(1, 5), rng.integers(1, 300), rng.integers(1, 50)))
        z, retain_i, retain_v, current, reset = random_case(seed, sizes)
        trace = run_forward(twin, rows(z), retain_i, retain_v, THRESHOLD, current, reset, need_current=True)
        check_forward(trace, oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset))


@TWINS
def test_neuron_forward_does_not_change_the_given_state(twin):
    z, retain_i, retain_v, current, reset = random_case(0, (2, 5, 9))
    state = state_of(current, reset)
    twin.neuron_forward(rows(z), membrane_of(retain_i, retain_v), state)
    np.testing.assert_array_equal(state.current.numpy(), current)
    np.testing.assert_array_equal(state.voltage.numpy(), reset)


@TWINS
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "double"])
def test_neuron_forward_accepts_any_layout(twin, layout):
    z, retain_i, retain_v, current, reset = random_case(3, (4, 33, 20))
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
    trace = run_forward(twin, given, retain_i, retain_v, THRESHOLD, current, reset)
    check_forward(trace, oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset))


@TWINS
def test_voltage_at_the_threshold_neither_fires_nor_resets(twin):
    z = np.zeros((1, 3, 3), np.float32)
    z[0, :, 0] = 1.25, 1.25 + 1 / 4096, 1.25 - 1 / 4096
    retain_i, retain_v = np.zeros(3, int), np.full(3, 4096)  # the voltage does not decay
    trace = run_forward(twin, rows(z), retain_i, retain_v, THRESHOLD, np.zeros((1, 3)), np.zeros((1, 3)))
    np.testing.assert_array_equal(trains(trace.spikes)[0], [[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(trains(trace.voltage)[0], [[5120] * 3, [5121, 0, 0], [5119] * 3])
    np.testing.assert_array_equal(trace.state.voltage.numpy(), [[5120, 0, 5119]])


@TWINS
def test_leak_is_exact_for_every_state_and_decay(twin):
    """A step without input computes only the leak: products of up to 42 bits, truncated toward zero."""
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
def test_large_states_are_exact(twin, size):
    rng = np.random.default_rng(size)
    shape = (2, 131, 200)
    z = rng.normal(0, size / 4096 / 14, shape).astype(np.float32)
    z[:, ::2] += np.float32(size / 4096 / 70)
    retain_i, retain_v = rng.integers(0, 2000, 131), rng.integers(3500, 4000, 131)
    threshold = int(0.7 * size)
    expected = oracles.neuron(z, retain_i, retain_v, threshold)
    assert size < np.abs(expected[1]).max() < 2**30
    assert expected[2].any()
    trace = run_forward(twin, rows(z), retain_i, retain_v, threshold, np.zeros((2, 131)), np.zeros((2, 131)))
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
def test_largest_input_is_accepted(twin, sign):
    z = np.full((1, 1, 1), sign * np.nextafter(np.float32(2**18), np.float32(0)))
    trace = run_forward(twin, rows(z), np.zeros(1), np.zeros(1), NEVER, np.zeros((1, 1)), np.zeros((1, 1)))
    assert trace.voltage.item() == sign * (2**30 - 64)


@TWINS
@pytest.mark.parametrize("case", ["current", "voltage", "current in between", "input beside a state"])
def test_state_out_of_range_raises(twin, case):
    z = np.zeros((1, 1, 4), np.float32)
    retain_i, retain_v, current, reset = 4096, 0, 0, 0
    if case == "current":
        z[:] = 100000.0
    elif case == "voltage":
        z[:], retain_i, retain_v = -100000.0, 0, 4096
    elif case == "current in between":  # all voltages and the last current are in range
        z[0, 0] = [-130000.0, 200000.0, 200000.0, -200000.0]
        current, reset, retain_v = 0, -(2**29), 4096
        i, v, *_ = oracles.neuron(z, 4096, 4096, NEVER, [[0]], [[reset]])
        assert np.abs(v).max() < 2**30 <= np.abs(i).max()
        assert np.abs(i[..., -1]) < 2**30
    else:  # an input of exactly 2**30; the negative state brings the sum back into the range
        z[0, 0, 0], current = 2.0**18, -100
    with pytest.raises(OverflowError, match="left the range of the fixed-point"):
        run_forward(twin, rows(z), [retain_i], [retain_v], NEVER, [[current]], [[reset]])


@TWINS
@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.zeros(2, 3, 4, dtype=torch.int32), torch.zeros(2, 0, 3)])
def test_neuron_refuses_wrong_types_and_shapes(twin, bad):
    with pytest.raises(ValueError, match=r"z: expected a floating-point tensor \[B, T, C\] with no side empty, found"):
        run_forward(twin, bad, [0], [0], THRESHOLD, [[0]], [[0]])


# --------------------------------------------------------------------------------------------- neuron, backward


def backward_case(seed, sizes):
    z, retain_i, retain_v, current0, reset0 = random_case(seed, sizes)
    current, voltage, spikes, *_ = oracles.neuron(z, retain_i, retain_v, THRESHOLD, current0, reset0)
    return retain_i, retain_v, current0, reset0, current, voltage, spikes


def run_backward(twin, case, *grads, threshold=THRESHOLD, surrogate=SURROGATE, **options):
    retain_i, retain_v, current0, reset0, _, voltage, _ = case
    spike, volt, curr = (g if g is None or isinstance(g, torch.Tensor) else rows(g) for g in grads)
    membrane = membrane_of(retain_i, retain_v, threshold, surrogate)
    return twin.neuron_backward(
        OutputGradients(spike, volt, curr), rows(voltage, torch.int32), membrane, state_of(current0, reset0), **options
    )


def expected_gradients(case, spike=None, voltage=None, current=None):
    retain_i, retain_v, current0, reset0, i, v, s = case
    return oracles.neuron_gradient(
        spike, i, v, s, retain_i, retain_v, oracles.surrogate(v), current0, reset0, voltage, current
    )


@TWINS
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("which", ["spike", "voltage", "current", "all"])
def test_neuron_backward(twin, sizes, which):
    case = backward_case(1, sizes)
    rng = np.random.default_rng(2)
    grads = {k: rng.normal(size=sizes) if which in (k, "all") else None for k in ("spike", "voltage", "current")}
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.float64, 1e-11)]:
        if dtype == torch.float32 and twin is reference and sizes[2] == 1000:
            continue  # the reference's plain float32 sum over so many steps is too inaccurate
        if dtype == torch.float64 and twin is cpu:
            continue  # it computes only in float32
        found = run_backward(twin, case, *(None if g is None else rows(g, dtype) for g in grads.values()))
        for f, e in zip(found, expected_gradients(case, **grads), strict=True):
            assert f.dtype == dtype
            assert_close(trains(f) if f.dim() == 3 else f, e, tolerance)


@TWINS
def test_neuron_backward_without_decay_gradients(twin):
    case = backward_case(1, (2, 5, 7))
    grad = np.random.default_rng(0).normal(size=(2, 5, 7))
    grad_z, by_current, by_voltage = run_backward(twin, case, grad, None, None, need_decay=False)
    assert by_current is None
    assert by_voltage is None
    assert_close(trains(grad_z), expected_gradients(case, grad)[0])


@TWINS
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_neuron_backward_accepts_any_layout(twin, which, layout):
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
    for f, e in zip(run_backward(twin, case, *grads), expected_gradients(case, **named), strict=True):
        assert_close(trains(f) if f.dim() == 3 else f, e)


@TWINS
@pytest.mark.parametrize("same_lag", [True, False])
def test_neuron_backward_through_the_axon(twin, same_lag):
    rng = np.random.default_rng(8)
    sizes = (3, 140, 30)
    case = backward_case(2, sizes)
    grad = rng.normal(size=sizes)
    lag = np.full(140, 3) if same_lag else rng.integers(0, 35, 140)
    kept = rng.random((3, 140)) < 0.8
    found = run_backward(twin, case, grad, None, None, axon=Axon(ints(lag), oracles.tensor(kept, torch.uint8), 1.25))
    at_neuron = oracles.shifted_back(grad, lag) * 1.25 * kept[:, :, None]
    for f, e in zip(found, expected_gradients(case, at_neuron), strict=True):
        assert_close(trains(f) if f.dim() == 3 else f, e)


@TWINS
def test_surrogate_at_every_distance(twin):
    """With one step and one sample, the gradient of z is the surrogate; values down to 1e-30 must be accurate."""
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
    close = np.abs(v - THRESHOLD) < 2.5 * 4096 * SURROGATE.tau / np.log2(np.e)  # above 2**-2.5 of the peak
    assert close.sum() > 500
    np.testing.assert_allclose(found[close], expected[close], rtol=4e-7)
    assert (np.abs(found[~near]) < 1e-30).all()


@TWINS
def test_a_neuron_that_never_fires_has_finite_gradients(twin):
    """The distance from the threshold NEVER does not fit 32 bits; no gradient may become NaN, whatever tau is."""
    v = np.array([-1, -2, 0, 1, -(2**29), 2**29]).reshape(1, 6, 1)
    zero = np.zeros((1, 6))
    case = (np.zeros(6), np.zeros(6), zero, zero, None, v, None)
    for exponent in [128, 384] + [255 - 127 + 256 * m for m in range(600, 610)]:
        # With this tau, a distance that wraps around would give 2**exponent, which is infinite.
        tau = 2**31 / 4096 * np.log2(np.e) / (exponent + 0.5)
        grad_z, *_ = run_backward(
            twin, case, None, np.ones((1, 6, 1)), None, threshold=NEVER, surrogate=Surrogate(tau, 0.1 / tau)
        )
        assert (grad_z == 1).all(), tau
