"""Test how a network learns from trained ones: the second target, and the files that may hold a teacher."""

import pytest
import torch

from nmnist_helpers import ConvNetwork, Network
from nmnist_helpers.checkpoint import CheckpointError
from nmnist_helpers.checkpoint.archive import save_tree
from nmnist_helpers.geometry import CHANNELS
from nmnist_helpers.spikes import Spikes
from nmnist_helpers.train.teachers import Pupil, load_teacher

STEPS = 40


def net_of(seed: int, kind: type[Network] = Network, **options) -> Network:
    torch.manual_seed(seed)
    return kind(dropout=0.2, neuron_params={"threshold": 0.2}, **options)


@pytest.fixture(scope="module")
def spikes() -> torch.Tensor:
    return (torch.rand(3, CHANNELS, STEPS, generator=torch.Generator().manual_seed(0)) < 0.02).float()


def gradients(net: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("as_events", [False, True])
def test_the_second_target_is_the_mean_rate_of_the_teachers(spikes, as_events):
    input = Spikes.from_dense(spikes) if as_events else spikes
    net = net_of(0, hidden=20)
    teachers = [net_of(1, hidden=30).eval(), net_of(2, ConvNetwork).eval()]
    before = [{k: v.clone() for k, v in t.state_dict().items()} for t in teachers]
    pupil = Pupil(net, teachers).train()
    assert [id(p) for p in pupil.parameters()] == [id(p) for p in net.parameters()]
    assert not any(t.training for t in teachers)

    torch.manual_seed(3)
    output, distance = pupil(input)
    distance.backward()
    found = gradients(net)
    net.zero_grad()
    torch.manual_seed(3)  # the same dropout
    again = net(spikes)
    wanted = sum(t(spikes).detach().sum(-1) / STEPS for t in teachers) / 2
    expected = ((again.sum(-1) / STEPS - wanted) ** 2).sum()
    expected.backward()

    assert torch.equal(output, again)
    assert wanted.count_nonzero()
    torch.testing.assert_close(distance, expected)
    assert any(g.count_nonzero() for g in found)
    for mine, theirs in zip(found, gradients(net), strict=True):
        torch.testing.assert_close(mine, theirs)
    for teacher, state in zip(teachers, before, strict=True):
        assert all(p.grad is None for p in teacher.parameters())
        assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("kind", [Network, ConvNetwork])
def test_a_teacher_gives_the_spikes_of_the_network_that_was_saved(tmp_path, spikes, kind):
    torch.manual_seed(0)
    saved = kind(dropout=0.2)
    save_tree(tmp_path / "network.pt", saved.state_dict())
    teacher = load_teacher(str(tmp_path / "network.pt"))
    expected = saved.eval()(spikes, layers=True)
    assert expected[-2].count_nonzero()
    for x, y in zip(teacher(spikes, layers=True), expected, strict=True):
        assert torch.equal(x, y)


def test_a_file_without_a_teacher_is_named(tmp_path):
    path = tmp_path / "network.pt"
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        load_teacher(str(tmp_path / "nowhere.pt"))
    path.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="network.pt"):
        load_teacher(str(path))
    for options, words in (({"outputs": 7}, "10 outputs, found 7"), ({"inputs": 100}, "2312")):
        save_tree(path, Network((8,), **options).state_dict())
        with pytest.raises(ValueError, match=rf"--teachers: .*network.pt: .*{words}"):
            load_teacher(str(path))
