"""Synapses: weights, their normalisation and 8-bit quantisation, and their product with spikes."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from .kernels.functions import normalise
from .lava import absent
from .spikes import Spikes
from .tools import exact, whole_number


class Synapse(torch.nn.Module):
    """Weights with optional weight normalisation ``w = g v / ||v||`` and an optional hook (usually quantisation).

    Parameters
    ----------
    shape : tuple of int
        Shape of the weights, (out, in, height, width, 1).
    weight_scale : float
        Factor on the initial weights, which are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    weight_norm : bool
        Store the parameters `weight_v` (direction) and `weight_g` (length) instead of `weight`.
    pre_hook_fx : callable, optional
        Function applied to the weights before every product.
    """

    mask_fx: Callable | None = None  # applied before the hook; a block with a mask sets it
    # lava-dl's synapses are torch.nn.Conv3d, and programs read these.
    bias = None
    in_channels, out_channels, groups = 1, 1, 1
    kernel_size, stride, dilation, padding = (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)

    def __init__(self, shape: tuple[int, ...], weight_scale: float, weight_norm: bool, pre_hook_fx: Callable | None):
        super().__init__()
        self.weight_norm_enabled = False
        self.pre_hook_fx = pre_hook_fx
        self.complex = False
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = torch.nn.Parameter(torch.empty(shape).uniform_(-bound, bound) * weight_scale)
        if weight_norm:
            self.enable_weight_norm()

    def __getattr__(self, name: str):
        if name == "weight" and self.__dict__.get("weight_norm_enabled"):
            return normalise(self.weight_v.float(), self.weight_g.float())
        return super().__getattr__(name)

    def __setattr__(self, name: str, value) -> None:
        if name == "weight" and self.__dict__.get("weight_norm_enabled"):
            raise AttributeError(
                "synapse: expected weight_g and weight_v, from which weight normalisation makes the weights, found"
                " weight; call disable_weight_norm() first"
            )
        if name == "bias" and value is not None:
            raise ValueError(
                "synapse: expected no bias, found one: a dendrite adds up nothing but spikes; append an input that"
                " spikes at every step instead"
            )
        super().__setattr__(name, value)

    @property
    def _pre_hook_fx(self) -> Callable | None:
        """lava-dl's name of `pre_hook_fx`."""
        return self.pre_hook_fx

    @_pre_hook_fx.setter
    def _pre_hook_fx(self, value: Callable | None) -> None:
        self.pre_hook_fx = value

    @property
    def direction(self) -> torch.nn.Parameter:
        """The parameter with the full shape of the weights: `weight_v` with weight normalisation, else `weight`."""
        return self.weight_v if self.weight_norm_enabled else self.weight

    @property
    def shape(self) -> torch.Size:
        """Shape of the weights."""
        return self.direction.shape

    @property
    def grad_norm(self) -> float:
        """Norm of the weights' gradient divided by the number of weights; 0 before the first backward pass.

        With weight normalisation, the gradient is that of `weight_g`, as in lava-dl.
        """
        parameter = self.weight_g if self.weight_norm_enabled else self.weight
        return 0.0 if parameter.grad is None else parameter.grad.norm().item() / parameter.numel()

    def enable_weight_norm(self) -> None:
        """Split `weight` into length and direction without changing the product.

        A neuron whose weights are all zero gets a random direction and length zero.
        """
        if not self.weight_norm_enabled:
            w, learns = self.weight.detach(), self.weight.requires_grad
            g = torch.norm_except_dim(w, 2, 0)
            v = torch.where(g == 0, torch.rand_like(w) - 0.5, w)
            del self.weight
            self.weight_norm_enabled = True
            self.weight_g = torch.nn.Parameter(g, requires_grad=learns)
            self.weight_v = torch.nn.Parameter(v, requires_grad=learns)

    def disable_weight_norm(self) -> None:
        """Merge length and direction into `weight`."""
        if self.weight_norm_enabled:
            w, learns = self.weight.detach().to(self.weight_v.dtype), self.weight_v.requires_grad
            del self.weight_g, self.weight_v
            self.weight_norm_enabled = False
            self.weight = torch.nn.Parameter(w, requires_grad=learns)

    def hooked_weight(self) -> torch.Tensor:
        """Return the weights for the product: normalised, masked and passed through the hook, with gradients.

        They are float32 whatever the type of the parameters: sums of 16-bit numbers would not be exact, and 64-bit
        weights might round to other steps than those of the fused layers.
        """
        weight = self.weight.float()
        weight = weight if self.mask_fx is None else self.mask_fx(weight)
        return weight if self.pre_hook_fx is None else self.pre_hook_fx(weight)

    @torch.no_grad()
    def quantised_weight(self) -> torch.Tensor:
        """Return `hooked_weight`, [out, in, height, width, 1], without gradients."""
        return self.hooked_weight()


