"""Test the pictures of recordings: frames, the size and speed of gifs, tables of gifs, and matplotlib's animations."""

import base64
import errno
import io
import os
import re
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from nmnist_helpers.pictures import frames as drawing

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import animation  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402

from nmnist_helpers.camera import simulate  # noqa: E402
from nmnist_helpers.io import Event, read_2d_spikes, tensor_to_event  # noqa: E402
from nmnist_helpers.pictures import (  # noqa: E402
    gif_bytes,
    gif_table,
    save_gif,
)
from nmnist_helpers.pictures.palette import INK, OFF, ON, SLATE  # noqa: E402
from nmnist_helpers.pictures.raster import CLOCK, raster_frames  # noqa: E402


def rgb(color):
    return tuple(round(255 * part) for part in to_rgb(color))


def decode_gif(data):
    """Return the frames [F, H, W, 3] of a gif, their durations in ms and the number of repetitions (0: endless)."""
    gif = Image.open(io.BytesIO(data))
    frames, times = [], []
    for f in range(gif.n_frames):
        gif.seek(f)
        frames.append(np.asarray(gif.convert("RGB")))
        times.append(gif.info["duration"])
    return np.stack(frames), times, gif.info.get("loop")


def recording(n=4100, seed=0, span=300):
    """Return `n` random events, by default as many as a real recording has, most of them where a digit would be."""
    rng = np.random.default_rng(seed)
    x, y = np.clip(np.rint(rng.normal(17, 6, (2, n))), 0, 33).astype(int)
    return Event(x, y, rng.integers(0, 2, n), np.sort(rng.random(n) * span))


