"""CUDA devices that only pretend to exist: tensors in the CPU's memory, with a record of the device of each.

`FakeCuda` answers questions about devices, raises an error if an operation or a Triton kernel gets tensors on several
devices, and records where the host would wait for a device. Kernels are checked, but not run: their outputs are zero.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
ANY = torch.device("meta")  # label of memory that torch has allocated on its own, for an operation on any device
aten = torch.ops.aten
# Operations whose results the host reads, or whose output has a size that only the device knows.
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount,
    aten.masked_select, aten.equal,
}  # fmt: skip
# Arguments of kernels that need not be contiguous: their strides are arguments too.
STRIDED = {
    "matmul_kernel": {"a", "b"}, "gradient_kernel": {"grad"}, "product_kernel": {"spikes", "weights"},
    "weight_gradient_kernel": {"spikes"}, "input_gradient_kernel": {"weights"},
}  # fmt: skip
OPTIONS = {"num_warps", "num_stages", "enable_fp_fusion"}
MAX_GRID = (2**31 - 1, 65535, 65535)


def tensors_in(*trees) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    with torch._C.DisableTorchFunctionSubclass():  # a parameter of unknown size has storage too
        return tensor.untyped_storage()


def caller() -> str:
    """Return module and name of the innermost function of the package that is running."""
    frame: Any = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("nmnist_helpers"):
            return f"{module.removeprefix('nmnist_helpers.')}:{frame.f_code.co_qualname.partition('.<locals>')[0]}"
        frame = frame.f_back
    return "outside the package"


class FakeCuda(TorchFunctionMode):
    """Pretend within a ``with`` block that there are CUDA devices.

    Attributes
    ----------
    waits : list of str
        The functions of the package that waited for a device, in the order of the waits.
    launches : Counter
        Number of launches of each Triton kernel.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.launches: Counter[str] = Counter()
        self.current = 0
        # The storages are kept, so that no address is used twice.
        self.labels: dict[int, tuple[torch.UntypedStorage, torch.device]] = {}
        self.operations = _Operations(self)

    def __enter__(self):
        self.operations.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.operations.__exit__(*error)

    def patch(self, monkeypatch) -> None:
        """Replace the few functions of torch and Triton that need a driver."""
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"pretended {device}")
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(self, "current", device.index))
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(
            triton.runtime.JITFunction, "run", lambda kernel, *a, **named: self.launch(kernel, a, named)
        )

        by_device = torch.optim.Optimizer._group_tensors_by_device_and_dtype

        def grouped(lists, *args):  # to torch, all tensors are on the CPU
            found = by_device(lists, *args).items()
            return {(self.label(tensors[0][0]), kind): (tensors, at) for (_, kind), (tensors, at) in found}

        monkeypatch.setattr(torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped))

        run_backward = torch.autograd.function.BackwardCFunction.apply

        def apply(node, *grads):  # torch's autograd engine has suspended the mode
            TorchFunctionMode.__enter__(self)
            try:
                return run_backward(node, *grads)
            finally:
                TorchFunctionMode.__exit__(self, None, None, None)

        monkeypatch.setattr(torch.autograd.function.BackwardCFunction, "apply", apply)

    @contextmanager
    def device(self, device: torch.device):
        before, self.current = self.current, device.index
        yield
        self.current = before

    def launch(self, kernel, args: tuple, named: dict) -> None:
        """Check a launch instead of running it."""
        name, grid = kernel.__name__, named.pop("grid")
        given = dict(zip(kernel.arg_names, args, strict=False)) | named
        assert given.keys() - OPTIONS - {"warmup"} == set(kernel.arg_names), name
        assert all(0 < size <= most for size, most in zip(grid, MAX_GRID, strict=False)), f"{name}: grid {grid}"
        with torch._C.DisableTorchFunction():
            tensors = {key: x for key, x in given.items() if isinstance(x, torch.Tensor)}
            found = {key: str(self.label(x)) for key, x in tensors.items()}
            assert set(found.values()) == {f"cuda:{self.current}"}, f"{name}: device {self.current}, arguments {found}"
            for key, x in tensors.items():
                even = x.dim() < 3 or x.stride()[::2] == (x.shape[1] * x.stride(1), 1)
                unit = x.is_contiguous() or (key in STRIDED.get(name, ()) and 1 in x.stride() and even)
                assert unit, f"{name}: {key} has shape {list(x.shape)}, strides {x.stride()}"
        self.launches[name] += 1

    def label(self, tensor: torch.Tensor) -> torch.device:
        return self.labels.get(storage_of(tensor)._cdata, (None, CPU))[1]

    def set_label(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", self.current)
        storage = storage_of(tensor)
        self.labels[storage._cdata] = storage, device
        return tensor

    def known(self, tensor: torch.Tensor) -> bool:
        return storage_of(tensor)._cdata in self.labels

    def wait(self) -> None:
        self.waits.append(caller())

    def move(self, tensor: torch.Tensor, device: torch.device, non_blocking: bool = False, **to: Any) -> torch.Tensor:
        """Copy a tensor to a device, unless it is there already."""
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", self.current)
        if device == self.label(tensor):
            return tensor.to(**to) if to else tensor
        if not (non_blocking and device.type == "cuda"):
            self.wait()
        return self.set_label(tensor.to(**{"dtype": tensor.dtype} | to, copy=True), device)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        on_gpu = bool(args) and isinstance(args[0], torch.Tensor) and self.label(args[0]).type == "cuda"
        if func == torch.Tensor.device.__get__:
            return self.label(args[0]) if self.label(args[0]) != ANY else CPU
        if func == torch.Tensor.is_cuda.__get__:
            return on_gpu
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and on_gpu:
            raise TypeError("can't convert cuda device type tensor to numpy")
        if func == torch.Tensor.tolist and on_gpu:
            self.wait()
        if func == torch.Tensor.cpu:
            return self.move(args[0], CPU)
        if func == torch.Tensor.to:
            if isinstance(args[1] if args[1:] else None, torch.Tensor):
                return self.move(args[0], self.label(args[1]), dtype=args[1].dtype)
            device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args[1:], **kwargs)
            to = {"dtype": dtype, "memory_format": memory_format}
            to = {key: value for key, value in to.items() if value is not None}
            return self.move(args[0], device or self.label(args[0]), non_blocking, **to)
        if func == torch.Tensor.__setitem__ and on_gpu and not isinstance(args[2], torch.Tensor):
            # torch fills memory of the tensor's device; only here that is the CPU, for which it uses a shortcut
            args = *args[:2], self.set_label(torch.tensor(args[2], dtype=args[0].dtype), self.label(args[0]))
        device = kwargs.pop("device", None)
        device = None if device is None else torch.device(device)
        generator = kwargs.get("generator")
        assert generator is None or generator.device == (device or CPU), f"{name}: generator on {generator.device}"
        out = func(*args, **kwargs)
        if name in ("empty", "empty_like", "new_empty", "empty_strided"):
            out.zero_()
        if device is not None and name in ("tensor", "as_tensor") and device.type == "cuda":
            self.wait()
        if device is not None or not tensors_in(args, kwargs):
            for x in tensors_in(out):
                if device is not None or self.label(x) == ANY:
                    self.set_label(x, device or CPU)
        return out


