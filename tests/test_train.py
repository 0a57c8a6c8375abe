"""Test the training command: its files, its errors, resumed runs, and runs in several processes."""

import contextlib
import hashlib
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from support import fake_nmnist
from support.interruption import interrupted_after

from nmnist_helpers import ConvNetwork, Network, __main__, train
from nmnist_helpers.checkpoint import CheckpointError, load_checkpoint, load_tree, save_tree
from nmnist_helpers.neuron.cuba import Neuron
from nmnist_helpers.train import Settings, loop, parser
from nmnist_helpers.train.folder import Folder, resume_with
from nmnist_helpers.train.group import Group, dist
from nmnist_helpers.train.parts import evenly_spaced, learn_and_validate, split
from nmnist_helpers.train.progress import Progress, groups, network_of, step_factor
from nmnist_helpers.utils import LearningStats

SMALL = ["--source", "recorded", "--hidden", "12", "--batch-size", "8", "--validation", "0.25"]
# Options whose features have a state that a checkpoint must hold.
STATEFUL = ["--dropout", "0.2", "--average", "0.8", "--schedule", "onecycle", "--delay-step", "3"]


def write_data(folder, seed):
    for split_name, per_digit in (("Train", 4), ("Test", 2)):
        fake_nmnist.write_folder(folder, split_name, fake_nmnist.make(seed, per_digit))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), 0)


@pytest.fixture(autouse=True)
def environment(monkeypatch, data):
    monkeypatch.setenv("NMNIST_DATA", str(data))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """Return the folder of a finished run of three epochs; tests that change it use `run_copy`."""
    out = tmp_path_factory.mktemp("finished") / "run"
    start(out, *STATEFUL, "--epochs", 3, "--data", data)
    return out


@pytest.fixture
def run_copy(finished, tmp_path):
    out = tmp_path / "run_copy"
    out.mkdir()
    for file in finished.iterdir():
        if file.suffix:
            (out / file.name).write_bytes(file.read_bytes())
    return out


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


# -- parts of the recordings


@pytest.mark.parametrize("validation", [1 / 6, 20])
def test_split_is_fixed_disjoint_and_balanced(validation):
    labels = np.repeat(np.arange(10), 12)
    learn, validate = split(labels, validation)
    assert sorted([*learn, *validate]) == list(range(120))
    assert (np.bincount(labels[validate]) == 2).all()
    again = split(labels, validation)
    assert (learn == again[0]).all()
    assert (validate == again[1]).all()


@pytest.mark.parametrize(
    ("labels", "validation"),
    [([0, 0, 1], 1), ([0, 0, 1, 1], 3), ([0, 0, 1, 1], 0.1), ([], 1), ([0] * 500 + [1] * 2, 5)],
)
def test_split_needs_a_recording_of_each_digit_in_both_parts(labels, validation):
    with pytest.raises(ValueError, match="--recordings, --validation: expected both parts to have a recording of each"):
        split(np.array(labels), validation)


@pytest.mark.parametrize("most", [50, 60, 64, 599])
def test_evenly_spaced_recordings_have_every_digit_equally_often(most):
    labels = np.repeat(np.arange(10), 60)  # recordings are sorted by digit
    chosen = evenly_spaced(len(labels), most)
    assert len(np.unique(chosen)) == len(chosen) == most
    counts = np.bincount(labels[chosen], minlength=10)
    assert counts.max() - counts.min() <= 1
    for all_of_them in (None, 600, 601):
        assert (evenly_spaced(600, all_of_them) == np.arange(600)).all()


class AllOfMnist:
    """A stand-in for a dataset that simulates all of MNIST, with its digits in random order."""

    source = "simulated"

    def __init__(self):
        self.packed = SimpleNamespace(ids=np.random.default_rng(0).permutation(60_000) + 1)

    def __len__(self):
        return 60_000


@pytest.mark.parametrize(
    ("options", "most", "sizes"),
    [
        ({}, 5000, (55_000, 5000)),
        ({"validation": 0.05}, 3000, (57_000, 3000)),
        ({"recordings": 6000}, 13_000, (5000, 1000)),
    ],
)
def test_the_first_digits_of_mnist_are_for_validation(options, most, sizes):
    dataset = AllOfMnist()
    learn, validate = learn_and_validate(dataset, Settings(**options))
    assert (len(learn), len(validate)) == sizes
    ids = dataset.packed.ids
    assert 1100 < ids[validate].max() < ids[learn].min() <= most + 1
    assert (learn[:-1] < learn[1:]).all()


