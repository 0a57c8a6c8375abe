"""Test the options of the training command, and that each has its effect."""

import re

import numpy as np
import pytest
import torch
from support.interruption import interrupted_after
from support.runs import SMALL, content, resume, start

from nmnist_helpers import ConvNetwork, Network, __main__, train
from nmnist_helpers.checkpoint import load_tree
from nmnist_helpers.neuron.cuba import Neuron
from nmnist_helpers.train import Settings, loop, parser
from nmnist_helpers.train.progress import groups, network_of, step_factor
from nmnist_helpers.train.trainer import Trainer
from nmnist_helpers.utils import Assistant


def test_help_names_every_setting_and_its_default():
    page = train.parser().format_help()
    assert "best_epoch counts from 0" in page
    for name, value in vars(Settings()).items():
        assert f"--{name.replace('_', '-')}" in page
        if isinstance(value, float | int) and not isinstance(value, bool):
            assert f"(default {value})".replace(" ", "") in page.replace("\n", "").replace(" ", "")


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


def test_the_true_class_has_the_higher_rate():
    with pytest.raises(ValueError, match=r"expected true_rate above false_rate, found 0\.01 and 0\.2"):
        Settings(true_rate=0.01, false_rate=0.2)


def test_an_empty_setting_is_shown():
    with pytest.raises(ValueError, match=r"--hidden: expected one or more whole numbers from 1, found \(\)"):
        Settings(hidden=())


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


def test_the_convolutional_network_can_be_chosen():
    assert type(network_of(Settings())) is Network
    net = network_of(Settings(network="cnn", dropout=0.25))
    assert type(net) is ConvNetwork
    assert net[0].neuron.drop.p == 0.25
    with pytest.raises(ValueError, match="--hidden: expected --network dense"):
        Settings(network="cnn", hidden=(12,))


@pytest.mark.parametrize(("network", "steps"), [("dense", 300), ("cnn", 30)])
def test_networks_learn_and_answer_in_their_own_time_steps_with_spikes_of_value_1(
    network, steps, tmp_path, monkeypatch
):
    seen = set()
    for kind, method in ((Trainer, "train"), (Assistant, "valid"), (Network, "forward")):
        usual = getattr(kind, method)

        def record(self, spikes, *rest, usual=usual, method=method):
            seen.add((method, spikes.shape[-1], spikes.value))
            return usual(self, spikes, *rest)

        monkeypatch.setattr(kind, method, record)
    hidden = ("--hidden", ",".join(map(str, Settings().hidden))) if network == "cnn" else ()
    start(tmp_path / "run", "--epochs", 1, "--device", "cpu", "--network", network, *hidden)
    assert seen == {(method, steps, 1.0) for method in ("train", "valid", "forward")}


def test_a_silent_true_class_does_not_drown_out_the_others_in_spike_max():
    """Its gradient was a million times as large, so that a training with ``--loss max`` learned nothing."""
    spikes = torch.full((1, 10, 300), 0.1)
    spikes[0, 3] = 0
    spikes.requires_grad_()
    loop.loss_of(Settings(loss="max"))(spikes, torch.tensor([3])).backward()
    silent, others = spikes.grad[0, 3].abs().sum(), spikes.grad[0, 4].abs().sum()
    assert others < silent < 200 * others


def test_the_loss_has_the_windows_and_rates_of_the_settings():
    loss = loop.loss_of(Settings(loss="max", window=20))
    assert (loss.window.time_window, loss.reduction, loss.eps) == (20, "sum", loop.SILENT)
    loss = loop.loss_of(Settings(window=30, true_rate=0.3, false_rate=0.1))
    assert (loss.window.time_window, loss.reduction, loss.true_rate, loss.false_rate) == (30, "sum", 0.3, 0.1)
    assert loop.loss_of(Settings()).window is None
    loss = loop.loss_of(Settings(loss="softmax", window=20))
    assert (loss.window.time_window, loss.reduction, loss.mode) == (20, "sum", "softmax")
    assert (loss.scale, loss.label_smoothing) == (12, 0.05)


def steps_of(out, monkeypatch, *options):
    """Return torch's seed, the step size and the labels in each training step of a run of two epochs."""
    steps, train_step = [], Trainer.train

    def record(self, spikes, labels):
        steps.append((torch.initial_seed(), self.optimizer.param_groups[0]["lr"], labels.tolist()))
        return train_step(self, spikes, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", record)
        start(out, "--epochs", 2, "--device", "cpu", *options)
    assert len(steps) == 8
    return zip(*steps, strict=True)


def test_order_and_dropout_depend_on_seed_and_epoch(tmp_path, monkeypatch):
    orders, seeds = [], []
    for seed in (3, 4):
        drawn, _, labels = steps_of(tmp_path / str(seed), monkeypatch, "--seed", seed)
        orders += [labels[:4], labels[4:]]
        seeds += [set(drawn[:4]), set(drawn[4:])]
    for found in (orders, seeds):
        assert len(set(map(str, found))) == 4
    assert max(map(len, seeds)) == 1


def test_the_step_size_changes_within_an_epoch(tmp_path, monkeypatch):
    _, sizes, _ = steps_of(tmp_path / "run", monkeypatch, "--schedule", "cosine")
    assert np.divide(sizes, sizes[0]) == pytest.approx([step_factor("cosine", step / 8) for step in range(8)])


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
