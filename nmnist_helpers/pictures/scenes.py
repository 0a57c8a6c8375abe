"""The contents of the frames of a matplotlib animation: an event camera, or a raster of spikes.

There are two ways from a scene to its frames. For the first, `draw` updates the artists, and matplotlib draws the whole
figure. `film` uses the second, which is faster: `states` puts the figure into a few states, each drawn once, and
`changes` returns which rectangles of a frame come from which state.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from .frames import CLASS_ROWS, Recording, sensor_size
from .palette import CHANNELS, PANEL

#: A rectangle of a picture and the state that it shows: rows, columns, number of the state.
Patch = tuple[slice, slice, int]
#: Step of the clock, in ms, in films whose frames are much shorter, which are played slowly. Larger steps are easier to
#: read, and each step adds a kilobyte to a gif.
TICK = 20.0
MAX_FRAMES = 10_000


class Scene:
    """A recording as numbered frames of `interval` ms each, with a clock above the axes at the right."""

    def __init__(self, fig: Figure, event: Recording, interval: float):
        self.fig, self.ax, self.event, self.interval = fig, fig.gca(), event, interval
        first, last = (event.t.min(), event.t.max()) if len(event) else (0, 0)
        if not (last - first) / interval < MAX_FRAMES:
            raise ValueError(
                f"frame_rate: expected at most {MAX_FRAMES} frames, found {(last - first) / interval:.3g}; lower it"
            )
        self.frames: Sequence[int] = range(self._number(first), self._number(last) + 1)
        self.order = np.argsort(event.t, kind="stable")
        self.number = self._number(np.asarray(event.t, np.float64)[self.order])  # frame of each event
        self.clock = self.ax.set_title(" ", fontsize=10, loc="right", color="0.4", family="monospace")
        self.moving: list[Artist] = [self.clock]

    def _number(self, t):
        number = np.floor(np.asarray(t) / self.interval + 1e-9).astype(np.int64)
        return number if number.ndim else int(number)

    def _events_before(self, f: int) -> int:
        """Return the number of events in all frames before `f`."""
        return int(np.searchsorted(self.number, f))

    def time(self, f: int) -> str:
        """Return the clock's text at the end of frame `f`."""
        now = (f + 1) * self.interval
        return f"{now if self.interval >= TICK / 2 else now // TICK * TICK:.0f} ms"

    def draw(self, f: int) -> list:
        """Update the artists to frame `f` and return them."""
        self.clock.set_text(self.time(f))
        return self.moving

    def states(self) -> Iterator[None]:
        """Put the figure into one state after another, and yield after each; the first shows no events."""
        raise NotImplementedError

    def changes(self, f: int, height: int) -> tuple[list[Patch], list[Patch]]:
        """Return what frame `f` changes for all later frames, and what it alone shows; `height` is in pixels."""
        raise NotImplementedError


def _patch(box: np.ndarray, height: int, state: int) -> Patch:
    """Return the patch of a box ((x, y), (x, y)) in matplotlib's display coordinates, which count rows from below."""
    (left, low), (right, high) = np.rint(np.sort(box, axis=0)).astype(int).clip(0)
    return slice(max(height - high, 0), max(height - low, 0)), slice(left, right), state


class Camera(Scene):
    """A 2-D recording: pixels in the colour of their channel."""

    def __init__(self, fig: Figure, event: Recording, interval: float, pre_compute: bool):
        super().__init__(fig, event, interval)
        self.size = height, width = sensor_size(event)
        self.ready = {f: self._cells(f) for f in self.frames} if pre_compute else {}
        colors = ListedColormap([PANEL, *CHANNELS])
        self.image = self.ax.imshow(
            self._frame(self.frames[0]), colors, vmin=0, vmax=colors.N - 1, interpolation="nearest"
        )
        self.ax.set(xticks=[0, width - 1], yticks=[0, height - 1], xlabel="x", ylabel="y")
        self.moving = [self.image, self.clock]

    def _cells(self, f: int) -> np.ndarray:
        """Return, for each pixel of the sensor, 1 + the channel of its last event in frame `f`, or 0 without one."""
        cells = np.zeros(self.size, np.uint8)
        now = self.order[self._events_before(f) : self._events_before(f + 1)]
        cells[self.event.y[now], self.event.x[now]] = 1 + self.event.c[now] % len(CHANNELS)
        return cells

    def _frame(self, f: int) -> np.ndarray:
        return self.ready[f] if f in self.ready else self._cells(f)

    def draw(self, f: int) -> list:
        self.image.set_data(self._frame(f))
        return super().draw(f)

    def states(self) -> Iterator[None]:
        self.shown = np.zeros(self.size, np.uint8)
        for state in range(2 + min(int(self.event.c.max(initial=0)), len(CHANNELS) - 1)):
            self.image.set_data(np.full(self.size, state))
            yield

    def changes(self, f: int, height: int) -> tuple[list[Patch], list[Patch]]:
        cells = self._frame(f)
        rows, columns = np.nonzero(cells != self.shown)
        self.shown = cells
        corners = np.stack([columns - 0.5, rows - 0.5, columns + 0.5, rows + 0.5], 1).reshape(-1, 2)
        boxes = self.ax.transData.transform(corners).reshape(-1, 2, 2)
        states = cells[rows, columns]
        return [_patch(box, height, int(state)) for box, state in zip(boxes, states, strict=True)], []


