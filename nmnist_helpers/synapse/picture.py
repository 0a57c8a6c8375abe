"""Synapses of pictures: convolution and pooling."""

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F

from ..checks import is_number, whole_number
from ..kernels.window import Pair, Picture, Window
from ..tools import exact
from .base import Synapse


def _pair(name: str, size: int | tuple[int, int], least: int = 1) -> tuple[int, int]:
    sizes = (size, size) if is_number(size) else tuple(cast(Iterable[int], size))
    if len(sizes) != 2:
        raise ValueError(f"synapse: expected {name} to be one int or two, found {size}")
    height, width = (whole_number(name, value, least) for value in sizes)
    return height, width


def _unit_spikes(spikes: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return spikes of one common value as ones, with that value; return other spikes unchanged, with 1.

    The caller applies the value after the product, because sums of quantised weights are exact.
    """
    low, high = spikes.detach().aminmax()
    value = torch.where(high > 0, high, low).item()
    if value in (0.0, 1.0) or not ((spikes == value) | (spikes == 0)).all():
        return spikes, 1.0
    return spikes / value, value


class OfPicture(Synapse):
    """Base class of convolution and pooling, whose windows slide over a picture; input [B, C, H, W, T].

    Parameters
    ----------
    channels : (int, int)
        Numbers of output channels and of input channels that each of them sees.
    kernel_size, stride, padding, dilation : int or (int, int)
        One number for height and width, or one for each.
    weight_scale, weight_norm, pre_hook_fx
        See `Synapse`.

    Raises
    ------
    ValueError
        If a size is not a whole number; in a call, if the input has another number of axes, or is smaller than the
        kernel.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel_size: Pair | int,
        stride: Pair | int,
        padding: Pair | int,
        dilation: Pair | int,
        weight_scale: float,
        weight_norm: bool,
        pre_hook_fx: Callable | None,
    ):
        kernel = _pair("kernel_size", kernel_size)
        super().__init__((*channels, *kernel, 1), weight_scale, weight_norm, pre_hook_fx)
        self.kernel_size = (*kernel, 1)
        self.stride = (*_pair("stride", stride), 1)
        self.padding = (*_pair("padding", padding, 0), 0)
        self.dilation = (*_pair("dilation", dilation), 1)

    def channels(self, below: int) -> tuple[int, int]:
        """Return the numbers of output channels and of groups for a picture of `below` channels."""
        return self.out_channels, self.groups

    def edge(self, sides: tuple[int, ...]) -> tuple[int, int]:
        """Return the number of zero rows and columns appended at the lower and right edge."""
        return 0, 0

    def window(self, picture: Picture) -> Window | None:
        """Return the geometry of the fused step for a picture, or None if there is no fused step for it."""
        if self.dilation[:2] != (1, 1):
            return None
        kernel, stride, padding = self.kernel_size[:2], self.stride[:2], self.padding[:2]
        sides = [side + extra for side, extra in zip(picture[1:], self.edge(picture[1:]), strict=True)]
        height, width = (
            (side + 2 * around - size) // step + 1
            for side, around, size, step in zip(sides, padding, kernel, stride, strict=True)
        )
        channels, groups = self.channels(picture[0])
        return Window(picture, (channels, height, width), kernel, stride, padding, groups)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless `shape` is a valid input shape."""
        super().check(shape)
        name = f"synapse.{type(self).__name__}"
        if len(shape) != 5:
            raise ValueError(f"{name}: expected input [B, C, H, W, T], found {list(shape)}")
        sides = shape[2:4]
        for axis, (side, extra) in enumerate(zip(sides, self.edge(sides), strict=True)):
            room = side + extra + 2 * self.padding[axis]
            span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            if room < span:
                raise ValueError(f"{name}: expected at least {span} {('rows', 'columns')[axis]}, padded, found {room}")


class Conv(OfPicture):
    """Convolution over height and width, applied at every time step; input [B, C, H, W, T].

    Parameters
    ----------
    in_features, out_features : int
        Number of input and output channels.
    kernel_size, stride, padding, dilation : int or (int, int)
        One number for height and width, or one for each.
    groups : int
        Number of groups; each connects its own input and output channels.
    weight_scale, weight_norm, pre_hook_fx
        See `Synapse`.

    Raises
    ------
    ValueError
        If a size is not a whole number, or if `groups` does not divide the numbers of channels; in a call, if the
        input has another number of axes or channels, or is smaller than the kernel.
    """

    def __init__(
        self,
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
    ):
        in_features = whole_number("in_features", in_features, 1)
        out_features = whole_number("out_features", out_features, 1)
        groups = whole_number("groups", groups, 1)
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"synapse.Conv: expected in_features and out_features to be multiples of groups={groups}, found"
                f" {in_features} and {out_features}"
            )
        channels = (out_features, in_features // groups)
        super().__init__(channels, kernel_size, stride, padding, dilation, weight_scale, weight_norm, pre_hook_fx)
        self.in_channels, self.out_channels, self.groups = in_features, out_features, groups

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size[:2]}, stride={self.stride[:2]},"
            f" weight_norm={self.weight_norm_enabled}"
        )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless `shape` is a valid input shape."""
        if len(shape) != 5 or (shape[1] != self.in_channels and 0 not in shape):
            raise ValueError(f"synapse.Conv: expected input [B, {self.in_channels}, H, W, T], found {list(shape)}")
        super().check(shape)

    @exact
    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Return the dendrite input [B, out, H', W', T]."""
        self.check(spikes.shape)
        weight = self.hooked_weight()
        spikes, value = _unit_spikes(spikes.to(weight.dtype))
        return F.conv3d(spikes, weight, None, self.stride, self.padding, self.dilation, self.groups) * value


class Pool(OfPicture):
    """Weighted sum over windows, separately for each channel, with one fixed weight; input [B, C, H, W, T].

    Parameters
    ----------
    kernel_size, stride, padding, dilation : int or (int, int)
        One number for height and width, or one for each. The stride is the kernel size by default.
    weight_scale : float
        The weight of every synapse.
    weight_norm, pre_hook_fx
        See `Synapse`.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
    ):
        stride = kernel_size if stride is None else stride
        super().__init__((1, 1), kernel_size, stride, padding, dilation, 1, False, pre_hook_fx)
        self.weight = torch.nn.Parameter(torch.full_like(self.weight, float(weight_scale)), requires_grad=False)
        if weight_norm:
            self.enable_weight_norm()

    def channels(self, below: int) -> tuple[int, int]:
        """Return the numbers of output channels and of groups: each channel is a group of its own."""
        return below, below

    def edge(self, sides: tuple[int, ...]) -> tuple[int, int]:
        """Return the number of zero rows and columns appended at the lower and right edge."""
        return sides[0] % self.kernel_size[0], sides[1] % self.kernel_size[1]

    @exact
    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Return the dendrite input [B, C, H', W', T].

        If a side is not a multiple of the kernel, its remainder is also the number of zeros appended at the right or
        lower edge, as in lava-dl. With the default stride, a remainder of at least half a window thus fills one more
        window, and a smaller remainder is ignored.
        """
        self.check(spikes.shape)
        height, width = self.edge(spikes.shape[2:4])
        weight = self.hooked_weight()
        spikes, value = _unit_spikes(F.pad(spikes.to(weight.dtype), (0, 0, 0, width, 0, height)))
        z = F.conv3d(spikes.flatten(0, 1)[:, None], weight, None, self.stride, self.padding, self.dilation) * value
        return z.reshape(*spikes.shape[:2], *z.shape[2:])
