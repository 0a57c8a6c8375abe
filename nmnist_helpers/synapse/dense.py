"""All-to-all synapses."""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F

from ..checks import is_number, whole_number
from ..spikes import Spikes
from ..tools import exact
from .base import Synapse


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
        super().check(shape)
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
