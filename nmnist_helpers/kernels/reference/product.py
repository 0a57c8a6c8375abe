"""Quantised weights and their products with spikes, as plain dense matrix products."""

from functools import reduce

import torch
import torch.nn.functional as F

from ...spikes import Spikes
from ..common import raise_not_a_number
from ..constants import HIGHEST_STEP, LOWEST_STEP, NORM_LANES, WEIGHT_STEPS


def adds_in_usual_order() -> bool:
    """Return whether torch's weight normalisation adds up squares as on x86 processors with AVX2.

    A norm that differs in the last bit can move a weight by a quantisation step; the network then sends other spikes.
    """
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def norms(v: torch.Tensor) -> torch.Tensor:
    """Return the norm of each row of v [C_out, C_in], as torch's weight normalisation does on x86: float [C_out].

    (That of `torch.norm_except_dim` can differ in the last bit.)
    """
    if adds_in_usual_order() or v.dtype != torch.float32:
        return torch._weight_norm_interface(v, v.new_ones(len(v), 1), 0)[1].flatten()
    squares, columns = v.square(), v.shape[1]
    lanes = NORM_LANES if columns >= NORM_LANES else 1
    total = reduce(torch.add, F.pad(squares, (0, -columns % lanes)).split(lanes, dim=1))
    while total.shape[1] > 1:
        total = reduce(torch.add, total.chunk(2, dim=1))
    return total.flatten().double().sqrt().float()  # correctly rounded; torch's square root in float32 is not always


def quantise(v: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return quantised weights ``clamp(round(32 * v * factor) / 32, -4, 254/64)``, rounding half to even.

    Parameters
    ----------
    v : float tensor [C_out, C_in]
        Weights, or their directions under weight normalisation.
    factor : float tensor [C_out]
        ``g / ||v||``, or ones.

    Returns
    -------
    float tensor [C_out, C_in]
        The quantised weights. The other twins store the same numbers in other layouts.

    Raises
    ------
    OverflowError
        If a weight is NaN.
    """
    steps = torch.round(v * factor[:, None] * WEIGHT_STEPS)
    if torch.isnan(steps).any():
        raise_not_a_number("weights")
    return steps.clamp(LOWEST_STEP, HIGHEST_STEP) / WEIGHT_STEPS


def weight_values(weights: torch.Tensor) -> torch.Tensor:
    """Return the quantised weights as float [C_out, C_in], whatever the layout of the twin."""
    return weights


def quantise_gradient(
    v: torch.Tensor, factor: torch.Tensor, norm: torch.Tensor | None, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the gradients of v and g: straight through the rounding, zero outside the clamp.

    Parameters
    ----------
    v, factor
        The arguments of `quantise`.
    norm : float tensor [C_out] or None
        ``||v||``, None without weight normalisation.
    grad : float tensor [C_out, C_in]
        Gradient of the quantised weights, from `weight_gradient`.

    Returns
    -------
    grad_v : float tensor [C_out, C_in]
    grad_g : float tensor [C_out] or None
    """
    steps = torch.round(v * factor[:, None] * WEIGHT_STEPS)
    grad = torch.where((steps >= LOWEST_STEP) & (steps <= HIGHEST_STEP), grad, 0.0)
    if norm is None:
        return grad, None
    return normalise_gradient(v, factor, norm, grad)


def normalise_gradient(
    v: torch.Tensor, factor: torch.Tensor, norm: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the gradients of v [C_out, C_in] and g [C_out] from `grad`, that of ``w = g v / ||v||``.

    ``dL/dg = <dL/dw, v> / ||v||`` and ``dL/dv = g / ||v|| * (dL/dw - v <dL/dw, v> / ||v||**2)`` (Salimans and Kingma,
    2016, equation 3); `factor` is ``g / ||v||``, `norm` is ``||v||``.
    """
    along = (grad * v).sum(1)
    return factor[:, None] * (grad - v * (along / norm**2)[:, None]), along / norm


def _rows(spikes: Spikes | torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return dense rows [B, T, C_in], and the factor that is to be applied after the product."""
    return (spikes.rows(value=1.0), spikes.value) if isinstance(spikes, Spikes) else (spikes, 1.0)


def product(spikes: Spikes | torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute the dendrite input ``z[b, t, o] = sum_i w[o, i] s[b, i, t]``.

    Sums of 0/1 spikes times multiples of 1/32 are exact in float32 in any order; that is why all twins
    agree bit for bit. A spike value other than 1 is applied after the sum.

    Parameters
    ----------
    spikes : Spikes of shape (B, C_in, T), or float rows [B, T, C_in]
    weights
        From `quantise`.

    Returns
    -------
    float tensor [B, T, C_out]
    """
    rows, value = _rows(spikes)
    z = rows @ weights.t()
    return z if value == 1.0 else z * value


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """Compute ``dL/dw[o, i] = sum_bt grad_z[b, t, o] s[b, i, t]``, in the layout of the twin's weights."""
    rows, value = _rows(spikes)
    grad = grad_z.reshape(-1, grad_z.shape[2]).t() @ rows.reshape(-1, rows.shape[2])
    return grad if value == 1.0 else grad * value


def input_gradient(grad_z: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute ``dL/ds[b, t, i] = sum_o grad_z[b, t, o] w[o, i]``, as rows [B, T, C_in]."""
    return grad_z @ weights
