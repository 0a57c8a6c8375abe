"""From simulation to reality: train on simulated MNIST digits, test on real recordings.

    python -m nmnist_helpers sim2real --mnist FOLDER --data FOLDER --out Trained/real

The network is trained on simulated training digits of MNIST, without those that the recordings show, and tested on all
recordings. (The official N-MNIST shows all digits of MNIST; then the network is tested on those from which it has not
learned.) It is then tuned on the real training recordings and tested on the real test recordings. The last epoch of
tuning is used, so that nothing is selected on the recordings. Training and tuning are runs of `nmnist_helpers.train`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .__main__ import main as run_command
from .checkpoint import load_checkpoint
from .checks import whole_number
from .data.dataset import NMNISTDataset
from .io import PackedEvents
from .lava import public
from .paths import TRAINED, expanded
from .train import Settings, answers, given_settings, parser, run
from .train.folder import CHECKPOINT, DERIVED, REALITY, Folder, resume_with
from .train.group import Group, set_by_torchrun
from .train.parts import is_mnist, learn_and_validate
from .train.progress import network_of

DEFAULT_OUT = TRAINED / "real"
DESCRIPTION = """\
Train on simulated digits of MNIST and test on all real recordings. Then tune
the network on the real training recordings and test it on the real test
recordings. MNIST and the recordings must be there (see the commands mnist and
download). Training takes the options of the command train and writes into the
folder --out. Tuning writes into its subfolder tuned. The file reality.json in
--out holds the results of both tests. With --start, make sure that the initial
network has not learned from these recordings or their digits, either."""


def real(
    settings: Settings, tune: int, resume: bool = False, overwrite: bool = False, mnist: str | None = None
) -> dict:
    """Train on simulated digits, then tune on recordings; test on recordings after each of the two.

    Parameters
    ----------
    settings : Settings
        Settings of the training on simulated digits. Tuning shares them, but always uses a one-cycle schedule with a
        largest step size of 0.0005, all recordings, no validation, and no average of the weights (after so few steps,
        it would still be close to the first weights).
    tune : int
        Number of tuning epochs.
    resume, overwrite : bool
        See `nmnist_helpers.train.run`.
    mnist : str, optional
        Folder of MNIST's files; it becomes the value of ``NMNIST_MNIST`` in this process.

    Returns
    -------
    dict
        The contents of ``reality.json``: accuracies and confusion matrices.

    Raises
    ------
    ValueError
        If the simulated digits are not all of MNIST, if a test recording shows one of the digits to train on, or if
        the names of recordings do not say which digits they show. Other errors are those of
        `nmnist_helpers.train.run`.
    """
    whole_number("--tune", tune, 1)
    if set_by_torchrun("WORLD_SIZE", 1) > 1:
        raise ValueError(
            "torchrun: expected one process for sim2real, found several; train with torchrun, then tune with --start"
        )
    if mnist is not None:
        os.environ["NMNIST_MNIST"] = mnist
    out = expanded(DEFAULT_OUT if settings.out is None else settings.out)
    settings = replace(settings, source="simulated", out=str(out))
    command = resume_with("sim2real", out, mnist=mnist, tune=tune, **settings.needed_again())
    folder = Folder(out, command)
    folder.check(resume, overwrite)
    tuned = Folder(out / "tuned", hint=f"the training is saved; to start the tuning over: {command}")
    tuned.check(resume=False, overwrite=True)
    folder.dependent += tuple(f"{tuned.path.name}/{name}" for name in (*DERIVED, CHECKPOINT))
    recorded = [NMNISTDataset(settings.data, train=train, source="recorded") for train in (True, False)]
    everything = _unseen(settings, *(part.packed for part in recorded))
    with folder.locked():  # until the report is written, since it describes the networks in this folder
        trained = run(settings, resume, overwrite, folder)
        folder.remove(REALITY)  # whose tuned network is about to be replaced
        result = {"simulated_digits": trained["recordings"]["train"], "epochs": settings.epochs}
        result["start"] = trained["settings"]["start"]
        result |= _evaluate(folder, settings, everything, "")
        print(f"trained on simulated digits, it reads {result['accuracy']:.2%} of {len(everything)} recordings")

        tuning = replace(
            settings, source="recorded", start=str(folder.path / "network.pt"), out=str(tuned.path), epochs=tune,
            lr=0.0005, schedule="onecycle", validation=0, keep="last", recordings=None, takes=1, average=0.0,
        )  # fmt: skip
        # Tuning always starts over, with the network that has just been trained.
        run(tuning, overwrite=True, folder=tuned)
        result |= {"tuned_on": len(recorded[0]), "tuning_epochs": tune}
        result |= _evaluate(tuned, settings, recorded[1], "tuned_")
        accuracy = f"{result['tuned_accuracy']:.2%} of {len(recorded[1])} test recordings"
        print(f"tuned on {len(recorded[0])} recordings, it reads {accuracy}")
        folder.report(result, REALITY)
        return result


def _unseen(settings: Settings, training: PackedEvents, test: PackedEvents) -> PackedEvents:
    """Return the recordings of digits from which the network will not learn.

    Raises
    ------
    ValueError
        If not all of MNIST is simulated, if names do not say which digits the recordings show, or if test recordings
        show digits to train on.
    """
    simulated = NMNISTDataset(train=True, source="simulated")
    if not is_mnist(simulated):
        raise ValueError(
            "--mnist: expected all of MNIST to simulate, found other digits; name the folder that holds its files, or"
            " fetch them first (python -m nmnist_helpers mnist)"
        )
    shown = np.concatenate([training.ids, test.ids])
    if outside := int(((shown < 1) | (shown > len(simulated))).sum()):
        raise ValueError(
            f"recordings: expected files named after MNIST's digits, 00001.bin to {len(simulated):05d}.bin, found"
            f" {outside} with other names: whether the network learns from their digits cannot be known"
        )
    learn, _ = learn_and_validate(simulated, settings)
    learned = np.zeros(len(simulated) + 1, bool)
    learned[simulated.packed.ids[learn]] = True
    label_of = np.zeros(len(simulated) + 1, np.int64)
    label_of[simulated.packed.ids] = simulated.labels
    # The official Test.zip shows MNIST's test digits, which have numbers of their own; small collections may show
    # training digits in both parts. The labels tell.
    if (label_of[test.ids] == test.labels).all():
        if both := np.unique(shown[learned[shown]]).size:
            raise ValueError(
                f"--validation: expected at least the first {shown.max()} digits, which the recordings show, found"
                f" {both} of them among the digits to train on"
            )
        return PackedEvents.concatenate([training, test])
    unseen = training.select(np.flatnonzero(~learned[training.ids]))
    if len(unseen) < len(training):
        print(f"{len(training) - len(unseen)} recordings show digits to train on; the first test leaves them out")
    return PackedEvents.concatenate([unseen, test])


def _evaluate(folder: Folder, settings: Settings, recordings: NMNISTDataset | PackedEvents, prefix: str) -> dict:
    """Test the network in `folder` on recordings; return its results under keys that begin with `prefix`."""
    device = Group(settings.device).device
    net = network_of(settings).to(device)
    load_checkpoint(folder.path / "network.pt", net)
    found, true = answers(net, recordings, device)
    confusion = np.bincount(10 * true + found, minlength=100).reshape(10, 10)
    return {
        f"{prefix}recordings": len(true),
        f"{prefix}accuracy": float((found == true).mean()),
        f"{prefix}confusion": confusion.tolist(),
        f"{prefix}network_sha256": folder.digest(),
    }


def main(argv: Sequence[str] | None = None) -> dict:
    """Parse the command line and return the result of `real`."""
    p = parser("python -m nmnist_helpers sim2real", without=("source", "out"))
    p.description, p.epilog = DESCRIPTION, None
    p.add_argument("--mnist", help="folder of MNIST's files (default NMNIST_MNIST, else mnist/ in the data folder)")
    p.add_argument("--out", help=f"folder of the run (default {str(DEFAULT_OUT).replace('%', '%%')})")
    p.add_argument("--tune", type=int, default=10, help="epochs of tuning on all real training recordings (default 10)")
    given = vars(p.parse_args(argv))
    tune, mnist = given.pop("tune"), given.pop("mnist", None)
    given.setdefault("out", str(DEFAULT_OUT))
    settings, resume, overwrite = given_settings(given)
    return real(settings, tune, resume, overwrite, mnist)


__dir__ = public(__name__)

__all__ = ["main", "real"]

if __name__ == "__main__":
    sys.exit(run_command(["sim2real", *sys.argv[1:]]))
