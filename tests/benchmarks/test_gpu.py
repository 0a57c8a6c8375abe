"""Benchmarks of the engine on a GPU, and the tests of the whole engine that need a GPU.

``pytest tests/benchmarks/test_gpu.py -s -n 0`` prints the tables; without a GPU, everything is skipped.
`test_launch_shapes` prints tables from which to choose the constant `SHAPES` (`kernels/gpu/launch.py`) for this GPU.
The tests of single kernels are in ``tests/kernels/gpu_twin``; they run on the GPU if there is one.
"""

import importlib.util
import statistics
import time

import numpy as np
import pytest
import torch

from nmnist_helpers import Network, kernels
from nmnist_helpers.classifier import Rate
from nmnist_helpers.data.augmentation import augment
from nmnist_helpers.data.binning import bin_edges
from nmnist_helpers.geometry import CHANNELS
from nmnist_helpers.kernels.common import Axon, Membrane, OutputGradients, Surrogate, zero_state
from nmnist_helpers.loss import SpikeRate
from nmnist_helpers.spikes import DenseSpikes, Spikes
from nmnist_helpers.train.trainer import CapturedTrainer, Trainer
from nmnist_helpers.utils import LearningStats, parameter_groups

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device, found none", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton, which is not installed", allow_module_level=True)

from timing import print_table  # noqa: E402

from nmnist_helpers.data import binning_gpu as raster  # noqa: E402
from nmnist_helpers.kernels import gpu  # noqa: E402
from nmnist_helpers.kernels.gpu import launch

DEVICE = torch.device("cuda")
STEPS, BATCH, WIDTH = 300, 256, 4096  # sizes in the benchmark of the neuron kernels
EVENTS = 4100  # events per recording
SURROGATE = Surrogate(3.75, 0.3 / (2 * 3.75))
THRESHOLD = 80 * 64
FORWARD_BYTES, BACKWARD_BYTES = 4 + 4 + 1, 4 + 4 + 4  # bytes per neuron and time step: z, V, s; grad, V, grad_z


def milliseconds(fx, rounds: int = 20, warm: int = 3) -> float:
    """Return the median time of one call of `fx` on the GPU."""
    for _ in range(warm):
        fx()
    times = []
    for _ in range(rounds):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        fx()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times)


def host_milliseconds(fx, calls: int = 32, rounds: int = 5) -> float:
    """Return the median time of a call of `fx` as the host sees it, over rounds of several calls."""
    times = []
    for _ in range(rounds + 1):  # the first round compiles
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            fx()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began) / calls)
    return statistics.median(times[1:])