def output(seed=0, steps=300, label=3):
    """Return random spikes of ten outputs as an `Event` and as an array [10, T]; the true class fires most."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((1, 10, steps)) < 0.02
    spikes[0, label] = rng.random(steps) < 0.2
    return tensor_to_event(spikes.astype(np.float32)), spikes[0]


# ---- frames of a camera's recording


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


# ---- frames of a raster


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


def test_silent_outputs_make_a_gif():
    data = gif_bytes(tensor_to_event(np.zeros((1, 10, 300))))
    frames, _, _ = decode_gif(data)
    assert len(frames) == 60
    assert len(gif_bytes(Event([], None, [], []))) > 1000
    assert len(gif_bytes(Event([], [], [], []))) > 1000


def test_heights_of_rasters_of_hidden_layers_and_several_channels():
    hidden = tensor_to_event(np.random.default_rng(0).random((1, 512, 50)) < 0.01)
    assert raster_frames(hidden, 50, 10).shape[1] == 18 + 512 + 20
    two = tensor_to_event(np.ones((2, 3, 4)))
    frames = raster_frames(two, 4, 4)
    assert frames.shape[1] == 18 + 6 * (220 // 6) + 20
    assert raster_frames(output()[0], 300, 5).shape[1] == drawing.camera_frames(recording(), 10, 5).shape[1]


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


# ---- size and speed


def test_gifs_are_small_and_fast():
    """A gif takes less than 200 kB and 0.3 s (best of three runs, because other programs may be running)."""
    for event in (recording(), output()[0]):
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            data = gif_bytes(event)
            seconds.append(time.perf_counter() - began)
        assert len(data) < 200_000
        assert min(seconds) < 0.3


@pytest.mark.skipif(not os.environ.get("NMNIST_DATA"), reason="NMNIST_DATA names no folder of recordings")
def test_gifs_of_real_recordings_are_small():
    paths = Path(os.environ["NMNIST_DATA"]).glob("T*/*/*.bin")
    paths = sorted(paths, key=lambda path: path.stat().st_size)[-8:]  # those with the most events
    assert max(len(gif_bytes(read_2d_spikes(path))) for path in paths) < 200_000


def test_the_same_recording_gives_the_same_bytes():
    assert gif_bytes(recording()) == gif_bytes(recording())


# ---- files and tables


def test_save_gif_creates_the_folder_and_leaves_no_other_file(tmp_path):
    path = save_gif(recording(200), tmp_path / "new" / "a.gif", frame_ms=20)
    assert path == tmp_path / "new" / "a.gif"
    assert path.read_bytes() == gif_bytes(recording(200), frame_ms=20)
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]


def test_gif_errors(tmp_path):
    event = recording(10)
    with pytest.raises(ValueError, match=r"ends in \.gif, found a\.png"):
        save_gif(event, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"show for 20 ms to a minute .* found 1 \* 1"):
        gif_bytes(event, frame_ms=1, slowdown=1)
    with pytest.raises(ValueError, match="positive span in ms, found 0"):
        gif_bytes(event, span=0)
    with pytest.raises(ValueError, match="at most 2000 frames"):
        gif_bytes(event, span=1e6)
    event.extent = (2, 4, 4, 300.0)
    with pytest.raises(ValueError, match="sensor of 4 x 4 pixels, found one at"):
        gif_bytes(event)
    out, _ = output()
    with pytest.raises(ValueError, match=r"label in 0\.\.9, found 10"):
        gif_bytes(out, label=10)
    with pytest.raises(ValueError, match="width of at least 150 pixels, found 100"):
        gif_bytes(out, width=100)
    with pytest.raises(TypeError, match="gif: expected an Event, found Tensor; io.tensor_to_event"):
        gif_bytes(torch.zeros(2312, 300))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": -1000}, "hold of 0 ms to ten minutes, found -1000"),
        ({"hold": float("nan")}, "hold of 0 ms to ten minutes, found nan"),
        ({"hold": float("inf")}, "hold of 0 ms to ten minutes, found inf"),
        ({"scale": -1}, "scale: expected a whole number from 1, found -1"),
        ({"scale": 0}, "scale: expected a whole number from 1, found 0"),
        ({"scale": 1.5}, "scale: expected a whole number from 1, found 1.5"),
        ({"scale": 4000}, "sides of at most 10000 pixels"),
        ({"scale": 200, "frame_ms": 1, "slowdown": 20}, "1,073,741,824 pixels in all frames, found 300 frames of"),
    ],
)
def test_invalid_sizes_and_times_of_gifs_raise(options, message):
    with pytest.raises(ValueError, match=message):
        gif_bytes(recording(10), **options)
    if "scale" in options and "frame_ms" not in options:
        with pytest.raises(ValueError, match=message):
            gif_bytes(output()[0], **options)
    with pytest.raises(ValueError, match="label: expected a whole number from 0, found 1.5"):
        gif_bytes(output()[0], label=1.5)
    with pytest.raises(ValueError, match="width: expected a whole number from 1, found 400.5"):
        gif_bytes(output()[0], width=400.5)


@pytest.mark.parametrize("shape", [(34, 4), (100, 10), (1, 1), (4, 34)])
def test_narrow_sensors_make_gifs(shape):
    spikes = np.zeros((2, *shape, 50), np.float32)
    spikes[1, -1, -1, 20] = 1
    film, *_ = decode_gif(gif_bytes(tensor_to_event(spikes)))
    assert len(film) > 1


def images(table):
    """Return the source and the alternative text of each picture in a table."""
    return re.findall(r'<img src="([^"]*)" alt="([^"]*)">', table.data)


def test_gif_table_embeds_the_pictures(tmp_path):
    path = save_gif(recording(50), tmp_path / "a.gif", frame_ms=50)
    out, _ = output(steps=100)
    table = gif_table(
        [[path, out], [str(path), path.read_bytes()]],
        header=["in", "<out>"],
        captions=[["a & b", ""], ["", "d"]],
    )
    found = images(table)
    assert len(found) == 4
    contents = [base64.b64decode(src.removeprefix("data:image/gif;base64,"), validate=True) for src, _ in found]
    assert contents[0] == contents[2] == contents[3] == path.read_bytes()
    assert contents[1] == gif_bytes(out)
    assert [alt for _, alt in found] == ["a &amp; b", "recording", "recording", "d"]
    assert "&lt;out&gt;" in table.data
    assert "<out>" not in table.data
    assert table.data.count("<tr>") == 3
    assert table.data.count("</td>") == 4


def test_gif_table_of_a_flat_row(tmp_path):
    path = save_gif(recording(50), tmp_path / "a.gif", frame_ms=50)
    table = gif_table([path, path, path], captions=["a", "b", "c"])
    assert table.data.count("<tr>") == 1
    assert [alt for _, alt in images(table)] == ["a", "b", "c"]
    assert gif_table(iter([path, path, path]), captions=iter("abc")).data == table.data
    assert gif_table(zip([path], [path], [path], strict=True), captions=[["a", "b", "c"]]).data == table.data
    described = gif_table([path, path], captions=["a", "b"], alts=["a 3 & its events", ""])
    assert [alt for _, alt in images(described)] == ["a 3 &amp; its events", "recording"]
    assert "<br>a<" in described.data


def test_gif_table_errors(tmp_path):
    with pytest.raises(ValueError, match=r"captions in rows of \[2\], found \[1\]"):
        gif_table([b"GIF89a", b"GIF89a"], captions=["one"])
    with pytest.raises(ValueError, match=r"alternative texts in rows of \[2\], found \[1\]"):
        gif_table([b"GIF89a", b"GIF89a"], alts=["one"])
    with pytest.raises(ValueError, match="2 column heads, found 1"):
        gif_table([b"GIF89a", b"GIF89a"], header=["one"])
    (tmp_path / "a.gif").write_text("<svg>")
    with pytest.raises(ValueError, match=r"a\.gif: picture: expected gif, png or jpeg, found b'<svg' at its start"):
        gif_table([tmp_path / "a.gif"])


# ---- matplotlib


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_anim_shows_the_events_of_a_camera(tmp_path):
    event = Event([2, 30, 2], [5, 8, 5], [1, 0, 0], [12.0, 22.0, 41.0])
    anim = event.anim(plt.figure(figsize=(2, 2)), frame_rate=100)
    assert isinstance(anim, animation.FuncAnimation)
    assert not plt.get_fignums()  # a notebook would show an open figure as a still picture
    anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=24), dpi=40)
    with Image.open(tmp_path / "a.gif") as gif:
        assert 3 <= gif.n_frames <= 4  # 10 ms each, from 12 to 41 ms; Pillow merges equal frames
    (image,) = anim._fig.axes[0].images
    shown = {f: pixel_colors(anim, image, f) for f in (1, 2, 3, 4)}
    assert shown[1][5, 2] == rgb(ON)
    assert shown[2][8, 30] == rgb(OFF)
    assert (shown[3].reshape(-1)[0], len(set(shown[3].reshape(-1)))) == (rgb(drawing.PANEL), 1)
    assert shown[4][5, 2] == rgb(OFF)


def pixel_colors(anim, image, f):
    """Return the colours of the sensor's pixels in frame `f` as an array [H, W] of tuples."""
    anim._func(f)
    colors = image.to_rgba(image.get_array(), bytes=True)[..., :3]
    found = np.empty(colors.shape[:2], object)
    for at in np.ndindex(found.shape):
        found[at] = tuple(colors[at].tolist())
    return found


