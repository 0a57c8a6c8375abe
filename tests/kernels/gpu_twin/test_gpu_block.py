"""Compare whole blocks on the Triton twin with the reference: equal spikes, and gradients within a tolerance."""

import pytest
import torch
from support import oracles
from support.neurons import PARAMS

from nmnist_helpers import block, kernels, neuron
from nmnist_helpers.spikes import DenseSpikes, Spikes, remembered


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    with_dropout = {**PARAMS, "dropout": neuron.Dropout(p=0.3)}
    own_decays = {**with_dropout, "shared_param": False}
    net = torch.nn.Sequential(
        block.cuba.Dense(with_dropout, 70, 40, weight_scale=3, weight_norm=True, delay=True),
        block.cuba.Dense(own_decays, 40, 33, weight_scale=3, weight_norm=True, delay=True),
        block.cuba.Dense(PARAMS, 33, 10, weight_scale=3),
    )
    with torch.no_grad():
        for b in net[:2]:
            b.delay.delay.uniform_(0, 4)
    return net


def run(twin, net, spikes, device, monkeypatch):
    """Return a network's output and gradients on a twin; every twin gets the same random dropout."""
    net = net.to(device)
    net.zero_grad()
    generator = torch.Generator().manual_seed(7)
    monkeypatch.setattr(
        neuron.Dropout,
        "draw",
        lambda self, batch, channels, where: (
            (torch.rand(batch, channels, generator=generator) >= self.p).to(torch.uint8).to(where)
        ),
    )
    with kernels.using(twin):
        if isinstance(spikes, torch.Tensor) and spikes.is_floating_point():
            spikes = spikes.detach().to(device).requires_grad_()
        else:
            spikes = spikes.to(device)
        output = net(spikes)
        ((output.mean(-1) - 0.2) ** 2).sum().backward()
    found = {name: p.grad.cpu().clone() for name, p in net.named_parameters()}
    if isinstance(spikes, torch.Tensor):
        found["input"] = spikes.grad.cpu()
    return output, found


@pytest.mark.parametrize("form", ["list", "bytes", "dense", "graded"])
def test_network_agrees_with_the_reference(device, monkeypatch, form):
    net = network()
    dense = (torch.rand(2, 70, 12) < 0.2).float()
    events = Spikes.from_dense(dense)
    spikes = {
        "list": events,
        "bytes": DenseSpikes.from_events(events, 128),
        "dense": dense * 0.8,
        "graded": torch.randint(-8, 9, (2, 70, 12)) / 8,
    }[form]
    expected, by_reference = run("reference", net, spikes, torch.device("cpu"), monkeypatch)
    assert 0.02 < expected.mean() < 0.9
    found, grads = run("gpu", net, spikes, device, monkeypatch)
    assert torch.equal(found.cpu(), expected)
    assert isinstance(remembered(found), DenseSpikes)
    assert grads.keys() == by_reference.keys()
    for name, grad in grads.items():
        # The gradient of a shared decay is the sum of many terms, which partly cancel, so it is less accurate.
        oracles.assert_close(grad, by_reference[name], 1e-4 if name.endswith("_decay") else 2e-5)


def test_no_layer_lists_its_spikes(device, monkeypatch):
    """The host would have to wait for the length of a list at every layer."""
    net = network().to(device)
    spikes = DenseSpikes((torch.rand(2, 9, 70) < 0.2).to(torch.uint8).to(device))
    monkeypatch.setattr(Spikes, "from_rows", lambda *_: pytest.fail("a list of spikes was made"))
    monkeypatch.setattr(Spikes, "from_dense", remembered)  # finds only what the previous layer attached
    with kernels.using("gpu"):
        net(spikes).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_neuron_with_norm_and_state(device):
    """With a norm, current and voltage are integrated in separate steps; the state is kept between two calls."""
    params = {**PARAMS, "norm": neuron.norm.MeanOnlyBatchNorm, "num_neurons": 5, "persistent_state": True}
    z = torch.randint(-4, 40, (2, 5, 12)) / 16
    outputs = {}
    for twin in ("reference", "gpu"):
        where = device if twin == "gpu" else torch.device("cpu")
        cell = neuron.cuba.Neuron(**params).to(where)
        with kernels.using(twin):
            x = z.to(where, copy=True).requires_grad_()
            first, second = cell(x), cell(x)
            second.sum().backward()
        outputs[twin] = [t.detach().cpu() for t in (first, second, x.grad, cell.current_decay.grad)]
    expected, found = outputs["reference"], outputs["gpu"]
    assert expected[0].any()
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    oracles.assert_close(found[2], expected[2])
    oracles.assert_close(found[3], expected[3])
