"""Parameter groups of the decays: who is in which, what step they take, and that nothing else changes."""

import copy

import pytest
import torch

import nmnist_helpers as slayer
from nmnist_helpers.utils import DECAY_LR_SCALE, Assistant, parameter_groups, scale_decay_groups


def network(requires_grad=True):
    """Two small blocks and a linear layer; its decays are listed here by hand."""
    torch.manual_seed(3)
    params = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03, "requires_grad": requires_grad}
    net = torch.nn.Module()
    net.first = slayer.block.cuba.Dense(params, 6, 5, weight_norm=True, delay=True)
    net.second = slayer.block.cuba.Dense(params, 5, 3)
    net.readout = torch.nn.Linear(3, 2)
    net.forward = lambda x: net.second(net.first(x))
    decays = [b.neuron.current_decay for b in (net.first, net.second)]
    decays += [b.neuron.voltage_decay for b in (net.first, net.second)]
    return net, decays


def ids(parameters):
    return {id(p) for p in parameters}


def step_of(optimizer, parameter):
    """Learning rate of a parameter; it must be in exactly one group, once."""
    rates = [g["lr"] for g in optimizer.param_groups for p in g["params"] if p is parameter]
    assert len(rates) == 1
    return rates[0]


def assert_divided(optimizer, net, decays, lr, scale):
    for p in net.parameters():
        assert step_of(optimizer, p) == pytest.approx(lr * scale if id(p) in ids(decays) else lr, rel=1e-12)
    assert ids(p for g in optimizer.param_groups for p in g["params"]) == ids(net.parameters())


def test_parameter_groups_hold_every_parameter_once():
    net, decays = network()
    optimizer = torch.optim.Adam(parameter_groups(net, 0.002, decay_lr_scale=100.0), lr=0.5)
    assert len(optimizer.param_groups) == 2
    assert_divided(optimizer, net, decays, 0.002, 100.0)


def test_default_scale_is_the_documented_constant():
    net, decays = network()
    assert_divided(torch.optim.Adam(parameter_groups(net, 0.001)), net, decays, 0.001, DECAY_LR_SCALE)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    scale_decay_groups(optimizer, net)
    assert_divided(optimizer, net, decays, 0.001, DECAY_LR_SCALE)


def test_one_group_where_nothing_of_the_kind_learns():
    assert len(parameter_groups(torch.nn.Linear(2, 2), 0.1)) == 1
    net, _ = network(requires_grad=False)
    (group,) = parameter_groups(net, 0.1)
    assert ids(group["params"]) >= ids(p for p in net.parameters() if p.requires_grad)


def test_a_name_that_only_ends_like_a_decay_is_none():
    net = torch.nn.Module()
    net.my_current_decay = torch.nn.Parameter(torch.zeros(1))
    net.voltage_decay = torch.nn.Parameter(torch.zeros(1))
    plain, decays = parameter_groups(net, 1.0, 10.0)
    assert ids(plain["params"]) == {id(net.my_current_decay)}
    assert ids(decays["params"]) == {id(net.voltage_decay)}


def test_names_of_a_wrapped_network_are_recognised():
    net, decays = network()
    wrapper = torch.nn.Module()
    wrapper.module = net
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.1)
    scale_decay_groups(optimizer, wrapper, 7.0)
    assert_divided(optimizer, net, decays, 0.1, 7.0)


def test_scaling_is_idempotent_and_respects_groups_of_decays_alone():
    net, decays = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    scale_decay_groups(optimizer, net, 50.0)
    before = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    members = [[id(p) for p in g["params"]] for g in optimizer.param_groups]
    scale_decay_groups(optimizer, net, 50.0)
    scale_decay_groups(optimizer, net, 9.0)  # a decided step stays what it is
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == members
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == before

    others = [p for p in net.parameters() if id(p) not in ids(decays)]
    own_choice = torch.optim.Adam([{"params": others}, {"params": decays, "lr": 0.3}], lr=0.001)
    scale_decay_groups(own_choice, net, 50.0)
    assert len(own_choice.param_groups) == 2
    assert step_of(own_choice, decays[0]) == 0.3


def test_every_mixed_group_is_divided_by_its_own_rate():
    net, _ = network()
    groups = [
        {"params": net.first.parameters(), "lr": 0.01, "betas": (0.5, 0.9)},
        {"params": list(net.second.parameters()) + list(net.readout.parameters()), "lr": 0.02},
    ]
    optimizer = torch.optim.Adam(groups)
    scale_decay_groups(optimizer, net, 10.0)
    assert len(optimizer.param_groups) == 4
    assert step_of(optimizer, net.first.neuron.current_decay) == pytest.approx(0.1)
    assert step_of(optimizer, net.second.neuron.voltage_decay) == pytest.approx(0.2)
    assert step_of(optimizer, net.first.synapse.weight_v) == 0.01
    moved = [g for g in optimizer.param_groups if any(p is net.first.neuron.current_decay for p in g["params"])]
    assert moved[0]["betas"] == (0.5, 0.9)


