"""Learning curves as a picture."""

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..files import atomic

#: Part of the statistics -> label and colour; training recedes, what counts stands out.
STYLE = {
    "training": ("training", {"color": "0.6", "lw": 1.5}),
    "validation": ("validation", {"color": "tab:orange", "lw": 1.8}),
    "testing": ("testing", {"color": "tab:blue", "lw": 1.8}),
}


class CurveFigure(Figure):
    """A figure that a notebook shows once, also as the last value of a cell.

    Jupyter would show it twice there: as a value, and as an open figure of pyplot at the end of the cell.
    """

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display

        picture = io.BytesIO()
        self.savefig(picture, format="png")
        display(Image(picture.getvalue()))
        plt.close(self)  # as a value it comes first: nothing is left open for the end of the cell


def plot_curves(stats, figsize: tuple[float, float] | None = None, path: str | os.PathLike | None = None) -> Figure:
    """Draw loss and accuracy of a `LearningStats` over its epochs; see `LearningStats.plot`."""
    fig = plt.figure(FigureClass=CurveFigure, figsize=figsize or (11, 4), layout="constrained")
    losses, accuracies = fig.subplots(1, 2)
    for part, (label, style) in STYLE.items():
        stat = getattr(stats, part)
        _curve(losses, stat.loss_log, stat.min_loss, label, style, "{:.4f}")
        _curve(accuracies, stat.accuracy_log, stat.max_accuracy, label, style, "{:.2%}")
    if losses.lines and all(value > 0 for line in losses.lines for value in line.get_ydata() if value == value):
        losses.set_yscale("log")
    losses.set(xlabel="epoch", ylabel="loss")
    accuracies.set(xlabel="epoch", ylabel="accuracy")
    accuracies.yaxis.set_major_formatter("{x:.0%}")
    for ax in (losses, accuracies):
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if ax.lines:
            ax.legend(frameon=False)
    if path is not None:
        path = Path(path)
        with atomic(path if path.suffix else path / "curves.png") as temporary:
            fig.savefig(temporary, dpi=100)
    return fig


def _curve(ax, log: list, best: float | None, label: str, style: dict, form: str) -> None:
    """One curve with a dot at its best epoch; nothing where no epoch has a number."""
    if best is None:
        return
    values = [float("nan") if value is None else value for value in log]
    (line,) = ax.plot(
        values, label=f"{label} (best {form.format(best)})", marker="." if len(log) < 3 else None, **style
    )
    ax.plot(values.index(best), best, "o", ms=5, color=line.get_color(), label="_best")


__all__ = ["CurveFigure", "plot_curves"]
