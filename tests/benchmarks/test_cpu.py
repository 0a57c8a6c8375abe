"""Benchmarks of the engine on the CPU: ``pytest tests/benchmarks -s -n 0`` prints the tables of both READMEs.

The figures are medians of interleaved runs in one process. A test fails if its figure is worse than a limit. The limits
leave room for a noisy machine; the README's figures come from a quiet one.
"""

import multiprocessing
import statistics
import sys
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from timing import BATCH, STEPS, DenseLinear, Workload, median_seconds, peak_memory, print_table
from torch.utils.data import DataLoader

from nmnist_helpers import TRAINED, EventLoader, Network, kernels
from nmnist_helpers.checkpoint import load_checkpoint
from nmnist_helpers.classifier import Rate
from nmnist_helpers.files import atomic
from nmnist_helpers.kernels import cpu
from nmnist_helpers.kernels.common import Axon, Membrane, Needs, Surrogate, zero_state
from nmnist_helpers.kernels.cpu.input_gradient import input_gradient
from nmnist_helpers.spikes import Spikes
from nmnist_helpers.utils import Assistant, LearningStats


@pytest.fixture(scope="module")
def workload():
    return Workload()


def test_training_step(workload, benchmark):
    """Compare the engine's training step on 32 recordings with the plain path and with three dense layers."""
    dense = DenseLinear()
    rows = workload.batch()[0].rows()
    trained = Workload(net=load_checkpoint(TRAINED / "best" / "network.pt", Network()), lr=0.0)  # keeps the weights
    with kernels.using("cpu"):
        seconds = median_seconds(
            {
                "engine": workload.engine_step,
                "engine, trained network": trained.engine_step,
                "dense linear layers": lambda: dense.step(rows),
                "plain path": workload.reference_step,
            },
            rounds=5,
        )
    engine = seconds["engine"]
    print_table(
        f"training step, {BATCH} {workload.dataset.source} recordings, T = {STEPS}",
        [(name, f"{1000 * s:.1f}", f"{s / engine:.1f}") for name, s in seconds.items()],
        ("variant", "ms", "times the engine's"),
    )
    benchmark.extra_info.update({name: s for name, s in seconds.items()})
    benchmark.pedantic(workload.engine_step, rounds=5)
    assert seconds["plain path"] / engine > 10
    assert seconds["dense linear layers"] / engine > 2.5


def test_inference(workload, benchmark):
    """Compare the forward pass on events with the plain path on a dense tensor; check that their spikes are equal."""
    spikes, _ = workload.batch()
    dense = spikes.rows().transpose(1, 2).contiguous()
    assert torch.equal(workload.engine_inference(spikes), workload.reference_inference(dense))
    seconds = median_seconds(
        {
            "engine": lambda: workload.engine_inference(spikes),
            "plain path": lambda: workload.reference_inference(dense),
        },
        rounds=5,
    )
    engine = seconds["engine"]
    print_table(
        f"inference, {BATCH} recordings",
        [(name, f"{1000 * s:.1f}", f"{s / engine:.1f}") for name, s in seconds.items()],
        ("variant", "ms", "times the engine's"),
    )
    benchmark.pedantic(lambda: workload.engine_inference(spikes), rounds=5)
    assert seconds["plain path"] / engine > 15


def test_inference_of_one_recording(workload):
    """Measure the inference of a single recording, as in live use, with and without frozen weights."""
    spikes = EventLoader(workload.dataset, 1).batch(0)[0]

    def run_frozen():
        with workload.net.frozen():
            for _ in range(10):
                workload.net(spikes)

    seconds = median_seconds(
        {"not frozen": lambda: workload.engine_inference(spikes), "frozen": run_frozen}, rounds=50, warm=5
    )
    seconds["frozen"] /= 10  # only the first of the ten runs rounds the weights
    print_table(
        "inference of one recording", [(name, f"{1000 * s:.2f}") for name, s in seconds.items()], ("network", "ms")
    )
    assert seconds["frozen"] < seconds["not frozen"] < 0.01


