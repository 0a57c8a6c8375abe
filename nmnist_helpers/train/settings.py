"""The settings of a run, and the command line that sets them."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from ..data.augmentation import MAX_SHEAR, MAX_STRETCH
from ..data.dataset import SOURCES
from ..data.draw import GRID
from ..geometry import SIDE
from ..paths import TRAINED

#: Settings that depend on the computer or on how a run was started: not saved with it, nor compared when it resumes.
LOCAL = ("out", "data", "device", "start", "timeout")

#: Arguments of `SpikeMax` for ``loss='softmax'``. With this scale and 30 time steps, each spike more multiplies the
#: likelihood of a class by 1.5.
SOFTMAX_SCALE, SMOOTHING = 12, 0.05

DEFAULT_OUT = TRAINED / "long"
DESCRIPTION = """\
Train the network of lava-dl's N-MNIST tutorial, or the convolutional network
of notebook 7. A part of the training recordings is held out for validation and
chooses the best epoch; the test recordings are used once, at the end. The
folder --out receives checkpoint.pt, from which the run can be resumed, and the
files derived from it: network.pt (the best epoch), loss.txt, accuracy.txt,
curves.png and result.json. In result.json, best_epoch counts from 0; printed
epochs count from 1."""
EPILOG = """\
To train in N processes: torchrun --nproc-per-node N -m nmnist_helpers.train ...
(On Windows, first set the environment variable USE_LIBUV to 0: torch has no
libuv there.) Each process works on batches of --batch-size recordings, and the
gradients are summed over the processes. A step thus equals that of one process
with N times the batch size. If the number of batches is not a multiple of N,
each epoch leaves out the last ones."""


def _option(default: Any, rule: tuple[str, Callable[[Any], bool]], text: str, **parser: Any) -> Any:
    return field(default=default, metadata={"rule": rule, "help": text, "parser": parser})


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least}", lambda v: isinstance(v, int) and least <= v < 2**63


def _one_of(*words: str) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(words)}", lambda v: v in words


def _or_none(rule: tuple[str, Callable[[Any], bool]]) -> tuple[str, Callable[[Any], bool]]:
    return rule[0], lambda v: v is None or rule[1](v)


def _is_device(name: Any) -> bool:
    if name in ("auto", "cpu"):
        return True
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        return False
    return device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()


def _is_validation(value: Any) -> bool:
    return value is None or (isinstance(value, int) and value >= 0) or 0 < value < 1


def share_or_count(text: str) -> float | int:
    """Convert the value of ``--validation``: a share, or a number of recordings."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {VALIDATION[0]}, found {text!r}") from None


