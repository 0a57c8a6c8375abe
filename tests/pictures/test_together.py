"""Test the gif of a network: its synchronous panels, its legend, and the errors for wrong layers."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageSequence
from support.films import decode_gif

from nmnist_helpers.io import Event, tensor_to_event
from nmnist_helpers.pictures.palette import OFF, ON, SLATE, TRUE
from nmnist_helpers.pictures.together import COLUMNS, GAP, HEAD, grid_frames, network_gif

HIDDEN = 40  # neurons


def layers() -> list[Event]:
    """Return three layers: an ON event at 35 ms, a hidden neuron that fires at 41 ms, and output 7 at 52 ms."""
    camera, hidden, out = np.zeros((2, 34, 34, 300)), np.zeros((1, HIDDEN, 300)), np.zeros((1, 10, 300))
    camera[1, 5, 9, 35] = hidden[0, COLUMNS + 3, 41] = out[0, 7, 52] = 1
    return [tensor_to_event(part.astype(np.float32)) for part in (camera, hidden, out)]


def frames(data: bytes) -> np.ndarray:
    """Return the frames of a gif, uint8 [F, H, W, 3]."""
    return np.array([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(data)))])


def test_all_panels_show_the_same_time():
    shown = frames(network_gif(layers(), label=7))
    assert len(shown) == 30
    camera = shown[:, HEAD + 5 * 7 + 3, GAP + 9 * 7 + 3]
    hidden = shown[:, HEAD + 1 * 7 + 3, GAP + 238 + GAP + 3 * 7 + 3]
    assert [tuple(color) for color in camera].index(ImageColor.getrgb(ON)) == 3
    assert [tuple(color) for color in hidden].index(ImageColor.getrgb(SLATE)) == 4
    output = shown[:, HEAD + 8 : -40, GAP + 238 + GAP + COLUMNS * 7 + GAP + 30 : -80]
    ticks = (output == ImageColor.getrgb(TRUE)).all(-1).any((1, 2))
    assert ticks.argmax() == 5
    assert ticks[5:].all()


def test_frames_show_for_their_time_and_the_last_one_longer():
    _, times, _ = decode_gif(network_gif(layers(), frame_ms=20, slowdown=5, hold=300))
    assert times == [100] * 14 + [400]


def test_the_legend_names_the_true_class_where_there_is_one():
    row = -12  # crosses the legend's squares
    with_class, without = (frames(network_gif(layers(), label=label))[0][row] for label in (7, None))

    def squares(line):
        return [int((line == ImageColor.getrgb(color)).all(-1).sum()) for color in (ON, OFF, TRUE)]

    assert squares(with_class) == [10, 10, 10]
    assert squares(without) == [10, 10, 0]


def test_a_spike_marks_its_neuron_in_the_grid_and_fades():
    grid = grid_frames(layers()[1], 300, 10)[:, ::7, ::7]
    assert grid.shape == (30, 3, COLUMNS)
    marked = grid != grid[0, 0, 0]
    assert [tuple(map(int, place)) for place in np.argwhere(marked)] == [(f, 1, 3) for f in (4, 5, 6)]
    assert len(np.unique(grid[marked])) == 3


def test_neurons_of_several_channels_have_squares_of_their_own():
    spikes = np.zeros((20, 1, 30))
    spikes[:, 0, 15] = 1
    frame = grid_frames(tensor_to_event(spikes), 30, 10)[1, ::7, ::7]
    assert (frame != frame[1, -1]).sum() == 20
    assert frame.shape == (2, COLUMNS)


def test_layers_that_do_not_form_a_network_raise_an_error():
    recording, hidden, _ = layers()
    for wrong in ([recording], [hidden, hidden], [recording, recording]):
        with pytest.raises(ValueError, match="expected a 2-D recording and then 1-D layers"):
            network_gif(wrong)
    with pytest.raises(ValueError, match="expected an extent with the number of neurons"):
        grid_frames(Event(np.array([1]), None, np.array([0]), np.array([2.0])), 300, 10)


@pytest.mark.parametrize(
    "times", [{"frame_ms": 0}, {"frame_ms": -5}, {"slowdown": -1}, {"frame_ms": 0.1, "slowdown": 300}]
)
def test_times_that_make_no_film_raise_an_error(times):
    with pytest.raises(ValueError, match="gif: expected"):
        network_gif(layers(), **times)
