"""Start and resume small training runs, and read what they leave."""

import json

from nmnist_helpers import train
from nmnist_helpers.checkpoint import load_tree, save_tree
from support import fake_nmnist

SMALL = ["--source", "recorded", "--hidden", "12", "--batch-size", "8", "--validation", "0.25"]
# Options whose features have a state that a checkpoint must hold.
STATEFUL = ["--dropout", "0.2", "--average", "0.8", "--schedule", "onecycle", "--delay-step", "3"]


def write_data(folder, seed):
    for split_name, per_digit in (("Train", 4), ("Test", 2)):
        fake_nmnist.write_folder(folder, split_name, fake_nmnist.make(seed, per_digit))
    return folder


def start(out, *options):
    return train.main([*SMALL, *map(str, options), "--out", str(out)])


def resume(out, *options):
    return train.main(["--resume", "--out", str(out), *map(str, options)])


def content(out):
    """Return the report and the files of a run, without the time that it took."""
    tree, result = load_tree(out / "checkpoint.pt"), json.loads((out / "result.json").read_text())
    del tree["seconds"], result["seconds"]
    save_tree(out / "again.pt", tree)
    names = ("again.pt", "network.pt", "loss.txt", "accuracy.txt")
    return result, {name: (out / name).read_bytes() for name in names}


class Interruption(BaseException):
    """An exception that the package does not catch; it stands for the sudden end of a process."""
