"""Nine faults of lava-dl, which were measured or found in its code; the tests ensure that they do not occur here."""

import h5py
import numpy as np
import pytest
import torch
from support import oracles
from support.neurons import PARAMS, Blocks, sample
from torch.utils._python_dispatch import TorchDispatchMode

import nmnist_helpers as slayer
from nmnist_helpers import kernels, netx
from nmnist_helpers.block import cuba
from nmnist_helpers.kernels import cpu, reference
from nmnist_helpers.kernels.common import Membrane, State, Surrogate
from nmnist_helpers.neuron.cuba import Neuron

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])


def tutorial_network(seed=0):
    torch.manual_seed(seed)
    return Blocks((34 * 34 * 2, 512, 512, 10), dropout=0.05)


def small_block(weight_norm=True, delay=True, **changes):
    block = cuba.Dense({**PARAMS, **changes}, 30, 12, weight_scale=5, weight_norm=weight_norm, delay=delay)
    if delay:
        block.delay.delay.data.uniform_(0, 5)
    return block


# ------------------------------------------------------------- 1. decays trained uphill, 4096 times too steeply


def finite_difference(function, neuron, name, step):
    """Return the central difference with respect to a decay as it is stored, x4096."""
    decay = getattr(neuron, name)
    at, values = decay.item(), []
    for sign in (1, -1):
        decay.data.fill_(at + sign * step)
        values.append(function().item())
    decay.data.fill_(at)
    return (values[0] - values[1]) / (2 * step)


@BACKENDS
@pytest.mark.parametrize("name", ["current_decay", "voltage_decay"])
@pytest.mark.parametrize("signal", ["voltage", "current"])
def test_fault_1_decay_gradients_are_true_derivatives(backend, name, signal):
    """Below the threshold, a weighted sum of states is smooth except for truncation, so differences can be compared."""
    neuron = Neuron(**{**PARAMS, "threshold": 4000.0, "voltage_decay": 0.1})
    for decay in (neuron.current_decay, neuron.voltage_decay):
        decay.requires_grad_()
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.uniform(20, 40, (2, 3, 50)).astype(np.float32))  # large, so that truncation hardly matters
    weights = torch.from_numpy(rng.uniform(0.5, 1.5, (2, 3, 50)))

    def function():
        current, voltage = neuron.dynamics(z)
        return ((voltage if signal == "voltage" else current).double() * weights).sum()

    with kernels.using(backend):
        assert not neuron(z).any()
        function().backward()
        found = getattr(neuron, name).grad.item()
        expected = finite_difference(function, neuron, name, 4)
    if (signal, name) == ("current", "voltage_decay"):
        assert found == expected == 0
    else:
        assert expected < -10  # a larger decay reduces the sum
        assert found == pytest.approx(expected, rel=2e-3)


@BACKENDS
def test_fault_1_decay_gradients_of_every_channel(backend):
    torch.manual_seed(0)
    neuron = Neuron(4000.0, (0.1, 0.5), (0.05, 0.2), shared_param=False, num_neurons=3, requires_grad=True)
    neuron.current_decay.data.round_()
    neuron.voltage_decay.data.round_()
    z = torch.from_numpy(np.random.default_rng(0).uniform(20, 40, (2, 3, 40)).astype(np.float32))
    with kernels.using(backend):
        neuron.dynamics(z)[1].double().sum().backward()
        for decay in (neuron.current_decay, neuron.voltage_decay):
            for c in range(3):
                values = []
                for step in (4, -4):
                    decay.data[c] += step
                    values.append(neuron.dynamics(z)[1].double().sum().item())
                    decay.data[c] -= step
                assert decay.grad[c].item() == pytest.approx((values[0] - values[1]) / 8, rel=3e-3)


@BACKENDS
def test_fault_1_the_voltage_that_decays_is_the_one_after_reset(backend):
    """A neuron that fires at every step has no voltage left to decay, so its voltage decay has gradient 0."""
    neuron = Neuron(**PARAMS)
    z = torch.full((1, 2, 20), 5.0, requires_grad=True)
    with kernels.using(backend):
        out = neuron(z)
        assert out.all()
        out.sum().backward()
    assert neuron.voltage_decay.grad.item() == 0
    assert neuron.current_decay.grad.item() < 0