class Dense(Synapse):
    """All-to-all synapses: ``z[b, o, t] = sum_i w[o, i] s[b, i, t]``.

    Parameters
    ----------
    in_neurons : int or (width, height) or (width, height, channels)
        Number of inputs. With a tuple, the input is [B, C, H, W, T] and is flattened.
    out_neurons : int
        Number of outputs.
    weight_scale, weight_norm, pre_hook_fx
        See `Synapse`.

    Raises
    ------
    ValueError
        If a size is not a whole number from 1; in a call, if the input does not have `in_neurons` neurons.

    Examples
    --------
    >>> fc = Dense(4, 2)
    >>> fc(torch.ones(1, 4, 3)).shape
    torch.Size([1, 2, 3])
    """

    def __init__(
        self,
        in_neurons: int | tuple[int, ...],
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
    ):
        sizes = (in_neurons,) if is_number(in_neurons) else tuple(cast(Iterable[int], in_neurons))
        if not 1 <= len(sizes) <= 3:
            raise ValueError(f"synapse.Dense: expected one to three sizes as in_neurons, found {in_neurons}")
        inner = [whole_number("in_neurons", size, 1) for size in sizes]
        out_neurons = whole_number("out_neurons", out_neurons, 1)
        if len(inner) == 1:
            kernel = (inner[0], 1, 1)
        else:  # (width, height, channels), lava-dl's order
            kernel = (inner[2] if len(inner) == 3 else 1, inner[1], inner[0])
        super().__init__((out_neurons, *kernel, 1), weight_scale, weight_norm, pre_hook_fx)
        self.in_channels = kernel[0]
        self.in_neurons = math.prod(kernel)
        self.out_channels = out_neurons

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless `shape`, [B, C, T] or [B, C, H, W, T], is a valid input shape."""
        _check_not_empty(shape)
        if len(shape) not in (3, 5) or math.prod(shape[1:-1]) != self.in_neurons:
            joins = math.prod(shape[1:-1]) == self.in_neurons
            raise ValueError(
                f"synapse.Dense: expected input [B, C, T] or [B, C, H, W, T] with {self.in_neurons} neurons,"
                f" found {list(shape)}{'; spikes.flatten(1, -2) joins the axes' if joins else ''}"
            )

    @exact
    def forward(self, spikes: torch.Tensor | Spikes) -> torch.Tensor:
        """Return the dendrite input [B, out, T], or [B, out, 1, 1, T] for an input with five axes."""
        self.check(spikes.shape)
        if isinstance(spikes, Spikes):
            spikes = spikes.dense()
        weight = self.hooked_weight().reshape(self.out_channels, -1)
        flat = spikes.flatten(1, -2).to(weight.dtype)
        events = Spikes.search(flat)
        value = 1.0 if events is None else events.value
        # Spikes of value 1/(1-p) enter the sum as ones, and the factor is applied afterwards: this keeps the sum exact.
        rows = (flat if value == 1.0 else flat / value).transpose(1, 2)
        z = F.linear(rows, weight).transpose(1, 2)
        z = z if value == 1.0 else z * value
        return z if spikes.dim() == 3 else z[:, :, None, None]

    def extra_repr(self) -> str:
        return f"{self.in_neurons}, {self.out_channels}, weight_norm={self.weight_norm_enabled}"


def _check_not_empty(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise ValueError(f"synapse: expected an input with no empty axis, found {list(shape)}")


def _check_picture(synapses: "Conv | Pool", sides: tuple[int, ...]) -> None:
    """Raise if the kernel does not fit into a picture of height and width `sides`."""
    for axis, (side, extra) in enumerate(zip(sides, synapses.edge(sides), strict=True)):
        room = side + extra + 2 * synapses.padding[axis]
        span = synapses.dilation[axis] * (synapses.kernel_size[axis] - 1) + 1
        if room < span:
            name = f"synapse.{type(synapses).__name__}"
            raise ValueError(f"{name}: expected at least {span} {('rows', 'columns')[axis]}, padded, found {room}")


def is_number(value: Any) -> bool:
    """Return whether a value is a single number, whatever its type."""
    return np.ndim(value) == 0


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


class Conv(Synapse):
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
        kernel = _pair("kernel_size", kernel_size)
        in_features = whole_number("in_features", in_features, 1)
        out_features = whole_number("out_features", out_features, 1)
        groups = whole_number("groups", groups, 1)
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"synapse.Conv: expected in_features and out_features to be multiples of groups={groups}, found"
                f" {in_features} and {out_features}"
            )
        shape = (out_features, in_features // groups, *kernel, 1)
        super().__init__(shape, weight_scale, weight_norm, pre_hook_fx)
        self.in_channels, self.out_channels, self.groups = in_features, out_features, groups
        self.kernel_size = (*kernel, 1)
        self.stride = (*_pair("stride", stride), 1)
        self.padding = (*_pair("padding", padding, 0), 0)
        self.dilation = (*_pair("dilation", dilation), 1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size[:2]}, stride={self.stride[:2]},"
            f" weight_norm={self.weight_norm_enabled}"
        )

    def edge(self, sides: tuple[int, ...]) -> tuple[int, int]:
        """Return the number of zero rows and columns appended at the lower and right edge: none."""
        return 0, 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless `shape` is a valid input shape."""
        _check_not_empty(shape)
        if len(shape) != 5 or shape[1] != self.in_channels:
            raise ValueError(f"synapse.Conv: expected input [B, {self.in_channels}, H, W, T], found {list(shape)}")
        _check_picture(self, shape[2:4])

    @exact
    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Return the dendrite input [B, out, H', W', T]."""
        self.check(spikes.shape)
        weight = self.hooked_weight()
        spikes, value = _unit_spikes(spikes.to(weight.dtype))
        return F.conv3d(spikes, weight, None, self.stride, self.padding, self.dilation, self.groups) * value


class Pool(Synapse):
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
        kernel = _pair("kernel_size", kernel_size)
        super().__init__((1, 1, *kernel, 1), 1, False, pre_hook_fx)
        self.weight = torch.nn.Parameter(torch.full((1, 1, *kernel, 1), float(weight_scale)), requires_grad=False)
        if weight_norm:
            self.enable_weight_norm()
        self.kernel_size = (*kernel, 1)
        self.stride = self.kernel_size if stride is None else (*_pair("stride", stride), 1)
        self.padding = (*_pair("padding", padding, 0), 0)
        self.dilation = (*_pair("dilation", dilation), 1)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless `shape` is a valid input shape."""
        _check_not_empty(shape)
        if len(shape) != 5:
            raise ValueError(f"synapse.Pool: expected input [B, C, H, W, T], found {list(shape)}")
        _check_picture(self, shape[2:4])

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


__getattr__ = absent(__name__)

__all__ = ["Conv", "Dense", "Pool", "Synapse"]
