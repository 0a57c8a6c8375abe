"""The training command: what it writes, resuming, several processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from nmnist_helpers import Network, train

SMALL = ["--source", "simulated", "--recordings", "64", "--batch-size", "16", "--validation", "0.25", "--epochs"]


def test_split_is_fixed_disjoint_and_balanced():
    labels = np.repeat(np.arange(10), 12)
    learn, validate = train.split(labels, 1 / 6)
    assert sorted([*learn, *validate]) == list(range(120))
    assert (np.bincount(labels[validate]) == 2).all()
    again = train.split(labels, 1 / 6)
    assert (learn == again[0]).all()
    assert (validate == again[1]).all()


@pytest.mark.parametrize("most", [50, 60, 64, 599])
def test_a_part_of_the_recordings_has_every_digit(most):
    labels = np.repeat(np.arange(10), 60)  # recordings come in order of digit
    chosen = train.evenly(len(labels), most)
    assert len(np.unique(chosen)) == len(chosen) == most
    counts = np.bincount(labels[chosen], minlength=10)
    assert counts.max() - counts.min() <= 1
    for all_of_them in (None, 600, 601):
        assert (train.evenly(600, all_of_them) == np.arange(600)).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, rank):
    chosen, backends = [], []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(train.dist, "init_process_group", backends.append)
    assert train.Group("auto").device == torch.device("cuda", rank)
    assert chosen == [torch.device("cuda", rank)]
    assert train.Group("cpu").device == torch.device("cpu")
    assert backends == ["nccl", "gloo"], "NCCL cannot add up what is on the CPU"


def test_run_writes_network_curves_and_result(tmp_path):
    result = train.main([*SMALL, "2", "--out", str(tmp_path)])
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["recordings"] == {"train": 48, "validation": 16, "test": 64}
    assert 0 <= result["test_accuracy"] <= 1
    net = Network()
    net.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    for name in ("loss.txt", "accuracy.txt", "checkpoint.pt"):
        assert (tmp_path / name).exists()
    assert str(tmp_path) not in (tmp_path / "result.json").read_text()


def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    # without dropout the only randomness is the loader's, which goes by epoch
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = [*SMALL, "2", "--dropout", "0", "--schedule", "constant"]
    train.main([*options, "--out", str(whole)])
    train.main([*SMALL, "1", "--dropout", "0", "--schedule", "constant", "--out", str(broken)])
    for name in ("loss.txt", "accuracy.txt"):  # as if it had been broken off just before the next checkpoint
        text = (broken / name).read_text()
        (broken / name).write_text(text + text.splitlines()[-1] + "\n")
    train.main([*options, "--out", str(broken), "--resume"])
    lengths = [len((folder / "loss.txt").read_text().splitlines()) for folder in (whole, broken)]
    assert lengths == [3, 3], "a line of heads and one for each epoch"
    a, b = (torch.load(folder / "checkpoint.pt", weights_only=True)["net"] for folder in (whole, broken))
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)


def test_resume_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt"):
        train.main([*SMALL, "1", "--out", str(tmp_path), "--resume"])


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_share_the_batches_and_agree(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    arguments = ["-m", "nmnist_helpers.train", *SMALL, "1", "--dropout", "0", "--device", "cpu", "--out", str(tmp_path)]
    run = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["recordings"]["validation"] == 16
    accuracy = [line for line in (tmp_path / "accuracy.txt").read_text().splitlines() if line.strip()]
    assert len(accuracy) == 2, "a line of heads and one for the epoch: a single process writes"
