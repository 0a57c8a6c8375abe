"""Test gifs: their size and speed, their files, tables of them, and what is refused."""

import base64
import io
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from support.films import decode_gif, images, output, recording

from nmnist_helpers.io import Event, read_2d_spikes, tensor_to_event
from nmnist_helpers.pictures import (
    gif_bytes,
    gif_table,
    ink_png,
    save_gif,
)
from nmnist_helpers.pictures.gif import pack


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


def test_silent_outputs_make_a_gif():
    data = gif_bytes(tensor_to_event(np.zeros((1, 10, 300))))
    frames, _, _ = decode_gif(data)
    assert len(frames) == 60
    assert len(gif_bytes(Event([], None, [], []))) > 1000
    assert len(gif_bytes(Event([], [], [], []))) > 1000


@pytest.mark.parametrize("shape", [(34, 4), (100, 10), (1, 1), (4, 34)])
def test_narrow_sensors_make_gifs(shape):
    spikes = np.zeros((2, *shape, 50), np.float32)
    spikes[1, -1, -1, 20] = 1
    film, *_ = decode_gif(gif_bytes(tensor_to_event(spikes)))
    assert len(film) > 1


def test_equal_pictures_are_one_frame_that_shows_as_long():
    dark, dot = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    dot[1, 4] = 1
    frames, times, _ = decode_gif(pack([dark, dark, dot, dark, dark, dark], b"\0\0\0\xff\0\0", range(20, 80, 10)))
    assert times == [50, 40, 180]
    assert [np.argwhere(frame).tolist() for frame in frames] == [[], [[1, 4, 0]], []]
    _, times, _ = decode_gif(pack([dark, dot], b"\0\0\0\xff\0\0", [20, 660_000]))
    assert times == [20, 655_350], "a gif cannot hold a longer time"


def test_a_gif_may_have_256_colours():
    palette = np.random.default_rng(0).permutation(256 * 3).astype(np.uint8).reshape(256, 3)
    (frame,), _, _ = decode_gif(pack([np.arange(256, dtype=np.uint8).reshape(8, 32)], palette.tobytes(), [20]))
    assert np.array_equal(frame, palette.reshape(8, 32, 3))


def test_ink_is_dark_on_white():
    drawing = np.zeros((2, 4), np.uint8)
    drawing[0, 3], drawing[1, 0] = 255, 55
    found = np.asarray(Image.open(io.BytesIO(ink_png(drawing))))
    assert np.array_equal(found, (255 - drawing).repeat(119, 0).repeat(119, 1))


def test_gifs_leave_out_events_before_the_first_pixel_and_round_fractions():
    """A negative index would draw the event at the other edge."""
    inside = Event([3, 5], [2, 7], [1, 0], [1.0, 9.0])
    beside = Event([3.2, -1, 4.9, 5], [1.9, 2, 7, -4], [1, 1, 0, 0], [1.0, 2.0, 9.0, 9.5])
    assert gif_bytes(beside) == gif_bytes(inside)


def test_save_gif_creates_the_folder_and_leaves_no_other_file(tmp_path):
    path = save_gif(recording(200), tmp_path / "new" / "a.gif", frame_ms=20)
    assert path == tmp_path / "new" / "a.gif"
    assert path.read_bytes() == gif_bytes(recording(200), frame_ms=20)
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]
    assert save_gif(recording(10), tmp_path / "B.GIF", frame_ms=50).name == "B.GIF"


def test_gif_errors(tmp_path):
    event = recording(10)
    with pytest.raises(ValueError, match=r"ends in \.gif, found '.*a\.png'"):
        save_gif(event, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"ends in \.gif, found '\.'"):
        save_gif(event, ".")
    with pytest.raises(ValueError, match=r"show for 20 ms to a minute .* found 1 \* 1"):
        gif_bytes(event, frame_ms=1, slowdown=1)
    with pytest.raises(ValueError, match=r"show for 20 ms to a minute .* found 5\.0 \* 12001"):
        gif_bytes(event, slowdown=12001)
    with pytest.raises(ValueError, match="positive span in ms, found 0"):
        gif_bytes(event, span=0)
    with pytest.raises(ValueError, match="at most 2000 frames"):
        gif_bytes(event, span=10_001)
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
    event = tensor_to_event(outputs)
    event.c = event.c + 1
    with pytest.raises(ValueError, match="gif: expected events of 1 x 10 neurons, found one of channel 1 or neuron 8"):
        gif_bytes(event)


# -- tables


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
    assert "<br>a &amp; b</td>" in table.data
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


def test_drawings_and_tables_of_another_kind_are_named():
    with pytest.raises(ValueError, match=r"drawing: expected uint8 \[H, W\], found float64 \[28, 28\]"):
        ink_png(np.zeros((28, 28)))
    with pytest.raises(ValueError, match=r"drawing: expected uint8 \[H, W\], found uint8 \[28\]"):
        ink_png(np.zeros(28, np.uint8))
    for single in ("x.gif", b"GIF89a", Path("x.gif")):
        with pytest.raises(TypeError, match="gif_table: expected a list, found a single .*; put it into a list"):
            gif_table(single)


@pytest.mark.parametrize("options", [{"frame_ms": "5"}, {"slowdown": None}, {"hold": "1"}, {"span": "300"}])
def test_times_of_gifs_are_numbers(options):
    with pytest.raises(ValueError, match="gif: expected"):
        gif_bytes(recording(10), **options)
