"""A whole layer on the CPU: weights, neurons and axons in one pass over time in each direction."""

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
from .backward import backward
from .events import fired_to_events
from .input_gradient import Active, input_gradient, room
from .lanes import CHUNK
from .layout import by_chunks, last_only, padded, words
from .neuron import run
from .product import dense_product, is_sparse, weight_gradient

MAX_INPUTS = (1 << 16) - 1  # inputs x 128 x 128 must stay below 2**30


def layer_forward(
    spikes: Spikes | torch.Tensor,
    table: torch.Tensor,
    membrane: Membrane,
    state: State,
    axon: Axon,
    need_grad: bool = True,
) -> LayerTrace:
    """As `nmnist_helpers.kernels.composite.layer_forward`."""
    sparse = is_sparse(spikes)
    batch, outputs, steps = _sizes(spikes, table)
    check_neuron(membrane, state, batch, outputs, table.device)
    check_axon(axon, batch, outputs, table.device)
    width = padded(outputs)
    layout = by_chunks(steps, width) if need_grad else last_only(width)
    voltage = torch.empty(batch * layout[0], dtype=torch.int32)
    fired = words(batch, steps, width)
    near = room(batch, steps, width) if need_grad else None
    end = run(
        spikes if sparse else dense_product(spikes, table), table if sparse else None, membrane, state, voltage, layout,
        fired, near=near,
    )  # fmt: skip
    out = Spikes.trusted(*fired_to_events(fired, axon), (batch, outputs, steps), axon.value)
    return LayerTrace(out, end, (voltage,) if need_grad else (), None if near is None else Active(near, axon))


def _sizes(spikes: Spikes | torch.Tensor, table: torch.Tensor) -> tuple[int, int, int]:
    """(B, C_out, T), or an error that says why there is no product."""
    listed = isinstance(spikes, Spikes)
    if not listed:
        check_rows("input", spikes)
    batch, inputs, steps = spikes.shape if listed else spikes.transpose(1, 2).shape
    if listed and inputs > MAX_INPUTS:
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
    """As `nmnist_helpers.kernels.composite.layer_backward`; decays and delays cost nothing more, asked for or not."""
    batch, steps, outputs = grad.shape
    width = padded(outputs)
    # A task holds a chunk of the weights. Where there are more threads than chunks, two passes keep them all busy; a
    # single chunk is too little work to be worth a second pass.
    chunks = width // CHUNK
    together = need.weights and is_sparse(spikes) and (chunks == 1 or get_num_threads() <= chunks)
    found = backward(
        OutputGradients(grad), saved[0], by_chunks(steps, width), membrane, state, axon,
        events=spikes if together else None, need_z=need.input or (need.weights and not together),
    )  # fmt: skip
    z = None if found.z is None else found.z[..., :outputs]
    weights = None if found.table is None else found.table[:, :outputs]
    if need.weights and not together:
        weights = weight_gradient(spikes, z)
    by_input = input_gradient(z, table, spikes.active if isinstance(spikes, Spikes) else None) if need.input else None
    return LayerGradients(by_input, weights, found.current_decay, found.voltage_decay, found.delay)
