"""The weights of any synapse: their parameters, their normalisation and their hook."""

import math
from collections.abc import Callable

import torch

from ..kernels.functions import normalise
from .computed import Computed


class Synapse(torch.nn.Module):
    """Weights with optional weight normalisation ``w = g v / ||v||`` and an optional hook (usually quantisation).

    Parameters
    ----------
    shape : tuple of int
        Shape of the weights, (out, in, height, width, 1).
    weight_scale : float
        Factor on the initial weights, which are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    weight_norm : bool
        Store the parameters `weight_v` (direction) and `weight_g` (length). `weight` is then computed from them and
        cannot be changed.
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
            return self._plain_weight().as_subclass(Computed)
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
            w, learns = self._plain_weight().detach().to(self.weight_v.dtype), self.weight_v.requires_grad
            del self.weight_g, self.weight_v
            self.weight_norm_enabled = False
            self.weight = torch.nn.Parameter(w, requires_grad=learns)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless `shape` is the shape of a valid input."""
        if 0 in shape:
            raise ValueError(f"synapse: expected an input with no empty axis, found {list(shape)}")

    def _plain_weight(self) -> torch.Tensor:
        return normalise(self.weight_v.float(), self.weight_g.float()) if self.weight_norm_enabled else self.weight

    def hooked_weight(self) -> torch.Tensor:
        """Return the weights for the product: normalised, masked and passed through the hook, with gradients.

        They are float32 whatever the type of the parameters: sums of 16-bit numbers would not be exact, and 64-bit
        weights might round to other steps than those of the fused layers.
        """
        weight = self._plain_weight().float()
        weight = weight if self.mask_fx is None else self.mask_fx(weight)
        return weight if self.pre_hook_fx is None else self.pre_hook_fx(weight)

    @torch.no_grad()
    def quantised_weight(self) -> torch.Tensor:
        """Return `hooked_weight`, [out, in, height, width, 1], without gradients."""
        training, self.training = self.training, False  # so that a hook changes no state of its own
        try:
            for hook in self._forward_pre_hooks.values():
                if _makes_weights(hook):
                    with torch.enable_grad():  # a backward pass may need the weights
                        hook(self, ())
        finally:
            self.training = training
        return self.hooked_weight()


def _makes_weights(hook: Callable) -> bool:
    """Return whether a hook is one of torch's, such as those of pruning, which make the weights only in a call."""
    return any(kind.__module__.startswith("torch.nn.utils.") for kind in type(hook).__mro__)
