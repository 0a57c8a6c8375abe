"""The engine on the CPU: the figures of the README, reproduced. ``pytest tests/benchmarks -s`` prints the tables.

Contestants take turns in one run, medians are compared, and every figure has a floor under which the test fails.
The floors leave room for a noisy machine; the README's figures are those of a quiet one.
"""

from importlib import import_module

import numpy as np
import pytest
import torch
from timing import BATCH, STEPS, Contest, DenseLinear, interleaved, peak_memory, table

from nmnist_helpers import GIFS, kernels
from nmnist_helpers.files import atomic
from nmnist_helpers.kernels import cpu
from nmnist_helpers.kernels.common import Surrogate, zero_state
from nmnist_helpers.spikes import Spikes


@pytest.fixture(scope="module")
def contest():
    return Contest()


def test_training_step(contest, benchmark):
    """Load, augment, forward, backward, Adam on 32 recordings, against the plain path and three dense layers."""
    dense = DenseLinear()
    rows = contest.batch()[0].rows()
    with kernels.using("cpu"):
        seconds = interleaved(
            {
                "engine": contest.engine_step,
                "dense linear layers": lambda: dense.step(rows),
                "plain path": contest.reference_step,
            },
            rounds=5,
        )
    engine = seconds["engine"]
    table(
        f"training step, {BATCH} {contest.dataset.source} recordings, T = {STEPS}, {torch.get_num_threads()} threads",
        [(name, f"{1000 * s:.1f}", f"{s / engine:.1f}") for name, s in seconds.items()],
        ("contestant", "ms", "times the engine's"),
    )
    benchmark.extra_info.update({name: s for name, s in seconds.items()})
    benchmark.pedantic(contest.engine_step, rounds=5)
    assert seconds["plain path"] / engine > 6
    assert seconds["dense linear layers"] / engine > 1.5


def test_inference(contest, benchmark):
    """Forward only: events in against a dense tensor through the plain path; the spikes are the same."""
    spikes, _ = contest.batch()
    dense = spikes.rows().transpose(1, 2).contiguous()
    assert torch.equal(contest.engine_inference(spikes), contest.reference_inference(dense))
    seconds = interleaved(
        {"engine": lambda: contest.engine_inference(spikes), "plain path": lambda: contest.reference_inference(dense)},
        rounds=5,
    )
    engine = seconds["engine"]
    table(
        f"inference, {BATCH} recordings",
        [(name, f"{1000 * s:.1f}", f"{s / engine:.1f}") for name, s in seconds.items()],
        ("contestant", "ms", "times the engine's"),
    )
    benchmark.pedantic(lambda: contest.engine_inference(spikes), rounds=5)
    assert seconds["plain path"] / engine > 7


def test_peak_memory():
    """Peak memory of three training steps, each contestant in a process of its own."""
    engine, plain = peak_memory("engine"), peak_memory("reference")
    table(
        "peak memory of a training step beyond the loaded program",
        [("engine", f"{engine:.0f}", "1.0"), ("plain path", f"{plain:.0f}", f"{plain / engine:.1f}")],
        ("contestant", "MB", "times the engine's"),
    )
    assert engine < plain / 3


def test_stages(contest):
    """Where the time of a step goes, and how far each stage is from the bytes or flops that it cannot do without."""
    net = contest.net
    spikes, _ = contest.batch()
    batch, inputs, steps = spikes.shape
    out = 512
    block = net.blocks[0]
    v = block.synapse.weight_v.detach().reshape(out, inputs)
    norm = torch.norm_except_dim(v, 2, 0).flatten()
    factor = block.synapse.weight_g.detach().flatten() / norm
    weights = cpu.quantise(v, factor)
    keep = torch.full((out,), 3072, dtype=torch.int32), torch.full((out,), 3973, dtype=torch.int32)
    state = zero_state(batch, out, torch.device("cpu"))
    trace = cpu.layer_forward(spikes, weights, *keep, 5120, state)
    grad = torch.randn(batch, steps, out)
    lag = torch.ones(out, dtype=torch.int32)
    surrogate = Surrogate(3.75, 0.04)
    hidden = Spikes.from_rows(trace.spikes)
    square = torch.randn(out, out)
    table_gradient = cpu.weight_gradient(spikes, grad)
    moved = cpu.axon_forward(trace.spikes, lag)
    source, target = torch.randn(1 << 25), torch.empty(1 << 25)
    stages = {
        "copy": lambda: target.copy_(source),
        "matrix product": lambda: grad.view(-1, out) @ square,
        "load and augment": contest.batch,
        "quantise": lambda: cpu.quantise(v, factor),
        "product and neuron": lambda: cpu.layer_forward(spikes, weights, *keep, 5120, state),
        "axon and events": lambda: Spikes.from_rows(cpu.axon_forward(trace.spikes, lag)).rows(),
        "neuron backward": lambda: cpu.neuron_backward(grad, trace.voltage, *keep, 5120, state, surrogate, lag=lag),
        "delay gradient": lambda: cpu.delay_gradient(grad, moved),
        "weight gradient": lambda: cpu.weight_gradient(spikes, grad),
        "quantise gradient": lambda: cpu.quantise_gradient(v, factor, norm, table_gradient),
    }
    seconds = interleaved(stages, rounds=7)
    bandwidth = 2 * source.nbytes / seconds.pop("copy")
    flops = 2 * batch * steps * out * out / seconds.pop("matrix product")
    element = batch * steps * out
    floors = {  # bytes that must move once, or additions that must happen, at 16 lanes a cycle for each thread
        "load and augment": 9 * spikes.count / bandwidth,
        "quantise": 5 * v.numel() / bandwidth,
        "product and neuron": max(5 * element / bandwidth, spikes.count * out / flops),
        "axon and events": 6 * element / bandwidth,
        "neuron backward": 12 * element / bandwidth,
        "delay gradient": 8 * hidden.count / bandwidth,
        "weight gradient": max((4 * element + 4 * v.numel()) / bandwidth, spikes.count * out / flops),
        "quantise gradient": 12 * v.numel() / bandwidth,
    }
    table(
        f"stages of the first block; copy {bandwidth / 1e9:.1f} GB/s, float32 product {flops / 1e9:.0f} GFLOP/s",
        [(n, f"{1000 * s:.2f}", f"{1000 * floors[n]:.2f}", f"{s / floors[n]:.1f}") for n, s in seconds.items()],
        ("stage", "ms", "floor ms", "times the floor"),
    )
    assert all(np.isfinite(s) for s in seconds.values())


