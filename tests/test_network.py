"""Test whole networks: which results `frozen` keeps, and for how long."""

import copy
import gc
import threading

import numpy as np
import pytest
import torch
from support.neurons import PARAMS, sample

from nmnist_helpers import ConvNetwork, Network, Spikes, kernels, netx
from nmnist_helpers.block import cuba
from nmnist_helpers.network import _Freezer


def dense_network() -> tuple[Network, torch.Tensor]:
    return Network((20, 12), inputs=30, neuron_params={"threshold": 0.3}), sample((2, 30, 40))


def conv_network() -> tuple[Network, torch.Tensor]:
    return ConvNetwork((4, 6), neuron_params={"threshold": 0.1}), sample((2, 2, 34, 34, 40))


@pytest.mark.parametrize("make", [dense_network, conv_network])
def test_a_frozen_network_gives_the_same_spikes(make):
    torch.manual_seed(0)
    net, spikes = make()
    net.eval()
    with torch.no_grad():
        expected = net(spikes)
    assert expected.any()
    with net.frozen() as same:
        assert same is net
        for given in (spikes, spikes[:1], spikes[..., :30], spikes):
            found = net(given)
            assert not found.requires_grad
            assert torch.equal(found[..., :30], expected[: len(given), ..., :30])
        with kernels.using("reference"):  # its weights have another layout
            assert torch.equal(net(spikes), expected)