# -- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "--epochs: expected a whole number from 1, found 0"),
        ("--recordings 5", "found 5 recordings"),
        ("--recordings 0", "--recordings"),
        ("--validation 0", "--validation: expected recordings to choose the best epoch on"),
        ("--validation 1.5", "--validation"),
        (
            "--validation 1e9",
            "--validation: expected a share between 0 and 1, or a number of recordings, found 1000000000.0",
        ),
        ("--validation -1", "--validation"),
        ("--validation 5000", "5000 of them for validation"),
        ("--batch-size 0", "--batch-size"),
        ("--lr nan", "--lr: expected a positive number, found nan"),
        ("--lr inf", "--lr"),
        ("--lr 0", "--lr"),
        ("--dropout 1", "--dropout"),
        ("--average -0.1", "--average"),
        ("--true-rate nan", "--true-rate"),
        ("--window 0", "--window"),
        ("--decay-step -1", "--decay-step"),
        ("--seed -1", "--seed"),
        ("--hidden 0", "--hidden"),
        ("--device tpu", "--device: expected auto, cpu, or a cuda device of this computer, found 'tpu'"),
        ("--device cuda:99", "--device"),
        ("--device meta", "--device"),
        ("--schedule linear", "--schedule: expected one of constant, cosine, onecycle, found 'linear'"),
        ("--start nowhere.pt", "nowhere.pt"),
        ("--start=~/nowhere.pt", " [^~]+nowhere.pt"),
        ("--data nowhere", "nowhere"),
        ("--resume", "--resume: expected .*checkpoint.pt, found nothing there"),
        ("--resume --overwrite", "expected one of them"),
    ],
)
def test_invalid_options_are_reported_before_anything_is_written(tmp_path, capsys, options, message):
    arguments = ["train", *SMALL, *options.split(), "--out", str(tmp_path / "run")]
    assert __main__.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    (error,) = [line for line in lines if "compiling CPU kernels" not in line]  # printed only by the first test
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_invalid_settings_raise_an_error():
    for options in (
        {"epochs": 1.5},
        {"epochs": "3"},
        {"seed": True},
        {"augment": 1},
        {"hidden": 12},
        {"lr": None},
        {"max_shift": 34},
    ):
        with pytest.raises(ValueError, match="expected"):
            Settings(**options)


@pytest.mark.slow
def test_options_set_the_strength_of_the_augmentation(tmp_path):
    weights = {}
    for name, options in {
        "none": ["--no-augment"],
        "still": ["--max-angle", 0, "--max-shift", 0],
        "shifted": ["--max-angle", 0, "--max-shift", 2],
        "warped": ["--max-angle", 0, "--max-shift", 0, "--max-warp", 2],
        "stretched": ["--max-angle", 0, "--max-shift", 0, "--max-stretch", 0.2],
        "sheared": ["--max-angle", 0, "--max-shift", 0, "--max-shear", 20],
    }.items():
        start(tmp_path / name, *options, "--epochs", 1)
        weights[name] = (tmp_path / name / "network.pt").read_bytes()
    assert weights["still"] == weights["none"]
    assert len(set(weights.values())) == 5


def test_epochs_use_the_takes_in_turn(tmp_path, few_digits, monkeypatch):
    used = []

    def load_take(self, take):
        load(self, take)
        used.append(self.train_loader.packed.counts.tolist())

    load = loop.Loop.load_take
    monkeypatch.setattr(loop.Loop, "load_take", load_take)
    options = ["--source", "simulated", "--takes", 2, "--epochs", 4, "--batch-size", 16]
    start(tmp_path / "whole", *options)
    first, second = used[:2]
    assert used == [first, second, first, second]
    assert first != second
    with interrupted_after(3, monkeypatch):
        start(tmp_path / "resumed", *options)
    resume(tmp_path / "resumed")
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")
    start(tmp_path / "one take", *options, "--takes", 1)
    assert (tmp_path / "one take" / "network.pt").read_bytes() != (tmp_path / "whole" / "network.pt").read_bytes()
    with pytest.raises(ValueError, match="--takes: expected 1 for recordings that exist already, found 2"):
        start(tmp_path / "recorded", "--takes", 2)


@pytest.mark.parametrize("network", ["dense", "cnn"])
def test_tau_grad_is_set_in_every_neuron(network):
    net = network_of(Settings(network=network, tau_grad=0.01))
    assert {part.tau_grad for part in net.modules() if isinstance(part, Neuron)} == {0.01}


