"""Run the host's side of training, inference and export on pretended CUDA devices (`support.fake_cuda`).

The network is on the second device while the first is the current one. The tests find tensors on the wrong device,
kernels launched on it, and waits: in a training step, the host may wait for the device only where a test says so.
"""

import os
from collections import Counter
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted in this process", allow_module_level=True)

from support import fake_nmnist  # noqa: E402
from support.fake_cuda import FakeCuda  # noqa: E402
from support.interruption import interrupted_after  # noqa: E402
from support.neurons import PARAMS, Blocks  # noqa: E402

from nmnist_helpers import EventLoader, Network, NMNISTDataset, Spikes, augment, block, kernels, loss, netx  # noqa: E402
from nmnist_helpers.checkpoint.archive import save_tree  # noqa: E402
from nmnist_helpers.classifier import MovingWindow, Rate  # noqa: E402
from nmnist_helpers.data import device as device_events  # noqa: E402
from nmnist_helpers.data.augmentation import Augment  # noqa: E402
from nmnist_helpers.kernels import gpu  # noqa: E402
from nmnist_helpers.kernels.gpu import launch  # noqa: E402
from nmnist_helpers.network import ConvNetwork  # noqa: E402
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm  # noqa: E402
from nmnist_helpers.spikes import DenseSpikes  # noqa: E402
from nmnist_helpers.train import Settings, run  # noqa: E402
from nmnist_helpers.train.loop import Loop  # noqa: E402
from nmnist_helpers.train.trainer import CapturedTrainer, Trainer  # noqa: E402
from nmnist_helpers.utils import Assistant, LearningStats, parameter_groups  # noqa: E402

DEVICE = torch.device("cuda:1")
BATCH, STEPS = 3, 20
LOG = "utils.assistant:Assistant._log"  # reads loss and correct answers of a batch
SEARCH = "spikes.batch:Spikes.search"  # finds the value of the spikes of a dense tensor
CHECK = "kernels.gpu.launch:check"  # reads the flag for states that left their range
COMPARE = "spikes.batch:_holds"  # compares a dense tensor with the spikes that a block has attached to it


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(launch, "_flags", {})
    monkeypatch.setattr(device_events, "_shared", {})  # events on the GPU of another test
    with FakeCuda() as cuda:
        cuda.patch(monkeypatch)
        yield cuda


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for split in ("Train", "Test"):
        fake_nmnist.write_folder(folder, split, fake_nmnist.make(per_digit=3))
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return NMNISTDataset(folder, train=True, source="recorded", cache=False)


def batch(form: str, channels: int = 2312):
    """Return random spikes on the device, in one of the forms that a network accepts, and labels."""
    data = (torch.rand(BATCH, STEPS, channels, device=DEVICE) < 0.005).to(torch.uint8)
    spikes = {
        "bytes": lambda: DenseSpikes(data),
        "list": lambda: Spikes.from_rows(data),
        "list of the CPU": lambda: Spikes.from_rows(data).to("cpu"),
        "dense": lambda: data.transpose(1, 2).float(),
    }[form]()
    return spikes, torch.arange(BATCH, device=spikes.device)


def step(cuda: FakeCuda, net: torch.nn.Module, spikes, labels) -> list[str]:
    """Train two steps, and return the functions that waited for the device in the second one."""
    stats = LearningStats()
    error = loss.SpikeRate(0.2, 0.03)
    net = net.to(DEVICE)
    optimizer = torch.optim.Adam(parameter_groups(net, 1e-3), lr=1e-3, fused=True)
    trainer = Assistant(net, error, optimizer, stats, classifier=Rate.predict)
    for _ in range(2):  # in its first step, a block also checks whether all of its weights vanish
        cuda.waits.clear()
        output = trainer.train(spikes, labels)
    assert output.device == DEVICE
    assert all(p.device == DEVICE and (p.grad is None or p.grad.device == DEVICE) for p in net.parameters())
    assert cuda.launches["forward_kernel"] == cuda.launches["backward_kernel"] > 0
    assert stats.training.num_samples == 2 * BATCH
    return cuda.waits


@pytest.mark.parametrize(
    ("form", "waits"), [("bytes", [LOG]), ("list", [LOG]), ("list of the CPU", [LOG]), ("dense", [SEARCH, LOG])]
)
@pytest.mark.parametrize("kind", [Network, ConvNetwork])
def test_training_step(cuda, kind, form, waits):
    net = kind((40, 30)) if kind is Network else kind((3, 4))
    assert step(cuda, net, *batch(form)) == waits
    cuda.waits.clear()
    gpu.check()
    assert cuda.waits == [CHECK]  # once, if it is called


