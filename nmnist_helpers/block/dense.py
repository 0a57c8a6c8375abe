"""The fully connected block, which runs as one fused step."""

from collections.abc import Callable
from typing import cast

import torch

from ..spikes import Spikes
from ..synapse import Dense as Synapses
from ..tools import exact
from .base import EIGHT_BIT, Block


class Dense(Block):
    """Fully connected CUBA block.

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    in_neurons : int or tuple of int
        Number of inputs, or (width, height, channels) for inputs [B, C, H, W, T]. The output for such an input is
        [B, out, 1, 1, T].
    out_neurons : int
        Number of neurons.
    weight_scale : float
        Factor on the initial weights.
    weight_norm : bool
        Learn length and direction of each neuron's weight vector separately.
    pre_hook_fx : callable or None
        Function that replaces the 8-bit quantisation of the weights; None leaves them as they are.
    delay : bool
        Learn one delay per neuron, 0..62 time steps.
    delay_shift : bool
        Shift the output by one time step.
    mask : bool tensor [out, in], optional
        False removes the synapse. Numbers are factors of the weights, applied before these are quantised.
    count_log : bool
        Also return the share of bins that hold a spike.

    Examples
    --------
    >>> block = Dense({'threshold': 1.25, 'current_decay': 0.25, 'voltage_decay': 0.03}, 20, 10)
    >>> block(torch.ones(1, 20, 30)).shape
    torch.Size([1, 10, 30])

    Notes
    -----
    With the built-in quantisation and without `norm`, `mask`, hooks and persistent state, product, neuron and axon run
    as one fused step (`nmnist_helpers.kernels.functions.CubaLayer`). Otherwise they run one after the other. The spikes
    are identical.
    """

    synapse: Synapses
    mask: torch.Tensor | None

    def __init__(
        self,
        neuron_params: dict,
        in_neurons: int | tuple[int, ...],
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | str | None = EIGHT_BIT,
        delay: bool = False,
        delay_shift: bool = True,
        mask: torch.Tensor | None = None,
        count_log: bool = False,
    ):
        weights = Synapses(in_neurons, out_neurons, weight_scale, weight_norm)
        super().__init__(neuron_params, weights, pre_hook_fx, out_neurons, delay, delay_shift, count_log)
        self.neuron.shape = torch.Size([out_neurons])
        self.register_buffer("mask", None)
        self.mask = mask
        if mask is not None:
            self.mask = mask.reshape(self.synapse.shape).to(self.synapse.direction.dtype)

    def __setattr__(self, name: str, value) -> None:
        if name == "mask" and value is not None:
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"block.cuba.Dense: expected a tensor as mask, found {type(value).__name__}")
            full = self.synapse.shape
            flat = full[0], full[1:].numel()
            sides = [[side for side in shape if side != 1] for shape in (value.shape, full, flat)]
            if sides[0] not in sides[1:]:
                raise ValueError(f"block.cuba.Dense: expected a mask of {list(flat)}, found {list(value.shape)}")
        super().__setattr__(name, value)
        if name == "mask" or (name == "synapse" and getattr(self, "mask", None) is not None):
            # A bound method, so that a copy of the block uses its own mask.
            self.synapse.mask_fx = None if self.mask is None else self._masked

    def _masked(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * cast(torch.Tensor, self.mask).reshape(weight.shape)

    @property
    def fused(self) -> bool:
        """Whether the whole block runs as one fused step that calls none of its parts."""
        return super().fused and self.mask is None and type(self.synapse) is Synapses

    @exact
    def forward(self, spikes: torch.Tensor | Spikes, dense: bool = True):
        """Return spikes [B, out, T] for spikes [B, in, T], either dense or `Spikes`.

        With `dense=False` the output may also be `Spikes`. The next block needs only these, so the dense tensor, which
        is nearly all zeros, is never written. Gradients flow through `Spikes` as through a tensor.
        """
        self.synapse.check(spikes.shape)
        if not self.fused or len(spikes.shape) == 5:
            return super().forward(spikes)
        if isinstance(spikes, Spikes):
            return self._run_fused(spikes, spikes, self.synapse.out_channels, None, dense)
        spikes = spikes.float()
        return self._run_fused(spikes, Spikes.search(spikes), self.synapse.out_channels, None, dense)

    def _geometry(self, in_shape: tuple[int, ...] | None) -> dict:
        return {"weight_shape": (self.synapse.out_channels, -1)}
