"""Compare the Triton kernels for neurons with NumPy: states in 64-bit integers, gradients in float64."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from support import oracles
from support.neurons import THRESHOLD
from support.oracles import NEVER, assert_close
from support.rows import SURROGATE, ints, random_case, rows, trains

from nmnist_helpers.kernels import gpu, reference
from nmnist_helpers.kernels.common import Axon, Membrane, OutputGradients, State
from nmnist_helpers.kernels.gpu import launch
from nmnist_helpers.kernels.gpu.neuron import leak

SIZES = [(3, 1, 1), (1, 37, 2), (2, 33, 29), (1, 5, 120)]  # (B, C, T); blocks are 32 channels wide at these sizes


def membrane_of(retain_i, retain_v, device, threshold=THRESHOLD) -> Membrane:
    return Membrane(ints(retain_i).to(device), ints(retain_v).to(device), threshold, SURROGATE)


def run_forward(z, retain_i, retain_v, current, reset, device, threshold=THRESHOLD, **options):
    state = State(ints(current).to(device), ints(reset).to(device))
    return gpu.neuron_forward(z, membrane_of(retain_i, retain_v, device, threshold), state, **options)


@triton.jit
def leak_kernel(state, keep, out, N, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, leak(tl.load(state + i, mask=i < N), tl.load(keep + i, mask=i < N)), mask=i < N)


def test_leak_is_exact_for_every_decay_and_all_kinds_of_states(device):
    keep = np.arange(4097)
    edges = np.array([0, 1, 4095, 4096, 4097, 2**19, 2**19 + 1, 2**23 - 1, 2**24 + 1, 2**30 - 1])
    random = np.random.default_rng(0).integers(0, 2**30, 20)
    states, keeps = np.meshgrid(np.concatenate([edges, -edges, random, -random]), keep)
    states, keeps = states.ravel(), keeps.ravel()
    out = torch.empty(len(states), dtype=torch.int32, device=device)
    block = 1 << 15
    grid = (triton.cdiv(len(states), block),)
    leak_kernel[grid](ints(states).to(device), ints(keeps).to(device), out, len(states), BLOCK=block)
    np.testing.assert_array_equal(out.cpu().numpy(), oracles.trunc_product(states, keeps))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_forward(device, sizes):
    z, retain_i, retain_v, current, reset = random_case(1, sizes)
    trace = run_forward(rows(z).to(device), retain_i, retain_v, current, reset, device, need_current=True)
    i, v, s, i_end, r_end = oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset)
    assert s.any() or sizes[2] < 3
    assert trace.spikes.dtype == torch.uint8
    assert trace.voltage.dtype == trace.current.dtype == torch.int32
    np.testing.assert_array_equal(trains(trace.spikes), s)
    np.testing.assert_array_equal(trains(trace.voltage), v)
    np.testing.assert_array_equal(trains(trace.current), i)
    np.testing.assert_array_equal(trace.state.current.cpu().numpy(), i_end)
    np.testing.assert_array_equal(trace.state.voltage.cpu().numpy(), r_end)


def test_forward_of_strided_rows_without_voltage(device):
    z, retain_i, retain_v, current, reset = random_case(2, (2, 7, 11))
    wide = torch.full((2, 14, 11), float("nan"), device=device)
    wide[:, ::2] = oracles.tensor(z).to(device)
    trace = run_forward(wide[:, ::2].transpose(1, 2), retain_i, retain_v, current, reset, device, need_voltage=False)
    np.testing.assert_array_equal(
        trains(trace.spikes), oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset)[2]
    )
    assert trace.voltage.numel() == 0


def test_voltage_at_the_threshold_neither_fires_nor_resets(device):
    z = np.zeros((1, 3, 3), np.float32)
    z[0, :, 0] = np.array([79, 80, 81]) * 64 / 4096
    trace = run_forward(rows(z).to(device), [0] * 3, [4096] * 3, [[0] * 3], [[0] * 3], device)
    np.testing.assert_array_equal(trains(trace.spikes)[0], [[0, 0, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(trains(trace.voltage)[0], np.array([[79] * 3, [80] * 3, [81, 0, 0]]) * 64)


def test_states_beyond_float32_precision_are_exact(device):
    z = np.full((1, 2, 9), 2**24 / 4096 + 0.0003, np.float32) * np.array([1, -1], np.float32)[:, None]
    trace = run_forward(rows(z).to(device), [4000, 4095], [3001, 4093], [[7, -7]], [[5, 5]], device, NEVER)
    expected = oracles.neuron(z, [4000, 4095], [3001, 4093], NEVER, [[7, -7]], [[5, 5]])
    assert np.abs(expected[1]).max() > 2**28
    np.testing.assert_array_equal(trains(trace.voltage), expected[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**18, -(2.0**30)])
def test_an_input_out_of_range_is_found_by_check(device, bad):
    z = np.zeros((2, 40, 3), np.float32)
    z[1, 39, 2] = bad
    zeros = np.zeros((2, 40))
    run_forward(rows(z).to(device), [0] * 40, [0] * 40, zeros, zeros, device)
    with pytest.raises(OverflowError, match="not finite, or a current or voltage that left"):
        gpu.check()
    gpu.check()  # the flag has been cleared
    z[1, 39, 2] = np.nextafter(np.float32(2**18), np.float32(0)) * np.sign(bad) if np.isfinite(bad) else 0
    run_forward(rows(z).to(device), [0] * 40, [0] * 40, zeros, zeros, device)
    gpu.check()


@pytest.mark.parametrize("retain_i", [4096, 0])
def test_a_state_out_of_range_is_found_by_check(device, retain_i):
    z = np.full((1, 1, 9), 2.0**16, np.float32)  # I (or, for retain_i = 0, only V) reaches 2**30 at the fourth step
    run_forward(rows(z[..., :3]).to(device), [retain_i], [0], [[0]], [[0]], device, NEVER)
    gpu.check()
    run_forward(rows(z).to(device), [retain_i], [4096], [[0]], [[0]], device, NEVER)
    with pytest.raises(OverflowError):
        gpu.check()


def test_an_environment_variable_requests_a_check_after_every_step(device, monkeypatch):
    monkeypatch.setenv(launch.CHECK, "1")
    with pytest.raises(OverflowError):
        run_forward(torch.full((1, 1, 1), float("nan"), device=device), [0], [0], [[0]], [[0]], device)


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(1, 0, 2), torch.zeros(1, 2, 3, dtype=torch.int32)])
def test_wrong_types_and_shapes_are_refused(device, bad):
    with pytest.raises(ValueError, match="floating-point tensor .B, T, C."):
        run_forward(bad.to(device), [0], [0], [[0]], [[0]], device)


def backward_case(seed, sizes):
    z, retain_i, retain_v, current, reset = random_case(seed, sizes)
    i, v, s, _, _ = oracles.neuron(z, retain_i, retain_v, THRESHOLD, current, reset)
    grads = np.random.default_rng(seed + 99).normal(size=(3, *sizes)).astype(np.float32)
    return retain_i, retain_v, current, reset, i, v, s, grads


def run_backward(output_grads, retain_i, retain_v, current, reset, v, device, threshold=THRESHOLD, **options):
    state = State(ints(current).to(device), ints(reset).to(device))
    grads = OutputGradients(*(None if g is None else rows(g).to(device) for g in output_grads))
    membrane = membrane_of(retain_i, retain_v, device, threshold)
    return gpu.neuron_backward(grads, rows(v, torch.int32).to(device), membrane, state, **options)


@pytest.mark.parametrize(
    ("sizes", "selected"),
    [(s, (1, 1, 1)) for s in SIZES] + [((2, 7, 11), selected) for selected in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]],
    ids=str,
)
def test_backward(device, sizes, selected):
    retain_i, retain_v, current, reset, i, v, s, grads = backward_case(3, sizes)
    selected = [g if use else None for g, use in zip(grads, selected, strict=True)]
    found = run_backward(selected, retain_i, retain_v, current, reset, v, device)
    expected = oracles.neuron_gradient(
        selected[0], i, v, s, retain_i, retain_v, oracles.surrogate(v), current, reset, *selected[1:]
    )
    assert_close(trains(found[0]), expected[0])
    assert_close(found[1].cpu(), expected[1])
    assert_close(found[2].cpu(), expected[2])


@pytest.mark.parametrize("same_lag", [True, False])
def test_backward_through_the_axon(device, same_lag):
    sizes = (2, 33, 17)
    retain_i, retain_v, current, reset, i, v, s, grads = backward_case(4, sizes)
    rng = np.random.default_rng(0)
    lag = np.full(33, 2) if same_lag else rng.integers(0, 20, 33)  # some are longer than the recording
    kept = (rng.random((2, 33)) < 0.7).astype(np.int64)
    found = run_backward(
        [grads[0], None, None], retain_i, retain_v, current, reset, v, device,
        axon=Axon(ints(lag).to(device), oracles.tensor(kept, torch.uint8).to(device), 1.25),
    )  # fmt: skip
    at_neuron = oracles.shifted_back(grads[0].astype(np.float64), lag) * kept[:, :, None] * 1.25
    expected = oracles.neuron_gradient(at_neuron, i, v, s, retain_i, retain_v, oracles.surrogate(v), current, reset)
    assert_close(trains(found[0]), expected[0])
    assert_close(found[1].cpu(), expected[1])
    assert_close(found[2].cpu(), expected[2])


def test_backward_without_decay_gradients_accepts_strided_gradients(device):
    retain_i, retain_v, current, reset, i, v, s, grads = backward_case(5, (2, 9, 13))
    state = State(ints(current).to(device), ints(reset).to(device))
    strided = oracles.tensor(grads[0]).to(device).transpose(1, 2)  # a view [B, T, C] of [B, C, T]
    assert not strided.is_contiguous()
    found = gpu.neuron_backward(
        OutputGradients(strided), rows(v, torch.int32).to(device), membrane_of(retain_i, retain_v, device), state,
        need_decay=False,
    )  # fmt: skip
    assert found[1:] == (None, None)
    expected = oracles.neuron_gradient(grads[0], i, v, s, retain_i, retain_v, oracles.surrogate(v), current, reset)
    assert_close(trains(found[0]), expected[0])


def test_a_neuron_that_never_fires_has_finite_gradients(device):
    v = np.array([[[-(2**29), 0, 2**29]]])
    found = run_backward([np.ones((1, 1, 3)), None, None], [0], [0], [[0]], [[0]], v, device, NEVER)
    assert all((x == 0).all() for x in found)


def test_both_passes_agree_with_the_reference_twin(device):
    """Only the voltage is saved; both backward passes recompute the current and the reset state from it."""
    z, retain_i, retain_v, current, reset = random_case(6, (2, 40, 21))
    membrane = membrane_of(retain_i, retain_v, "cpu")
    state = State(ints(current), ints(reset))
    reference_trace = reference.neuron_forward(rows(z), membrane, state)
    trace = run_forward(rows(z).to(device), retain_i, retain_v, current, reset, device)
    assert torch.equal(trace.voltage.cpu(), reference_trace.voltage)
    grad = torch.randn(2, 21, 40, dtype=torch.float64)
    expected = reference.neuron_backward(OutputGradients(grad), reference_trace.voltage, membrane, state)
    found = run_backward([np.swapaxes(grad.numpy(), 1, 2), None, None], retain_i, retain_v, current, reset,
                         trains(reference_trace.voltage), device)  # fmt: skip
    for x, y in zip(found, expected, strict=True):
        assert_close(x.cpu(), y)
