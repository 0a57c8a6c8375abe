"""The answer of a network over time, and when it no longer changes."""

from dataclasses import dataclass

import numpy as np
import torch

from ..table import Table

NO_ANSWER = -1


@dataclass
class Latency(Table):
    """How the answer comes about over time.

    Attributes
    ----------
    accuracy : float array [T]
        Share of right answers after 1, 2, ... T steps; where no output has fired yet, there is no answer.
    answered : float array [T]
        Share of recordings with an answer.
    stable : int array [B]
        Steps until the answer no longer changes, `NO_ANSWER` where there is none to the end.
    title : str
    """

    accuracy: np.ndarray
    answered: np.ndarray
    stable: np.ndarray
    title: str = "the answer over time"

    @property
    def final(self) -> float:
        """Accuracy after all steps."""
        return float(self.accuracy[-1])

    def steps_within(self, margin: float = 0.01) -> int:
        """Steps after which the accuracy stays within `margin` (a share) of the final one."""
        off = np.flatnonzero(np.abs(self.accuracy - self.final) > margin)
        return int(off[-1]) + 2 if len(off) else 1

    def rows(self) -> list[dict[str, str]]:
        """The listing."""
        stable = self.stable[self.stable != NO_ANSWER]
        steps = [f"{np.percentile(stable, q):.0f}" if len(stable) else "-" for q in (50, 90, 100)]
        values = {
            "recordings": str(len(self.stable)),
            "accuracy after all steps": f"{100 * self.final:.1f} %",
            "without an answer": str(np.count_nonzero(self.stable == NO_ANSWER)),
            "steps until half of the answers stand": steps[0],
            "steps until 90 % of them stand": steps[1],
            "steps until all of them stand": steps[2],
            "steps until within 1 point of the final accuracy": str(self.steps_within(0.01)),
        }
        return [{"": name, f"of {len(self.accuracy)} steps": value} for name, value in values.items()]


def answers_over_time(spikes_out) -> np.ndarray:
    """The class with most spikes so far, at every step.

    Parameters
    ----------
    spikes_out : array or tensor [B, classes, T]
        Output spikes.

    Returns
    -------
    int array [B, T]
        The first of the classes that share the lead, as `classifier.Rate`; `NO_ANSWER` before any spike.
    """
    array = spikes_out.detach().cpu().numpy() if isinstance(spikes_out, torch.Tensor) else np.asarray(spikes_out)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"spikes_out: expected [B, classes, T], found shape {list(array.shape)}")
    counts = np.cumsum(array != 0, axis=2)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), NO_ANSWER)


def latency(spikes_out, labels) -> Latency:
    """Accuracy over time, and the steps until each answer stands.

    Parameters
    ----------
    spikes_out : array or tensor [B, classes, T]
        Output spikes.
    labels : array or tensor [B]
        True classes.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    answers = answers_over_time(spikes_out)
    labels = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if labels.shape != answers.shape[:1]:
        raise ValueError(f"labels: expected [{len(answers)}], one a recording, found shape {list(labels.shape)}")
    changes = answers != answers[:, -1:]
    last_change = np.where(changes.any(axis=1), answers.shape[1] - changes[:, ::-1].argmax(axis=1), 0)
    stable = np.where(answers[:, -1] == NO_ANSWER, NO_ANSWER, last_change + 1)
    right = answers == labels[:, None]
    return Latency(right.mean(axis=0), (answers != NO_ANSWER).mean(axis=0), stable)


def plot_latency(timing: Latency, ax=None, step_ms: float = 1.0):
    """Accuracy and share of recordings with an answer, over time in ms."""
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax
    time = np.arange(1, len(timing.accuracy) + 1) * step_ms
    ax.plot(time, 100 * timing.answered, color="0.6", label="with an answer")
    ax.plot(time, 100 * timing.accuracy, label="right")
    stable = timing.steps_within(0.01) * step_ms
    ax.axvline(stable, ls=":", color="k", label=f"within 1 point from {stable:g} ms on")
    ax.set_xlabel("time (ms)")
    ax.set_ylabel("recordings (%)")
    ax.set_ylim(0, 102)
    ax.legend()
    return ax
