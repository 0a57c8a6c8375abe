"""A tensor that is read and written in other units than those in which it is stored."""

import torch

_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}


class InUnits(torch.Tensor):
    """A tensor whose values are `owner` times `unit`, and whose in-place changes are written back to `owner`.

    It can be used in computations like any tensor, and gradients flow through it to `owner`. In-place changes
    (``fill_``, ``x[0] = ...``, ``x.data.clamp_()``) and assignments to ``x.grad`` and ``x.requires_grad`` apply to
    `owner` too, so programs that expect a parameter in these units keep working. Copies and pickles are plain tensors.

    Examples
    --------
    >>> owner = torch.ones(2)
    >>> InUnits.of(owner, 1024).data[0] = 512.0
    >>> owner
    tensor([0.5000, 1.0000])
    """

    owner: torch.Tensor
    unit: float
    version: int  # the owner's number of changes when the view's own numbers were computed

    @classmethod
    def of(cls, owner: torch.Tensor, unit: float) -> "InUnits":
        """Return `owner` times `unit` as a view that writes back."""
        view = (owner * unit).as_subclass(cls)
        view.owner, view.unit, view.version = owner, unit, owner._version
        return view

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            name = func.__name__
            writes = name in _WRITES or "out" in kwargs or (name[-1] == "_" and name[-2] != "_")
            if not args or not isinstance(args[0], cls):
                result = func(*args, **kwargs)
                if writes:
                    for view in (*args, *kwargs.values()):
                        if isinstance(view, cls):
                            view._write(view)
                return result
            view, rest = args[0], args[1:]
            owner, unit = view.owner, view.unit
            if func == torch.Tensor.requires_grad.__get__:
                return owner.requires_grad
            if func == torch.Tensor.grad.__get__:
                return None if owner.grad is None else owner.grad / unit
            if func in (torch.Tensor.grad.__set__, torch.Tensor.grad.__delete__):
                owner.grad = rest[0] * unit if rest and rest[0] is not None else None
                return None
            if func in (torch.Tensor.requires_grad.__set__, torch.Tensor.requires_grad_):
                owner.requires_grad_(*rest, **kwargs)
                return view
            if func in (torch.Tensor.data.__get__, torch.Tensor.detach):
                return cls.of(owner.detach(), unit)
            if func == torch.Tensor.data.__set__:
                return view._write(rest[0])
            unchanged = owner._version == view.version
            plain = view.as_subclass(torch.Tensor) if unchanged else owner * unit
            result = func(plain, *rest, **kwargs)
            return view._write(plain) if writes else result

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        # torch's own method would run on a temporary tensor (`plain` in `__torch_function__`) and register the copy
        # under its address, which another view may get next.
        copied = self.owner.detach() * self.unit
        return copied.requires_grad_(self.owner.requires_grad and self.owner.is_leaf)

    @torch.no_grad()
    def _write(self, values: torch.Tensor) -> "InUnits":
        """Write new values, in this view's units, back to `owner`."""
        stored = values.as_subclass(torch.Tensor) / self.unit
        self.owner.copy_(stored if self.owner.is_floating_point() else stored.round())
        return self
