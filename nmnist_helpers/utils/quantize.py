"""Rounding with a straight-through gradient, and the rate of events."""

import enum

import torch

from ..kernels.constants import WEIGHT_SCALE


class QUANTIZE_MODE(enum.IntEnum):
    """To the nearest step (half to even), or to the one below."""

    ROUND = 0
    FLOOR = 1


class _Quantize(torch.autograd.Function):
    """Multiples of a step; backward as if nothing had been done."""

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
        If `mode` is not of `QUANTIZE_MODE`.

    Examples
    --------
    >>> quantize(torch.tensor([0.3, 0.8]), step=0.5)
    tensor([0.5000, 1.0000])
    """
    return _Quantize.apply(input, step, QUANTIZE_MODE(mode))


def quantize_hook_fx(
    x: torch.Tensor, scale: int = WEIGHT_SCALE, num_bits: int = 8, descale: bool = False
) -> torch.Tensor:
    """Quantise weights to even integers of ``1 / scale``: a `pre_hook_fx` for a synapse.

    Parameters
    ----------
    x : tensor
        Weights.
    scale : int
        Integer units of one real unit.
    num_bits : int
        The integers lie in ``-2 * 2**num_bits .. 2 * (2**num_bits - 1)``. With its sign that is a bit more than the
        name says, and than a block's own `nmnist_helpers.neuron.cuba.Neuron.quantize_8bit`; lava-dl has it so.
    descale : bool
        Return the integers.
    """
    low, high = -2 * (1 << num_bits), 2 * ((1 << num_bits) - 1)
    clamped = quantize(x, 2 / scale).clamp(low / scale, high / scale)
    return clamped * scale if descale else clamped


def event_rate(x: torch.Tensor) -> float:
    """Share of the entries of [..., T] that are not zero, without the first step (unless it is the only one)."""
    return (x if x.shape[-1] == 1 else x[..., 1:]).ne(0).float().mean().item()
