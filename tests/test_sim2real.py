"""Test sim2real: a very short run, and the errors that it raises."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from filelock import FileLock
from support import fake_nmnist
from support.interruption import interrupted_after

from nmnist_helpers import __main__, sim2real
from nmnist_helpers.checkpoint import load_tree
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.train import loop
from nmnist_helpers.train import start as train_start
from nmnist_helpers.train.folder import Folder, resume_with

SMALL = ["--hidden", "12", "--batch-size", "8", "--epochs", "1", "--tune", "2"]


class Simulated:
    """A stand-in for a dataset that simulates all of MNIST."""

    source = "simulated"

    def __init__(self, packed: PackedEvents):
        self.packed, self.labels = packed, packed.labels

    def __len__(self) -> int:
        return len(self.packed)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """Write 30 real recordings, let 60 others stand in for all of simulated MNIST, and return the folder for a run."""
    for split, per_digit in (("Train", 2), ("Test", 1)):
        fake_nmnist.write_folder(tmp_path / "data", split, fake_nmnist.make(0, per_digit, first_id=1))
    fake_nmnist.write_folder(tmp_path / "more", "Train", fake_nmnist.make(1, 6))
    monkeypatch.setenv("NMNIST_DATA", str(tmp_path / "data"))
    packed = NMNISTDataset(tmp_path / "more", source="recorded").packed

    def dataset(path=None, train=True, source="auto"):
        return Simulated(packed) if source == "simulated" else NMNISTDataset(path, train=train, source=source)

    for module in (sim2real, train_start, loop):
        monkeypatch.setattr(module, "NMNISTDataset", dataset)
    monkeypatch.setattr("nmnist_helpers.train.parts.MNIST_SIZE", len(packed))
    return tmp_path / "run"


def test_a_short_run_writes_its_report_and_can_be_resumed(run_folder, capsys):
    options = ["--validation", "30", "--takes", "2", "--recordings", "60", "--average", "0.9"]
    result = sim2real.main([*SMALL, *options, "--out", str(run_folder)])
    assert result == json.loads((run_folder / "reality.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert f"trained on simulated digits, it reads {result['accuracy']:.2%} of 30 recordings" in printed
    assert f"tuned on 20 recordings, it reads {result['tuned_accuracy']:.2%} of 10 test recordings" in printed
    for prefix, count, folder in (("", 30, run_folder), ("tuned_", 10, run_folder / "tuned")):
        confusion = np.array(result[f"{prefix}confusion"])
        assert (confusion.sum(1) == count / 10).all(), "a row holds the answers to one digit"
        network = (folder / "network.pt").read_bytes()
        assert result[f"{prefix}network_sha256"] == hashlib.sha256(network).hexdigest()
        assert confusion.sum() == result[f"{prefix}recordings"] == count
        assert confusion.trace() / count == pytest.approx(result[f"{prefix}accuracy"])
    assert result["simulated_digits"] == 30
    assert result["tuned_on"] == 20
    assert load_tree(run_folder / "checkpoint.pt")["settings"]["takes"] == 2
    settings = load_tree(run_folder / "tuned" / "checkpoint.pt")["settings"]
    assert (settings["takes"], settings["average"]) == (1, 0)
    assert (settings["lr"], settings["validation"], settings["recordings"]) == (0.0005, 0, None)
    assert (settings["source"], settings["schedule"], settings["keep"]) == ("recorded", "onecycle", "last")
    with pytest.raises(FileExistsError, match="--resume"):
        sim2real.main([*SMALL, "--validation", "30", "--out", str(run_folder)])
    assert sim2real.main(["--tune", "2", "--resume", "--out", str(run_folder)]) == result


def test_a_refused_command_leaves_the_report(run_folder):
    arguments = [*SMALL, "--validation", "30", "--out", str(run_folder)]
    sim2real.main(arguments)
    before = (run_folder / "reality.json").read_bytes()
    with pytest.raises(ValueError, match="--lr"):
        sim2real.main([*arguments, "--resume", "--lr", "0.5"])
    with FileLock(run_folder / ".lock"), pytest.raises(FileExistsError, match="another run is writing"):
        sim2real.main([*arguments, "--overwrite"])
    assert (run_folder / "reality.json").read_bytes() == before


def test_an_interrupted_tuning_starts_over_and_a_new_training_removes_it(run_folder, monkeypatch):
    arguments = [*SMALL, "--validation", "30", "--out", str(run_folder)]
    with interrupted_after(1, monkeypatch) as stop:  # the training has one epoch, so this is the tuning
        sim2real.main(arguments)
    command = resume_with("sim2real", run_folder, tune=2)
    assert str(stop.value) == f"stopped; the training is saved; to start the tuning over: {command}"
    names = lambda: {file.name for file in (run_folder / "tuned").iterdir()} - {".lock"}  # noqa: E731
    assert {"checkpoint.pt", "network.pt"} < names()
    with interrupted_after(0, monkeypatch):
        sim2real.main([*arguments, "--overwrite"])
    assert not names()


def test_no_other_run_may_write_to_the_folder_while_the_network_is_tuned(run_folder, monkeypatch):
    run, refused = sim2real.run, []

    def run_beside_another(settings, *arguments, **options):
        if settings.source == "recorded":
            with pytest.raises(FileExistsError, match="another run is writing there"), Folder(run_folder).locked():
                pass
            refused.append(True)
        return run(settings, *arguments, **options)

    monkeypatch.setattr(sim2real, "run", run_beside_another)
    sim2real.main([*SMALL, "--validation", "30", "--out", str(run_folder)])
    assert refused == [True]


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    folder = Folder(tmp_path / "out")
    with pytest.raises(ValueError, match="refused"), folder.locked():
        raise ValueError("refused")
    assert not folder.path.exists()


@pytest.mark.slow
def test_a_run_can_start_with_the_network_of_another(run_folder):
    options = [*SMALL, "--validation", "30"]
    sim2real.main([*options, "--out", str(run_folder)])
    trained, again = run_folder / "network.pt", run_folder.with_name("again")
    sim2real.main([*options, "--start", str(trained), "--lr", "1e-9", "--no-augment", "--out", str(again)])
    before, after = (load_tree(folder / "network.pt") for folder in (run_folder, again))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=1e-6), name


def test_a_file_in_the_place_of_the_tuned_network_is_noticed_before_the_training(run_folder):
    run_folder.mkdir(exist_ok=True)
    (run_folder / "tuned").touch()
    with pytest.raises(NotADirectoryError, match="tuned: expected a folder for the run, found a file"):
        sim2real.main([*SMALL, "--validation", "30", "--out", str(run_folder)])
    assert not (run_folder / "checkpoint.pt").exists()


def test_training_on_digits_that_recordings_show_raises_an_error(run_folder, capsys):
    arguments = ["sim2real", *SMALL, "--validation", "15", "--out", str(run_folder)]
    assert __main__.main(arguments) == 1
    assert "--validation: expected at least the first 20 digits" in capsys.readouterr().err
    assert not run_folder.exists()


def test_with_the_official_test_part_the_first_test_leaves_out_digits_that_were_learned(run_folder, capsys):
    """The official Test.zip shows MNIST's test digits, which have numbers of their own."""
    data = run_folder.parent / "data"
    for folder in (data / "Test").iterdir():  # other digits under these numbers
        for file in folder.iterdir():
            other = data / "Other" / str((int(folder.name) + 1) % 10) / file.name
            other.parent.mkdir(parents=True, exist_ok=True)
            file.rename(other)
    shutil.rmtree(data / "Test")
    (data / "Other").rename(data / "Test")
    result = sim2real.main([*SMALL, "--validation", "15", "--out", str(run_folder)])
    assert "5 recordings show digits to train on; the first test leaves them out" in capsys.readouterr().out
    assert (result["recordings"], result["tuned_on"], result["tuned_recordings"]) == (25, 20, 10)


def test_recordings_without_numbers_are_refused(run_folder):
    file = next((run_folder.parent / "data" / "Train" / "3").iterdir())
    file.rename(file.with_name("three.bin"))
    with pytest.raises(ValueError, match=r"expected files named after MNIST's digits, .*found 1 with other names"):
        sim2real.main([*SMALL, "--validation", "30", "--out", str(run_folder)])


def test_missing_digits_and_zero_tuning_epochs_raise_an_error(run_folder, monkeypatch):
    monkeypatch.setattr("nmnist_helpers.train.parts.MNIST_SIZE", 60_000)
    with pytest.raises(ValueError, match="--mnist: expected all of MNIST"):
        sim2real.main([*SMALL, "--out", str(run_folder)])
    with pytest.raises(ValueError, match="--tune: expected a whole number from 1, found 0"):
        sim2real.main([*SMALL, "--tune", "0", "--out", str(run_folder)])
