"""A tensor that is read and written in other units than it is stored in."""

import torch

_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}


class InUnits(torch.Tensor):
    """`owner` times `unit`, as a tensor that writes back.

    It computes as any tensor does, and gradients flow through it into the owner. A change in place (``fill_``,
    ``x[0] = ...``, ``x.data.clamp_()``, an assignment to ``x.grad`` or ``x.requires_grad``) reaches the owner too,
    so that programs written for a parameter in these units go on working. Copied or pickled it is a plain tensor.

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
        """See `owner` in these units."""
        view = (owner * unit).as_subclass(cls)
        view.owner, view.unit = owner, unit
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
            owner, unit, plain = view.owner, view.unit, view.as_subclass(torch.Tensor)
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
            result = func(plain, *rest, **kwargs)
            return view._write(plain) if writes else result

    @torch.no_grad()
    def _write(self, values: torch.Tensor) -> "InUnits":
        """Bring new values to the owner."""
        stored = values.as_subclass(torch.Tensor) / self.unit
        self.owner.copy_(stored if self.owner.is_floating_point() else stored.round())
        return self
