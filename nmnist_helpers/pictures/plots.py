"""Plots that several notebooks share: a common style, rasters of spikes, maps of events, traces of a neuron."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..camera.digits import IMAGE_SIDE
from ..camera.path import PATH, PATH_STEP
from ..geometry import SIDE
from ..tools import as_array
from .frames import Recording
from .palette import INK, LIGHT, NEGATIVE, OFF, ON, POSITIVE, SLATE

if TYPE_CHECKING:
    import torch

#: Colour map from OFF events through white to ON events.
POLARITY = LinearSegmentedColormap.from_list("polarity", (OFF, "white", ON))
#: Colour map from negative weights through white (zero) to positive weights.
WEIGHTS = LinearSegmentedColormap.from_list("weights", (NEGATIVE, "white", POSITIVE))


def style() -> None:
    """Set matplotlib's defaults for the notebooks."""
    plt.rcParams.update({
        "figure.dpi": 80, "savefig.dpi": 80, "figure.constrained_layout.use": True, "axes.titlesize": "medium",
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    })  # fmt: skip


def raster(ax: Axes, spikes: "torch.Tensor", color: str = INK, size: float = 12, first: int = 0) -> None:
    """Mark every spike of a tensor [channels, steps]; the tensor's first channel has the number `first`."""
    channel, step = np.nonzero(as_array(spikes))
    marker, width = ("|", 1.4) if size > 4 else ("o", 0)
    ax.scatter(step, channel + first, s=size, color=color, marker=marker, linewidths=width)
    ax.set_xlim(0, spikes.shape[-1])


def check_camera(name: str, event: Recording) -> None:
    """Raise ValueError unless the recording is that of a camera of 34 x 34 pixels, which a few events may have left."""
    if event.dim != 2:
        raise ValueError(f"{name}: expected a 2-D recording, found a {event.dim}-D one")
    outside = (np.rint(event.x) >= SIDE) | (np.rint(event.y) >= SIDE)
    if 2 * np.count_nonzero(outside) > len(event):
        raise ValueError(
            f"{name}: expected a recording of {SIDE} x {SIDE} pixels, found most events outside; for another camera,"
            " event.to_tensor(binning_mode='SUM').sum(-1) counts them"
        )


def event_map(event: Recording, start: float = 0, end: float = np.inf) -> np.ndarray:
    """Count OFF and ON events per pixel from `start` (inclusive) to `end` (exclusive), in ms; float [2, 34, 34].

    Positions are rounded, and events outside the 34 x 34 pixels are not counted.

    Raises
    ------
    ValueError
        If the recording is 1-D, or if most events lie outside: it comes from another camera.
    """
    check_camera("event_map", event)
    event = event.rounded()
    now = (event.t >= start) & (event.t < end) & (event.x < SIDE) & (event.y < SIDE) & (event.c < 2)
    counts = np.zeros((2, SIDE, SIDE))
    np.add.at(counts, (event.c[now], event.y[now], event.x[now]), 1)
    return counts


def sharpened(event: Recording, scale: int = 3) -> np.ndarray:
    """Count the events at the places in the image that caused them, with the camera's movement removed.

    At time t the image is displaced by the camera's path (`camera.path.PATH`). Undoing this displacement moves an event
    back to the edge that caused it. A pixel is a square, and its event is spread over that square.

    Parameters
    ----------
    event : Event
        A recording of three saccades.
    scale : int
        Cells of the map per pixel, in each direction; odd.

    Returns
    -------
    float array [28 * scale, 28 * scale]
        Number of events of both polarities in each cell.

    Raises
    ------
    ValueError
        As for `event_map`.
    """
    check_camera("sharpened", event)
    knots = PATH_STEP * np.arange(len(PATH))
    right, down = (np.interp(event.t, knots, axis) for axis in np.transpose(PATH))
    inside = (-0.5, IMAGE_SIDE - 0.5)
    cells = np.histogram2d(event.y - down, event.x - right, bins=IMAGE_SIDE * scale, range=(inside, inside))[0]
    for axis in (0, 1):
        cells = np.apply_along_axis(np.convolve, axis, cells, np.full(scale, 1 / scale), mode="same")
    return cells


def picture_axes(axes: np.ndarray) -> np.ndarray:
    """Remove ticks and frames from axes that show pictures, and return the axes."""
    for ax in np.ravel(axes):
        ax.set(xticks=(), yticks=())
        ax.spines[:].set_visible(False)
    return axes


def neuron_traces(
    drive: np.ndarray, current: np.ndarray, voltage: np.ndarray, spikes: np.ndarray, threshold: float, title: str = ""
) -> Figure:
    """Draw a neuron over time: its input, current and voltage, and its spikes as marks above the axes of the voltage.

    The axis of the voltage reaches at most four times as far below zero as above it; lower values are cut off.

    Parameters
    ----------
    drive, current, voltage, spikes : arrays [T]
        Weighted input, current and voltage in real units, and spikes as 0 or 1.
    threshold : float
        Threshold voltage, drawn as a dashed line.
    title : str
        Title of the figure.
    """
    steps = np.arange(len(drive))
    fig, (top, middle, low) = plt.subplots(3, 1, figsize=(9, 4.6), sharex=True, height_ratios=(1, 1.2, 2))
    top.vlines(steps[drive != 0], 0, drive[drive != 0], color=SLATE, lw=2)
    top.set(ylabel="input $a[t]$")
    middle.step(steps, current, where="post", color=SLATE)
    middle.set(ylabel="current $u[t]$")
    low.step(steps, voltage, where="post", color=INK)
    low.axhline(threshold, color=INK, ls="--", lw=1)
    low.text(len(drive), threshold, r" threshold $\vartheta$", va="center", fontsize=9)
    highest = 1.15 * max(threshold, float(np.max(voltage)))
    fired = steps[np.asarray(spikes) > 0]
    above = low.get_xaxis_transform()  # in these coordinates, the axes are 1 high
    low.plot(fired + 0.5, np.full(len(fired), 1.05), "|", color=INK, ms=10, mew=2, transform=above, clip_on=False)
    low.text(len(drive), 1.05, f" {len(fired)} spikes", va="center", fontsize=9, transform=above)
    lowest = max(1.08 * min(0.0, float(np.min(voltage))), -4 * highest)  # otherwise the threshold could not be seen
    low.set(ylabel="voltage $v[t]$", xlabel="time (ms)", xlim=(0, len(drive)), ylim=(lowest, highest))
    for ax in (top, middle, low):
        ax.axhline(0, color=LIGHT, lw=0.8, zorder=0)
    fig.suptitle(title, fontsize="medium")
    return fig
