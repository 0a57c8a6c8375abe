"""The training step as a CUDA graph: what can be shown without a GPU, and the rest where there is one."""

import pytest
import torch

from nmnist_helpers import Network, block
from nmnist_helpers.graph import GraphedStep, _Before, _on_device
from nmnist_helpers.loss import SpikeRate
from nmnist_helpers.spikes import DenseSpikes, Spikes

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ERROR = SpikeRate(0.2, 0.03)


def batches(count=4, device="cpu"):
    torch.manual_seed(1)
    made = [
        (Spikes.from_dense((torch.rand(4, 60, 20) < 0.2).float()), torch.randint(0, 10, (4,))) for _ in range(count)
    ]
    return [(spikes.to(device), target.to(device)) for spikes, target in made]


def network(device="cpu", dropout=0.2) -> Network:
    torch.manual_seed(0)
    return Network((24, 17), dropout=dropout, inputs=60).to(device)


def plain_steps(net, optimizer, data):
    losses = []
    for spikes, target in data:
        optimizer.zero_grad()
        loss = ERROR(net(spikes), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().clone())
    return losses


@pytest.mark.parametrize("form", [lambda s: s, DenseSpikes.from_events], ids=["list", "bytes"])
def test_launch_by_launch_is_the_plain_loop(form):
    data = batches()
    one, two = network(), network()
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.01) for net in (one, two)]
    torch.manual_seed(5)
    expected = plain_steps(one, optimizers[0], data)
    step = GraphedStep(two, ERROR, optimizers[1], form(data[0][0]), data[0][1], record=False)
    torch.manual_seed(5)
    found = [step(form(spikes), target)[1].clone() for spikes, target in data]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert len(set(torch.stack(found).tolist())) == len(data)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


def test_written_in_place_and_replayed():
    (spikes, target), (other, other_target) = batches(2)
    net = network().eval()
    step = GraphedStep(net, ERROR, torch.optim.SGD(net.parameters(), lr=0.0), spikes, target, record=False)
    expected = net(other).detach()
    step.spikes.data[..., :60] = other.rows(torch.uint8, 1)
    step.target.copy_(other_target)
    output, loss = step.replay()
    assert torch.equal(output, expected)
    assert loss == ERROR(expected, other_target)


def test_put_back_undoes_steps_in_place():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    plain_steps(net, optimizer, batches(1))
    values = [p.detach().clone() for p in net.parameters()]
    moments = {n: s["exp_avg"].clone() for n, s in optimizer.state_dict()["state"].items()}
    places = [p.data_ptr() for p in net.parameters()]
    before = _Before(net, optimizer, torch.device("cpu"))
    drawn = torch.rand(3)
    plain_steps(net, optimizer, batches(2))
    assert not torch.equal(values[0], next(net.parameters()))
    before.put_back()
    assert torch.equal(torch.rand(3), drawn)
    assert places == [p.data_ptr() for p in net.parameters()]
    for p, value in zip(net.parameters(), values, strict=True):
        assert torch.equal(p, value)
    for n, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["exp_avg"], moments[n])
        assert state["step"] == 1


def test_put_back_of_an_optimiser_that_had_no_state():
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    before = _Before(net, optimizer, torch.device("cpu"))
    plain_steps(net, optimizer, batches(1))
    before.put_back()
    states = optimizer.state_dict()["state"].values()
    assert states
    assert all(not value.any() for state in states for value in state.values())


def test_refusals():
    (spikes, target), net = batches(1)[0], network()
    optimizer = torch.optim.Adam(net.parameters())
    with pytest.raises(RuntimeError, match="expected a network on a CUDA device, found it on cpu"):
        GraphedStep(net, ERROR, optimizer, spikes, target)
    with pytest.raises(ValueError, match="at least one step of warm-up, found 0"):
        GraphedStep(net, ERROR, optimizer, spikes, target, warm_up=0, record=False)
    keeps = block.cuba.Dense({"threshold": 1, "current_decay": 1, "voltage_decay": 1, "persistent_state": True}, 60, 10)
    with pytest.raises(ValueError, match="persistent_state=False, found a neuron that keeps its state"):
        GraphedStep(keeps, ERROR, optimizer, spikes, target, record=False)
    with pytest.raises(ValueError, match=r"expected Adam\(..., capturable=True\), found capturable=False"):
        _on_device(optimizer, torch.device("cpu"))
    step = GraphedStep(net, ERROR, optimizer, spikes, target, record=False)
    with pytest.raises(ValueError, match=r"expected spikes \(4, 60, 20\) worth 1.0, found \(3, 60, 20\) worth 1.0"):
        step(Spikes.from_dense(torch.zeros(3, 60, 20)), target)
    with pytest.raises(ValueError, match="worth 1.0, found .* worth 0.5"):
        step(Spikes.from_dense(torch.full((4, 60, 20), 0.5)), target)
    with pytest.raises(ValueError, match=r"expected targets \[4\], found \[2\]"):
        step(spikes, target[:2])


def test_step_size():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.25, capturable=True)
    _on_device(optimizer, torch.device("cpu"))
    assert torch.equal(optimizer.param_groups[0]["lr"], torch.tensor(0.25))
    step = GraphedStep(net, ERROR, torch.optim.SGD(net.parameters(), lr=0.1), *batches(1)[0], record=False)
    step.set_lr(0.5)
    assert step.optimizer.param_groups[0]["lr"] == 0.5
    step.optimizer = optimizer
    step.set_lr(0.125)
    assert optimizer.param_groups[0]["lr"] == torch.tensor(0.125)


@GPU
def test_the_graph_is_the_plain_loop():
    """Bit by bit: every kernel adds in a fixed order. Recording itself changes nothing."""
    data = batches(6, "cuda")
    losses, nets = [], []
    for record in (False, True):
        net = network("cuda", dropout=0.0)
        lr = torch.tensor(0.01, device="cuda")  # a float would be rounded in another place
        optimizer = torch.optim.Adam(net.parameters(), lr=lr, capturable=True)
        before = [p.detach().clone() for p in net.parameters()]
        step = GraphedStep(net, ERROR, optimizer, *data[0], record=record)
        for p, value in zip(net.parameters(), before, strict=True):
            assert torch.equal(p, value)
        losses.append(torch.stack([step(*batch)[1].clone() for batch in data]))
        nets.append(net)
    assert len(set(losses[0].tolist())) == len(data)
    assert torch.equal(losses[1], losses[0])
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p, q)


@GPU
def test_every_replay_drops_other_neurons():
    spikes, target = batches(1, "cuda")[0]
    net = network("cuda", dropout=0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    step = GraphedStep(net, ERROR, optimizer, spikes, target)
    assert len({step(spikes, target)[0].sum().item() for _ in range(6)}) > 1


@GPU
def test_a_scheduler_reaches_the_graph():
    spikes, target = batches(1, "cuda")[0]
    net = network("cuda")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, capturable=True)
    step = GraphedStep(net, ERROR, optimizer, spikes, target)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.0)
    step(spikes, target)
    scheduler.step()
    before = [p.detach().clone() for p in net.parameters()]
    step(spikes, target)
    for p, value in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, value)
