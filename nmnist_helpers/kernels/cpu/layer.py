"""A dense layer on the CPU: weights, neurons and axons, fused into one pass over time in each direction."""

import torch
from numba import get_num_threads

from ...spikes import Spikes
from ..common import (
    EVERYTHING,
    Axon,
    LayerGradients,
    LayerTrace,
    Membrane,
    Needs,
    OutputGradients,
    State,
    check_axon,
    check_neuron,
    check_rows,
)
from ..constants import MAX_INPUTS
from .backward import backward
from .events import fired_to_events
from .input_gradient import Active, input_gradient, zero_bits
from .lanes import CHUNK
from .layout import by_chunks, last_only, padded, zero_words
from .neuron import run
from .product import dense_product, is_sparse, weight_gradient


def layer_forward(
    spikes: Spikes | torch.Tensor,
    table: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need_grad: bool = True,
) -> LayerTrace:
    """Compute `nmnist_helpers.kernels.composite.layer_forward` on the CPU."""
    sparse = is_sparse(spikes)
    batch, outputs, steps = _sizes(spikes, table)
    check_neuron(membrane, state, batch, outputs, table.device)
    check_axon(axon, batch, outputs, table.device)
    width = padded(outputs)
    layout = by_chunks(steps, width) if need_grad else last_only(width)
    voltage = torch.empty(batch * layout[0], dtype=torch.int32)
    fired = zero_words(batch, steps, width)
    near = zero_bits(batch, steps, width) if need_grad else None
    end = run(
        spikes if sparse else dense_product(spikes, table), table if sparse else None, membrane, state, voltage, layout,
        fired, near=near,
    )  # fmt: skip
    out = Spikes.trusted(*fired_to_events(fired, axon), (batch, outputs, steps), axon.value)
    return LayerTrace(out, end, (voltage,) if need_grad else (), None if near is None else Active(near, axon))


def _sizes(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> tuple[int, int, int]:
    """Return (B, C_out, T), or raise if the shapes or types do not fit."""
    has_events = isinstance(spikes, Spikes)
    if not has_events:
        check_rows("input", spikes)
    batch, inputs, steps = spikes.shape if has_events else spikes.transpose(1, 2).shape
    if has_events and inputs > MAX_INPUTS:
        raise ValueError(f"event product: expected at most {MAX_INPUTS} inputs, found {inputs}")
    if 0 in (batch, inputs, steps) or inputs != len(table) or table.dtype != torch.int8:
        raise ValueError(
            f"product: expected spikes (B, C, T) with no side empty and int8 weights [C, C_out],"
            f" found {(batch, inputs, steps)} and {table.dtype} {list(table.shape)}"
        )
    return batch, table.shape[1], steps


def layer_backward(
    grad: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    spikes: Spikes | torch.Tensor,
    table: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need: Needs = EVERYTHING,
) -> LayerGradients:
    """Compute `nmnist_helpers.kernels.composite.layer_backward` on the CPU.

    The gradients of decays and delays are always computed, at no extra cost.
    """
    outputs, steps = grad.shape[2], grad.shape[1]
    width = padded(outputs)
    # In one pass, each task sums the gradient of one chunk of weights. With more threads than chunks, some would idle,
    # so a second pass computes the weights' gradient; for a single chunk that is not worthwhile.
    chunks = width // CHUNK
    one_pass = need.weights and is_sparse(spikes) and (chunks == 1 or get_num_threads() <= chunks)
    found = backward(
        OutputGradients(grad), saved[0], by_chunks(steps, width), membrane, state, axon,
        events=spikes if one_pass else None, need_z=need.input or (need.weights and not one_pass),
    )  # fmt: skip
    z = None if found.z is None else found.z[..., :outputs]
    weights = None if found.table is None else found.table[:, :outputs]
    if need.weights and not one_pass:
        weights = weight_gradient(spikes, z)
    grad_input = input_gradient(z, table, spikes.active if isinstance(spikes, Spikes) else None) if need.input else None
    return LayerGradients(grad_input, weights, found.current_decay, found.voltage_decay, found.delay)