def whole_numbers(text: str) -> tuple[int, ...]:
    """Convert the value of ``--hidden``: whole numbers with commas between them."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {SIZES[0]}, found {text!r}") from None


POSITIVE = "a positive number", lambda v: 0 < v < math.inf
FACTOR = "a number of at least 0", lambda v: 0 <= v < math.inf
SHARE = "a number of at least 0 and less than 1", lambda v: 0 <= v < 1
RATE = "a rate in 0..1 spikes per time step", lambda v: 0 <= v <= 1
TEXT = "a path", lambda v: v is None or len(str(v)) > 0
SIZES = "one or more whole numbers from 1", lambda v: len(v) > 0 and all(isinstance(n, int) and n >= 1 for n in v)
VALIDATION = "a share between 0 and 1, or a number of recordings", _is_validation
DEVICE = "auto, cpu, or a cuda device of this computer", _is_device


@dataclass(frozen=True)
class Settings:
    """What a run depends on; ``python -m nmnist_helpers train --help`` explains each setting.

    The defaults are the tutorial's, except for the number of epochs (60, not 100).

    Raises
    ------
    ValueError
        If a setting is invalid; the message names it.
    """

    epochs: int = _option(60, _whole(1), "passes over all training recordings")
    batch_size: int = _option(32, _whole(1), "recordings per step in each process")
    lr: float = _option(0.001, POSITIVE, "step size of Adam; with a schedule, its largest value")
    schedule: str = _option(
        "constant", _one_of("constant", "cosine", "onecycle"), "how the step size changes: constant, cosine or onecycle"
    )
    delay_step: float = _option(
        1.0, FACTOR, "step size of delays, as a multiple of --lr; with 0 they do not learn (the cnn has none)"
    )
    decay_step: float = _option(1.0, FACTOR, "step size of decays, as a multiple of --lr; with 0 they do not learn")
    average: float = _option(
        0.0,
        SHARE,
        "share of the moving average of the weights that is kept at each step, such as 0.999; 0 for no average",
    )
    loss: str = _option(
        "rate",
        _one_of("rate", "max", "softmax"),
        "rate for SpikeRate, max for SpikeMax, softmax for SpikeMax in this mode: the cross-entropy of "
        f"{SOFTMAX_SCALE} times the rates, with a label smoothing of {SMOOTHING}",
    )
    true_rate: float = _option(0.2, RATE, "target of the true class, in spikes per time step")
    false_rate: float = _option(0.03, RATE, "target of the other classes, in spikes per time step")
    window: int | None = _option(
        None, _or_none(_whole(1)), "moving window of the loss, in time steps (default: the whole recording)", type=int
    )
    dropout: float = _option(0.05, SHARE, "probability that a hidden neuron is silenced for a recording")
    tau_grad: float = _option(
        0.03,
        POSITIVE,
        "width of the surrogate gradient, which falls to 1/e of its peak at a distance of 100 * GRAD thresholds",
    )
    augment: bool = _option(
        True,
        ("True or False", lambda v: isinstance(v, bool)),
        "change the training recordings at random: rotate and shift them, and with options also bend, stretch, shear",
    )
    max_angle: float = _option(
        5.0, ("degrees in 0..180", lambda v: 0 <= v <= 180), "largest rotation of the augmentation, in degrees"
    )
    max_shift: int = _option(
        4,
        (f"whole pixels in 0..{SIDE - 1}", lambda v: isinstance(v, int) and 0 <= v < SIDE),
        "largest shift of the augmentation, in pixels",
    )
    max_warp: float = _option(
        0.0,
        (f"pixels in 0..{GRID}", lambda v: 0 <= v <= GRID),
        "largest elastic distortion of the augmentation, in pixels",
    )
    max_stretch: float = _option(
        0.0,
        (f"a share in 0..{MAX_STRETCH}", lambda v: 0 <= v <= MAX_STRETCH),
        "largest change of width and height by the augmentation, as a share",
    )
    max_shear: float = _option(
        0.0,
        (f"degrees in 0..{MAX_SHEAR}", lambda v: 0 <= v <= MAX_SHEAR),
        "largest slant that the augmentation adds, in degrees",
    )
    network: str = _option(
        "dense",
        _one_of("dense", "cnn"),
        "dense for the tutorial's network, in time steps of 1 ms; cnn for the convolutional network of notebook 7, in "
        "time steps of 10 ms",
    )
    hidden: tuple[int, ...] = _option(
        (512, 512), SIZES, "neurons of each hidden layer of the dense network (default 512,512)", type=whole_numbers
    )
    seed: int = _option(0, _whole(0), "seed of the initial weights, the order of recordings, augmentation and dropout")
    source: str = _option(
        "auto",
        _one_of(*SOURCES),
        "kind of recordings: recorded, simulated, or auto (recorded ones if there are any)",
    )
    takes: int = _option(
        1,
        _whole(1),
        "how often the simulated camera records each training digit, with other noise each time; the epochs use these "
        "takes in turn (for all of MNIST, each needs 1.8 GB in the cache)",
    )
    recordings: int | None = _option(
        None, _or_none(_whole(1)), "use only this many training and this many test recordings, for a trial", type=int
    )
    validation: float | int | None = _option(
        None,
        VALIDATION,
        "training recordings held out to choose the best epoch, as a share (0.1) or a number (5000); if all of MNIST "
        "is simulated, these are its first digits, which real recordings may show (default: a sixth, at most 5000)",
        type=share_or_count,
    )
    keep: str = _option("best", _one_of("best", "last"), "epoch that network.pt holds: best (on validation) or last")
    start: str | None = _option(None, TEXT, "file with the initial weights, such as another run's network.pt")
    data: str | None = _option(None, TEXT, "folder of the recordings (default NMNIST_DATA, else data/)")
    device: str = _option("auto", DEVICE, "auto, cpu, cuda or cuda:N")
    out: str | None = _option(None, TEXT, f"folder of the run (default {str(DEFAULT_OUT).replace('%', '%%')})")
    timeout: float = _option(300.0, POSITIVE, "seconds that a process waits for the others")

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden) if isinstance(self.hidden, list) else self.hidden)
        for f in fields(self):
            words, holds = f.metadata["rule"]
            value = getattr(self, f.name)
            try:
                fine = holds(value) and (isinstance(value, bool) <= (f.type is bool))
            except TypeError:
                fine = False
            if not fine:
                raise ValueError(f"{flag(f.name)}: expected {words}, found {on_command_line(value)}")
        if self.loss == "rate" and not self.true_rate > self.false_rate:
            found = f"{self.true_rate} and {self.false_rate}"
            raise ValueError(f"--true-rate, --false-rate: expected true_rate above false_rate, found {found}")
        if self.network == "cnn" and self.hidden != type(self).hidden:
            raise ValueError("--hidden: expected --network dense for this option, found --network cnn")
        if self.validation == 0 and self.keep == "best":
            raise ValueError("--validation: expected recordings to choose the best epoch on, or --keep last, found 0")

    def saved_dict(self) -> dict:
        """Return the settings that are saved with a run."""
        return {name: value for name, value in asdict(self).items() if name not in LOCAL}

    def needed_again(self) -> dict:
        """Return the settings that are not saved, but that a resumed run needs as well, unless they are the default."""
        here = [f for f in fields(self) if f.name in LOCAL and f.name not in ("out", "start")]
        return {f.name: getattr(self, f.name) for f in here if getattr(self, f.name) != f.default}


def on_command_line(value: Any) -> str:
    """Return a value as an error message shows it; several numbers are written as on the command line."""
    return ",".join(map(str, value)) if value and isinstance(value, tuple | list) else f"{value!r:.80}"


def flag(name: str) -> str:
    """Return a setting's name on the command line."""
    return "--" + name.replace("_", "-")


def parser(prog: str = "python -m nmnist_helpers train", without: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build the command-line parser for all settings except those in `without`.

    A setting that is not given is absent from the parsed result, so that a resumed run keeps its saved value.
    """
    p = argparse.ArgumentParser(
        prog=prog,
        description=DESCRIPTION,
        epilog=EPILOG,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--resume", action="store_true", default=False, help="continue from the checkpoint in --out")
    p.add_argument("--overwrite", action="store_true", default=False, help="replace the run that --out holds")
    for f in fields(Settings):
        if f.name in without:
            continue
        more = dict(f.metadata["parser"])
        if f.type is bool:
            more["action"] = argparse.BooleanOptionalAction
        else:
            more.setdefault("type", f.type if f.type in (int, float) else str)
            more["metavar"] = f.name.rpartition("_")[2].upper()
        default = "" if f.default is None or "default" in f.metadata["help"] else f" (default {f.default})"
        p.add_argument(flag(f.name), help=(f.metadata["help"] + default).replace("%", "%%"), **more)
    return p
