"""Figures of answers and mistakes: confusion matrices, rows of recordings, and marks at the saccades."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..camera import BURSTS, SACCADES
from .frames import Recording
from .plots import POLARITY, event_map, picture_axes


def mark_saccades(ax: Axes) -> None:
    """Draw dashed lines at the times (in ms) at which the events of the second and third saccades begin."""
    for begin in BURSTS[1:]:
        ax.axvline(begin, color="0.75", ls="--", lw=1, zorder=0)


def event_rows(events: Sequence[Recording], titles: Sequence[str], columns: int = 10) -> Figure:
    """Draw the first saccade of each recording in rows of pictures, with ON and OFF events in their colours.

    Parameters
    ----------
    events : sequence of Event
    titles : sequence of str
        One title for each picture.
    columns : int
        Number of pictures in a row.

    Raises
    ------
    ValueError
        If there is not one title for each recording, and under the conditions of `plots.event_map`.
    """
    if len(titles) != len(events):
        raise ValueError(f"event_rows: expected a title for each of {len(events)} recordings, found {len(titles)}")
    rows = max(1, -(-len(events) // columns))
    fig, axes = plt.subplots(rows, columns, figsize=(1.1 * columns, 1.45 * rows), squeeze=False)
    picture_axes(axes)
    for ax, event, title in zip(axes.flat, events, titles, strict=False):
        off, on = event_map(event, 0, SACCADES[1])
        most = max(1, np.quantile(abs(on - off), 0.99))  # no single busy pixel makes the others pale
        ax.imshow(on - off, POLARITY, vmin=-most, vmax=most)
        ax.set_title(title, fontsize=9)
    return fig


def show_confusion(ax: Axes, confusion: np.ndarray, title: str = "", shown: str = "digit shown") -> None:
    """Draw a confusion matrix of recordings, in which zeros are left empty.

    Parameters
    ----------
    ax : matplotlib Axes
    confusion : int array [C, C]
        Number of recordings by class shown (rows) and answer (columns).
    title : str
        Title of the axes.
    shown : str
        Label of the rows.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    ConfusionMatrixDisplay(np.asarray(confusion)).plot(ax=ax, cmap="Greys", colorbar=False)
    size = min(10, 130 / len(confusion))  # numbers of more classes would touch each other
    ax.tick_params(labelsize=size)
    for text in ax.texts:
        text.set(visible=text.get_text() != "0", fontsize=size)
    ax.set(xlabel="answer", ylabel=shown, title=title)
    ax.spines[:].set_visible(True)


def confused_pairs(confusion: np.ndarray, most: int = 3) -> list[tuple[int, int, int]]:
    """Find the most frequent mistakes in a confusion matrix.

    Parameters
    ----------
    confusion : int array [C, C]
    most : int
        Largest number of pairs.

    Returns
    -------
    list of (int, int, int)
        Class shown, answer and count, the most frequent pair first; pairs that do not occur are left out.
    """
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    pairs = [(*divmod(int(i), len(wrong)), int(wrong.flat[i])) for i in np.argsort(-wrong, axis=None, kind="stable")]
    return [pair for pair in pairs[:most] if pair[2]]
