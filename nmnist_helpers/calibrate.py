"""The command ``python -m nmnist_helpers camera``: compare the simulated camera with real recordings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .__main__ import main as run_command
from .camera.compare import compare, print_table
from .camera.digits import load_mnist
from .camera.simulator import simulate
from .data.recordings import Recordings
from .paths import expanded


def main(argv: Sequence[str] | None = None) -> None:
    """Read recordings, simulate the same digits, and print a table that compares both."""
    parser = argparse.ArgumentParser(
        prog="python -m nmnist_helpers camera",
        description="Let the simulated camera record the digits of real recordings; print how well the two agree.",
    )
    parser.add_argument("--recordings", type=Path, required=True, help="folder Train or Test, or its zip archive")
    parser.add_argument(
        "--mnist", type=Path, help="folder of MNIST's files (default NMNIST_MNIST, else mnist/ in the data folder)"
    )
    parser.add_argument(
        "--mnist-test", action="store_true", help="the recordings show MNIST's test digits, not its training digits"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    options = parser.parse_args(argv)
    options.recordings = expanded(options.recordings)  # no shell expands the ~ of --recordings=~/...
    if not options.recordings.exists():
        raise FileNotFoundError(f"--recordings: expected a folder or an archive, found no {options.recordings}")
    recorded = Recordings(options.recordings).pack()
    images, labels, _ = load_mnist(options.mnist, train=not options.mnist_test)
    if not 1 <= recorded.ids.min() <= recorded.ids.max() <= len(images):
        raise ValueError(f"{options.recordings}: expected file names 1 to {len(images)}, found {recorded.ids.min()} "
                         f"to {recorded.ids.max()}")  # fmt: skip
    shown = images[recorded.ids - 1]
    if (labels[recorded.ids - 1] != recorded.labels).any():
        raise ValueError(
            f"{options.recordings}: expected the digits that MNIST has under the same numbers, found others; give"
            " --mnist-test if the recordings show MNIST's test digits, and leave it out if they show training digits"
        )
    print_table(compare(recorded, simulate(shown, options.seed, recorded.ids, recorded.labels), shown))


if __name__ == "__main__":
    sys.exit(run_command(["camera", *sys.argv[1:]]))
