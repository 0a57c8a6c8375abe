"""Blocks for pictures: convolution, pooling, and the flattening before a dense block."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from .. import synapse
from .base import Block

if TYPE_CHECKING:
    import h5py


class Conv(Block):
    """Convolutional CUBA block; input [B, C, H, W, T].

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    in_features, out_features, kernel_size, stride, padding, dilation, groups
        As in `nmnist_helpers.synapse.Conv`.
    weight_scale, weight_norm, pre_hook_fx, delay, delay_shift, count_log
        As in `Dense`; delays are per channel.
    """

    def __init__(
        self,
        neuron_params: dict,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
    ):
        weights = synapse.Conv(
            in_features, out_features, kernel_size, stride, padding, dilation, groups,
            weight_scale, weight_norm, pre_hook_fx,
        )  # fmt: skip
        super().__init__(neuron_params, weights, out_features, delay, delay_shift, count_log)


class Pool(Block):
    """Pooling CUBA block: sums over windows, then neurons; input [B, C, H, W, T].

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`; `norm` is left out.
    kernel_size, stride, padding, dilation
        As in `nmnist_helpers.synapse.Pool`.
    weight_scale, weight_norm, pre_hook_fx, delay, delay_shift, count_log
        As in `Dense`; delays are per channel.
    """

    def __init__(
        self,
        neuron_params: dict,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
    ):
        weights = synapse.Pool(kernel_size, stride, padding, dilation, weight_scale, weight_norm, pre_hook_fx)
        params = {**neuron_params, "norm": None}
        super().__init__(params, weights, None, delay, delay_shift, count_log)


class Flatten(torch.nn.Module):
    """[B, C, H, W, T] to [B, C * H * W, T].

    Parameters
    ----------
    count_log : bool
        Return (spikes, None), to stand among blocks that count.
    """

    def __init__(self, count_log: bool = False):
        super().__init__()
        self.count_log = count_log
        self.shape: list[int] | None = None  # known after a forward pass

    def forward(self, spikes: torch.Tensor):
        """Flatten all axes but batch and time."""
        self.shape = [math.prod(spikes.shape[1:-1]), 1, 1]
        flat = spikes.reshape(spikes.shape[0], -1, spikes.shape[-1])
        return (flat, None) if self.count_log else flat

    def layer_spec(self, in_shape: tuple[int, ...] | None = None) -> None:
        """Return None: the block has no neurons, and the shapes of the layers around it say all."""

    def export_hdf5(self, handle: "h5py.Group") -> None:
        """Write the block into an open HDF5 group, as lava's netx reads it."""
        from .hdf5 import write_shape  # h5py is needed for this alone

        if self.shape is None:
            raise ValueError("block.cuba.Flatten: expected a forward pass before, found no input yet")
        write_shape(handle, "flatten", tuple(self.shape))