class _Operations(TorchDispatchMode):
    """Check and record the devices of all operations, also of those that torch calls on its own."""

    def __init__(self, cuda: FakeCuda):
        super().__init__()
        self.cuda = cuda

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        cuda, kwargs = self.cuda, kwargs or {}
        with torch._C.DisableTorchFunction():
            inputs = tensors_in(args, kwargs)
            devices = {cuda.label(x) for x in inputs} - {ANY}
            packet = func.overloadpacket
            if packet == aten.copy_ and len(devices) > 1:
                if not (args[2:] and args[2] and cuda.label(args[0]).type == "cuda"):
                    cuda.wait()
                return func(*args, **kwargs)
            if len(devices) > 1:
                raise RuntimeError(f"{func}: expected tensors on one device, found {sorted(map(str, devices))}")
            device = devices.pop() if devices else ANY
            if packet == aten._weight_norm_interface:  # on a GPU, torch reads contiguous memory whatever the strides
                assert all(x.is_contiguous() for x in inputs), f"{func}: strides {[x.stride() for x in inputs]}"
            out = func(*args, **kwargs)
            masks = packet == aten.index and any(x.dtype in (torch.bool, torch.uint8) for x in inputs[1:])
            unsized = (
                packet == aten.repeat_interleave and "Tensor" in func._overloadname and not kwargs.get("output_size")
            )
            if device.type == "cuda" and (packet in WAITING or masks or unsized):
                cuda.wait()
            for x in (*inputs, *tensors_in(out)):
                if not cuda.known(x) or cuda.label(x) == ANY:
                    cuda.set_label(x, device)
        return out
