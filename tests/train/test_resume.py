"""Test that a resumed run equals an uninterrupted one, and what cannot be resumed."""

import os
import shlex
from pathlib import Path

import pytest
import torch
from support.runs import STATEFUL, Interruption, content, resume, start, write_data

from nmnist_helpers.checkpoint import load_tree, save_tree
from nmnist_helpers.train import Settings
from nmnist_helpers.train.folder import Folder, resume_with


@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("commit", "before"),
        *(
            pytest.param(call, when, marks=pytest.mark.slow)
            for call in ("commit", "write_derived", "report")
            for when in ("before", "after")
            if (call, when) != ("commit", "before")
        ),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, finished, call, when):
    out, original, calls = tmp_path / "run", getattr(Folder, call), []

    def interrupt(self, *arguments):
        calls.append(call)
        is_due = len(calls) == {"commit": 3}.get(call, 1)
        if not (is_due and when == "before"):
            original(self, *arguments)
        if is_due:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Folder, call, interrupt)
        with pytest.raises(Interruption):
            start(out, *STATEFUL, "--epochs", 3)
    assert (out / "result.json").exists() == (call == "report" and when == "after")
    (out / "loss.txt").write_text("of another epoch")
    resume(out)
    assert content(out) == content(finished)


@pytest.mark.slow
def test_a_finished_run_can_be_resumed_for_more_epochs(tmp_path):
    start(tmp_path / "whole", "--epochs", 2)
    start(tmp_path / "parts", "--epochs", 1)
    resume(tmp_path / "parts")  # nothing left to do
    resume(tmp_path / "parts", "--epochs", 2)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    with pytest.raises(ValueError, match="--epochs: expected at least the 2 that this run has, found 1"):
        resume(tmp_path / "parts", "--epochs", 1)


def test_resuming_removes_the_result_of_the_old_weights(tmp_path, monkeypatch):
    start(tmp_path / "run", "--epochs", 1)
    monkeypatch.setattr(Folder, "write_derived", lambda *_: (_ for _ in ()).throw(Interruption))
    with pytest.raises(Interruption):
        resume(tmp_path / "run", "--epochs", 2)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_resumed_run_still_reports_with_which_weights_it_began(tmp_path, finished, data):
    options = "--epochs", 1, "--start", finished / "network.pt", "--data", data
    assert start(tmp_path / "run", *options)["settings"]["start"] == "network.pt"
    assert resume(tmp_path / "run", "--epochs", 2, "--data", data)["settings"]["start"] == "network.pt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 1], "expected --seed 0 as in this run, found 1"),
        (["--batch-size", 4], "expected --batch-size 8 as in this run, found 4"),
        (["--schedule", "cosine"], "expected --schedule 'onecycle'"),
        (["--epochs", 4], "expected --epochs 3, for which its onecycle schedule was planned, found 4"),
        (["--source", "simulated"], "expected --source 'recorded' as in this run, found 'simulated'"),
        (["--hidden", "13"], "expected --hidden"),
        (["--recordings", 39], "expected --recordings None"),
    ],
)
def test_resuming_with_other_settings_raises_an_error(run_copy, few_digits, options, message):
    before = {file.name: file.read_bytes() for file in run_copy.iterdir()}
    with pytest.raises(ValueError, match=message):
        resume(run_copy, *options)
    assert {file.name: file.read_bytes() for file in run_copy.iterdir()} == before


def test_resuming_with_other_recordings_raises_an_error(run_copy, tmp_path):
    other = write_data(tmp_path / "other", 1)
    with pytest.raises(ValueError, match="expected the recordings .* of this run"):
        resume(run_copy, "--data", other)
    same = write_data(tmp_path / "same", 0)
    resume(run_copy, "--data", same)


