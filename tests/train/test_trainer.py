"""Compare the two kinds of training steps: launched kernel by kernel, and recorded as a CUDA graph.

Without a GPU, the step that would be recorded runs every time.
"""

import copy
import gc
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nmnist_helpers import Network
from nmnist_helpers.classifier import Rate
from nmnist_helpers.loss import SpikeRate
from nmnist_helpers.spikes import DenseSpikes
from nmnist_helpers.train import trainer
from nmnist_helpers.train.trainer import CapturedTrainer, Trainer
from nmnist_helpers.utils import LearningStats

BATCH, CHANNELS, STEPS = 4, 64, 30
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def _nothing_is_recorded_on_a_cpu(monkeypatch, request):
    if "device" in request.fixturenames and request.getfixturevalue("device").type == "cpu":
        monkeypatch.setattr(trainer, "CapturedCall", lambda device: lambda step: step())


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


def make(kind: type[Trainer], device: torch.device, lr, average: float = 0.0) -> Trainer:
    torch.manual_seed(0)
    net = Network((20, 20), dropout=0.2, inputs=CHANNELS, neuron_params={"threshold": 0.3}).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    made = kind(net, SpikeRate(0.2, 0.03), optimizer, LearningStats(), Rate.predict)
    if average:
        made.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(average))
    return made


def batches(count: int, device: torch.device):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        data = (torch.rand(BATCH, STEPS, CHANNELS, generator=generator) < 0.2).to(torch.uint8)
        labels = torch.randint(0, 10, (BATCH,), generator=generator)
        yield DenseSpikes(data.to(device)), labels.to(device)


def train(made: Trainer, steps, epochs: int = 2, count: int = 6) -> dict:
    """Train with the given step sizes, and return everything that training changes."""
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        for (spikes, labels), step in zip(batches(count, made.device), steps, strict=True):
            for group in made.optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(step)
                else:
                    group["lr"] = step
            made.train(spikes, labels)
        made.read()
        made.stats.update()
    stat = made.stats.training
    found = {"loss": stat.loss_log, "accuracy": stat.accuracy_log, **copy.deepcopy(made.net.state_dict())}
    found |= {f"moments {key}": value for key, value in enumerate(made.optimizer.state_dict()["state"].values())}
    return found | ({} if made.average is None else {f"average {k}": v for k, v in made.average.state_dict().items()})


def assert_equal(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        pairs = value.items() if isinstance(value, dict) else [(None, value)]
        for key, x in pairs:
            y = found[name] if key is None else found[name][key]
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name


@pytest.mark.parametrize("average", [0.0, 0.8])
def test_a_captured_step_gives_the_same_bits(device, average):
    expected = train(make(Trainer, device, 0.01, average), [0.01] * 6)
    found = train(make(CapturedTrainer, device, 0.01, average), [0.01] * 6)
    assert len(set(expected["loss"])) == 2
    assert_equal(found, expected)


def test_a_tensor_holds_a_changing_step_size(device):
    steps = [0.01, 0.02, 0.03, 0.02, 0.01, 0.005]
    found, expected = (
        train(make(kind, device, torch.tensor(0.01, device=device)), steps) for kind in (CapturedTrainer, Trainer)
    )
    assert_equal(found, expected)
    assert not torch.equal(found["blocks.0.synapse.weight_v"],
                           train(make(Trainer, device, 0.01), [0.01] * 6)["blocks.0.synapse.weight_v"])  # fmt: skip


def test_the_statistics_are_read_every_few_steps(device, monkeypatch):
    monkeypatch.setattr(trainer, "READ_EVERY", 4)
    losses = []
    for kind in (Trainer, CapturedTrainer):
        made = make(kind, device, 0.01)
        torch.manual_seed(0)
        found = []
        for spikes, labels in batches(9, device):
            made.train(spikes, labels)
            found.append(made.stats.training.loss)
        losses.append(found)
    expected, found = losses
    assert found == [None] * 3 + [expected[3]] * 4 + [expected[7]] * 2
    made.read()
    assert made.stats.training.loss == expected[8]


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_ends_learning(device, monkeypatch, loss):
    """The weights stay as they were before that step, however many steps follow before the error is raised."""
    monkeypatch.setattr(trainer, "READ_EVERY", 8)
    made = make(CapturedTrainer, device, 0.01)
    more = torch.zeros((), device=device)
    rate = made.error
    made.error = lambda output, target: rate(output, target) + more
    given = list(batches(8, device))
    for spikes, labels in given[:5]:
        made.train(spikes, labels)
    before = copy.deepcopy([*made.net.parameters(), *made.optimizer.state_dict()["state"].values()])
    more.fill_(float(loss))
    made.train(*given[5])
    more.fill_(0)
    made.train(*given[6])
    with pytest.raises(FloatingPointError, match="training: expected finite losses, found one that is"):
        made.train(*given[7])
    after = [*made.net.parameters(), *made.optimizer.state_dict()["state"].values()]
    assert_equal(dict(enumerate(after)), dict(enumerate(before)))


def test_batches_may_differ_in_size_and_in_the_value_of_a_spike(device):
    """The last batch of an epoch is often smaller."""
    found = []
    for kind in (Trainer, CapturedTrainer):
        made = make(kind, device, 0.01)
        torch.manual_seed(0)
        for i, (spikes, labels) in enumerate(batches(8, device)):
            size, value = 3 if i in (1, 4, 5) else BATCH, 0.5 if i in (3, 6) else 1.0
            made.train(DenseSpikes(spikes.data[:size], value=value), labels[:size])
        made.read()
        found.append(
            made.net.state_dict() | {"loss": made.stats.training.loss, "count": made.stats.training.num_samples}
        )
    assert found[0]["count"] == 8 * BATCH - 3
    assert_equal(*found)


def test_a_trainer_is_freed_with_its_last_name(device):
    """A cycle of references would keep the memory of its graph until the garbage collector runs."""
    made = make(CapturedTrainer, device, 0.01)
    for spikes, labels in batches(5, device):
        made.train(spikes, labels)
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(made)
        del made
        assert gone() is None
    finally:
        gc.enable()


class Graph:
    """A stand-in for a CUDA graph that counts its replays."""

    made = 0

    def __init__(self):
        Graph.made += 1
        self.replays = 0

    def replay(self):
        self.replays += 1


def test_a_function_is_run_recorded_and_replayed(monkeypatch):
    events = []

    @contextmanager
    def record(graph, stream):
        events.append("begin")
        yield
        events.append("end")

    @contextmanager
    def on_stream(stream):
        yield

    monkeypatch.setattr(Graph, "made", 0)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stands_in = {"Stream": lambda device: stream, "current_stream": lambda device: stream, "stream": on_stream,
                 "graph": record, "CUDAGraph": Graph}  # fmt: skip
    for name, value in stands_in.items():
        monkeypatch.setattr(torch.cuda, name, value)
    recording = trainer.CapturedCall(torch.device("cuda"))
    for _ in range(trainer.WARM_UP):
        recording(lambda: events.append("run"))
    with pytest.raises(ZeroDivisionError):  # the next call records anew instead of replaying a broken graph
        recording(lambda: 1 / 0)
    for _ in range(3):
        recording(lambda: events.append("run"))
    assert events == ["run"] * trainer.WARM_UP + ["begin", "begin", "run", "end"]
    assert Graph.made == 2
    assert recording._graph.replays == 3