def test_chain_of_blocks_that_exchange_dense_tensors(cuda):
    assert step(cuda, Blocks((2312, 40, 30, 10), dropout=0.1), *batch("dense")) == [SEARCH, COMPARE, COMPARE, LOG]


@pytest.mark.parametrize("weight_norm", [False, True])
def test_pooling_and_padded_groups(cuda, weight_norm):
    options = {"weight_scale": 3, "weight_norm": weight_norm, "delay": True}
    net = Network.from_blocks([
        block.cuba.Conv(PARAMS, 2, 4, 3, stride=2, padding=1, groups=2, **options),
        block.cuba.Pool(PARAMS, 2, **options),
        block.cuba.Flatten(),
        block.cuba.Dense(PARAMS, 4 * 4 * 4, 10, **options),
    ])  # fmt: skip
    spikes, labels = batch("bytes", 2 * 16 * 16)
    assert step(cuda, net, spikes.as_picture((2, 16, 16)), labels) == [LOG]


def test_blocks_that_run_their_parts_one_after_the_other(cuda):
    """Each of these blocks reads the value of its input's spikes."""
    own = {**PARAMS, "norm": MeanOnlyBatchNorm, "persistent_state": True, "shared_param": False}
    net = torch.nn.Sequential(
        block.cuba.Conv(own, 2, 4, 3, dilation=2, delay=True),
        block.cuba.Pool({**PARAMS, "persistent_state": True}, 2, weight_norm=True),
        block.cuba.Flatten(),
        block.cuba.Dense(own, 4 * 6 * 6, 10, delay=True, mask=torch.rand(10, 4 * 6 * 6) < 0.5),
    )
    spikes = (torch.rand(BATCH, 2, 16, 16, STEPS) < 0.1).float().to(DEVICE)
    assert step(cuda, net, spikes, torch.arange(BATCH, device=DEVICE)) == [
        "synapse.picture:_unit_spikes",
        "synapse.picture:_unit_spikes",
        SEARCH,
        LOG,
    ]


LOSSES = [
    loss.SpikeRate(0.2, 0.03),
    loss.SpikeRate(0.2, 0.03, moving_window=5, reduction="mean"),
    loss.SpikeMax(),
    loss.SpikeMax(5, "softmax"),
    loss.SpikeTime(filter_order=2),
]


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_losses_and_classifiers_never_wait(cuda, error):
    labels = torch.arange(BATCH, device=DEVICE)
    output = torch.rand(BATCH, 10, STEPS, device=DEVICE, requires_grad=True)
    error = error.to(DEVICE)
    target = (torch.rand(BATCH, 10, STEPS, device=DEVICE) < 0.1).float() if hasattr(error, "response") else labels
    cuda.waits.clear()
    error(output, target).backward()
    assert output.grad.device == DEVICE
    for classifier in (Rate(), MovingWindow(5)):
        assert classifier(output).device == classifier.confidence(output).device == DEVICE
    assert cuda.waits == []


def test_frozen_inference_never_waits(cuda):
    net = Network((40, 30)).to(DEVICE).eval()
    spikes, _ = batch("bytes")
    cuda.waits.clear()
    with net.frozen():
        for _ in range(2):
            assert net(spikes).device == DEVICE
    assert cuda.launches["quantise_kernel"] == 3
    assert cuda.waits == []


@pytest.mark.parametrize("transform", [False, augment, Augment(5, 4, 0.1, 1, 0.5), lambda event: event])
def test_loader(cuda, dataset, transform):
    loader = EventLoader(dataset, 8, shuffle=True, transform=transform, device=DEVICE)
    for epoch in range(2):
        loader.set_epoch(epoch)
        cuda.waits.clear()
        next(iter(loader))  # copies order and augmentation to the device, once per epoch
        if not isinstance(transform, FunctionType):  # a function for single recordings runs on the CPU
            assert cuda.waits == ["data.loader:EventLoader._epoch_plan"] * 3
            cuda.waits.clear()
        spikes, labels = loader.batch(1)
        assert spikes.device == labels.device == DEVICE
        assert cuda.waits == [] or isinstance(transform, FunctionType)


