"""Losses and accuracies: of the running epoch, of all closed ones, printed, plotted, saved."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Attribute of `LearningStats` and how its lines and columns are headed.
PARTS = {"training": "Train", "validation": "Valid", "testing": "Test"}
FILES = {"loss_log": "loss.txt", "accuracy_log": "accuracy.txt"}


class LearningStat:
    """Loss and accuracy of one part of the data, epoch by epoch.

    Attributes
    ----------
    loss_sum : float
        Sum over the running epoch's samples of their losses; add to it.
    num_samples : int
        Samples seen in the running epoch; add to it.
    correct_samples : int
        Correct answers in the running epoch; add to it. Never touched, there is no accuracy (regression).
    loss_log, accuracy_log : list of float or None
        One entry for every closed epoch; None where it saw no samples (or, for accuracy, counted no answers).

    Examples
    --------
    >>> stat = LearningStat()
    >>> stat.num_samples += 4; stat.loss_sum += 2.0; stat.correct_samples += 3
    >>> stat.loss, stat.accuracy
    (0.5, 0.75)
    """

    def __init__(self):
        self.loss_log: list[float | None] = []
        self.accuracy_log: list[float | None] = []
        self.reset()

    def reset(self) -> None:
        """Forget the running epoch; the logs stay."""
        self.loss_sum = 0.0
        self.num_samples = 0
        self._correct: int | None = None

    @property
    def correct_samples(self) -> int:
        """Correct answers in the running epoch."""
        return 0 if self._correct is None else self._correct

    @correct_samples.setter
    def correct_samples(self, count: int) -> None:
        self._correct = int(count)  # a tensor is welcome, and does not keep its graph alive

    @property
    def loss(self) -> float | None:
        """Mean loss of the running epoch; None before its first sample."""
        return float(self.loss_sum) / self.num_samples if self.num_samples else None

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers in the running epoch; None before its first sample, or in regression."""
        return self._correct / self.num_samples if self.num_samples and self._correct is not None else None

    @property
    def min_loss(self) -> float | None:
        """Lowest loss of the closed epochs."""
        return _best_of(self.loss_log, min)

    @property
    def max_accuracy(self) -> float | None:
        """Highest accuracy of the closed epochs."""
        return _best_of(self.accuracy_log, max)

    @property
    def best_loss(self) -> bool:
        """Whether this epoch's loss is below all earlier ones; see `best_accuracy`."""
        return self._is_best(self.loss, self.loss_log, min)

    @property
    def best_accuracy(self) -> bool:
        """Whether this epoch's accuracy is above all earlier ones.

        "This epoch" is the running one as soon as it has samples, else the one that `update` closed last:
        the answer is the same before and after `update`.
        """
        return self._is_best(self.accuracy, self.accuracy_log, max)

    def _is_best(self, now: float | None, log: list, best: Callable) -> bool:
        earlier = log
        if not self.num_samples:
            now, earlier = (log[-1], log[:-1]) if log else (None, [])
        if now is None or math.isnan(now):
            return False
        mark = _best_of(earlier, best)
        return mark is None or (now != mark and best(now, mark) == now)

    def update(self) -> None:
        """Close the running epoch: write its loss and accuracy into the logs and start the next one."""
        self.loss_log.append(self.loss)
        self.accuracy_log.append(self.accuracy)
        self.reset()

    def _line(self, closed: bool = False) -> str:
        """The running epoch against the best of the closed ones; with `closed`, the last closed one."""
        loss, accuracy = self.loss, self.accuracy
        if closed:
            loss = self.loss_log[-1] if self.loss_log else None
            accuracy = self.accuracy_log[-1] if self.accuracy_log else None
        if loss is None:
            return ""
        line = f"loss = {loss:11.5f}"
        if self.min_loss is not None:
            line += f" (min = {self.min_loss:11.5f})"
        if accuracy is not None:
            line += f"    accuracy = {accuracy:7.5f}"
            if self.max_accuracy is not None:
                line += f" (max = {self.max_accuracy:7.5f})"
        return line

    def __str__(self) -> str:
        return self._line()


