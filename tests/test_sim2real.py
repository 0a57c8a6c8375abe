"""From simulation to reality: a very short run, and what it refuses."""

import json
import os

import numpy as np
import pytest
import torch

from nmnist_helpers import TRAINED, Network, sim2real
from nmnist_helpers.camera.digits import load_digits
from nmnist_helpers.camera.simulator import simulate

needs_both = pytest.mark.skipif(
    not (os.environ.get("NMNIST_DATA") and os.environ.get("NMNIST_MNIST")),
    reason="needs recordings (NMNIST_DATA) and MNIST's idx files (NMNIST_MNIST)",
)


def test_fit_learns_and_ends_with_a_small_step():
    torch.manual_seed(0)
    net = Network(hidden=(32,))
    images, labels, ids = (array[:48] for array in load_digits(train=True))
    events = simulate(images, 0, ids, labels)
    stats = sim2real.fit(net, events, 6, 0.002, 0, torch.device("cpu"))
    assert len(stats.training.loss_log) == 6
    assert stats.training.loss_log[-1] < 0.8 * stats.training.loss_log[0]
    found, true = sim2real.answers(net, events, torch.device("cpu"))
    assert (true == events.labels).all()
    assert set(found) <= set(range(10))


@needs_both
def test_short_run_writes_its_report(tmp_path):
    options = ["--mnist", os.environ["NMNIST_MNIST"], "--digits", "32", "--epochs", "1", "--tune", "1"]
    result = sim2real.main([*options, "--out", str(tmp_path)])
    assert result == json.loads((tmp_path / "result.json").read_text())
    confusion = np.array(result["confusion"])
    assert confusion.sum() == result["recordings"] > result["tuned_recordings"]
    assert confusion.trace() / confusion.sum() == pytest.approx(result["accuracy"])
    Network().load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))


@needs_both
def test_digits_that_recordings_show_are_not_for_training(tmp_path):
    with pytest.raises(ValueError, match=r"expected at most 58900, those that no recording shows, found 60000"):
        sim2real.main(["--mnist", os.environ["NMNIST_MNIST"], "--digits", "60000", "--out", str(tmp_path)])


def test_shipped_report_holds_what_the_readme_says():
    result = json.loads((TRAINED / "sim2real" / "result.json").read_text())
    assert result["accuracy"] >= 0.95
    assert result["tuned_accuracy"] >= 0.96
    assert np.trace(result["confusion"]) / np.sum(result["confusion"]) == pytest.approx(result["accuracy"])