def growth() -> dict[str, list[tuple[float, float]]]:
    """Seconds of forward and backward of one block as batch, steps, width and event rate grow."""
    from nmnist_helpers import block
    from nmnist_helpers.network import NEURON_PARAMS

    base = {"batch": 16, "steps": 300, "width": 512, "rate": 0.0065}
    sweeps = {
        "batch": (4, 16, 64),
        "steps": (75, 300, 1200),
        "width": (128, 512, 2048),
        "rate": (0.001, 0.0065, 0.04, 0.1, 0.3),
    }
    measured = {}
    for name, values in sweeps.items():
        contestants = {}
        for value in values:
            size = {**base, name: value}
            layer = block.cuba.Dense(NEURON_PARAMS, 2312, size["width"], weight_norm=True, delay=True)
            generator = torch.Generator().manual_seed(0)
            spikes = Spikes.from_dense(
                (torch.rand(size["batch"], 2312, size["steps"], generator=generator) < size["rate"]).float()
            )

            def step(layer=layer, spikes=spikes):
                layer(spikes).sum().backward()

            contestants[value] = step
        with kernels.using("cpu"):
            seconds = interleaved(contestants, rounds=3)
        measured[name] = sorted(seconds.items())
    return measured


def draw_growth(measured: dict[str, list[tuple[float, float]]], path) -> None:
    """The README's picture: time of one block over batch, steps, width and event rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = {"batch": "batch size", "steps": "steps of time", "width": "neurons", "rate": "share of set input bins"}
    fig, axes = plt.subplots(1, 4, figsize=(12, 2.8), layout="constrained")
    for ax, (name, points) in zip(axes, measured.items(), strict=True):
        x, y = np.array(points).T
        ax.loglog(x, 1000 * y, "o-", color="tab:blue")
        ax.loglog(x, 1000 * y[0] * x / x[0], color="0.7", ls="--")
        ax.set(xlabel=labels[name], ylabel="ms")
    fig.suptitle("Forward and backward of a block (2312 inputs, 512 neurons, batch 16, T = 300); dashed: proportional")
    with atomic(path) as temporary:
        fig.savefig(temporary, dpi=80)
    plt.close(fig)


def test_growth():
    """Time grows no faster than the work does; the picture goes where the README looks for it."""
    measured = growth()
    draw_growth(measured, GIFS / "growth.png")
    for name, points in measured.items():
        table(f"one block, growing {name}", [(v, f"{1000 * s:.1f}") for v, s in points], (name, "ms"))
        (first, fast), (last, slow) = points[0], points[-1]
        assert slow / fast < 3 * last / first, name


def test_dense_threshold():
    """Where a dense product overtakes the event product: the constant `DENSE_FROM` was read off this table."""
    product = import_module("nmnist_helpers.kernels.cpu.product")  # its name in the package is the function's
    weights = torch.randint(-128, 128, (2312, 512), dtype=torch.int8)
    rows = []
    for density in (0.005, 0.02, 0.05, 0.1, 0.2, 0.4):
        generator = torch.Generator().manual_seed(0)
        spikes = Spikes.from_rows((torch.rand(8, 300, 2312, generator=generator) < density).to(torch.uint8))
        dense = spikes.rows()
        grad = torch.randn(8, 300, 512)
        out, grad_out = torch.empty(8, 300, 512), torch.empty(2312, 512)

        def events(spikes=spikes, grad=grad, out=out, grad_out=grad_out):
            one = np.float32(1)
            product._product(spikes.indptr.numpy(), spikes.channel.numpy(), weights.numpy(), one, out.numpy())
            product._weight_gradient(
                spikes.indptr.numpy(), spikes.channel.numpy(), grad.numpy(), one, 128, grad_out.numpy()
            )

        def products(dense=dense, grad=grad):
            values = weights.t().float()
            return dense @ values.t(), dense.view(-1, 2312).t() @ grad.view(-1, 512)

        seconds = interleaved({"events": events, "dense": products}, rounds=3)
        ratio = seconds["dense"] / seconds["events"]
        rows.append((density, *(f"{1000 * s:.1f}" for s in seconds.values()), f"{ratio:.2f}"))
    table("product and weight gradient, 8 samples", rows, ("density", "events ms", "dense ms", "dense / events"))