def test_loader_without_triton(cuda, dataset):
    """The tensor operations wait for the sizes of their results."""
    with kernels.using("reference"):
        spikes, labels = EventLoader(dataset, 8, transform=augment, device=DEVICE).batch(0)
    assert spikes.device == labels.device == DEVICE
    assert "data.device:DeviceEvents._rasterise_with_tensors" in cuda.waits


@pytest.mark.parametrize(
    "more",
    [
        {"hidden": (20,)},
        {"hidden": (20,), "average": 0.9, "schedule": "onecycle", "decay_step": 0.1, "delay_step": 0.5},
        pytest.param({"network": "cnn", "loss": "max", "window": 5}, marks=pytest.mark.slow),
    ],
    ids=["constant", "changing", "cnn"],
)
def test_training_run_and_its_continuation(cuda, dataset, folder, tmp_path, monkeypatch, more):
    """A step waits for nothing. An epoch waits for its statistics, for the batches of its validation and for a flag."""
    # A pretended device records no graph: the step runs every time.
    waits_of_steps = []

    def run_step(step):
        before = len(cuda.waits)
        step()
        waits_of_steps.append(cuda.waits[before:])

    monkeypatch.setattr("nmnist_helpers.train.trainer.CapturedCall", lambda device: run_step)
    monkeypatch.setattr(
        "nmnist_helpers.train.folder.Folder.write_derived",  # without pictures
        lambda self, best, stats: save_tree(self.path / "network.pt", best),
    )
    options = {"data": str(folder), "source": "recorded", "out": str(tmp_path), "device": str(DEVICE),
               "batch_size": 8, "validation": 10, **more}  # fmt: skip
    with interrupted_after(1, monkeypatch):
        run(Settings(epochs=2, **options))
    assert not any(waits_of_steps[1:])  # the first step looks whether the weights vanish
    cuda.waits.clear()
    result = run(Settings(epochs=2, **options), resume=True)
    waits = Counter(cuda.waits)
    assert waits[LOG] == 2  # two batches for validation
    assert waits["train.trainer:CapturedTrainer.read"] == 2  # the sums, and the loss that is not finite
    assert waits[CHECK] == 1
    assert waits["train.loop:Loop.train_epoch"] == 0
    assert result["device"] == "pretended cuda:1"
    assert result["recordings"] == {"train": len(dataset) - 10, "validation": 10, "test": len(dataset)}


@pytest.mark.parametrize(
    ("checked", "processes", "kind"),
    [("0", 1, CapturedTrainer), ("1", 1, Trainer), ("0", 2, Trainer)],
    ids=["recorded", "NMNIST_CHECK", "two processes"],
)
def test_steps_are_recorded_where_that_is_possible(cuda, monkeypatch, checked, processes, kind):
    monkeypatch.setenv("NMNIST_CHECK", checked)
    loop = Loop.__new__(Loop)
    loop.group = SimpleNamespace(device=DEVICE, size=processes)
    assert loop._kind_of_trainer() is kind


def test_export_and_simulation(cuda, tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(gpu, "norms", kernels.reference.norms)  # kernels do not run here
    net = Network((40, 30))
    net.export_hdf5(tmp_path / "cpu.net")
    net.to(DEVICE).export_hdf5(tmp_path / "gpu.net")
    expected, found = (netx.load(tmp_path / f"{name}.net") for name in ("cpu", "gpu"))
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a.weight, b.weight)
        assert np.array_equal(a.delay, b.delay)
    for form in ("list", "bytes", "dense"):
        assert found(batch(form)[0], engine="reference").device == DEVICE


def test_mixed_devices_and_waits_are_found(cuda):
    """Check the tool itself."""
    here, there = torch.zeros(2), torch.zeros(2, device=DEVICE)
    with pytest.raises(RuntimeError, match="on one device, found .'cpu', 'cuda:1'."):
        here + there
    with pytest.raises(RuntimeError, match="on one device"):
        there[torch.zeros(1, dtype=torch.int64)]
    with pytest.raises(RuntimeError, match="on one device"):
        there + torch.zeros(2, device="cuda")
    with pytest.raises(TypeError):
        there.numpy()
    for wait in (bool, torch.Tensor.tolist, torch.Tensor.cpu, torch.nonzero, lambda x: x[x > 0]):
        cuda.waits.clear()
        wait(there[:1])
        assert cuda.waits == ["outside the package"]
    with pytest.raises(AssertionError, match="quantise_kernel: device 1, .*'factor': 'cpu'"):
        gpu.quantise(torch.ones(2, 3, device=DEVICE), torch.ones(2))
