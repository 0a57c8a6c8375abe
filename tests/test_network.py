"""Test whole networks: which results `frozen` keeps, and for how long."""

import copy

import pytest
import torch
from support.neurons import sample

from nmnist_helpers import ConvNetwork, Network, Spikes, kernels


def dense_network() -> tuple[Network, torch.Tensor]:
    return Network((20, 12), inputs=30, neuron_params={"threshold": 0.3}), sample((2, 30, 40))


def conv_network() -> tuple[Network, torch.Tensor]:
    return ConvNetwork((4, 6), hidden=12, neuron_params={"threshold": 0.1}), sample((2, 2, 34, 34, 40))


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
