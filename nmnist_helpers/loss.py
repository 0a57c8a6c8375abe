"""Losses on spike trains: by spike times, by spike rates, and by the likelihood of the true class."""

import math
import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .checks import as_number, whole_number
from .classifier import EPSILON, MODES, MovingWindow, Rate, flatten_channels
from .lava import absent, public

REDUCTIONS = ("sum", "mean", "none")


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: expected reduction 'sum', 'mean' or 'none', found {reduction!r}")


def _rates(
    name: str, spike: torch.Tensor, label: torch.Tensor, window: MovingWindow | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rates [B, C] and int64 labels [B]; with a window, rates [B, C, T] and labels [B, 1] or [B, T]."""
    spike, label = flatten_channels(name, spike), torch.as_tensor(label)
    batch, classes, time = spike.shape
    if label.shape != (batch,) and (window is None or label.shape != (batch, time)):
        wanted = f"[{batch}]" if window is None else f"[{batch}] or [{batch}, {time}]"
        raise ValueError(f"{name}: expected labels {wanted}, found {list(label.shape)}")
    if label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(f"{name}: expected whole numbers as labels, found {label.dtype}")
    # Labels on a GPU are not checked, because reading them would synchronise host and device.
    if label.device.type == "cpu" and label.numel() and not (0 <= label.min() and label.max() < classes):
        raise ValueError(f"{name}: expected labels in 0..{classes - 1}, found {label.min()}..{label.max()}")
    label = label.to(spike.device, torch.int64)
    if window is None:
        return Rate.rate(spike), label
    return window.rate(spike), label[:, None] if label.dim() == 1 else label


def _reduce(values: torch.Tensor, reduction: str) -> torch.Tensor:
    return values if reduction == "none" else values.sum() if reduction == "sum" else values.mean()


class SpikeTime(torch.nn.Module):
    """Squared distance between two spike trains after a causal filter (van Rossum, 2001).

    The filter is ``h[k] = exp(-k / time_constant)`` for k = 0 .. length-1. A filter of order n is h convolved with
    itself n-1 times and truncated to `length`.

    Parameters
    ----------
    time_constant : float
        Time constant in time steps.
    length : int
        Length of the filter in time steps.
    filter_order : int
        Number of times that the filter is applied.
    reduction : {'sum', 'mean', 'none'}
        Reduction over batch, channels and time. With 'none', the losses are returned in the trains' own shape.

    Raises
    ------
    ValueError
        If a number is not positive, or if `reduction` is none of these; in a call, if the trains differ in shape.
    TypeError
        In a call, if a train is not a tensor.
    """

    def __init__(self, time_constant: float = 5, length: int = 100, filter_order: int = 1, reduction: str = "sum"):
        super().__init__()
        _check_reduction("SpikeTime", reduction)
        if not (as_number(time_constant) > 0 and as_number(length) >= 1 and as_number(filter_order) >= 1):
            raise ValueError(
                "SpikeTime: expected a positive time_constant, length and filter_order,"
                f" found {time_constant!r}, {length!r}, {filter_order!r}"
            )
        length, filter_order = (
            whole_number(f"SpikeTime: {name}", n, 1) for name, n in (("length", length), ("filter_order", filter_order))
        )
        self.time_constant, self.length, self.filter_order = time_constant, length, filter_order
        self.reduction = reduction
        once = torch.exp(-torch.arange(length, dtype=torch.float64) / time_constant)
        response = once
        for _ in range(filter_order - 1):
            response = F.conv1d(response.view(1, 1, -1), once.flip(0).view(1, 1, -1), padding=length - 1)
            response = response.flatten()[:length]
        self.register_buffer("response", response.float(), persistent=False)

    def filter(self, spike: torch.Tensor) -> torch.Tensor:
        """Apply the causal filter to a spike train [B, C, ..., T].

        The convolution is computed as a product of spectra, which is equal within rounding and whose cost hardly
        depends on the length of the filter. Zero padding avoids wrap-around.
        """
        steps = spike.shape[-1]
        padded = 1 << (steps + self.length - 2).bit_length()
        kind = torch.float64 if spike.dtype == torch.float64 else torch.float32
        spectrum = torch.fft.rfft(spike.to(kind), padded) * torch.fft.rfft(self.response.to(kind), padded)
        filtered = torch.fft.irfft(spectrum, padded)[..., :steps]
        return filtered.to(spike.dtype) if spike.is_floating_point() else filtered

    def forward(self, input: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
        """Return the loss of the spike trains `input` against the trains `desired`, both [B, C, ..., T]."""
        for train in (input, desired):
            if not isinstance(train, torch.Tensor):
                raise TypeError(f"SpikeTime: expected a tensor, found {type(train).__name__}")
        if input.shape != desired.shape:
            raise ValueError(
                f"SpikeTime: expected trains of one shape, found {list(input.shape)} and {list(desired.shape)}"
            )
        # The filter is linear, so one filtering of the difference is enough.
        kind = torch.promote_types(input.dtype, desired.dtype)
        kind = kind if kind.is_floating_point else torch.float32  # differences of unsigned numbers would be wrong
        return _reduce(self.filter(input.to(kind) - desired.to(kind)) ** 2, self.reduction)


class SpikeRate(torch.nn.Module):
    """Squared error of the output rates against a high rate for the true class and a low rate for the others.

    Parameters
    ----------
    true_rate, false_rate : float
        Target rates in spikes per time step, 0..1.
    moving_window : int, optional
        Length of a window in time steps: use the rate over the last steps, at every step. By default, use the rate over
        the whole sample.
    reduction : {'sum', 'mean', 'none'}
        Reduction over batch and classes (and time steps, with a moving window). With 'none', the losses are returned
        in the shape [B, C] or [B, C, T].

    Raises
    ------
    ValueError
        If a rate lies outside 0..1, or if `moving_window` or `reduction` is invalid; in a call, if the labels do not
        fit the spikes (their range is checked only on the CPU).

    Warns
    -----
    UserWarning
        If `true_rate` is not above `false_rate`: a classifier would choose wrong classes.

    Examples
    --------
    >>> error = SpikeRate(true_rate=0.2, false_rate=0.03, reduction='sum')
    >>> error(torch.zeros(1, 2, 10), torch.tensor([0]))
    tensor(0.0409)
    """

    def __init__(self, true_rate: float, false_rate: float, moving_window: int | None = None, reduction: str = "sum"):
        super().__init__()
        _check_reduction("SpikeRate", reduction)
        for name, rate in (("true_rate", true_rate), ("false_rate", false_rate)):
            if not 0 <= as_number(rate) <= 1:
                raise ValueError(f"SpikeRate: expected {name} in 0..1 spikes per step, found {rate!r}")
        self.true_rate, self.false_rate, self.reduction = float(true_rate), float(false_rate), reduction
        if not self.true_rate > self.false_rate:
            warnings.warn(
                f"SpikeRate: expected true_rate above false_rate, found {self.true_rate:g} and {self.false_rate:g}: the"
                " true class would not spike most often",
                stacklevel=2,
            )
        self.window = None if moving_window is None else MovingWindow(moving_window)

    def forward(self, input: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of spikes [B, C, T] for labels [B]; with a moving window, also for labels [B, T]."""
        rate, label = _rates("SpikeRate", input, label, self.window)
        index = label.expand(len(label), *rate.shape[2:])[:, None]
        target = torch.full_like(rate, self.false_rate).scatter_(1, index, self.true_rate)
        return _reduce((rate - target) ** 2, self.reduction)


class SpikeMax(torch.nn.Module):
    """Negative log likelihood of the true class, which needs no target rates.

    Parameters
    ----------
    moving_window : int, optional
        Length of a window in time steps: use the rate over the last steps, at every step. By default, use the rate over
        the whole sample.
    mode : str
        How likelihoods are computed from rates. In mode 'probability', the likelihood is ``(r + eps) / sum(r + eps)``,
        which keeps the loss finite if the true class is silent. In modes 'softmax' and 'logsoftmax', which are
        equivalent here, the log likelihood is the log-softmax of `scale` times the rates.
    reduction : {'sum', 'mean', 'none'}
        Reduction over the batch (and time steps, with a moving window). With 'none', the losses are returned in the
        shape [B] or [B, T].
    eps : float
        Small number added to each rate in mode 'probability', in spikes per time step. If the neuron of the true
        class is silent, its gradient is about ``1 / eps``, by default a million. Training from scratch usually fails
        with the default; 0.01 works.
    scale : float
        Factor of the rates in modes 'softmax' and 'logsoftmax'. Rates lie in 0..1. With a factor of 1 and ten classes,
        the likelihood of the true class stays below 0.24; 12 works.
    label_smoothing : float
        Share of the target that is spread evenly over all classes in modes 'softmax' and 'logsoftmax' (Szegedy et al.,
        2016). Without it, a higher rate of the true class always lowers the loss.

    Raises
    ------
    ValueError
        If `eps` or `scale` is not positive, if `label_smoothing` lies outside 0..1 or belongs to another mode, or if
        `moving_window`, `mode` or `reduction` is invalid; in a call, if the labels do not fit the spikes (their range
        is checked only on the CPU).
    """

    def __init__(
        self,
        moving_window: int | None = None,
        mode: str = "probability",
        reduction: str = "sum",
        eps: float = EPSILON,
        scale: float = 1,
        label_smoothing: float = 0,
    ):
        super().__init__()
        _check_reduction("SpikeMax", reduction)
        if mode not in MODES:
            raise ValueError(f"SpikeMax: expected a mode of {', '.join(MODES)}, found {mode!r}")
        for name, number in (("eps", eps), ("scale", scale)):
            if not 0 < as_number(number) < math.inf:
                raise ValueError(f"SpikeMax: expected a positive {name}, found {number!r}")
        if not 0 <= as_number(label_smoothing) <= 1:
            raise ValueError(f"SpikeMax: expected label_smoothing in 0..1, found {label_smoothing!r}")
        if mode == "probability" and (scale != 1 or label_smoothing):
            raise ValueError("SpikeMax: expected mode 'softmax' for scale and label_smoothing, found 'probability'")
        self.mode, self.reduction, self.eps = mode, reduction, eps
        self.scale, self.label_smoothing = float(scale), float(label_smoothing)
        self.window = None if moving_window is None else MovingWindow(moving_window)

    def forward(self, input: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of spikes [B, C, T] for labels [B]; with a moving window, also for labels [B, T]."""
        rate, label = _rates("SpikeMax", input, label, self.window)
        label = label.expand(len(label), *rate.shape[2:])
        if self.mode == "probability":
            likelihood = torch.log(rate + self.eps) - torch.log((rate + self.eps).sum(1, keepdim=True))
            return F.nll_loss(likelihood, label, reduction=self.reduction)
        return F.cross_entropy(self.scale * rate, label, reduction=self.reduction, label_smoothing=self.label_smoothing)


if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["SpikeMax", "SpikeRate", "SpikeTime"]