def test_help_names_every_setting_and_its_default():
    page = train.parser().format_help()
    assert "best_epoch counts from 0" in page
    for name, value in vars(Settings()).items():
        assert f"--{name.replace('_', '-')}" in page
        if isinstance(value, float | int) and not isinstance(value, bool):
            assert f"(default {value})".replace(" ", "") in page.replace("\n", "").replace(" ", "")


@pytest.mark.filterwarnings("ignore:.* found in sys.modules")
@pytest.mark.parametrize("name", ["calibrate", "download", "mnist", "sim2real", "train"])
def test_commands_of_the_first_version_still_work(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"nmnist_helpers.{name}", run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    assert "usage: python -m nmnist_helpers" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.* found in sys.modules")
@pytest.mark.parametrize("name", ["calibrate", "download", "mnist"])
def test_commands_of_the_first_version_report_an_error_in_one_line(monkeypatch, capsys, tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    option = ["--recordings"] if name == "calibrate" else []
    monkeypatch.setattr(sys, "argv", [name, *option, str(tmp_path / "file" / "folder")])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"nmnist_helpers.{name}", run_name="__main__", alter_sys=True)
    assert end.value.code == 1
    assert re.fullmatch(r"python -m nmnist_helpers \w+: .*folder.*\n", capsys.readouterr().err)


def test_commands_run_without_standard_streams(monkeypatch):
    """They are None if they were closed before the start (``>&-``), and in pythonw."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr("nmnist_helpers.lava.main", lambda options: print("a line"))
    before = signal.getsignal(signal.SIGTERM)
    assert __main__.main(["lava"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("size", ["", "2"])
def test_an_error_is_reported_whatever_the_environment_says(monkeypatch, capsys, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert __main__.main(["trian"]) == 2
    assert "found 'trian'" in capsys.readouterr().err


def test_commands_are_listed_and_an_unknown_one_is_reported(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert __main__.main([]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in __main__.COMMANDS)
    assert __main__.main(["trian"]) == 2
    expected = f"nmnist_helpers: expected a command, one of {', '.join(__main__.COMMANDS)}; found 'trian'"
    assert expected in capsys.readouterr().err
    for name in ("train", "sim2real"):
        with pytest.raises(SystemExit) as end:
            __main__.main([name, "--help"])
        assert end.value.code == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_data_folder_that_is_not_there_is_reported(tmp_path, capsys):
    out = tmp_path / "run"
    assert __main__.main(["train", "--data", str(tmp_path / "typo"), "--out", str(out)]) == 1
    assert f"train: --data: expected a folder or an archive, found no {tmp_path / 'typo'}" in capsys.readouterr().err
    assert not out.exists()


def test_a_log_file_shows_each_line_at_once(tmp_path):
    with open(tmp_path / "log", "w") as log, contextlib.redirect_stdout(log):
        __main__.main([])
        assert "COMMAND --help lists the options" in (tmp_path / "log").read_text()


def test_schedules_equal_those_of_torch():
    steps, optimizer = 200, torch.optim.SGD([torch.zeros(1)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found = []
    for step in range(steps):
        found.append((step_factor("cosine", step / steps), optimizer.param_groups[0]["lr"]))
        optimizer.step()
        cosine.step()
    np.testing.assert_allclose(*np.transpose(found), atol=1e-6)
    onecycle = [step_factor("onecycle", step / steps) for step in range(steps)]
    assert onecycle[0] == pytest.approx(1 / 25)
    assert int(np.argmax(onecycle)) == 60
    assert onecycle[60] == 1
    assert onecycle[-1] < 0.001
    assert {step_factor("constant", done) for done in (0, 0.5, 0.99)} == {1.0}


def test_delays_and_decays_have_their_own_step_sizes():
    net = Network((8, 8))
    names = {id(p): name for name, p in net.named_parameters()}
    steps = {
        names[id(p)].rpartition(".")[2]: group["lr"]
        for group in groups(net, Settings(lr=0.01, delay_step=5, decay_step=100))
        for p in group["params"]
    }
    assert steps.pop("delay") == pytest.approx(0.05)
    assert steps.pop("scaled_current_decay") == steps.pop("scaled_voltage_decay") == pytest.approx(1.0)
    assert set(steps.values()) == {0.01}


@pytest.mark.parametrize("factor", [0, 1])
def test_decays_with_a_step_size_of_zero_keep_their_values(tmp_path, data, factor):
    start(tmp_path / "run", "--decay-step", factor, "--epochs", 2, "--data", data)
    tree = load_tree(tmp_path / "run" / "checkpoint.pt")
    torch.manual_seed(0)
    before, after = network_of(Settings(**tree["settings"])).state_dict(), tree["net"]
    learned = {name for name in before if name.startswith("blocks.0") and not torch.equal(before[name], after[name])}
    assert "blocks.0.synapse.weight_v" in learned
    assert any("decay" in name for name in learned) == (factor == 1)


# -- files of a run


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


def test_a_run_that_could_not_end_does_not_begin(tmp_path, monkeypatch, data):
    fake_nmnist.write_folder(tmp_path / "data", "Train", fake_nmnist.make(0, 4))
    with pytest.raises(FileNotFoundError, match="expected a folder Test .*, found Train alone"):
        start(tmp_path / "run", "--epochs", 1, "--data", tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "Train.zip", "w") as file:
        for path in sorted((tmp_path / "data" / "Train").rglob("*.bin")):
            file.write(path, path.relative_to(tmp_path / "data" / "Train"))
    with pytest.raises(ValueError, match="expected recordings of Test, found an archive of Train"):
        start(tmp_path / "run", "--epochs", 1, "--data", tmp_path / "Train.zip")
    monkeypatch.setattr(loop, "MAX_FILE", 100_000)
    with pytest.raises(ValueError, match="--hidden: expected a network whose checkpoint takes at most 0.0 GB"):
        start(tmp_path / "run", "--epochs", 1, "--data", data)
    assert not (tmp_path / "run").exists()


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


def test_an_epoch_is_called_the_best_only_if_the_best_is_kept(tmp_path, capsys):
    start(tmp_path / "run", "--epochs", 2, "--keep", "last")
    assert "(best)" not in capsys.readouterr().out
    start(tmp_path / "other", "--epochs", 1)
    assert "(best)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation", "abc"], "expected a share between 0 and 1, or a number of recordings, found 'abc'"),
        (["--hidden", "512,"], "expected one or more whole numbers from 1, found '512,'"),
    ],
)
def test_the_parser_names_what_it_expects(capsys, options, message):
    with pytest.raises(SystemExit):
        parser().parse_args(options)
    assert message in capsys.readouterr().err


def test_a_share_may_be_written_with_an_exponent():
    assert vars(parser().parse_args(["--validation", "1e-1"]))["validation"] == 0.1


@pytest.mark.slow
def test_a_run_can_start_with_the_weights_of_another(tmp_path, finished, monkeypatch):
    saved = []
    monkeypatch.setattr(
        Folder, "commit", lambda self, tree: saved.append({k: v.clone() for k, v in tree["net"].items()})
    )
    start(tmp_path / "run", "--epochs", 1, "--start", finished / "network.pt")
    assert all(torch.equal(saved[0][name], value) for name, value in load_tree(finished / "network.pt").items())


@pytest.mark.slow
def test_a_resumed_run_still_reports_with_which_weights_it_began(tmp_path, finished, data):
    options = "--epochs", 1, "--start", finished / "network.pt", "--data", data
    assert start(tmp_path / "run", *options)["settings"]["start"] == "network.pt"
    assert resume(tmp_path / "run", "--epochs", 2, "--data", data)["settings"]["start"] == "network.pt"


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "network.pt").touch()
    with pytest.raises(NotADirectoryError, match=r"network.pt: expected a folder for the run, found a file"):
        start(tmp_path / "network.pt", "--epochs", 1)


# -- resuming


class Interruption(BaseException):
    """An exception that the package does not catch; it stands for the sudden end of a process."""


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


# -- the folder


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


def test_the_curves_of_a_run_are_saved_without_pyplot(tmp_path, monkeypatch):
    """Some back ends of pyplot open a window."""
    monkeypatch.setattr("matplotlib.pyplot.figure", lambda *_, **__: pytest.fail("pyplot made a figure"))
    Folder(tmp_path).write_derived(None, LearningStats())
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_resumed_run_that_ends_before_it_writes_prints_how_to_resume(run_copy, monkeypatch, error):
    monkeypatch.setattr(Folder, "commit", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(error, match="epochs saved: 3; to resume: .* --resume"):
        resume(run_copy)


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


# -- several processes


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_has_its_own_gpu(monkeypatch, rank):
    chosen, backends = [], []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: backends.append(backend))
    assert Group("auto").device == torch.device("cuda", rank)
    assert chosen == [torch.device("cuda", rank)]
    assert Group("cpu").device == torch.device("cpu")
    assert backends == ["nccl", "gloo"], "NCCL cannot sum tensors on the CPU"


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("LOCAL_RANK", "1", "--nproc-per-node: expected at most 1, the number of GPUs here, found 2"),
        ("WORLD_SIZE", "two", "WORLD_SIZE: expected a whole number, as torchrun sets it, found 'two'"),
    ],
)
def test_what_torchrun_says_is_checked(monkeypatch, variable, text, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, text)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message):
        Group("auto")


needs_distributed = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")


@pytest.mark.slow
@needs_distributed
def test_two_processes_take_the_step_of_one_with_twice_the_batch(tmp_path):
    # After one step, Adam's first moments are a tenth of the gradient. Its step would not show the gradient's size.
    options = ["--validation", "12", "--epochs", "1", "--dropout", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "nmnist_helpers.train", *SMALL, *options, "--batch-size", "14", "--device", "cpu"]
    environment = os.environ | ({"USE_LIBUV": "0"} if os.name == "nt" else {})  # as --help says
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "two")], env=environment, stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    start(tmp_path / "one", *options, "--batch-size", "28")
    one, two = (load_tree(tmp_path / name / "checkpoint.pt") for name in ("one", "two"))
    assert one["moments"][0]["step"] == 1
    scales = []
    for index, moments in one["moments"].items():
        scales.append(float(moments["exp_avg"].abs().max()))
        assert (two["moments"][index]["exp_avg"] - moments["exp_avg"]).abs().max() <= 1e-5 * scales[-1]
    assert max(scales) > 0
    assert one["curves"]["training"]["accuracy_log"] == two["curves"]["training"]["accuracy_log"]
    assert one["curves"]["validation"] == two["curves"]["validation"]
    with pytest.raises(ValueError, match="expected the processes of this run, 2, found 1"):
        resume(tmp_path / "two", "--epochs", 2)


SLOW_TEST = """
import os, sys, time
from nmnist_helpers import train

def finish(loop):
    time.sleep(4)  # longer than --timeout
    print("tested", flush=True)
    if sys.argv.pop() == "fails":
        raise OSError("disk full")
    return {}

train.loop.Loop.finish = finish
options = sys.argv[1:-1]
try:
    train.main(options)
finally:
    os.write(1, f"process {os.environ['RANK']} ends\\n".encode())  # at once: both processes write to one pipe
"""


@pytest.mark.slow
@needs_distributed
@pytest.mark.parametrize("how", ["ends", "fails"])
def test_processes_wait_for_the_test_at_the_end(tmp_path, how):
    (tmp_path / "slow_test.py").write_text(SLOW_TEST)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(tmp_path / "slow_test.py"), *SMALL, "--epochs", "1", "--device", "cpu", "--timeout", "3"]
    environment = os.environ | ({"USE_LIBUV": "0"} if os.name == "nt" else {})
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), how], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (run.returncode == 0) == (how == "ends"), run.stderr[-2000:]
    lines = [line for line in run.stdout.splitlines() if line.startswith(("tested", "process"))]
    assert lines[0] == "tested"
    assert sorted(lines[1:]) == ["process 0 ends", "process 1 ends"]


# PARENT acts as torchrun; CHILD, the process that it starts, waits in the group for the other processes.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
CHILD = """
import time
from nmnist_helpers.train import group

def join(*_, **__):
    print("waits", flush=True)
    time.sleep(120)

group.dist.init_process_group = join
group.Group("cpu")
"""


@pytest.mark.slow
@needs_distributed
@pytest.mark.skipif(os.name == "nt", reason="os.getppid does not change on Windows")
def test_a_process_ends_with_the_torchrun_that_started_it():
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    command = [sys.executable, "-c", PARENT, CHILD]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.stdout.readline() == "waits\n"
    run.kill()
    output, _ = run.communicate(timeout=60)  # the child's output ends with the child
    assert output == "The torchrun that started this process has ended; this process ends too.\n"


def test_a_silent_true_class_does_not_drown_out_the_others_in_spike_max():
    """Its gradient was a million times as large, so that a training with ``--loss max`` learned nothing."""
    spikes = torch.full((1, 10, 300), 0.1)
    spikes[0, 3] = 0
    spikes.requires_grad_()
    loop.loss_of(Settings(loss="max"))(spikes, torch.tensor([3])).backward()
    silent, others = spikes.grad[0, 3].abs().sum(), spikes.grad[0, 4].abs().sum()
    assert others < silent < 200 * others


def test_the_convolutional_network_can_be_chosen():
    assert type(network_of(Settings())) is Network
    net = network_of(Settings(network="cnn", dropout=0.25))
    assert type(net) is ConvNetwork
    assert net[0].neuron.drop.p == 0.25
    with pytest.raises(ValueError, match="--hidden: expected --network dense"):
        Settings(network="cnn", hidden=(12,))
