"""Fast gifs of matplotlib animations: matplotlib draws a few pictures, and NumPy composes the frames from them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from .gif import pack
from .scenes import Scene


def film(scene: Scene, fps: float, dpi: float, progress: Callable | None = None) -> bytes | None:
    """Draw all frames of a scene as a gif.

    Parameters
    ----------
    scene : Scene
        Anything else on its figure appears in every frame.
    fps, dpi : float
        Frames per second; pixels per inch.
    progress : callable, optional
        Called for each frame with its number and the total number of frames.

    Returns
    -------
    bytes or None
        The contents of the gif file; None if the figure is transparent or has too many colours for one palette.
    """
    with _canvas(scene.fig, dpi, scene.clock) as canvas:
        states: list[np.ndarray] = []
        clocks: dict[str, np.ndarray] = {}
        place = slice(0), slice(0)
        for _ in scene.states():
            canvas.draw()
            states.append(np.array(canvas.buffer_rgba()))
            if len(states) == 1:
                place, clocks = _clocks(canvas, scene)
        table = _palette([*states, *clocks.values()])
        if table is None:
            return None
        lookup, palette = table
        states = [lookup[_key(state)] for state in states]
        clocks = {text: lookup[_key(clock)] for text, clock in clocks.items()}

        def pictures() -> Iterator[np.ndarray]:
            lasting = states[0].copy()
            for n, f in enumerate(scene.frames):
                if progress is not None:
                    progress(n, len(scene.frames))
                changes, passing = scene.changes(f, len(lasting))
                for rows, columns, state in changes:
                    lasting[rows, columns] = states[state][rows, columns]
                picture = lasting.copy()
                for rows, columns, state in passing:
                    picture[rows, columns] = states[state][rows, columns]
                picture[place] = clocks[scene.time(f)]
                yield picture

        return pack(pictures(), palette, [int(1000 / fps)] * len(scene.frames))


@contextmanager
def _canvas(fig: Figure, dpi: float, clock: Artist) -> Iterator[FigureCanvasAgg]:
    """Give the figure a canvas of `dpi` that leaves room for the clock but does not draw it."""
    before, usual = fig.canvas, fig.dpi
    canvas = FigureCanvasAgg(fig)
    try:
        fig.dpi = dpi
        clock.set_animated(True)
        yield canvas
    finally:
        clock.set_animated(False)
        fig.set_canvas(before)
        fig.dpi = usual


def _clocks(canvas: FigureCanvasAgg, scene: Scene) -> tuple[tuple[slice, slice], dict[str, np.ndarray]]:
    """Return a rectangle that holds every text of the clock, and the picture of that rectangle with each text."""
    texts = dict.fromkeys(map(scene.time, scene.frames))
    renderer, height = canvas.get_renderer(), canvas.get_width_height()[1]
    boxes = []
    for text in texts:
        scene.clock.set_text(text)
        boxes.append(scene.clock.get_window_extent(renderer))
    box = Bbox.union(boxes).padded(2)
    low, high = max(int(box.y0), 0), int(box.y1)
    place = slice(max(height - high, 0), height - low), slice(max(int(box.x0), 0), int(box.x1))
    ground = canvas.copy_from_bbox(box.padded(2))
    clocks = {}
    for text in texts:
        scene.clock.set_text(text)
        scene.ax.draw_artist(scene.clock)
        clocks[text] = np.array(np.asarray(canvas.buffer_rgba())[place])
        canvas.restore_region(ground)
    return place, clocks


def _key(rgba: np.ndarray) -> np.ndarray:
    """Return colours as 15-bit numbers: the upper five bits of red, green and blue."""
    color = np.ascontiguousarray(rgba).view("<u4")[..., 0]
    return ((color >> 3 & 0x1F) | (color >> 6 & 0x3E0) | (color >> 9 & 0x7C00)).astype(np.uint16)


def _palette(pictures: list[np.ndarray]) -> tuple[np.ndarray, bytes] | None:
    """Return a table from `_key` to palette number, and the palette; None for over 256 colours or transparency."""
    found = []
    for picture in pictures:
        color = np.ascontiguousarray(picture).view("<u4")[..., 0]
        found += [color[:, 0], color[:, 1:][color[:, 1:] != color[:, :-1]]]  # every colour starts a run
    colors, counts = np.unique(np.concatenate(found), return_counts=True)
    rgba = colors.astype("<u4").view(np.uint8).reshape(-1, 4)
    if (rgba[:, 3] < 255).any():
        return None
    keys = _key(rgba)
    order = np.argsort(counts, kind="stable")  # among colours with equal keys, the most frequent comes last
    exact = np.zeros((1 << 15, 3), np.uint8)
    exact[keys[order]] = rgba[order, :3]
    used = np.unique(keys)
    if len(used) > 256:
        return None
    lookup = np.zeros(1 << 15, np.uint8)
    lookup[used] = np.arange(len(used))
    return lookup, exact[used].tobytes()
