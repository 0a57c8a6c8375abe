"""The training loop: train, validate and save a checkpoint in every epoch, and test at the end."""

import time
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from .. import kernels
from ..classifier import Rate
from ..console import progress_bar, tell
from ..data.augmentation import Augment
from ..data.dataset import NMNISTDataset
from ..data.loader import EventLoader
from ..data.simulated import simulated_split
from ..io import PackedEvents
from ..loss import SpikeMax, SpikeRate
from ..network import Network
from ..utils import Assistant
from .folder import Folder
from .group import Group
from .parts import evenly_spaced
from .progress import Progress, network_of, step_factor
from .settings import SMOOTHING, SOFTMAX_SCALE, Settings
from .trainer import CapturedTrainer, Trainer

#: Minimum seconds between two updates of the derived files. The checkpoint itself is written after every epoch.
DERIVE_EVERY = 30
#: Added to the rates in `SpikeMax`, in spikes per time step. With the loss's own default, the gradient of a true class
#: whose neuron is silent is so large that the others do not count, and most runs learn nothing.
SILENT = 0.01


class Loop:
    """The remaining epochs of a run, and the test at its end.

    Parameters
    ----------
    progress : Progress
    group : Group
    folder : Folder
    dataset : NMNISTDataset
        The training recordings, including those for validation.
    learn, validate : int arrays
        Indices of the recordings to train on, and of those to validate on.
    """

    def __init__(self, progress: Progress, group: Group, folder: Folder, dataset: NMNISTDataset, learn, validate):
        self.progress, self.group, self.folder = progress, group, folder
        self.dataset, self.learn = dataset, learn
        settings = self.settings = progress.settings
        self.sizes = {"train": len(learn), "validation": len(validate)}
        moves = Augment(
            settings.max_angle,
            settings.max_shift,
            max_warp=settings.max_warp,
            max_stretch=settings.max_stretch,
            max_shear=settings.max_shear,
        )
        options: dict[str, Any] = {
            "batch_size": settings.batch_size,
            "device": group.device,
            "sampling_time": progress.net.SAMPLING_TIME,
            "value": 1,
        }
        transform = moves if settings.augment else False
        self.train_options = options | {"shuffle": True, "seed": settings.seed, "transform": transform}
        self.load_take(0)
        self.val_loader = EventLoader(Subset(dataset, validate), transform=False, **options) if len(validate) else None
        self.steps = group.steps(self.train_loader)
        if not self.steps:
            raise ValueError(
                f"--batch-size: expected at least a batch for each of {group.size} processes, found"
                f" {len(self.train_loader)} of {settings.batch_size} recordings"
            )
        error = loss_of(settings).to(group.device)
        stats, optimizer = progress.stats, progress.optimizer
        group.sum_gradients(optimizer)
        self.bases = [parameters["lr"] for parameters in optimizer.param_groups]
        self.trainer = self._kind_of_trainer()(progress.net, error, optimizer, stats, Rate.predict)
        self.trainer.average = progress.average
        if self.on_gpu and settings.schedule != "constant":  # a recorded step reads a changing step size from a tensor
            for parameters in optimizer.param_groups:
                parameters["lr"] = torch.tensor(parameters["lr"], device=group.device)
        self.validator = Assistant(progress.validated_net, error, None, stats, classifier=Rate.predict)
        self.derived_at = time.monotonic()

    def train(self) -> None:
        """Run the remaining epochs, and save a checkpoint after each."""
        progress, first = self.progress, self.group.first
        if first:
            self.folder.remove("result.json")  # an old report would not describe this run
            if progress.epoch < self.settings.epochs:
                self.folder.remove(*self.folder.dependent)  # of the network as it was
            self.folder.commit(progress.tree())
            if progress.epoch:
                self.write_derived()
        while progress.epoch < self.settings.epochs:
            began = time.perf_counter()
            self.train_epoch()
            self.validate()
            seconds = time.perf_counter() - began
            progress.close_epoch(seconds)
            if first:
                self.folder.commit(progress.tree())
                if time.monotonic() - self.derived_at > DERIVE_EVERY or progress.epoch == self.settings.epochs:
                    self.write_derived()
                self.print_epoch(seconds)

    def load_take(self, take: int) -> None:
        """Use this take for training from now on: another simulated recording of each digit (0: the dataset's own)."""
        events = simulated_split(train=True, take=take, root=self.dataset.root) if take else self.dataset.packed
        self.train_loader = EventLoader(Subset(cast(Dataset, events), self.learn), **self.train_options)
        self.take = take

    def train_epoch(self) -> None:
        """Train for one epoch."""
        progress, group, settings = self.progress, self.group, self.settings
        epoch, stat = progress.epoch, progress.stats.training
        if epoch % settings.takes != self.take:
            self.load_take(epoch % settings.takes)
        # Like order and augmentation, dropout depends only on seed and epoch, and differs between the processes.
        drawn = np.random.SeedSequence([settings.seed, epoch, group.rank]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(drawn) >> 1)
        with progress_bar(
            hidden=None if group.first else True,  # None hides it where there is no terminal
            total=min(self.sizes["train"], self.steps * group.size * settings.batch_size),
            desc=f"epoch {epoch + 1}/{settings.epochs}",
            unit=" recordings",
            leave=False,
        ) as bar:
            for step, (spikes, label) in enumerate(group.batches(self.train_loader, epoch, drop_rest=True)):
                self.set_step_size((epoch + step / self.steps) / settings.epochs)
                self.trainer.train(spikes, label)
                loss = "" if stat.loss is None else f", loss {stat.loss:.4f}"
                bar.set_postfix_str(f"batch {step + 1}/{self.steps}{loss}", refresh=False)
                bar.update(min(len(label) * group.size, bar.total - bar.n))
        self.trainer.read()
        group.sum_statistic(stat)
        if self.on_gpu:
            from ..kernels import gpu

            gpu.check()  # kernels only record that a state left its range; this raises the error, once per epoch

    @property
    def on_gpu(self) -> bool:
        """Whether the Triton kernels run."""
        return self.group.device.type == "cuda" and kernels.backend.resolve(self.group.device) == "gpu"

    def _kind_of_trainer(self) -> type[Trainer]:
        """Choose whether steps are recorded.

        Those of several processes are not, since they exchange gradients. Nor are they with ``NMNIST_CHECK=1``, where
        the host reads a flag after every neuron step.
        """
        if not self.on_gpu or self.group.size > 1:
            return Trainer
        from ..kernels import gpu

        return Trainer if gpu.check_requested() else CapturedTrainer

    def set_step_size(self, done: float) -> None:
        """Set the step size of every parameter group after a fraction `done` of all steps."""
        factor = step_factor(self.settings.schedule, done)
        for parameters, base in zip(self.progress.optimizer.param_groups, self.bases, strict=True):
            if isinstance(parameters["lr"], torch.Tensor):
                parameters["lr"].fill_(base * factor)
            else:
                parameters["lr"] = base * factor

    def validate(self) -> None:
        """Measure loss and accuracy on the validation recordings."""
        if self.val_loader is not None:
            with self.progress.validated_net.frozen():
                for spikes, label in self.group.batches(self.val_loader, 0, drop_rest=False):
                    self.validator.valid(spikes, label)
            self.group.sum_statistic(self.progress.stats.validation)

    def write_derived(self) -> None:
        """Write the files derived from the checkpoint."""
        self.folder.write_derived(self.progress.best, self.progress.stats)
        self.derived_at = time.monotonic()

    def print_epoch(self, seconds: float) -> None:
        """Print one line about the epoch just finished."""
        progress, stats = self.progress, self.progress.stats
        line = f"epoch {progress.epoch}/{self.settings.epochs}: loss {stats.training.loss_log[-1]:.4f}"
        line += f", accuracy {stats.training.accuracy_log[-1]:.2%}"
        if self.val_loader is not None:
            best = " (best)" if self.settings.keep == "best" and progress.best_epoch == progress.epoch - 1 else ""
            line += f", validation {stats.validation.accuracy_log[-1]:.2%}{best}"
        left = (self.settings.epochs - progress.epoch) * progress.seconds / progress.epoch
        tqdm.write(f"{line}; {seconds:.1f} s, {tqdm.format_interval(left)} left")

    def finish(self) -> dict:
        """Test the chosen network, and write and return the report."""
        progress, settings = self.progress, self.settings
        net = network_of(settings).to(self.group.device)
        best, best_epoch = progress.best, progress.best_epoch
        assert best is not None  # at least one epoch has been trained
        assert best_epoch is not None
        net.load_state_dict(best)
        test_set = NMNISTDataset(settings.data, train=False, source=settings.source)
        tested = Subset(test_set, evenly_spaced(len(test_set), settings.recordings).tolist())
        found, true = answers(net, tested, self.group.device)
        curve = progress.stats.validation.accuracy_log
        result: dict[str, Any] = {
            "settings": settings.saved_dict() | {"start": progress.start, "hidden": list(settings.hidden)},
            "source": settings.source,
            "recordings": self.sizes | {"test": len(tested)},
            "processes": self.group.size,
            "device": self.group.device_name,
            "best_epoch": best_epoch,
            "validation_accuracy": curve[best_epoch],
            "test_accuracy": float((found == true).mean()),
            "seconds": round(progress.seconds, 1),
            "network_sha256": self.folder.digest(),
        }
        self.folder.report(result)
        chosen = "last epoch" if settings.keep == "last" else "best epoch"
        validated = "" if self.val_loader is None else f" (validation {result['validation_accuracy']:.2%})"
        read = f"{result['test_accuracy']:.2%} of {len(tested)} test recordings"
        tell(f"{chosen} {best_epoch + 1}{validated} reads {read}")
        tell(f"the network is in {self.folder.path}")
        return result


@torch.no_grad()
def answers(net: Network, dataset: Dataset | PackedEvents, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return the network's answers and the true digits, int arrays [N].

    The batches have the network's own time step, whatever that of the dataset, and spikes of value 1.
    """
    net.eval()
    with net.frozen():
        loader = EventLoader(dataset, 64, transform=False, device=device, sampling_time=net.SAMPLING_TIME, value=1)
        pairs = [(Rate.predict(net(spikes)).cpu(), label.cpu()) for spikes, label in loader]
    found, true = (torch.cat(column).numpy() for column in zip(*pairs, strict=True))
    return found, true


def loss_of(settings: Settings) -> torch.nn.Module:
    """Return the loss that the settings name; it is summed over a batch."""
    if settings.loss == "softmax":
        return SpikeMax(settings.window, "softmax", "sum", scale=SOFTMAX_SCALE, label_smoothing=SMOOTHING)
    if settings.loss == "max":
        return SpikeMax(settings.window, reduction="sum", eps=SILENT)
    return SpikeRate(settings.true_rate, settings.false_rate, settings.window, reduction="sum")
