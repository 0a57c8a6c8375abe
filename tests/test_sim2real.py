"""Test sim2real: a very short run, and the errors that it raises."""

import json

import numpy as np
import pytest
from support import fake_nmnist

from nmnist_helpers import __main__, sim2real
from nmnist_helpers.checkpoint import load_tree
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.train import loop

SMALL = ["--hidden", "12", "--batch-size", "8", "--epochs", "1", "--tune", "2"]


class Simulated:
    """A stand-in for a dataset that simulates all of MNIST; the digit of recording n has the id n + 1."""

    source = "simulated"

    def __init__(self, packed: PackedEvents):
        count = len(packed)
        self.packed = PackedEvents(
            packed.x, packed.y, packed.p, packed.t, packed.offsets, packed.labels, np.arange(count) + 1
        )
        self.labels = packed.labels

    def __len__(self) -> int:
        return len(self.packed)


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """Write recordings of the first digits, simulate recordings of all digits, and return the folder of a run."""
    for split, per_digit in (("Train", 2), ("Test", 1)):
        fake_nmnist.write_folder(tmp_path / "data", split, fake_nmnist.make(0, per_digit, first_id=1))
    fake_nmnist.write_folder(tmp_path / "more", "Train", fake_nmnist.make(1, 6))
    monkeypatch.setenv("NMNIST_DATA", str(tmp_path / "data"))
    packed = NMNISTDataset(tmp_path / "more", source="recorded").packed

    def dataset(path=None, train=True, source="auto"):
        return Simulated(packed) if source == "simulated" else NMNISTDataset(path, train=train, source=source)

    for module in (sim2real, loop):
        monkeypatch.setattr(module, "NMNISTDataset", dataset)
    monkeypatch.setattr("nmnist_helpers.train.parts.MNIST_SIZE", len(packed))
    return tmp_path / "run"


def test_short_run_writes_its_report_and_goes_on(small_world):
    result = sim2real.main([*SMALL, "--validation", "30", "--out", str(small_world)])
    assert result == json.loads((small_world / "reality.json").read_text())
    for prefix, count in (("", 30), ("tuned_", 10)):
        confusion = np.array(result[f"{prefix}confusion"])
        assert confusion.sum() == result[f"{prefix}recordings"] == count
        assert confusion.trace() / count == pytest.approx(result[f"{prefix}accuracy"])
    assert result["simulated_digits"] == 30
    assert result["tuned_on"] == 20
    settings = load_tree(small_world / "tuned" / "checkpoint.pt")["settings"]
    assert (settings["source"], settings["schedule"], settings["keep"]) == ("recorded", "onecycle", "last")
    with pytest.raises(FileExistsError, match="--resume"):
        sim2real.main([*SMALL, "--validation", "30", "--out", str(small_world)])
    assert sim2real.main(["--tune", "2", "--resume", "--out", str(small_world)]) == result


def test_digits_that_recordings_show_are_not_for_training(small_world, capsys):
    arguments = ["sim2real", *SMALL, "--validation", "15", "--out", str(small_world)]
    assert __main__.main(arguments) == 1
    assert "--validation: expected at least the first 20 digits" in capsys.readouterr().err
    assert not small_world.exists()


def test_all_of_mnist_is_needed(small_world, monkeypatch):
    monkeypatch.setattr("nmnist_helpers.train.parts.MNIST_SIZE", 60_000)
    with pytest.raises(ValueError, match="--mnist: expected all of MNIST"):
        sim2real.main([*SMALL, "--out", str(small_world)])
    with pytest.raises(ValueError, match="--tune: expected a whole number from 1, found 0"):
        sim2real.main([*SMALL, "--tune", "0", "--out", str(small_world)])
