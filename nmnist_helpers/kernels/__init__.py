"""The network's compute kernels in three implementations ("twins") with the same interface.

`reference` is plain PyTorch, written to be read; `cpu` uses Numba and `gpu` uses Triton. All three compute the same
spikes, bit for bit. `use` and `using` choose a twin; `functions` makes the kernels differentiable.
"""

from .backend import use, using

__all__ = ["use", "using"]
