"""Test a training run: its files, how it begins, and how it ends early."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from filelock import FileLock
from support import fake_nmnist
from support.interruption import interrupted_after
from support.runs import SMALL, STATEFUL, content, resume, start

from nmnist_helpers import Network, __main__, train
from nmnist_helpers.checkpoint import CheckpointError, load_checkpoint, load_tree
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.train import Settings, loop
from nmnist_helpers.train.folder import Folder
from nmnist_helpers.train.group import Group
from nmnist_helpers.train.progress import Progress, network_of
from nmnist_helpers.utils import LearningStats


def test_run_writes_network_curves_and_result(finished, data):
    result = json.loads((finished / "result.json").read_text())
    assert result["recordings"] == {"train": 30, "validation": 10, "test": 20}
    assert result["device"] == "cpu"
    assert 0 <= result["test_accuracy"] <= 1
    assert result["validation_accuracy"] == max(
        load_tree(finished / "checkpoint.pt")["curves"]["validation"]["accuracy_log"]
    )
    assert result["network_sha256"] == hashlib.sha256((finished / "network.pt").read_bytes()).hexdigest()
    load_checkpoint(finished / "network.pt", Network((12,)))
    with pytest.raises(CheckpointError, match=r"expected a network, found the state of a run: load network\.pt"):
        load_checkpoint(finished / "checkpoint.pt")
    with warnings.catch_warnings(action="error"):  # the file contains what is needed to train further
        built = load_checkpoint(finished / "network.pt")
    assert built.blocks[0].neuron.tau_grad == result["settings"]["tau_grad"]
    assert len((finished / "loss.txt").read_text().splitlines()) == 4, "one line of titles and one line per epoch"
    names = {file.name for file in finished.iterdir()} - {".lock", "again.pt"}
    assert names == {"accuracy.txt", "checkpoint.pt", "curves.png", "loss.txt", "network.pt", "result.json"}
    for folder in (finished, data):
        assert (
            str(folder).encode()
            not in (finished / "checkpoint.pt").read_bytes() + (finished / "result.json").read_bytes()
        )


@pytest.mark.gpu
@pytest.mark.parametrize("options", [["--dropout", "0.2"], STATEFUL], ids=["constant", "changing"])
def test_steps_recorded_on_a_gpu_give_the_same_run(tmp_path, monkeypatch, options):
    """A run whose steps are recorded equals one whose kernels are launched one by one, and one that was resumed."""
    options = [*options, "--device", "cuda", "--epochs", 2]
    start(tmp_path / "recorded", *options)
    monkeypatch.setenv("NMNIST_CHECK", "1")
    start(tmp_path / "one by one", *options)
    monkeypatch.delenv("NMNIST_CHECK")
    with interrupted_after(1, monkeypatch):
        start(tmp_path / "resumed", *options)
    resume(tmp_path / "resumed")
    expected = content(tmp_path / "recorded")
    assert content(tmp_path / "one by one") == expected
    assert content(tmp_path / "resumed") == expected


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_saved_network_is_the_average_after_the_chosen_epoch(tmp_path, monkeypatch, keep):
    averages = []
    original = Progress.close_epoch

    def close_epoch(self, seconds):
        original(self, seconds)
        averages.append({name: value.clone() for name, value in self.average.module.state_dict().items()})

    monkeypatch.setattr(Progress, "close_epoch", close_epoch)
    validation = ["--validation", "0"] if keep == "last" else []
    result = start(tmp_path / "run", "--epochs", 3, "--average", "0.5", "--keep", keep, *validation)
    saved = load_tree(tmp_path / "run" / "network.pt")
    expected = averages[-1 if keep == "last" else result["best_epoch"]]
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    if keep == "last":
        assert result["recordings"] == {"train": 40, "validation": 0, "test": 20}
        assert result["validation_accuracy"] is None
        assert result["best_epoch"] == 2


def test_the_average_is_validated(tmp_path, monkeypatch):
    validate, networks = loop.Loop.validate, []

    def record(self):
        networks.append((self.validator.net, self.progress.average.module))
        validate(self)

    monkeypatch.setattr(loop.Loop, "validate", record)
    start(tmp_path / "run", "--epochs", 1, "--average", "0.5")
    ((found, expected),) = networks
    assert found is expected


def test_a_network_answers_without_dropout(data):
    net, modes = network_of(Settings(hidden=(12,), dropout=0.5)), []
    net.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    dataset = NMNISTDataset(data, train=False, source="recorded")
    _, true = train.answers(net.train(), dataset, torch.device("cpu"))
    assert modes == [False]
    assert np.array_equal(true, dataset.labels)


def test_an_epoch_is_called_the_best_only_if_the_best_is_kept(tmp_path, capsys):
    start(tmp_path / "run", "--epochs", 2, "--keep", "last")
    assert "(best)" not in capsys.readouterr().out
    start(tmp_path / "other", "--epochs", 1)
    assert "(best)" in capsys.readouterr().out


def test_accuracies_are_printed_in_per_cent(tmp_path, capsys):
    start(tmp_path / "run", "--epochs", 1)
    epoch, end = (line for line in capsys.readouterr().out.splitlines() if "epoch 1" in line)
    share = r"\d+\.\d\d%"
    assert re.match(rf"epoch 1/1: loss \d+\.\d+, accuracy {share}, validation {share} \(best\); ", epoch)
    assert re.fullmatch(rf"best epoch 1 \(validation {share}\) reads {share} of 20 test recordings", end)


@pytest.mark.slow
def test_a_run_can_start_with_the_weights_of_another(tmp_path, finished, monkeypatch):
    saved = []
    monkeypatch.setattr(
        Folder, "commit", lambda self, tree: saved.append({k: v.clone() for k, v in tree["net"].items()})
    )
    start(tmp_path / "run", "--epochs", 1, "--start", finished / "network.pt")
    assert all(torch.equal(saved[0][name], value) for name, value in load_tree(finished / "network.pt").items())


def test_the_curves_of_a_run_are_saved_without_pyplot(tmp_path, monkeypatch):
    """Some back ends of pyplot open a window."""
    monkeypatch.setattr("matplotlib.pyplot.figure", lambda *_, **__: pytest.fail("pyplot made a figure"))
    Folder(tmp_path).write_derived(None, LearningStats())
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


# -- runs that cannot begin


def test_a_run_that_could_not_end_does_not_begin(tmp_path, monkeypatch, data):
    fake_nmnist.write_folder(tmp_path / "data", "Train", fake_nmnist.make(0, 4))
    with pytest.raises(FileNotFoundError, match="expected a folder Test .*, found Train alone"):
        start(tmp_path / "run", "--epochs", 1, "--data", tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "Train.zip", "w") as file:
        for path in sorted((tmp_path / "data" / "Train").rglob("*.bin")):
            file.write(path, path.relative_to(tmp_path / "data" / "Train"))
    with pytest.raises(ValueError, match="expected recordings of Test, found an archive of Train"):
        start(tmp_path / "run", "--epochs", 1, "--data", tmp_path / "Train.zip")
    monkeypatch.setattr("nmnist_helpers.train.start.MAX_FILE", 100_000)
    with pytest.raises(ValueError, match="--hidden: expected a network whose checkpoint takes at most 0.0 GB"):
        start(tmp_path / "run", "--epochs", 1, "--data", data)
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "network.pt").touch()
    with pytest.raises(NotADirectoryError, match=r"network.pt: expected a folder for the run, found a file"):
        start(tmp_path / "network.pt", "--epochs", 1)


def test_too_little_disk_space_is_reported_before_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(train.loop.Loop, "train", lambda self: pytest.fail("training began"))
    resource = pytest.importorskip("resource", reason="this system has no limit for the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="checkpoint.pt: expected room for the file, found a limit on the size"):
            start(tmp_path / "run", "--epochs", 1, "--hidden", "64")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        start(tmp_path / "file" / "run", "--epochs", 1)


def test_a_folder_holds_one_run(run_copy, capsys):
    before = content(run_copy)
    with pytest.raises(FileExistsError, match=r"--resume.*--overwrite.*--out"):
        start(run_copy, "--epochs", 1)
    with FileLock(run_copy / ".lock"):
        for options in (["--overwrite"], ["--resume"]):
            with pytest.raises(FileExistsError, match="another run is writing there"):
                start(run_copy, *STATEFUL, "--epochs", 3, *options)
    assert content(run_copy) == before
    start(run_copy, "--epochs", 1, "--overwrite")
    assert content(run_copy) != before


def test_a_run_that_cannot_start_overwrites_nothing(run_copy, monkeypatch):
    before = content(run_copy)
    monkeypatch.setattr(Group, "steps", lambda *_: 0)
    with pytest.raises(ValueError, match="--batch-size: expected at least a batch for each of 1 processes"):
        start(run_copy, "--overwrite")
    assert content(run_copy) == before


@pytest.mark.skipif(os.name == "nt", reason="on Windows, only the age of a file decides")
def test_temporary_files_of_killed_runs_are_removed(run_copy):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    from nmnist_helpers.files import _MACHINE

    leftover = run_copy / f".checkpoint.{_MACHINE}-{process.pid}-0123abcd.tmp.pt"
    leftover.write_bytes(b"half a checkpoint")
    resume(run_copy)
    assert not leftover.exists()


# -- runs that end early


@pytest.mark.parametrize(
    ("signal_number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_complete_files_and_prints_how_to_resume(
    tmp_path, monkeypatch, capsys, finished, signal_number, status
):
    out, commit = tmp_path / "run", Folder.commit

    def commit_and_signal(self, tree):
        commit(self, tree)
        if tree["epoch"] == 1:
            signal.raise_signal(signal_number)  # os.kill() would end the process on Windows
            time.sleep(1)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "commit", commit_and_signal)
            assert __main__.main(["train", *SMALL, *STATEFUL, "--epochs", "3", "--out", str(out)]) == status
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    error = capsys.readouterr().err
    folder = Folder(out)
    folder.saved_epochs = 1
    assert error.splitlines()[-1].endswith(folder.resume_hint())
    assert len((out / "loss.txt").read_text().splitlines()) == 2, "the files belong to the saved epoch"
    resume(out)
    assert content(out) == content(finished)


@pytest.mark.skipif(os.name == "nt", reason="on Windows, a closed pipe raises another error")
def test_a_run_ends_if_nobody_reads_its_lines(tmp_path, monkeypatch, capsys):
    print_epoch, (reader, writer) = loop.Loop.print_epoch, os.pipe()

    def close_and_print(self, seconds):
        if self.progress.epoch == 1:
            os.close(reader)
        print_epoch(self, seconds)

    monkeypatch.setattr(loop.Loop, "print_epoch", close_and_print)
    with os.fdopen(writer, "w") as pipe, contextlib.redirect_stdout(pipe):
        assert __main__.main(["train", *SMALL, "--epochs", "2", "--out", str(tmp_path / "run")]) == 141
    assert load_tree(tmp_path / "run" / "checkpoint.pt")["epoch"] == 1, "the line is written at once"
    assert "Broken pipe" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, finished):
    out, commit = tmp_path / "run", Folder.commit

    def commit_or_raise(self, tree):
        if tree["epoch"] == 2:
            raise OSError("checkpoint.pt: disk full")
        commit(self, tree)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "commit", commit_or_raise)
        with pytest.raises(OSError, match="disk full; epochs saved: 1; to resume: .*--resume"):
            start(out, *STATEFUL, "--epochs", 3)
    resume(out)
    assert content(out) == content(finished)