def test_a_network_thaws_when_the_last_of_several_threads_has_left():
    net = Network((16,), inputs=20).eval()
    spikes = (torch.rand(2, 20, 50) < 0.3).float()
    entered, other_entered, left = (threading.Event() for _ in range(3))

    def enter_first():
        with net.frozen():
            net(spikes)
            entered.set()
            other_entered.wait(60)
        left.set()

    def leave_last():
        entered.wait(60)
        with net.frozen():
            net(spikes)
            other_entered.set()
            left.wait(60)

    threads = [threading.Thread(target=run) for run in (enter_first, leave_last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        changed = net(spikes)
    assert torch.equal(changed, net(spikes))


def test_an_abandoned_freeze_is_forgotten():
    net = Network((16,), inputs=20).eval()
    spikes = (torch.rand(2, 20, 50) < 0.3).float()
    with torch.no_grad():
        with net.frozen():
            net(spikes)
            lost = _Freezer()
            for block in net.blocks:
                block.freeze(lost)  # an interrupt has prevented its exit
        assert all(block._frozen for block in net.blocks)
        del lost
        gc.collect()
        net.blocks[0].synapse.weight_g.mul_(3)
        assert torch.equal(net(spikes), copy.deepcopy(net)(spikes))


def test_a_frozen_network_notices_other_changes_than_those_of_parameters():
    net, spikes = dense_network()
    for change in (
        lambda block: setattr(block, "delay_shift", False),
        lambda block: setattr(block.neuron, "v_th_mant", 2 * block.neuron.v_th_mant),
    ):
        with net.eval().frozen():
            net(spikes)
            change(net.blocks[0])
            assert torch.equal(net(spikes), copy.deepcopy(net)(spikes))


def test_a_frozen_network_keeps_one_copy_of_its_weights_for_recordings_of_any_length():
    net, spikes = dense_network()
    lengths = (40, 7, 1, 23)
    with net.eval().frozen():
        expected = [net(spikes[..., :steps]) for steps in lengths]
        kept = [len(block._frozen) for block in net]
    assert kept == [1, 1, 1]
    with net.frozen():
        net(spikes)
        for block in net:
            block.synapse.weight_g.data.mul_(-1)
            if block.delay is not None:
                block.delay.delay.data.add_(5)
        for steps, out in zip(lengths, expected, strict=True):
            assert torch.equal(net(spikes[..., :steps]), out)


def test_a_network_needs_a_block():
    with pytest.raises(ValueError, match="expected at least one block, found none"):
        Network.from_blocks([])


def test_a_frozen_network_rounds_its_weights_once_and_thaws(monkeypatch):
    from nmnist_helpers.kernels import functions

    net, spikes = dense_network()
    events, rounded = Spikes.from_dense(spikes), []
    cpu = functions.twin(torch.device("cpu"))
    quantise = cpu.quantise
    monkeypatch.setattr(cpu, "quantise", lambda v, factor: rounded.append(v.shape) or quantise(v, factor))
    with net.eval().frozen():
        first = net(events)
        net(events)
        assert len(rounded) == len(net)
        duplicate = copy.deepcopy(net)
        with torch.enable_grad():  # a backward pass needs more than the frozen weights
            net(events).sum().backward()
        assert all(block.synapse.weight_v.grad is not None for block in net)
    for thawed in (net, duplicate):
        with torch.no_grad():
            thawed.blocks[2].synapse.weight_g *= -1
            assert not torch.equal(thawed(events), first)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("make", "decay"), [(dense_network, 1024), (conv_network, 2048)])
def test_networks_of_16_bits_compute_their_export_in_every_path(make, decay, kind, tmp_path):
    torch.manual_seed(0)
    net, spikes = make()
    net.to(kind).eval()
    assert f"iDecay={decay}," in repr(net)
    with torch.no_grad():
        expected = net(spikes)
        net.blocks[0].neuron.register_forward_hook(lambda *_: None)  # computes the parts of the block one by one
        assert torch.equal(net(spikes), expected)
    net.export_hdf5(tmp_path / "network.net")
    found = netx.load(tmp_path / "network.net")(spikes.to(kind))
    assert found.any()
    assert torch.equal(found.float(), expected.float())


def test_sizes_of_numpy_are_accepted():
    assert len(Network(np.int64(7), inputs=30).blocks) == len(Network(np.array([7]), inputs=30).blocks) == 2


@pytest.mark.parametrize("make", [dense_network, conv_network])
def test_an_input_that_is_no_tensor_is_named(make):
    net, spikes = make()
    with pytest.raises(TypeError, match="expected a tensor or Spikes, found ndarray"):
        net.blocks[0](spikes.numpy())
    with pytest.raises(TypeError, match="expected a tensor or Spikes, found list"):
        net.blocks[0](spikes.tolist())


def test_a_network_in_float64_answers_like_its_export():
    block = cuba.Dense({"threshold": 1 / 64, "current_decay": 1.0, "voltage_decay": 1.0}, 1, 1).double()
    with torch.no_grad():
        block.synapse.weight.fill_(0.5 / 32 + 1e-10)  # in float32 this is half a step, which rounds to zero
    net, spikes = Network.from_blocks([block]).eval(), torch.ones(1, 1, 3)
    assert not net(spikes).any()
    assert torch.equal(netx.Net(net)(spikes), net(spikes))
    assert not block.synapse.quantised_weight().any()


def test_the_last_block_may_flatten():
    net = Network.from_blocks([cuba.Conv(PARAMS, 2, 3, 5, weight_scale=5), cuba.Flatten()])
    x = sample((2, 2, 8, 8, 20))
    out = net(x)
    assert isinstance(out, torch.Tensor)
    assert torch.equal(out, net(x, layers=True)[-1])


@pytest.mark.parametrize("imported", [False, True])
def test_after_a_picture_of_another_size_a_network_reads_its_own_and_can_be_exported(tmp_path, imported):
    net, x = conv_network()
    if imported:
        net = netx.load(netx.write_network(tmp_path / "first.net", net)).to_blocks()
    expected = net.eval()(x)
    with pytest.raises(ValueError, match="expected input"):
        net(sample((2, 2, 50, 50, 40)))
    assert torch.equal(netx.load(netx.write_network(tmp_path / "a.net", net))(x), expected)
    assert torch.equal(net(x.flatten(1, 3)), expected)
    net(sample((2, 2, 33, 33, 40)))  # gives as many inputs for the dense block
    assert torch.equal(net(x.flatten(1, 3)), expected)
    with pytest.raises(ValueError, match=r"expected input \[B, 2312, T\] or a picture, found \[2, 100, 5\]"):
        net(torch.zeros(2, 100, 5))


class Plain(cuba.Dense):
    def forward(self, spikes):
        return super().forward(spikes)


def test_blocks_with_a_forward_of_their_own():
    torch.manual_seed(0)
    net = Network.from_blocks([Plain(PARAMS, 20, 12, weight_scale=5), Plain(PARAMS, 12, 5, weight_scale=5)])
    x = sample((2, 20, 40))
    ours = Network.from_blocks([cuba.Dense(PARAMS, 20, 12), cuba.Dense(PARAMS, 12, 5)])
    ours.load_state_dict(net.state_dict())
    assert torch.equal(net(x), ours(x))
    counting = Network.from_blocks([cuba.Dense(PARAMS, 20, 12, count_log=True), cuba.Dense(PARAMS, 12, 5)])
    with pytest.raises(ValueError, match="expected count_log=False in all blocks but the last"):
        counting(x)
    counting = Network.from_blocks([cuba.Dense(PARAMS, 20, 12), cuba.Dense(PARAMS, 12, 5, count_log=True)])
    spikes, rate = counting(x)
    assert rate == (spikes > 0).float().mean()


def test_the_spikes_of_all_layers_are_dense():
    net = Network.from_blocks([cuba.Flatten(), cuba.Dense(PARAMS, 20, 12)])
    assert all(isinstance(out, torch.Tensor) for out in net(Spikes.from_dense(sample((2, 20, 40))), layers=True))


def test_invalid_sizes_are_named():
    for make, message in (
        (lambda: Network(0), "Network: hidden: expected a whole number from 1, found 0"),
        (lambda: Network((8, 2.5)), r"Network: hidden: expected a whole number from 1, found 2\.5"),
        (lambda: Network(8, inputs=0), "in_neurons: expected a whole number from 1, found 0"),
        (lambda: Network(8, outputs=0), "Network: outputs: expected a whole number from 1, found 0"),
        (
            lambda: ConvNetwork((8,) * 5),
            r"ConvNetwork: expected one to four numbers of channels, found \(8, 8, 8, 8, 8\)",
        ),
        (lambda: ConvNetwork(()), r"ConvNetwork: expected one to four numbers of channels, found \(\)"),
        (lambda: ConvNetwork(16), "ConvNetwork: expected one to four numbers of channels, found 16"),
        (lambda: ConvNetwork((16, 0)), "ConvNetwork: channels: expected a whole number from 1, found 0"),
        (lambda: ConvNetwork(outputs=0), "ConvNetwork: outputs: expected a whole number from 1, found 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_convolutional_network_has_as_many_layers_as_numbers_of_channels(layers, tmp_path):
    net = ConvNetwork((3, 4, 5, 6)[:layers])
    net.export_hdf5(tmp_path / "network.net")
    shapes = [layer.out_shape for layer in netx.load(tmp_path / "network.net")[:-1]]
    assert shapes == [(3, 15, 15), (4, 7, 7), (5, 3, 3), (6, 1, 1)][:layers]
    assert net(torch.zeros(2, 2312, 5)).shape == (2, 10, 5)


def test_a_convolutional_network_has_time_steps_of_10_ms():
    net = ConvNetwork()
    assert (Network().SAMPLING_TIME, net.SAMPLING_TIME) == (1, 10)
    assert repr(net).count("iDecay=2048, vDecay=819,") == 4


def test_every_block_but_the_last_has_dropout():
    for net in (Network((8, 8), dropout=0.5), ConvNetwork(dropout=0.5)):
        *hidden, last = (block.neuron for block in net.blocks if hasattr(block, "neuron"))
        assert {neuron.drop.p for neuron in hidden} == {0.5}
        assert last.drop is None
