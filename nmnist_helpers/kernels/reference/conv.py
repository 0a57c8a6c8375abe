"""Convolutions of spikes with quantised weights, as a sum over the positions in the kernel."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ...spikes import Spikes
from ..window import Window


def conv_product(spikes: Spikes, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute the dendrite input of a convolution.

    ``z[b, t, o, y, x] = sum_cij w[o, c, i, j] s[b, t, c, y * stride + i - padding, x * stride + j - padding]``

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
    for pixels, w in _kernel_positions(_pad(spikes.rows(value=1.0), window), weights, window):
        z = z + torch.einsum("btgcyx,goc->btgoyx", pixels, w)
    assert isinstance(z, torch.Tensor)  # a kernel has at least one position
    return z.flatten(2) * spikes.value


def conv_weight_gradient(spikes: Spikes, grad_z: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute ``dL/dw``, summed over all neurons that share a weight, in the layout of the weights."""
    weights = grad_z.new_zeros(window.outputs[0], window.inputs[0] // window.groups, *window.kernel)
    grad_groups = _split_groups(grad_z, window)
    for pixels, w in _kernel_positions(_pad(spikes.rows(grad_z.dtype, 1.0), window), weights, window):
        w += torch.einsum("btgoyx,btgcyx->goc", grad_groups, pixels)
    return weights.flatten(1) * spikes.value


def conv_input_gradient(grad_z: torch.Tensor, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute ``dL/ds`` [B, T, C_in, H, W]: the sum, for each pixel, over the neurons whose windows contain it."""
    zeros = grad_z.new_zeros(*grad_z.shape[:2], math.prod(window.inputs))
    picture = _pad(zeros, window)
    grad_groups = _split_groups(grad_z, window)
    for pixels, w in _kernel_positions(picture, weights, window):
        pixels += torch.einsum("btgoyx,goc->btgcyx", grad_groups, w)
    (top, left), (_, height, width) = window.padding, window.inputs
    return picture[..., top : top + height, left : left + width].flatten(2, 3)


def _pad(rows: torch.Tensor, window: Window) -> torch.Tensor:
    """Reshape rows [B, T, C * H * W] to [B, T, groups, C / groups, H, W], padded with zeros for the outer windows."""
    return F.pad(rows.unflatten(2, (window.groups, -1, *window.inputs[1:])), window.around)


def _split_groups(rows: torch.Tensor, window: Window) -> torch.Tensor:
    """Reshape neurons [B, T, C * H * W] to [B, T, groups, C / groups, H, W]."""
    return rows.unflatten(2, (window.groups, -1, *window.outputs[1:]))


def _kernel_positions(
    pictures: torch.Tensor, weights: torch.Tensor, window: Window
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, for each position in the kernel, the pixel of every window there and the weights, both by group."""
    kernels = window.kernels(weights).unflatten(0, (window.groups, -1))
    (down, across), (_, height, width) = window.stride, window.outputs
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            rows = slice(i, i + (height - 1) * down + 1, down)
            columns = slice(j, j + (width - 1) * across + 1, across)
            yield pictures[..., rows, columns], kernels[..., i, j]
