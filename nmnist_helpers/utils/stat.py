"""Loss and accuracy of one part of the data: of the current epoch and of all finished ones."""

import math
from collections.abc import Callable, Sequence


class LearningStat:
    """Loss and accuracy of one part of the data, epoch by epoch.

    Attributes
    ----------
    loss_sum : float
        Sum of the losses of all samples in the current epoch; add to it.
    num_samples : int
        Number of samples in the current epoch; add to it.
    correct_samples : float
        Number of correct answers in the current epoch; add to it. It need not be whole: it may be the sum of the
        samples' scores. If never set, there is no accuracy (regression).
    loss_log, accuracy_log : list of float or None
        One entry per closed epoch; None if it had no samples (or, for the accuracy, if no answers were counted).
    loss_str, loss_unit, accuracy_str, accuracy_unit : str
        Names and units of loss and accuracy.

    Examples
    --------
    >>> stat = LearningStat()
    >>> stat.num_samples += 4; stat.loss_sum += 2.0; stat.correct_samples += 3
    >>> stat.loss, stat.accuracy
    (0.5, 0.75)
    """

    def __init__(
        self, loss_str: str = "loss", loss_unit: str = "", accuracy_str: str = "accuracy", accuracy_unit: str = ""
    ):
        self.loss_str, self.loss_unit = loss_str, loss_unit
        self.accuracy_str, self.accuracy_unit = accuracy_str, accuracy_unit
        self.loss_log: list[float | None] = []
        self.accuracy_log: list[float | None] = []
        self.together: list[LearningStat] = []  # the parts of a `LearningStats`, whose epochs begin and end together
        self.reset()

    def reset(self) -> None:
        """Discard the current epoch; the logs stay."""
        self.loss_sum = 0.0
        self.num_samples = 0
        self._correct: float | None = None

    @property
    def correct_samples(self) -> float:
        """Number of correct answers in the current epoch."""
        return 0 if self._correct is None else self._correct

    @correct_samples.setter
    def correct_samples(self, count: float) -> None:
        self._correct = float(count)  # accepts a tensor too, without keeping its graph alive

    @property
    def loss(self) -> float | None:
        """Mean loss of the current epoch; None before its first sample."""
        return float(self.loss_sum) / self.num_samples if self.num_samples else None

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers in the current epoch; None before its first sample, or in regression."""
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
        """Whether this epoch's loss is lower than those of all earlier epochs; see `best_accuracy`."""
        return self._is_best(self.loss, self.loss_log, min)

    @property
    def best_accuracy(self) -> bool:
        """Whether this epoch's accuracy is higher than those of all earlier epochs.

        "This epoch" is the current one if it has samples, else the one that `update` closed last. The value is
        therefore the same before and after `update`. An epoch in which other parts have samples and this one has none
        is not the best.
        """
        return self._is_best(self.accuracy, self.accuracy_log, max)

    def _is_best(self, now: float | None, log: list, best: Callable) -> bool:
        earlier = log
        if not self.num_samples:
            if any(part.num_samples for part in self.together):
                return False  # this epoch has begun, without samples for this part
            now, earlier = (log[-1], log[:-1]) if log else (None, [])
        if now is None or math.isnan(now):
            return False
        mark = _best_of(earlier, best)
        return mark is None or (now != mark and best(now, mark) == now)

    def update(self) -> None:
        """Close the current epoch: append its loss and accuracy to the logs and start the next one."""
        self.loss_log.append(self.loss)
        self.accuracy_log.append(self.accuracy)
        self.reset()

    def line(self, closed: bool = False) -> str:
        """Describe the current epoch (or, with `closed`, the last closed one) and the best values of closed epochs."""
        loss, accuracy = self.loss, self.accuracy
        if closed:
            loss = self.loss_log[-1] if self.loss_log else None
            accuracy = self.accuracy_log[-1] if self.accuracy_log else None
        if loss is None:
            return ""
        line = f"{self.loss_str} = {loss:11.5f}"
        if self.min_loss is not None:
            line += f" (min = {self.min_loss:11.5f})"
        line += f" {self.loss_unit}" if self.loss_unit else ""
        if accuracy is not None:
            line += f"    {self.accuracy_str} = {accuracy:7.5f}"
            if self.max_accuracy is not None:
                line += f" (max = {self.max_accuracy:7.5f})"
            line += f" {self.accuracy_unit}" if self.accuracy_unit else ""
        return line

    def __str__(self) -> str:
        return self.line()


def _best_of(log: Sequence[float | None], best: Callable) -> float | None:
    known = [value for value in log if value is not None and not math.isnan(value)]
    return best(known) if known else None
