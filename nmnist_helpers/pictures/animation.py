"""`Event.anim` and `Event.show`: recordings as matplotlib animations that are saved as gifs in about a second."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib import animation, rcParams
from matplotlib.figure import Figure

from ..checks import as_number
from ..files import atomic
from .film import film
from .frames import Recording
from .gif import gif_bytes
from .html import gif_table
from .scenes import Camera, Raster, Scene

NOTEBOOK_PACE = 40.0  # least time in ms for which a notebook shows a frame


class EventAnimation(animation.FuncAnimation):
    """A matplotlib animation of a scene that is quickly saved as a gif.

    matplotlib redraws the whole figure for every frame of a gif. `save` draws it only a few times, and composes the
    frames from the resulting pictures.
    """

    def __init__(self, scene: Scene, repeat: bool):
        self.scene = scene
        super().__init__(
            scene.fig, scene.draw, frames=scene.frames, interval=scene.interval, repeat=repeat, cache_frame_data=False
        )

    def save(
        self, filename: str | os.PathLike, writer=None, fps=None, dpi=None, *args, progress_callback=None, **kwargs
    ):
        """Save the animation; the parameters are those of `matplotlib.animation.Animation.save`.

        With ``PillowWriter``, a gif is composed as the class describes. matplotlib itself writes it if other arguments
        or settings change the pictures, or if the figure is transparent or has more colours than a gif's palette. In
        both cases the file appears complete or not at all. All other writers work as in matplotlib.
        """
        path, data = Path(filename), None
        if writer == "pillow" and not (args or kwargs):
            writer, fps = animation.PillowWriter(fps=fps or 1000 / self.scene.interval), None  # type: ignore[arg-type]
        if type(writer) is not animation.PillowWriter:  # other writers may derive further file names from this one
            return super().save(
                os.fspath(filename), writer, fps, dpi, *args, progress_callback=progress_callback, **kwargs
            )
        usual = rcParams["savefig.facecolor"] == "auto" and not rcParams["savefig.transparent"]
        usual = usual and fps is None and not any(args) and not any(kwargs.values())
        if usual and path.suffix.lower() == ".gif":
            self._draw_was_started = True  # no warning that nothing was drawn
            dots = rcParams["savefig.dpi"] if dpi is None else dpi
            data = film(self.scene, writer.fps, self.scene.fig.dpi if dots == "figure" else dots, progress_callback)
            self.scene.draw(self.scene.frames[-1])
        with atomic(path) as temporary:
            if data is not None:
                temporary.write_bytes(data)
            else:
                super().save(temporary, writer, fps, dpi, *args, progress_callback=progress_callback, **kwargs)


def anim(
    event: Recording,
    fig: Figure | None = None,
    frame_rate: float = 24,
    pre_compute_frames: bool = True,
    repeat: bool = True,
) -> EventAnimation:
    """Make a matplotlib animation of a recording, which plays in real time.

    Parameters
    ----------
    event : Event
        If it is 2-D, its pixels are shown in the colour of their channel; if it is 1-D, as a growing raster of spikes,
        whose last frame stays for another fifth of the film.
    fig : matplotlib Figure, optional
        Figure to draw on. It is closed in pyplot, so that a notebook does not also show it as a still picture.
    frame_rate : float
        Frames per second of the recording; each frame collects ``1000 / frame_rate`` ms. Saving at a lower frame rate
        slows the film down: 240 here and 24 in `save` make 300 ms last 3 s.
    pre_compute_frames : bool
        Whether to compute all frames of a 2-D recording now, or each when it is shown.
    repeat : bool
        Whether to start again at the end.

    Returns
    -------
    EventAnimation
        A `matplotlib.animation.FuncAnimation`.

    Raises
    ------
    ValueError
        If `frame_rate` is not positive.

    Examples
    --------
    >>> film = event.anim(plt.figure(figsize=(5, 5)), frame_rate=240)
    >>> film.save('gifs/input.gif', animation.PillowWriter(fps=24), dpi=60)
    """
    made = _animation(event, fig, frame_rate, pre_compute_frames, repeat)
    plt.close(made.scene.fig)
    return made


def show(
    event: Recording,
    fig: Figure | None = None,
    frame_rate: float = 24,
    pre_compute_frames: bool = True,
    repeat: bool = False,
) -> None:
    """Play a recording in a matplotlib window or, in a notebook, as a gif.

    The parameters are those of `anim`. In a notebook, `fig` is not used, and the gif always repeats. The gif shows at
    most 25 frames per second, so that a higher `frame_rate` slows the film down.
    """
    if _inline():
        from IPython.display import display

        interval = _interval(frame_rate)
        if fig is not None:
            plt.close(fig)
        data = gif_bytes(event, frame_ms=interval, slowdown=max(1.0, NOTEBOOK_PACE / interval))
        display(gif_table([data], alts=["film: the events of a recording"]))
        return
    made = _animation(event, fig, frame_rate, pre_compute_frames, repeat)
    made.scene.fig.nmnist_film = made  # type: ignore[attr-defined]  # an animation stops if nothing refers to it
    made._draw_was_started = True  # no warning that nothing was drawn, which is normal without a screen
    plt.show()


def _inline() -> bool:
    """Return whether pictures go into a notebook and not into a separate window."""
    return "inline" in plt.get_backend().lower()


def _interval(frame_rate: float) -> float:
    """Return the duration of a frame in ms of the recording."""
    if not 0 < as_number(frame_rate) < float("inf"):
        raise ValueError(
            f"frame_rate: expected a positive number of frames per second of recording, found {frame_rate!r}"
        )
    return 1000 / frame_rate


def _animation(
    event: Recording, fig: Figure | None, frame_rate: float, pre_compute: bool, repeat: bool
) -> EventAnimation:
    interval = _interval(frame_rate)
    fig = plt.figure() if fig is None else fig
    scene = Camera(fig, event, interval, pre_compute) if event.dim == 2 else Raster(fig, event, interval)
    return EventAnimation(scene, repeat)
