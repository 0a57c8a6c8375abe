"""The kernels under the network: three twins with one signature and equal results.

`reference` is the plain version to read, `cpu` runs on Numba, `gpu` on Triton. `use` chooses; `functions` makes
them differentiable.
"""

from .backend import use, using

__all__ = ["use", "using"]
