"""Losses and accuracies of training, validation and testing: printed, plotted, saved."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ..paths import expanded
from .logs import PARTS, length_of, read_log, write_log
from .stat import LearningStat

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LearningStats:
    """Statistics of training, validation and testing.

    Parameters
    ----------
    loss_str, accuracy_str : str
        Names of loss and accuracy in printed lines, on axes and in the file names of `save`.
    loss_unit, accuracy_unit : str
        Units of loss and accuracy.

    Attributes
    ----------
    training, validation, testing : LearningStat

    Raises
    ------
    ValueError
        If the names of loss and accuracy are the same, or if one cannot be a file's name.

    Examples
    --------
    >>> stats = LearningStats()
    >>> stats.training.num_samples += 4; stats.training.loss_sum += 2.0; stats.training.correct_samples += 3
    >>> print(stats)
    Train loss =     0.50000    accuracy = 0.75000
    >>> stats.update()
    >>> stats.training.accuracy_log
    [0.75]
    """

    def __init__(
        self, loss_str: str = "loss", loss_unit: str = "", accuracy_str: str = "accuracy", accuracy_unit: str = ""
    ):
        for name in (loss_str, accuracy_str):
            if not name or Path(name).name != name:
                raise ValueError(f"LearningStats: expected a name that a file can have, found {name!r}")
        if loss_str.lower() == accuracy_str.lower():
            raise ValueError(f"LearningStats: expected different names for loss and accuracy, found {loss_str!r} twice")
        names = (loss_str, loss_unit, accuracy_str, accuracy_unit)
        self.training, self.validation, self.testing = (LearningStat(*names) for _ in PARTS)
        for stat in self._parts():
            stat.together = self._parts()
        self.new_line()

    def _parts(self) -> list[LearningStat]:
        return [getattr(self, part) for part in PARTS]

    def update(self) -> None:
        """Close the current epoch of all three parts; call this once at the end of every epoch."""
        for stat in self._parts():
            stat.update()

    def reset(self) -> None:
        """Discard the current epoch of all three parts; the logs stay."""
        for stat in self._parts():
            stat.reset()

    def __str__(self) -> str:
        """Describe in one line each part's current epoch, or its last closed one if the current one has no samples.

        A line is therefore never shorter than the previous one, which a loop overwrites with it.
        """
        lines = ((name, getattr(self, part)) for part, name in PARTS.items())
        lines = ((name, stat.line(closed=not stat.num_samples)) for name, stat in lines)
        return " | ".join(f"{name:5s} {line}" for name, line in lines if line)

    def new_line(self) -> None:
        """Let the next `print` start below the previous output instead of replacing it."""
        self._lines_printed = 0
        self._display = None

    def print(
        self,
        epoch: int,
        iter: int | None = None,
        time_elapsed: float | None = None,
        header: Sequence[str] | str | None = None,
        dataloader=None,
    ) -> None:
        """Print the statistics, replacing the output of the previous call.

        The output is replaced in a notebook and in a terminal. Elsewhere, such as in a log file, lines are appended.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        iter : int, optional
            Number of the batch within the epoch, from 0.
        time_elapsed : float, optional
            Elapsed time in seconds; it is shown in ms.
        header : list of str, optional
            Lines to print first.
        dataloader : DataLoader or EventLoader, optional
            Source of the batches. With `iter`, the share that has been processed is shown.
        """
        head = f"Epoch {epoch:4d}"
        if iter is not None:
            head += f": {_progress(iter, dataloader)}"
        if time_elapsed is not None:
            head += f", {time_elapsed * 1000:.4f} ms elapsed"
        before = [header] if isinstance(header, str) else list(header or [])
        lines = [*map(str, before), head, *str(self).split(" | ")]
        if _in_notebook():
            self._show_in_notebook("\n".join(lines))
            return
        if sys.stdout.isatty():
            if self._lines_printed:
                sys.stdout.write(f"\033[{self._lines_printed}A\r\033[J")  # go up and clear the old lines
            self._lines_printed = sum(line.count("\n") + 1 for line in lines)
        print("\n".join(lines), flush=True)

    def _show_in_notebook(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text}
        if self._display is None:
            self._display = display(data, raw=True, display_id=True)
        else:
            self._display.update(data, raw=True)

    @overload
    def plot(
        self, figures: None = None, figsize: tuple[float, float] | None = None, path: str | os.PathLike | None = None
    ) -> "Figure": ...

    @overload
    def plot(
        self,
        figures: tuple[int, int],
        figsize: tuple[float, float] | None = None,
        path: str | os.PathLike | None = None,
    ) -> "tuple[Figure, ...]": ...

    def plot(
        self,
        figures: tuple[int, int] | None = None,
        figsize: tuple[float, float] | None = None,
        path: str | os.PathLike | None = None,
    ) -> "Figure | tuple[Figure, ...]":
        """Draw loss and accuracy over the closed epochs.

        Parameters
        ----------
        figures : (int, int), optional
            Numbers of two pyplot figures, one for the loss and one for the accuracy. By default, both are drawn side
            by side in one figure, which replaces that of the last call.
        figsize : (float, float), optional
            Width and height in inches.
        path : path-like, optional
            A folder for ``loss.png`` and ``accuracy.png``, or a file such as ``curves.svg`` for both side by side.

        Returns
        -------
        matplotlib.figure.Figure, or two of them with `figures`
            Left open in pyplot. A notebook shows it once; ``plt.show()`` shows it elsewhere.
        """
        from ..pictures.curves import plot_curves

        return plot_curves(self, figures, figsize, path)

    def _files(self, folder: str | os.PathLike) -> dict[str, Path]:
        """Return the file of each log by the name of the log's attribute."""
        names = {"loss_log": self.training.loss_str, "accuracy_log": self.training.accuracy_str}
        return {log: expanded(folder) / f"{name}.txt" for log, name in names.items()}

    def save(self, path: str | os.PathLike = "") -> None:
        """Write the logs of the closed epochs to the text files ``loss.txt`` and ``accuracy.txt``.

        The first line names the columns; each further line is one epoch. Numbers have full precision, and ``nan``
        stands for a missing one.

        Parameters
        ----------
        path : path-like
            Folder, with or without a trailing slash; created if it is missing.
        """
        for log, file in self._files(path).items():
            write_log(file, [getattr(stat, log) for stat in self._parts()])

    def load(self, path: str | os.PathLike = "") -> None:
        """Replace the logs with those that `save` (or lava-dl) wrote, and discard the current epoch.

        Parameters
        ----------
        path : path-like
            Folder.

        Raises
        ------
        FileNotFoundError
            If ``loss.txt`` is missing. If only ``accuracy.txt`` is missing, there are no accuracies.
        ValueError
            If a file is malformed; the message names the file and, if possible, the line. The logs are then unchanged.
        """
        files = self._files(path)
        logs = {"loss_log": read_log(files["loss_log"])}
        epochs = length_of(logs["loss_log"])
        accuracy = files["accuracy_log"]
        logs["accuracy_log"] = read_log(accuracy) if accuracy.exists() else {}
        if logs["accuracy_log"]:
            # If `save` is interrupted between its two files, one of them is an epoch ahead of the other.
            found = length_of(logs["accuracy_log"])
            if abs(found - epochs) > 1:
                raise ValueError(f"{accuracy}: expected {epochs} epochs as {files['loss_log'].name} has, found {found}")
            epochs = min(found, epochs)
        for part in PARTS:
            stat = getattr(self, part)
            for log, columns in logs.items():
                setattr(stat, log, columns.get(part, [None] * epochs)[:epochs])
            stat.reset()


def _progress(iter: int, dataloader) -> str:
    """Describe the progress of the epoch in samples, or in batches, or (without a length) as the batch's number."""
    try:
        batches = len(dataloader)
    except TypeError:  # there is no loader, or it is one of an IterableDataset
        return f"batch {iter:5d}"
    share = f"({100 * (iter + 1) / max(1, batches):.0f}%)"
    batch_size, dataset = getattr(dataloader, "batch_size", None), getattr(dataloader, "dataset", None)
    if not batch_size or dataset is None:
        return f"batch {iter + 1}/{batches} {share}"
    samples = len(dataset)
    return f"{min((iter + 1) * batch_size, samples):{len(str(samples))}d}/{samples} {share}"


def _in_notebook() -> bool:
    """Return whether output goes to a notebook: to Jupyter's kernel or one derived from it (Colab, Databricks)."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    if kernel is None:
        return False
    from IPython import get_ipython

    return isinstance(get_ipython(), kernel.ZMQInteractiveShell)