@pytest.fixture(scope="module")
def copy_bandwidth() -> float:
    """Return the memory bandwidth of a copy in GB/s, counting reads and writes: an upper limit for every kernel."""
    source = torch.empty(1 << 30, dtype=torch.float32, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e6


class NeuronStep:
    """Inputs of the neuron kernels, [B, T, C], and their forward and backward passes."""

    def __init__(self, steps: int = STEPS, batch: int = BATCH, channels: int = WIDTH, device=DEVICE):
        torch.manual_seed(0)
        self.count = steps * batch * channels
        self.z = torch.randint(-8, 9, (batch, steps, channels), device=device).float().mul_(0.05)
        self.grad = torch.randn(batch, steps, channels, device=device)
        retention = [torch.full((channels,), k, dtype=torch.int32, device=device) for k in (3072, 3973)]
        self.membrane = Membrane(*retention, THRESHOLD, SURROGATE)
        self.lag = torch.randint(1, 5, (channels,), dtype=torch.int32, device=device)
        self.state = zero_state(batch, channels, device)
        self.voltage = self.forward().voltage

    def forward(self):
        return gpu.neuron_forward(self.z, self.membrane, self.state)

    def backward(self, lag=None):
        axon = None if lag is None else Axon(lag)
        return gpu.neuron_backward(OutputGradients(self.grad), self.voltage, self.membrane, self.state, axon)


@pytest.fixture(scope="module")
def neuron_step():
    yield NeuronStep()
    torch.cuda.empty_cache()


def test_neuron_step(neuron_step, copy_bandwidth):
    """Check that the forward and backward passes reach at least 70 % of a copy's bandwidth."""
    shares, rows = {}, []
    for name, bytes_each, fx in (
        ("forward", FORWARD_BYTES, neuron_step.forward),
        ("backward", BACKWARD_BYTES, neuron_step.backward),
        ("backward, learned delays", BACKWARD_BYTES, lambda: neuron_step.backward(neuron_step.lag)),
    ):
        ms = milliseconds(fx)
        rate = bytes_each * neuron_step.count / ms / 1e6
        shares[name] = rate / copy_bandwidth
        rows.append((name, f"{ms:.2f}", f"{rate:.0f}", f"{100 * shares[name]:.0f} %"))
    print_table(
        f"neuron step, T = {STEPS}, B = {BATCH}, C = {WIDTH}, {torch.cuda.get_device_name()}, copy"
        f" {copy_bandwidth:.0f} GB/s",
        rows,
        ("pass", "ms", "GB/s", "of a copy"),
    )
    assert shares["forward"] > 0.7
    assert shares["backward"] > 0.7


@pytest.mark.parametrize("size", [(32, 512), (256, 512), (256, 4096)], ids=str)
def test_launch_shapes(size, monkeypatch):
    """Print the fastest block sizes, numbers of warps and numbers of pipeline stages; mark the chosen ones."""
    step = NeuronStep(STEPS, *size)
    chosen = launch.shape_for(*size)
    rows = []
    for block, warps in ((32, 1), (64, 1), (64, 2), (128, 1), (128, 2), (128, 4), (256, 2), (512, 4), (512, 8)):
        for stages in (2, 3, 4, 6, 8):
            shape = launch.Shape(block, warps, stages)
            monkeypatch.setattr("nmnist_helpers.kernels.gpu.neuron.shape_for", lambda *_, shape=shape: shape)
            ms = [milliseconds(fx, rounds=7, warm=2) for fx in (step.forward, step.backward)]
            rows.append((*shape, f"{ms[0]:.3f}", f"{ms[1]:.3f}", sum(ms), "chosen" if shape == chosen else ""))
    rows.sort(key=lambda row: row[-2])
    best = rows[0][-2]
    print_table(
        f"neuron step B = {size[0]}, C = {size[1]}: the ten fastest launches, and the chosen one",
        [(*row[:-2], f"{row[-2] / best:.2f}", row[-1]) for i, row in enumerate(rows) if i < 10 or row[-1]],
        ("block", "warps", "stages", "forward ms", "backward ms", "times the best", ""),
    )


class Recordings:
    """Synthetic recordings in the format of `DeviceEvents`: a realistic number of events at random places and times."""

    def __init__(self, count: int, events: int = EVENTS, device=DEVICE, seed: int = 0):
        generator = torch.Generator(device).manual_seed(seed)
        total = count * events
        self.words = torch.randint(0, STEPS * 1000, (total,), generator=generator, device=device, dtype=torch.int32)
        self.words.bitwise_left_shift_(12)
        for i in range(0, total, 1 << 26):
            part = self.words[i : i + (1 << 26)]
            part += torch.randint(0, CHANNELS, part.shape, generator=generator, device=device, dtype=torch.int32)
        self.first = torch.arange(count, device=device) * events
        self.count = torch.full((count,), events, dtype=torch.int64, device=device)
        self.labels = torch.randint(0, 10, (count,), generator=generator, device=device)
        self.edges = torch.from_numpy(bin_edges(STEPS, 1)).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def plan(self, seed: int):
        """Draw an epoch's order and augmentation; return first, count, labels and draws on the device."""
        rng = np.random.default_rng(seed)
        order = torch.from_numpy(rng.permutation(len(self))).to(self.labels.device)
        draws = torch.from_numpy(augment.draws(rng.random((len(self), 5)))).to(self.labels.device)
        return self.first[order], self.count[order], self.labels[order], draws

    def batch(self, plan, part: slice) -> DenseSpikes:
        first, count, _, draws = plan
        return raster.rasterise(self.words, first[part], count[part], draws[part], self.edges, augment, None, 1.0)


class TrainingStep:
    """A training step of the tutorial's network, with its loss and Adam."""

    def __init__(self, device=DEVICE):
        torch.manual_seed(0)
        self.net = Network().to(device)
        self.error = SpikeRate(0.2, 0.03)
        self.optimizer = torch.optim.Adam(parameter_groups(self.net, 1e-3), lr=1e-3, fused=True)

    def __call__(self, spikes: Spikes, target: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.error(self.net(spikes), target).backward()
        self.optimizer.step()


def train_epoch(step: TrainingStep, recordings: Recordings, seed: int, batch: int = 32) -> None:
    """Rasterise and augment every complete batch, and take a training step on it."""
    plan = recordings.plan(seed)
    for start in range(0, len(recordings) - batch + 1, batch):
        part = slice(start, start + batch)
        step(recordings.batch(plan, part), plan[2][part])


@torch.no_grad()
def count_correct(net: torch.nn.Module, recordings: Recordings, batch: int = 256) -> int:
    """Return the number of recordings that are classified correctly."""
    net.eval()
    plan = recordings.plan(0)
    right = torch.zeros((), dtype=torch.int64, device=recordings.labels.device)
    for start in range(0, len(recordings), batch):
        part = slice(start, start + batch)
        output = net(recordings.batch(plan, part))
        right += (output.mean(-1).argmax(1) == plan[2][part]).sum()
    return right.item()


@pytest.mark.parametrize("batch", [32, 64, 128, 256])
def test_training_step(batch):
    """Measure a training step from rasterising to Adam, recorded and kernel by kernel, and inference; profile it."""
    recordings = Recordings(2 * batch)
    plan, part = recordings.plan(1), slice(0, batch)
    net = Network().to(DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # by other tests

    def step_of(kind: type[Trainer]):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        trainer = kind(net, SpikeRate(0.2, 0.03), optimizer, LearningStats(), Rate.predict)
        return lambda: trainer.train(recordings.batch(plan, part), plan[2][part])

    recorded = step_of(CapturedTrainer)
    ms = [host_milliseconds(recorded)]
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    ms.append(host_milliseconds(step_of(Trainer)))
    net.eval()
    spikes = recordings.batch(plan, part)
    with torch.no_grad():
        ms.append(host_milliseconds(lambda: net(spikes)))
    with net.frozen():
        ms.append(host_milliseconds(lambda: net(spikes)))
    header = ("recorded ms", "kernel by kernel", "inference", "frozen", "peak MB when recorded")
    print_table(f"training step, B = {batch}", [(*(f"{x:.2f}" for x in ms), f"{peak:.0f}")], header)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(5):
            recorded()
        torch.cuda.synchronize()
    print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))
    gpu.check()


def test_epoch():
    """Train on 60,000 and test on 10,000 recordings with realistic numbers of events, in batches of 32."""
    training, test = Recordings(60_000), Recordings(10_000, seed=1)
    step = TrainingStep()
    train_epoch(step, Recordings(320), 0)
    count_correct(step.net, Recordings(320))
    step.net.train()
    torch.cuda.synchronize()
    began = time.perf_counter()
    train_epoch(step, training, 1)
    torch.cuda.synchronize()
    trained = time.perf_counter() - began
    right = count_correct(step.net, test)
    seconds = time.perf_counter() - began
    gpu.check()
    print_table(
        "one epoch, batch 32",
        [("train, 60,000", f"{trained:.2f}"), ("test, 10,000", f"{seconds - trained:.2f}"), ("both", f"{seconds:.2f}")],
        ("part", "s"),
    )
    assert 0 <= right <= len(test)


def test_spikes_equal_those_on_the_cpu():
    """Compare every layer's spikes, bit by bit, for inputs given as a list of events, as bytes and as a dense tensor.

    Weight normalisation is removed first: on a GPU, torch sums the norm in another order, which occasionally changes a
    weight by one quantisation step. The number of such weights is printed.
    """
    recordings = Recordings(32)
    plan = recordings.plan(3)
    on_gpu = recordings.batch(plan, slice(0, 32))
    on_cpu = on_gpu.listed.to("cpu")
    torch.manual_seed(0)
    net = Network().eval()
    synapses = [b.synapse for b in net.blocks]
    before = [synapse.quantised_weight() for synapse in synapses]
    net.to(DEVICE)
    moved = sum((s.quantised_weight().cpu() != w).sum().item() for s, w in zip(synapses, before, strict=True))
    print(f"weight norm: {moved} of {sum(w.numel() for w in before)} weights differ between the devices")
    net.to("cpu")
    for synapse in synapses:
        synapse.disable_weight_norm()
    with torch.no_grad():
        expected = net(on_cpu, layers=True)
        net.to(DEVICE)
        for spikes in (on_gpu, on_cpu.to(DEVICE), on_cpu.dense().to(DEVICE)):
            found = net(spikes, layers=True)
            for layer, (x, y) in enumerate(zip(found, expected, strict=True)):
                assert torch.equal(x.cpu(), y), f"layer {layer}"
    assert all(y.any() for y in expected[:2])
    gpu.check()


def test_repeated_training_gives_identical_weights():
    """Gradients are summed in a fixed order, so that repeating the steps gives bit-identical weights."""
    recordings = Recordings(64)
    plan = recordings.plan(0)
    found = []
    for _ in range(2):
        step = TrainingStep()
        step.net.eval()
        for start in (0, 32):
            part = slice(start, start + 32)
            step(recordings.batch(plan, part), plan[2][part])
        found.append([p.detach().clone() for p in step.net.parameters()])
    for p, q in zip(*found, strict=True):
        assert torch.equal(p, q)


def test_training_step_on_gpu_and_cpu():
    """Measure how much faster a training step is on the GPU than on the CPU, in the same process."""
    recordings = Recordings(64)
    plan = recordings.plan(0)
    spikes = recordings.batch(plan, slice(0, 32))
    listed: Spikes = spikes.listed.to("cpu")
    step = TrainingStep()
    fast = milliseconds(lambda: step(spikes, plan[2][:32]))
    torch.manual_seed(0)
    net = Network()
    optimizer = torch.optim.Adam(parameter_groups(net, 1e-3), lr=1e-3, fused=True)
    slow = []
    with kernels.using("cpu"):
        for _ in range(5):
            began = time.perf_counter()
            optimizer.zero_grad()
            SpikeRate(0.2, 0.03)(net(listed), plan[2][:32].cpu()).backward()
            optimizer.step()
            slow.append(1000 * (time.perf_counter() - began))
    cpu = statistics.median(slow)
    print_table(
        "training step, B = 32",
        [
            ("GPU", f"{fast:.2f}", "1"),
            (f"CPU, {torch.get_num_threads()} threads", f"{cpu:.1f}", f"{cpu / fast:.0f}"),
        ],
        ("engine", "ms", "times the GPU's"),
    )


def test_more_elements_than_32_bits_can_count():
    """With B * T * C above 2**31, the last sample gives the same result as on its own."""
    if torch.cuda.get_device_properties(DEVICE).total_memory < 60 << 30:
        pytest.skip("needs a GPU of 60 GB")
    torch.cuda.empty_cache()
    step = NeuronStep(STEPS, 1800, WIDTH)
    assert step.count > 2**31
    alone = gpu.neuron_forward(step.z[-1:], step.membrane, zero_state(1, WIDTH, DEVICE))
    assert torch.equal(step.voltage[-1:], alone.voltage)
    state, axon = zero_state(1, WIDTH, DEVICE), Axon(step.lag)
    expected = gpu.neuron_backward(OutputGradients(step.grad[-1:]), alone.voltage, step.membrane, state, axon)
    assert torch.equal(step.backward(step.lag)[0][-1:], expected[0])
    spikes = (step.voltage > THRESHOLD).to(torch.uint8)
    step.voltage = step.z = None  # free memory for the output
    moved = gpu.axon_forward(spikes, axon)
    assert torch.equal(moved[-1:], gpu.axon_forward(spikes[-1:].clone(), axon))
