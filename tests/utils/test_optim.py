"""Test that decays have the step sizes of the weights, in their own units, under every optimiser and scheduler."""

import copy

import pytest
import torch
from support.neurons import DYNAMICS

import nmnist_helpers as slayer
from nmnist_helpers.utils import Assistant, parameter_groups


def network(requires_grad=True):
    torch.manual_seed(3)
    params = {**DYNAMICS, "requires_grad": requires_grad}
    net = torch.nn.Module()
    net.first = slayer.block.cuba.Dense(params, 6, 5, weight_norm=True, delay=True)
    net.second = slayer.block.cuba.Dense(params, 5, 3)
    net.forward = lambda x: net.second(net.first(x))
    return net


def take_steps(net, optimizer, steps=1):
    for _ in range(steps):
        for p in net.parameters():
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()


SCHEDULERS = [
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.001, total_steps=10),
    lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.0005, 0.001, cycle_momentum=False),
    lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, min_lr=0.001, factor=0.1, patience=0),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    lambda o: o.param_groups[0].update(lr=0.002),
]


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_a_decay_moves_1024_times_as_far_as_a_weight(schedule):
    """Adam moves every stored parameter by its step size; a decay, in units of 1/4096, moves by 1024 step sizes."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    scheduler = schedule(optimizer)
    Assistant(net, None, optimizer)  # does not change the optimiser
    assert len(optimizer.param_groups) == 1
    for _ in range(3):
        decay, weight = net.first.neuron.current_decay.item(), net.second.synapse.weight[0, 0].item()
        take_steps(net, optimizer)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()
        moved = weight - net.second.synapse.weight[0, 0].item()
        assert decay - net.first.neuron.current_decay.item() == pytest.approx(1024 * moved, rel=1e-3)


@pytest.mark.parametrize("make_optimizer", [
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    lambda p: torch.optim.Adafactor(p, lr=0.01),
    lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=3),
    lambda p: torch.optim.RMSprop(p, lr=0.001),
])  # fmt: skip
@pytest.mark.parametrize("chosen", ["all", "decays"])
def test_decays_learn_under_every_optimiser(make_optimizer, chosen):
    """If all gradients are 1, every parameter moves, and a decay moves 1024 times as far as its stored parameter."""
    net = network()
    if chosen == "decays":
        for block in (net.first, net.second):
            block.synapse.requires_grad_(False)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters)
    start = [p.detach().clone() for p in parameters]
    decay = net.first.neuron.current_decay.item()

    def closure():
        optimizer.zero_grad()
        loss = sum(p.sum() for p in parameters)
        loss.backward()
        return loss

    optimizer.step(closure)
    moved = [(before - p.detach()).max().item() for before, p in zip(start, parameters, strict=True)]
    assert min(moved) > 0
    first = next(i for i, p in enumerate(parameters) if p is net.first.neuron.scaled_current_decay)
    assert decay - net.first.neuron.current_decay.item() == pytest.approx(1024 * moved[first], rel=1e-3)


def test_an_optimiser_can_load_its_state_before_the_assistant_exists():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    Assistant(net, None, optimizer)
    take_steps(net, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    other = network()
    fresh = torch.optim.Adam(other.parameters(), lr=0.5)
    fresh.load_state_dict(saved)
    Assistant(other, None, fresh)
    assert fresh.param_groups[0]["lr"] == 0.001
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(optimizer.state[a]["exp_avg"], fresh.state[b]["exp_avg"]) for a, b in pairs)


def test_parameter_groups_exclude_decays_and_delays_from_weight_decay():
    net = network()
    exempt, others = parameter_groups(net, 0.1)
    assert {id(p) for p in exempt["params"]} == {
        id(p) for part in (net.first.neuron, net.first.delay, net.second.neuron) for p in part.parameters()
    }
    assert len(exempt["params"]) + len(others["params"]) == len(list(net.parameters()))
    assert exempt["lr"] == others["lr"] == 0.1
    optimizer = torch.optim.AdamW(parameter_groups(net, 0.1), weight_decay=0.5)
    parts = net.first.neuron.scaled_current_decay, net.first.delay.delay, net.second.synapse.weight
    before = [part.detach().clone() for part in parts]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert [torch.equal(*pair) for pair in zip(parts, before, strict=True)] == [True, True, False]
    assert len(parameter_groups(torch.nn.Linear(2, 2), 0.1)) == 1


def test_decays_learn_in_a_training_step():
    """With plain Adam, five steps of the assistant move a decay by one to six units of 1/4096."""
    torch.manual_seed(0)
    net = slayer.Network(hidden=(16,), inputs=12, outputs=3)
    start = net.blocks[0].neuron.current_decay.item()
    assistant = Assistant(net, slayer.loss.SpikeRate(0.2, 0.03), torch.optim.Adam(net.parameters(), lr=0.001))
    spikes = (torch.rand(4, 12, 40) < 0.3).float()
    for _ in range(5):
        assistant.train(spikes, torch.tensor([0, 1, 2, 0]))
    assert 1 < abs(net.blocks[0].neuron.current_decay.item() - start) < 6
    assert net.blocks[0].neuron.cx_current_decay != round(start)
