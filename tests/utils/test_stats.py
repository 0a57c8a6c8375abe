"""Test the learning statistics against counts that the tests make themselves."""

import math
import re

import numpy as np
import pytest
import torch
from support.epochs import add_batch, add_epoch

from nmnist_helpers.utils import LearningStat, LearningStats


def test_running_loss_and_accuracy_are_weighted_by_samples():
    stat = LearningStat()
    assert stat.loss is None
    assert stat.accuracy is None
    add_batch(stat, 0.5, 32, 20)
    add_batch(stat, 2.0, 8, 1)
    assert stat.loss == pytest.approx((0.5 * 32 + 2.0 * 8) / 40, rel=1e-15)
    assert stat.accuracy == 21 / 40
    assert (stat.num_samples, stat.correct_samples, stat.loss_sum) == (40, 21, 32.0)


def test_accuracy_is_zero_without_correct_samples_and_none_if_not_counted():
    stat = LearningStat()
    add_batch(stat, 1.0, 4, 0)
    assert stat.accuracy == 0.0
    stat.reset()
    add_batch(stat, 1.0, 4)
    assert stat.accuracy is None
    assert stat.correct_samples == 0


def test_correct_samples_may_be_fractions():
    stat = LearningStat()
    for _ in range(10):
        stat.num_samples += 1
        stat.correct_samples += 0.75
    assert stat.accuracy == pytest.approx(0.75)


def test_correct_samples_may_be_a_tensor():
    stat = LearningStat()
    stat.num_samples = 4
    stat.correct_samples += torch.tensor(3.0)
    assert type(stat.accuracy) is float
    assert stat.accuracy == 0.75


def test_reset_discards_only_the_current_epoch():
    stat = LearningStat()
    add_batch(stat, 1.0, 4, 2)
    stat.update()
    add_batch(stat, 9.0, 4, 0)
    stat.reset()
    assert stat.loss is None
    assert (stat.loss_log, stat.accuracy_log) == ([1.0], [0.5])
    assert (stat.min_loss, stat.max_accuracy) == (1.0, 0.5)


def test_update_closes_the_epoch_and_starts_from_zero():
    stat = LearningStat()
    for loss, correct in ((3.0, 1), (1.0, 3), (2.0, 2)):
        add_batch(stat, loss, 4, correct)
        stat.update()
        assert stat.num_samples == 0
    assert stat.loss_log == [3.0, 1.0, 2.0]
    assert stat.accuracy_log == [0.25, 0.75, 0.5]
    assert (stat.min_loss, stat.max_accuracy) == (1.0, 0.75)


@pytest.mark.parametrize("accuracies", [
    [0.1, 0.5, 0.3, 0.5, 0.9, 0.9, 0.2], [0.0, 0.0, 0.1], [0.7], [0.9, 0.8, 0.7],
])  # fmt: skip
def test_best_describes_the_same_epoch_before_and_after_update(accuracies):
    """Before `update`, lava-dl's flag describes the previous epoch; here it always describes the current one."""
    stats = LearningStats()
    for epoch, accuracy in enumerate(accuracies):
        earlier = accuracies[:epoch]
        expected = all(accuracy > a for a in earlier)
        loss = 1 - accuracy
        add_batch(stats.training, 5.0, 10, 5)  # in the tutorial's loop the test set comes after the training set
        add_batch(stats.testing, loss, 10, round(10 * accuracy))
        assert stats.testing.best_accuracy is expected
        assert stats.testing.best_loss is expected
        stats.update()
        assert stats.testing.best_accuracy is expected
        assert stats.testing.best_loss is expected
        add_batch(stats.training, 5.0, 10, 5)  # the next epoch has begun, perhaps without a test at its end
        assert stats.testing.best_accuracy is False
        stats.reset()


@pytest.mark.parametrize("update_first", [False, True])
def test_the_loop_keeps_the_weights_of_the_best_epoch(update_first):
    """The tutorial's loop saves the first of the best epochs, whether it updates the statistics before or after."""
    accuracies = [0.2, 0.6, 0.4, 0.8, 0.7, 0.8, 0.3]
    stats, saved = LearningStats(), None
    for epoch, accuracy in enumerate(accuracies):
        add_batch(stats.training, 1.0, 10, 9)
        add_batch(stats.testing, 1.0, 10, round(10 * accuracy))
        if update_first:
            stats.update()
        if stats.testing.best_accuracy:
            saved = epoch
        if not update_first:
            stats.update()
    assert saved == int(np.argmax(accuracies)) == 3


def test_best_is_false_before_the_first_batch_and_after_an_epoch_without_samples():
    stat = LearningStat()
    assert not stat.best_accuracy
    assert not stat.best_loss
    add_batch(stat, 1.0, 4, 2)
    stat.update()
    assert stat.best_accuracy
    stat.update()  # this epoch was not tested, so there is nothing to save
    assert not stat.best_accuracy
    assert not stat.best_loss
    add_batch(stat, 0.5, 4, 3)
    assert stat.best_accuracy


