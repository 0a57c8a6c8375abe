"""The kernels under the network: one signature, three twins, one answer.

`reference` is the plain text, `cpu` runs on Numba, `gpu` on Triton. `use` chooses; `functions` makes
them differentiable.
"""

from .backend import use, using

__all__ = ["use", "using"]
