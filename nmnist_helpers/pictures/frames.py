"""Frames of small gifs with few colours: the palette, smooth text, and the events of a camera."""

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..checks import as_number, whole_number
from ..geometry import SIDE
from .palette import CHANNELS, INK, LINE, PANEL, PAPER, SLATE, TRUE

AGES = (1.0, 0.45, 0.18)  # strength of an event in its frame and the two after it
GREYS = 6  # steps from paper to ink, for smooth text
PICTURE = 238  # height of a picture in pixels: 34 sensor pixels, drawn as 7 pixels each
BAR = 20  # height of the time bar or the axis below it, in pixels
USUAL_SPAN = 300.0  # ms of a recording that networks take as input
USUAL_END = 350.0  # ms; N-MNIST's recordings end before it
CLASS_ROWS = 24  # layers of up to this many neurons get labels and counts
MAX_SIDE = 10_000  # pixels; a gif could have 65,535
MAX_PIXELS = 1 << 30  # of all frames together; each takes a byte of memory


def _mix(color: str, ground: str, share: float) -> np.ndarray:
    return np.array(ImageColor.getrgb(color)) * share + np.array(ImageColor.getrgb(ground)) * (1 - share)


class Palette:
    """Numbered colours: single colours have names, and there are ramps for text and for fading events."""

    names = {"paper": PAPER, "panel": PANEL, "line": LINE, "slate": SLATE, "ink": INK, "true": TRUE}

    def __init__(self):
        plain = [_mix(color, PAPER, 1) for color in self.names.values()]
        tint = [_mix(TRUE, PAPER, 0.10)]
        text = [_mix(SLATE, PAPER, i / (GREYS - 1)) for i in range(GREYS)]
        event = [_mix(color, PANEL, age) for color in CHANNELS for age in AGES]
        self.tint = len(plain)
        self.text = self.tint + 1
        self.event = self.text + GREYS  # + channel * len(AGES) + age
        self.data = np.rint(plain + tint + text + event).astype(np.uint8).tobytes()

    def __getitem__(self, name: str) -> int:
        return list(self.names).index(name)


PALETTE = Palette()


@lru_cache(maxsize=256)
def _glyphs(text: str, size: int) -> np.ndarray:
    """Draw smooth text as palette numbers [H, W], as high as a digit or, if a letter has a descender, higher."""
    font = ImageFont.load_default(size)
    left, _, right, low = font.getbbox(text)
    _, top, _, bottom = font.getbbox("0")
    bottom = max(bottom, low)
    image = Image.new("L", (int(np.ceil(right - left)) + 1, int(np.ceil(bottom - top)) + 1))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return (PALETTE.text + np.rint(np.asarray(image) / 255 * (GREYS - 1))).astype(np.uint8)


def draw_text(canvas: np.ndarray, text: str, x: float, y: float, size: int = 12, align: str = "left") -> int:
    """Write text on a canvas of palette numbers, with the middle of its digits at row `y`.

    Return the column after its end.
    """
    glyphs = _glyphs(text, size)
    height, width = glyphs.shape
    x = round(x - {"left": 0, "center": width / 2, "right": width}[align])
    y = round(y - len(_glyphs("0", size)) / 2)
    x, y = max(0, min(x, canvas.shape[1] - width)), max(0, min(y, canvas.shape[0] - height))
    part = canvas[y : y + height, x : x + width]
    glyphs = glyphs[: part.shape[0], : part.shape[1]]  # on a canvas smaller than the text
    np.copyto(part, glyphs, where=glyphs > PALETTE.text)
    return x + width


class Recording(Protocol):
    """The attributes of a recording that pictures need; `nmnist_helpers.io.Event` has them."""

    x: np.ndarray
    y: Any  # None makes the recording 1-D
    c: np.ndarray
    t: np.ndarray
    p: Any  # None without payload
    dim: int
    extent: tuple[int, int, int, float] | None

    def __len__(self) -> int: ...

    def rounded(self) -> "Recording": ...


