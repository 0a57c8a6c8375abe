"""Test the figures that show recordings, saccades and mistakes."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nmnist_helpers.camera import BURSTS, SACCADES
from nmnist_helpers.io import Event
from nmnist_helpers.pictures import plots
from nmnist_helpers.pictures.curves import label_log_axis
from nmnist_helpers.pictures.figures import confused_pairs, event_rows, mark_saccades, show_confusion


def event() -> Event:
    """Return two ON events and an OFF event of one pixel, an OFF event of another, and one in the second saccade."""
    x, y, c = np.array([4, 4, 4, 9, 20]), np.array([6, 6, 6, 2, 20]), np.array([1, 1, 0, 0, 1])
    return Event(x, y, c, np.array([1.0, 2.0, 3.0, 50.0, SACCADES[1] + 1]))


def test_rows_of_recordings_show_the_first_saccade():
    fig = event_rows([event()] * 3, ["a", "b", "c"], columns=2)
    assert [ax.get_title() for ax in fig.axes] == ["a", "b", "c", ""]
    assert [len(ax.images) for ax in fig.axes] == [1, 1, 1, 0]
    image = np.asarray(fig.axes[0].images[0].get_array())
    assert {(int(r), int(c)): int(image[r, c]) for r, c in np.argwhere(image)} == {(6, 4): 1, (2, 9): -1}
    plt.close(fig)


@pytest.mark.parametrize("titles", [["a"], ["a", "b", "c"]])
def test_each_recording_has_a_title(titles):
    with pytest.raises(ValueError, match=f"expected a title for each of 2 recordings, found {len(titles)}"):
        event_rows([event()] * 2, titles)


def test_ten_recordings_side_by_side_fit_into_a_notebook():
    fig = event_rows([event()] * 10, ["3 read as 5"] * 10)
    assert fig.get_figwidth() <= 11  # wider pictures are shrunk on a screen of 1366 pixels
    plt.close(fig)


def test_saccades_are_marked_where_their_events_begin():
    fig, ax = plt.subplots()
    mark_saccades(ax)
    assert [line.get_xdata()[0] for line in ax.lines] == list(BURSTS[1:])
    plt.close(fig)


def test_a_confusion_matrix_hides_zeros():
    fig, ax = plt.subplots()
    show_confusion(ax, np.diag([3, 4]), "a title")
    assert sorted(text.get_text() for text in ax.texts if text.get_visible()) == ["3", "4"]
    assert (ax.get_xlabel(), ax.get_title()) == ("answer", "a title")
    plt.close(fig)


@pytest.mark.parametrize("classes", [10, 20])
def test_the_numbers_of_a_confusion_matrix_do_not_touch(classes):
    fig, ax = plt.subplots()
    show_confusion(ax, np.full((classes, classes), 100), shown="gesture shown")
    assert ax.get_ylabel() == "gesture shown"
    fig.canvas.draw()
    for texts in (ax.texts[:classes], ax.get_xticklabels()):
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) == classes
        assert all(before.x1 < after.x0 for before, after in pairwise(boxes))
    plt.close(fig)


def test_the_most_frequent_mistakes_come_first():
    confusion = np.diag([50] * 10)
    confusion[4, 9], confusion[7, 1] = 2, 5
    assert confused_pairs(confusion) == [(7, 1, 5), (4, 9, 2)]
    assert confused_pairs(confusion, 1) == [(7, 1, 5)]
    assert confusion[0, 0] == 50


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.12, 0.7], {"0.2", "0.3", "0.4", "0.6"}), ([0.03, 2], {"0.05", "0.1", "0.2", "0.5", "1", "2"})],
)
def test_a_logarithmic_axis_has_plain_numbers(values, expected):
    fig, ax = plt.subplots()
    ax.semilogy(values)
    label_log_axis(ax.yaxis)
    fig.canvas.draw()
    low, high = ax.get_ylim()
    ticks = [tick for tick in ax.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert {tick.label1.get_text() for tick in ticks} == expected
    assert not any(tick.label1.get_text() for tick in ax.yaxis.get_minor_ticks())
    plt.close(fig)


def test_every_recording_needs_a_title():
    event = Event([1], [1], [0], [0.0])
    with pytest.raises(ValueError, match="expected a title for each of 3 recordings, found 1"):
        event_rows([event] * 3, ["a"])
    for draw in (plots.event_map, plots.sharpened):
        with pytest.raises(ValueError, match="expected a 2-D recording, found a 1-D one"):
            draw(Event([1], None, [0], [0.0]))
