"""Products of spikes with quantised weights on a GPU: spikes as 0/1 bytes, multiplied on tensor cores.

A list of spikes is turned into bytes too, anew in each direction. Gathering the rows of weights that a list names was
slower at every density from 0.1 to 10 % (measured on an H200). Layers exchange bytes, because the host would have to
wait for the length of a list.
"""

import torch

from ...spikes import DenseSpikes, Spikes
from ..constants import MAX_INPUTS
from .matmul import matmul
from .weight import padded, weight_values


def _as_bytes(spikes: Spikes) -> torch.Tensor:
    """Return spikes as 0/1 bytes [B * T, P], with P >= C_in and zeros from column C_in on."""
    width = padded(spikes.shape[1])
    if not isinstance(spikes, DenseSpikes):
        spikes = DenseSpikes.from_events(spikes, width)
    elif spikes.data.shape[2] % 16:  # unaligned rows are read byte by byte; the backward pass needs the padded ones too
        spikes.data = torch.nn.functional.pad(spikes.data, (0, width - spikes.data.shape[2]))
    return spikes.data.reshape(-1, spikes.data.shape[2])


def product(spikes: Spikes | torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.product` on a GPU, with weights from the GPU's `quantise`."""
    if not isinstance(spikes, Spikes):  # graded spikes are not exact in bfloat16: float32 throughout
        return spikes.float() @ weight_values(weights).t()
    batch, inputs, steps = spikes.shape
    if inputs > MAX_INPUTS:
        raise ValueError(f"product: expected at most {MAX_INPUTS} inputs, found {inputs}")
    rows = _as_bytes(spikes)
    # If both are padded with zeros to the same width, the product needs no masks.
    inner = rows.shape[1] if weights.stride() == (rows.shape[1], 1) else inputs
    return matmul(rows[:, :inputs], weights.t(), spikes.value, inner).view(batch, steps, -1)


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.weight_gradient` on a GPU, [C_out, C_in], summed in a fixed order."""
    outputs = grad_z.shape[2]
    grad = grad_z.reshape(-1, outputs)
    if not isinstance(spikes, Spikes):
        return grad.t() @ spikes.float().reshape(-1, spikes.shape[2])
    # over all columns, padding included: a row of 2,312 numbers is not a multiple of 16 and would be read byte by byte
    return matmul(grad.t(), _as_bytes(spikes), spikes.value)[:, : spikes.shape[1]]


def input_gradient(grad_z: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.input_gradient` on a GPU."""
    batch, steps, outputs = grad_z.shape
    return matmul(grad_z.reshape(-1, outputs), weights).view(batch, steps, -1)
