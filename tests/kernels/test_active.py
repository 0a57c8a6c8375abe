"""Test where neurons are active, and that skipping inactive neurons does not change a network's gradients."""

import numpy as np
import pytest
import torch
from support import oracles
from support.rows import ints, membrane_of, random_case, rows, state_of, trains

from nmnist_helpers import Network, block, kernels
from nmnist_helpers.kernels import cpu
from nmnist_helpers.kernels.common import Axon, Surrogate
from nmnist_helpers.kernels.cpu import input_gradient as module
from nmnist_helpers.kernels.cpu.input_gradient import GROUP, REACH, WORD, Active, input_gradient, zero_bits
from nmnist_helpers.kernels.cpu.layout import padded
from nmnist_helpers.loss import SpikeRate

NARROW = Surrogate(0.02, 0.3)


def bits_of(active: np.ndarray) -> np.ndarray:
    """Return the bits of `Active.near` for a bool array [B, C, T], set one at a time."""
    batch, channels, steps = active.shape
    near = zero_bits(batch, steps, padded(channels)).view(np.uint32)
    for b, c, t in zip(*np.nonzero(active), strict=True):
        near[b, t // WORD, c] |= np.uint32(1 << (t % WORD // GROUP))
    return near.view(np.int32)


@pytest.mark.parametrize("steps", [1, 7, 8, 33, 255, 256, 257, 600])
def test_a_layer_returns_where_its_neurons_are_active(steps):
    z, retain_i, retain_v, current, reset = random_case(3, (2, 70, steps))
    membrane = membrane_of(retain_i, retain_v, surrogate=NARROW)
    trace = cpu.neuron_forward(rows(z), membrane, state_of(current, reset))
    arguments = membrane, state_of(current, reset), Axon(ints(np.zeros(70)))
    weights = cpu.quantise(torch.eye(70), torch.ones(70))
    found = cpu.layer_forward(rows(z), weights, *arguments)
    low = membrane.threshold - REACH * NARROW.tau * membrane.scale
    expected = trains(trace.voltage) > low
    assert steps == 1 or 0.02 < expected.mean() < 0.9
    np.testing.assert_array_equal(found.active.near[:, :, :70], bits_of(expected)[:, :, :70])
    assert cpu.layer_forward(rows(z), weights, *arguments, need_grad=False).active is None


@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("sizes", "depth"), [((2, 40, 5), 64), ((1, 100, 300), 70), ((3, 65, 33), 150)], ids=str)
def test_the_gradient_is_complete_where_neurons_are_active(sizes, depth, dropped, monkeypatch):
    rng = np.random.default_rng(0)
    batch, channels, steps = sizes
    active = rng.random(sizes) < 0.1
    active[:, :, steps // 2 :] = False
    lag = rng.integers(1, min(13, steps - 2), channels)
    kept = rng.random((batch, channels)) < 0.6 if dropped else None
    grad_z = rng.normal(size=(batch, depth, steps))
    weights = cpu.quantise(torch.from_numpy(rng.normal(size=(depth, channels)).astype(np.float32)), torch.ones(depth))
    monkeypatch.setattr(module, "matmul", None)  # the full product must not be computed
    axon = Axon(ints(lag), None if kept is None else oracles.tensor(kept, torch.uint8))
    found = trains(input_gradient(rows(grad_z), weights, Active(bits_of(active), axon)))

    monkeypatch.undo()
    full = trains(input_gradient(rows(grad_z), weights))
    needed = np.zeros(sizes, bool)  # steps at which spikes of active steps arrive, and the steps after them
    for later in (0, 1):
        needed |= oracles.shifted(active, lag + later).astype(bool)
    if kept is not None:
        needed &= kept[:, :, None]
    assert needed.any()
    np.testing.assert_allclose(found[needed], full[needed], atol=2e-5)
    assert (found == 0).mean() > 0.3
    if kept is not None:
        assert not found[~kept].any()


def network(tau_grad: float = 0.0003) -> Network:
    torch.manual_seed(0)
    return Network((130, 90), dropout=0.3, inputs=50, neuron_params={"tau_grad": tau_grad, "threshold": 0.5})


def random_spikes() -> torch.Tensor:
    return (torch.rand(3, 50, 300, generator=torch.Generator().manual_seed(0)) < 0.2).float()


def run_network(net, spikes):
    return net(spikes)


def run_with_flatten(net, spikes):
    return Network.from_blocks([net[0], block.cuba.Flatten(), *net.blocks[1:]])(spikes)


def run_with_dense_spikes_between(net, spikes):
    return net[2](net[1](net[0](spikes, dense=False).dense(), dense=False))


def run_second_block_on_reference(net, spikes):
    hidden = net[0](spikes, dense=False)
    with kernels.using("reference"):
        hidden = net[1](hidden, dense=False)
    return net[2](hidden)


def gradients(net: Network, forward) -> list[torch.Tensor]:
    net.zero_grad()
    torch.manual_seed(1)  # for the same dropout in every run
    SpikeRate(0.2, 0.03)(forward(net, random_spikes()), torch.tensor([0, 1, 2])).backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def assert_all_close(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for gradient, target in zip(found, expected, strict=True):
        assert target.any()
        assert (gradient - target).abs().max() <= bound * target.abs().max()


@pytest.fixture
def shares(monkeypatch):
    """Record the active share that `input_gradient` computes for each layer."""
    found = []

    def record(active, steps, share=Active.share):
        found.append(share(active, steps))
        return found[-1]

    monkeypatch.setattr(Active, "share", record)
    return found


@pytest.mark.parametrize(
    "forward", [run_network, run_with_flatten, run_with_dense_spikes_between, run_second_block_on_reference]
)
def test_skipping_inactive_neurons_changes_no_gradient(forward, shares):
    net = network()
    for layer in net.blocks[:2]:
        layer.delay.delay.data.uniform_(0, 40)
    found = gradients(net, forward)
    assert len(shares) == (1 if forward in (run_network, run_with_flatten) else 0)
    assert all(0.05 < share < module.SPARSE_BELOW for share in shares)
    # With `layers`, all spikes are dense tensors, whose gradients are computed completely.
    assert_all_close(found, gradients(net, lambda net, spikes: net(spikes, layers=True)[-1]), 2e-6)
    with kernels.using("reference"):
        assert_all_close(found, gradients(net, run_network), 1e-5)


def test_a_layer_without_active_neurons_gets_the_full_gradient():
    """Even the smallest gradient matters to Adam, whose steps do not depend on its scale."""
    weights = cpu.quantise(torch.randn(64, 3), torch.ones(64))
    none_active = Active(zero_bits(2, 5, padded(3)), Axon(ints(np.zeros(3))))
    grad_z = torch.randn(2, 5, 64)
    assert torch.equal(input_gradient(grad_z, weights, none_active), input_gradient(grad_z, weights))


@pytest.mark.parametrize("convert", [False, True])
def test_a_retained_gradient_is_complete(convert):
    net, found = network(), {}
    for name in ("cpu", "reference"):
        torch.manual_seed(1)
        with kernels.using(name):
            if convert:
                hidden = net[0](random_spikes(), dense=False).dense()
                hidden.retain_grad()
                output = net[2](net[1](hidden, dense=False))
            else:
                hidden, _, output = net(random_spikes(), layers=True)
                hidden.retain_grad()
            output.sum().backward()
            found[name] = hidden.grad
    assert (found["reference"] != 0).float().mean() > 0.9
    assert_all_close([found["cpu"]], [found["reference"]], 1e-5)


@pytest.mark.parametrize(("tau", "threshold"), [(1e300, 5120), (1e-30, 5120), (0.05, 2**31 - 1), (3.75, 5120)])
def test_every_spike_is_active(tau, threshold):
    membrane = membrane_of(np.zeros(1), np.zeros(1), threshold, Surrogate(tau, 1.0))
    low = module.least_voltage(membrane)
    assert isinstance(low, int)
    assert -(2**31) <= low < threshold
