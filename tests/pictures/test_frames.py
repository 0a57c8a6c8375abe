"""Test the frames of films: the events of a camera, and rasters of spikes."""

import numpy as np
import pytest
from support.films import decode_gif, output, recording, rgb

from nmnist_helpers.io import Event, tensor_to_event
from nmnist_helpers.pictures import frames as drawing
from nmnist_helpers.pictures import (
    gif_bytes,
)
from nmnist_helpers.pictures.palette import INK, OFF, ON, SLATE
from nmnist_helpers.pictures.raster import CLOCK, raster_frames


def test_events_are_drawn_in_their_colour_at_their_place_and_time():
    event = Event([2, 30], [5, 8], [1, 0], [7.0, 22.0])
    frames, times, loop = decode_gif(gif_bytes(event, frame_ms=5, span=50))
    assert len(frames) == 10
    assert loop == 0
    assert times[:-1] == [50] * 9
    assert times[-1] == 650

    def pixel(f, x, y):
        block = frames[f, 7 * y : 7 * y + 7, 7 * x : 7 * x + 7].reshape(-1, 3)
        assert (block == block[0]).all()  # one sensor pixel, one colour
        return tuple(block[0].tolist())

    panel = rgb(drawing.PANEL)
    assert pixel(1, 2, 5) == rgb(ON)
    assert pixel(4, 30, 8) == rgb(OFF)
    assert pixel(0, 2, 5) == panel
    assert pixel(3, 30, 8) == panel
    fading = [pixel(f, 2, 5) for f in (1, 2, 3, 4)]
    distance = [np.abs(np.subtract(color, panel)).sum() for color in fading]
    assert distance[0] > distance[1] > distance[2] > distance[3] == 0
    assert pixel(1, 5, 2) == panel  # x is the column, y the row


def test_a_frame_shows_the_last_event_of_each_pixel():
    for order in ([0, 1], [1, 0]):
        event = Event([4, 4], [4, 4], order, [1.0, 2.0])
        (frame,) = drawing.camera_frames(event, 5.0, 5.0)
        assert frame[4 * 7, 4 * 7] == drawing.PALETTE.event + order[1] * len(drawing.AGES)


def test_an_event_at_the_beginning_of_a_frame_is_in_this_frame():
    event = Event([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0], [0.1, 0.3, 0.7, 1.05])  # as floats, 0.3 / 0.1 < 3
    found, frames = drawing.frame_numbers(event, 1.0, 0.1)
    assert (found.tolist(), frames) == ([1, 3, 7, 10], 10)  # the last event is in no frame, since it is after the end


def test_a_film_shows_no_event_after_its_end():
    for event in (Event([5], [5], [1], [14.0]), Event([5], None, [0], [14.0])):
        draw = raster_frames if event.y is None else drawing.camera_frames
        shown, empty = (draw(e, 12.0, 5.0) for e in (event, Event(event.x, event.y, event.c, [100.0])))
        assert np.array_equal(shown, empty)


@pytest.mark.parametrize("span", [None, 398.0])
def test_the_last_frame_shows_events_at_the_end_of_the_span(span):
    end = span or 400.0
    camera, spikes = Event([0, 3], [1, 4], [0, 1], [0, end]), Event([0, 3], None, [0, 0], [0, end])
    span = drawing.film_span(camera, span)
    assert drawing.camera_frames(camera, span, 5)[-1, 4 * 7, 3 * 7] == drawing.PALETTE.event + len(drawing.AGES)
    with_last, without = (raster_frames(event, span, 5) for event in (spikes, Event([0], None, [0], [0])))
    row = slice(CLOCK + 3 * 22, CLOCK + 4 * 22)  # of neuron 3
    ticks = (with_last[:, row, :342] != without[:, row, :342]).any((1, 2))  # the panel, without the counts
    assert ticks.nonzero()[0].tolist() == [79]


