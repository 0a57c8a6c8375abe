"""Training at full length: the notebook's loop as a command, ``python -m nmnist_helpers.train``.

    python -m nmnist_helpers.train --epochs 100 --out Trained/full
    torchrun --nproc-per-node 2 -m nmnist_helpers.train ...

The best epoch is chosen on a validation part of the training recordings; the test recordings are read once,
at the end. A run that was broken off goes on with ``--resume``.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from . import kernels
from .classifier import Rate
from .data.augmentation import augment
from .data.dataset import NMNISTDataset
from .data.loader import EventLoader
from .files import atomic
from .io import PackedEvents
from .loss import SpikeRate
from .network import Network
from .paths import TRAINED
from .utils import Assistant, LearningStats, parameter_groups


@dataclass
class Settings:
    """What a run depends on; ``python -m nmnist_helpers.train --help`` tells the meaning of each."""

    epochs: int = 60
    batch_size: int = 32
    lr: float = 0.001
    schedule: str = "constant"
    seed: int = 0
    validation: float = 1 / 6
    true_rate: float = 0.2
    false_rate: float = 0.03
    dropout: float = 0.05
    source: str = "auto"
    data: str | None = None
    recordings: int | None = None
    device: str = "auto"
    out: str | None = None


def split(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide a training set into a part to learn from and a part to choose the best epoch on.

    Parameters
    ----------
    labels : int array [N]
        Digits; every digit is divided in the same proportion.
    share : float
        Of the validation part, 0..1.

    Returns
    -------
    learn, validate : int arrays
        Indices, always the same for the same labels.
    """
    learn, validate = train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=0)
    return np.sort(learn), np.sort(validate)


def evenly(count: int, most: int | None) -> np.ndarray:
    """Indices of at most `most` of `count` recordings, taken evenly: datasets are in order of digit."""
    return np.arange(count) if most is None or most >= count else np.arange(most) * count // most


