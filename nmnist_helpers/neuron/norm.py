"""Normalisation of the current between the two integrators of a neuron."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..checks import as_number, whole_number
from ..kernels.constants import WEIGHT_SCALE
from ..lava import absent, public


def _identity(x: torch.Tensor, descale: bool = False) -> torch.Tensor:
    return x * WEIGHT_SCALE if descale else x


class MeanOnlyBatchNorm(torch.nn.Module):
    """Subtract the mean of every channel; on hardware, the negative mean becomes a bias.

    Parameters
    ----------
    num_features : int
        Number of channels.
    momentum : float
        Weight of the newest batch in the running mean.
    pre_hook_fx : callable, optional
        Function applied to the mean before the subtraction, usually the neuron's 8-bit quantisation.
        ``pre_hook_fx(x, descale=True)`` must return hardware units (x 64).

    Raises
    ------
    ValueError
        If `num_features` is missing, which is required because buffers are created here, not in the first forward pass;
        if `momentum` is not in 0..1.

    Notes
    -----
    Salimans and Kingma, "Weight normalization", 2016, section 4.

    `torch.optim.swa_utils.update_bn` does not know this module. For averaged weights, run the network in training mode
    over the data instead.
    """

    running_mean: torch.Tensor
    pre_hook_fx: Callable

    def __init__(self, num_features: int | None = None, momentum: float = 0.1, pre_hook_fx: Callable | None = None):
        super().__init__()
        if num_features is None:
            raise ValueError(f"{type(self).__name__}: expected num_features, the number of channels, found None")
        if not 0 <= as_number(momentum) <= 1:
            raise ValueError(f"{type(self).__name__}: expected a momentum in 0..1, found {momentum!r}")
        self.num_features = whole_number(f"{type(self).__name__}: num_features", num_features, 1)
        self.momentum = float(momentum)
        self.pre_hook_fx = pre_hook_fx if pre_hook_fx is not None else _identity
        self.register_buffer("running_mean", torch.zeros(self.num_features))
        self.update = True

    def reset_parameters(self) -> None:
        """Reset the running mean to zero."""
        self.running_mean.zero_()

    @property
    def bias(self) -> torch.Tensor:
        """The equivalent hardware bias, [C], in weight units (x 64)."""
        return -self.pre_hook_fx(self.running_mean, descale=True)

    def _mean(self, current: torch.Tensor) -> torch.Tensor:
        if current.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: expected {self.num_features} channels, found input {list(current.shape)}"
            )
        if not (self.training and self.update):
            return self.running_mean
        mean = current.transpose(0, 1).reshape(self.num_features, -1).mean(1)
        with torch.no_grad():
            self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
        return mean

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        """Return the current [B, C, ..., T] minus its mean per channel (in evaluation, minus the running mean)."""
        shape = [1, -1] + [1] * (current.dim() - 2)
        return current - self.pre_hook_fx(self._mean(current).view(shape))


if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["MeanOnlyBatchNorm"]
