"""The state of a run as one nested dictionary, saved after every epoch and checked before a run resumes."""

import copy
import math
from pathlib import Path
from typing import cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..checkpoint import CheckpointError
from ..network import ConvNetwork, Network
from ..utils import LearningStats
from .settings import Settings, flag, on_command_line

LOGS = ("loss_log", "accuracy_log")
SAVED_PARTS = ("training", "validation")


class Progress:
    """The network, its optimiser and its learning curves after a number of epochs.

    It holds no random state, because the seed and the epoch determine order, augmentation and dropout.

    Parameters
    ----------
    settings : Settings
    device : torch.device
    recordings : str
        Fingerprint of the recordings.
    processes : int
        Number of processes that train together.
    """

    def __init__(self, settings: Settings, device: torch.device, recordings: str, processes: int):
        self.settings, self.recordings, self.processes = settings, recordings, processes
        torch.manual_seed(settings.seed)
        self.net = network_of(settings).to(device)
        self.optimizer = torch.optim.Adam(groups(self.net, settings), lr=settings.lr, fused=True)
        self.average = None
        if settings.average:
            self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
        self.stats = LearningStats()
        self.epoch, self.seconds = 0, 0.0
        self.best: dict[str, torch.Tensor] | None = None
        self.best_epoch: int | None = None
        self.start = None if settings.start is None else Path(settings.start).name  # for the report

    @property
    def validated_net(self) -> Network:
        """The network to validate: the averaged network if there is one, else the trained network."""
        return self.net if self.average is None else cast(Network, self.average.module)

    def close_epoch(self, seconds: float) -> None:
        """Count a finished epoch, and copy its network if it is the best so far (or if the last one is kept)."""
        self.stats.update()
        if self.settings.keep == "last" or self.best is None or self.stats.validation.best_accuracy:
            self.best = copy.deepcopy(self.validated_net.state_dict())  # with the constants of the neurons
            self.best_epoch = self.epoch
        self.epoch += 1
        self.seconds += seconds

    def tree(self) -> dict:
        """Return the whole state, for `checkpoint.save_tree`."""
        return {
            "settings": self.settings.saved_dict(),
            "start": self.start,
            "recordings": self.recordings,
            "processes": self.processes,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "curves": {
                part: {log: list(getattr(getattr(self.stats, part), log)) for log in LOGS} for part in SAVED_PARTS
            },
            "net": self.net.state_dict(),
            "moments": self.optimizer.state_dict()["state"],
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
        }

    def restore(self, found: dict, name: str) -> None:
        """Restore a state that `tree` returned; change nothing if it does not fit.

        Parameters
        ----------
        found : dict
            The state, read from a checkpoint.
        name : str
            Name of the checkpoint file, for error messages.

        Raises
        ------
        CheckpointError
            If a part is missing, or if its type or shape differs from this run's.
        ValueError
            If the state belongs to other recordings, other settings or another number of processes.
        """
        expected = self.tree()
        _check_keys(found, expected, name)
        self._check_run(found, name)
        epoch = found["epoch"]
        if not isinstance(found["start"], str | None):
            raise CheckpointError(f"{name}: expected the name of a file as start, found {found['start']!r:.40}")
        _check_same(found["epoch"], 0, f"{name}: epoch")
        _check_same(found["seconds"], 0.0, f"{name}: seconds")
        _check_keys(found["curves"], expected["curves"], f"{name}: curves")
        for part in SAVED_PARTS:
            _check_keys(found["curves"][part], expected["curves"][part], f"{name}: curves.{part}")
            for log, values in found["curves"][part].items():
                plain = isinstance(values, list) and all(v is None or isinstance(v, float) for v in values)
                if not plain or len(values) != epoch:
                    length = len(values) if isinstance(values, list) else type(values).__name__
                    raise CheckpointError(f"{name}: expected {epoch} epochs in curves.{part}.{log}, found {length}")
        for part in ("net", "average"):
            _check_same(found[part], expected[part], f"{name}: {part}")
        _check_same(found["best"], expected["net"] if epoch else None, f"{name}: best")
        if epoch and not (isinstance(found["best_epoch"], int) and 0 <= found["best_epoch"] < epoch):
            raise CheckpointError(f"{name}: expected best_epoch in 0..{epoch - 1}, found {found['best_epoch']!r:.40}")
        _check_same(found["moments"], self._expected_moments() if epoch else {}, f"{name}: moments")

        self.net.load_state_dict(found["net"])
        own = self.optimizer.state_dict()["param_groups"]  # step sizes come from the settings
        self.optimizer.load_state_dict({"state": found["moments"], "param_groups": own})
        if self.average is not None:
            self.average.load_state_dict(found["average"])
        for part in SAVED_PARTS:
            for log in LOGS:
                setattr(getattr(self.stats, part), log, list(found["curves"][part][log]))
        for log in LOGS:
            setattr(self.stats.testing, log, [None] * epoch)
        self.epoch, self.seconds = epoch, found["seconds"]
        self.best, self.best_epoch, self.start = found["best"], found["best_epoch"], found["start"]

    def _check_run(self, found: dict, name: str) -> None:
        """Raise ValueError unless settings, recordings and number of processes are those of the checkpoint."""
        own, kept = self.settings.saved_dict(), found["settings"]
        _check_keys(kept, own, f"{name}: settings")
        for key, value in own.items():
            if key != "epochs" and kept[key] != value:
                before, now = on_command_line(kept[key]), on_command_line(value)
                raise ValueError(f"{name}: expected {flag(key)} {before} as in this run, found {now}")
        if own["epochs"] != kept["epochs"] and own["schedule"] != "constant":
            raise ValueError(
                f"{name}: expected --epochs {kept['epochs']!r:.20}, for which its {own['schedule']} schedule was"
                f" planned, found {own['epochs']}: the step size would jump"
            )
        for key, words in (("processes", "processes"), ("recordings", "recordings (their fingerprint)")):
            if found[key] != getattr(self, key):
                raise ValueError(
                    f"{name}: expected the {words} of this run, {found[key]!r:.40}, found {getattr(self, key)!r}"
                )

    def _expected_moments(self) -> dict:
        """Return tensors with the types and shapes that the optimiser's state must have."""
        parameters = [p.detach() for group in self.optimizer.param_groups for p in group["params"]]
        return {i: {"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p} for i, p in enumerate(parameters)}


def network_of(settings: Settings) -> Network:
    """Build the network that the settings describe."""
    neuron_params = {"tau_grad": settings.tau_grad}
    if settings.network == "cnn":
        return ConvNetwork(dropout=settings.dropout, neuron_params=neuron_params)
    return Network(settings.hidden, settings.dropout, neuron_params=neuron_params)


def groups(net: Network, settings: Settings) -> list[dict]:
    """Return parameter groups by step size: weights, delays and decays may have different ones."""
    found: dict[float, list] = {}
    for name, parameter in net.named_parameters():
        factor = 1.0
        if name.endswith("_decay"):
            factor = settings.decay_step
        elif name.endswith("delay.delay"):
            factor = settings.delay_step
        found.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "lr": settings.lr * factor} for factor, parameters in found.items()]


