"""The loop: epochs of training and validation, each committed in one file, and the test at the end."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from .. import kernels
from ..checkpoint import load_checkpoint
from ..classifier import Rate
from ..data.augmentation import Augment
from ..data.dataset import NMNISTDataset
from ..data.loader import EventLoader
from ..io import PackedEvents
from ..loss import SpikeMax, SpikeRate
from ..paths import TRAINED
from ..utils import Assistant
from .folder import Folder
from .group import Group
from .parts import evenly, fingerprint, learn_and_validate
from .progress import Progress, network_of, step_factor
from .settings import Settings

DEFAULT_OUT = TRAINED / "long"
#: Seconds between two pictures of the curves. The checkpoint is written after every epoch.
PICTURE_EVERY = 30


def run(settings: Settings, resume: bool = False, overwrite: bool = False) -> dict:
    """Train, choose the best epoch, read the test recordings once.

    Parameters
    ----------
    settings : Settings
    resume : bool
        Go on with the run in the output folder; it ends as it would have without the break, to the bit. With more
        epochs a finished run goes on.
    overwrite : bool
        Replace the run in the output folder.

    Returns
    -------
    dict
        What ``result.json`` holds: settings, best epoch, accuracies, seconds. Empty in all processes but the first.

    Raises
    ------
    ValueError, FileExistsError, FileNotFoundError, CheckpointError
        If the run cannot begin, or go on, as asked for: before anything is written.
    OSError
        Naming the file that could not be written. What was written before stays whole.
    KeyboardInterrupt
        With words that tell how to go on.
    """
    folder = Folder(DEFAULT_OUT if settings.out is None else settings.out)
    folder.refuse(resume, overwrite)
    with contextlib.redirect_stdout(None if int(os.environ.get("RANK", 0)) else sys.stdout):
        dataset = NMNISTDataset(settings.data, train=True, source=settings.source)
    settings = replace(settings, source=dataset.source)
    learn, validate = learn_and_validate(dataset, settings)
    with Group(settings.device, settings.timeout) as group:
        progress = Progress(settings, group.device, fingerprint(dataset, learn, validate), group.size)
        if settings.start is not None:
            load_checkpoint(settings.start, progress.net)
        if resume:
            progress.restore(folder.load(), str(folder.checkpoint))
        if settings.epochs < progress.epoch:
            raise ValueError(
                f"--epochs: expected at least the {progress.epoch} that this run has, found {settings.epochs}"
            )
        # Weights, average, best, two moments, network.pt; twice, for an old file stays until the new one is whole.
        room = 12 * sum(p.numel() * p.element_size() for p in progress.net.parameters())
        with folder.hold(resume, overwrite, room) if group.first else contextlib.nullcontext():
            group.meet()
            with _told(progress, folder) if group.first else contextlib.nullcontext():
                loop = Loop(progress, group, folder, dataset, learn, validate)
                loop.train()
                return loop.finish() if group.first else {}


class Loop:
    """Epochs of a run, from where it stands to its end.

    Parameters
    ----------
    progress : Progress
    group : Group
    folder : Folder
    dataset : NMNISTDataset
        The training recordings.
    learn, validate : int arrays
        Which of them to learn from and to validate on.
    """

    def __init__(self, progress: Progress, group: Group, folder: Folder, dataset: NMNISTDataset, learn, validate):
        self.progress, self.group, self.folder, self.dataset = progress, group, folder, dataset
        settings = self.settings = progress.settings
        self.sizes = {"train": len(learn), "validation": len(validate)}
        options: dict[str, Any] = {"batch_size": settings.batch_size, "device": group.device}
        self.learning = EventLoader(
            Subset(dataset, learn),
            shuffle=True,
            seed=settings.seed,
            transform=Augment(settings.max_angle, settings.max_shift) if settings.augment else False,
            **options,
        )
        self.validating = EventLoader(Subset(dataset, validate), transform=False, **options) if len(validate) else None
        self.steps = group.steps(self.learning)
        if not self.steps:
            raise ValueError(
                f"--batch-size: expected at least a batch for each of {group.size} processes, found"
                f" {len(self.learning)} of {settings.batch_size} recordings"
            )
        error = loss_of(settings).to(group.device)
        stats, optimizer = progress.stats, progress.optimizer
        group.join(optimizer)
        self.bases = [parameters["lr"] for parameters in optimizer.param_groups]
        self.learner = Assistant(progress.net, error, optimizer, stats, classifier=Rate.predict)
        self.judge = Assistant(progress.judged, error, None, stats, classifier=Rate.predict)
        self.pictured = time.monotonic()

    def train(self) -> None:
        """Go through the epochs that are left; commit each."""
        progress, first = self.progress, self.group.first
        if first:
            self.folder.remove("result.json")  # it will not describe what comes now
            self.folder.commit(progress.tree())
            if progress.epoch:
                self.derive()
        while progress.epoch < self.settings.epochs:
            began = time.perf_counter()
            self.learn()
            self.validate()
            seconds = time.perf_counter() - began
            progress.close_epoch(seconds)
            if first:
                self.folder.commit(progress.tree())
                if time.monotonic() - self.pictured > PICTURE_EVERY or progress.epoch == self.settings.epochs:
                    self.derive()
                self.say(seconds)

    def learn(self) -> None:
        """One epoch of training."""
        progress, group, settings = self.progress, self.group, self.settings
        epoch, stat = progress.epoch, progress.stats.training
        # Dropout of an epoch follows from its number, as order and augmentation do; each process draws its own.
        drawn = np.random.SeedSequence([settings.seed, epoch, group.rank]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(drawn) >> 1)
        with tqdm(
            total=min(self.sizes["train"], self.steps * group.size * settings.batch_size),
            desc=f"epoch {epoch + 1}/{settings.epochs}",
            unit=" recordings",
            leave=False,
            disable=None if group.first else True,  # None: no bar where there is no terminal
        ) as bar:
            for step, (spikes, label) in enumerate(group.batches(self.learning, epoch, drop_rest=True)):
                factor = step_factor(settings.schedule, (epoch + step / self.steps) / settings.epochs)
                for parameters, base in zip(progress.optimizer.param_groups, self.bases, strict=True):
                    parameters["lr"] = base * factor
                self.learner.train(spikes, label)
                if progress.average is not None:
                    progress.average.update_parameters(progress.net)
                bar.set_postfix_str(f"batch {step + 1}/{self.steps}, loss {stat.loss:.4f}", refresh=False)
                bar.update(min(len(label) * group.size, bar.total - bar.n))
        group.add_up(stat)
        if group.device.type == "cuda" and kernels.backend.resolve(group.device) == "gpu":
            from ..kernels import gpu

            gpu.check()  # the GPU notes states out of range and goes on; once an epoch it is asked

    def validate(self) -> None:
        """One pass over the validation recordings."""
        if self.validating is not None:
            for spikes, label in self.group.batches(self.validating, 0, drop_rest=False):
                self.judge.valid(spikes, label)
            self.group.add_up(self.progress.stats.validation)

    def derive(self) -> None:
        """Make the files that follow from the checkpoint."""
        self.folder.derive(self.progress.best, self.progress.stats)
        self.pictured = time.monotonic()

    def say(self, seconds: float) -> None:
        """One line on the epoch."""
        progress, stats = self.progress, self.progress.stats
        line = f"epoch {progress.epoch}/{self.settings.epochs}: loss {stats.training.loss_log[-1]:.4f}"
        line += f", accuracy {stats.training.accuracy_log[-1]:.4f}"
        if self.validating is not None:
            best = " (best)" if progress.best_epoch == progress.epoch - 1 else ""
            line += f", validation {stats.validation.accuracy_log[-1]:.4f}{best}"
        left = (self.settings.epochs - progress.epoch) * progress.seconds / progress.epoch
        tqdm.write(f"{line}; {seconds:.1f} s, {tqdm.format_interval(left)} left")

    def finish(self) -> dict:
        """Test the network that was kept, and write the report."""
        progress, settings = self.progress, self.settings
        net = network_of(settings).to(self.group.device)
        best, best_epoch = progress.best, progress.best_epoch
        assert best is not None  # there was an epoch
        assert best_epoch is not None
        net.load_state_dict(best)
        test_set = NMNISTDataset(settings.data, train=False, source=settings.source)
        tested = Subset(test_set, evenly(len(test_set), settings.recordings).tolist())
        found, true = answers(net, tested, self.group.device)
        curve = progress.stats.validation.accuracy_log
        result: dict[str, Any] = {
            "settings": settings.lasting()
            | {"start": settings.start and Path(settings.start).name, "hidden": list(settings.hidden)},
            "source": settings.source,
            "recordings": self.sizes | {"test": len(tested)},
            "processes": self.group.size,
            "best_epoch": best_epoch,
            "validation_accuracy": curve[best_epoch],
            "test_accuracy": float((found == true).mean()),
            "seconds": round(progress.seconds, 1),
            "network_sha256": self.folder.digest(),
        }
        self.folder.report(result)
        chosen = "last epoch" if settings.keep == "last" else "best epoch"
        validated = "" if self.validating is None else f" (validation {result['validation_accuracy']:.4f})"
        print(f"{chosen} {best_epoch + 1}{validated}: {result['test_accuracy']:.4f} of {len(tested)} test recordings")
        return result


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
    found, true = (torch.cat(column).numpy() for column in zip(*pairs, strict=True))
    return found, true


def loss_of(settings: Settings) -> torch.nn.Module:
    """The loss, summed over a batch."""
    if settings.loss == "max":
        return SpikeMax(moving_window=settings.window, reduction="sum")
    return SpikeRate(settings.true_rate, settings.false_rate, settings.window, reduction="sum")


@contextlib.contextmanager
def _told(progress: Progress, folder: Folder) -> Iterator[None]:
    """Where the run is interrupted, or cannot write, say how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if folder.kept and folder.kept == progress.epoch:
            folder.derive(progress.best, progress.stats)
        raise type(stop)(f"stopped; {folder.how_to_go_on()}") from None
    except OSError as error:
        raise OSError(f"{error}; {folder.how_to_go_on()}") from error