def test_optimiser_state_is_kept():
    net, decays = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    before = {id(p): copy.deepcopy(optimizer.state[p]) for p in net.parameters()}
    assert before[id(decays[0])]["step"] == 1
    scale_decay_groups(optimizer, net, 10.0)
    for p in net.parameters():
        for key, value in before[id(p)].items():
            assert torch.equal(optimizer.state[p][key], value)


def test_first_adam_step_of_a_decay_is_its_own_rate():
    """Adam's first step is lr * sign(gradient): the decay moves by lr * scale units of 1/4096."""
    net, decays = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    scale_decay_groups(optimizer, net, 1024.0)
    weight = net.second.synapse.weight
    start_decay, start_weight = decays[0].detach().clone(), weight.detach().clone()
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    assert (start_decay - decays[0]).item() == pytest.approx(1.024, rel=1e-3)
    torch.testing.assert_close(start_weight - weight, torch.full_like(weight, 0.001), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("make", [
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
])  # fmt: skip
def test_a_scheduler_made_afterwards_keeps_the_ratio(make):
    net, decays = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    Assistant(net, None, optimizer, decay_lr_scale=64.0)
    scheduler = make(optimizer)
    weight = net.second.synapse.weight
    for _ in range(4):
        optimizer.step()
        scheduler.step()
        assert step_of(optimizer, decays[0]) == pytest.approx(64 * step_of(optimizer, weight), rel=1e-9)
    assert step_of(optimizer, weight) < 0.001
    initial = {id(p): g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert initial[id(decays[0])] == pytest.approx(0.064)


def test_initial_lr_without_a_scheduler_attached_is_scaled():
    """As it is after ``load_state_dict`` from a run that had a scheduler."""
    net, decays = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    optimizer.param_groups[0]["initial_lr"] = 0.04
    scale_decay_groups(optimizer, net, 8.0)
    group = next(g for g in optimizer.param_groups if any(p is decays[0] for p in g["params"]))
    assert (group["lr"], group["initial_lr"]) == pytest.approx((0.08, 0.32))
    assert optimizer.param_groups[0]["initial_lr"] == 0.04


def test_a_scheduler_attached_before_is_an_error_unless_nothing_is_to_do():
    net, _ = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with pytest.raises(ValueError, match=r"scheduler already follows.*parameter_groups"):
        scale_decay_groups(optimizer, net)
    assert len(optimizer.param_groups) == 1  # left as it was

    ready = torch.optim.Adam(parameter_groups(net, 0.001))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(ready, 0.9)
    Assistant(net, None, ready)
    ready.step()
    scheduler.step()
    assert [g["lr"] for g in ready.param_groups] == pytest.approx([0.0009, 0.0009 * DECAY_LR_SCALE])


def test_named_parameters_keep_their_names():
    net, decays = network()
    optimizer = torch.optim.Adam(net.named_parameters(), lr=0.001)
    scale_decay_groups(optimizer, net, 3.0)
    assert_divided(optimizer, net, decays, 0.001, 3.0)
    by_name = dict(net.named_parameters())
    for group in optimizer.param_groups:
        assert [id(by_name[name]) for name in group["param_names"]] == [id(p) for p in group["params"]]


def test_state_dict_of_a_divided_optimiser_loads_into_a_fresh_one():
    net, decays = network()
    optimizer = torch.optim.Adam(parameter_groups(net, 0.001))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    fresh_net, fresh_decays = network()
    fresh = torch.optim.Adam(parameter_groups(fresh_net, 0.5))
    fresh.load_state_dict(optimizer.state_dict())
    assert step_of(fresh, fresh_decays[0]) == step_of(optimizer, decays[0])
    assert torch.equal(fresh.state[fresh_decays[0]]["exp_avg"], optimizer.state[decays[0]]["exp_avg"])


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_no_factor_is_refused(scale):
    net, _ = network()
    with pytest.raises(ValueError, match="positive decay_lr_scale"):
        parameter_groups(net, 0.1, scale)
    with pytest.raises(ValueError, match="positive decay_lr_scale"):
        scale_decay_groups(torch.optim.SGD(net.parameters(), lr=0.1), net, scale)


def test_decays_learn_in_a_training_step():
    """End to end: with plain Adam handed to the assistant, a decay moves by whole hardware units in a few steps."""
    torch.manual_seed(0)
    net = slayer.Network(hidden=(16,), inputs=12, outputs=3)
    decay = net.blocks[0].neuron.current_decay
    start = decay.item()
    assistant = Assistant(net, slayer.loss.SpikeRate(0.2, 0.03), torch.optim.Adam(net.parameters(), lr=0.001))
    spikes = (torch.rand(4, 12, 40) < 0.3).float()
    for _ in range(5):
        assistant.train(spikes, torch.tensor([0, 1, 2, 0]))
    assert abs(decay.item() - start) > 1
    assert net.blocks[0].neuron.cx_current_decay != round(start)
