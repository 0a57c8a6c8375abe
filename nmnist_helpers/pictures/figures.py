"""Figures that several notebooks share: still pictures of events, mistakes in a table, marks of the saccades."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from ..camera import BURSTS, SACCADES
from .frames import OFF_COLOR, ON_COLOR, Recording, sensor_size

#: Blue where OFF events prevail, orange where ON events do.
POLARITY = LinearSegmentedColormap.from_list("polarity", [OFF_COLOR, "white", ON_COLOR])


def mark_saccades(ax: Axes) -> None:
    """Draw dashed lines at the times, in ms, at which the events of the second and third saccade begin."""
    for begin in BURSTS[1:]:
        ax.axvline(begin, color="0.8", ls="--", lw=1, zorder=0)


def event_map(event: Recording, until: float = SACCADES[1]) -> np.ndarray:
    """Count a recording's ON events less its OFF events, pixel by pixel.

    Parameters
    ----------
    event : Event
        2-D.
    until : float
        ms; by default the end of the first saccade, after which the digit is at another place.

    Returns
    -------
    int array [H, W]
    """
    image = np.zeros(sensor_size(event), np.int64)
    early = event.t < until
    np.add.at(image, (event.y[early], event.x[early]), np.where(event.c[early] > 0, 1, -1))
    return image


def show_events(events: Sequence[Recording], titles: Sequence[str], columns: int = 10) -> None:
    """Draw the first saccade of recordings in rows, ON events in orange and OFF events in blue.

    Parameters
    ----------
    events : sequence of Event
    titles : sequence of str
        One above each picture.
    columns : int
        Pictures in a row.
    """
    rows = max(1, -(-len(events) // columns))
    fig, axes = plt.subplots(rows, columns, figsize=(1.15 * columns, 1.4 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, event, title in zip(axes.flat, events, titles, strict=False):
        image = event_map(event)
        most = max(1, np.quantile(abs(image), 0.99))  # a single busy pixel does not make the others pale
        ax.imshow(image, POLARITY, vmin=-most, vmax=most)
        ax.set_title(title, fontsize=9)
    fig.tight_layout()


def show_confusion(ax: Axes, confusion: np.ndarray, title: str = "") -> None:
    """Draw a confusion matrix: rows are digits shown, columns answers; numbers are recordings."""
    from sklearn.metrics import ConfusionMatrixDisplay

    ConfusionMatrixDisplay(np.asarray(confusion)).plot(ax=ax, cmap="Blues", colorbar=False)
    for text in ax.texts:
        if text.get_text() == "0":  # the mistakes stand out
            text.set_visible(False)
    ax.set(xlabel="answer", ylabel="digit shown", title=title)


def confused_pairs(confusion: np.ndarray, most: int = 3) -> list[tuple[int, int, int]]:
    """Find the commonest mistakes of a confusion matrix.

    Parameters
    ----------
    confusion : int array [10, 10]
    most : int
        How many pairs at most.

    Returns
    -------
    list of (int, int, int)
        Digit shown, answer, and how often, the commonest first; pairs that do not occur are left out.
    """
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    pairs = [(*divmod(int(i), len(wrong)), int(wrong.flat[i])) for i in np.argsort(-wrong, axis=None, kind="stable")]
    return [pair for pair in pairs[:most] if pair[2]]