def test_order_of_the_events_does_not_matter():
    event = recording(500)
    order = np.random.default_rng(1).permutation(500)
    other = Event(event.x[order], event.y[order], event.c[order], event.t[order])
    assert gif_bytes(other) == gif_bytes(event)


def test_the_time_bar_grows_to_its_full_length():
    frames, _, _ = decode_gif(gif_bytes(recording(300), span=300))
    bar = (frames[:, 34 * 7 + 10] == rgb(SLATE)).all(-1)[:, :188].sum(1)
    assert (np.diff(bar) > 0).all()
    assert bar[29] == pytest.approx(bar[-1] / 2, abs=1)


def test_sizes_of_camera_pictures():
    assert drawing.camera_frames(recording(), 10, 5).shape == (2, 258, 238)
    assert drawing.camera_frames(recording(), 10, 5, scale=3).shape == (2, 34 * 3 + 20, 34 * 3)
    wide = Event([127], [9], [0], [0])
    assert drawing.camera_frames(wide, 5, 5).shape == (1, 34 * 2 + 20, 128 * 2)
    assert drawing.camera_frames(tensor_to_event(np.zeros((2, 16, 16, 10))), 5, 5).shape == (1, 16 * 15 + 20, 16 * 15)


def test_number_of_frames_follows_from_the_span():
    count = lambda event, **options: len(decode_gif(gif_bytes(event, **options))[0])  # noqa: E731
    assert count(recording(span=335)) == 60  # only 300 ms, after which a real recording has few events
    assert count(recording(span=150)) == 60
    assert count(Event([0], [0], [0], [700.0])) == 140
    assert count(tensor_to_event(np.eye(4)[None, None])) == 1
    assert count(output(steps=100)[0]) == 20
    assert count(recording(), span=120, frame_ms=10) == 12


# -- a raster


def test_ticks_appear_in_the_row_and_at_the_time_of_their_spike():
    spikes = np.zeros((1, 10, 100))
    spikes[0, 2, 20] = spikes[0, 7, 60] = 1
    frames, _, _ = decode_gif(gif_bytes(tensor_to_event(spikes), frame_ms=10, width=300))
    ink = (frames == rgb(INK)).all(-1)
    top, row, left, plot = CLOCK, 22, 22, 300 - 22 - 78
    cells = ink[:, top : top + 10 * row, left : left + plot].reshape(10, 10, row, plot).any(2)  # frame, neuron, column
    visible = {n: np.flatnonzero(cells[:, n].any(1)).tolist() for n in range(10)}
    assert visible == {n: {2: list(range(2, 10)), 7: list(range(6, 10))}.get(n, []) for n in range(10)}
    for neuron, t in ((2, 20), (7, 60)):
        columns = np.flatnonzero(cells[-1, neuron])
        assert columns[0] == pytest.approx((plot - 1) * t / 100, abs=1)
        assert len(columns) == 2


def test_the_cursor_moves_at_a_constant_speed():
    event = tensor_to_event(np.zeros((1, 10, 100)))
    frames = raster_frames(event, 100, 10, width=300)
    cursor = [np.flatnonzero((frame[18 : 18 + 220, 22:222] == drawing.PALETTE["slate"]).all(0)) for frame in frames]
    assert [len(columns) for columns in cursor] == [1] * 10
    assert np.diff([columns[0] for columns in cursor]).tolist() == pytest.approx([20] * 9, abs=1)


def test_bars_of_spike_counts_grow_and_the_true_class_has_its_own_colour():
    event, spikes = output()
    frames = raster_frames(event, 300, 5, label=3)
    bars = frames[:, 18 : 18 + 220, 420 - 78 + 8 :].reshape(60, 10, 22, -1)
    accent = (bars == drawing.PALETTE["true"]).sum((2, 3))
    assert (np.delete(accent, 3, 1) == 0).all()
    assert (np.diff(accent[:, 3]) >= 0).all()
    assert accent[-1, 3] > 0
    lengths = (bars[-1, :, 11] != drawing.PALETTE["paper"]).sum(1)
    counts = spikes.sum(1)
    others = np.delete(np.arange(10), 3)
    per_spike = lengths[others] / counts[others]  # pixels per spike: equal for all classes, except for rounding
    assert per_spike.max() * counts[others].min() - per_spike.min() * counts[others].min() <= 2


