"""Convolutions of spikes with quantised weights on a GPU: patches of bytes, multiplied on tensor cores.

A neuron's patch is a row of 0/1 bytes, which takes a quarter of the memory of float32. `matmul` multiplies the rows
exactly. Groups of channels become one matrix of weights with zeros between the groups.
"""

import torch
import torch.nn.functional as F

from ...spikes import Spikes
from ..window import Window
from .matmul import matmul


def _patches(spikes: Spikes, window: Window) -> torch.Tensor:
    """Return the pixels of every place's window, uint8 [B * T * H' * W', C_in * height * width]."""
    pictures = spikes.rows(torch.uint8, 1).reshape(-1, *window.inputs)
    pictures = F.pad(pictures, window.around)
    for axis in range(2):
        pictures = pictures.unfold(2 + axis, window.kernel[axis], window.stride[axis])
        pictures = pictures.narrow(2 + axis, 0, window.outputs[1 + axis])
    return pictures.permute(0, 2, 3, 1, 4, 5).reshape(-1, window.inputs[0] * window.kernel[0] * window.kernel[1])


def _expand_groups(weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Expand weights [C_out, C_in / groups * n] to [C_out, C_in * n], with zeros between groups."""
    if window.groups == 1:
        return weights
    blocks = weights.unflatten(0, (window.groups, -1)).unbind(0)
    return torch.block_diag(*blocks)


def conv_product(spikes: Spikes, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_product` on a GPU, with weights from the GPU's `quantise`."""
    batch, _, steps = spikes.shape
    z = matmul(_patches(spikes, window), _expand_groups(weights, window).t(), spikes.value)
    return z.view(batch, steps, window.places, -1).transpose(2, 3).reshape(batch, steps, window.neurons)


def conv_weight_gradient(spikes: Spikes, grad_z: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_weight_gradient` on a GPU."""
    features, groups = window.outputs[0], window.groups
    by_place = grad_z.unflatten(2, (features, -1)).movedim(2, 0).reshape(features, -1)
    found = matmul(by_place, _patches(spikes, window), spikes.value)
    blocks = found.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    return torch.stack([blocks[group, :, group] for group in range(groups)]).flatten(0, 1)


def conv_input_gradient(grad_z: torch.Tensor, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_input_gradient` on a GPU, as a sum of patches of gradients.

    (By default, cuDNN's transposed convolution would round the gradients to TF32, that is to eleven significant bits.)
    """
    by_place = grad_z.unflatten(2, (window.outputs[0], -1)).transpose(2, 3).reshape(-1, window.outputs[0])
    patches = matmul(by_place, _expand_groups(weights, window))
    sizes = zip(window.outputs[1:], window.stride, window.kernel, strict=True)
    rows, columns = ((out - 1) * step + size for out, step, size in sizes)  # the part of the picture in the windows
    patches = patches.unflatten(0, (-1, window.places)).transpose(1, 2)
    found = F.fold(patches, (rows, columns), window.kernel, stride=window.stride)
    (top, left), (_, height, width) = window.padding, window.inputs
    found = F.pad(found, (-left, left + width - columns, -top, top + height - rows))  # a negative size cuts off
    return found.unflatten(0, grad_z.shape[:2])