def _best_of(log: Sequence[float | None], best: Callable) -> float | None:
    known = [value for value in log if value is not None and not math.isnan(value)]
    return best(known) if known else None


class LearningStats:
    """Statistics of training, validation and testing.

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

    def __init__(self):
        self.training = LearningStat()
        self.validation = LearningStat()
        self.testing = LearningStat()
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
        lines = ((name, stat._line(closed=not stat.num_samples)) for name, stat in lines)
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

    def plot(self, figsize: tuple[float, float] | None = None, path: str | os.PathLike | None = None) -> "Figure":
        """Draw loss and accuracy over the closed epochs, side by side.

        Parameters
        ----------
        figsize : (float, float), optional
            Width and height in inches.
        path : path-like, optional
            A file (``curves.png``, ``curves.svg``) or a folder, which gets ``curves.png``.

        Returns
        -------
        matplotlib.figure.Figure
            Open in pyplot; a notebook shows it once, ``plt.show()`` shows it elsewhere.
        """
        from ..pictures.curves import plot_curves

        return plot_curves(self, figsize, path)

    def save(self, path: str | os.PathLike = "") -> None:
        """Write the logs of the closed epochs as text, ``loss.txt`` and ``accuracy.txt``.

        One line an epoch, columns as the first line says, ``nan`` where there is no number; full precision.

        Parameters
        ----------
        path : path-like
            Folder, with or without a slash at its end; made if it is missing.
        """
        for log, name in FILES.items():
            columns = [getattr(stat, log) for stat in self._parts()]
            rows = ["# " + " ".join(f"{head:>22s}" for head in PARTS.values())[2:]]
            for row in zip(*columns, strict=True):
                rows.append(" ".join(f"{'nan' if value is None else repr(float(value)):>22s}" for value in row))
            with atomic(Path(path) / name) as temporary:
                temporary.write_text("\n".join(rows) + "\n")

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
        folder = Path(path)
        logs = {"loss_log": _read_log(folder / FILES["loss_log"])}
        epochs = _length(logs["loss_log"])
        accuracy = folder / FILES["accuracy_log"]
        logs["accuracy_log"] = _read_log(accuracy) if accuracy.exists() else {}
        if logs["accuracy_log"]:
            # A save that was broken off between its two files leaves one of them an epoch ahead.
            found = _length(logs["accuracy_log"])
            if abs(found - epochs) > 1:
                raise ValueError(f"{accuracy}: expected {epochs} epochs as loss.txt has, found {found}")
            epochs = min(found, epochs)
        for part in PARTS:
            stat = getattr(self, part)
            for log, columns in logs.items():
                setattr(stat, log, columns.get(part, [None] * epochs)[:epochs])
            stat.reset()


def _length(columns: dict[str, list]) -> int:
    return len(next(iter(columns.values()), []))


def _read_log(file: Path) -> dict[str, list[float | None]]:
    """Columns of a log by the part they belong to."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: expected text, found other bytes") from None
    lines = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    parts = {name: part for part, name in PARTS.items()}
    heads = [word for word in (lines[0][1] if lines else []) if word != "#"]
    if not lines or not lines[0][1][0].startswith("#") or len(set(heads)) < len(heads) or not set(heads) <= set(parts):
        raise ValueError(f"{file}: expected a first line like '# {' '.join(parts)}', found no such heads")
    columns: dict[str, list[float | None]] = {parts[head]: [] for head in heads}
    for number, words in lines[1:]:
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != len(heads):
            raise ValueError(f"{file}, line {number}: expected {len(heads)} numbers, found {' '.join(words)!r}")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(None if math.isnan(value) else value)
    return columns


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
    """Whether output goes to a Jupyter front end."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


__all__ = ["LearningStat", "LearningStats"]
