"""Learning curves as a picture."""

import os
import weakref
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..files import atomic
from ..paths import expanded
from .live import picture
from .palette import GREY, INK, SLATE

#: Styles of the curves by part of the data. Validation and testing stand out against training.
STYLE = {
    "training": {"color": GREY, "lw": 1.5},
    "validation": {"color": INK, "lw": 1.8},
    "testing": {"color": SLATE, "lw": 1.8, "ls": "--"},
}
FIGSIZE = (11, 4)  # of both panels side by side, in inches

#: The figure last drawn for each statistics object: a loop that plots every epoch replaces it.
_figures: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class CurveFigure(Figure):
    """A figure that a notebook shows only once, even as the last value of a cell.

    Jupyter would otherwise show it twice: as that value, and as an open pyplot figure at the end of the cell.
    """

    alt = "learning curves"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(picture(self, self.alt))  # this closes the figure, so that it is not shown again


def plot_curves(
    stats,
    figures: tuple[int, int] | None = None,
    figsize: tuple[float, float] | None = None,
    path: str | os.PathLike | None = None,
) -> Figure | tuple[Figure, ...]:
    """Draw the loss and the accuracy of a `LearningStats` over its epochs; see `LearningStats.plot`."""
    how: dict[str, Any] = {"FigureClass": CurveFigure, "layout": "constrained"}
    if figures is None:
        before = _figures.get(stats, lambda: None)()
        if before is not None:
            plt.close(before)
        shown: tuple[Any, ...] = (plt.figure(figsize=figsize or FIGSIZE, **how),)
        panels = shown[0].subplots(1, 2)
        _figures[stats] = weakref.ref(shown[0])
    else:
        for number in figures:
            plt.close(number)  # start afresh instead of drawing over an earlier figure
        shown = tuple(plt.figure(number, figsize=figsize, **how) for number in figures)
        panels = [fig.subplots() for fig in shown]
    _draw_panels(panels, stats)
    for fig in shown:
        fig.alt = "Learning curves. " + " ".join(map(_describe, fig.axes))
    if path is not None:
        _save(stats, shown, figsize, expanded(path))
    return shown if figures is not None else shown[0]


def save_curves(stats, path: Path) -> None:
    """Save loss and accuracy side by side, as `plot_curves` does, but without pyplot, which may open a window."""
    figure = Figure(figsize=FIGSIZE, layout="constrained")
    _draw_panels(figure.subplots(1, 2), stats)
    _write(figure, path)


def _save(stats, shown: tuple[Figure, ...], figsize: tuple[float, float] | None, path: Path) -> None:
    """Save one picture if `path` has the suffix of one; save loss and accuracy separately if it is a folder."""
    if path.suffix.removeprefix(".").lower() in shown[0].canvas.get_supported_filetypes() and not path.is_dir():
        if len(shown) > 1:
            raise ValueError(f"stats.plot: expected a folder for two figures, found the file {path}")
        pictures = {path: shown[0]}
    else:
        pictures = {}
        for kind in ("loss", "accuracy"):
            pictures[path / f"{kind}.png"] = figure = Figure(figsize=figsize, layout="constrained")
            _draw_panel(figure.subplots(), stats, kind)
    for file, figure in pictures.items():
        _write(figure, file)


def _write(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)


def label_log_axis(axis: Axis) -> None:
    """Give a logarithmic axis, with its curves drawn, plain numbers (0.1, 0.2, 0.5, ...) instead of powers of ten."""
    low, high = axis.get_view_interval()
    digits: tuple[float, ...] = (1.0, 2.0, 5.0)  # with which the labelled numbers begin
    if high < 12 * low:
        digits = (1.0, 2.0, 3.0, 4.0, 6.0)
    elif high >= 1e4 * low:
        digits = (1.0,)
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _draw_panels(axes, stats) -> None:
    """Draw the loss on the first of two axes and the accuracy on the second."""
    for ax, kind in zip(axes, ("loss", "accuracy"), strict=True):
        _draw_panel(ax, stats, kind)


def _draw_panel(ax, stats, kind: str) -> None:
    """Draw the loss or the accuracy of all parts of the data, each with a dot at its best epoch."""
    write = "{:.4f}".format if kind == "loss" else lambda share: f"{100 * share:.2f} %"
    for part, style in STYLE.items():
        stat = getattr(stats, part)
        best = stat.min_loss if kind == "loss" else stat.max_accuracy
        if best is None:  # no epoch has a value
            continue
        values = [float("nan") if value is None else value for value in getattr(stat, f"{kind}_log")]
        ax.plot(values, label=f"{part} (best {write(best)})", marker="." if len(values) < 3 else None, **style)
        ax.plot(values.index(best), best, "o", ms=5, color=style["color"], label="_best")
    if kind == "accuracy":
        ax.yaxis.set_major_formatter(_per_cent)
    elif ax.lines and all(value > 0 for line in ax.lines for value in line.get_ydata() if value == value):
        ax.set_yscale("log")
        label_log_axis(ax.yaxis)
    unit = getattr(stats.training, f"{kind}_unit")
    ax.set(xlabel="epoch", ylabel=f"{getattr(stats.training, f'{kind}_str')} {unit}".strip())
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if ax.lines:
        ax.legend(frameon=False)


def _per_cent(share: float, _=None) -> str:
    """Return a share in per cent without decimals that are 0. (A figure can be pickled, unlike one with a lambda.)"""
    return f"{100 * share:g} %"


def _describe(ax) -> str:
    """Describe a panel for the figure's alternative text."""
    curves = ", ".join(line.get_label() for line in ax.lines if not line.get_label().startswith("_"))
    return f"{ax.get_ylabel().capitalize()} over the epochs: {curves or 'no curve'}."