class Raster(Scene):
    """A 1-D recording: the spikes so far, and a line at the current time.

    The last frame, which shows all spikes, is repeated for another fifth of the film.
    """

    def __init__(self, fig: Figure, event: Recording, interval: float):
        super().__init__(fig, event, interval)
        self.frames = [*self.frames, *[self.frames[-1]] * (len(self.frames) // 5)]
        per_channel = event.extent[2] if event.extent else int(event.x.max(initial=0)) + 1
        channels = event.extent[0] if event.extent else int(event.c.max(initial=0)) + 1
        neurons = channels * per_channel
        self.end = event.extent[3] if event.extent else float(event.t.max(initial=1.0))
        self.places = np.column_stack([np.asarray(event.t, np.float64), event.c * per_channel + event.x])[self.order]
        strength = np.ones(len(event))
        if event.p is not None and np.any(event.p):
            strength = np.abs(np.asarray(event.p, np.float64)[self.order])
            strength /= strength.max()
        self.few = neurons <= CLASS_ROWS
        self.sizes = (200 * 10 / max(10, neurons) if self.few else 2) * strength  # in square points
        self.marks = self.ax.scatter([], [], s=[], marker="|" if self.few else ".", color="0.1")
        if self.few:
            self.ax.set_yticks(range(neurons))
        self.cursor = self.ax.axvline(0, color="0.6", lw=1)
        self.ax.set(
            xlim=(-0.02 * self.end, 1.02 * self.end), ylim=(neurons - 0.5, -0.5), xlabel="time (ms)", ylabel="neuron"
        )
        self.moving = [self.marks, self.cursor, self.clock]

    def _show(self, number: int) -> None:
        self.marks.set_offsets(self.places[:number])
        self.marks.set_sizes(self.sizes[:number])

    def draw(self, f: int) -> list:
        self._show(self._events_before(f + 1))
        self.cursor.set_xdata([min((f + 1) * self.interval, self.end)] * 2)
        return super().draw(f)

    def states(self) -> Iterator[None]:
        width = self.cursor.get_linewidth()
        self.cursor.set_visible(False)
        for number in (0, len(self.places)):
            self._show(number)
            yield
        self.cursor.set(visible=True, linewidth=200 * self.fig.get_size_inches()[0])  # covers the axes
        yield
        self.cursor.set_linewidth(width)

    def changes(self, f: int, height: int) -> tuple[list[Patch], list[Patch]]:
        new = slice(self._events_before(f) if f > self.frames[0] else 0, self._events_before(f + 1))
        dots = self.fig.dpi / 72  # pixels per point
        line = float(np.ravel(self.marks.get_linewidth())[0]) * dots / 2 + 1
        tall = np.sqrt(self.sizes[new]) * dots / 2 + (1 if self.few else line)
        reach = np.column_stack([np.full_like(tall, line) if self.few else tall, tall])
        places = self.ax.transData.transform(self.places[new]) if len(tall) else np.empty((0, 2))
        spikes = [_patch(np.stack([place - r, place + r]), height, 1) for place, r in zip(places, reach, strict=True)]
        x = self.ax.transData.transform((min((f + 1) * self.interval, self.end), 0))[0]
        box, width = self.ax.bbox.get_points(), self.cursor.get_linewidth() * dots
        x = np.floor(x + 0.5) + round(width) % 2 / 2  # matplotlib snaps such lines to whole pixels
        box[:, 0] = x - width / 2, x + width / 2
        return spikes, [_patch(box, height, 2)]