def step_factor(schedule: str, done: float) -> float:
    """Return the step size as a fraction of the largest one, after a fraction `done` of all steps.

    'cosine' falls along half a cosine. 'onecycle' first rises from 1/25 during the first three tenths of the run (Smith
    and Topin, 2018, as in torch's OneCycleLR).
    """
    if schedule == "constant":
        return 1.0
    rise = 0.3 if schedule == "onecycle" else 0.0
    if done < rise:
        return 1 - 0.96 * (1 + math.cos(math.pi * done / rise)) / 2
    return (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2


def _check_keys(found, expected: dict, name: str) -> None:
    keys = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise CheckpointError(f"{name}: expected {sorted(map(str, expected))}, found {keys!s:.300}")


def _check_same(found, expected, name: str) -> None:
    """Raise CheckpointError if keys, types or shapes differ from `expected`, or if a number is out of range."""
    if isinstance(expected, dict):
        _check_keys(found, expected, name)
        for key in expected:
            _check_same(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor):
            raise CheckpointError(f"{name}: expected a tensor, found {type(found).__name__}")
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise CheckpointError(
                f"{name}: expected {expected.dtype} {list(expected.shape)}, found {found.dtype} {list(found.shape)}"
            )
        if found.is_floating_point() and not torch.isfinite(found).all():
            raise CheckpointError(f"{name}: expected finite numbers, found inf or nan")
    elif type(found) is not type(expected):
        raise CheckpointError(f"{name}: expected {type(expected).__name__}, found {found!r:.80}")
    elif isinstance(expected, float) and not (math.isfinite(found) and found >= 0):
        raise CheckpointError(f"{name}: expected a finite number from 0, found {found}")
    elif isinstance(expected, int) and found < 0:
        raise CheckpointError(f"{name}: expected a number from 0, found {found}")
