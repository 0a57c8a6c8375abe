"""Products of spikes with quantised weights on a GPU: dense on tensor cores, or over lists of events.

Dense products are the default: the spikes of a layer stay 0/1 bytes on the GPU (`DenseSpikes`), since the host would
have to wait for the length of a list. For a list with few spikes (`Spikes`), rows of weights are gathered and summed.
"""

import torch
import triton
import triton.language as tl

from ...spikes import DenseSpikes, Spikes, row_of_spike
from .launch import on
from .matmul import matmul
from .weight import padded, weight_values

DENSE_FROM = 0.01  # share of set bins from which tensor cores should be faster; estimated, not measured
MAX_INPUTS = 1 << 17  # this many weights of 128/32 add up to 2**24 / 32; a larger float32 sum would be rounded
EVENTS = 16  # events whose rows are loaded at once
COLUMNS = 128


@triton.jit
def gather_kernel(
    indptr, index, table, out, N, stride, value, EVENTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Compute ``out[r] = value * sum_k table[index[k]]`` for k in ``indptr[r]:indptr[r + 1]``, in the order of k."""
    r = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first, last = tl.load(indptr + r), tl.load(indptr + r + 1)
    total = tl.zeros([BLOCK], tl.float32)
    for at in range(first, last, EVENTS):
        k = at + tl.arange(0, EVENTS)
        rows = tl.load(index + k, mask=k < last, other=0).to(tl.int64)
        inside = (k < last)[:, None] & (n < N)[None, :]
        x = tl.load(table + rows[:, None] * stride + n[None, :], mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32), 0)
    tl.store(out + r * N + n, total * value, mask=n < N)


def _gather(indptr: torch.Tensor, index: torch.Tensor, table: torch.Tensor, value: float) -> torch.Tensor:
    """Sum the rows of `table` [X, N] that each row of a CSR list names: float32 [len(indptr) - 1, N]."""
    rows, columns = len(indptr) - 1, table.shape[1]
    out = torch.empty(rows, columns, dtype=torch.float32, device=table.device)
    with on(table):
        gather_kernel[(rows, triton.cdiv(columns, COLUMNS))](
            indptr=indptr, index=index, table=table, out=out, N=columns, stride=table.stride(0), value=float(value),
            EVENTS=EVENTS, BLOCK=COLUMNS,
        )  # fmt: skip
    return out


def _as_bytes(spikes: Spikes) -> torch.Tensor:
    """Return spikes as 0/1 bytes [B * T, P], with P >= C_in and zeros from column C_in on."""
    width = padded(spikes.shape[1])
    if not isinstance(spikes, DenseSpikes):
        spikes = DenseSpikes.from_events(spikes, width)
    elif spikes.data.shape[2] % 16:  # unaligned rows are read byte by byte; the backward pass needs the padded ones too
        spikes.data = torch.nn.functional.pad(spikes.data, (0, width - spikes.data.shape[2]))
    return spikes.data.reshape(-1, spikes.data.shape[2])


def _sort_by_channel(spikes: Spikes) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the list sorted by channel: `indptr` [C + 1], and the rows of each channel in increasing order."""
    row = row_of_spike(spikes.indptr, spikes.count).to(torch.int32)
    channel, order = torch.sort(spikes.channel, stable=True)
    ends = torch.searchsorted(channel, torch.arange(spikes.shape[1] + 1, dtype=channel.dtype, device=spikes.device))
    return ends.to(torch.int32), row[order]


def _is_sparse(spikes: Spikes | torch.Tensor) -> bool:
    return isinstance(spikes, Spikes) and not isinstance(spikes, DenseSpikes) and spikes.density < DENSE_FROM


def product(spikes: Spikes | torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.product` on a GPU, with weights from the GPU's `quantise`."""
    if not isinstance(spikes, Spikes):  # graded spikes are not exact in bfloat16: float32 throughout
        return spikes.float() @ weight_values(weights).t()
    batch, inputs, steps = spikes.shape
    if inputs > MAX_INPUTS:
        raise ValueError(f"product: expected at most {MAX_INPUTS} inputs, found {inputs}")
    if _is_sparse(spikes):
        z = _gather(spikes.indptr, spikes.channel, weights.t().contiguous(), spikes.value)
    else:
        rows = _as_bytes(spikes)
        # If both are padded with zeros to the same width, the product needs no masks.
        inner = rows.shape[1] if weights.stride() == (rows.shape[1], 1) else inputs
        z = matmul(rows[:, :inputs], weights.t(), spikes.value, inner)
    return z.view(batch, steps, -1)


def weight_gradient(spikes: Spikes | torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.weight_gradient` on a GPU, [C_out, C_in], summed in a fixed order."""
    outputs = grad_z.shape[2]
    grad = grad_z.reshape(-1, outputs)
    if not isinstance(spikes, Spikes):
        return grad.t() @ spikes.float().reshape(-1, spikes.shape[2])
    if _is_sparse(spikes):
        indptr, row = _sort_by_channel(spikes)
        return _gather(indptr, row, grad.contiguous(), spikes.value).t()
    # over all columns, padding included: a row of 2,312 numbers is not a multiple of 16 and would be read byte by byte
    return matmul(grad.t(), _as_bytes(spikes), spikes.value)[:, : spikes.shape[1]]


def input_gradient(grad_z: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.input_gradient` on a GPU."""
    batch, steps, outputs = grad_z.shape
    return matmul(grad_z.reshape(-1, outputs), weights).view(batch, steps, -1)