@BACKENDS
def test_fault_1_gradient_descent_finds_the_decays(backend):
    """Gradient descent fits a neuron's voltage to that of a neuron with other decays, from both sides."""
    z = torch.from_numpy(np.random.default_rng(0).uniform(0, 8, (4, 1, 60)).astype(np.float32))
    with kernels.using(backend):
        target = Neuron(**{**PARAMS, "threshold": 4000.0}).dynamics(z)[1].detach()
        for start in ((0.15, 0.02), (0.4, 0.06)):
            neuron = Neuron(**{**PARAMS, "threshold": 4000.0, "current_decay": start[0], "voltage_decay": start[1]})
            optimizer = torch.optim.Adam(neuron.parameters(), lr=20 / 1024)
            losses = []
            for _ in range(50):
                loss = (neuron.dynamics(z)[1] - target).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert losses[-1] < 0.05 * losses[0]


def test_fault_1_decays_have_a_step_size_that_fits_their_scale():
    """Decays are not trained in units of x4096, because a step of 0.001 would hardly change them there."""
    net = small_block()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    decays = net.neuron.current_decay, net.neuron.voltage_decay
    before = [decay.item() for decay in decays]
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for old, new in zip(before, (net.neuron.current_decay, net.neuron.voltage_decay), strict=True):
        assert 0.1 < old - new.item() <= 4.096


# -------------------------------------------------------------------------- 2. a voltage exactly at the threshold


@pytest.mark.parametrize("twin", [reference, cpu], ids=["reference", "cpu"])
def test_fault_2_a_voltage_at_the_threshold_neither_fires_nor_resets(twin):
    state = State(torch.zeros(1, 1, dtype=torch.int32), torch.tensor([[5120]], dtype=torch.int32))
    retention = torch.tensor([4096], dtype=torch.int32)
    membrane = Membrane(retention, retention, 5120, Surrogate(3.75, 0.04))
    trace = twin.neuron_forward(torch.zeros(1, 3, 1), membrane, state)
    assert not trace.spikes.any()
    assert (trace.voltage == 5120).all()
    assert trace.state.voltage.item() == 5120


@BACKENDS
def test_fault_2_a_voltage_at_the_threshold_stays_there_in_a_block(backend):
    """After one spike with weight 1.25, the voltage stays at the threshold, and the smallest input makes it fire."""
    block = cuba.Dense({**PARAMS, "current_decay": 1.0, "voltage_decay": 0.0}, 2, 1, delay_shift=False)
    block.synapse.weight.data[0, :, 0, 0, 0] = torch.tensor([1.25, 1 / 32])
    x = torch.zeros(1, 2, 6)
    x[0, 0, 1] = x[0, 1, 4] = 1
    with kernels.using(backend):
        assert block(x).flatten().tolist() == [0, 0, 0, 0, 1, 0]


# ------------------------------------------------------------------------------ 3. parameters created lazily


