"""A tensor that is read and written in other units than those in which it is stored."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}


class InUnits(torch.Tensor):
    """A tensor whose values are `owner` times `unit`, and whose in-place changes are written back to `owner`.

    It can be used in computations like any tensor: its values are always those that `owner` has at that time, and
    gradients flow through it to `owner`. In-place changes, also through slices and other views of it, apply to `owner`
    (``fill_``, ``x[0] = ...``, ``x.data[:2].clamp_()``), and so do assignments to ``x.grad`` and ``x.requires_grad``
    and hooks on its gradient. So programs that expect a parameter in these units keep working. Copies and pickles are
    plain tensors, and the array that ``numpy()`` returns can only be read.

    Examples
    --------
    >>> owner = torch.ones(2)
    >>> InUnits.of(owner, 1024).data[0] = 512.0
    >>> owner
    tensor([0.5000, 1.0000])
    """

    owner: torch.Tensor
    unit: float

    @classmethod
    def of(cls, owner: torch.Tensor, unit: float) -> "InUnits":
        """Return `owner` times `unit` as a view that writes back."""
        view = (owner * unit).as_subclass(cls)
        view.owner, view.unit = owner, unit
        return view

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if torch.compiler.is_compiling():  # the compiler cannot follow a tensor's number of changes
                name = func.__name__
                may_write = name in _WRITES or (name[-1] == "_" and name[-2] != "_")
                if may_write or func == _tensor.data.__get__ or func == _tensor.detach:
                    raise RuntimeError("decays and states are changed outside compiled code")  # where it then runs
                return func(*[x.owner * x.unit if isinstance(x, cls) else x for x in args], **kwargs)
            if func is torch.autograd.grad:
                return _gradients(*args, **kwargs)
            if args and isinstance(args[0], cls) and func in _OF_OWNER:
                return _OF_OWNER[func](args[0], *(_now(x) for x in args[1:]), **kwargs)
            current: dict[int, tuple[InUnits, torch.Tensor]] = {}  # id of each view -> the view, its present values
            result = func(*_replace(args, current), **_replace(kwargs, current))
            for view, values in current.values():
                if values._version:  # changed in place
                    view._write(values)
            if isinstance(result, np.ndarray):
                result.flags.writeable = False  # changes would be lost
            views: dict[int, InUnits] = {}  # by their place in the result
            for view, values in current.values():
                views |= {i: view for i, part in enumerate(_parts(result)) if part is values}
                if places := [i for i, part in enumerate(_parts(result)) if _is_view(part, values)]:
                    known = current | {id(view): (view, view.owner)}  # to make the same view of the owner
                    owned = _parts(func(*_replace(args, known), **_replace(kwargs, known)))
                    views |= {i: cls.of(owned[i], view.unit) for i in places}
            if not views:
                return result
            parts = [views.get(i, part) for i, part in enumerate(_parts(result))]
            return parts[0] if isinstance(result, torch.Tensor) else type(result)(parts)

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        # torch's own method would run on a temporary tensor (`current` in `__torch_function__`) and register the copy
        # under its address, which another view may get next.
        copied = self.owner.detach() * self.unit
        return copied.requires_grad_(self.owner.requires_grad and self.owner.is_leaf)

    @torch.no_grad()
    def _write(self, values: torch.Tensor) -> None:
        """Write new values, in this view's units, back to `owner`."""
        stored = values / self.unit
        with torch.inference_mode() if self.owner.is_inference() else nullcontext():
            self.owner.copy_(stored if self.owner.is_floating_point() else stored.round())

    def _detached(self) -> "InUnits":
        return InUnits.of(self.owner.detach(), self.unit)

    def _set_grad(self, grad: torch.Tensor | None = None) -> None:
        self.owner.grad = None if grad is None else grad * self.unit

    def _set_requires_grad(self, requires_grad: bool = True) -> "InUnits":
        self.owner.requires_grad_(requires_grad)
        return self

    def _hook(self, hook) -> Any:
        def in_units(grad):  # a gradient is in the inverse unit
            changed = hook(grad / self.unit)
            return None if changed is None else changed * self.unit

        return self.owner.register_hook(in_units)


def _now(x):
    """Return the present values of a view as a plain tensor, and anything else as it is."""
    if not isinstance(x, InUnits):
        return x
    enabled = torch.is_grad_enabled()  # `inference_mode(False)` enables gradients
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        return x.owner * x.unit  # not an inference tensor, so that it counts its changes


def _replace(x, current: dict):
    """Replace views by their present values in `x` and in the lists, tuples and dicts that it consists of."""
    if isinstance(x, InUnits):
        return current.setdefault(id(x), (x, _now(x)))[1]
    if isinstance(x, dict):
        return {key: _replace(value, current) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_replace(value, current) for value in x)
    return x


def _parts(result) -> list:
    return list(result) if isinstance(result, tuple | list) else [result]


def _is_view(part, values: torch.Tensor) -> bool:
    """Return whether `part` is a view of `values` with the same kind of numbers."""
    return isinstance(part, torch.Tensor) and part._base is values and part.dtype == values.dtype


def _gradients(outputs, inputs, *args, **kwargs) -> tuple:
    """Compute ``torch.autograd.grad`` with respect to inputs some of which are views."""
    inputs = _parts(inputs)
    owners = [x.owner if isinstance(x, InUnits) else x for x in inputs]
    grads = torch.autograd.grad(_replace(outputs, {}), owners, *args, **kwargs)
    return tuple(
        grad / x.unit if isinstance(x, InUnits) and grad is not None else grad
        for grad, x in zip(grads, inputs, strict=True)
    )


_tensor: Any = torch.Tensor
#: Functions that concern the owner rather than the numbers.
_OF_OWNER: dict[Any, Any] = {
    _tensor.requires_grad.__get__: lambda view: view.owner.requires_grad,
    _tensor.requires_grad.__set__: InUnits._set_requires_grad,
    _tensor.requires_grad_: InUnits._set_requires_grad,
    _tensor.grad.__get__: lambda view: None if view.owner.grad is None else InUnits.of(view.owner.grad, 1 / view.unit),
    _tensor.grad.__set__: InUnits._set_grad,
    _tensor.grad.__delete__: InUnits._set_grad,
    _tensor.data.__get__: InUnits._detached,
    _tensor.data.__set__: InUnits._write,
    _tensor.detach: InUnits._detached,
    _tensor.register_hook: InUnits._hook,
}
