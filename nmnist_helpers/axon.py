"""Axons: the one-step shift between layers, and learned delays."""

import math
from typing import TYPE_CHECKING

import torch

from .checks import as_number, check_sampling_time, is_number, whole_number
from .kernels.functions import AxonDelay
from .lava import absent, public
from .tools import exact


def _apply_delay(spikes: torch.Tensor, delay: torch.Tensor | None, shift: int) -> torch.Tensor:
    rows = spikes.reshape(spikes.shape[0], -1, spikes.shape[-1]).transpose(1, 2)
    return AxonDelay.apply(rows, delay, shift).transpose(1, 2).reshape(spikes.shape)


def in_steps(ms, sampling_time: float):
    """Return times in ms, a number or a tensor, in time steps, to be rounded to whole steps.

    1.3 ms are 13 steps of 0.1 ms. But the quotient of these two numbers can lie a little below 13, so it is made larger
    by a millionth.

    Raises
    ------
    ValueError
        If `sampling_time` is not positive and finite.
    """
    check_sampling_time(sampling_time)
    return ms if sampling_time == 1 else ms * ((1 + 1e-6) / sampling_time)


def delay(input: torch.Tensor, delay_val: float = 1, sampling_time: float = 1) -> torch.Tensor:
    """Shift a signal by whole time steps, later (or, if negative, earlier); zeros enter, what leaves is lost.

    Parameters
    ----------
    input : float tensor [B, C, ..., T]
        Any signal over time.
    delay_val : float
        Shift in ms, rounded down to whole time steps.
    sampling_time : float
        Length of a time step in ms.

    Returns
    -------
    float tensor [B, C, ..., T]
        The shifted signal. Its gradient is shifted back.

    Raises
    ------
    ValueError
        If `delay_val` is not one finite number, or if `sampling_time` is not positive and finite.
    """
    one = isinstance(delay_val, int | float) or is_number(delay_val)
    if not one and (found := torch.as_tensor(delay_val).numel()) != 1:
        raise ValueError(f"delay: expected one number, found {found}; utils.time.shift takes several")
    steps = in_steps(as_number(delay_val), sampling_time)
    if steps < 0 and sampling_time != 1:
        steps *= 1 - 2e-6  # `in_steps` moved it away from 0, and `floor` would make that a whole step
    if not math.isfinite(steps):
        raise ValueError(f"delay: expected a finite delay_val, found {delay_val!r}")
    return _apply_delay(input, None, math.floor(steps))


class Delay(torch.nn.Module):
    """A learned delay per channel, rounded down in the forward pass and trained by a finite difference in time.

    Parameters
    ----------
    num_features : int, optional
        Number of channels. By default it is taken from a loaded state or the first input.
    sampling_time : float
        Length of a time step in ms.
    max_delay : int, optional
        Longest delay in ms; None means no limit.
    grad_scale : float
        Factor on the delay's gradient.

    Attributes
    ----------
    delay : Parameter [C]
        Delays in ms, initially drawn from U(0, 1); a single one while the number of channels is not known.
    sized : bool
        Whether the number of channels is known.

    Raises
    ------
    ValueError
        If an argument is out of range; in a call, if the input has no axis of channels or another number of them.

    Notes
    -----
    The gradient is ``dL/dd[c] = sum_bt g[b, c, t] (y[b, c, t-1] - y[b, c, t])`` with y the delayed signal
    (Shrestha and Orchard, 2018, section 3.3), divided by `sampling_time`, because a delay is in ms.
    """

    spared = ("delay",)  # parameters without weight decay; see `utils.parameter_groups`

    def __init__(
        self,
        num_features: int | None = None,
        sampling_time: float = 1,
        max_delay: int | None = None,
        grad_scale: float = 1,
    ):
        super().__init__()
        if num_features is not None:
            num_features = whole_number("Delay: num_features", num_features, 1)
        if max_delay is not None and not as_number(max_delay) >= 0:
            raise ValueError(f"Delay: expected a max_delay of at least 0 ms, found {max_delay!r}")
        if not 0 <= as_number(grad_scale) < math.inf:
            raise ValueError(f"Delay: expected a grad_scale of at least 0, found {grad_scale!r}")
        check_sampling_time(sampling_time)
        self.sampling_time = sampling_time
        self.max_delay = max_delay
        self.grad_scale = grad_scale
        self.delay = torch.nn.Parameter(torch.rand(num_features or 1))
        self.sized = num_features is not None

    @property
    def shape(self) -> torch.Size | None:
        """Shape of the delays, [C]; None while the number of channels is not known."""
        return self.delay.shape if self.sized else None

    def draw(self, channels: int) -> None:
        """Draw initial delays for `channels` channels; a single delay that is there already is kept for one channel."""
        if self.delay.numel() != channels:
            with torch.inference_mode(False):  # delays that are drawn in inference mode could not learn later
                self.delay.data = torch.rand(channels).to(self.delay)  # in place: an optimiser keeps the parameter
        self.sized = True

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Keep loaded delays at the first input, unlike lava-dl, which draws new ones. One delay may be that of a layer
        # whose number of channels is not known yet.
        loaded = state_dict.get(prefix + "delay")
        if not self.sized and loaded is not None and loaded.numel() > 1:
            self.draw(loaded.numel())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def clamp(self) -> None:
        """Clamp the delays to 0..max_delay in place, in case an optimiser step left this range."""
        with torch.no_grad():
            self.delay.clamp_(0, self.max_delay)

    def steps(self) -> torch.Tensor:
        """Return the clamped delays in time steps, not yet rounded down, with gradients.

        In training mode, the stored delays are clamped too.
        """
        if self.training:
            self.clamp()
        return self.in_steps()

    def longest(self) -> int:
        """Return the largest number of whole steps that a delay can have.

        Without a `max_delay`, it is the largest that a delay has now.
        """
        limit = max(0, self.delay.detach().max().item()) if self.max_delay is None else self.max_delay
        return math.floor(in_steps(limit, self.sampling_time))

    def in_steps(self) -> torch.Tensor:
        """Return what `steps` returns, and leave the stored delays as they are."""
        stored = self.delay.detach()
        clamped = stored.clamp(0, self.max_delay) + (self.delay - stored)  # the second term only passes the gradient
        clamped = in_steps(clamped, self.sampling_time)
        if self.grad_scale != 1:
            clamped = clamped.detach() + self.grad_scale * (clamped - clamped.detach())
        return clamped

    @exact
    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Delay each channel of spikes [B, C, ..., T] by its own delay, rounded down to whole time steps."""
        if not self.sized and spikes.dim() >= 3:
            self.draw(spikes.shape[1])
        if not self.sized or spikes.dim() < 3 or spikes.shape[1] != len(self.delay):
            raise ValueError(
                f"Delay: expected input [B, C, ..., T] with C = {len(self.delay) if self.sized else 'any'},"
                f" found {list(spikes.shape)}"
            )
        steps = self.steps()
        inner = math.prod(spikes.shape[2:-1])
        return _apply_delay(spikes, steps if inner == 1 else steps.repeat_interleave(inner), 0)

    def extra_repr(self) -> str:
        """Return the arguments that `print` shows."""
        return f"num_features={len(self.delay) if self.sized else None}, max_delay={self.max_delay}"


if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["Delay", "delay", "in_steps"]