def test_heights_of_rasters_of_hidden_layers_and_several_channels():
    hidden = tensor_to_event(np.random.default_rng(0).random((1, 512, 50)) < 0.01)
    assert raster_frames(hidden, 50, 10).shape[1] == 18 + 512 + 20
    two = tensor_to_event(np.ones((2, 3, 4)))
    frames = raster_frames(two, 4, 4)
    assert frames.shape[1] == 18 + 6 * (220 // 6) + 20
    assert raster_frames(output()[0], 300, 5).shape[1] == drawing.camera_frames(recording(), 10, 5).shape[1]


def test_neurons_of_the_second_channel_are_drawn_below_those_of_the_first():
    spikes = np.zeros((2, 3, 10))
    spikes[1, 2, 4] = 1
    (frame,) = raster_frames(tensor_to_event(spikes), 10, 10)
    row = 220 // 6
    panel = frame[CLOCK : CLOCK + 6 * row, 22:-78].reshape(6, row, -1)
    assert (panel == drawing.PALETTE["ink"]).any((1, 2)).tolist() == [False] * 5 + [True]


def test_a_raster_shows_no_spike_before_its_beginning():
    before, without = Event([3, 5], None, [0, 0], [-2.0, 7.0]), Event([5], None, [0], [7.0])
    assert np.array_equal(raster_frames(before, 10, 5), raster_frames(without, 10, 5))


def test_the_longest_bar_is_dark_and_the_true_class_has_its_count_as_well():
    spikes = np.zeros((1, 10, 20))
    for neuron, count in ((1, 5), (4, 9), (7, 3)):
        spikes[0, neuron, :count] = 1
    (plain,), (labelled,) = (raster_frames(tensor_to_event(spikes), 20, 20, label=label) for label in (None, 7))
    bars = plain[CLOCK : CLOCK + 220, 420 - 78 + 8 :].reshape(10, 22, -1)
    assert [n for n in range(10) if drawing.PALETTE["ink"] in bars[n]] == [4]
    assert [n for n in range(10) if drawing.PALETTE["line"] in bars[n]] == [1, 7]
    numbers = (labelled[CLOCK : CLOCK + 220, 420 - 78 + 8 :] > drawing.PALETTE.text).reshape(10, -1).any(1)
    assert np.flatnonzero(numbers).tolist() == [4, 7]


@pytest.mark.parametrize("neurons", [10, 512])
@pytest.mark.parametrize("label", [None, 3])
@pytest.mark.parametrize("span", [300.0, 310.0])
def test_the_clock_of_a_raster_stands_above_it_and_every_tick_has_its_number(neurons, label, span):
    event = tensor_to_event(np.zeros((1, neurons, 300)))
    frames = raster_frames(event, span, 10, label=label)
    right = 78 if neurons == 10 else 38
    above, below = frames[:, :CLOCK], frames[:, -drawing.BAR :]
    assert (above[1:] != above[:-1]).any((1, 2)).all(), "the clock changes in every frame"
    assert not above[..., -right:].any(), "it ends where the plot ends"
    assert (below == below[0]).all(), "the axis does not change"
    marks = np.flatnonzero(below[0, 0] == drawing.PALETTE["slate"])
    assert len(marks) == 4  # 0, 100, 200 and 300 ms
    for mark in marks:
        assert below[0, 5:, mark - 3 : mark + 4].any()
    unit = drawing._glyphs("ms", 11)
    after = below[0, :, marks[-1] + 12 : marks[-1] + 16 + unit.shape[1]]
    assert (after > drawing.PALETTE.text).sum() == (unit > drawing.PALETTE.text).sum()
