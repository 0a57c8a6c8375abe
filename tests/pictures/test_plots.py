"""Test the plots that several notebooks share."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nmnist_helpers.camera.path import PATH, PATH_STEP
from nmnist_helpers.io import Event
from nmnist_helpers.pictures import plots
from nmnist_helpers.pictures.figures import event_rows


def test_events_are_counted_where_and_when_they_occur():
    event = Event([3, 3, 5], [7, 7, 1], [1, 0, 1], [10.0, 20.0, 30.0])
    off, on = plots.event_map(event, 10, 30)
    assert (on[7, 3], on.sum(), off[7, 3], off.sum()) == (1, 1, 1, 1)
    assert plots.event_map(event).sum() == 3
    event.c[2] = 2  # a third channel, as of another camera
    assert plots.event_map(event).sum() == 2


def test_sharpened_removes_the_movement_of_the_camera():
    t = np.arange(0, 300.0)
    right, down = (np.interp(t, PATH_STEP * np.arange(len(PATH)), axis) for axis in np.transpose(PATH))
    edge = Event(10 + right, 15 + down, np.ones(300, int), t)  # one point of the digit while the camera moves
    assert len(np.unique(np.rint(edge.x))) > 5
    sharp = plots.sharpened(edge, scale=1)
    assert sharp.shape == (28, 28)
    assert sharp[15, 10] == 300
    spread = plots.sharpened(edge)
    assert np.isclose(spread[45:48, 30:33].sum(), 300)
    assert np.allclose(spread[45:48, 30:33], 300 / 9)


def test_traces_mark_every_spike():
    a, v = np.array([1.0, 0, 0, 2]), np.array([1.0, 1.5, 0.2, 2])
    fig = plots.neuron_traces(a, a, v, v > 1.25, 1.25, "a neuron")
    marks = next(line for line in fig.axes[2].lines if line.get_marker() == "|")
    assert marks.get_xdata().tolist() == [1.5, 3.5]
    assert any(text.get_text() == " 2 spikes" for text in fig.axes[2].texts)
    plt.close(fig)


def test_a_raster_has_a_mark_for_each_spike():
    fig, ax = plt.subplots()
    spikes = torch.zeros(3, 10)
    spikes[2, 4] = spikes[0, 7] = 1
    plots.raster(ax, spikes, first=5)
    assert sorted(map(tuple, ax.collections[0].get_offsets().tolist())) == [(4, 7), (7, 5)]
    plt.close(fig)


def test_traces_of_a_neuron_show_the_threshold_however_far_the_voltage_falls():
    silent = np.zeros(20)
    fig = plots.neuron_traces(silent, silent, np.linspace(0, -200, 20), silent, 1.25)
    low, high = fig.axes[2].get_ylim()
    assert np.isclose(low, -4 * 1.15 * 1.25)
    assert high > 1.25
    plt.close(fig)


def test_events_beside_the_sensor_are_not_counted_and_fractions_are_rounded():
    """A negative index would count from the other end."""
    event = Event([-1, 34, 3.4, 2, 2], [2, 2, 6.6, 1, 1], [1, 1, 1, -1, 0], [1.0, 2.0, 3.0, 4.0, 5.0])
    off, on = plots.event_map(event)
    assert (on[7, 3], on.sum(), off[1, 2], off.sum()) == (1, 1, 1, 1)


def test_maps_of_another_camera_are_refused():
    """An augmentation moves a few events off the sensor; most events there come from a larger one."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 128, (2, 4000))
    event = Event(x, y, rng.integers(0, 2, 4000), rng.uniform(0, 300, 4000))
    for draw in (plots.event_map, plots.sharpened, lambda event: event_rows([event], ["a"])):
        with pytest.raises(ValueError, match="34 x 34 pixels, found most events outside; for another camera, event.to"):
            draw(event)
    counts = event.to_tensor(binning_mode="SUM").sum(-1)  # as the message says
    assert (counts.shape, counts.sum(), counts[:, y[0], x[0]].sum()) == (
        (2, 128, 128),
        4000,
        np.sum((x == x[0]) & (y == y[0])),
    )
    event = Event(np.where(np.arange(4000) < 100, 40, x % 34), y % 34, event.c, event.t)
    assert plots.event_map(event).sum() == 3900
    assert plots.event_map(Event([], [], [], [])).sum() == 0
