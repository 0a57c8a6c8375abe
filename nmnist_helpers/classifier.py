"""From output spikes to a class: by rate over the whole sample, or over a moving window."""

import numbers

import torch

MODES = ("probability", "softmax", "logsoftmax")
EPSILON = 1e-6  # keeps silent outputs from dividing by zero


def flat(name: str, spike: torch.Tensor) -> torch.Tensor:
    """Spikes [B, C, ..., T] as [B, C', T]: axes between batch and time count as one."""
    if spike.dim() < 3 or spike.shape[-1] == 0:
        raise ValueError(f"{name}: expected spikes [B, C, T], found {list(spike.shape)}")
    return spike if spike.dim() == 3 else spike.flatten(1, -2)


def confidence_of(rate: torch.Tensor, mode: str = "probability", eps: float = EPSILON) -> torch.Tensor:
    """Confidence in every class, axis 1 of `rate`.

    Parameters
    ----------
    rate : float tensor [B, C, ...]
    mode : {'probability', 'softmax', 'logsoftmax'}
        ``r / (sum r + eps)``, softmax or its logarithm.
    eps : float
        See above.
    """
    if mode == "probability":
        return rate / (rate.sum(1, keepdim=True) + eps)
    if mode == "softmax":
        return torch.softmax(rate, 1)
    if mode == "logsoftmax":
        return torch.log_softmax(rate, 1)
    raise ValueError(f"confidence: expected a mode of {', '.join(MODES)}, found {mode!r}")


class Rate(torch.nn.Module):
    """The class whose neuron spikes most often.

    Examples
    --------
    >>> Rate.predict(torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]))
    tensor([1])
    """

    @staticmethod
    def rate(spike: torch.Tensor) -> torch.Tensor:
        """Mean of spikes [B, C, T] over time: [B, C]."""
        return flat("Rate", spike).mean(-1)

    @staticmethod
    def confidence(spike: torch.Tensor, mode: str = "probability", eps: float = EPSILON) -> torch.Tensor:
        """Confidence [B, C] in every class; see `confidence_of`."""
        return confidence_of(Rate.rate(spike), mode, eps)

    @staticmethod
    def predict(spike: torch.Tensor) -> torch.Tensor:
        """Class [B] of spikes [B, C, T]; of equal rates the first wins."""
        return Rate.rate(spike).argmax(1)

    def forward(self, spike: torch.Tensor) -> torch.Tensor:
        """As `predict`."""
        return self.predict(spike)


class MovingWindow(torch.nn.Module):
    """The class whose neuron spiked most often within the last steps, at every step.

    Parameters
    ----------
    time_window : int
        Steps in the window; before it is full, the steps so far count, over the full length.
    mode : {'probability', 'softmax', 'logsoftmax'}
        Of the confidence.
    eps : float
        See `confidence_of`.
    """

    time_window: int
    mode: str
    eps: float

    def __init__(self, time_window: int, mode: str = "probability", eps: float = EPSILON):
        super().__init__()
        if not isinstance(time_window, numbers.Real) or int(time_window) != time_window or time_window < 1:
            raise ValueError(f"MovingWindow: expected a window of at least one step, found {time_window}")
        if mode not in MODES:
            raise ValueError(f"MovingWindow: expected a mode of {', '.join(MODES)}, found {mode!r}")
        self.time_window, self.mode, self.eps = int(time_window), mode, eps

    def rate(self, spike: torch.Tensor) -> torch.Tensor:
        """Spikes [B, C, T] averaged over the last `time_window` steps at every step: [B, C, T]."""
        spike = flat("MovingWindow", spike)
        total = spike.cumsum(-1)  # sums of 0/1 spikes are exact
        before = torch.nn.functional.pad(total, (self.time_window, 0))[..., : spike.shape[-1]]
        return (total - before) / self.time_window

    def confidence(self, spike: torch.Tensor, mode: str | None = None) -> torch.Tensor:
        """Confidence [B, C, T] in every class at every step; `mode` is by default the window's own."""
        return confidence_of(self.rate(spike), mode or self.mode, self.eps)

    def predict(self, spike: torch.Tensor) -> torch.Tensor:
        """Class [B, T] at every step."""
        return self.rate(spike).argmax(1)

    def forward(self, spike: torch.Tensor) -> torch.Tensor:
        """As `predict`."""
        return self.predict(spike)


__all__ = ["MovingWindow", "Rate", "confidence_of"]
