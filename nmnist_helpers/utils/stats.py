"""Losses and accuracies of training, validation and testing: printed, plotted, saved."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .logs import PARTS, length_of, read_log, write_log
from .stat import LearningStat

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LearningStats:
    """Statistics of training, validation and testing.

    Parameters
    ----------
    loss_str, accuracy_str : str
        What loss and accuracy are called: in the lines, on the axes and as names of the files.
    loss_unit, accuracy_unit : str
        Their units.

    Attributes
    ----------
    training, validation, testing : LearningStat

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
        names = (loss_str, loss_unit, accuracy_str, accuracy_unit)
        self.training, self.validation, self.testing = (LearningStat(*names) for _ in PARTS)
        self.new_line()

    def _parts(self) -> list[LearningStat]:
        return [getattr(self, part) for part in PARTS]

    def update(self) -> None:
        """Close the epoch of all three parts; call it once at the end of every epoch."""
        for stat in self._parts():
            stat.update()

    def reset(self) -> None:
        """Forget the running epoch of all three parts; the logs stay."""
        for stat in self._parts():
            stat.reset()

    def __str__(self) -> str:
        """One line: of every part the running epoch, or before its first sample the last closed one.

        So a line is never shorter than the one before it, over which loops print it.
        """
        lines = ((name, getattr(self, part)) for part, name in PARTS.items())
        lines = ((name, stat.line(closed=not stat.num_samples)) for name, stat in lines)
        return " | ".join(f"{name:5s} {line}" for name, line in lines if line)

    def new_line(self) -> None:
        """Let the next `print` begin below what is there instead of replacing it."""
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
        """Show the statistics, in place of what the last call showed.

        A notebook's output and a terminal's lines are replaced; anything else, a log file say, gets new lines.

        Parameters
        ----------
        epoch : int
            Its number.
        iter : int, optional
            Number of the batch within the epoch, from 0.
        time_elapsed : float, optional
            Seconds, shown in ms.
        header : list of str, optional
            Lines to go before.
        dataloader : DataLoader or EventLoader, optional
            With `iter`: how much of it has been seen.
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
                sys.stdout.write(f"\033[{self._lines_printed}A\r\033[J")  # up, and clear what is below
            self._lines_printed = sum(line.count("\n") + 1 for line in lines)
        print("\n".join(lines), flush=True)

    def _show_in_notebook(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text}
        if self._display is None:
            self._display = display(data, raw=True, display_id=True)
        else:
            self._display.update(data, raw=True)

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
            Numbers of two pyplot figures, one for the loss and one for the accuracy. By default both are drawn side
            by side in one figure.
        figsize : (float, float), optional
            Width and height in inches.
        path : path-like, optional
            A folder, which gets ``loss.png`` and ``accuracy.png``, or a file (``curves.svg``) for both side by side.

        Returns
        -------
        matplotlib.figure.Figure, or two of them with `figures`
            Open in pyplot; a notebook shows it once, ``plt.show()`` shows it elsewhere.
        """
        from ..pictures.curves import plot_curves

        return plot_curves(self, figures, figsize, path)

    def _files(self, folder: str | os.PathLike) -> dict[str, Path]:
        """Attribute of the logs and the file that holds them."""
        names = {"loss_log": self.training.loss_str, "accuracy_log": self.training.accuracy_str}
        return {log: Path(folder) / f"{name}.txt" for log, name in names.items()}

    def save(self, path: str | os.PathLike = "") -> None:
        """Write the logs of the closed epochs as text, ``loss.txt`` and ``accuracy.txt``.

        One line an epoch, columns as the first line says, ``nan`` where there is no number; full precision.

        Parameters
        ----------
        path : path-like
            Folder, with or without a slash at its end; made if it is missing.
        """
        for log, file in self._files(path).items():
            write_log(file, [getattr(stat, log) for stat in self._parts()])

    def load(self, path: str | os.PathLike = "") -> None:
        """Read what `save` wrote (or lava-dl did) in place of the logs; the running epoch is forgotten.

        Parameters
        ----------
        path : path-like
            Folder.

        Raises
        ------
        FileNotFoundError
            If ``loss.txt`` is missing. Without ``accuracy.txt`` there are no accuracies.
        ValueError
            Naming the file and line that is not as expected. This object is then as it was.
        """
        files = self._files(path)
        logs = {"loss_log": read_log(files["loss_log"])}
        epochs = length_of(logs["loss_log"])
        accuracy = files["accuracy_log"]
        logs["accuracy_log"] = read_log(accuracy) if accuracy.exists() else {}
        if logs["accuracy_log"]:
            # A save that was broken off between its two files leaves one of them an epoch ahead.
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
    """How far the epoch is: samples of the loader where it tells, else batches, else the batch's number."""
    if dataloader is None:
        return f"batch {iter:5d}"
    batches = len(dataloader)
    share = f"({100 * (iter + 1) / max(1, batches):.0f}%)"
    batch_size, dataset = getattr(dataloader, "batch_size", None), getattr(dataloader, "dataset", None)
    if not batch_size or dataset is None:
        return f"batch {iter + 1}/{batches} {share}"
    samples = len(dataset)
    return f"{min((iter + 1) * batch_size, samples):{len(str(samples))}d}/{samples} {share}"


def _in_notebook() -> bool:
    """Whether output goes to a notebook: Jupyter's kernel, or one derived from it (Colab, Databricks)."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    if kernel is None:
        return False
    from IPython import get_ipython

    return isinstance(get_ipython(), kernel.ZMQInteractiveShell)
