"""Where a gradient has an effect, and that it is left out nowhere else."""

import numpy as np
import pytest
import torch
from support import oracles
from support.rows import ints, membrane_of, random_case, rows, state_of, trains

from nmnist_helpers import Network, kernels
from nmnist_helpers.kernels import cpu
from nmnist_helpers.kernels.common import Axon, Surrogate
from nmnist_helpers.kernels.cpu import input_gradient as module
from nmnist_helpers.kernels.cpu.input_gradient import GROUP, REACH, WORD, Active, input_gradient, room
from nmnist_helpers.kernels.cpu.layout import padded
from nmnist_helpers.loss import SpikeRate

NARROW = Surrogate(0.02, 0.3)


def bits_of(active: np.ndarray) -> np.ndarray:
    """Bits for neurons that are active, bool [B, C, T], counted without any trick."""
    batch, channels, steps = active.shape
    near = room(batch, steps, padded(channels)).view(np.uint32)
    for b, c, t in zip(*np.nonzero(active), strict=True):
        near[b, t // WORD, c] |= np.uint32(1 << (t % WORD // GROUP))
    return near.view(np.int32)


def grouped(active: np.ndarray) -> np.ndarray:
    """The same for every step: whether the neuron is active in the step's group."""
    steps = active.shape[2]
    out = active.copy()
    for t in range(0, steps, GROUP):
        out[..., t : t + GROUP] = active[..., t : t + GROUP].any(2, keepdims=True)
    return out


@pytest.mark.parametrize("steps", [1, 7, 8, 33, 255, 256, 257, 600])
def test_a_layer_says_where_its_neurons_are_active(steps):
    z, keep_i, keep_v, current, reset = random_case(3, (2, 70, steps))
    membrane = membrane_of(keep_i, keep_v, surrogate=NARROW)
    trace = cpu.neuron_forward(rows(z), membrane, state_of(current, reset))
    given = membrane, state_of(current, reset), Axon(ints(np.zeros(70)))
    weights = cpu.quantise(torch.eye(70), torch.ones(70))
    found = cpu.layer_forward(rows(z), weights, *given)
    low = membrane.threshold - REACH * NARROW.tau * membrane.scale
    expected = trains(trace.voltage) > low
    assert steps == 1 or 0.02 < expected.mean() < 0.9
    np.testing.assert_array_equal(found.active.near[:, :, :70], bits_of(expected)[:, :, :70])
    assert cpu.layer_forward(rows(z), weights, *given, need_grad=False).active is None


@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("sizes", "depth"), [((2, 40, 5), 64), ((1, 100, 300), 70), ((3, 65, 33), 150)], ids=str)
def test_the_gradient_is_whole_where_neurons_are_active(sizes, depth, dropped, monkeypatch):
    rng = np.random.default_rng(0)
    batch, channels, steps = sizes
    active = rng.random(sizes) < 0.1
    active[:, :, steps // 2 :] = False
    lag = rng.integers(0, min(13, steps - 2), channels)
    kept = rng.random((batch, channels)) < 0.6 if dropped else None
    grad_z = rng.normal(size=(batch, depth, steps))
    weights = cpu.quantise(torch.from_numpy(rng.normal(size=(depth, channels)).astype(np.float32)), torch.ones(depth))
    monkeypatch.setattr(module, "matmul", None)  # the whole product is not asked for
    axon = Axon(ints(lag), None if kept is None else oracles.tensor(kept, torch.uint8))
    found = trains(input_gradient(rows(grad_z), weights, Active(bits_of(active), axon)))

    monkeypatch.undo()
    whole = trains(input_gradient(rows(grad_z), weights))
    felt = np.zeros(sizes, bool)  # what arrives of an active step, and the step after it
    for later in (0, 1):
        felt |= oracles.shifted(active, lag + later).astype(bool)
    if kept is not None:
        felt &= kept[:, :, None]
    assert felt.any()
    np.testing.assert_allclose(found[felt], whole[felt], atol=2e-5)
    assert not found[:, :, : min(lag)].any()
    assert (found == 0).mean() > 0.3
    if kept is not None:
        assert not found[~kept].any()


def gradients(net: Network, spikes: torch.Tensor, **options) -> list[torch.Tensor]:
    net.zero_grad()
    torch.manual_seed(1)  # of dropout
    out = net(spikes, **options)
    SpikeRate(0.2, 0.03)(out[-1] if options else out, torch.tensor([0, 1, 2])).backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def test_what_is_left_out_changes_no_gradient(monkeypatch):
    torch.manual_seed(0)
    net = Network((130, 90), dropout=0.3, inputs=50, neuron_params={"tau_grad": 0.001, "threshold": 0.5})
    for block in net.blocks[:2]:
        block.delay.delay.data.uniform_(0, 40)
    spikes = (torch.rand(3, 50, 300) < 0.2).float()
    shares = []

    def noted(active, steps, share=Active.share):
        shares.append(share(active, steps))
        return shares[-1]

    monkeypatch.setattr(Active, "share", noted)
    sparse = gradients(net, spikes)
    assert (
        0.05 < shares[0] < module.SPARSE_BELOW
    )  # the first layer's neurons, as the second layer's gradient needs them
    whole = gradients(net, spikes, layers=True)
    with kernels.using("reference"):
        reference = gradients(net, spikes)
    for one, other, third in zip(sparse, whole, reference, strict=True):
        assert one.any()
        for expected in (other, third):
            assert (one - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_gradient_that_someone_reads_is_whole():
    torch.manual_seed(0)
    net = Network((130, 90), dropout=0.0, inputs=50, neuron_params={"tau_grad": 0.001, "threshold": 0.5})
    spikes = (torch.rand(3, 50, 300) < 0.2).float()
    found = {}
    for name in ("cpu", "reference"):
        with kernels.using(name):
            hidden = net(spikes, layers=True)
            hidden[0].retain_grad()
            hidden[-1].sum().backward()
            found[name] = hidden[0].grad
    assert (found["reference"] != 0).float().mean() > 0.9
    assert (found["cpu"] - found["reference"]).abs().max() <= 1e-5 * found["reference"].abs().max()


def test_where_nobody_is_active_there_is_no_gradient():
    weights = cpu.quantise(torch.ones(64, 3), torch.ones(64))
    nobody = Active(room(2, 5, padded(3)), Axon(ints(np.zeros(3))))
    assert torch.equal(input_gradient(torch.ones(2, 5, 64), weights, nobody), torch.zeros(2, 5, 3))