def set_entry(tree, path, value):
    *parents, last = path.split("/")
    for key in parents:
        tree = tree[int(key) if key.isdecimal() else key]
    tree[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("epoch", 10**9, "expected 1000000000 epochs in curves"),
        ("epoch", 2, "expected 2 epochs in curves.training.loss_log, found 3"),
        ("epoch", -1, "epoch: expected a number from 0"),
        ("epoch", "3", "epoch: expected int"),
        ("seconds", float("nan"), "seconds: expected a finite number"),
        ("curves/validation/loss_log", [1.0], "expected 3 epochs in curves.validation.loss_log, found 1"),
        ("curves/validation/loss_log", None, "curves.validation.loss_log, found NoneType"),
        ("curves", {}, "curves: expected"),
        ("processes", 2, "expected the processes of this run, 2, found 1"),
        ("best_epoch", 7, "best_epoch in 0..2, found 7"),
        ("moments/0/exp_avg", torch.zeros(3), r"moments.0.exp_avg: expected torch.float32 \[1], found"),
        ("moments/0/exp_avg", None, "moments.0.exp_avg: expected a tensor, found NoneType"),
        ("moments/1/step", torch.zeros(2), "moments.1.step"),
        ("moments", {}, "moments: expected"),
        ("net", {}, "net: expected"),
        ("average", None, "average: expected"),
        ("best", {"a": torch.zeros(1)}, "best: expected"),
        (
            "settings",
            {"seed": 0},
            "expected a run of this version .*differs in these settings: augment, average, batch_size",
        ),
        ("settings", None, "expected the settings of a run"),
        ("net/blocks.0.delay.delay", torch.full((12,), float("nan")), "expected finite numbers"),
    ],
)
def test_an_inconsistent_checkpoint_raises_an_error(run_copy, path, value, message):
    tree = load_tree(run_copy / "checkpoint.pt")
    set_entry(tree, path, value)
    save_tree(run_copy / "checkpoint.pt", tree)
    with pytest.raises(ValueError, match=message):
        resume(run_copy)
    assert (run_copy / "result.json").exists(), "no file was changed"


def test_a_checkpoint_that_was_rewritten_after_it_was_read_is_kept(run_copy, monkeypatch):
    hold = Folder.hold

    def hold_too_late(self, *arguments):
        save_tree(self.checkpoint, load_tree(self.checkpoint))  # another run ends here
        return hold(self, *arguments)

    before = content(run_copy)
    monkeypatch.setattr(Folder, "hold", hold_too_late)
    with pytest.raises(FileExistsError, match="expected the checkpoint that was read, found a newer one"):
        resume(run_copy)
    assert content(run_copy) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_resumed_run_that_ends_before_it_writes_prints_how_to_resume(run_copy, monkeypatch, error):
    monkeypatch.setattr(Folder, "commit", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(error, match="epochs saved: 3; to resume: .* --resume"):
        resume(run_copy)


@pytest.mark.skipif(os.name == "nt", reason="the quotes are those of Unix shells")
@pytest.mark.parametrize("name", ["run", "my run", "a&b", "o'x", "p(1)", "a$HOME b"])
def test_the_command_that_resumes_a_run_can_be_pasted(name):
    folder = Folder(name)
    folder.saved_epochs = 2
    assert shlex.split(folder.resume_hint())[-3:] == ["--out", name, "--resume"]


def test_the_command_that_resumes_a_run_is_the_one_that_began_it(monkeypatch):
    assert resume_with("sim2real", Path("run")) == "python -m nmnist_helpers sim2real --out run --resume"
    settings = Settings(data="my data", epochs=3, device="cpu", start="network.pt")
    command = shlex.split(resume_with("train", Path("run"), **settings.needed_again()))
    assert command[3:] == ["train", "--out", "run", "--data", "my data", "--device", "cpu", "--resume"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resume_with("train", Path("run")) == "torchrun --nproc-per-node 2 -m nmnist_helpers.train --out run --resume"
    for name, value in (("WORLD_SIZE", "6"), ("LOCAL_WORLD_SIZE", "2"), ("GROUP_WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    command = "torchrun --nnodes 3 --nproc-per-node 2 -m nmnist_helpers.train --out run --resume (on every node, with"
    assert resume_with("train", Path("run")).startswith(command)
