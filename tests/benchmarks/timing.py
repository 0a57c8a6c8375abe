"""Helpers that the benchmarks share: interleaved timing, peak memory, and the code to be measured."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding
import torch
from torch.utils.data import DataLoader

from nmnist_helpers import EventLoader, Network, NMNISTDataset, augment, kernels
from nmnist_helpers.loss import SpikeRate
from nmnist_helpers.utils import parameter_groups

BATCH, STEPS = 32, 300


def median_seconds(functions: dict[str, Callable], rounds: int = 7, warm: int = 1) -> dict[str, float]:
    """Return the median seconds of each function; runs are interleaved, so that noise affects all of them equally."""
    for fx in functions.values():
        for _ in range(warm):
            fx()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, fx in functions.items():
            began = time.perf_counter()
            fx()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def describe_machine() -> str:
    """Describe the processor's vector instructions, and the cores and threads that this process may use."""
    features = llvmlite.binding.get_host_cpu_features()
    vectors = [
        name for name, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2"), ("NEON", "neon")) if features.get(flag)
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{(vectors or ['no vector instructions'])[0]}, {cores} cores, {torch.get_num_threads()} threads"


def print_table(title: str, rows: list[tuple], header: tuple) -> None:
    """Print rows as an aligned table, with a description of the machine."""
    lines = [tuple(str(cell) for cell in row) for row in [header, *rows]]
    widths = [max(len(row[i]) for row in lines if i < len(row)) for i in range(len(header))]
    print(f"\n{title} ({describe_machine()})")
    for row in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


class Workload:
    """Training and inference of the tutorial's network, with the engine and on the plain path.

    The recordings are real if there are any, and simulated otherwise. The plain path uses the reference kernels, dense
    tensors and a DataLoader that opens one file per recording.
    """

    def __init__(self, batch: int = BATCH, net: Network | None = None, lr: float = 1e-3):
        torch.manual_seed(0)
        self.dataset = NMNISTDataset(train=True, transform=augment)
        self.net = Network() if net is None else net
        self.error = SpikeRate(0.2, 0.03)
        self.optimizer = torch.optim.Adam(parameter_groups(self.net, lr), lr=lr, fused=True)
        self.events = EventLoader(self.dataset, batch, shuffle=True)
        self.files = DataLoader(NMNISTDataset(train=True, transform=augment, cache=False), batch, shuffle=True)
        self._next = 0

    def batch(self):
        """Return the next batch: its events and its labels."""
        self._next = (self._next + 1) % (len(self.events) - 1)
        return self.events.batch(self._next)

    def update(self, spikes, label) -> None:
        """Run the forward pass, the backward pass and Adam's step."""
        self.net.train()
        self.optimizer.zero_grad()
        self.error(self.net(spikes), label).backward()
        self.optimizer.step()

    def engine_step(self) -> None:
        """Load and augment a batch, and take a training step with the CPU kernels."""
        with kernels.using("cpu"):
            self.update(*self.batch())

    def reference_step(self) -> None:
        """Load and augment a batch, and take a training step on the plain path."""
        with kernels.using("reference"):
            spikes, label = next(iter(self.files))
            self.update(spikes, label)

    @torch.no_grad()
    def engine_inference(self, spikes) -> torch.Tensor:
        """Return the network's output for a batch of events, without gradients."""
        self.net.eval()
        with kernels.using("cpu"):
            return self.net(spikes)

    @torch.no_grad()
    def reference_inference(self, dense) -> torch.Tensor:
        """Return the output for a dense tensor [B, C, T] on the plain path, without gradients."""
        self.net.eval()
        with kernels.using("reference"):
            return self.net(dense)


class DenseLinear(torch.nn.Module):
    """Three dense linear layers of the network's sizes, applied to all time steps; no neurons and no delays."""

    def __init__(self):
        super().__init__()
        sizes = (2312, 512, 512, 10)
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            rows = layer(rows)
        return rows

    def step(self, rows: torch.Tensor) -> None:
        """Run forward and backward passes on rows [B, T, 2312]."""
        self.zero_grad()
        self(rows).sum().backward()


def peak_memory(task: str) -> float:
    """Return the peak memory of `task` ('engine' or 'reference') in MB, in a new process, beyond the loaded program."""
    run = subprocess.run(
        [sys.executable, __file__, task], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    return float(run.stdout.strip().splitlines()[-1])


def _print_peak_memory(task: str) -> None:
    workload = Workload()
    step = {"engine": workload.engine_step, "reference": workload.reference_step}[task]
    workload.batch()  # read the recordings before measuring
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _process_status("VmRSS")
    for _ in range(3):
        step()
    print((_process_status("VmHWM") - before) / 1024)


def _process_status(name: str) -> int:
    """Return an entry of this process's status in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    _print_peak_memory(sys.argv[1])
