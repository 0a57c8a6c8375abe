"""Test the files of learning curves: exact, whole or as before, and refused if damaged."""

import math
import os
import re

import numpy as np
import pytest
from support.epochs import add_batch, add_epoch

from nmnist_helpers.utils import LearningStats

PARTS = ("training", "testing", "validation")


def random_stats(epochs=7, seed=0):
    """Return statistics that are difficult to store: many decimals, tiny and huge numbers, gaps."""
    rng = np.random.default_rng(seed)
    stats = LearningStats()
    for epoch in range(epochs):
        for part in PARTS:
            if part == "validation" or (part == "testing" and epoch % 3):
                continue
            stat = getattr(stats, part)
            add_batch(stat, float(rng.random() * 10.0 ** rng.integers(-12, 12)), int(rng.integers(1, 99)))
            if part == "testing" or epoch != 2:
                stat.correct_samples += int(rng.integers(0, stat.num_samples + 1))
        stats.update()
    return stats


@pytest.mark.parametrize("slash", ["", "/"])
def test_round_trip_is_exact(tmp_path, slash):
    stats = random_stats()
    folder = str(tmp_path / "deep" / "er") + slash
    stats.save(folder)
    assert sorted(os.listdir(tmp_path / "deep" / "er")) == ["accuracy.txt", "loss.txt"]
    loaded = LearningStats()
    add_epoch(loaded, training=(1.0, 0.5))
    add_batch(loaded.training, 1.0, 10)
    loaded.load(folder)
    for part in PARTS:
        old, new = getattr(stats, part), getattr(loaded, part)
        assert old.loss_log == new.loss_log
        assert old.accuracy_log == new.accuracy_log
        assert (old.min_loss, old.max_accuracy) == (new.min_loss, new.max_accuracy)
        assert (old.best_loss, old.best_accuracy) == (new.best_loss, new.best_accuracy)
        assert new.num_samples == 0


def test_loaded_statistics_can_be_continued(tmp_path):
    stats = LearningStats()
    add_epoch(stats, testing=(1.0, 0.5))
    add_epoch(stats, testing=(0.8, 0.7))
    stats.save(tmp_path)
    loaded = LearningStats()
    loaded.load(tmp_path)
    add_batch(loaded.testing, 0.9, 10, 6)
    assert not loaded.testing.best_accuracy
    loaded.update()
    assert loaded.testing.accuracy_log == [0.5, 0.7, 0.6]
    loaded.save(tmp_path)
    again = LearningStats()
    again.load(tmp_path)
    assert again.testing.accuracy_log == [0.5, 0.7, 0.6]


def test_files_are_plain_tables_with_column_heads(tmp_path):
    stats = random_stats()
    stats.save(tmp_path)
    for name, log in (("loss.txt", "loss_log"), ("accuracy.txt", "accuracy_log")):
        with open(tmp_path / name) as file:
            heads = file.readline().replace("#", "").split()
        table = np.loadtxt(tmp_path / name, ndmin=2)
        assert table.shape == (7, len(heads))
        expected = [math.nan if value is None else value for value in getattr(stats.training, log)]
        np.testing.assert_array_equal(table[:, heads.index("Train")], expected)


def test_empty_statistics_are_saved_without_rows(tmp_path):
    LearningStats().save(tmp_path)
    loaded = random_stats()
    loaded.load(tmp_path)
    assert all(getattr(loaded, part).loss_log == [] for part in PARTS)


def test_a_save_that_fails_leaves_the_old_files(tmp_path, monkeypatch):
    stats = random_stats()
    stats.save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    add_epoch(stats, training=(1.0, 0.5))

    def raise_disk_full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", raise_disk_full)
    with pytest.raises(OSError, match="no space left"):
        stats.save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def damaged_versions(text: str):
    lines = text.splitlines(keepends=True)
    yield "empty", "", "first line"
    yield "no heads", "".join(lines[1:]), "first line"
    yield "an unknown head", text.replace("Train", "Trian"), "first line"
    yield "not a number", text.replace(lines[3], lines[3].replace(lines[3].split()[0], "many", 1)), "line 4"
    yield "an incomplete line", "".join(lines[:4]) + lines[4].split()[0], "line 5"
    yield "one number too many", "".join(lines[:4]) + lines[4].rstrip() + " 3.0\n", "line 5"


@pytest.mark.parametrize("name", ["loss.txt", "accuracy.txt"])
def test_damaged_files_are_named_and_change_nothing(tmp_path, name):
    random_stats().save(tmp_path)
    intact = (tmp_path / name).read_text()
    for what, text, message in damaged_versions(intact):
        (tmp_path / name).write_text(text)
        stats = LearningStats()
        add_epoch(stats, training=(1.0, 0.5))
        with pytest.raises(ValueError, match=re.escape(name) + ".*" + message):
            stats.load(tmp_path)
        assert stats.training.loss_log == [1.0], what
    (tmp_path / name).write_bytes(b"\x80\x02\xff" + intact.encode())
    with pytest.raises(ValueError, match=re.escape(name) + ": expected ASCII text"):
        LearningStats().load(tmp_path)


def test_files_of_different_lengths_raise_an_error(tmp_path):
    random_stats(7).save(tmp_path)
    (tmp_path / "accuracy.txt").write_text("".join((tmp_path / "accuracy.txt").open().readlines()[:-2]))
    with pytest.raises(ValueError, match=r"accuracy.txt: expected 7 epochs as loss.txt has, found 5"):
        LearningStats().load(tmp_path)


def test_after_an_interrupted_save_the_previous_epoch_is_loaded(tmp_path):
    stats = random_stats(7)
    stats.save(tmp_path)
    (tmp_path / "accuracy.txt").write_text("".join((tmp_path / "accuracy.txt").open().readlines()[:-1]))
    loaded = LearningStats()
    loaded.load(tmp_path)
    assert loaded.training.loss_log == stats.training.loss_log[:6]
    assert loaded.training.accuracy_log == stats.training.accuracy_log[:6]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"loss\.txt: expected the log of a training, found none"):
        LearningStats().load(tmp_path)
