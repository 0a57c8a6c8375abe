"""Small gifs of recordings.

`frames` and `raster` draw with few colours, so that a gif needs less than a tenth of a second and less than 200 kB.
`animation` makes matplotlib animations of the same recordings.
"""

import io
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..checks import as_number
from ..files import atomic
from .frames import PALETTE, PICTURE, Recording, camera_frames, film_span
from .raster import raster_frames


def gif_bytes(
    event: Recording,
    *,
    frame_ms: float = 5.0,
    slowdown: float = 10.0,
    span: float | None = None,
    hold: float = 600.0,
    **options,
) -> bytes:
    """Draw a recording as a gif that loops forever.

    Parameters
    ----------
    event : Event
        `camera_frames` draws a 2-D recording, `raster_frames` a 1-D one.
    frame_ms : float
        ms of the recording in one frame.
    slowdown : float
        ms of film per ms of the recording; a frame is shown for ``frame_ms * slowdown``, at least 20 ms.
    span : float, optional
        ms of the recording to show. By default, this is the length of the tensor from which the events come, so that
        gifs of inputs and outputs stay in step. Without such a length, it is 300 ms, or up to the last event if that
        is later than 350 ms (real recordings end shortly after 300 ms).
    hold : float
        Additional ms for which the last frame is shown.
    **options
        Options of `camera_frames` (`scale`) or `raster_frames` (`scale`, `label`, `width`).

    Returns
    -------
    bytes
        The file's contents.

    Raises
    ------
    ValueError
        If a size or a time is not valid for a film.
    TypeError
        If `event` is no recording.

    Examples
    --------
    >>> data = gif_bytes(event)                 # 300 ms in 3 s
    >>> data = gif_bytes(output_event, label=7)
    """
    if not hasattr(event, "rounded"):
        raise TypeError(f"gif: expected an Event, found {type(event).__name__}; io.tensor_to_event makes one of spikes")
    event = event.rounded()
    span = film_span(event, span)
    check_pace(span, frame_ms, slowdown, hold)
    draw = camera_frames if event.dim == 2 else raster_frames
    return loop(draw(event, span, frame_ms, **options), frame_ms * slowdown, hold)


def check_pace(span: float, frame_ms: float, slowdown: float, hold: float) -> None:
    """Raise ValueError if a film of `span` ms has too many frames, or frames that show too briefly or too long."""
    if not 0 <= as_number(hold) <= 600_000:
        raise ValueError(f"gif: expected a hold of 0 ms to ten minutes, found {hold!r}")
    if not as_number(frame_ms) > 0 or not 20 <= as_number(frame_ms) * as_number(slowdown) <= 60_000:
        found = f"{frame_ms!r} * {slowdown!r}"
        raise ValueError(f"gif: expected frames that show for 20 ms to a minute (frame_ms * slowdown), found {found}")
    if span / frame_ms > 2000:
        raise ValueError(f"gif: expected at most 2000 frames, found {span:g} ms / {frame_ms:g} ms; raise frame_ms")


def loop(film: np.ndarray, pace: float, hold: float) -> bytes:
    """Pack a film [F, H, W] of palette numbers; a frame shows for `pace` ms, the last one for `hold` ms more."""
    pace = 10 * max(2, round(pace / 10))  # browsers slow down anything below 20 ms
    return pack(film, PALETTE.data, [pace] * (len(film) - 1) + [pace + 10 * round(hold / 10)])


def pack(pictures: Iterable[np.ndarray], palette: bytes, times: Sequence[float]) -> bytes:
    """Pack pictures into a gif that loops forever, storing only changed rectangles and merging equal frames.

    Parameters
    ----------
    pictures : iterable of uint8 arrays [H, W]
        Palette numbers.
    palette : bytes
        Red, green and blue of each colour.
    times : sequence of float
        ms for which each picture is shown; a gif counts in steps of 10 ms.

    Returns
    -------
    bytes
        The file's contents.
    """
    bits = max(2, (len(palette) // 3 - 1).bit_length())
    frames: list[list] = []  # duration in ms, image block
    shown = np.empty((0, 0), np.uint8)
    for picture, time in zip(pictures, times, strict=True):
        changed = picture != shown if frames else np.ones(picture.shape, bool)
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        if not rows.size:
            frames[-1][0] += time
            continue
        (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
        part = picture[top : bottom + 1, left : right + 1]
        image = Image.frombytes("P", part.shape[::-1], part.tobytes())
        head = struct.pack("<B4H2B", 0x2C, left, top, *image.size, 0, bits)
        frames.append([time, head + image.tobytes("gif", "P", bits) + b"\0"])
        shown = picture
    screen = struct.pack("<2H3B", *shown.shape[::-1], 0xF0 | (bits - 1), 0, 0) + palette.ljust(3 << bits, b"\0")
    endless = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    blocks = [
        struct.pack("<4BH2B", 0x21, 0xF9, 4, 4, min(int(time / 10), 0xFFFF), 0, 0) + block for time, block in frames
    ]
    return b"GIF89a" + screen + endless + b"".join(blocks) + b";"


def ink_png(drawing: np.ndarray) -> bytes:
    """Draw ink (uint8 [H, W], bright on black as in MNIST) dark on white, at the size of a camera's gif.

    Returns
    -------
    bytes
        The contents of a png file, 238 pixels high, enlarged without smoothing.

    Raises
    ------
    ValueError
        If the drawing has another shape or type.
    """
    drawing = np.asarray(drawing)
    if drawing.ndim != 2 or drawing.size == 0 or drawing.dtype != np.uint8:
        raise ValueError(f"drawing: expected uint8 [H, W], found {drawing.dtype} {list(drawing.shape)}")
    height, width = drawing.shape
    size = round(PICTURE * width / height), PICTURE
    file = io.BytesIO()
    Image.fromarray(255 - drawing).resize(size, Image.Resampling.NEAREST).save(file, "png")
    return file.getvalue()


def save_gif(event: Recording, path: str | os.PathLike, **options) -> Path:
    """Write a recording as a gif that loops forever; the options are those of `gif_bytes`.

    Returns
    -------
    Path
        The file, which appears complete or not at all.

    Raises
    ------
    ValueError
        If the file's name does not end in .gif, and under the conditions of `gif_bytes`.

    Examples
    --------
    >>> save_gif(slayer.io.read_2d_spikes('data/Test/7/00602.bin'), GIFS / 'seven.gif')
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"save_gif: expected a file name that ends in .gif, found {os.fspath(path)!r}")
    data = gif_bytes(event, **options)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path