def test_a_loss_that_is_nan_is_neither_the_best_nor_the_minimum():
    stat = LearningStat()
    add_batch(stat, math.nan, 4)
    assert not stat.best_loss
    stat.update()
    for loss in (2.0, 1.0):
        add_batch(stat, loss, 4)
        assert stat.best_loss
        stat.update()
    assert stat.min_loss == 1


# -- printed lines


def test_line_has_the_tutorials_format():
    stats = LearningStats()
    add_epoch(stats, training=(0.11887, 0.9), testing=(0.07424, 0.9))
    add_epoch(stats, training=(0.2, 0.1), testing=(0.2, 0.1))
    add_batch(stats.training, 0.11669, 10, 9)
    add_batch(stats.testing, 0.07722, 10, 8)
    assert str(stats) == (
        "Train loss =     0.11669 (min =     0.11887)    accuracy = 0.90000 (max = 0.90000)"
        " | Test  loss =     0.07722 (min =     0.07424)    accuracy = 0.80000 (max = 0.90000)"
    )
    first, second = str(stats).replace("| ", "\n").split("\n")
    assert first.startswith("Train loss = ")
    assert second.startswith("Test  loss = ")
    assert first.index("accuracy") == second.index("accuracy")


def test_line_in_the_first_epoch_has_no_best_values():
    stats = LearningStats()
    assert str(stats) == ""
    add_batch(stats.training, 1.5, 10, 4)
    assert str(stats) == "Train loss =     1.50000    accuracy = 0.40000"
    add_batch(stats.testing, 12345.5, 10)
    assert str(stats).endswith(" | Test  loss = 12345.50000")


NUMBER = r"[ \d]{5}\.\d{5}"


def test_line_after_update_shows_the_epoch_just_closed():
    stats = LearningStats()
    add_epoch(stats, training=(1.0, 0.4), validation=(2.0, 0.3))
    line = str(stats)
    assert re.fullmatch(
        rf"Train loss = {NUMBER} \(min = {NUMBER}\)    accuracy = 0.40000 \(max = 0.40000\)"
        rf" \| Valid loss =     2.00000 .*accuracy = 0.30000 .*",
        line,
    )


def test_line_never_gets_shorter_in_the_tutorials_loop():
    """Each line is printed over the previous one, so a shorter line would leave the end of a longer one visible."""
    stats, lengths = LearningStats(), []
    for _ in range(3):
        add_batch(stats.training, 1.0, 10, 5)
        lengths.append(len(str(stats)))
        add_batch(stats.testing, 1.0, 10, 5)
        lengths.append(len(str(stats)))
        stats.update()
    assert lengths == sorted(lengths)


def test_print_shows_epoch_header_progress_and_statistics(capsys):
    stats = LearningStats()
    add_batch(stats.training, 1.5, 10, 4)
    loader = torch.utils.data.DataLoader(list(range(50)), batch_size=16)
    stats.print(7, iter=1, header=["rate 0.01"], dataloader=loader)
    shown = capsys.readouterr().out
    assert "Epoch" in shown
    assert re.search(r"\b7\b", shown)
    assert "rate 0.01" in shown
    assert "32/50" in shown
    assert "50%" in shown
    assert "Train loss =     1.50000    accuracy = 0.40000" in shown
    stats.print(7, iter=3, dataloader=loader)
    assert "50/50 (100%)" in capsys.readouterr().out  # the last batch is smaller
    stats.print(8, header="one line")
    assert "one line" in capsys.readouterr().out
    stats.new_line()
    stats.print(9)
    assert "Epoch" in capsys.readouterr().out


def test_elapsed_time_is_printed_in_ms(capsys):
    LearningStats().print(0, time_elapsed=0.25)
    assert "250.0000 ms elapsed" in capsys.readouterr().out


def test_print_on_a_terminal_replaces_its_own_lines(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    stats = LearningStats()
    add_batch(stats.training, 1.5, 10, 4)
    add_batch(stats.testing, 1.5, 10, 4)
    stats.print(0)
    first = capsys.readouterr().out
    assert "\033[" not in first
    stats.print(0)
    assert f"\033[{first.count(chr(10))}A" in capsys.readouterr().out
    stats.new_line()
    stats.print(1)
    assert "\033[" not in capsys.readouterr().out


def test_progress_of_a_loader_without_a_length(capsys):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from range(3)

    LearningStats().print(0, 2, dataloader=torch.utils.data.DataLoader(Endless()))
    assert "batch     2" in capsys.readouterr().out


def test_an_epoch_without_tests_is_not_the_best():
    stats, saved = LearningStats(), []
    for epoch in range(12):
        stats.training.num_samples += 10
        if epoch % 5 == 0:
            stats.testing.num_samples += 10
            stats.testing.correct_samples += {0: 9, 5: 5, 10: 9.5}[epoch]
        if stats.testing.best_accuracy:
            saved.append(epoch)
        stats.update()
    assert saved == [0, 10]
    assert not stats.testing.best_accuracy


def test_loss_and_accuracy_need_different_names():
    with pytest.raises(ValueError, match="expected different names for loss and accuracy, found 'err' twice"):
        LearningStats(loss_str="err", accuracy_str="Err")