def test_frames_are_the_same_with_and_without_pre_computing():
    event = recording(300)
    anims = [event.anim(plt.figure(), 100, pre_compute_frames=now) for now in (True, False)]
    for f in (0, 7, 29):
        a, b = (pixel_colors(anim, anim._fig.axes[0].images[0], f) for anim in anims)
        assert (a == b).all()
    for anim in anims:
        anim._draw_was_started = True  # suppress matplotlib's warning about animations that were never drawn


def test_anim_of_a_raster_adds_spikes_over_time(tmp_path):
    event, spikes = output(steps=50)
    anim = event.anim(plt.figure(figsize=(4, 2)), frame_rate=100)
    anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=24), dpi=40)
    (marks,) = anim._fig.axes[0].collections
    for f in (0, 2, 4):
        anim._func(f)
        assert len(marks.get_offsets()) == spikes[:, : 10 * (f + 1)].sum()
    assert decode_gif((tmp_path / "a.gif").read_bytes())[1][-1] == 80  # the last of five frames is shown twice
    low, high = sorted(anim._fig.axes[0].get_ylim())
    assert low < 0
    assert high > 9
    assert anim._fig.axes[0].get_xlim()[1] > 50


def test_an_animated_raster_has_a_row_for_each_neuron_of_each_channel():
    spikes = np.zeros((2, 3, 10))
    spikes[0, 1, 2] = spikes[1, 1, 5] = 1
    film = tensor_to_event(spikes).anim(plt.figure())
    film._draw_was_started = True  # no warning that it was never drawn
    scene = film.scene
    assert scene.places.tolist() == [[2, 1], [5, 4]]
    assert scene.ax.get_ylim() == (5.5, -0.5)


