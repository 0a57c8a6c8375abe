"""From simulation to reality: train on simulated MNIST digits, read real recordings.

    python -m nmnist_helpers.sim2real --mnist FOLDER --data FOLDER --digits 20000 --epochs 8

The network learns from simulated training digits of MNIST, and from none of those that the recordings show. It is
tested on all recordings; then it is tuned on the real training recordings and tested on the real test
recordings. Nothing is selected on anything: the last epoch counts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

from .camera.digits import load_mnist
from .camera.simulator import simulate
from .classifier import Rate
from .data.augmentation import augment
from .data.dataset import NMNISTDataset
from .data.loader import EventLoader
from .files import atomic
from .io import PackedEvents
from .loss import SpikeRate
from .network import Network
from .paths import TRAINED
from .train import answers, save_checkpoint
from .utils import Assistant, LearningStats, parameter_groups

RECORDED_DIGITS = 1100  # recordings of the first digits of MNIST's training set exist in small collections
BATCH = 32


def fit(net: Network, events: PackedEvents, epochs: int, peak: float, seed: int, device: torch.device) -> LearningStats:
    """Train on packed recordings with the tutorial's loss and augmentation and a one-cycle step size.

    Parameters
    ----------
    net : Network
        Trained in place.
    events : PackedEvents
        What to learn from.
    epochs : int
    peak : float
        Largest step size of Adam; the cycle rises to it and falls to nothing (Smith and Topin, 2018).
    seed : int
        Of order and augmentation.
    device : torch.device

    Returns
    -------
    LearningStats
        The training's curve.
    """
    loader = EventLoader(events, BATCH, shuffle=True, seed=seed, transform=augment, device=device)
    optimizer = torch.optim.Adam(parameter_groups(net, peak), lr=peak, fused=True)
    steps = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, steps, epochs * len(loader), cycle_momentum=False)
    stats = LearningStats()
    assistant = Assistant(net, SpikeRate(0.2, 0.03), optimizer, stats, classifier=Rate.predict)
    bar = tqdm(total=epochs * len(loader), unit="batch")
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for spikes, label in loader:
            assistant.train(spikes, label)
            scheduler.step()
            bar.update()
        bar.set_postfix_str(f"epoch {epoch} accuracy {stats.training.accuracy:.4f}")
        stats.update()
    bar.close()
    return stats


def run(mnist: str, data: str | None, digits: int, epochs: int, tune: int, seed: int, out: Path) -> dict:
    """Both steps; see the module. Writes ``network.pt``, ``loss.txt``, ``accuracy.txt`` and ``result.json``."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recorded = [NMNISTDataset(data, train=train, source="recorded") for train in (True, False)]
    images, labels, ids = load_mnist(mnist, train=True)
    shown = max(RECORDED_DIGITS, *(int(part.packed.ids.max()) for part in recorded))
    chosen = np.flatnonzero(ids > shown)[:digits]
    if len(chosen) < digits:
        raise ValueError(f"--digits: expected at most {len(chosen)}, those that no recording shows, found {digits}")
    events = simulate(images[chosen], seed=seed, ids=ids[chosen], labels=labels[chosen], progress=True)
    net = Network().to(device)
    stats = fit(net, events, epochs, 0.002, seed, device)
    save_checkpoint(out / "network.pt", **net.state_dict())
    stats.save(out)
    everything = PackedEvents.concatenate([part.packed for part in recorded])
    found, true = answers(net, everything, device)
    result = {
        "simulated_digits": digits,
        "epochs": epochs,
        "recordings": len(true),
        "accuracy": float((found == true).mean()),
        "confusion": confusion_matrix(true, found, labels=range(10)).tolist(),
    }
    print(f"trained on {digits} simulated digits, {epochs} epochs: {result['accuracy']:.2%} of {len(true)} recordings")
    fit(net, recorded[0].packed, tune, 0.0005, seed + 1, device)
    found, true = answers(net, recorded[1], device)
    result |= {
        "tuned_on": len(recorded[0]),
        "tuning_epochs": tune,
        "tuned_recordings": len(true),
        "tuned_accuracy": float((found == true).mean()),
        "tuned_confusion": confusion_matrix(true, found, labels=range(10)).tolist(),
    }
    print(f"tuned on {len(recorded[0])} recordings: {result['tuned_accuracy']:.2%} of {len(true)} test recordings")
    with atomic(out / "result.json") as temporary:
        temporary.write_text(json.dumps(result) + "\n")
    return result


def main(argv: Sequence[str] | None = None) -> dict:
    """Parse the command line and run."""
    p = argparse.ArgumentParser(prog="python -m nmnist_helpers sim2real", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--mnist", required=True, help="folder with MNIST's idx files")
    p.add_argument("--data", help="folder of the recordings (default NMNIST_DATA, else data/)")
    p.add_argument("--digits", type=int, default=20000, help="simulated digits to train on")
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--tune", type=int, default=10, help="epochs on the real training recordings")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=TRAINED / "sim2real")
    o = p.parse_args(argv)
    return run(o.mnist, o.data, o.digits, o.epochs, o.tune, o.seed, o.out)


if __name__ == "__main__":
    main()
