"""Test the figure of learning curves."""

import math
import os
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
from support.epochs import add_batch, add_epoch

from nmnist_helpers.utils import LearningStats
from nmnist_helpers.utils import stats as stats_module


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


def test_a_dot_marks_the_best_epoch_of_each_curve():
    stats = LearningStats()
    for values in ((2.0, 0.3), (0.5, 0.9), (1.0, 0.6)):
        add_epoch(stats, training=values)
    fig = stats.plot()
    for ax, best in zip(fig.axes, (0.5, 0.9), strict=True):
        (dot,) = (line for line in ax.lines if line.get_marker() == "o")
        assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([1], [best])
    plt.close(fig)


def test_a_loss_of_zero_is_drawn_on_a_linear_axis():
    for last, scale in ((0.0, "linear"), (0.5, "log")):
        stats = LearningStats()
        for loss in (2.0, last):
            add_epoch(stats, training=(loss, 0.5))
        fig = stats.plot()
        assert fig.axes[0].get_yscale() == scale
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
    (tmp_path / "folder.png").mkdir()
    plt.close(stats.plot(path=tmp_path / "folder.png"))
    assert sorted(os.listdir(tmp_path / "folder.png")) == ["accuracy.png", "loss.png"]
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