@torch.no_grad()
def answers(
    net: torch.nn.Module, dataset: Dataset | PackedEvents, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The network's answers and the true digits, int arrays [N]."""
    net.eval()
    pairs = [
        (Rate.predict(net(spikes)).cpu(), label.cpu())
        for spikes, label in EventLoader(dataset, 64, transform=False, device=device)
    ]
    return tuple(torch.cat(column).numpy() for column in zip(*pairs, strict=True))


class Group:
    """The processes of a torchrun, or one process alone.

    Parameters
    ----------
    device : str
        Where to compute. 'auto' takes a GPU where there is one; under torchrun 'cuda' gives each process its own.
    """

    def __init__(self, device: str = "auto"):
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and self.size > 1:
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device = torch.device(device)
        if self.device.index is not None and self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton and NCCL go by the present device
        if self.size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    def wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        """The network with its gradients averaged over the processes."""
        return net if self.size == 1 else torch.nn.parallel.DistributedDataParallel(net)

    def batches(self, loader: EventLoader, epoch: int, drop_rest: bool):
        """This process's batches of an epoch: every `size`-th one; for training the same number on each."""
        loader.set_epoch(epoch)
        count = len(loader) - (len(loader) % self.size if drop_rest else 0)
        for i in range(self.rank, count, self.size):
            yield loader.batch(i)

    def add_up(self, stat) -> None:
        """Sum a running statistic over the processes."""
        if self.size > 1:
            total = torch.tensor([stat.loss_sum, stat.correct_samples, stat.num_samples], dtype=torch.float64)
            total = total.to(self.device)
            dist.all_reduce(total)
            stat.loss_sum, stat.correct_samples, stat.num_samples = total[0].item(), int(total[1]), int(total[2])

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()


def save_checkpoint(path: Path, **parts) -> None:
    """Write tensors and plain values in one file, atomically; `torch.load(weights_only=True)` reads it."""
    with atomic(path) as temporary:
        torch.save(parts, temporary)


def run(settings: Settings, resume: bool = False) -> dict:
    """Train, choose the best epoch, read the test set once.

    Parameters
    ----------
    settings : Settings
    resume : bool
        Go on from ``checkpoint.pt`` in the output folder.

    Returns
    -------
    dict
        What ``result.json`` holds: settings, best epoch, accuracies, seconds.

    Notes
    -----
    The output folder gets ``network.pt`` (the best epoch), ``loss.txt`` and ``accuracy.txt`` (the curves),
    ``checkpoint.pt`` (to resume) and ``result.json``.
    """
    group = Group(settings.device)
    try:
        return _run(settings, resume, group)
    finally:
        group.close()


def _run(settings: Settings, resume: bool, group: Group) -> dict:
    first = group.rank == 0
    device = group.device
    torch.manual_seed(settings.seed)
    training_set = NMNISTDataset(settings.data, train=True, source=settings.source)
    used = evenly(len(training_set), settings.recordings)
    learn, validate = (used[part] for part in split(training_set.labels[used], settings.validation))
    options = {"batch_size": settings.batch_size, "device": device}
    train_loader = EventLoader(
        Subset(training_set, learn), shuffle=True, seed=settings.seed, transform=augment, **options
    )
    valid_loader = EventLoader(Subset(training_set, validate), **options)

    out = TRAINED / training_set.source if settings.out is None else Path(settings.out)
    net = Network(dropout=settings.dropout).to(device)
    optimizer = torch.optim.Adam(parameter_groups(net, settings.lr), lr=settings.lr, fused=True)
    scheduler = None
    if settings.schedule == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    stats = LearningStats()
    error = SpikeRate(settings.true_rate, settings.false_rate, reduction="sum").to(device)
    assistant = Assistant(group.wrap(net), error, optimizer, stats, classifier=Rate.predict)
    start, seconds = 0, 0.0
    if resume:
        start, seconds = _resume(out, settings, device, net, optimizer, scheduler, stats)
    torch.manual_seed(1000 * settings.seed + group.rank)  # each process drops neurons of its own

    bar = tqdm(range(start, settings.epochs), unit="epoch", initial=start, total=settings.epochs, disable=not first)
    for epoch in bar:
        began = time.perf_counter()
        for spikes, label in group.batches(train_loader, epoch, drop_rest=True):
            assistant.train(spikes, label)
        for spikes, label in group.batches(valid_loader, 0, drop_rest=False):
            assistant.valid(spikes, label)
        if scheduler is not None:
            scheduler.step()
        group.add_up(stats.training)
        group.add_up(stats.validation)
        stats.update()
        if device.type == "cuda" and kernels.backend.resolve(device) == "gpu":
            from .kernels import gpu

            gpu.check()  # the GPU notes states out of range and goes on; once an epoch it is asked
        seconds += time.perf_counter() - began
        if not first:
            continue
        learned, validated = stats.training.accuracy_log[-1], stats.validation.accuracy_log[-1]
        bar.set_postfix_str(f"train {learned:.4f} valid {validated:.4f}")
        if stats.validation.best_accuracy:
            save_checkpoint(out / "network.pt", **net.state_dict())
        stats.save(str(out))
        save_checkpoint(
            out / "checkpoint.pt", epoch=epoch + 1, seconds=seconds, settings=asdict(settings), net=net.state_dict(),
            optimizer=optimizer.state_dict(), scheduler=None if scheduler is None else scheduler.state_dict(),
        )  # fmt: skip

    result = {}
    if first:
        result = _report(settings, out, net, stats, len(learn), len(validate), seconds, training_set.source)
    return result


def _resume(out, settings, device, net, optimizer, scheduler, stats) -> tuple[int, float]:
    path = out / "checkpoint.pt"
    if not path.exists():
        raise FileNotFoundError(f"--resume: expected {path}, found nothing there")
    kept = torch.load(path, map_location=device, weights_only=True)
    for name, value in asdict(settings).items():
        if name not in ("epochs", "out", "data", "device") and kept["settings"].get(name) != value:
            found = kept["settings"].get(name)
            raise ValueError(f"--resume: {path} was trained with {name} = {found}, expected {value} as asked for now")
    net.load_state_dict(kept["net"])
    optimizer.load_state_dict(kept["optimizer"])
    if scheduler is not None and kept["scheduler"] is not None:
        scheduler.load_state_dict(kept["scheduler"])
    stats.load(str(out))
    for stat in (stats.training, stats.validation, stats.testing):
        # A run that was broken off between the curves and the checkpoint left one epoch too many.
        del stat.loss_log[kept["epoch"] :], stat.accuracy_log[kept["epoch"] :]
    return kept["epoch"], kept["seconds"]


def _report(settings, out, net, stats, learned, validated, seconds, source) -> dict:
    device = next(net.parameters()).device
    net.load_state_dict(torch.load(out / "network.pt", map_location=device, weights_only=True))
    test_set = NMNISTDataset(settings.data, train=False, source=settings.source)
    tested = Subset(test_set, evenly(len(test_set), settings.recordings))
    found, true = answers(net, tested, device)
    curve = stats.validation.accuracy_log
    result = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("out", "data")},
        "source": source,
        "recordings": {"train": learned, "validation": validated, "test": len(tested)},
        "best_epoch": int(np.argmax(curve)),
        "validation_accuracy": max(curve),
        "test_accuracy": float((found == true).mean()),
        "seconds": round(seconds, 1),
    }
    with atomic(out / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"best epoch {result['best_epoch']} (validation {result['validation_accuracy']:.4f}):"
        f" {result['test_accuracy']:.4f} of {len(tested)} test recordings"
    )
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m nmnist_helpers train", description=(__doc__ or "").split("\n\n")[0])
    d = Settings()
    p.add_argument("--epochs", type=int, default=d.epochs)
    p.add_argument("--batch-size", type=int, default=d.batch_size)
    p.add_argument("--lr", type=float, default=d.lr, help="Adam's step size (default %(default)s)")
    p.add_argument("--schedule", choices=("constant", "cosine"), default=d.schedule, help="of the step size")
    p.add_argument("--seed", type=int, default=d.seed, help="of weights, order, augmentation and dropout")
    p.add_argument(
        "--validation", type=float, default=d.validation, help="share of the training recordings (default 1/6)"
    )
    p.add_argument("--true-rate", type=float, default=d.true_rate, help="target spikes per ms of the true class")
    p.add_argument("--false-rate", type=float, default=d.false_rate, help="target spikes per ms of the others")
    p.add_argument("--dropout", type=float, default=d.dropout)
    p.add_argument("--source", choices=("auto", "recorded", "simulated"), default=d.source)
    p.add_argument("--data", default=d.data, help="folder of the recordings (default NMNIST_DATA, else data/)")
    p.add_argument("--recordings", type=int, default=d.recordings, help="use only so many of each split, for a trial")
    p.add_argument("--device", default=d.device, help="auto, cpu or cuda")
    p.add_argument(
        "--out", default=d.out, help="folder of network, curves, result (default Trained/recorded or Trained/simulated)"
    )
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    return p


def main(argv: list[str] | None = None) -> dict:
    """Parse the command line and run."""
    options = vars(parser().parse_args(argv))
    resume = options.pop("resume")
    return run(Settings(**options), resume)


if __name__ == "__main__":
    main()
