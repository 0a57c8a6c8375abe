"""Classifiers: from output spikes to a class, by rate over the whole sample or over a moving window."""

import math

import torch

from .checks import as_number
from .lava import public

MODES = ("probability", "softmax", "logsoftmax")
EPSILON = 1e-6  # avoids a division by zero if all outputs are silent


def flatten_channels(name: str, spike: torch.Tensor) -> torch.Tensor:
    """Reshape spikes [B, C, ..., T] to [B, C', T] by merging the axes between batch and time."""
    if not isinstance(spike, torch.Tensor):
        hint = "; dense() makes one" if hasattr(spike, "dense") else ""
        raise TypeError(f"{name}: expected a tensor [B, C, T], found {type(spike).__name__}{hint}")
    if spike.dim() < 3 or spike.shape[-1] == 0:
        raise ValueError(f"{name}: expected spikes [B, C, T], found {list(spike.shape)}")
    return spike if spike.dim() == 3 else spike.flatten(1, -2)


def confidence_of(rate: torch.Tensor, mode: str = "probability", eps: float = EPSILON) -> torch.Tensor:
    """Return the confidence in each class.

    Parameters
    ----------
    rate : float tensor [B, C, ...]
        Spike rates of the C classes.
    mode : {'probability', 'softmax', 'logsoftmax'}
        Formula: ``r / (sum r + eps)``, the softmax of r, or its logarithm.
    eps : float
        Avoids a division by zero in mode 'probability'.

    Returns
    -------
    float tensor [B, C, ...]

    Raises
    ------
    ValueError
        If `mode` is none of these, or if `eps` is negative or not finite.
    """
    _check_eps("confidence", eps)
    if mode == "probability":
        return rate / (rate.sum(1, keepdim=True) + eps)
    if mode == "softmax":
        return torch.softmax(rate, 1)
    if mode == "logsoftmax":
        return torch.log_softmax(rate, 1)
    raise ValueError(f"confidence: expected a mode of {', '.join(MODES)}, found {mode!r}")


def _check_eps(name: str, eps: float) -> None:
    if not 0 <= as_number(eps) < math.inf:
        raise ValueError(f"{name}: expected an eps of at least 0, found {eps!r}")


class Rate(torch.nn.Module):
    """Classifier that chooses the class whose neuron spikes most often.

    Raises
    ------
    TypeError, ValueError
        In all methods, if the spikes are not a tensor, or have fewer than three axes or no time steps; in `confidence`,
        as in `confidence_of`.

    Examples
    --------
    >>> Rate.predict(torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]))
    tensor([1])
    """

    @staticmethod
    def rate(spike: torch.Tensor) -> torch.Tensor:
        """Return the mean [B, C] of spikes [B, C, T] over time."""
        spike = flatten_channels("Rate", spike)
        kind = spike.dtype if spike.is_floating_point() else torch.float32
        # A double holds sums of equal float32 values exactly: equally many spikes of 1 / (1 - p) give equal rates.
        return (spike.sum(-1, dtype=torch.float64) / spike.shape[-1]).to(kind)

    @staticmethod
    def confidence(spike: torch.Tensor, mode: str = "probability", eps: float = EPSILON) -> torch.Tensor:
        """Return the confidence [B, C] in each class; see `confidence_of`."""
        return confidence_of(Rate.rate(spike), mode, eps)

    @staticmethod
    def predict(spike: torch.Tensor) -> torch.Tensor:
        """Return the class [B] of spikes [B, C, T]; among equal rates, the first class."""
        return Rate.rate(spike).argmax(1)

    def forward(self, spike: torch.Tensor) -> torch.Tensor:
        """Return the same as `predict`."""
        return self.predict(spike)


class MovingWindow(torch.nn.Module):
    """Classifier that chooses, at every time step, the class whose neuron spiked most often in the last steps.

    Parameters
    ----------
    time_window : int
        Length of the window in time steps. In the first steps, the missing ones count as silent.
    mode : {'probability', 'softmax', 'logsoftmax'}
        Formula of the confidence; see `confidence_of`.
    eps : float
        See `confidence_of`.

    Raises
    ------
    ValueError
        If `time_window` is not a whole number from 1, if `mode` is none of these, or if `eps` is negative or not
        finite; in a call, as in `Rate`.
    """

    time_window: int
    mode: str
    eps: float

    def __init__(self, time_window: int, mode: str = "probability", eps: float = EPSILON):
        super().__init__()
        if not 1 <= (window := as_number(time_window)) < 2**31 or window != int(window):
            raise ValueError(f"MovingWindow: expected a window of at least one step, found {time_window!r}")
        if mode not in MODES:
            raise ValueError(f"MovingWindow: expected a mode of {', '.join(MODES)}, found {mode!r}")
        _check_eps("MovingWindow", eps)
        self.time_window, self.mode, self.eps = int(window), mode, eps

    def rate(self, spike: torch.Tensor) -> torch.Tensor:
        """Return the mean of spikes [B, C, T] over the last `time_window` steps, at every step: [B, C, T]."""
        spike = flatten_channels("MovingWindow", spike)
        kind = torch.promote_types(spike.dtype, torch.float32)
        total = spike.cumsum(-1, dtype=torch.float64)  # see `Rate.rate`
        before = torch.nn.functional.pad(total, (self.time_window, 0))[..., : spike.shape[-1]]
        return ((total - before) / self.time_window).to(kind)

    def confidence(self, spike: torch.Tensor, mode: str | None = None) -> torch.Tensor:
        """Return the confidence [B, C, T] in each class at every step; `mode` is by default `self.mode`."""
        return confidence_of(self.rate(spike), mode or self.mode, self.eps)

    def predict(self, spike: torch.Tensor) -> torch.Tensor:
        """Return the class [B, T] at every step."""
        return self.rate(spike).argmax(1)

    def forward(self, spike: torch.Tensor) -> torch.Tensor:
        """Return the same as `predict`."""
        return self.predict(spike)


__dir__ = public(__name__)

__all__ = ["MovingWindow", "Rate", "confidence_of"]
