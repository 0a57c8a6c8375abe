"""Blocks whose input is a picture [C, H, W] at each time step: convolution, pooling and flattening."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from .. import synapse
from ..kernels.window import Picture
from ..spikes import Spikes
from ..spikes.checks import check_picture
from ..tools import exact, overridden
from .base import EIGHT_BIT, Block

if TYPE_CHECKING:
    import h5py


class OfPicture(Block):
    """Base class of convolution and pooling, whose neurons form a picture [C', H', W'].

    With the built-in quantisation and without `norm`, hooks and persistent state, product, neuron and axon run as one
    fused step over the events. Otherwise they run one after the other, also for dilated kernels and graded spikes. The
    spikes are identical.
    """

    synapse: synapse.Conv | synapse.Pool

    @property
    def fused(self) -> bool:
        """Whether the whole block runs as one fused step that calls none of its parts."""
        return super().fused and type(self.synapse) in (synapse.Conv, synapse.Pool)

    @exact
    def forward(self, spikes: torch.Tensor | Spikes, dense: bool = True):
        """Return spikes [B, C', H', W', T] for spikes [B, C, H, W, T], either dense or `Spikes` with a `picture`.

        With `dense=False` the output may also be `Spikes` with a `picture`. Gradients flow through them as through a
        tensor.
        """
        shape: tuple[int, ...] = tuple(spikes.shape[1:-1])
        events: Spikes | None = None
        if isinstance(spikes, Spikes):
            shape, events = spikes.picture or shape, spikes
            if spikes.picture is not None:
                check_picture(spikes.picture, spikes.shape[1])
        self.synapse.check((spikes.shape[0], *shape, spikes.shape[-1]))
        picture = cast(Picture, shape)  # `check` has made sure of three axes
        window = self.synapse.window(picture) if self.fused else None
        if window is not None and not isinstance(spikes, Spikes):
            spikes = spikes.float()
            events = Spikes.search(spikes.flatten(1, 3))
        if window is None or events is None:
            return super().forward(spikes.dense().unflatten(1, picture) if isinstance(spikes, Spikes) else spikes)
        self.input_shape, self.neuron.shape = picture, torch.Size(window.outputs)
        return self._run_fused(spikes, events, window.outputs[0], window, dense)

    def _geometry(self, in_shape: tuple[int, ...] | None) -> dict[str, Any]:
        if in_shape is None:
            raise ValueError(
                f"block.cuba.{type(self).__name__}: expected a forward pass first, which shows the size of the picture,"
                " found none"
            )
        synapses = self.synapse
        pairs = {name: getattr(synapses, name)[:2] for name in ("stride", "padding", "dilation")}
        return {"in_shape": in_shape, "groups": synapses.groups, **pairs}


class Conv(OfPicture):
    """Convolutional CUBA block; input [B, C, H, W, T].

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    in_features, out_features, kernel_size, stride, padding, dilation, groups
        See `nmnist_helpers.synapse.Conv`.
    weight_scale, weight_norm, pre_hook_fx, delay, delay_shift, count_log
        See `Dense`; there is one delay per channel.
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
        pre_hook_fx: Callable | str | None = EIGHT_BIT,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
    ):
        weights = synapse.Conv(
            in_features, out_features, kernel_size, stride, padding, dilation, groups, weight_scale, weight_norm
        )  # fmt: skip
        super().__init__(neuron_params, weights, pre_hook_fx, out_features, delay, delay_shift, count_log)


class Pool(OfPicture):
    """Pooling CUBA block: each neuron receives the sum of the spikes in its window; input [B, C, H, W, T].

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`; `norm` is ignored.
    kernel_size, stride, padding, dilation
        See `nmnist_helpers.synapse.Pool`.
    weight_scale, weight_norm, pre_hook_fx, delay, delay_shift, count_log
        See `Dense`; there is one delay per channel.
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
        pre_hook_fx: Callable | str | None = EIGHT_BIT,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
    ):
        weights = synapse.Pool(kernel_size, stride, padding, dilation, weight_scale, weight_norm)
        params = {**neuron_params, "norm": None}
        super().__init__(params, weights, pre_hook_fx, None, delay, delay_shift, count_log)


class Flatten(torch.nn.Module):
    """Reshape spikes [B, C, H, W, T] to [B, C * H * W, T].

    Parameters
    ----------
    count_log : bool
        Return (spikes, None), to match the output of blocks with `count_log`.
    """

    def __init__(self, count_log: bool = False):
        super().__init__()
        self.count_log = count_log
        self.shape: list[int] | None = None  # known after a forward pass

    def forward(self, spikes: torch.Tensor | Spikes):
        """Flatten all axes between batch and time; return `Spikes` for `Spikes`."""
        self.shape = [math.prod(spikes.shape[1:-1]), 1, 1]
        flat = spikes.as_picture(None) if isinstance(spikes, Spikes) else spikes.flatten(1, -2)
        return (flat, None) if self.count_log else flat

    def layer_spec(self, in_shape: tuple[int, ...] | None = None) -> None:
        """Return None: the block has no neurons, and the neighbouring layers define its shapes.

        Raises
        ------
        ValueError
            If the block has its own `forward`, which a file cannot describe.
        """
        if overridden(self, Flatten, "forward"):
            raise ValueError(
                f"block.cuba.{type(self).__name__}: expected a block that a .net file can describe, found its own"
                " forward"
            )

    def export_hdf5(self, handle: "h5py.Group") -> None:
        """Write the block into an open HDF5 group in the layout of lava's netx."""
        from .hdf5 import write_shape  # h5py is needed for this alone

        self.layer_spec()  # refuses a forward of the user's own
        if self.shape is None:
            raise ValueError("block.cuba.Flatten: expected a forward pass before the export, found none")
        write_shape(handle, "flatten", tuple(self.shape))
