"""Support for PyTorch's tools: some work unchanged, some are disabled inside layers, and some raise an error."""

import functools
from collections.abc import Callable

import numpy as np
import torch


def as_array(values) -> np.ndarray:
    """Return a tensor of any device and type, or anything like an array, as a NumPy array."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # NumPy has no bfloat16


def hooked(module: object) -> bool:
    """Return whether calls of `module` are intercepted, by a hook or by a method that is set on the instance."""
    if not isinstance(module, torch.nn.Module):  # None, or a plain function
        return False
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    own = vars(module)  # methods that users replace on an instance
    replaced = "forward" in own or "dynamics" in own or "spike" in own
    return replaced or any(hooks) or torch.nn.modules.module._has_any_global_hook()


def overridden(module: object, kind: type, *methods: str) -> bool:
    """Return whether a subclass of `kind`, or the user on the instance, has replaced one of the methods."""
    return any(getattr(type(module), name, None) is not getattr(kind, name) or name in vars(module) for name in methods)


def refuse(name: str) -> None:
    """Raise if a tool is active that cannot trace or transform what the layer `name` computes.

    Raises
    ------
    RuntimeError
        Within `torch.jit.trace`, `torch.export` (and ONNX with it), `torch.func` transforms and forward-mode
        differentiation.
    """
    if torch.jit.is_tracing():
        tool, instead = "torch.jit.trace", "torch.save(net.state_dict(), ...), net.export_hdf5 or nmnist_helpers.nir"
    elif torch.compiler.is_exporting():
        tool, instead = "torch.export", "net.export_hdf5 or nmnist_helpers.nir"
    elif torch._C._are_functorch_transforms_active():
        tool, instead = "a transform of torch.func", "a batch as the first axis, and loss.backward()"
    elif torch.autograd.forward_ad._current_level >= 0:
        tool, instead = "forward-mode differentiation", "loss.backward()"
    else:
        return
    raise RuntimeError(f"{name}: expected a plain call, found {tool}: spikes run in compiled kernels; use {instead}")


def exact(forward: Callable) -> Callable:
    """Decorate a `forward` so that it always runs as written, in float32.

    `torch.compile` compiles only the code around it, `torch.autocast` does not apply to it, and tools that cannot work
    raise an error at once; see `refuse`.
    """

    @functools.wraps(forward)
    def call(self, *args, **kwargs):
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return torch.compiler.disable(forward)(self, *args, **kwargs)
        refuse(type(self).__name__)
        given = (*args[:1], None) if args else (*kwargs.values(), None)
        devices = [device for value in given if isinstance(device := getattr(value, "device", None), torch.device)]
        if not devices:
            raise TypeError(f"{type(self).__name__}: expected a tensor or Spikes, found {type(given[0]).__name__}")
        if getattr(given[0], "is_sparse", False):
            raise TypeError(f"{type(self).__name__}: expected a dense tensor, found a sparse one; to_dense() makes one")
        device = devices[0]
        if not torch.is_autocast_enabled(device.type):
            return forward(self, *args, **kwargs)
        with torch.autocast(device.type, enabled=False):
            return forward(self, *args, **kwargs)

    return call


class NoScript:
    """Mixin for modules that TorchScript cannot compile: `torch.jit.script` raises an error."""

    def __prepare_scriptable__(self):
        raise RuntimeError(
            f"{type(self).__name__}: expected a plain module, found torch.jit.script: spikes run in compiled kernels;"
            " use torch.save(net.state_dict(), ...), net.export_hdf5 or nmnist_helpers.nir"
        )
