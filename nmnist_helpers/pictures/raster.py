"""Frames of small gifs with few colours: the spikes of a layer."""

from typing import NamedTuple

import numpy as np

from ..checks import whole_number
from .frames import BAR, CLASS_ROWS, PALETTE, PICTURE, Recording, check_pixels, draw_text, frame_numbers

CLOCK = 18  # height of the strip above a raster, which shows the time, in pixels


class _Plot(NamedTuple):
    """Where a raster lies in its picture, in pixels: below the clock, with a row for each neuron."""

    neurons: int
    row: int  # height of a neuron's row
    left: int
    columns: int

    @property
    def small(self) -> bool:
        return self.neurons <= CLASS_ROWS

    @property
    def bottom(self) -> int:
        return CLOCK + self.row * self.neurons

    def rows(self, neuron: int) -> slice:
        return slice(CLOCK + neuron * self.row, CLOCK + (neuron + 1) * self.row)

    def across(self) -> slice:
        return slice(self.left, self.left + self.columns)

    def column(self, share):
        """Return the column at a share (0 to 1) of the span."""
        return self.left + np.rint((self.columns - 1) * np.asarray(share, np.float64)).astype(np.int64)


def _neurons(event: Recording) -> tuple[np.ndarray, int]:
    """Return the neuron of each spike, counted over all channels, and the number of neurons."""
    per_channel = event.extent[2] if event.extent else max(10, int(event.x.max(initial=-1)) + 1)
    channels = event.extent[0] if event.extent else max(1, int(event.c.max(initial=-1)) + 1)
    if event.x.max(initial=-1) >= per_channel or event.c.max(initial=-1) >= channels:
        raise ValueError(
            f"gif: expected events of {channels} x {per_channel} neurons, found one of channel {event.c.max()} or"
            f" neuron {event.x.max()}"
        )
    return event.c * per_channel + event.x, per_channel * channels


def raster_frames(
    event: Recording,
    span: float,
    frame_ms: float,
    scale: int | None = None,
    label: int | None = None,
    width: int = 420,
) -> np.ndarray:
    """Draw a layer's spikes: a tick for every spike, a moving time cursor and growing counts.

    Parameters
    ----------
    event : Event
        1-D. The neurons of its channels are drawn one below the other; without an extent, at least 10 per channel.
    span, frame_ms : float
        As in `camera_frames`.
    scale : int, optional
        Height of a neuron's row in pixels.
    label : int, optional
        The true class, whose spikes are drawn in a colour of their own.
    width : int
        Width of the picture in pixels.

    Returns
    -------
    uint8 array [F, H, W]
        Frames of palette numbers; see `PALETTE`.
    """
    neuron, size = _neurons(event)
    if label is not None and whole_number("gif: label", label, 0) >= size:
        raise ValueError(f"gif: expected a label in 0..{size - 1}, found {label}")
    row = max(1, (PICTURE - CLOCK) // size) if scale is None else whole_number("gif: scale", scale, 1)
    left, right = (22, 78) if size <= CLASS_ROWS else (34, 38)
    plot = _Plot(size, row, left, whole_number("gif: width", width, 1) - left - right)
    if plot.columns < 50:
        raise ValueError(f"gif: expected a width of at least {left + right + 50} pixels, found {width}")
    frame_of, frames = frame_numbers(event, span, frame_ms)
    check_pixels(frames, plot.bottom + BAR, width)

    canvas = _empty_raster(plot, span, width, label)
    inside = (event.t >= 0) & (event.t <= span)
    neuron, when, frame_of = neuron[inside], event.t[inside] / span, frame_of[inside]
    born = _births(plot, canvas.shape, neuron, plot.column(when), frame_of, frames)
    ticks = np.full(canvas.shape, PALETTE["slate" if label is not None else "ink"], np.uint8)
    if label is not None:
        ticks[plot.rows(label)] = PALETTE["true"]
    counts = np.zeros((frames, size), np.int64)
    np.add.at(counts, (frame_of, neuron), 1)
    counts = counts.cumsum(0)

    film = np.repeat(canvas[None], frames, 0)
    for f, picture in enumerate(film):
        end = min(span, (f + 1) * frame_ms)
        picture[CLOCK : plot.bottom, plot.column(end / span)] = PALETTE["slate"]
        np.copyto(picture, ticks, where=born <= f)  # over the cursor, which would hide a spike at the end of the film
        draw_text(picture, f"{end:.0f} ms", plot.across().stop, CLOCK // 2, 12, "right")
        if plot.small:
            _draw_counts(picture, counts[f], max(1, counts.max()), plot, label)
    return film


def _empty_raster(plot: _Plot, span: float, width: int, label: int | None) -> np.ndarray:
    """Draw what all frames share: the rows with the names of their neurons, and the axis of time."""
    canvas = np.full((plot.bottom + BAR, width), PALETTE["paper"], np.uint8)
    canvas[CLOCK : plot.bottom, plot.across()] = PALETTE["panel"]
    if plot.small:
        for n in range(plot.neurons):
            if n == label:
                canvas[plot.rows(n), plot.across()] = PALETTE.tint
            canvas[plot.rows(n).start, plot.across()] = PALETTE["paper"]
            draw_text(canvas, str(n), plot.left - 8, CLOCK + (n + 0.5) * plot.row, 13, "right")
    else:
        draw_text(canvas, "0", plot.left - 5, CLOCK + 5, 11, "right")
        draw_text(canvas, str(plot.neurons - 1), plot.left - 5, plot.bottom - 5, 11, "right")
    axis = plot.bottom + 12
    for tick in _time_ticks(span):
        x = int(plot.column(tick / span))
        canvas[plot.bottom : plot.bottom + 4, x] = PALETTE["slate"]
        end = draw_text(canvas, f"{tick:g}", x, axis, 11, "center")
    draw_text(canvas, "ms", end + 4, axis, 11)
    return canvas


def _births(plot: _Plot, shape: tuple[int, ...], neuron, column, frame_of, frames: int) -> np.ndarray:
    """Return the first frame in which each pixel shows a spike's tick; `frames` where none ever does."""
    born = np.full(shape, frames, np.int64)
    edge = 2 if plot.row >= 10 else 0
    for n, x, f in zip(neuron, column, frame_of, strict=True):
        rows = plot.rows(n)
        cell = born[rows.start + edge : rows.stop - edge // 2, x : x + (2 if plot.row > 3 else 1)]
        np.minimum(cell, f, out=cell)
    return born


def _draw_counts(picture, counts, most: int, plot: _Plot, label: int | None) -> None:
    """Draw the spike counts as bars beside the rows: the longest bar is dark, the true class has its own colour."""
    x = plot.across().stop + 8
    longest = picture.shape[1] - x - 26
    leader = int(counts.argmax()) if counts.any() else -1
    pad = max(1, plot.row // 4)
    for n, count in enumerate(counts):
        if not count:
            continue
        color = PALETTE["true"] if n == label else PALETTE["ink" if n == leader else "line"]
        length = max(1, round(longest * count / most))
        rows = plot.rows(n)
        picture[rows.start + pad + 1 : rows.stop - pad + 1, x : x + length] = color
        if n in (leader, label):
            draw_text(picture, str(count), x + length + 4, CLOCK + (n + 0.5) * plot.row + 1, 11)


def _time_ticks(span: float) -> np.ndarray:
    """Return three to five times in ms to mark on an axis, in steps of 1, 2 or 5 times a power of ten."""
    step = 10 ** np.floor(np.log10(span / 2))
    step *= max(k for k in (1, 2, 5) if span / (step * k) >= 2)
    return np.arange(0, span + 1e-9, step)
