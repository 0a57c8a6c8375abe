"""Test the learning statistics against counts that the tests make themselves."""

import math
import os
import pickle
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from nmnist_helpers.utils import LearningStat, LearningStats  # noqa: E402
from nmnist_helpers.utils import stats as stats_module  # noqa: E402

PARTS = ("training", "testing", "validation")
NUMBER = r"[ \d]{5}\.\d{5}"


def add_batch(stat, loss, samples, correct=None):
    """Add one batch to the counters of `stat`, as a training loop without the assistant does."""
    stat.num_samples += samples
    stat.loss_sum += loss * samples
    if correct is not None:
        stat.correct_samples += correct


def add_epoch(stats, **epoch):
    """Add one epoch of 10 samples for each part, given as part=(loss, accuracy), and close it."""
    for part, (loss, accuracy) in epoch.items():
        add_batch(getattr(stats, part), loss, 10, None if accuracy is None else round(10 * accuracy))
    stats.update()


# ---- statistics of one part


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


# ---- printed lines


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


# ---- curves


def test_plot_draws_the_logs(tmp_path):
    stats = LearningStats()
    add_epoch(stats, training=(2.0, 0.3), testing=(2.5, 0.2))
    add_epoch(stats, training=(1.0, 0.6))  # not tested in this epoch
    add_epoch(stats, training=(0.5, 0.9), testing=(1.5, 0.7))
    fig = stats.plot(figsize=(15, 5))
    assert tuple(fig.get_size_inches()) == (15, 5)
    loss, accuracy = fig.axes
    for ax, expected in ((loss, {"train": [2.0, 1.0, 0.5], "test": [2.5, math.nan, 1.5]}),
                         (accuracy, {"train": [0.3, 0.6, 0.9], "test": [0.2, math.nan, 0.7]})):  # fmt: skip
        for word, values in expected.items():
            (line,) = (line for line in ax.lines if line.get_label().lower().startswith(word))
            np.testing.assert_allclose(line.get_ydata(), values)
            np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    assert "loss" in loss.get_ylabel().lower()
    assert "accuracy" in accuracy.get_ylabel().lower()
    plt.close(fig)


def test_the_labels_of_an_axis_are_not_rounded():
    stats = LearningStats()
    for right in range(80, 101, 2):  # an axis with this range has ticks every 2.5 %
        add_batch(stats.training, 1.0, 100, right)
        stats.update()
    fig = stats.plot()
    fig.canvas.draw()
    axis = fig.axes[1].yaxis
    labels = [label.get_text() for label in axis.get_ticklabels()]
    assert labels == [f"{round(100 * tick, 6):g} %" for tick in axis.get_ticklocs()]
    assert {"82.5 %", "95 %", "100 %"} <= set(labels)  # no decimal that is 0
    assert fig.axes[1].lines[0].get_label() == "training (best 100.00 %)"
    assert pickle.dumps(fig)
    plt.close(fig)


def test_plot_is_saved_to_a_file_or_folder(tmp_path):
    stats = LearningStats()
    add_epoch(stats, training=(2.0, 0.3))
    plt.close(stats.plot(path=tmp_path / "c.png"))
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    plt.close(stats.plot(path=str(tmp_path / "folder") + os.sep))
    for _ in range(2):  # the folder does not exist the first time
        plt.close(stats.plot(path=tmp_path / "lr0.001"))
    assert {file.name for file in (tmp_path / "lr0.001").iterdir()} == {"accuracy.png", "loss.png"}
    assert sorted(os.listdir(tmp_path / "folder")) == ["accuracy.png", "loss.png"]  # as lava-dl names them
    for name in ("accuracy.png", "loss.png"):
        assert (tmp_path / "folder" / name).read_bytes().startswith(b"\x89PNG")


def test_plot_in_a_loop_keeps_one_figure():
    stats = LearningStats()
    open_before = len(plt.get_fignums())
    for _ in range(3):
        fig = stats.plot()
    assert len(plt.get_fignums()) == open_before + 1
    assert plt.figure(fig.number) is fig
    plt.close(fig)


def test_plot_in_two_figures(tmp_path):
    stats = LearningStats(loss_str="error", loss_unit="mV", accuracy_str="share")
    add_epoch(stats, training=(2.0, 0.3))
    loss, accuracy = stats.plot((11, 12), (4, 3), tmp_path)
    assert (loss.number, accuracy.number) == (11, 12)
    assert tuple(loss.get_size_inches()) == (4, 3)
    assert [fig.axes[0].get_ylabel() for fig in (loss, accuracy)] == ["error mV", "share"]
    assert (tmp_path / "loss.png").exists()
    again = stats.plot(figures=(11, 12))
    assert [len(fig.axes) for fig in again] == [1, 1]  # drawn anew, not on top
    with pytest.raises(ValueError, match=r"expected a folder for two figures, found the file .*c\.png"):
        stats.plot((11, 12), path=tmp_path / "c.png")
    plt.close("all")


def test_custom_names_and_units(tmp_path):
    stats = LearningStats(loss_str="error", loss_unit="mV", accuracy_str="share", accuracy_unit="of all")
    add_epoch(stats, training=(1.0, 0.4))
    assert str(stats) == ("Train error =     1.00000 (min =     1.00000) mV    share = 0.40000 (max = 0.40000) of all")
    stats.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["error.txt", "share.txt"]
    found = LearningStats("error", accuracy_str="share")
    found.load(tmp_path)
    assert (found.training.loss_log, found.training.accuracy_log) == ([1.0], [0.4])
    with pytest.raises(ValueError, match="expected a name that a file can have, found 'a/b'"):
        LearningStats("a/b")


@pytest.mark.parametrize("derived", [True, False])
def test_a_kernel_derived_from_jupyters_counts_as_a_notebook(monkeypatch, derived):
    zmqshell = pytest.importorskip("ipykernel.zmqshell")
    base = zmqshell.ZMQInteractiveShell
    shell = type("Shell", (base if derived else object,), {})  # as the shells of Colab and Databricks
    monkeypatch.setattr("IPython.get_ipython", lambda: shell.__new__(shell))
    assert stats_module._in_notebook() is derived


def test_a_notebook_shows_the_plot_once(monkeypatch):
    """The figure is the value of a cell; if it stayed open, the end of the cell would show it again."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    stats = LearningStats()
    add_epoch(stats, training=(2.0, 0.3))
    fig = stats.plot()
    assert plt.fignum_exists(fig.number)
    fig._ipython_display_()
    assert not plt.fignum_exists(fig.number)
    (picture,) = shown
    assert picture.data.startswith(b"\x89PNG")
    assert "training (best 30.00 %)" in picture.alt


def test_plot_without_a_closed_epoch_is_empty():
    fig = LearningStats().plot()
    assert len(fig.axes) == 2
    assert not any(len(line.get_xdata()) for ax in fig.axes for line in ax.lines)
    plt.close(fig)


# ---- files


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


def test_loss_and_accuracy_need_different_names():
    with pytest.raises(ValueError, match="expected different names for loss and accuracy, found 'err' twice"):
        LearningStats(loss_str="err", accuracy_str="Err")


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
