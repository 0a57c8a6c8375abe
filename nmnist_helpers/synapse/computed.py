"""Weights that are computed from parameters: they can be read, but a change in place raises an error."""

import numpy as np
import torch

_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}


class Computed(torch.Tensor):
    """The weights of a synapse with weight normalisation, which are computed from `weight_g` and `weight_v`.

    They are read like any tensor, and gradients flow through them to the parameters. A change in place would be lost.
    It raises an AttributeError, also through a slice, ``.data`` or `torch.nn.init`. Copies and pickles are plain
    tensors, and the array that ``numpy()`` returns can only be read.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = [*args, *kwargs.values()][0]  # `torch.nn.init` gives the tensor by its name
        if (isinstance(first, cls) and _writes(func)) or isinstance(kwargs.get("out"), cls):
            raise AttributeError(
                "synapse: expected weight_g and weight_v, from which weight normalisation makes the weights, found a"
                " change of weight; call disable_weight_norm() first"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if isinstance(result, np.ndarray):
                result.flags.writeable = False  # changes would be lost
            if not isinstance(first, cls):
                return result
            if isinstance(result, tuple | list):
                return type(result)(_marked(part, first) for part in result)
            return _marked(result, first)

    def __repr__(self, *, tensor_contents: str | None = None) -> str:  # type: ignore[override]
        return repr(self.as_subclass(torch.Tensor))

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        return self.detach().as_subclass(torch.Tensor).clone()

    def __reduce_ex__(self, protocol):
        return self.as_subclass(torch.Tensor).__reduce_ex__(protocol)


def _writes(func) -> bool:
    """Return whether a function of a tensor, such as ``fill_``, changes it."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    return in_place or name in _WRITES or func == torch.Tensor.data.__set__  # type: ignore[attr-defined]


def _marked(result, weights: torch.Tensor):
    """Return a view of the weights as `Computed`, and anything else as it is."""
    if not isinstance(result, torch.Tensor) or result.dtype != weights.dtype or result.layout != torch.strided:
        return result
    same = result.untyped_storage()._cdata == weights.untyped_storage()._cdata
    return result.as_subclass(Computed) if same else result
