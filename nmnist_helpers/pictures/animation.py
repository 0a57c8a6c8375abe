"""`Event.show` and `Event.anim`: recordings as matplotlib animations; small gifs and tables of them for notebooks."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib.colors import to_rgb

from ..geometry import SIDE
from .frames import CHANNEL_COLORS, CLASS_ROWS, OFF_COLOR, ON_COLOR, PANEL
from .gif import gif_bytes, gif_table, save_gif

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..io import Event

NOTEBOOK_PACE = 40.0  # ms for which a notebook shows a frame at least


def _interval(frame_rate: float) -> float:
    """ms of the recording in one frame."""
    if not 0 < frame_rate < float("inf"):
        raise ValueError(f"expected a positive frame_rate in frames per second of recording, found {frame_rate}")
    return 1000 / frame_rate


def _frame_range(event: "Event", interval: float) -> range:
    """Numbers of the frames, from the one with the first event to the one with the last."""
    if not len(event):
        return range(1)
    first, last = np.floor(np.array([event.t.min(), event.t.max()]) / interval + 1e-9).astype(int)
    return range(first, last + 1)


def anim(
    event: "Event",
    fig: "Figure | None" = None,
    frame_rate: float = 24,
    pre_compute_frames: bool = True,
    repeat: bool = True,
) -> animation.FuncAnimation:
    """A recording as a matplotlib animation that plays in real time.

    Parameters
    ----------
    event : Event
        2-D: pixels in the colour of their channel (ON orange, OFF blue); 1-D: a raster that builds up.
    fig : matplotlib Figure, optional
        Where to draw; pyplot forgets it, so that a notebook does not show it as a still picture.
    frame_rate : float
        Frames for a second of recording: each collects ``1000 / frame_rate`` ms. Saved at fewer frames a
        second, the film is slowed down: 240 here and 24 there make 300 ms last 3 s.
    pre_compute_frames : bool
        Draw all frames of a camera now (True) or each when it is due.
    repeat : bool
        Begin again at the end.

    Returns
    -------
    matplotlib.animation.FuncAnimation

    Raises
    ------
    ValueError
        If `frame_rate` is not positive.

    Examples
    --------
    >>> film = event.anim(plt.figure(figsize=(5, 5)), frame_rate=240)
    >>> film.save('gifs/input.gif', animation.PillowWriter(fps=24), dpi=60)
    """
    film = _animation(event, fig, frame_rate, pre_compute_frames, repeat)
    plt.close(film._fig)
    return film


def show(
    event: "Event",
    fig: "Figure | None" = None,
    frame_rate: float = 24,
    pre_compute_frames: bool = True,
    repeat: bool = False,
) -> None:
    """Play a recording: in a matplotlib window, or in a notebook as a gif.

    Parameters are those of `anim`; a notebook repeats in any case, does not use `fig`, and shows no more than 25
    frames a second: a higher `frame_rate` is seen slowed down.
    """
    if _inline():
        from IPython.display import display

        interval = _interval(frame_rate)
        if fig is not None:
            plt.close(fig)
        display(gif_table([[gif_bytes(event, frame_ms=interval, slowdown=max(1.0, NOTEBOOK_PACE / interval))]]))
        return
    film = _animation(event, fig, frame_rate, pre_compute_frames, repeat)
    film._fig.nmnist_film = film  # an animation that nobody holds stops
    film._draw_was_started = True  # a window without a screen never draws: that is no mistake to warn of
    plt.show()


def _inline() -> bool:
    """Whether pictures go into a notebook (and not into a window of its own)."""
    return "inline" in plt.get_backend().lower()


def _animation(event, fig, frame_rate, pre_compute_frames, repeat) -> animation.FuncAnimation:
    interval = _interval(frame_rate)
    fig = plt.figure() if fig is None else fig
    ax = fig.gca()
    frames = _frame_range(event, interval)
    draw = _camera(ax, event, frames, interval, pre_compute_frames) if event.dim == 2 else _raster(ax, event, interval)
    return animation.FuncAnimation(fig, draw, frames=frames, interval=interval, repeat=repeat, cache_frame_data=False)


def _clock(ax):
    return ax.set_title("", fontsize=10, loc="right", color="0.4", family="monospace")


def _camera(ax, event: "Event", frames: range, interval: float, pre_compute: bool):
    """Draws frame number f of an event camera."""
    if event.extent:
        height, width = event.extent[1:3]
    else:
        height, width = (max(SIDE, int(axis.max(initial=-1)) + 1) for axis in (event.y, event.x))
    colors = np.array([to_rgb(color) for color in CHANNEL_COLORS])
    order = np.argsort(event.t, kind="stable")
    number = np.floor(np.asarray(event.t, np.float64)[order] / interval + 1e-9).astype(np.int64)

    def picture(f: int) -> np.ndarray:
        now = order[np.searchsorted(number, f) : np.searchsorted(number, f + 1)]
        rgb = np.empty((height, width, 3), np.float32)
        rgb[:] = to_rgb(PANEL)
        rgb[event.y[now], event.x[now]] = colors[event.c[now] % len(colors)]
        return rgb

    ready = {f: picture(f) for f in frames} if pre_compute else {}
    image = ax.imshow(picture(frames[0]), interpolation="nearest")
    ax.set(xticks=[0, width - 1], yticks=[0, height - 1], xlabel="x", ylabel="y")
    clock = _clock(ax)

    def draw(f: int):
        image.set_data(ready[f] if ready else picture(f))
        clock.set_text(f"{(f + 1) * interval:.0f} ms")
        return image, clock

    return draw


def _raster(ax, event: "Event", interval: float):
    """Draws the spikes up to frame number f, and a line at the time reached."""
    neurons = event.extent[2] if event.extent else int(event.x.max(initial=0)) + 1
    end = event.extent[3] if event.extent else float(event.t.max(initial=1.0))
    order = np.argsort(event.t, kind="stable")
    t, rows = np.asarray(event.t, np.float64)[order], event.x[order]
    strength = np.ones(len(t))
    if event.graded and len(t):
        value = np.abs(np.asarray(event.p, np.float64)[order])
        strength = value / value.max() if value.max() > 0 else strength
    few = neurons <= CLASS_ROWS
    size = 200 * 10 / max(10, neurons) if few else 2
    marks = ax.scatter([], [], s=[], marker="|" if few else ".", color="0.1")
    if few:
        ax.set_yticks(range(neurons))
    cursor = ax.axvline(0, color="0.6", lw=1)
    ax.set(xlim=(-0.02 * end, 1.02 * end), ylim=(neurons - 0.5, -0.5), xlabel="time (ms)", ylabel="neuron")
    clock = _clock(ax)

    def draw(f: int):
        now = (f + 1) * interval
        seen = np.searchsorted(t, now)
        marks.set_offsets(np.column_stack([t[:seen], rows[:seen]]))
        marks.set_sizes(size * strength[:seen])
        cursor.set_xdata([min(now, end)] * 2)
        clock.set_text(f"{now:.0f} ms")
        return marks, cursor, clock

    return draw


__all__ = [
    "CHANNEL_COLORS",
    "OFF_COLOR",
    "ON_COLOR",
    "anim",
    "gif_bytes",
    "gif_table",
    "save_gif",
    "show",
]