def test_marks_of_graded_spikes_are_proportional_to_their_size():
    event = Event([0, 1], None, [0, 0], [1.0, 2.0], payload=[1.0, -4.0])
    anim = event.anim(frame_rate=100)
    anim._func(0)
    small, large = anim._fig.axes[0].collections[0].get_sizes()
    assert large == pytest.approx(4 * small)
    anim._draw_was_started = True


def test_silent_recordings_can_be_animated(tmp_path):
    for event in (tensor_to_event(np.zeros((1, 10, 30))), Event([], [], [], [])):
        event.anim(plt.figure()).save(tmp_path / "a.gif", animation.PillowWriter(fps=24), dpi=30)
        assert (tmp_path / "a.gif").stat().st_size > 100


def decorated_anim(event):
    """Return an animation on a figure that also has a title, a text over the events, and a second plot."""
    fig = plt.figure(figsize=(4, 3))
    axes = fig.subplots(1, 2)
    axes[1].plot([1, 3, 2], "g--", label="more")
    axes[1].legend()
    plt.sca(axes[0])
    anim = event.anim(fig, frame_rate=100)
    fig.suptitle("a title")
    axes[0].text(0.4, 0.5, "text", transform=axes[0].transAxes, color="tab:purple", alpha=0.5, size=20)
    axes[0].grid(True)
    return anim


def simple_anim(event):
    return event.anim(plt.figure(figsize=(3, 3)), frame_rate=100)


def zoomed_anim(event):
    anim = event.anim(plt.figure(figsize=(3, 3), layout="constrained"), frame_rate=100)
    anim._fig.axes[0].set(xlim=(8.3, 21.1))
    return anim


def save_with_matplotlib(anim, path, dpi):
    animation.FuncAnimation.save(anim, path, animation.PillowWriter(fps=20), dpi=dpi)
    return decode_gif(path.read_bytes())


RECORDINGS = {"camera": recording(2000, span=100), "raster": output(steps=100)[0]}


