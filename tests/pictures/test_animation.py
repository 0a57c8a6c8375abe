"""Compare matplotlib's animations, which are composed here, with those that matplotlib draws."""

import base64
import errno
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import animation
from PIL import Image
from support.films import decode_gif, images, output, recording, rgb

from nmnist_helpers.camera import simulate
from nmnist_helpers.io import Event, tensor_to_event
from nmnist_helpers.pictures import frames as drawing
from nmnist_helpers.pictures.film import _key, _palette
from nmnist_helpers.pictures.palette import OFF, ON


def pixel_colors(anim, image, f):
    """Return the colours of the sensor's pixels in frame `f` as an array [H, W] of tuples."""
    anim._func(f)
    colors = image.to_rgba(image.get_array(), bytes=True)[..., :3]
    found = np.empty(colors.shape[:2], object)
    for at in np.ndindex(found.shape):
        found[at] = tuple(colors[at].tolist())
    return found


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


@pytest.mark.parametrize(
    ("rate", "texts"), [(100, ["10 ms", "20 ms", "30 ms"]), (240, ["0 ms", "0 ms", "0 ms", "0 ms", "20 ms"])]
)
def test_the_clock_of_an_animation_shows_its_time(rate, texts):
    event = Event([1, 1], [1, 1], [0, 0], [0.0, 299.0])
    film = event.anim(plt.figure(), frame_rate=rate)
    film._draw_was_started = True  # no warning that nothing was drawn
    assert [film.scene.time(f) for f in range(len(texts))] == texts


def test_frame_rate_must_be_positive():
    with pytest.raises(ValueError, match="frame_rate: expected a positive number .* found 0"):
        recording(5).anim(frame_rate=0)


def test_an_animation_of_too_many_frames_is_refused():
    with pytest.raises(ValueError, match=r"frame_rate: expected at most 10000 frames, found 2\.99e\+08"):
        Event([1, 1], [1, 1], [0, 0], [0.0, 299.0]).anim(plt.figure(), frame_rate=1e9)
    plt.close("all")


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


# -- saved


def simple_anim(event):
    return event.anim(plt.figure(figsize=(3, 3)), frame_rate=100)


def save_with_matplotlib(anim, path, dpi):
    animation.FuncAnimation.save(anim, path, animation.PillowWriter(fps=20), dpi=dpi)
    return decode_gif(path.read_bytes())


RECORDINGS = {"camera": recording(2000, span=100), "raster": output(steps=100)[0]}


def zoomed_anim(event):
    anim = event.anim(plt.figure(figsize=(3, 3), layout="constrained"), frame_rate=100)
    anim._fig.axes[0].set(xlim=(8.3, 21.1))
    return anim


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


def transparent_anim(event):
    anim = simple_anim(event)
    anim._fig.set_facecolor("none")
    return anim


def colourful_anim(event):
    anim = decorated_anim(event)
    anim._fig.axes[1].imshow(np.random.default_rng(0).random((60, 60, 3)))
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


def test_a_figure_is_the_same_after_its_film_is_saved(tmp_path):
    anim = simple_anim(recording(200, span=40))
    fig = anim._fig
    before = fig.canvas, fig.dpi, tuple(fig.get_size_inches())
    anim.save(tmp_path / "a.gif", animation.PillowWriter(fps=20), dpi=40)
    assert (fig.canvas, fig.dpi, tuple(fig.get_size_inches())) == before


@pytest.mark.parametrize(("colours", "alpha", "fits"), [(256, 255, True), (257, 255, False), (2, 254, False)])
def test_only_few_opaque_colours_fit_into_a_palette(colours, alpha, fits):
    rgb = 8 * np.stack(np.unravel_index(np.arange(colours), (32, 32, 32)), axis=-1)
    picture = np.append(rgb, np.full((colours, 1), alpha), axis=1).astype(np.uint8)[None]
    found = _palette([picture])
    assert (found is not None) == fits
    if found is not None:
        lookup, palette = found
        assert np.array_equal(np.frombuffer(palette, np.uint8).reshape(-1, 3)[lookup[_key(picture)][0]], rgb)


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
