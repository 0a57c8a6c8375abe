"""Test the trained networks shipped with the project: their files match, and their reports are correct."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nmnist_helpers import TRAINED, NMNISTDataset
from nmnist_helpers.checkpoint import load_checkpoint
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.network import Network
from nmnist_helpers.train import answers
from nmnist_helpers.utils import LearningStats

ROOT = Path(__file__).parents[1]
BEST = TRAINED / "best"
FIRST = TRAINED / "tutorial" / "seed-0"  # the first part of the training of `BEST`, with the tutorial's settings
PARTS = [FIRST, BEST / "part-2", BEST / "part-3"]  # whose weights are not kept
MAX_BYTES = 8_000_000


def report(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", [BEST, TRAINED / "cnn", *PARTS], ids=lambda folder: folder.name)
def test_the_files_of_a_network_match(folder):
    result, reality = report(folder, "result.json"), report(folder, "reality.json")
    assert result["network_sha256"] == reality["network_sha256"]
    if folder not in PARTS:
        assert result["network_sha256"] == hashlib.sha256((folder / "network.pt").read_bytes()).hexdigest()
    stats = LearningStats()
    stats.load(folder)
    assert len(stats.validation.accuracy_log) == result["settings"]["epochs"] == reality["epochs"]
    assert np.argmax(stats.validation.accuracy_log) == result["best_epoch"]
    assert stats.validation.accuracy_log[result["best_epoch"]] == pytest.approx(result["validation_accuracy"], abs=1e-6)
    for prefix in ("", "tuned_"):
        confusion = np.array(reality[f"{prefix}confusion"])
        assert confusion.sum() == reality[f"{prefix}recordings"]
        assert confusion.trace() / confusion.sum() == pytest.approx(reality[f"{prefix}accuracy"])


@pytest.mark.skipif("NMNIST_DATA" not in os.environ, reason="NMNIST_DATA names no recordings")
def test_the_best_network_gives_the_confusion_matrix_of_its_report():
    recorded = [NMNISTDataset(train=train, source="recorded").packed for train in (True, False)]
    everything = PackedEvents.concatenate(recorded)
    reality = report(BEST, "reality.json")
    if len(everything) != reality["recordings"]:
        pytest.skip(f"the report is about {reality['recordings']} recordings; NMNIST_DATA has {len(everything)}")
    found, true = answers(load_checkpoint(BEST / "network.pt", Network()), everything, torch.device("cpu"))
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (true, found), 1)
    assert confusion.tolist() == reality["confusion"]


@pytest.mark.parametrize(
    ("page", "folder"),
    [(page, folder) for page in ("README.md", "Trained/README.md") for folder in (BEST, TRAINED / "cnn", FIRST)]
    + [("Trained/README.md", folder) for folder in PARTS[1:]],
    ids=lambda value: getattr(value, "name", value),
)
def test_pages_state_the_accuracies_of_the_reports(page, folder):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"{report(folder, 'result.json')['test_accuracy']:.2%}".replace("%", " %") in text
    reality = report(folder, "reality.json")
    for accuracy in (reality["accuracy"], reality["tuned_accuracy"]):
        assert any(f"{accuracy:.{digits}%}".replace("%", " %") in text for digits in (1, 2))


def test_each_part_of_the_training_begins_with_the_network_of_the_one_before():
    """The page names the order of the parts, and the epochs of all parts together."""
    epochs = [report(folder, "result.json")["settings"]["epochs"] for folder in (*PARTS, BEST)]
    assert epochs == [100, 25, 36, 32]
    text = (TRAINED / "README.md").read_text(encoding="utf-8")
    for number, count in enumerate(epochs, 1):
        assert re.search(rf"^\| {number} \| {count} \|", text, re.MULTILINE)
        assert f"--epochs {count} " in text


def test_the_readme_states_the_curve_beside_the_tutorials():
    stats = LearningStats()
    stats.load(FIRST)
    accuracies = stats.validation.accuracy_log
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| [\d.]+ % \| ([\d.]+) % \|$", text, re.MULTILINE)
    assert [int(epoch) for epoch, _ in rows] == [19, 39, 59, 79, 99]
    assert [accuracy for _, accuracy in rows] == [f"{100 * accuracies[int(epoch)]:.2f}" for epoch, _ in rows]
    assert f"{max(accuracies):.2%}".replace("%", " %") in text


@pytest.mark.parametrize("seed", [1, 2])
def test_pages_state_the_accuracies_of_the_other_seeds(seed):
    result = report(TRAINED / "tutorial" / f"seed-{seed}", "result.json")
    first = report(FIRST, "result.json")["settings"]
    assert result["settings"] == first | {"epochs": 20, "seed": seed}
    for page in ("README.md", "Trained/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for accuracy in (result["validation_accuracy"], result["test_accuracy"]):
            assert f"{accuracy:.2%}".replace("%", " %") in text


def test_the_networks_are_small():
    shipped = [
        file
        for folder in ("best", "cnn", "seeds", "tutorial")
        for file in (TRAINED / folder).rglob("*")
        if file.is_file()
    ]
    assert sum(file.stat().st_size for file in shipped) < MAX_BYTES