def test_the_tutorials_loop(workload):
    """Compare the loop of lava-dl's tutorial (a DataLoader of dense tensors, and Assistant) with `EventLoader`."""
    dataset = workload.dataset
    assistant = Assistant(workload.net, workload.error, workload.optimizer, LearningStats(), classifier=Rate.predict)
    options_of = {"DataLoader, no workers": {}}
    for method in ("fork", "spawn", "forkserver"):
        if method in multiprocessing.get_all_start_methods():
            options_of[f"DataLoader, 2 workers ({method})"] = {"num_workers": 2, "multiprocessing_context": method}
    loaders = {"EventLoader": lambda: workload.events}
    for name, options in options_of.items():
        loaders[name] = lambda options=options: DataLoader(dataset, BATCH, shuffle=True, **options)
    seconds = {name: [] for name in loaders}
    for _ in range(3):
        for name, make_loader in loaders.items():
            steps = []
            began = None
            for inputs, label in make_loader():
                assistant.train(inputs, label)
                steps.append(time.perf_counter() - began if began else None)
                began = time.perf_counter()
            seconds[name].append(statistics.median(steps[1:]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [(name, f"{1000 * s:.1f}", f"{s / medians['EventLoader']:.2f}") for name, s in medians.items()]
    print_table(
        f"the tutorial's loop, {BATCH} recordings a batch, data included", rows, ("loader", "ms a batch", "ratio")
    )
    assert medians["DataLoader, no workers"] < 1.5 * medians["EventLoader"]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory():
    """Compare the peak memory of three training steps, each variant in its own process."""
    engine, plain = peak_memory("engine"), peak_memory("reference")
    print_table(
        "peak memory of a training step beyond the loaded program",
        [("engine", f"{engine:.0f}", "1.0"), ("plain path", f"{plain:.0f}", f"{plain / engine:.1f}")],
        ("variant", "MB", "times the engine's"),
    )
    assert engine < plain / 3


def record_time(seconds: dict[str, list[float]], name: str, fx):
    """Return a function that calls `fx` and appends its run time to the list ``seconds[name]``."""

    def run(*args, **options):
        began = time.perf_counter()
        result = fx(*args, **options)
        seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    return run


def measure_stages(workload, monkeypatch, rounds: int) -> dict[tuple[str, int], float]:
    """Return the median seconds of every (stage, block) of a training step, measured during whole steps."""
    layer = import_module("nmnist_helpers.kernels.cpu.layer")
    seconds: dict[str, list[float]] = {}
    functions = [
        (workload, "batch", "load and augment"), (cpu, "quantise", "quantise"), (cpu, "layer_forward", "forward"),
        (layer, "backward", "backward"), (layer, "weight_gradient", "weight gradient"),
        (layer, "input_gradient", "input gradient"), (cpu, "quantise_gradient", "quantise gradient"),
        (workload.optimizer, "step", "Adam"), (workload, "engine_step", "whole step"),
    ]  # fmt: skip
    for owner, name, label in functions:
        monkeypatch.setattr(owner, name, record_time(seconds, label, getattr(owner, name)))
    steps: dict[tuple[str, int], list[float]] = {}
    for i in range(3 + rounds):
        seconds.clear()
        workload.engine_step()
        for name, times in seconds.items():
            last_block_first = name in ("backward", "input gradient", "quantise gradient")
            first = 2 if name == "input gradient" else 1  # the first block's input needs no gradient
            for block, value in enumerate(reversed(times) if last_block_first else times, first):
                if i >= 3:
                    steps.setdefault((name, block), []).append(value)
    return {key: statistics.median(values) for key, values in steps.items()}


def test_stages(workload, monkeypatch):
    """Measure each stage of a training step, and compare it with the least time for its memory traffic or flops."""
    spikes, _ = workload.batch()
    with torch.no_grad(), kernels.using("cpu"):
        hidden = [s.detach().count_nonzero().item() for s in workload.net(spikes, layers=True)]
    source, target, rows = torch.randn(1 << 25), torch.empty(1 << 25), torch.randn(BATCH, STEPS, 512)
    square = torch.randint(-128, 128, (512, 512), dtype=torch.int8)
    peak = median_seconds(
        {"copy": lambda: target.copy_(source), "product": lambda: input_gradient(rows, square)}, rounds=7
    )
    bandwidth, flops = 2 * source.nbytes / peak["copy"], 2 * rows.numel() * 512 / peak["product"]
    measured = measure_stages(workload, monkeypatch, rounds=15)

    floors = {
        ("load and augment", 1): 9 * spikes.count / bandwidth,
        ("Adam", 1): 28 * sum(p.numel() for p in workload.net.parameters()) / bandwidth,
    }
    events = [spikes.count, *hidden]
    for block, (inputs, outputs) in enumerate(zip((2312, 512, 512), (512, 512, 10), strict=True), 1):
        neurons, weights = BATCH * STEPS * outputs, inputs * outputs
        additions = events[block - 1] * outputs / (flops / 2)
        floors |= {  # the time for the bytes that must be read or written, or for the arithmetic
            ("quantise", block): 5 * weights / bandwidth,
            ("forward", block): max((4 * neurons + 4 * sum(events[block - 1 : block + 1])) / bandwidth, additions),
            ("backward", block): max(((8 if block == 1 else 12) * neurons + 4 * weights) / bandwidth, additions),
            ("weight gradient", block): additions,
            ("input gradient", block): max(
                2 * BATCH * STEPS * weights / flops, 4 * BATCH * STEPS * (inputs + outputs) / bandwidth
            ),
            ("quantise gradient", block): 12 * weights / bandwidth,
        }
    whole = measured.pop(("whole step", 1))
    rest = whole - sum(measured.values())
    lines = [
        (name, block, f"{1000 * s:.2f}", f"{1000 * floors[name, block]:.2f}", f"{s / floors[name, block]:.1f}")
        for (name, block), s in measured.items()
    ]
    print_table(
        f"stages of a training step; copy {bandwidth / 1e9:.1f} GB/s, float32 product {flops / 1e9:.0f} GFLOP/s",
        [*lines, ("loss, autograd, Python", "", f"{1000 * rest:.2f}"), ("whole step", "", f"{1000 * whole:.2f}")],
        ("stage", "block", "ms", "floor ms", "times the floor"),
    )
    assert set(measured) <= set(floors)
    assert 0 < rest < whole / 2


def measure_growth() -> dict[str, list[tuple[float, float]]]:
    """Measure one block's forward and backward pass for growing sizes; return (size, seconds) for each kind of size."""
    from nmnist_helpers import block
    from nmnist_helpers.network import NEURON_PARAMS

    base = {"batch": 16, "steps": 300, "width": 512, "rate": 0.0065}
    sweeps = {
        "batch": (1, 4, 16, 64, 256),
        "steps": (75, 300, 1200, 3000),
        "width": (128, 512, 2048, 8192),
        "rate": (0.001, 0.0065, 0.04, 0.1, 0.3),
    }
    measured = {}
    for name, values in sweeps.items():
        functions = {}
        for value in values:
            size = {**base, name: value}
            layer = block.cuba.Dense(NEURON_PARAMS, 2312, size["width"], weight_norm=True, delay=True)
            generator = torch.Generator().manual_seed(0)
            spikes = Spikes.from_dense(
                (torch.rand(size["batch"], 2312, size["steps"], generator=generator) < size["rate"]).float()
            )

            def step(layer=layer, spikes=spikes):
                layer(spikes).sum().backward()

            functions[value] = step
        with kernels.using("cpu"):
            seconds = median_seconds(functions, rounds=3)
        measured[name] = sorted(seconds.items())
    return measured


def draw_growth(measured: dict[str, list[tuple[float, float]]], path) -> None:
    """Draw gifs/growth.png: the time of one block against batch, steps, width and event rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    from nmnist_helpers.pictures.palette import INK

    labels = {
        "batch": "batch size",
        "steps": "time steps",
        "width": "neurons",
        "rate": "share of input bins with a spike",
    }
    fig, axes = plt.subplots(1, 4, figsize=(12, 2.8), layout="constrained")
    for ax, (name, points) in zip(axes, measured.items(), strict=True):
        x, y = np.array(points).T
        ax.loglog(x, 1000 * y, "o-", color=INK)
        ax.loglog(x, 1000 * y[0] * x / x[0], color="0.7", ls="--")
        ax.set(xlabel=labels[name], ylabel="ms" if name == "batch" else None)
        ax.set_xticks(x, [f"{v:g}" for v in x])
        ax.set_xticks([], minor=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    fig.suptitle(
        "Forward and backward pass of a block (2312 inputs, 512 neurons, batch 16, T = 300); dashed: proportional"
    )
    with atomic(path) as temporary:
        fig.savefig(temporary, dpi=80)
    plt.close(fig)


def test_growth():
    """Check that time grows at most in proportion to the work, up to a factor of 3; draw gifs/growth.png."""
    measured = measure_growth()
    draw_growth(measured, Path(__file__).resolve().parents[2] / "gifs" / "growth.png")
    for name, points in measured.items():
        print_table(f"one block, growing {name}", [(v, f"{1000 * s:.1f}") for v, s in points], (name, "ms"))
        (first, fast), (last, slow) = points[0], points[-1]
        assert slow / fast < 3 * last / first, name


def test_dense_threshold(monkeypatch):
    """Print the times of event-based and dense products by density; `DENSE_FROM` was chosen from this table.

    The time of events may grow at most twice as fast as the density.
    """
    product = import_module("nmnist_helpers.kernels.cpu.product")
    shape, outputs = (16, 2312, 300), 512
    weights = torch.randint(-8, 8, (shape[1], outputs), dtype=torch.int8)
    retention = torch.full((outputs,), 3072, dtype=torch.int32), torch.full((outputs,), 3973, dtype=torch.int32)
    membrane, axon = Membrane(*retention, 5120, Surrogate(3.75, 0.04)), Axon(torch.ones(outputs, dtype=torch.int32))
    state = zero_state(shape[0], outputs, weights.device)
    grad = torch.randn(shape[0], shape[2], outputs)
    rows = []
    for density in (0.005, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
        generator = torch.Generator().manual_seed(0)
        spikes = Spikes.from_dense((torch.rand(shape, generator=generator) < density).float())

        def layer(dense_from, spikes=spikes):
            monkeypatch.setattr(product, "DENSE_FROM", dense_from)
            trace = cpu.layer_forward(spikes, weights, membrane, state, axon)
            cpu.layer_backward(grad, trace.saved, spikes, weights, membrane, state, axon, Needs(input=False))

        seconds = median_seconds({"events": lambda fx=layer: fx(2.0), "dense": lambda fx=layer: fx(-1.0)}, rounds=5)
        ratio = seconds["dense"] / seconds["events"]
        rows.append((density, *(f"{1000 * s:.1f}" for s in seconds.values()), f"{ratio:.2f}"))
    print_table(
        "a layer forward and backward, 16 samples", rows, ("density", "events ms", "dense ms", "dense / events")
    )
    for before, after in pairwise(rows):
        assert float(after[1]) / float(before[1]) < 2 * after[0] / before[0], (before, after)
