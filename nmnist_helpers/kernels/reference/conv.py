"""Convolutions of spikes with quantised weights: one place of the window after the other."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ...spikes import Spikes
from ..window import Window


def conv_product(spikes: Spikes, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """``z[b, t, o, y, x] = sum_cij w[o, c, i, j] s[b, t, c, y * stride + i - padding, x * stride + j - padding]``.

    Parameters
    ----------
    spikes : Spikes of shape (B, C_in * H * W, T)
    weights
        From `quantise`, [C_out, C_in / groups * height * width].
    window : Window

    Returns
    -------
    float tensor [B, T, C_out * H' * W']
    """
    z: torch.Tensor | float = 0.0
    for seen, w in _places(_padded(spikes.rows(value=1.0), window), weights, window):
        z = z + torch.einsum("btgcyx,goc->btgoyx", seen, w)
    assert isinstance(z, torch.Tensor)  # a window has at least one place
    return z.flatten(2) * spikes.value


def conv_weight_gradient(spikes: Spikes, grad_z: torch.Tensor, window: Window) -> torch.Tensor:
    """``dL/dw``, the sum over all neurons that share a weight, in the layout of the weights."""
    weights = grad_z.new_zeros(window.outputs[0], window.inputs[0] // window.groups, *window.kernel)
    by_neuron = _by_group(grad_z, window)
    for seen, w in _places(_padded(spikes.rows(grad_z.dtype, 1.0), window), weights, window):
        w += torch.einsum("btgoyx,btgcyx->goc", by_neuron, seen)
    return weights.flatten(1) * spikes.value


def conv_input_gradient(grad_z: torch.Tensor, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """``dL/ds`` [B, T, C_in, H, W]: every pixel collects from the neurons that see it."""
    silent = grad_z.new_zeros(*grad_z.shape[:2], math.prod(window.inputs))
    picture = _padded(silent, window)
    by_neuron = _by_group(grad_z, window)
    for seen, w in _places(picture, weights, window):
        seen += torch.einsum("btgoyx,goc->btgcyx", by_neuron, w)
    (top, left), (_, height, width) = window.padding, window.inputs
    return picture[..., top : top + height, left : left + width].flatten(2, 3)


def _padded(rows: torch.Tensor, window: Window) -> torch.Tensor:
    """Rows [B, T, C * H * W] as pictures [B, T, groups, C / groups, H, W] with zeros as far around as windows reach."""
    return F.pad(rows.unflatten(2, (window.groups, -1, *window.inputs[1:])), window.around)


def _by_group(rows: torch.Tensor, window: Window) -> torch.Tensor:
    """Neurons [B, T, C * H * W] as [B, T, groups, C / groups, H, W]."""
    return rows.unflatten(2, (window.groups, -1, *window.outputs[1:]))


def _places(
    pictures: torch.Tensor, weights: torch.Tensor, window: Window
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each place of the window, what all neurons see there, and their weights, both by group."""
    kernels = window.kernels(weights).unflatten(0, (window.groups, -1))
    (down, across), (_, height, width) = window.stride, window.outputs
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            rows = slice(i, i + (height - 1) * down + 1, down)
            columns = slice(j, j + (width - 1) * across + 1, across)
            yield pictures[..., rows, columns], kernels[..., i, j]