@pytest.mark.parametrize(
    ("event", "make"),
    [
        ("camera", simple_anim),
        ("camera", decorated_anim),
        pytest.param("raster", zoomed_anim, marks=pytest.mark.slow),
        pytest.param("camera", zoomed_anim, marks=pytest.mark.slow),
        pytest.param("raster", simple_anim, marks=pytest.mark.slow),
        pytest.param("raster", decorated_anim, marks=pytest.mark.slow),
    ],
)
def test_composed_gifs_look_like_those_of_matplotlib(tmp_path, event, make):
    """Frames differ by under 0.5 of 255 on average, and by over 32 in under 0.1 % of the pixels: the cursor's edges."""
    event = RECORDINGS[event]
    expected, durations, loop = save_with_matplotlib(make(event), tmp_path / "slow.gif", 80)
    calls = []
    make(event).save(
        tmp_path / "a.gif",
        animation.PillowWriter(fps=20),
        dpi=80,
        progress_callback=lambda n, of: calls.append((n, of)),
    )
    found, times, repeats = decode_gif((tmp_path / "a.gif").read_bytes())
    assert found.shape == expected.shape
    assert (times, repeats) == (durations, loop)
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean((1, 2, 3)).max() < 0.5
    assert (difference.max(-1) > 32).mean((1, 2)).max() < 1e-3
    drawn = 10 + 2 * (event.dim == 1)  # frames of 10 ms; a raster shows its last one twice more
    assert calls == [(n, drawn) for n in range(drawn)]  # the gif has fewer, because equal ones are merged
    assert (tmp_path / "a.gif").stat().st_size < 0.7 * (tmp_path / "slow.gif").stat().st_size
    # Successive frames differ by far more than that, so the comparison would detect missing events.
    assert np.abs(np.diff(expected.astype(int), axis=0)).mean((1, 2, 3)).max() > 3 * difference.mean()


def colourful_anim(event):
    anim = decorated_anim(event)
    anim._fig.axes[1].imshow(np.random.default_rng(0).random((60, 60, 3)))
    return anim


def transparent_anim(event):
    anim = simple_anim(event)
    anim._fig.set_facecolor("none")
    return anim


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (colourful_anim, {}),
        (transparent_anim, {}),
        (simple_anim, {"savefig_kwargs": {"facecolor": "tab:pink"}}),
        (simple_anim, {"extra_anim": []}),
    ],
)
def test_matplotlib_writes_gifs_that_cannot_be_composed(tmp_path, make, options):
    event = recording(200, span=40)
    animation.FuncAnimation.save(make(event), tmp_path / "slow.gif", animation.PillowWriter(fps=20), dpi=50, **options)
    make(event).save(tmp_path / "a.gif", animation.PillowWriter(fps=20), dpi=50, **options)
    expected, found = ((decode_gif((tmp_path / name).read_bytes())[0]).astype(int) for name in ("slow.gif", "a.gif"))
    assert np.abs(found - expected).mean() < 0.5


def test_other_writers_and_formats(tmp_path):
    anim = simple_anim(recording(200, span=40))
    assert anim.to_jshtml(fps=10).count("data:image/png") == 4
    anim.save(tmp_path / "c.html", animation.HTMLWriter(fps=10, embed_frames=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c_frames"]
    anim.save(tmp_path / "a.webp", animation.PillowWriter(fps=10), dpi=40)
    assert Image.open(tmp_path / "a.webp").n_frames == 4
    anim.save(tmp_path / "b.gif", "pillow", fps=10, dpi=40)
    _, times, _ = decode_gif((tmp_path / "b.gif").read_bytes())
    assert times == [100] * 4
    with pytest.raises(RuntimeError, match="fps"):  # matplotlib's own error
        anim.save(tmp_path / "c.gif", animation.PillowWriter(fps=10), fps=5)
    assert not (tmp_path / "c.gif").exists()


def test_a_failed_save_leaves_no_file(tmp_path, monkeypatch):
    def raise_disk_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    anim = simple_anim(recording(50, span=20))
    monkeypatch.setattr(Path, "write_bytes", raise_disk_full)
    with pytest.raises(OSError, match=r"No space left|disk full"):
        anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=10), dpi=40)
    assert not list(tmp_path.iterdir())


def test_saving_does_not_change_the_figure(tmp_path):
    for event in (recording(50, span=20), output(steps=20)[0]):
        anim = simple_anim(event)
        fig = anim._fig
        before = fig.canvas, fig.dpi
        anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=10), dpi=70)
        assert (fig.canvas, fig.dpi) == before
        assert not any(artist.get_animated() or not artist.get_visible() for artist in anim.scene.moving)
        first = (tmp_path / "a.gif").read_bytes()
        anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=10), dpi=70)
        assert (tmp_path / "a.gif").read_bytes() == first


