"""Rounding with a straight-through gradient, and the event rate of a tensor."""

import enum
import math

import torch

from ..checks import as_number, whole_number
from ..kernels.constants import WEIGHT_SCALE


class QUANTIZE_MODE(enum.IntEnum):
    """Rounding mode: to the nearest multiple of the step (half to even), or to the one below."""

    ROUND = 0
    FLOOR = 1


class _Quantize(torch.autograd.Function):
    """Round to multiples of a step; the backward pass is the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, step, mode):
        return (torch.round if mode == QUANTIZE_MODE.ROUND else torch.floor)(input / step) * step

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def quantize(input: torch.Tensor, step: float = 1, mode: QUANTIZE_MODE = QUANTIZE_MODE.ROUND) -> torch.Tensor:
    """Round to multiples of `step`; the gradient passes straight through.

    Raises
    ------
    ValueError
        If `mode` is not a member of `QUANTIZE_MODE`, or if `step` is not positive and finite.

    Examples
    --------
    >>> quantize(torch.tensor([0.3, 0.8]), step=0.5)
    tensor([0.5000, 1.0000])
    """
    if not 0 < as_number(step) < math.inf:
        raise ValueError(f"quantize: expected a positive step, found {step!r}")
    if mode not in tuple(QUANTIZE_MODE):
        raise ValueError(f"quantize: expected a QUANTIZE_MODE, ROUND (0) or FLOOR (1), found {mode!r}")
    return _Quantize.apply(input, step, QUANTIZE_MODE(mode))


def quantize_hook_fx(
    x: torch.Tensor, scale: int = WEIGHT_SCALE, num_bits: int = 8, descale: bool = False
) -> torch.Tensor:
    """Quantise weights to even multiples of ``1 / scale``; usable as the `pre_hook_fx` of a synapse.

    Parameters
    ----------
    x : tensor
        Weights.
    scale : int
        Integer that represents a weight of 1.
    num_bits : int
        The integers lie in ``-2 * 2**num_bits .. 2 * (2**num_bits - 1)``, as in lava-dl. With the sign, this is one bit
        more than the name says, and more than a block's `nmnist_helpers.neuron.cuba.Neuron.quantize_8bit` uses.
    descale : bool
        Whether to return the integers instead of the weights.

    Raises
    ------
    ValueError
        If `scale` is not positive and finite, or if `num_bits` is not a whole number from 0.
    """
    if not 0 < as_number(scale) < math.inf:
        raise ValueError(f"quantize_hook_fx: expected a positive scale, found {scale!r}")
    num_bits = whole_number("quantize_hook_fx: num_bits", num_bits, 0)
    low, high = -2 * (1 << num_bits), 2 * ((1 << num_bits) - 1)
    clamped = quantize(x, 2 / scale).clamp(low / scale, high / scale)
    return clamped * scale if descale else clamped


def event_rate(x: torch.Tensor) -> float:
    """Return the share of nonzero entries of [..., T] without the first time step (unless it is the only one)."""
    return (x if x.shape[-1] == 1 else x[..., 1:]).ne(0).float().mean().item()