def test_fault_3_keys_and_shapes_are_complete_before_any_forward_pass():
    found = {key: tuple(value.shape) for key, value in tutorial_network().state_dict().items()}
    expected = {}
    for i, (inputs, outputs) in enumerate([(2312, 512), (512, 512), (512, 10)]):
        expected[f"blocks.{i}.neuron.current_decay"] = (1,)
        expected[f"blocks.{i}.neuron.voltage_decay"] = (1,)
        expected[f"blocks.{i}.synapse.weight_g"] = (outputs, 1, 1, 1, 1)
        expected[f"blocks.{i}.synapse.weight_v"] = (outputs, inputs, 1, 1, 1)
        if i < 2:
            expected[f"blocks.{i}.delay.delay"] = (512,)
    assert found == expected


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_fault_3_a_fresh_network_loads_strictly_and_gives_the_same_output(weight_norm, shared):
    torch.manual_seed(1)
    trained = small_block(weight_norm, shared_param=shared)
    x = sample((3, 30, 40), 0.15)
    loss = trained(x).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.sub_(0.01 * parameter.grad.sign())
    torch.manual_seed(2)
    fresh = small_block(weight_norm, shared_param=shared)
    assert not torch.equal(fresh(x), trained(x))
    torch.manual_seed(3)
    fresh = small_block(weight_norm, shared_param=shared)
    result = fresh.load_state_dict(trained.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    for key, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert torch.equal(fresh(x), trained(x))


def test_fault_3_a_forward_pass_creates_and_changes_no_parameters():
    net = tutorial_network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    parameters = {name: id(p) for name, p in net.named_parameters()}
    spikes = sample((1, 2312, 5), 0.02)
    for block in net.blocks:
        spikes = block(spikes)
    assert {name: id(p) for name, p in net.named_parameters()} == parameters
    assert net.state_dict().keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(net.state_dict()[key], value), key


def test_fault_3_the_same_seed_makes_the_same_network():
    for a, b in zip(tutorial_network(5).parameters(), tutorial_network(5).parameters(), strict=True):
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------ 4. export that changes the network


@pytest.mark.parametrize("forward_first", [True, False])
def test_fault_4_export_does_not_change_the_block(tmp_path, forward_first):
    torch.manual_seed(0)
    block = small_block().train()
    block.delay.delay.data[0] = 61.7
    x = sample((3, 30, 40), 0.15)
    expected = small_block()
    expected.load_state_dict(block.state_dict())
    expected = expected(x)
    if forward_first:
        assert torch.equal(block(x), expected)
    names = [name for name, _ in block.named_parameters()]
    objects = [id(p) for p in block.parameters()]
    state = {key: value.clone() for key, value in block.state_dict().items()}
    for attempt in range(2):  # exporting twice must work
        with h5py.File(tmp_path / f"{attempt}.net", "w") as file:
            block.export_hdf5(file.create_group("layer/0"))
    assert [name for name, _ in block.named_parameters()] == names
    assert [id(p) for p in block.parameters()] == objects
    assert block.synapse.weight_norm_enabled
    assert block.training
    for key, value in block.state_dict().items():
        assert torch.equal(value, state[key]), key
    out = block(x)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert (block.synapse.weight_g.grad != 0).any()


def test_fault_4_the_export_gives_the_output_of_the_block(tmp_path):
    torch.manual_seed(1)
    block = small_block()
    with h5py.File(tmp_path / "one.net", "w") as file:
        block.export_hdf5(file.create_group("layer/0"))
    x = sample((3, 30, 40), 0.15)
    assert block(x).any()
    assert torch.equal(netx.load(tmp_path / "one.net")(x), block(x))
    with h5py.File(tmp_path / "one.net") as file:
        weight = oracles.normed(block.synapse.weight_v, block.synapse.weight_g).detach().reshape(12, 30)
        np.testing.assert_array_equal(file["layer/0/weight"][()], 2 * oracles.steps_of_weight(weight))
        np.testing.assert_array_equal(file["layer/0/delay"][()], block.delay.delay.detach().floor().numpy())


# ------------------------------------------------------------------------- 5. `best_accuracy` read before `update`


def test_fault_5_best_accuracy_refers_to_the_current_epoch():
    stats = slayer.utils.LearningStats()
    for correct, best in ((5, True), (7, True), (6, False), (7, False), (9, True)):
        stats.testing.num_samples += 10
        stats.testing.correct_samples += correct
        before = stats.testing.best_accuracy  # as in the tutorial
        stats.update()
        assert before is best
        assert stats.testing.best_accuracy is best


# ------------------------------------------------------------------------------------------------ 6. augmentation


def test_fault_6_augment_is_a_rotation_about_the_centre():
    """A square of events keeps its shape and, except for the shift, its centre; the original does not change."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(8.0, 26), np.arange(8.0, 26)))
    event = slayer.io.Event(x, y, np.zeros_like(x), np.arange(len(x), dtype=float))
    given = event.x.copy(), event.y.copy()
    torch.manual_seed(0)
    shifts = []
    for _ in range(300):
        augmented = slayer.augment(event)
        assert len(augmented.x) == len(x)  # the square is too far inside to leave the sensor
        shifts.append((augmented.x.mean() - x.mean(), augmented.y.mean() - y.mean()))
        u, v = augmented.x - augmented.x.mean(), augmented.y - augmented.y.mean()
        assert abs((u * v).mean()) < 1  # a shear by 5 degrees gives 2.4
    np.testing.assert_array_equal(event.x, given[0])
    np.testing.assert_array_equal(event.y, given[1])
    shifts = np.rint(shifts)
    assert shifts.min() == -4
    assert shifts.max() == 4
    assert np.abs(shifts.mean(0)).max() < 0.6


# ------------------------------------------------------------------------------------------- 7. reading recordings


def test_fault_7_a_recording_of_one_polarity_keeps_it():
    event = slayer.io.Event(np.array([3, 4]), np.array([5, 6]), np.array([1, 1]), np.array([1.0, 2.0]))
    tensor = np.asarray(event.fill_tensor(np.zeros((2, 34, 34, 10), np.float32)))
    assert tensor[1].sum() == 2
    assert tensor[0].sum() == 0


def test_fault_7_sum_binning_counts_coincident_events():
    event = slayer.io.Event(np.array([3, 3, 3]), np.array([5, 5, 5]), np.array([0, 0, 0]), np.array([1.0, 1.1, 7.0]))
    tensor = np.asarray(event.fill_tensor(np.zeros((2, 34, 34, 10), np.float32), binning_mode="SUM"))
    assert tensor[0, 5, 3, 1] == 2
    assert tensor[0, 5, 3, 7] == 1


def test_fault_7_without_download_nothing_is_fetched(tmp_path, monkeypatch):
    from urllib import request

    def refuse(*_args, **_kwargs):
        raise AssertionError("a download was attempted")

    monkeypatch.setattr(request, "urlopen", refuse)
    with pytest.raises(FileNotFoundError, match="download=True"):
        slayer.NMNISTDataset(tmp_path, download=False, source="recorded")


# -------------------------------------------------------------------------------------- 8. loops over the neurons


class OperationCounter(TorchDispatchMode):
    """A mode that counts torch's operations."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_fault_8_learned_delays_have_no_torch_loop_over_channels():
    """The number of torch operations is the same for 4 and for 400 channels."""
    counts = []
    for channels in (4, 400):
        layer = slayer.axon.Delay(channels)
        x = torch.zeros(2, channels, 10, requires_grad=True)
        with OperationCounter() as counter:
            layer(x).sum().backward()
        counts.append(counter.calls)
    assert counts[0] == counts[1]
    assert counts[0] > 5


def test_fault_8_a_block_has_no_torch_loop_over_time():
    counts = []
    block = small_block()
    block(sample((2, 30, 5), 0.03)).sum().backward()  # the first time, weights are checked and gradients allocated
    for steps in (5, 200):
        x = sample((2, 30, steps), 0.03)  # sparse for both lengths, so that the same code runs
        with OperationCounter() as counter, kernels.using("cpu"):
            block(x).sum().backward()
        counts.append(counter.calls)
    assert counts[0] == counts[1]


# ------------------------------------------------------------------ 9. decays clipped silently, an import of opencv


@pytest.mark.parametrize("name", ["current_decay", "voltage_decay"])
@pytest.mark.parametrize("decay", [-0.01, 1.01, 1024, float("nan")])
@pytest.mark.parametrize("shared", [True, False])
def test_fault_9_decays_out_of_range_raise(name, decay, shared):
    with pytest.raises(ValueError, match=rf"Neuron: expected {name} in 0\.\.1, found {decay}"):
        Neuron(**{**PARAMS, name: decay}, shared_param=shared, num_neurons=3)
    with pytest.raises(ValueError, match=rf"expected {name} in 0\.\.1"):
        cuba.Dense({**PARAMS, name: decay}, 4, 2)


@pytest.mark.parametrize("decay", [0, 1, 0.0, 1.0])
def test_fault_9_the_ends_of_the_range_are_allowed(decay):
    neuron = Neuron(**{**PARAMS, "current_decay": decay, "voltage_decay": decay})
    assert neuron.cx_current_decay == neuron.cx_voltage_decay == 4096 * decay