def sensor_size(event: Recording) -> tuple[int, int]:
    """Return the rows and columns of the sensor: those of the recording's extent, else at least 34 x 34.

    Raises
    ------
    ValueError
        If an event lies outside the extent.
    """
    if not event.extent:
        rows, columns = (max(SIDE, int(axis.max(initial=-1)) + 1) for axis in (event.y, event.x))
        return rows, columns
    height, width = event.extent[1:3]
    if len(event) and (event.y.max() >= height or event.x.max() >= width):
        raise ValueError(
            f"gif: expected events on a sensor of {height} x {width} pixels, found one at"
            f" row {event.y.max()} or column {event.x.max()}"
        )
    return height, width


def film_span(event: Recording, span: float | None) -> float:
    """Return how many ms of the recording the film shows; see `gif_bytes`."""
    if span is None and event.extent:
        span = event.extent[3]
    elif span is None:
        last = event.t.max(initial=0.0)
        span = last if last > USUAL_END else USUAL_SPAN
    if not 0 < as_number(span) < float("inf"):
        raise ValueError(f"gif: expected a positive span in ms, found {span!r}")
    return float(span)


def frame_numbers(event: Recording, span: float, frame_ms: float) -> tuple[np.ndarray, int]:
    """Return the frame that each event falls into, and the number of frames."""
    frames = max(1, int(np.ceil(span / frame_ms - 1e-9)))
    frame_of = np.floor(np.asarray(event.t, np.float64) / frame_ms + 1e-9).astype(np.int64)
    # The last frame includes the end of the film, where the last event of a recording without an extent is.
    return np.where(event.t <= span, np.minimum(frame_of, frames - 1), frames), frames


def check_pixels(frames: int, height: int, width: int) -> None:
    """Raise ValueError if the frames are too large for a gif, or for memory."""
    if max(height, width) > MAX_SIDE or frames * height * width > MAX_PIXELS:
        raise ValueError(
            f"gif: expected sides of at most {MAX_SIDE} pixels and {MAX_PIXELS:,} pixels in all frames, found {frames}"
            f" frames of {height} x {width}; lower the scale, or raise frame_ms"
        )


def camera_frames(event: Recording, span: float, frame_ms: float, scale: int | None = None) -> np.ndarray:
    """Draw a camera's events: pixels light up in the colour of their polarity and fade over three frames.

    Parameters
    ----------
    event : Event
        2-D.
    span : float
        ms of the recording to show.
    frame_ms : float
        ms of the recording in one frame.
    scale : int, optional
        Side of a sensor pixel in pixels of the picture; by default, the picture's longer side is about 238 pixels.

    Returns
    -------
    uint8 array [F, H, W]
        Frames of palette numbers; see `PALETTE`.
    """
    height, width = sensor_size(event)
    scale = max(1, round(PICTURE / max(height, width))) if scale is None else whole_number("gif: scale", scale, 1)
    frame_of, frames = frame_numbers(event, span, frame_ms)
    check_pixels(frames, height * scale + BAR, width * scale)
    order = np.argsort(event.t, kind="stable")
    bounds = np.searchsorted(frame_of[order], np.arange(frames + 1))

    canvas = np.full((height * scale + BAR, width * scale), PALETTE["paper"], np.uint8)
    canvas[: height * scale] = PALETTE["panel"]
    track = slice(0, max(0, width * scale - 50))  # a narrow picture has room for the clock only
    middle = height * scale + BAR // 2
    canvas[middle - 2 : middle + 2, track] = PALETTE["line"]
    film = np.repeat(canvas[None], frames, 0)

    seen = np.full((height, width), -len(AGES))
    channel = np.zeros((height, width), np.int64)
    for f, picture in enumerate(film):
        now = order[bounds[f] : bounds[f + 1]]
        at = event.y[now], event.x[now]
        seen[at] = f
        channel[at] = event.c[now] % len(CHANNELS)
        age = f - seen
        cells = np.where(age < len(AGES), PALETTE.event + channel * len(AGES) + age, PALETTE["panel"]).astype(np.uint8)
        picture[: height * scale] = cells.repeat(scale, 0).repeat(scale, 1)
        end = min(span, (f + 1) * frame_ms)
        picture[middle - 2 : middle + 2, : round(track.stop * end / span)] = PALETTE["slate"]
        draw_text(picture, f"{end:.0f} ms", width * scale - 1, middle, 12, "right")
    return film
