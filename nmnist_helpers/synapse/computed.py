"""Weights that are computed from parameters: they can be read, but a change in place raises an error."""

import torch

_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
_HARMLESS = {"requires_grad_", "detach_", "squeeze_", "unsqueeze_", "t_", "transpose_", "share_memory_", "retain_grad_"}


class Computed(torch.Tensor):
    """The weights of a synapse with weight normalisation, which are computed from `weight_g` and `weight_v`.

    They are read like any tensor, and gradients flow through them to the parameters. A change in place would be lost.
    It raises an AttributeError, also through a slice, ``.data`` or `torch.nn.init`. Copies and pickles are plain
    tensors. Each access computes the weights anew, so the array that ``numpy()`` returns is the caller's own.
    """

    @classmethod
    @torch._disable_dynamo  # torch.compile would follow the code below without an end
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = [*args, *kwargs.values()][0]  # `torch.nn.init` gives the tensor by its name
        mine = isinstance(first, cls) and not isinstance(first, torch.nn.Parameter)
        if (mine and _writes(func)) or isinstance(kwargs.get("out"), cls):
            raise AttributeError(
                "synapse: expected weight_g and weight_v, from which weight normalisation makes the weights, found a"
                " change of weight; call disable_weight_norm() first, or change a copy: weight.detach().clone()"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if not mine:
                return result
            if isinstance(result, tuple | list):
                return type(result)(_marked(part, first) for part in result)
            return _marked(result, first)

    def __repr__(self, *, tensor_contents: str | None = None) -> str:  # type: ignore[override]
        return repr(self.as_subclass(torch.Tensor))

    def __format__(self, format_spec: str) -> str:
        return format(self.as_subclass(torch.Tensor), format_spec)

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        return self.detach().as_subclass(torch.Tensor).clone()

    def __reduce_ex__(self, protocol):
        return self.as_subclass(torch.Tensor).__reduce_ex__(protocol)


def _writes(func) -> bool:
    """Return whether a function of a tensor, such as ``fill_``, changes it."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and name not in _HARMLESS
    return in_place or name in _WRITES or func == torch.Tensor.data.__set__  # type: ignore[attr-defined]


def _marked(result, weights: torch.Tensor):
    """Return a view of the weights as `Computed`, and anything else as it is."""
    if not isinstance(result, torch.Tensor) or isinstance(result, Computed):
        return result
    if result.dtype != weights.dtype or result.layout != torch.strided:
        return result
    same = result.untyped_storage()._cdata == weights.untyped_storage()._cdata
    return result.as_subclass(Computed) if same else result