def test_the_tutorials_gif_is_small_and_fast(tmp_path):
    """At 300 dpi, the gif takes less than half of matplotlib's 900 kB and a tenth of its time."""
    seven = np.zeros((1, 28, 28), np.uint8)
    seven[0, 5:8, 7:20] = 255
    for row in range(8, 24):
        seven[0, row, 20 - row // 2 : 23 - row // 2] = 255
    x, y, p, t = simulate(seven).recording(0)
    anim = Event(x, y, p, t / 1000).anim(plt.figure(figsize=(5, 5)), frame_rate=240)
    began = time.process_time()
    anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=24), dpi=300)
    assert time.process_time() - began < 3
    assert Image.open(tmp_path / "a.gif").size == (1500, 1500)
    assert 100_000 < (tmp_path / "a.gif").stat().st_size < 400_000


def test_frame_rate_must_be_positive():
    with pytest.raises(ValueError, match="frame_rate: expected a positive number .* found 0"):
        recording(5).anim(frame_rate=0)


def test_show_opens_a_window_that_keeps_its_animation():
    fig = plt.figure()
    assert recording(20).show(fig) is None
    assert isinstance(fig.nmnist_film, animation.FuncAnimation)


def test_show_in_a_notebook_displays_a_gif(monkeypatch):
    shown = []
    monkeypatch.setattr("nmnist_helpers.pictures.animation._inline", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    recording(100).show(plt.figure(), frame_rate=240)
    assert not plt.get_fignums()
    ((source, alt),) = images(shown[0])
    assert alt == "film: the events of a recording"
    frames, times, loop = decode_gif(base64.b64decode(source.split(",")[1]))
    assert len(frames) == 72  # 1000 / 240 ms each
    assert times[0] == 40
    assert loop == 0


def test_gifs_leave_out_events_before_the_first_pixel_and_round_fractions():
    """A negative index would draw the event at the other edge."""
    inside = Event([3, 5], [2, 7], [1, 0], [1.0, 9.0])
    beside = Event([3.2, -1, 4.9, 5], [1.9, 2, 7, -4], [1, 1, 0, 0], [1.0, 2.0, 9.0, 9.5])
    assert gif_bytes(beside) == gif_bytes(inside)


def test_events_beyond_the_extent_raise_an_error():
    camera, outputs = np.zeros((2, 34, 34, 10), np.float32), np.zeros((1, 10, 10), np.float32)
    camera[0, 3, 30, 2] = outputs[0, 8, 2] = 1
    for volume, message in (
        (camera, "34 x 34 pixels, found one at"),
        (outputs, "1 x 10 neurons, found one of channel 0"),
    ):
        event = tensor_to_event(volume)
        event.x = event.x + 5
        for draw in (gif_bytes, Event.anim) if volume is camera else (gif_bytes,):
            with pytest.raises(ValueError, match=f"gif: expected events o.*{message}"):
                draw(event)
        plt.close("all")


@pytest.mark.parametrize(
    ("rate", "texts"), [(100, ["10 ms", "20 ms", "30 ms"]), (240, ["0 ms", "0 ms", "0 ms", "0 ms", "20 ms"])]
)
def test_the_clock_of_an_animation_shows_its_time(rate, texts):
    event = Event([1, 1], [1, 1], [0, 0], [0.0, 299.0])
    film = event.anim(plt.figure(), frame_rate=rate)
    film._draw_was_started = True  # no warning that nothing was drawn
    assert [film.scene.time(f) for f in range(len(texts))] == texts


def test_an_animation_of_too_many_frames_is_refused():
    with pytest.raises(ValueError, match=r"frame_rate: expected at most 10000 frames, found 2\.99e\+08"):
        Event([1, 1], [1, 1], [0, 0], [0.0, 299.0]).anim(plt.figure(), frame_rate=1e9)
    plt.close("all")
